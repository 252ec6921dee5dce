"""Whole stores on disk with files changed, lost, swapped: what opens and reads them, one way of reading after the other.

An input is the name of a store, a list of changes, and the bytes that they put. What is checked of an answer:

- where nothing that matters was changed, and where a checksum covers what was changed, it is the original answer. Covered are the
  data objects of stores of ours in layout ``grid`` (cells, shards and tables have the checksum of their Zstandard frames, shards
  that of their index as well), the catalog, and the loss of any file of such a store;
- everywhere else (documents, stores of other tools, raw blobs, whole objects put in another's place, objects that were edited and
  packed again with a checksum that fits): columns are as long as each other, links name rows that are there, ids are those that
  were asked for.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
import zstandard
from fuzz_base import DECODERS, FREE, PACKED, Decoder, Parts, join_payload, split_payload
from fuzz_corpus import HOSTILE_NAMES, Mutator
from fuzz_stores import SMALL, Files, files_of, golden, golden_names, write_small_store

import dask_zv as dzv
from dask_zv.errors import ZVError
from dask_zv.level import object_index as objects_index
from dask_zv.read import columns
from dask_zv.read.object_rows import object_lengths

OURS = tuple(f"ours/{kind}-{layout}-{shards}" for kind, layout, shards in SMALL)
_SOME_GOLDEN = ("0.7/mesh", "0.9/graph_sharded", "0.9/points_sparse_ids")
FEW = False
"""Take some of the stores alone: to read all of them as they are takes a while."""
_ZSTD = b"\x28\xb5\x2f\xfd"
_CATALOG = "dask_zv_catalog/c/0"
_counter = itertools.count()


def _settle() -> None:
    """Readers wait for writers that replace what they found broken; here there are none. Caches hide what was changed."""
    dask.config.set({"dask_zv.reread-wait": 0})
    columns._POSITIONS.limit = columns._FRAGMENTS.limit = 1 << 20
    objects_index._CACHE.limit = 1


class WorkingCopy:
    """A store in a directory of its own, with a new name for every input: nothing is remembered of the one before."""

    def __init__(self, files: Files, times: Mapping[str, int]) -> None:
        base = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self._folder = tempfile.TemporaryDirectory(dir=base, prefix="zv-fuzz-")
        self.root = Path(self._folder.name) / f"s{next(_counter)}.zv"
        self.files = files
        for path, data in files.items():
            self._write(path, data)
        # a catalog knows its documents by length and time of change
        self._times = times or {path: (self.root / path).stat().st_mtime_ns for path in files}
        for path in files:
            self._set_time(path)

    def _write(self, path: str, data: bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def apply(self, changes: Sequence[Any], blobs: Sequence[bytes]) -> None:
        """Make changes: ["put", path, number of the blob, keep the time of change], ["lose", path], ["copy", from, to]."""
        self._rename()
        for change in changes:
            kind, path = change[:2]
            if kind == "put":
                self._write(path, blobs[change[2]])
                if change[3]:
                    self._set_time(path)
            elif kind == "lose":
                (self.root / path).unlink(missing_ok=True)
            else:
                self._write(change[2], self.files[path])

    def _rename(self) -> None:
        moved = self.root.with_name(f"s{next(_counter)}.zv")
        self.root.rename(moved)
        self.root = moved

    def _set_time(self, path: str) -> None:
        if path in self._times:
            os.utime(self.root / path, ns=(self._times[path], self._times[path]))

    def restore(self, changes: Sequence[Any]) -> None:
        """Undo changes, times of change included; under a new name, as what is kept of the changed store has the old one."""
        self._rename()
        for change in changes:
            path = change[2] if change[0] == "copy" else change[1]
            if path in self.files:
                self._write(path, self.files[path])
                self._set_time(path)
            else:
                shutil.rmtree((self.root / path).parent, ignore_errors=True)  # a folder for it alone: see _hostile_path


@cache
def _copy(name: str) -> WorkingCopy:
    return WorkingCopy(*_stored(name))


def _files(name: str) -> Files:
    return _stored(name)[0]


@cache
def _stored(name: str) -> tuple[Files, Mapping[str, int]]:
    """Return the files of a store, and when they were changed last."""
    if not name.startswith("ours/"):
        return golden(name), {}
    kind, layout, shards = name.removeprefix("ours/").split("-")
    folder = Path(tempfile.mkdtemp(prefix="zv-fuzz-"))
    try:
        write_small_store(folder / "s.zv", kind, layout, int(shards))
        files = files_of(folder / "s.zv")
        return files, {path: (folder / "s.zv" / path).stat().st_mtime_ns for path in files}
    finally:
        shutil.rmtree(folder)


Answer = dict[str, Any]


@dataclass(frozen=True)
class StoreDecoder(Decoder):
    """A way to read a store, and the files of it that are changed."""

    read: Callable[[dzv.Store], Answer] = field(default=lambda store: {})  # an answer that compares by value
    about: tuple[str, ...] = ("",)  # changed are files whose path has one of these in it, and any other now and then

    def mutate(self, seed: Parts, mutator: Mutator) -> Parts:
        rng = mutator.rng
        if rng.random() < 0.01:
            return seed
        files = _files(seed[0].decode())
        mutator.others = [files[p] for p in rng.sample(sorted(files), min(6, len(files)))]
        near = [p for p in files if any(f"/{a}" in f"/{p}" for a in self.about)]
        changes: list[Any] = []
        blobs: list[bytes] = []
        for _ in range(rng.choice((1, 1, 1, 2))):
            path = rng.choice(near if near and rng.random() < 0.9 else list(files))
            kind = rng.randrange(20)
            if kind < 2:
                changes.append(["lose", path])
            elif kind == 2:
                changes.append(["copy", rng.choice(near or list(files)), path])
            elif kind == 3 and rng.random() < 0.3:
                blobs.append(rng.choice((files[path], b"", b"{}")))
                changes.append(["put", _hostile_path(rng, path), len(blobs) - 1, False])
            else:
                blobs.append(_changed(path, files, mutator))
                changes.append(["put", path, len(blobs) - 1, rng.random() < 0.3])
        return (seed[0], json.dumps(changes).encode(), *blobs)

    def bound(self, parts: Parts) -> int:
        return self.free + self.ratio * max((len(p) for p in parts[2:]), default=0)

    def check(self, parts: Parts, seed: Parts) -> None:
        """Apply, read, compare, restore."""
        name, changes = parts[0].decode(), json.loads(parts[1])
        copy = _copy(name)
        expected = _expected(self.name, name)
        try:
            copy.apply(changes, parts[2:])
            with dask.config.set(scheduler="sync"):
                found = self.read(dzv.open(copy.root))
        finally:
            copy.restore(changes)
        if _is_covered(name, changes, parts[2:]):
            assert found == expected, (
                f"another answer, although checksums cover what was changed: {_first_difference(found, expected)}"
            )


LEVEL_DECODERS: dict[str, StoreDecoder] = {}
"""Ways to read a store: they go through the decoders of catalogs, cells, shards, grids, nodes, tables and manifests."""


def _way(name: str, *about: str) -> Callable[[Any], Any]:
    """Let the function below be a way to read a store; `about`: see :class:`StoreDecoder`."""

    def register(read: Any) -> Any:
        def run(parts: Parts, seed: Parts) -> None:
            LEVEL_DECODERS[name].check(parts, seed)

        LEVEL_DECODERS[name] = DECODERS[name] = StoreDecoder(
            name, lambda: _readable(name), run, ratio=2 * PACKED, free=3 * FREE, read=read, about=about or ("",)
        )
        return read

    return register


def _plain(value: Any) -> Any:
    """Return an array as something that compares by value, NaN and masks included."""
    if value is None:
        return None
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in sorted(value.items(), key=lambda i: str(i[0]))}
    mask = np.ma.getmaskarray(value).tolist() if isinstance(value, np.ma.MaskedArray) else None
    array = np.asarray(np.ma.getdata(value))
    body = array.tolist() if array.dtype.kind in "OUSTV" else np.ascontiguousarray(array).tobytes()
    return array.dtype.str, array.shape, repr(body) if array.dtype.kind == "O" else body, mask


def _geometry(g: dzv.Geometry) -> Answer:
    n = len(g.positions)
    assert g.positions.ndim == 2
    assert all(len(v) == n for v in g.attributes.values()), "attributes are not as long as the positions"
    for name in ("object_ids", "parents"):
        column = getattr(g, name)
        assert column is None or column.shape == (n,)
    for name, values in (("edges", g.edge_attributes), ("faces", g.face_attributes)):
        links = getattr(g, name)
        if links is not None:
            assert links.ndim == 2
            assert not len(links) or (int(links.min()) >= 0 and int(links.max()) < n), "links of rows that aren't there"
            assert all(len(v) == len(links) for v in values.values())
    assert g.parents is None or not n or (int(g.parents.min()) >= -1 and int(g.parents.max()) < n)
    if g.lengths is not None:
        assert g.ids is not None
        assert len(g.ids) == len(g.lengths)
        assert int(g.lengths.sum()) == n
    if g.object_index is not None:
        assert all(len(v) == len(g.object_index) for v in g.object_attributes.values())
    return {name: _plain(getattr(g, name)) for name in g.__slots__}


def _levels(store: dzv.Store) -> list[dzv.Level]:
    return [store.level(n) for n in store.levels[:2]]


@_way("store: open", "zarr.json")
def _opened(store: dzv.Store) -> Answer:
    repr(store)
    html = store._repr_html_()
    assert "<script" not in html
    about = [(level.number, level.metadata, level.attributes, level.kind) for level in _levels(store)]
    return {"metadata": repr(store.metadata), "levels": repr(about)}


@_way("store: chunks", "dask_zv_catalog", "vertices", "vertex_fragments", "0/zarr.json")
def _chunks(store: dzv.Store) -> Answer:
    out: Answer = {}
    for level in _levels(store):
        table = level.chunks
        assert table.coords.shape == (len(table), level._contents.source.rank)
        assert table.rows.shape == (len(table),)
        assert not len(table) or int(table.rows.min()) >= 0
        assert len(set(map(tuple, table.coords.tolist()))) == len(table)
        out[str(level.number)] = _plain(table.coords), _plain(table.rows)
    return out


@_way("store: read")
def _read(store: dzv.Store) -> Answer:
    return {str(level.number): _geometry(level.read()) for level in _levels(store)}


@_way("store: read a box", "vert", "link", "dask_zv_catalog")
def _read_box(store: dzv.Store) -> Answer:
    level = store.level(0)
    ndim = len(store.axes)
    g = level.read(bbox=([-15.0] * ndim, [12.0] * ndim), order="chunk")
    return _geometry(g)


@_way("store: objects", "object", "group", "dask_zv_objects")
def _objects(store: dzv.Store) -> Answer:
    level = store.level(0)
    if not level._contents.source.schema.has_objects:
        return {}
    index = level._contents.index
    ids = index.ids
    assert ids.shape == (index.count,)
    assert len(np.unique(ids)) == len(ids)
    tables = list(index.slices())
    out: Answer = {"ids": _plain(ids)}
    out["entries"] = [(_plain(t.objects), _plain(t.chunks), _plain(t.fragments)) for t in tables]
    out["attributes"] = _plain(index.attributes())
    groups, of_groups = index.tables.groups
    out["groups"] = _plain(groups), _plain(of_groups)
    some = ids[:2]
    g = level.read(objects=some.tolist(), order="object")
    assert g.ids is not None
    assert np.array_equal(np.unique(g.ids), np.unique(some)) or not len(g.positions)
    return {**out, "some": _geometry(g)}


@_way("store: lengths of objects", "object_index", "dask_zv_objects", "vertex_fragments")
def _lengths(store: dzv.Store) -> Answer:
    level = store.level(0)
    if not level._contents.source.schema.has_objects:
        return {}
    found = object_lengths(level._contents.source, level.chunks, level._contents.index)
    assert len(found.ids) == len(found.lengths) == level._contents.index.count
    assert not len(found) or (int(found.lengths.min()) >= 0 and bool((found.ids[1:] > found.ids[:-1]).all()))
    return {"ids": _plain(found.ids), "lengths": _plain(found.lengths)}


@_way("store: links", "link", "cross_chunk", "dask_zv_catalog")
def _links(store: dzv.Store) -> Answer:
    out: Answer = {}
    for level in _levels(store):
        for delta in (0, 1):
            if level._contents.found_links(delta) is None:
                continue
            found = level.links(delta)
            assert found.chunks.shape == (len(found), found.width, level._contents.source.rank)
            assert found.rows.shape == (len(found), found.width)
            assert all(len(v) == len(found) for v in found.attributes.values())
            out[f"{level.number} {delta}"] = _plain(found.chunks), _plain(found.rows), _plain(found.attributes)
    return out


def _dataset(store: dzv.Store, view: str) -> Answer:
    if view == "objects" and not store.level(0)._contents.source.schema.has_objects:
        return {}
    with xr.open_dataset(store.url.removeprefix("file://"), engine="zv", view=view) as lazy:
        ds = lazy.load()
    # the numbers of links are a coordinate where a catalog tells how many they are
    names = {k: _plain(v.to_numpy()) for k, v in ds.variables.items() if k not in ("edge", "face", "crs")}
    return {"sizes": repr(dict(ds.sizes)), "variables": names}


_way("store: xarray, spatial")(partial(_dataset, view="spatial"))
_way("store: xarray, objects", "object", "group", "link", "dask_zv", "vert")(partial(_dataset, view="objects"))


def _hostile_path(rng: random.Random, path: str) -> str:
    """Return the path of a file beside another one, of a name that the file system takes."""
    name = rng.choice([n for n in HOSTILE_NAMES if n and "/" not in n and "\0" not in n and len(n) < 200 and n.isprintable()])
    name = "x" if name in (".", "..", "zarr.json") else name
    return f"{path.rpartition('/')[0] or '0'}/{name}~/zarr.json".removeprefix("/")


def _changed(path: str, files: Files, mutator: Mutator) -> bytes:
    """Return a changed file."""
    data = files[path]
    if path.endswith("zarr.json"):
        return mutator.document(data)
    if path.endswith(_CATALOG) and data[:4] == b"DZVC" and mutator.rng.random() < 0.8:
        parts = list(split_payload(data))
        if mutator.rng.random() < 0.8:
            parts[1] = mutator.document(parts[1])
        else:
            parts[2] = mutator.blob(parts[2])
        return join_payload(tuple(parts))
    if data[:4] == _ZSTD and mutator.rng.random() < 0.5:
        inside = mutator.blob(zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 20))
        return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(inside)
    return mutator.blob(data)


def _is_covered(name: str, changes: Sequence[Any], blobs: Sequence[bytes]) -> bool:
    """Tell whether checksums, or what should exist, tell of every change: see the head of this module."""
    if not changes:
        return True
    if "-grid-" not in name:
        return False
    files = _files(name)
    for change in changes:
        kind, path = change[:2]
        if kind == "lose":
            if len(changes) > 1:  # one loss may hide another: a table and the document that tells of it
                return False
            continue
        if kind != "put" or path.endswith("zarr.json") or path not in files:
            return False
        data = blobs[change[2]]
        if data in files.values() and data != files[path]:
            return False
        # whole by itself: what another tool's edit looks like
        if data != files[path] and (path.endswith(_CATALOG) or _is_frame(data)):
            return False
    return len(changes) == 1


def _is_frame(data: bytes) -> bool:
    """Tell whether bytes are one whole Zstandard frame with a checksum that fits, which anyone may have written."""
    if len(data) < 5 or data[:4] != _ZSTD:
        return False
    try:
        if zstandard.frame_content_size(data) > 1 << 24:
            return False
        zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 24, allow_extra_data=False)
    except zstandard.ZstdError:
        return False
    return True


def _first_difference(found: Any, expected: Any, path: str = "") -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in {*found, *expected}:
            if found.get(key) != expected.get(key):
                return _first_difference(found.get(key), expected.get(key), f"{path}/{key}")
    return f"{path}: {found!r:.200} is not {expected!r:.200}"


@cache
def _expected(decoder: str, name: str) -> Answer:
    _settle()
    with dask.config.set(scheduler="sync"):
        return LEVEL_DECODERS[decoder].read(dzv.open(_copy(name).root))


def _readable(way: str) -> list[Parts]:
    """Return the stores that can be read that way at all: some golden ones are what no reader takes."""
    out: list[Parts] = []
    for name in (*OURS[::4], *_SOME_GOLDEN) if FEW else (*OURS, *golden_names()):
        try:
            _expected(way, name)
        except ZVError as error:
            if name.startswith("ours/"):
                raise AssertionError(f"{way}: {name} can't be read") from error
            continue
        out.append((name.encode(), b"[]"))
    return out
