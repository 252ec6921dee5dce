"""Stores in Icechunk sessions: forks to write in, merging them, committing. Nobody else knows of them."""
