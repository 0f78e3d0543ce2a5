"""Where settled state outlives the worker: one contract, SQLite embedded, Redis for a cluster."""
