"""The streaming fusion runtime: engine, store, worker, controller, gateway, clients and the `grf` command."""
