"""The plan of a map: blocks of chunks or objects, the task of each, and how their results are put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import DataNode, List, TaskRef
from numpy.typing import NDArray

from dask_zv.analysis.chunks import ChunkBlock, ChunkReader, plan_chunk_blocks
from dask_zv.analysis.cutting import cut_by_rows
from dask_zv.analysis.halo import HaloBlock, HaloReader, halo_blocks, halo_reader
from dask_zv.analysis.objects import ObjectReader, plan_object_blocks
from dask_zv.analysis.results import Columns, Example, Function, join_parts
from dask_zv.analysis.row_numbers import looked_up
from dask_zv.errors import FormatError, InputError
from dask_zv.format.keys import coords_to_keys
from dask_zv.geometry.result import Geometry
from dask_zv.graph.arrays import refuse_expressions
from dask_zv.graph.builder import GraphBuilder, is_future
from dask_zv.graph.run import check_reachable, compute_one
from dask_zv.level.contents import LevelContents
from dask_zv.storage.handles import StoreHandle


@dataclass(frozen=True, slots=True, eq=False)
class MappedChunks:
    """What a function returned for each chunk that holds a vertex of the selection.

    Attributes
    ----------
    coords : ndarray of int64, shape (n, K)
        Coordinates of the chunks, ascending.
    rows : ndarray of int64, shape (n,)
        Vertices that the function was given of each.
    values : mapping of str to ndarray, shape (n, ...)
        A column for each name that it returned; ``"value"`` where it returned no dict.
    single : bool
        It returned no dict.
    """

    coords: NDArray[np.int64]
    rows: NDArray[np.int64]
    values: Mapping[str, NDArray[Any]]
    single: bool

    @property
    def keys(self) -> list[str]:
        """Chunk keys, such as ``"0.1.2"``."""
        return coords_to_keys(self.coords)

    def __len__(self) -> int:
        return len(self.coords)


@dataclass(frozen=True, slots=True, eq=False)
class MappedObjects:
    """What a function returned for each object.

    Attributes
    ----------
    ids : ndarray of int64, shape (n,)
        Ascending.
    rows : ndarray of int64, shape (n,)
        Vertices of each.
    values : mapping of str to ndarray, shape (n, ...)
        A column for each name that it returned; ``"value"`` where it returned no dict.
    single : bool
        It returned no dict.
    """

    ids: NDArray[np.int64]
    rows: NDArray[np.int64]
    values: Mapping[str, NDArray[Any]]
    single: bool

    def __len__(self) -> int:
        return len(self.ids)


Mapped = MappedChunks | MappedObjects


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What a task returns: names of its chunks or objects (coordinates, ids), their rows, the results."""

    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: Columns


def _map_chunk_block(reader: ChunkReader, function: Function, block: ChunkBlock) -> _Part:
    geometry, counts = reader.read(block)
    there = np.flatnonzero(counts)
    coords, counts = block.plan.coords[there], counts[there]

    def pieces() -> Iterator[tuple[str, Geometry]]:
        for key, piece in zip(coords_to_keys(coords), cut_by_rows(geometry, counts), strict=True):
            yield f"chunk {key}", piece

    return _Part(coords, counts, function.columns(pieces()))


def _map_halo_block(reader: HaloReader, function: Function, block: HaloBlock) -> _Part:
    geometries, counts = reader.read(block)
    there = np.flatnonzero(counts)
    coords = block.chunks.plan.coords[there]
    keys = (f"chunk {key}" for key in coords_to_keys(coords))
    return _Part(coords, counts[there], function.columns(zip(keys, geometries, strict=True)))


def _map_object_block(reader: ObjectReader, function: Function, ids: NDArray[np.int64]) -> _Part:
    geometry = reader.read(ids)
    lengths = geometry.lengths
    assert lengths is not None

    def pieces() -> Iterator[tuple[str, Geometry]]:
        for number, piece in zip(ids.tolist(), cut_by_rows(geometry, lengths), strict=True):
            yield f"object {number}", piece

    return _Part(ids, lengths, function.columns(pieces()))


