"""The engine: order, batcher, slab and session as plain objects. No Ray, no socket, no clock of its own."""
