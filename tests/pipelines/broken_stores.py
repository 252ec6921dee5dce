"""Damage of many kinds, each made to the files of a store and named by the rule that it breaks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from whole_stores import attributes, cells, document, edit_blob, in_rows, remove


def first(array: Path) -> Path:
    return cells(array)[0]


def listed(array: Path) -> str:
    """Return the key of an array's first chunk."""
    own = attributes(array)
    return own["nonempty_chunks"][0] if "nonempty_chunks" in own else sorted(p.name for p in array.iterdir() if p.is_dir())[0]


def no_longer_listed(array: Path) -> None:
    document(array, nonempty_chunks=attributes(array)["nonempty_chunks"][1:])


def rows_of(array: Path, change: Any, dtype: str = "<f4", width: int = 2) -> None:
    edit_blob(array, listed(array), in_rows(dtype, width, change))


def shift(rows: np.ndarray) -> None:
    rows += 15


def unset(rows: np.ndarray) -> None:
    rows[0, 1] = np.nan


def segment(level: Path) -> Path:
    """Return the array of links within chunks."""
    return level / "links/0/0.0" if (level / "links/0/0.0").exists() else level / "links/0/0.0_0.0"


def across(level: Path) -> Path:
    """Return the array of links to neighbours that has the most chunks."""
    arrays = [p for p in (level / "links/0").iterdir() if p.is_dir() and p != segment(level)]
    return max(arrays, key=lambda p: len(attributes(p)["nonempty_chunks"]))


def ends_beyond(level: Path) -> None:
    def change(rows: np.ndarray) -> None:
        rows[0, 0] = 10**6

    array = segment(level)
    rows_of(array, change, "<i8", attributes(array)["link_width"])


def second_parent(level: Path) -> None:
    """Write the first record that leads across chunks twice, with another parent the second time."""
    array = across(level)

    def change(data: bytes) -> bytes:
        rows = np.frombuffer(data[16:], "<i8").reshape(-1, 2 + attributes(array)["has_perm"])
        more = rows[:1].copy()
        more[0, -2 if attributes(array)["has_perm"] and rows[0, 0] else -1] += 1
        return data[:16] + rows.tobytes() + more.tobytes()

    for key in attributes(array)["nonempty_chunks"]:
        edit_blob(array, key, change)


def around(level: Path) -> None:
    """Write a link across chunks the other way, too: each of its nodes is then the parent of the other."""
    array = across(level)
    assert attributes(array)["has_perm"]

    def change(data: bytes) -> bytes:
        back = np.frombuffer(data[16:], "<i8").reshape(-1, 3)[:1].copy()
        back[0, 0] = 1 - back[0, 0]
        return data + back.tobytes()

    edit_blob(array, listed(array), change)


def turn(level: Path) -> None:
    array = segment(level)

    def change(rows: np.ndarray) -> None:
        rows[0] = rows[0, [1, 0, 2]]

    for key in attributes(array)["nonempty_chunks"]:
        edit_blob(array, key, in_rows("<i8", 3, change))


def same_corners(level: Path) -> None:
    def change(rows: np.ndarray) -> None:
        rows[0, 1] = rows[0, 0]

    rows_of(segment(level), change, "<i8", 3)


def member(array: Path, row: int, change: Any) -> None:
    """Change an element of a 1-D array of bytes through zarr."""
    node: Any = zarr.open_array(array, mode="r+")
    every = np.array([None] * node.shape[0], object)
    every[:] = [bytes(b) for b in np.asarray(node[:]).tolist()]
    every[row] = change(every[row])
    node[:] = every


def absent_fragment(data: bytes) -> bytes:
    return data[:-8] + np.int64(999).tobytes()


def absent_chunk(data: bytes) -> bytes:
    return data[:4] + np.int64(77).tobytes() + data[12:]


def told(group: Path, **changes: Any) -> None:
    document(group, zarr_vectors_level={**attributes(group)["zarr_vectors_level"], **changes})


def root(store: Path, **changes: Any) -> None:
    document(store, zarr_vectors={**attributes(store)["zarr_vectors"], **changes})


