"""Sources that turn transports and raw media into segments."""
