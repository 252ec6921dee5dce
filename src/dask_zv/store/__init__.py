"""Stores and levels: create, open, refresh, expand, convert."""
