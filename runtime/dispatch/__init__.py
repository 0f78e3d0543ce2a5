"""What a worker does with each message and each turn: plain objects around the engine. No socket, thread or clock."""
