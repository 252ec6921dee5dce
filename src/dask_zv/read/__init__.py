"""Reading a level as one graph."""