def datasets(store: Path, change: Any) -> None:
    found = attributes(store)["multiscales"]
    change(found[0]["datasets"])
    document(store, multiscales=found)


def table(array: Path, change: Any) -> None:
    """Change the values of an array through zarr."""
    node: Any = zarr.open_array(array, mode="r+")
    values = node[...]
    change(values)
    node[...] = values


def twice(values: np.ndarray) -> None:
    values[1] = values[0]


def shorter(array: Path) -> None:
    zarr.open_array(array, mode="r+").resize((7,))


def flip(path: Path, at: int) -> None:
    """Flip a bit, and leave the time of change as it is, as a disk does."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"abc")


MASS, ALL = "0/vertex_attributes/mass", ("grid", "per_chunk")
DAMAGE: dict[str, tuple[str, str, tuple[str, ...], Any]] = {
    # name: (rule, geometry, layouts, what is done to the store at a path)
    "attribute object deleted": ("blobs", "point_cloud", ("grid",), lambda s: first(s / MASS).unlink()),
    "attribute chunk deleted": ("siblings", "point_cloud", ("per_chunk",), lambda s: remove(s / MASS / listed(s / MASS))),
    "attribute object halved": ("blobs", "polyline", ("grid",), lambda s: halve(first(s / MASS))),
    "attribute blob halved": ("blobs", "polyline", ("per_chunk",), lambda s: halve(s / MASS / listed(s / MASS) / "c/0")),
    "attribute object with stray bytes": ("blobs", "graph", ("grid",), lambda s: extend(first(s / MASS))),
    "attribute with stray rows": ("siblings", "point_cloud", ALL, lambda s: edit_blob(s / MASS, listed(s / MASS), lambda b: b + b[:4])),
    "attribute with half of the rows": (
        "siblings", "skeleton", ("grid",), lambda s: edit_blob(s / MASS, listed(s / MASS), lambda b: b[: len(b) // 8 * 4]),
    ),
    "attribute of part of a value": ("siblings", "point_cloud", ALL, lambda s: edit_blob(s / MASS, listed(s / MASS), lambda b: b[:-1])),
    "attribute array removed": ("documents", "point_cloud", ("grid",), lambda s: remove(s / MASS)),
    "attribute arrays of a level removed": (
        "documents", "point_cloud", ALL, lambda s: [remove(p) for p in (s / MASS).parent.iterdir() if p.is_dir()],
    ),
    "attribute document removed": ("documents", "mesh", ("grid",), lambda s: (s / MASS / "zarr.json").unlink()),
    "attribute of another dtype": ("documents", "polyline", ("grid",), lambda s: document(s / MASS, dtype="float16")),
    "attribute of a wider dtype": ("siblings", "point_cloud", ALL, lambda s: document(s / MASS, dtype="float64")),
    "attribute chunk not listed": ("lists", "point_cloud", ("grid",), lambda s: no_longer_listed(s / MASS)),
    "category that does not exist": (
        "siblings", "point_cloud", ALL,
        lambda s: edit_blob(s / "0/vertex_attributes/kind", listed(s / MASS), lambda b: b"\x63" + b[1:]),
    ),
    "vertices out of their chunk": ("inside", "point_cloud", ALL, lambda s: rows_of(s / "0/vertices", shift)),
    "vertices beyond the bounds": ("bounds", "streamline", ALL, lambda s: rows_of(s / "0/vertices", lambda r: np.subtract(r, 90, out=r))),
    "NaN": ("nan", "point_cloud", ALL, lambda s: rows_of(s / "0/vertices", unset)),
    "vertex cut": ("blobs", "point_cloud", ALL, lambda s: edit_blob(s / "0/vertices", listed(s / "0/vertices"), lambda b: b[:-2])),
    "vertices object deleted": ("blobs", "graph", ("grid",), lambda s: first(s / "0/vertices").unlink()),
    "vertices chunk deleted": ("siblings", "point_cloud", ("per_chunk",), lambda s: remove(s / "0/vertices" / listed(s / "0/vertices"))),
    "vertices chunk not listed": ("lists", "skeleton", ("grid",), lambda s: no_longer_listed(s / "0/vertices")),
    "chunk nowhere listed": (
        "lists", "point_cloud", ("grid",),
        lambda s: [no_longer_listed(p.parent) for p in (s / "0").rglob("zarr.json") if "nonempty_chunks" in attributes(p.parent)],
    ),
    "vertices document removed": ("documents", "point_cloud", ALL, lambda s: (s / "0/vertices/zarr.json").unlink()),
    "fragments object deleted": ("blobs", "polyline", ("grid",), lambda s: first(s / "0/vertex_fragments").unlink()),
    "fragments of more rows": (
        "fragments", "point_cloud", ALL,
        lambda s: edit_blob(s / "0/vertex_fragments", listed(s / "0/vertices"), lambda b: b[:-12] + np.int64(99).tobytes() + b[-4:]),
    ),
    "fragments of garbage": (
        "fragments", "graph", ("grid",), lambda s: edit_blob(s / "0/vertex_fragments", listed(s / "0/vertices"), lambda b: b"x" * len(b)),
    ),
    "manifests removed": ("manifests", "polyline", ("grid",), lambda s: remove(s / "0/object_index/manifests")),
    "manifests of no bytes": ("manifests", "polyline", ("grid",), lambda s: first(s / "0/object_index/manifests").unlink()),
    "manifests damaged": ("manifests", "streamline", ("grid",), lambda s: member(s / "0/object_index/manifests", 2, lambda b: b[:-3])),
    "manifests blob damaged": ("manifests", "polyline", ("per_chunk",), lambda s: halve(s / "0/object_index/manifests/c/0")),
    "manifest of an absent fragment": ("manifests", "skeleton", ("grid",), lambda s: member(s / "0/object_index/manifests", 2, absent_fragment)),
    "manifest of an absent chunk": ("manifests", "mesh", ("grid",), lambda s: member(s / "0/object_index/manifests", 0, absent_chunk)),
    "object index removed": ("manifests", "polyline", ("grid",), lambda s: remove(s / "0/object_index")),
    "object index without a document": ("documents", "graph", ("grid",), lambda s: (s / "0/object_index/zarr.json").unlink()),
    "object ids removed": ("ids", "point_cloud", ("grid",), lambda s: remove(s / "0/object_index/object_ids")),
    "object ids twice": ("ids", "polyline", ("grid",), lambda s: table(s / "0/object_index/object_ids", twice)),
    "object ids negative": ("ids", "mesh", ("grid",), lambda s: table(s / "0/object_index/object_ids", lambda v: np.negative(v, out=v))),
    "objects counted wrongly": ("counts", "streamline", ("grid",), lambda s: document(s / "0/object_index", num_present=13)),
    "object attributes removed": ("object-tables", "polyline", ALL, lambda s: remove(s / "0/object_attributes/age")),
    "object attribute document removed": ("object-tables", "graph", ("grid",), lambda s: (s / "0/object_attributes/age/zarr.json").unlink()),
    "object attribute shortened": ("object-tables", "mesh", ("grid",), lambda s: first(s / "0/object_attributes/age").unlink()),
    "object attribute halved": ("object-tables", "point_cloud", ("per_chunk",), lambda s: edit_blob(s / "0/object_attributes/age", "data", lambda b: b[: len(b) // 2])),
    "object attribute damaged": ("object-tables", "polyline", ("grid",), lambda s: halve(first(s / "0/object_attributes/age"))),
    "lengths of objects wrong": ("object-tables", "skeleton", ("grid",), lambda s: (s / "0/dask_zv_objects/c/0/0").unlink()),
    "group of an absent object": ("groups", "graph", ("grid",), lambda s: member(s / "0/groups", 1, lambda b: np.int64([6, 7]).tobytes())),
    "group blob of an absent object": ("groups", "polyline", ("per_chunk",), lambda s: edit_blob(s / "0/groups", "data", lambda b: b[:-8] + np.int64(99).tobytes())),
    "groups lost": ("groups", "polyline", ("grid",), lambda s: halve(first(s / "0/groups"))),
    "vertex_count too large": ("counts", "point_cloud", ALL, lambda s: told(s / "0", vertex_count=301)),
    "vertex_count too small": ("counts", "mesh", ("grid",), lambda s: told(s / "0", vertex_count=299)),
    "bounds too small": ("bounds", "polyline", ALL, lambda s: root(s, bounds=[[-5.0] * 2, [5.0] * 2])),
    "links within chunks removed": ("links", "graph", ("grid",), lambda s: remove(segment(s / "0"))),
    "links across chunks removed": ("links", "skeleton", ("grid",), lambda s: remove(across(s / "0"))),
    "links across chunks of a path removed": ("counts", "polyline", ("per_chunk",), lambda s: edit_blob(s / "0/cross_chunk_links/0", "data", lambda b: b[:-48])),
    "all links removed": ("links", "mesh", ("grid",), lambda s: remove(s / "0/links")),
    "document of links removed": ("links", "graph", ("grid",), lambda s: (s / "0/links/0/zarr.json").unlink()),
    "links object deleted": ("blobs", "mesh", ("grid",), lambda s: first(segment(s / "0")).unlink()),
    "link to an absent row": ("links", "graph", ("grid",), lambda s: ends_beyond(s / "0")),
    "links counted wrongly": ("counts", "mesh", ("grid",), lambda s: document(s / "0/links/0", num_links=3, num_physical_records=3)),
    "link attribute of fewer rows": ("siblings", "graph", ("grid",), lambda s: edit_blob(a := s / "0/link_attributes/weight/0/0.0", listed(a), lambda b: b + b[:2])),
    "groups of links of other rows": ("siblings", "graph", ("grid",), lambda s: edit_blob(s / "0/link_fragments", listed(segment(s / "0")), lambda b: b[:-12] + np.int64(99).tobytes() + b[-4:])),
    "second parent": ("trees", "skeleton", ("grid",), lambda s: second_parent(s / "0")),
    "cycle": ("trees", "skeleton", ("grid",), lambda s: around(s / "0")),
    "level of another number": ("levels", "point_cloud", ALL, lambda s: told(s / "0", level=1)),
    "level without its parent": ("levels", "point_cloud", ALL, lambda s: shutil.copytree(s / "0", s / "1") and told(s / "1", level=3, parent_level=2)),
    "level that is not listed": ("multiscales", "point_cloud", ALL, lambda s: shutil.copytree(s / "0", s / "1") and told(s / "1", level=1)),
    "listed level that is not there": ("multiscales", "mesh", ("grid",), lambda s: datasets(s, lambda d: d.append({**d[0], "path": "1"}))),
    "scale of too few axes": ("multiscales", "polyline", ALL, lambda s: datasets(s, lambda d: d[0]["coordinateTransformations"][0]["scale"].pop())),
    "no level": ("levels", "graph", ("grid",), lambda s: remove(s / "0")),
    "chunk shape of the root": ("documents", "point_cloud", ALL, lambda s: root(s, chunk_shape=[20.0] * 2)),
    "document of the root removed": ("documents", "graph", ("grid",), lambda s: (s / "zarr.json").unlink()),
    "all fragments removed": ("documents", "polyline", ("grid",), lambda s: remove(s / "0/vertex_fragments")),
    "no multiscales": ("documents", "point_cloud", ALL, lambda s: document(s, multiscales=[])),
    "document of the level removed": ("documents", "polyline", ALL, lambda s: (s / "0/zarr.json").unlink()),
    "document of the level damaged": ("documents", "polyline", ALL, lambda s: (s / "0/zarr.json").write_text("{")),
    "document of the root damaged": ("documents", "graph", ("grid",), lambda s: (s / "zarr.json").write_text("{")),
    "catalog damaged": ("catalog", "point_cloud", ALL, lambda s: extend(s / "0/dask_zv_catalog/c/0")),
}  # fmt: skip
CASES = [(name, layout) for name, (_, _, layouts, _) in DAMAGE.items() for layout in layouts]
