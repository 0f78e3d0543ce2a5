"""Training for streams, and evaluation through the very step model that the runtime drives."""
