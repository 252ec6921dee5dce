"""Stores to mutate: the golden ones of both generations, and small ones of every geometry that are written here."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd

import dask_zv as dzv

DATA = Path(__file__).parents[1] / "data"
KINDS = ("point_cloud", "polyline", "skeleton", "graph", "mesh")
SMALL = (
    *((kind, "grid", shards) for kind in KINDS for shards in (1, 8)),
    *((kind, "per_chunk", shards) for kind in ("point_cloud", "polyline") for shards in (1, 8)),
)
"""(geometry, layout, chunks in a shard)."""

Files = Mapping[str, bytes]


def write_small_store(target: Any, kind: str, layout: str, shards: int, *, compressor: Any = "auto", n: int = 5) -> None:
    """Write a store of `n` objects in about a dozen chunks, with numbers, vectors and categories, groups, and links."""
    rng = np.random.default_rng(11)
    sizes = rng.integers(3, 9, n)
    rows = int(sizes.sum())
    here = np.arange(rows)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    owner = np.repeat(np.arange(n) * 3 if layout == "grid" else np.arange(n), sizes)
    ids = np.unique(owner)
    steps = np.where((here == first)[:, None], 0.0, rng.uniform(-9, 9, (rows, 3)))
    walk = np.cumsum(steps, axis=0)
    positions = (rng.uniform(-20, 20, (n, 3)).repeat(sizes, axis=0) + walk - walk[first]).astype(np.float32)
    common: dict[str, Any] = {
        "attributes": {
            "mass": rng.normal(size=rows),
            "rgb": rng.integers(1, 255, (rows, 3), dtype=np.uint8),
            "kind": np.array(["soma", None, "axon"], object)[rng.integers(0, 3, rows)],
        },
        "object_attributes": pd.DataFrame({"score": np.arange(n) + 0.5, "label": [f"n{i}" for i in range(n)]}, index=ids)
        if layout == "grid"
        else pd.DataFrame({"score": np.arange(n) + 0.5}, index=ids),
        "groups": {0: [int(i) for i in ids[:2]], 1: [int(ids[-1])]},
    }
    with dask.config.set(scheduler="sync"):
        store = dzv.create(
            target, geometry=kind, chunk_shape=(35.0,) * 3, layout=layout, shard_chunks=shards, compressor=compressor
        )
        if kind == "point_cloud":
            dzv.write_points(store, positions, object_ids=owner, **common)
        elif kind == "polyline":
            dzv.write_polylines(store, positions, lengths=sizes, object_ids=ids, **common)
        elif kind == "skeleton":
            parents = np.where(here == first, -1, here - 1)
            dzv.write_skeletons(store, positions, parents=parents, object_ids=owner, **common)
        else:
            linked = here > first + (kind == "mesh")
            links = [here, here - 1] if kind == "graph" else [here, here - 1, here - 2]
            ends = np.stack(links, 1)[linked]
            weights = {"weight": np.arange(len(ends)) + 1.0}
            if kind == "graph":
                dzv.write_graph(store, positions, edges=ends, edge_attributes=weights, object_ids=owner, **common)
            else:
                dzv.write_meshes(store, positions, faces=ends, face_attributes=weights, object_ids=owner, **common)


def files_of(root: Path) -> dict[str, bytes]:
    """Return every file of a store."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@cache
def golden_names() -> tuple[str, ...]:
    """Return the golden stores, as ``"0.9/points_zstd"``."""
    found = {f"{d.name.removeprefix('golden_')}/{p.name.split('.')[0]}" for d in DATA.glob("golden_*") for p in d.iterdir()}
    return tuple(sorted(found))


@cache
def golden(name: str) -> Files:
    """Return every file of a golden store."""
    folder, _, store = name.partition("/")
    path = DATA / f"golden_{folder}" / f"{store}.zarrvectors"
    if path.is_dir():
        return files_of(path)
    with zipfile.ZipFile(path.with_name(f"{path.name}.zip")) as archive:
        return {
            n.partition("/")[2] if n.startswith(path.name) else n: archive.read(n) for n in archive.namelist() if n[-1] != "/"
        }


def documents(names: tuple[str, ...] | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield (path, document) of all nodes of the golden stores, without those that are equal."""
    seen: set[bytes] = set()
    for name in names or golden_names():
        for path, data in golden(name).items():
            if path.endswith("zarr.json") and data not in seen:
                seen.add(data)
                yield f"{name}:{path}", data
