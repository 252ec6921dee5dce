"""What a level has: its chunks, columns, links and objects, as tasks find them in the store."""
