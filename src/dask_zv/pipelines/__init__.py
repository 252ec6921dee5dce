"""Stores and levels, and the verbs on them: ingest, reading, rebuilding the catalog."""
