"""Polylines and lines as users have them: paths one after the other, or vertices that say which path they are of.

Everything becomes rows with the object of each (one module because all forms end in one, :class:`PathInput`): then rows that
follow each other and have one object are its path. Rows in another order, such as that of time, are sorted by a column first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dask.base import is_dask_collection
from dask.task_spec import Task
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.graph.builder import GraphBuilder, block_delayeds
from dask_zv.graph.run import pieces_of
from dask_zv.write.containers import (
    as_array,
    as_integers,
    as_table,
    attrs_of,
    column_of,
    from_objects,
    in_memory,
    is_frame,
    series_values,
    with_attrs,
)
from dask_zv.write.inputs import take_integers, unknown_column
from dask_zv.write.partitions import Partitions, RawPart, hint
from dask_zv.write.scan import id_ranges

_ROW = "dask_zv row in the input"
Owners = Callable[[GraphBuilder], list[Any]]
"""Returns a task argument per partition, which evaluates to (ids of paths, rows of each, rows to skip)."""


@dataclass(frozen=True, slots=True, eq=False)
class PathInput:
    """Paths as rows."""

    positions: Any  # with the attributes, as partition_input takes them
    attributes: Any
    object_ids: Any  # (N,); None where `owners` tell
    # (m, 2): ranges of the ids of all paths, also of those without vertices; None where the rows are all that is known
    objects: NDArray[np.int64] | None
    owners: Owners | None = None


def path_input(positions: Any, lengths: Any, object_ids: Any, attributes: Any) -> PathInput:
    """Return polylines as rows."""
    positions = as_table(positions)
    if is_frame(positions):
        if lengths is not None:
            raise InputError("lengths are for arrays: in a DataFrame, a column of object ids names the polyline of each row")
        if object_ids is None:
            raise InputError(
                "polylines in a DataFrame need object_ids=, the name of the column with the polyline of each vertex"
            )
        return PathInput(positions, attributes, object_ids, None)
    if (paths := _listed(positions)) is not None:
        positions, attributes, lengths = _concatenate(paths, attributes, lengths)
    positions = as_array("positions", positions)
    if lengths is None:
        if object_ids is None:
            raise InputError("say where polylines end: lengths= (vertices of each), or object_ids= (one for each vertex)")
        return PathInput(positions, attributes, object_ids, None)
    lengths = as_array("lengths", lengths)
    if is_dask_collection(lengths):
        return _lazy_lengths(positions, lengths, object_ids, attributes)
    if lengths.ndim != 1:
        raise InputError(f"lengths are integers of the shape (O,), not {lengths.dtype} {lengths.shape}")
    sizes = as_integers("lengths", lengths)
    if len(sizes) and int(sizes.min()) < 0:
        raise InputError(f"polyline {int(np.argmin(sizes))} has the length {sizes.min()}")
    ids = _ids_of_paths(object_ids, len(sizes))
    total = int(sizes.sum())
    if not is_dask_collection(positions):
        if total != len(positions):
            raise InputError(f"the lengths add up to {total:,} vertices, positions have {len(positions):,}")
        return PathInput(positions, attributes, np.repeat(ids, sizes), id_ranges(ids))
    chunks = positions.chunks[0]
    if any(np.isnan(c) for c in chunks):
        raise InputError(
            "the positions' partitions have unknown lengths: call positions.compute_chunk_sizes(), or pass object_ids= as a "
            "dask array with the object of each vertex"
        )
    if total != sum(chunks):
        raise InputError(f"the lengths add up to {total:,} vertices, positions have {int(sum(chunks)):,}")
    return PathInput(positions, attributes, None, id_ranges(ids), _in_lengths(ids, sizes, chunks))


def line_input(endpoints: Any, object_ids: Any, attributes: Any) -> PathInput:
    """Return lines as rows, two to a line."""
    endpoints = as_table(endpoints)
    if is_frame(endpoints):
        if object_ids is None:
            raise InputError("lines in a DataFrame need object_ids=, the name of the column with the line of each endpoint")
        return PathInput(endpoints, attributes, object_ids, None)
    points: Any = as_array("endpoints", endpoints)
    lazy = is_dask_collection(points)
    if points.ndim == 1 and not points.size and not lazy:
        points = points.reshape(0, 2, 0)
    if points.ndim != 3 or points.shape[1] != 2:
        raise InputError(f"lines are pairs of points, shape (N, 2, D), not {points.shape}")
    flat = {name: _flat_ends(name, values) for name, values in _named(attributes).items()}
    if not lazy:
        ids = _ids_of_paths(object_ids, len(points))
        return PathInput(
            points.reshape(2 * len(points), points.shape[2]) if len(points) else points.ravel(),
            flat,
            np.repeat(ids, 2),
            id_ranges(ids),
        )
    if any(np.isnan(c) for c in points.chunks[0]):
        raise InputError("the lines' partitions have unknown lengths: call endpoints.compute_chunk_sizes()")
    ids = _ids_of_paths(object_ids, points.shape[0])
    rows = points.rechunk({1: -1, 2: -1}).map_blocks(
        _flatten, dtype=points.dtype, drop_axis=1, chunks=(tuple(2 * c for c in points.chunks[0]), (points.shape[2],))
    )
    owners = _in_lengths(ids, np.full(len(ids), 2, np.int64), rows.chunks[0])
    return PathInput(rows, flat, None, id_ranges(ids), owners)


def _named(attributes: Any) -> Mapping[str, Any]:
    """Return attributes that come with arrays, not with a frame."""
    if attributes is not None and not isinstance(attributes, Mapping):
        raise InputError("attributes are a mapping of name to array where positions are arrays")
    return attributes or {}


def _flatten(block: NDArray[Any]) -> NDArray[Any]:
    return block.reshape(2 * len(block), *block.shape[2:])


def _flat_ends(name: str, values: Any) -> Any:
    """Return an attribute of endpoints, (N, 2) or (N, 2, C), as one of vertices."""
    attrs = attrs_of(f"attribute {name!r}", values)
    values = as_array(f"attribute {name!r}", values)
    if values.shape == (0,):
        return values
    if values.ndim not in (2, 3) or values.shape[1] != 2:
        raise InputError(f"attribute {name!r} has the shape {values.shape}: one value for each endpoint, (N, 2) or (N, 2, C)")
    if not is_dask_collection(values):
        return with_attrs(values.reshape(-1, *values.shape[2:]), attrs)
    rest = tuple((n,) for n in values.shape[2:])
    whole = values.rechunk(dict.fromkeys(range(1, values.ndim), -1))
    chunks = (tuple(2 * c for c in values.chunks[0]), *rest)
    return with_attrs(whole.map_blocks(_flatten, dtype=values.dtype, drop_axis=1, chunks=chunks), attrs)


def _listed(positions: Any) -> list[Any] | None:
    """Return paths that come one by one: in a list, an array of arrays, or an ArraySequence (nibabel, trx, dipy)."""
    if isinstance(positions, list | tuple) or getattr(positions, "is_array_sequence", False):
        return list(positions)
    kind = getattr(getattr(positions, "dtype", None), "kind", "")
    nested = kind == "O" and getattr(positions, "ndim", 0) == 1 and not is_dask_collection(positions)
    return list(positions) if nested else None


def _concatenate(paths: Sequence[Any], attributes: Any, lengths: Any) -> tuple[Any, Any, Any]:
    """Return a list of paths, each (n, D), as one table; attributes may be lists of the same form."""
    if lengths is not None:
        raise InputError("lengths are those of the listed polylines: leave them out, or pass one array of positions")
    parts = [in_memory(f"polyline {i}", p) for i, p in enumerate(paths)]
    width = next((p.shape[1] for p in parts if p.size and p.ndim == 2), 0)
    odd = next((i for i, p in enumerate(parts) if p.size and (p.ndim != 2 or p.shape[1] != width)), None)
    if odd is not None:
        raise InputError(f"polyline {odd} has the shape {parts[odd].shape}: each is a table of points, (n, D)")
    named: dict[str, Any] = {}
    for name, values in _named(attributes).items():
        if (listed := _listed(values)) and hasattr(listed[0], "__len__") and not isinstance(listed[0], str | bytes):
            pieces = [in_memory(f"attribute {name!r} of polyline {i}", v) for i, v in enumerate(listed)]
            wrong = next((i for i, (v, p) in enumerate(zip(pieces, parts, strict=False)) if v.shape[:1] != p.shape[:1]), None)
            if len(pieces) != len(parts) or wrong is not None:
                at = "" if wrong is None else f" at polyline {wrong}"
                raise InputError(f"attribute {name!r} does not fit the listed polylines{at}: one value for each vertex")
            attrs = attrs_of(f"attribute {name!r}", listed[0])
            values = with_attrs(np.concatenate([p for p in pieces if p.size] or pieces[:1]), attrs)
        named[name] = values
    filled = [p for p in parts if p.size]
    return np.concatenate(filled) if filled else np.zeros(0), named, [len(p) for p in parts]


def _ids_of_paths(object_ids: Any, count: int) -> NDArray[np.int64]:
    if object_ids is None:
        return np.arange(count, dtype=np.int64)
    given = from_objects("object_ids", in_memory("object_ids", object_ids))
    if given.shape != (count,) or (count and given.dtype.kind not in "iu"):
        told = f"{given.dtype} {given.shape}{hint('object_ids', given.dtype)}"
        raise InputError(f"object_ids are {count:,} integers, one for each, not {told}")
    ids = as_integers("object_ids", given)
    if count and int(ids.min()) < 0:
        raise InputError(f"object ids are between 0 and 2**63 - 1, found {ids.min()} to {ids.max()}")
    ordered = np.sort(ids)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        raise InputError(f"object id {ordered[twice[0]]} is given twice: ids are distinct")
    return ids


def _in_lengths(ids: NDArray[np.int64], sizes: NDArray[np.int64], chunks: Sequence[int]) -> Owners:
    """Return the paths of each of `chunks` rows: what a partition needs, where it is on a cluster."""
    ends = np.cumsum(sizes)
    parts: list[Any] = []
    first = 0
    for n in (int(c) for c in chunks):
        low, high = np.searchsorted(ends, first, "right"), np.searchsorted(ends, first + n, "left") + 1
        skip = first - (int(ends[low - 1]) if low else 0)
        parts.append((ids[low:high], sizes[low:high], skip))
        first += n
    pieces = pieces_of(parts)
    return lambda builder: [builder.payload(piece.held) for piece in pieces]


def _lazy_lengths(positions: Any, lengths: Any, object_ids: Any, attributes: Any) -> PathInput:
    """Return polylines whose lengths are a dask array, cut like the positions: a partition holds whole polylines."""
    if not is_dask_collection(positions):
        raise InputError("lengths are lazy and positions are not: make positions a dask array, or compute the lengths first")
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or any(np.isnan(c) for c in lengths.chunks[0]):
        raise InputError("lengths are a dask array of integers, shape (O,), with partitions of known lengths")
    if len(lengths.chunks[0]) != len(positions.chunks[0]):
        raise InputError(
            f"lengths have {len(lengths.chunks[0])} partitions, positions {len(positions.chunks[0])}: a partition of the one "
            "has the lengths of the polylines in a partition of the other"
        )
    starts = np.cumsum([0, *lengths.chunks[0]]).tolist()
    ids = _ids_of_paths(object_ids, starts[-1])

    def owners(builder: GraphBuilder) -> list[Any]:
        blocks = enumerate(zip(starts[:-1], starts[1:], block_delayeds(lengths), strict=True))
        return [Task(None, _computed, ids[a:b], builder.absorb(block, inline=True), a, i) for i, (a, b, block) in blocks]

    return PathInput(positions, attributes, None, id_ranges(ids), owners)


def _computed(ids: NDArray[np.int64], lengths: Any, first: int, partition: int) -> tuple[Any, NDArray[np.int64], int]:
    """Return the paths of a partition whose lengths, from number `first` on, were lazy."""
    what = f"partition {partition}: lengths"
    sizes = as_integers(what, in_memory(what, lengths))
    if len(sizes) and int(sizes.min()) < 0:
        raise InputError(f"polyline {first + int(np.argmin(sizes))} has the length {sizes.min()}")
    if len(sizes) != len(ids):
        raise InputError(f"partition {partition}: {len(sizes):,} lengths where the dask array declares {len(ids):,}")
    return ids, sizes, -1


def with_owners(partitions: Partitions, owners: Owners) -> Partitions:
    """Return partitions whose rows have the objects that the lengths of paths tell."""

    def arguments(builder: GraphBuilder) -> list[Any]:
        parts = zip(owners(builder), partitions.arguments(builder), strict=True)
        return [Task(None, _owned, i, paths, part) for i, (paths, part) in enumerate(parts)]

    return replace(partitions, arguments=arguments, integers=("object_ids",))


def _owned(number: int, paths: tuple[NDArray[np.int64], NDArray[np.int64], int], part: RawPart) -> RawPart:
    ids, sizes, skip = paths
    n = len(part.table)
    if skip < 0 and int(sizes.sum()) != n:
        raise InputError(f"partition {number}: the lengths add up to {int(sizes.sum()):,} vertices, positions have {n:,}")
    first = max(skip, 0)
    return replace(part, integers={"object_ids": np.repeat(ids, sizes)[first : first + n]})


# ---------------------------------------------------------------------------------------------- order


def sort_paths(paths: PathInput, sort_by: Any, axes: tuple[str, ...]) -> PathInput:
    """Return paths whose rows are those of one object after the other, each in the order of `sort_by`.

    Rows that are equal in it stay in the order of the input.

    Rows of an object may lie apart. `sort_by` names a column, an axis or an attribute, or has a value for each row: numbers or
    dates.
    """
    positions, ids, attributes = paths.positions, paths.object_ids, paths.attributes
    if is_frame(positions) and is_dask_collection(positions):
        if not (isinstance(sort_by, str) and isinstance(ids, str)) or isinstance(attributes, Mapping) or is_frame(attributes):
            raise InputError("sort_by and object_ids are the names of columns where positions are a Dask DataFrame")
        _check_column(positions, sort_by)
        return replace(paths, positions=_shuffled(positions, ids, sort_by))
    if any(is_dask_collection(v) for v in (positions, ids, sort_by)):
        raise InputError("sort_by sorts by columns: pass a Dask DataFrame, or sort the dask arrays first")
    owners, _ = take_integers(positions, ids, "object_ids")
    order = row_order(_key(positions, attributes, sort_by, axes), owners, "sort_by")
    if isinstance(attributes, Mapping):
        attributes = {name: _in_order(f"attribute {name!r}", values, order) for name, values in attributes.items()}
    elif is_frame(attributes):
        attributes = attributes.iloc[order]
    positions = positions.iloc[order] if is_frame(positions) else np.asarray(positions)[order]
    return replace(paths, positions=positions, object_ids=ids if isinstance(ids, str) else owners[order], attributes=attributes)


def row_order(key: NDArray[Any], owners: NDArray[np.int64], what: str) -> NDArray[np.intp]:
    """Return the order of rows by owner, then by key, then as they are."""
    if key.ndim != 1 or key.dtype.kind not in "biufmM":
        raise InputError(f"{what} is a number or a date for each row, not {key.dtype} {key.shape}")
    if len(key) != len(owners):
        raise InputError(f"{what} has {len(key):,} rows, positions have {len(owners):,}")
    nowhere = np.isnat(key) if key.dtype.kind in "mM" else np.isnan(key) if key.dtype.kind == "f" else np.zeros(0, bool)
    if nowhere.any():
        raise InputError(f"{what}: row {int(np.argmax(nowhere))} is {key[np.argmax(nowhere)]}, which cannot be ordered")
    return np.lexsort((key, owners))


def _key(positions: Any, attributes: Any, sort_by: Any, axes: tuple[str, ...]) -> NDArray[Any]:
    if not isinstance(sort_by, str):
        return np.asarray(as_array("sort_by", sort_by))
    for table in (positions, attributes):
        if is_frame(table) and sort_by in table.columns:
            return in_memory(f"column {sort_by!r}", table[sort_by])
    if isinstance(attributes, Mapping) and sort_by in attributes:
        return np.asarray(as_array(f"attribute {sort_by!r}", attributes[sort_by]))
    if not is_frame(positions) and sort_by in axes and np.ndim(positions) == 2:
        return np.asarray(positions)[:, axes.index(sort_by)]
    raise InputError(f"sort_by={sort_by!r} is no column, axis or attribute")


def _in_order(what: str, values: Any, order: NDArray[np.intp]) -> Any:
    column = as_array(what, values)
    if is_dask_collection(column) or not column.ndim or len(column) != len(order):
        return values  # an error of its own follows
    return with_attrs(column[order], attrs_of(what, values))


# ---------------------------------------------------------------------------------------------- dask DataFrames


def _check_column(frame: Any, column: str) -> None:
    if column not in frame.columns:
        raise unknown_column(column, frame.columns, " for sort_by")


def _shuffled(frame: Any, ids: str, sort_by: str) -> Any:
    """Return a dask DataFrame with all rows of an object in one partition, sorted."""
    import dask.dataframe as dd
    from dask.dataframe.dispatch import make_meta
    from dask.delayed import delayed

    if ids not in frame.columns:
        raise unknown_column(ids, frame.columns, " for object_ids")
    meta = make_meta(frame)
    number = delayed(_numbered, pure=True)
    parts = [number(part, i, (ids, sort_by)) for i, part in enumerate(frame.to_delayed())]
    numbered = dd.from_delayed(parts, meta=_numbered(meta, 0, ()), verify_meta=False)
    # by tasks: the rows of a partition must be the same each time it is made, on every scheduler
    together = numbered.shuffle(on=ids, shuffle_method="tasks")
    return together.map_partitions(_sorted, ids, sort_by, meta=meta)


def _numbered(part: Any, number: int, needed: Sequence[str]) -> Any:
    for column in needed:
        column_of(part, column, f"partition {number}: ")
    return part.assign(**{_ROW: (number << 40) + np.arange(len(part))})


def _sorted(part: Any, ids: str, sort_by: str) -> Any:
    part = part.sort_values(_ROW)
    order = row_order(series_values(sort_by, part[sort_by]), in_memory(ids, part[ids]), f"column {sort_by!r}")
    return part.iloc[order].drop(columns=_ROW)
