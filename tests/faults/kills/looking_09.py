"""The same looks by the ZV 0.9 package (zarr-vectors 0.9.2); runs where that is installed, and not this project."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import zarr_vectors as zv
from zarr_vectors import building
from zarr_vectors.core import arrays
from zarr_vectors.core.store import get_resolution_level, open_store

sys.path.insert(0, str(Path(__file__).parent))
from looking import serve


def read(target: str, how: str) -> tuple[int, dict[str, Any]]:
    """Return how many rows the package finds, and what it returns."""
    level = zv.open(target).level(0)
    found = level.read(attributes="all")
    parts: dict[str, Any] = {"positions": found.positions}
    parts |= {f"attribute {n}": np.asarray(v) for n, v in found.attributes.items()}
    edges = getattr(found, "edges", None)
    if edges is not None:
        parts["edges"] = edges
    group = get_resolution_level(open_store(target), 0)
    if "object_index" in group.children():
        parts["ids"] = np.array(list(level.objects.ids()))
        parts["manifests"] = np.array(
            [[o, *c, f] for o, m in building.read_object_manifests(group).items() for c, f in m], np.int64
        )
        for name in sorted(level.attribute_names("object")):
            parts[f"object {name}"] = arrays.read_object_attributes(group, name)
    return len(found.positions), parts


if __name__ == "__main__":
    serve(read)
