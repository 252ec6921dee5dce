"""Reading a level: which chunks, in which blocks, and what comes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import List
from numpy.typing import NDArray

from dask_zv.batch.graph import GraphBuilder
from dask_zv.batch.run import check_reachable, compute_one
from dask_zv.errors import FormatError, InputError
from dask_zv.geometry.result import Geometry
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.pipelines.chunk_rows import decode_chunks, decode_together, fetch_chunks
from dask_zv.pipelines.level_io import LevelSource, level_blobs
from dask_zv.pipelines.objects_index import (
    FragmentTable,
    ObjectIndex,
    chosen_ids,
    fragment_owners,
    read_groups,
    read_object_attributes,
)
from dask_zv.spatial.grid import Box, as_box

if TYPE_CHECKING:
    from dask_zv.pipelines.store import Level

__all__ = ["read_points"]

_BLOCK_BYTES = 32 << 20
_BLOCK_CHUNKS = 512
_PACKED_BLOCK_CHUNKS = 4096
"""A block is a run of chunks in their order: a short one would take a little of many shards."""


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What one block's task returns: rows that passed the filters, in reading order."""

    positions: NDArray[Any]
    attributes: dict[str, NDArray[Any]]
    owners: NDArray[np.int64] | None
    chunk: NDArray[np.int64] | None
    fragment: NDArray[np.int64] | None

    def __sizeof__(self) -> int:
        return self.positions.nbytes + sum(v.nbytes for v in self.attributes.values()) + 200


def _read_block(
    source: LevelSource,
    keys: Sequence[str],
    first_chunk: int,
    attributes: Sequence[AttributeSchema],
    box: Box | None,
    whole: Sequence[bool],
    chosen: FragmentTable | None,
    *,
    with_fragments: bool,
) -> _Part:
    """Read a block of chunks and keep the rows inside the box that belong to the chosen objects."""
    blobs = level_blobs(source)
    found = fetch_chunks(source, blobs, keys, attributes, positions=True, indexes=True)
    if not (source.schema.has_objects or with_fragments or blobs.catalog_is_stale):
        together = decode_together(source, keys, attributes, found)
        if together is not None:
            return _inside(*together, box, whole)
    pieces = decode_chunks(source, blobs, keys, attributes, found, with_positions=True, rows=None, indexes=None)
    del found
    names = [*(a.name for a in attributes), *([source.chunk_attribute[0]] if source.chunk_attribute else [])]
    want_owners = source.schema.has_objects
    table = chosen if chosen is not None else fragment_owners(source, keys) if want_owners else None
    kept: list[_Part] = []
    for i, (key, piece) in enumerate(zip(keys, pieces, strict=True)):
        n = len(piece.positions)
        keep: NDArray[np.bool_] | None = None
        owners = fragment = None
        if table is not None or with_fragments:
            counts = piece.fragment_rows if piece.fragment_rows is not None else np.array([n], np.int64)
            fragment = np.repeat(np.arange(len(counts)), counts)
            if table is not None:
                owners = np.repeat(table.owners(key, len(counts)), counts)
        if box is not None and not whole[i]:
            p = piece.positions.astype(np.float64, copy=False)
            keep = np.asarray(((p >= box[0]) & (p <= box[1])).all(axis=1), bool)
        if chosen is not None:
            assert owners is not None
            mine = np.not_equal(owners, -1)
            keep = mine if keep is None else np.logical_and(keep, mine)
        select: Any = slice(None) if keep is None else keep
        m = n if keep is None else int(keep.sum())
        kept.append(
            _Part(
                piece.positions[select],
                {k: piece.attributes[k][select] for k in names},
                None if owners is None else owners[select],
                np.full(m, first_chunk + i, np.int64) if with_fragments else None,
                fragment[select] if with_fragments and fragment is not None else None,
            )
        )
    return _concatenate(source, kept, names)


def _inside(
    positions: NDArray[Any], columns: dict[str, NDArray[Any]], rows: NDArray[np.int64], box: Box | None, whole: Sequence[bool]
) -> _Part:
    """Return the rows inside the box; all of a chunk that is `whole`."""
    if box is None or all(whole):
        return _Part(positions, columns, None, None, None)
    keep = np.repeat(np.asarray(whole, bool), rows)
    ask = ~keep
    p = positions[ask].astype(np.float64, copy=False)
    keep[ask] = ((p >= box[0]) & (p <= box[1])).all(axis=1)
    return _Part(positions[keep], {k: v[keep] for k, v in columns.items()}, None, None, None)


