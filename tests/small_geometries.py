"""Vertices, owners and links written as any geometry, by the writer that it has."""

from __future__ import annotations

from typing import Any

import numpy as np

import dask_zv as dzv


def write_any(
    store: dzv.Store, kind: str, positions: Any, owner: Any, links: Any = None, link_attributes: Any = None, **common: Any
) -> Any:
    """Write vertices of objects: `owner` has an id for each (for paths in runs), `links` are rows: (child, parent) for trees."""
    if kind in ("line", "polyline", "streamline"):
        ids, lengths = np.unique(owner, return_counts=True)
        return dzv.write_polylines(store, positions, lengths=lengths, object_ids=ids, **common)
    common["object_ids"] = owner
    if kind == "skeleton":
        parents = np.full(len(positions), -1)
        parents[links[:, 0]] = links[:, 1]
        return dzv.write_skeletons(store, positions, parents=parents, **common)
    if kind == "graph":
        return dzv.write_graph(store, positions, edges=links, edge_attributes=link_attributes, **common)
    if kind == "mesh":
        return dzv.write_meshes(store, positions, faces=links, face_attributes=link_attributes, **common)
    return dzv.write_points(store, positions, **common)