def _bind(function: Function, args: Sequence[Any], values: Sequence[Any]) -> Function:
    """Return the function with what its lazy arguments came to."""
    return replace(function, args=tuple(args), kwargs=dict(zip(function.kwargs, values, strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class _Gather:
    """Put the parts of all blocks together."""

    kind: type[Mapped]
    rank: int

    def __call__(self, function: Function, parts: Sequence[_Part]) -> Mapped:
        columns = join_parts([p.columns for p in parts], function)
        none = np.zeros((0, self.rank) if self.kind is MappedChunks else 0, np.int64)
        labels = np.concatenate([none, *(p.labels for p in parts)])
        rows = np.concatenate([np.zeros(0, np.int64), *(p.rows for p in parts)])
        values = columns.values
        assert columns.example is not None
        if self.kind is MappedObjects and (labels[1:] < labels[:-1]).any():
            order = np.argsort(labels)
            labels, rows, values = labels[order], rows[order], {name: v[order] for name, v in values.items()}
        return self.kind(labels, rows, values, columns.example.single)


@dataclass(frozen=True, slots=True, eq=False)
class MapPlan:
    """A function and the blocks that it is for; nothing was read of them yet.

    Attributes
    ----------
    function : Function
    run_block : callable
        Makes a part of reader, function and block.
    reader, blocks
    labels : ndarray of int64
        Coordinates of all chunks, or ids of all objects; those that may hold something where `known` is None.
    known : ndarray of int64, optional
        Rows of each, where that is known.
    counts : list of int
        Labels of each block.
    gather : _Gather
    handle : StoreHandle
    """

    function: Function
    run_block: Callable[..., _Part]
    reader: Any
    blocks: Sequence[Any]
    labels: NDArray[np.int64]
    known: NDArray[np.int64] | None
    counts: list[int]
    gather: _Gather
    handle: StoreHandle

    def _begin(self) -> tuple[GraphBuilder, TaskRef, TaskRef]:
        """Return a graph under construction, and the reader and the function in it."""
        builder = GraphBuilder("zv-map")
        reader = builder.key("reader")
        builder.tasks[reader] = DataNode(reader, self.reader)  # once in the graph, whatever the number of blocks
        f, values = self.function, list(self.function.kwargs.values())
        key = builder.key("function")
        if any(_is_lazy(v) for v in (*f.args, *values)):
            function = builder.add(key, _bind, f, builder.payload(list(f.args)), builder.payload(values))
        else:
            builder.tasks[key] = DataNode(key, f)
            function = TaskRef(key)
        return builder, TaskRef(reader), function

    def delayed(self, then: Callable[[Any], Any] | None = None) -> Delayed:
        """Return the result as a Delayed; `then` makes something else of it."""
        builder, reader, function = self._begin()
        parts = [
            builder.add(builder.key("block", i), self.run_block, reader, function, block) for i, block in enumerate(self.blocks)
        ]
        end = builder.key("gather")
        result = builder.add(end, self.gather, function, List(*parts))
        if then is not None:
            end = builder.key("result")
            builder.add(end, then, result)
        return builder.finish(end)

    def arrays(self) -> dict[str, Any]:
        """Return every column as a Dask array with a chunk to a block; the function's `example` says what they are.

        Raises
        ------
        InputError
            There is no example, or which chunks have results is only known when they are read.
        """
        import dask.array as da

        refuse_expressions("lazy columns of a map")
        example = self.function.example
        if example is None or self.known is None:
            raise InputError("lazy columns need meta=, and a selection by chunks= or rows= alone", store=self.function.where)
        if not self.blocks:
            return example.empty()
        builder, *refs = self._begin()
        reader, function = (builder.finish(str(r.key)) for r in refs)
        blocks = np.empty(len(self.blocks), object)
        for i, planned in enumerate(zip(self.blocks, self.counts, strict=True)):
            blocks[i] = planned
        parts = da.from_array(blocks, chunks=1, name=builder.key("plan"), meta=blocks[:0]).map_blocks(
            _run_planned, self.run_block, reader, function, name=builder.key("block"), dtype=object, meta=blocks[:0]
        )
        return {
            column: parts.map_blocks(
                _column,
                column,
                self.function.where,
                name=f"{builder.key('column')}-{column}",
                chunks=(tuple(self.counts), *((n,) for n in shape)),
                new_axis=list(range(1, 1 + len(shape))),
                dtype=dtype,
                meta=np.empty((0,) * (1 + len(shape)), dtype),
            )
            for column, (shape, dtype) in example.specs.items()
        }

    def compute(self) -> Mapped:
        """Return the result now: on the active scheduler, or at once where there is one block."""
        lazy = any(_is_lazy(v) for v in (*self.function.args, *self.function.kwargs.values()))
        if len(self.blocks) <= 1 and not lazy:
            return self.gather(self.function, [self.run_block(self.reader, self.function, b) for b in self.blocks])
        check_reachable(self.handle)
        result: Mapped = compute_one(self.delayed())
        return result


def _run_planned(planned: NDArray[Any], run: Callable[..., _Part], reader: Any, function: Function) -> NDArray[Any]:
    """Run the one block of an array of (block, labels that it has), and return its part beside that number."""
    block, count = planned[0]
    out = np.empty(1, object)
    out[0] = run(reader, function, block), count
    return out


def _column(parts: NDArray[Any], name: str, where: str) -> NDArray[Any]:
    part, count = parts[0]
    if len(part.rows) != count:
        raise FormatError(
            f"{len(part.rows)} chunks or objects have rows, {count} were planned: the level was changed, open it again",
            store=where,
        )
    values: NDArray[Any] = part.columns.values[name]
    return values


def _is_lazy(value: Any) -> bool:
    return isinstance(value, Delayed) or is_future(value)


def _function(level: LevelContents, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None, meta: Any) -> Function:
    if not callable(func):
        raise InputError(f"func is a function of a Geometry, not {func!r:.80}")
    example = None if meta is None else Example.of(meta)
    return Function(func, tuple(args), dict(kwargs or {}), example, level.url)


def plan_map_chunks(
    level: LevelContents,
    func: Callable[..., Any],
    *,
    bbox: Any = None,
    chunks: Any = None,
    objects: Any = None,
    rows: slice | NDArray[np.int64] | None = None,
    attributes: Sequence[str] | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    meta: Any = None,
    rows_per_task: int | None = None,
    halo: str | None = None,
) -> MapPlan:
    """Return the plan of :func:`map_chunks`."""
    function = _function(level, func, args, kwargs, meta)
    if halo not in (None, "links"):
        raise InputError(f"halo is None or 'links', not {halo!r:.80}")
    more: dict[str, Any] = {}
    halo_of = None
    if halo is not None:
        rows, bbox, objects = looked_up(level, rows, bbox, objects), None, None
        halo_of = halo_reader(level, attributes, rows)
        attributes, more = halo_of.attributes, {"whole": False}
    found = plan_chunk_blocks(
        level, bbox=bbox, chunks=chunks, objects=objects, rows=rows, attributes=attributes, rows_per_task=rows_per_task, **more
    )
    counts = [len(b.plan.coords) for b in found.blocks]
    source = level.source
    gather = _Gather(MappedChunks, source.rank)
    if halo_of is not None:
        reader, blocks = halo_blocks(level, halo_of, found.blocks)
        return MapPlan(
            function, _map_halo_block, reader, blocks, found.coords, found.known, counts, gather, source.place.handle
        )
    return MapPlan(
        function, _map_chunk_block, found.reader, found.blocks, found.coords, found.known, counts, gather, source.place.handle
    )


def plan_map_objects(
    level: LevelContents,
    func: Callable[..., Any],
    *,
    objects: Any = None,
    attributes: Sequence[str] | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    meta: Any = None,
    rows_per_task: int | None = None,
    by_id: bool = False,
) -> MapPlan:
    """Return the plan of :func:`map_objects`; blocks must be `by_id` for :meth:`MapPlan.arrays`."""
    function = _function(level, func, args, kwargs, meta)
    found = plan_object_blocks(level, objects=objects, attributes=attributes, rows_per_task=rows_per_task, by_id=by_id)
    counts = [len(b) for b in found.blocks]
    source = level.source
    gather = _Gather(MappedObjects, source.rank)
    return MapPlan(
        function, _map_object_block, found.reader, found.blocks, found.ids, found.lengths, counts, gather, source.place.handle
    )
