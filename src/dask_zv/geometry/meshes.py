"""Meshes: stored as graphs are, with faces of three or more vertices for the edges of two."""

from __future__ import annotations

from dask_zv.geometry.schema import Kind

MESH = Kind("mesh", "explicit", link="face")
