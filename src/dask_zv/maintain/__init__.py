"""Stores made anew: other layouts, larger bounds, catalogs."""
