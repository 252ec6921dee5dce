"""A function of every chunk, or of every object, of a level: a task handles a block of them, and only results travel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import List, TaskRef
from numpy.typing import NDArray

from dask_zv.analysis.chunks import looked_up, plan_chunk_blocks
from dask_zv.analysis.halo import halo_blocks, halo_reader
from dask_zv.analysis.objects import plan_object_blocks
from dask_zv.analysis.results import Example, Mapped, MappedFunction
from dask_zv.errors import FormatError, InputError
from dask_zv.graph.builder import GraphBuilder, is_lazy, refuse_expressions
from dask_zv.graph.run import check_reachable, compute_one
from dask_zv.level.contents import LevelContents
from dask_zv.storage.handles import StoreHandle


def _map_block(reader: Any, function: MappedFunction, block: Any) -> Mapped:
    return function.map(*reader.pieces(block))


def _bind(function: MappedFunction, args: Sequence[Any], values: Sequence[Any]) -> MappedFunction:
    """Return the function with what its lazy arguments came to."""
    return replace(function, args=tuple(args), kwargs=dict(zip(function.kwargs, values, strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class MapPlan:
    """A function and the blocks that it is for; nothing was read of them yet.

    `labels` are coordinates of all chunks or ids of all objects, `counts` how many of them each block has. Where `known` is
    None, which of them have rows is only known when they are read; else it is the rows of each.
    """

    function: MappedFunction
    reader: Any
    """With ``pieces(block)``: labels, rows, what gives the name of each chunk or object, and their geometries."""
    blocks: Sequence[Any]
    labels: NDArray[np.int64]
    known: NDArray[np.int64] | None
    counts: list[int]
    handle: StoreHandle

    def _is_lazy(self) -> bool:
        return any(is_lazy(v) for v in (*self.function.args, *self.function.kwargs.values()))

    def _begin(self) -> tuple[GraphBuilder, TaskRef, TaskRef]:
        """Return a graph under construction, and the reader and the function in it."""
        builder = GraphBuilder("zv-map")
        reader, f = builder.share("reader", self.reader), self.function
        if not self._is_lazy():
            return builder, reader, builder.share("function", f)
        arguments = builder.payload(list(f.args)), builder.payload(list(f.kwargs.values()))
        return builder, reader, builder.add(builder.key("function"), _bind, f, *arguments)

    def delayed(self, then: Callable[[Any], Any] | None = None) -> Delayed:
        """Return the result as a Delayed; `then` makes something else of it."""
        builder, reader, function = self._begin()
        parts = [builder.add(builder.key("block", i), _map_block, reader, function, b) for i, b in enumerate(self.blocks)]
        end = builder.key("gather")
        result = builder.add(end, MappedFunction.join, function, self.labels[:0], List(*parts))
        if then is not None:
            end = builder.key("result")
            builder.add(end, then, result)
        return builder.finish(end)

    def arrays(self) -> dict[str, Any]:
        """Return every column as a Dask array with a chunk to a block; the function's `example` says what they are."""
        import dask.array as da

        refuse_expressions("lazy columns of a map")
        example = self.function.example
        if example is None or self.known is None:
            raise InputError("lazy columns need meta=, and can be selected only by chunks= or rows=", store=self.function.where)
        if not self.blocks:
            return example.empty()
        builder, *refs = self._begin()
        reader, function = (builder.finish(str(r.key)) for r in refs)
        blocks = np.empty(len(self.blocks), object)
        for i, planned in enumerate(zip(self.blocks, self.counts, strict=True)):
            blocks[i] = planned
        parts = da.from_array(blocks, chunks=1, name=builder.key("plan"), meta=blocks[:0]).map_blocks(
            _map_planned, reader, function, name=builder.key("block"), dtype=object, meta=blocks[:0]
        )
        return {
            column: parts.map_blocks(
                _column,
                column,
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
        if len(self.blocks) <= 1 and not self._is_lazy():
            return self.function.join(self.labels[:0], [_map_block(self.reader, self.function, b) for b in self.blocks])
        check_reachable(self.handle)
        result: Mapped = compute_one(self.delayed())
        return result


def _map_planned(planned: NDArray[Any], reader: Any, function: MappedFunction) -> NDArray[Any]:
    """Map the one block of an array of (block, labels that it has)."""
    block, count = planned[0]
    out = np.empty(1, object)
    out[0] = found = _map_block(reader, function, block)
    if len(found) != count:
        raise FormatError(
            f"{len(found)} chunks or objects have rows, but {count} were planned: the level was changed, open it again",
            store=function.where,
        )
    return out


def _column(parts: NDArray[Any], name: str) -> NDArray[Any]:
    values: NDArray[Any] = parts[0].values[name]
    return values


def _function(
    level: LevelContents, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None, meta: Any
) -> MappedFunction:
    if not callable(func):
        raise InputError(f"func is a function of a Geometry, not {func!r:.80}")
    example = None if meta is None else Example.of(meta)
    return MappedFunction(func, tuple(args), dict(kwargs or {}), example, level.url)


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
    """Plan the map that ``ds.zv.map_chunks`` documents, of what is in all of a box, chunks, objects and rows (by number)."""
    function = _function(level, func, args, kwargs, meta)
    if halo not in (None, "links"):
        raise InputError(f"halo is None or 'links', not {halo!r:.80}")
    halo_of = None
    if halo is not None:
        rows, bbox, objects = looked_up(level, rows, bbox, objects), None, None
        halo_of = halo_reader(level, attributes, rows)
        attributes = halo_of.attributes
    found = plan_chunk_blocks(
        level,
        bbox=bbox,
        chunks=chunks,
        objects=objects,
        rows=rows,
        attributes=attributes,
        rows_per_task=rows_per_task,
        whole=halo_of is None,
    )
    reader: Any = found.reader
    blocks: Sequence[Any] = found.blocks
    counts = [len(b.plan.coords) for b in found.blocks]
    if halo_of is not None:
        reader, blocks = halo_blocks(level, halo_of, found.blocks)
    return MapPlan(function, reader, blocks, found.coords, found.known, counts, level.source.place.handle)


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
    """Plan the map that ``ds.zv.map_objects`` documents; blocks must be `by_id` for :meth:`MapPlan.arrays`."""
    function = _function(level, func, args, kwargs, meta)
    found = plan_object_blocks(level, objects=objects, attributes=attributes, rows_per_task=rows_per_task, by_id=by_id)
    counts = [len(b) for b in found.blocks]
    return MapPlan(function, found.reader, found.blocks, found.ids, found.lengths, counts, level.source.place.handle)