def _concatenate(source: LevelSource, parts: Sequence[_Part], names: Sequence[str]) -> _Part:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        empty = np.zeros((0, source.schema.grid.ndim), source.schema.dtype)
        zero = np.zeros(0, np.int64)
        values: dict[str, NDArray[Any]] = {
            a.name: np.zeros((0,) if a.channels is None else (0, a.channels), a.dtype)
            for a in source.schema.attributes
            if a.name in names
        }
        if source.chunk_attribute is not None:
            values[source.chunk_attribute[0]] = zero
        return _Part(empty, values, zero if source.schema.has_objects else None, zero, zero)

    def join(get: Any) -> Any:
        return None if get(parts[0]) is None else np.concatenate([get(p) for p in parts])

    return _Part(
        np.concatenate([p.positions for p in parts]),
        {k: np.concatenate([p.attributes[k] for p in parts]) for k in names},
        join(lambda p: p.owners),
        join(lambda p: p.chunk),
        join(lambda p: p.fragment),
    )


def read_points(
    level: Level, *, objects: Any, bbox: Any, order: str | None, attributes: Sequence[str] | None, compute: bool
) -> Geometry | Delayed:
    """Plan the reading of a level, see :meth:`Level.read`; run it where `compute`."""
    source = level.source
    schema = source.schema
    if order not in (None, "chunk", "object"):
        raise InputError(f"order is 'chunk' or 'object', not {order!r}")
    wants_objects = objects is not None or order == "object"
    if wants_objects and not schema.has_objects:
        raise InputError(f"{level.url} has no objects: leave out objects= and order='object'")
    chosen_attributes = _choose_attributes(level, attributes)
    table = level.chunks
    keep = np.ones(len(table), bool)
    whole = np.zeros(len(table), bool)
    box = None
    spatial = table.coords[:, source.rank - schema.grid.ndim :]
    if bbox is not None:
        box = as_box(bbox, schema.grid.ndim)
        keep = schema.grid.touches(spatial, box)
        whole = schema.grid.inside(spatial, box)
    chosen: FragmentTable | None = None
    ids: NDArray[np.int64] | None = None
    if objects is not None:
        ids = chosen_ids(objects)
        chosen = ObjectIndex(source).select(ids)
        named = chosen.by_chunk
        keys = table.keys
        keep &= np.fromiter((k in named for k in keys), bool, len(keys))
        missing = set(named).difference(keys)
        if missing:
            raise FormatError("a manifest names a chunk that the level does not have", store=level.url, chunk=min(missing))
    coords, rows, inside = table.coords[keep], table.rows[keep], whole[keep]
    keys = [".".join(map(str, c)) for c in coords.tolist()]
    full = order == "object" and chosen is None
    builder = GraphBuilder("zv-read")
    parts: list[Any] = []
    arguments: list[tuple[Any, ...]] = []
    for start, stop in _cut(rows, schema.row_bytes, _PACKED_BLOCK_CHUNKS if level.is_packed else _BLOCK_CHUNKS):
        arguments.append((source, keys[start:stop], start, chosen_attributes, box, inside[start:stop].tolist(), chosen))
    finish = _Finish(level.source, tuple(keys), order == "object", full, chosen, ids)
    if compute and len(arguments) <= 1:  # small reads need no graph
        return finish([_run_block(*a, with_fragments=order == "object") for a in arguments], chosen_attributes)
    for i, argument in enumerate(arguments):
        parts.append(builder.add(builder.key("block", i), _run_block_task, argument, order == "object"))
    end = builder.key("geometry")
    builder.add(end, finish, List(*parts), chosen_attributes)
    delayed = builder.finish(end)
    if not compute:
        return delayed
    check_reachable(source.place.handle)
    result: Geometry = compute_one(delayed)
    return result


def _run_block(*arguments: Any, with_fragments: bool) -> _Part:
    return _read_block(*arguments, with_fragments=with_fragments)


def _run_block_task(arguments: tuple[Any, ...], with_fragments: bool) -> _Part:
    return _read_block(*arguments, with_fragments=with_fragments)


