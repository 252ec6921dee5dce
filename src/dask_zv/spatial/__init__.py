"""Chunk grid, bins, boxes and the space-filling order of chunks (numpy only)."""
