"""`grf demo`: real recordings of a smart watch through the real runtime, live in the terminal."""
