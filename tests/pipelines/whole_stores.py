"""Small stores of every geometry, layout and packing, and edits of their files: what tests of check and repair begin with."""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from small_geometries import write_any

import dask_zv as dzv

GRID_KINDS = ("point_cloud", "line", "polyline", "streamline", "skeleton", "graph", "mesh")
PER_CHUNK_KINDS = GRID_KINDS[:4]
LINKS = {"skeleton", "graph", "mesh"}


def links_of(kind: str, owner: np.ndarray) -> np.ndarray:
    """Return edges or faces between consecutive vertices of one object: trees are chains."""
    width = 3 if kind == "mesh" else 2
    rows = np.arange(len(owner) - width + 1)
    same = owner[rows] == owner[rows + width - 1]
    links = np.stack([rows + i for i in range(width)], axis=1)[same]
    if kind == "skeleton":
        return links[:, ::-1]  # (child, parent)
    if kind == "mesh":  # strips of triangles, which run around in one sense
        links[1::2] = links[1::2, [1, 0, 2]]
    return links


def make(
    path: Path | str, kind: str = "point_cloud", layout: str = "grid", *, ndim: int = 2, dtype: str = "float32", **options: Any
) -> dzv.Store:
    """Write a store of some hundred vertices around the origin, with objects, their attributes, and groups."""
    rng = np.random.default_rng(3)
    n = 300
    walk = rng.normal(0, 2.5, (n, ndim)).cumsum(axis=0)
    positions = (20 - np.abs((walk + 20) % 80 - 40)).astype(dtype)  # turned back at the sides of a box
    lengths = np.full(n // 2, 2) if kind == "line" else np.full(12, n // 12)
    ids = np.arange(len(lengths)) * (2 if layout == "grid" else 1)
    owner = np.repeat(ids, lengths)
    store = dzv.create(path, geometry=kind, chunk_shape=(10.0,) * ndim, layout=layout, **options)
    links = links_of(kind, owner) if kind in LINKS else None
    common: dict[str, Any] = {
        "attributes": {"mass": np.arange(n, dtype=np.float32), "kind": np.array(["a", "b", "c"])[np.arange(n) % 3]},
        "object_attributes": {"age": np.arange(len(ids), dtype=np.int32)},
        "groups": {0: [0, 4], 1: [6]},
    }
    if kind in ("graph", "mesh"):
        common["link_attributes"] = {"weight": np.arange(len(links), dtype=np.float32)}
    if kind == "line":
        common["attributes"] = {name: values.reshape(-1, 2) for name, values in common["attributes"].items()}
        dzv.write_lines(store, positions.reshape(-1, 2, ndim), object_ids=ids, **common)
    else:
        write_any(store, kind, positions, owner, links, **common)
    return dzv.open(path)


@functools.cache
def _files(kind: str, layout: str) -> dict[str, tuple[bytes, int]]:
    """Return the files of a whole store, and when each was changed: it is written once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.zv"
        make(path, kind, layout)
        return {str(p.relative_to(path)): (p.read_bytes(), p.stat().st_mtime_ns) for p in path.rglob("*") if p.is_file()}


def copy_of(path: Path, kind: str, layout: str) -> Path:
    """Make a copy of a whole store at a path."""
    for name, (data, changed) in _files(kind, layout).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
        os.utime(path / name, ns=(changed, changed))
    return path


def without_our_own(path: Path) -> Path:
    """Remove from a store all that other writers don't have: catalogs, small tables, checksums and settings."""
    for own in sorted(path.rglob("dask_zv_*")):
        shutil.rmtree(own)
    for file in path.rglob("zarr.json"):
        found = json.loads(file.read_text())
        found["attributes"] = {k: v for k, v in found.get("attributes", {}).items() if not k.startswith("dask_zv")}
        file.write_text(json.dumps(found))
    return path


def document(path: Path, **changes: Any) -> None:
    """Change attributes in a node's document; None removes one."""
    file = path / "zarr.json"
    found = json.loads(file.read_text())
    for name, value in changes.items():
        found["attributes"][name] = value
        if value is None:
            del found["attributes"][name]
    file.write_text(json.dumps(found))


def attributes(path: Path) -> dict[str, Any]:
    """Return the attributes in a node's document."""
    return dict(json.loads((path / "zarr.json").read_text())["attributes"])


def cells(array: Path) -> list[Path]:
    """Return the stored objects of an array."""
    return sorted(p for p in (array / "c").rglob("*") if p.is_file())


def remove(path: Path) -> None:
    """Remove a node, and what is below it."""
    shutil.rmtree(path)


def edit_blob(array: Path, key: str, change: Any) -> None:
    """Replace the payload of a chunk by what `change` makes of it, through zarr alone, as any tool might."""
    if (array / key).exists():  # layout per_chunk
        node = zarr.open_array(array / key, mode="r+")
        data = change(np.asarray(node[:]).tobytes())
        document_ = json.loads((array / key / "zarr.json").read_text())
        document_["shape"] = [len(data)]
        document_["chunk_grid"]["configuration"]["chunk_shape"] = [max(1, len(data))]
        (array / key / "zarr.json").write_text(json.dumps(document_))
        (array / key / "c" / "0").write_bytes(data)
        return
    node = zarr.open_array(array, mode="r+")
    origin: Any = node.attrs.get("chunk_grid_origin", [0] * node.ndim)
    cell = tuple(slice(int(c) - o, int(c) - o + 1) for c, o in zip(key.split("."), origin, strict=True))
    changed = np.empty(1, object)
    changed[0] = change(bytes(np.asarray(node[cell]).reshape(-1)[0]))
    node[cell] = changed.reshape((1,) * node.ndim)


def in_rows(dtype: str, width: int, change: Any) -> Any:
    """Return a change of a payload's rows, in place."""

    def changed(data: bytes) -> bytes:
        rows = np.frombuffer(data, dtype).reshape(-1, width).copy()
        out = change(rows)
        return (rows if out is None else out).tobytes()

    return changed
