"""HTTP in front of the workers: state, history, publishing, events, the dashboard. Stateless: any number may run.

The gateway is a client of the workers like everyone else. It sees the wire, the clients and the settings, never the
engine.
"""
