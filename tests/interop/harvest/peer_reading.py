"""What the ZV package reads of stores: one .npz and one .json for each level of each store.

    python peer_reading.py STORES OUT [PART PARTS]

With PART and PARTS, the stores number PART, PART + PARTS, ... are read: several of this run side by side.
Runs in an environment that has the package (0.9.2 or 0.2.0), and not this project. Each thing is read by the function that the
package has for it; where that fails, its message is noted in the place of the thing.
"""

from __future__ import annotations

import json
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
from zarr_vectors.core import arrays
from zarr_vectors.core.store import get_resolution_level, open_store, read_root_metadata
from zarr_vectors.types.graphs import read_graph
from zarr_vectors.types.lines import read_lines
from zarr_vectors.types.meshes import read_mesh
from zarr_vectors.types.polylines import read_polylines

SECONDS = 60
"""For a level: some of the stores are there to be slow."""
GRID = hasattr(arrays, "read_link_arrays")
"""The package is of generation 0.9."""


class Reading:
    """What is found in one level; things that fail are told by their names."""

    def __init__(self, path, number):
        self.path, self.number = str(path), number
        self.found, self.told, self.failed = {}, {}, {}

    def attempt(self, name, function):
        try:
            return function()
        except Exception as error:  # noqa: BLE001  # whatever the package raises is what it says of the store
            self.failed[name] = f"{type(error).__name__}: {error}"[:300]
            return None

    def read(self):
        root = open_store(self.path)
        meta = read_root_metadata(root)
        level = get_resolution_level(root, self.number)
        folder = Path(self.path) / str(self.number)
        kind = meta.geometry_types[0] if meta.geometry_types else None
        ndim = len(meta.chunk_shape)
        self.told |= {"kind": kind, "convention": meta.links_convention, "ndim": ndim}
        dtype = self.attempt("dtype", lambda: np.dtype(level.read_array_meta("vertices").get("dtype", "float32")))
        chunks = self.attempt("chunks", lambda: sorted(tuple(map(int, c)) for c in arrays.list_chunk_keys(level)))
        if dtype is None or chunks is None:
            return
        self.told["chunks"] = [list(c) for c in chunks]
        rows = self.attempt("positions", lambda: [arrays.read_chunk_vertices(level, c, dtype, ndim) for c in chunks])
        if rows is not None:
            self.found["positions"] = np.concatenate([np.zeros((0, ndim), dtype), *(p for r in rows for p in r)])
            self.told["fragments"] = [[len(p) for p in r] for r in rows]
        for name in names_in(folder / "vertex_attributes"):
            values = self.attempt(f"attribute {name}", lambda n=name: self.attribute(level, n, chunks))
            if values is not None:
                self.found[f"attr__{name}"] = values
        if (folder / "object_index" / "zarr.json").exists():
            self.objects(level, folder, dtype, ndim)
        self.links(level, folder)
        self.geometry(kind)

    def attribute(self, level, name, chunks):
        meta = level.read_array_meta(f"vertex_attributes/{name}")
        if GRID:
            parts = [p for c in chunks for p in arrays.read_chunk_attributes(level, name, c)]
        else:
            how = {"dtype": np.dtype(meta.get("dtype", "float32")), "ncols": len(meta.get("channel_names") or [0])}
            parts = [p for c in chunks for p in arrays.read_chunk_attributes(level, name, c, **how)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def objects(self, level, folder, dtype, ndim):
        manifests = self.attempt("manifests", lambda: arrays.read_all_object_manifests(level))
        if manifests is None:
            return
        ids = list(range(len(manifests)))
        if GRID:
            table = self.attempt("object ids", lambda: arrays.read_object_id_table(level))
            ids = ids if table is None else [int(i) for i in table]
        self.told["ids"] = ids
        self.told["manifests"] = [[[*map(int, c), int(f)] for c, f in m] for m in manifests]

        def vertices():
            parts = [
                arrays.read_object_vertices(level, i, dtype, ndim) if m else [] for i, m in zip(ids, manifests, strict=True)
            ]
            self.told["lengths"] = [sum(map(len, p)) for p in parts]
            return np.concatenate([np.zeros((0, ndim), dtype), *(v for p in parts for v in p)])

        found = self.attempt("objects' vertices", vertices)
        if found is not None:
            self.found["by_object"] = found
        for name in names_in(folder / "object_attributes"):
            values = self.attempt(f"object attribute {name}", lambda n=name: arrays.read_object_attributes(level, n))
            if values is not None:
                self.found[f"oattr__{name}"] = np.asarray(values)
        if (folder / "groups" / "zarr.json").exists():
            groups = self.attempt("groups", lambda: arrays.read_all_groupings(level))
            self.told["groups"] = None if groups is None else [[int(m) for m in g] for g in groups]
            for name in names_in(folder / "group_attributes"):
                values = self.attempt(f"group attribute {name}", lambda n=name: arrays.read_groupings_attributes(level, n))
                if values is not None:
                    self.found[f"gattr__{name}"] = np.asarray(values)

    def links(self, level, folder):
        names = sorted(
            {p.name for f in ("links", "cross_chunk_links") if (folder / f).is_dir() for p in (folder / f).iterdir()}
        )
        for delta in [int(n) for n in names if n.lstrip("+-").isdigit()]:
            segment = f"{delta:+d}" if delta else "0"
            attributes = [
                n for n in names_in(folder / "link_attributes") if segment in names_in(folder / "link_attributes" / n)
            ]
            if GRID:
                found = self.attempt(f"links {delta}", lambda d=delta: arrays.read_link_arrays(level, delta=d))
                if found is not None:
                    self.found[f"chunks__{delta}"], self.found[f"rows__{delta}"] = found
                for name in attributes:
                    get = lambda n=name, d=delta: arrays.read_link_attributes(level, n, delta=d)  # noqa: E731
                    values = self.attempt(f"link attribute {name}", get)
                    if found is not None and values is not None and len(values) == len(found[1]):
                        self.found[f"lattr__{delta}__{name}"] = values
                continue
            if delta == 0:
                for name in attributes:
                    self.attempt(f"link attribute {name}", lambda n=name: self.links_inside(level, n))
            records = self.attempt(f"links {delta}", lambda d=delta: arrays.read_cross_chunk_links(level, delta=d))
            if records:
                self.found[f"crossing_chunks__{delta}"] = np.array([[c for c, _ in r] for r in records])
                self.found[f"crossing_rows__{delta}"] = np.array([[v for _, v in r] for r in records])

    def links_inside(self, level, name):
        """Note the values of links inside of chunks, which 0.2.0 has no reader for, beside the links that it reads there."""
        meta = level.read_array_meta(f"link_attributes/{name}/0")
        records, values = [], []
        for key in sorted(level.list_chunks(f"link_attributes/{name}/0")):
            chunk = tuple(map(int, key.split(".")))
            rows = np.concatenate(arrays.read_chunk_links(level, chunk))
            found = np.frombuffer(level.read_bytes(f"link_attributes/{name}/0", key), np.dtype(meta["dtype"]))
            values.append(found if len(found) == len(rows) else found.reshape(len(rows), -1))
            at = np.broadcast_to(chunk, (*rows.shape, len(chunk)))
            records.append(np.concatenate([at, rows[..., None]], axis=2))
        if records:
            self.found[f"records__0__{name}"] = np.concatenate(records)
            self.found[f"lattr__0__{name}"] = np.concatenate(values)

    def geometry(self, kind):
        if kind in ("graph", "skeleton"):
            made = self.attempt("edges", lambda: read_graph(self.path, level=self.number))
            if made is not None:
                self.found["links_positions"], self.found["edges"] = made["positions"], made["edges"]
        elif kind == "mesh":
            made = self.attempt("faces", lambda: read_mesh(self.path, level=self.number))
            if made is not None:
                self.found["links_positions"], self.found["faces"] = made["vertices"], made["faces"]
        elif kind == "line":
            made = self.attempt("lines", lambda: read_lines(self.path, level=self.number, object_ids=self.told.get("ids")))
            if made is not None:
                ends = made["endpoints"]
                self.found["paths"] = ends.reshape(-1, ends.shape[-1])
        elif kind in ("polyline", "streamline") and "ids" in self.told:
            ids = self.told["ids"]
            made = self.attempt("paths", lambda: read_polylines(self.path, level=self.number, object_ids=ids))
            if made is not None and made["polylines"]:
                self.found["paths"] = np.concatenate(
                    [p for path in made["polylines"] for p in (path or [])] or [np.zeros((0, 3))]
                )


class TooSlow(BaseException):
    """The time is up."""


def stop(*_):
    raise TooSlow


def names_in(folder):
    return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def main(stores, out, part="0", parts="1"):
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, stop)
    for store in sorted(Path(stores).iterdir())[int(part) :: int(parts)]:
        levels = sorted(int(p.name) for p in store.iterdir() if p.name.isdigit())
        for number in levels:
            base = Path(out) / f"{store.name}-{number}"
            if base.with_suffix(".json").exists():
                continue
            reading = Reading(store, number)
            signal.alarm(SECONDS)
            try:
                reading.attempt("store", reading.read)
            except TooSlow:
                reading.failed["store"] = f"it takes more than {SECONDS} s"
            finally:
                signal.alarm(0)
            numeric = {k: v for k, v in reading.found.items() if v.dtype != object}
            for name in reading.found.keys() - numeric.keys():
                reading.told[name] = [None if v is None else str(v) for v in reading.found[name].tolist()]
            np.savez(f"{base}.npz", **numeric)
            Path(f"{base}.json").write_text(json.dumps({**reading.told, "failed": reading.failed}))


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    main(*sys.argv[1:])
