"""Stores and levels as a whole: made, opened, refreshed, expanded, converted."""
