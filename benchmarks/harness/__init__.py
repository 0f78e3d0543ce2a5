"""What the benchmarks share: models, a worker in a process of its own, loads, what the machine is."""