def _choose_attributes(level: Level, names: Sequence[str] | None) -> tuple[AttributeSchema, ...]:
    own = {a.name: a for a in level.source.schema.attributes}
    if names is None:
        return tuple(own.values())
    if isinstance(names, str):
        names = [names]
    unknown = [n for n in names if n not in level.attributes]
    if unknown:
        raise InputError(f"no attribute {unknown[0]!r}: the level has {', '.join(level.attributes) or 'none'}")
    return tuple(own[n] for n in names if n in own)


def _cut(rows: NDArray[np.int64], row_bytes: int, most: int) -> list[tuple[int, int]]:
    """Cut chunks into runs of bounded size."""
    runs: list[tuple[int, int]] = []
    start = size = 0
    for i, n in enumerate(rows.tolist()):
        if i > start and (size + n * row_bytes > _BLOCK_BYTES or i - start >= most):
            runs.append((start, i))
            start, size = i, 0
        size += n * row_bytes
    return [*runs, (start, len(rows))] if len(rows) > start else runs


@dataclass(frozen=True, slots=True)
class _Finish:
    """Make the result from the blocks' parts."""

    source: LevelSource
    keys: tuple[str, ...]
    by_object: bool
    all_objects: bool
    chosen: FragmentTable | None
    ids: NDArray[np.int64] | None

    def __call__(self, parts: Sequence[_Part], attributes: Sequence[AttributeSchema]) -> Geometry:
        names = [*(a.name for a in attributes)]
        if self.source.chunk_attribute is not None:
            names.append(self.source.chunk_attribute[0])
        part = _concatenate(self.source, parts, names)
        ids = lengths = None
        if self.by_object:
            part, ids, lengths = self._by_object(part)
        schemas = {a.name: a for a in attributes}
        values = {k: schemas[k].values(v) if k in schemas else self._chunk_values(v) for k, v in part.attributes.items()}
        extra: dict[str, Any] = {}
        if self.source.schema.has_objects:
            index = ObjectIndex(self.source)
            rows = np.argsort(index.ids) if self.ids is None else index.rows(self.ids)
            extra["object_index"] = np.sort(index.ids) if self.ids is None else self.ids
            extra["object_attributes"] = {k: v[rows] for k, v in read_object_attributes(self.source, index).items()}
            extra["groups"], extra["group_attributes"] = read_groups(self.source)
        return Geometry(part.positions, values, part.owners, ids=ids, lengths=lengths, **extra)

    def _chunk_values(self, codes: NDArray[Any]) -> NDArray[Any]:
        assert self.source.chunk_attribute is not None
        name, values = self.source.chunk_attribute
        if len(codes) and (int(codes.min()) < 0 or int(codes.max()) >= len(values)):
            raise FormatError(f"a chunk key names value {int(codes.max())} of attribute {name!r}, which has {len(values)}")
        return np.asarray(values)[codes] if len(values) else np.zeros(len(codes), "<U1")

    def _by_object(self, part: _Part) -> tuple[_Part, NDArray[np.int64], NDArray[np.int64]]:
        """Put the rows in the order of the manifests; a fragment that several objects share appears in each."""
        table = self.chosen if self.chosen is not None else fragment_owners(self.source, self.keys)
        assert part.chunk is not None
        assert part.fragment is not None
        number = {k: i for i, k in enumerate(self.keys)}
        entry_chunk = np.full(len(table.objects), -1, np.int64)
        for key, rows in table.by_chunk.items():
            entry_chunk[rows] = number.get(key, -1)
        width = int(max(part.fragment.max(initial=-1), table.fragments.max(initial=-1))) + 1
        have = part.chunk * width + part.fragment  # ascending: rows are in reading order
        want = entry_chunk * width + table.fragments
        start, stop = np.searchsorted(have, want, "left"), np.searchsorted(have, want, "right")
        counts = np.where(entry_chunk < 0, 0, stop - start)
        first = np.cumsum(counts) - counts
        rows = np.repeat(start - first, counts) + np.arange(int(counts.sum()))
        owner = np.repeat(table.objects, counts)
        ids = np.unique(table.objects) if self.ids is None else self.ids
        lengths = np.bincount(np.searchsorted(ids, owner), minlength=len(ids)).astype(np.int64)
        return (
            _Part(part.positions[rows], {k: v[rows] for k, v in part.attributes.items()}, owner, None, None),
            ids,
            lengths,
        )
