"""The same block and the same clients on servers that a user might pick instead (`python -m benchmarks.peers`)."""
