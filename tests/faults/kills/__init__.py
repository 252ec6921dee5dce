"""Writes that are killed: programs that write, a hook that kills them at chosen moments, readers beside them, and what follows.

``python -m kills --help`` runs it at length; ``tests/faults/test_kills.py`` takes a few moments of each kind.
"""
