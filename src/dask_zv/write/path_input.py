"""Polylines and lines as users have them: paths one after the other, or vertices that say which path they are of.

Everything becomes rows with the object of each: then rows that follow each other and have one object are its path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from dask.base import is_dask_collection
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.graph.builder import block_delayeds, refuse_expressions
from dask_zv.graph.run import hold_if_large
from dask_zv.write.containers import (
    as_array,
    as_integers,
    as_table,
    attrs_of,
    from_objects,
    in_memory,
    is_frame,
    with_attrs,
)
from dask_zv.write.scan import Scan, id_ranges


@dataclass(frozen=True, slots=True, eq=False)
class PathInput:
    """Paths as rows.

    Attributes
    ----------
    positions, attributes
        As :func:`~dask_zv.write.inputs.partition_input` takes them.
    object_ids : array (N,), or a column's name
    objects : ndarray of int64, shape (m, 2), optional
        Ranges of the ids of all paths, also of those without vertices; None where the rows are all that is known.
    """

    positions: Any
    attributes: Any
    object_ids: Any
    objects: NDArray[np.int64] | None


def path_input(positions: Any, lengths: Any, object_ids: Any, attributes: Any) -> PathInput:
    """Return polylines as rows.

    Raises
    ------
    InputError
        Lengths, ids and positions don't fit each other.
    """
    positions = as_table(positions)
    if is_frame(positions):
        if lengths is not None:
            raise InputError(
                "lengths are for arrays: in a DataFrame a column of object ids says which rows are of one polyline"
            )
        if object_ids is None:
            raise InputError("polylines in a DataFrame need object_ids=, the name of the column that says whose each vertex is")
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
    return PathInput(positions, attributes, _repeated(ids, sizes, chunks), id_ranges(ids))


def line_input(endpoints: Any, object_ids: Any, attributes: Any) -> PathInput:
    """Return lines as rows, two to a line.

    Raises
    ------
    InputError
        Not pairs of points.
    """
    endpoints = as_table(endpoints)
    if is_frame(endpoints):
        if object_ids is None:
            raise InputError("lines in a DataFrame need object_ids=, the name of the column that says whose each endpoint is")
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
    owners = _repeated(ids, np.full(len(ids), 2, np.int64), rows.chunks[0])
    return PathInput(rows, flat, owners, id_ranges(ids))


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
        raise InputError(f"object_ids are {count:,} integers, one for each, not {given.dtype} {given.shape}")
    ids = as_integers("object_ids", given)
    if count and int(ids.min()) < 0:
        raise InputError(f"object ids are between 0 and 2**63 - 1, found {ids.min()} to {ids.max()}")
    ordered = np.sort(ids)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        raise InputError(f"object id {ordered[twice[0]]} is given twice: ids are distinct")
    return ids


def _repeated(ids: NDArray[np.int64], sizes: NDArray[np.int64], chunks: Sequence[int]) -> Any:
    """Return a dask array of the object of each row, cut like `chunks`: a task holds what its partition needs."""
    import dask.array as da
    from dask.delayed import delayed

    refuse_expressions("paths of a Dask array that are told by their lengths")
    make = delayed(_object_of_rows, pure=True)
    ends = np.cumsum(sizes)
    parts: list[Any] = []
    first = 0
    for n in (int(c) for c in chunks):
        low, high = np.searchsorted(ends, first, "right"), np.searchsorted(ends, first + n, "left") + 1
        skip = first - (int(ends[low - 1]) if low else 0)
        piece = hold_if_large((ids[low:high], sizes[low:high]), 16 * int(high - low))
        parts.append(da.from_delayed(make(piece, skip, n), (n,), np.int64))
        first += n
    return da.concatenate(parts) if parts else da.zeros((0,), np.int64)


def _object_of_rows(piece: tuple[NDArray[np.int64], NDArray[np.int64]], skip: int, count: int) -> NDArray[np.int64]:
    ids, sizes = piece
    return np.repeat(ids, sizes)[skip : skip + count]


def _lazy_lengths(positions: Any, lengths: Any, object_ids: Any, attributes: Any) -> PathInput:
    """Return polylines whose lengths are a dask array, cut like the positions: a partition holds whole polylines."""
    import dask.array as da
    from dask.delayed import delayed

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
    refuse_expressions("paths of a Dask array that are told by their lengths")
    make = delayed(_object_of_partition, pure=True)
    blocks = zip(starts[:-1], starts[1:], block_delayeds(lengths), positions.chunks[0], strict=True)
    parts = [
        da.from_delayed(make(ids[a:b], block, a, i, None if np.isnan(size) else size), (size,), np.int64)
        for i, (a, b, block, size) in enumerate(blocks)
    ]
    return PathInput(positions, attributes, da.concatenate(parts, allow_unknown_chunksizes=True), id_ranges(ids))


def _object_of_partition(
    ids: NDArray[np.int64], lengths: NDArray[Any], first: int, partition: int, rows: int | None
) -> NDArray[np.int64]:
    """Return the object of each row of a partition, whose polylines from number `first` on have these lengths."""
    what = f"partition {partition}: lengths"
    lengths = as_integers(what, in_memory(what, lengths))
    if len(lengths) and int(lengths.min()) < 0:
        raise InputError(f"polyline {first + int(np.argmin(lengths))} has the length {lengths.min()}")
    if rows is not None and int(lengths.sum()) != rows:
        raise InputError(
            f"partition {partition}: the lengths add up to {int(lengths.sum()):,} vertices, positions have {rows:,}"
        )
    if len(lengths) != len(ids):
        raise InputError(f"partition {partition}: {len(lengths):,} lengths where the dask array declares {len(ids):,}")
    return np.repeat(ids, lengths)


def check_paths(scan: Scan, lines: bool) -> None:
    """Raise :class:`InputError` where the rows of an object don't follow each other, or a line has not two.

    Parameters
    ----------
    scan : Scan
    lines : bool
        Objects are lines.
    """
    parts = [scan.parts[p] for p in sorted(scan.parts) if scan.parts[p].rows]
    joins = sum(a.ends[1] == b.ends[0] for a, b in pairwise(parts))
    runs = sum(p.n_runs for p in parts) - joins
    distinct = int((scan.ids[:, 1] - scan.ids[:, 0]).sum())
    if runs != distinct:
        raise InputError(
            f"the vertices of {distinct:,} objects come in {runs:,} runs: those of one polyline must follow each other, in the "
            "order of its path; sort the table by its ids first (stably), or pass sort_by= (such as the column of time)"
        )
    if not lines:
        return
    open_run = 0
    for i, part in enumerate(parts):
        if any(n not in (0, 2) for n in part.runs[1:3]):
            raise InputError("a line has other than two endpoints: write_polylines takes paths of any length")
        whole = [part.runs[0]] if part.n_runs == 1 else [part.runs[0], part.runs[3]]
        goes_on = i > 0 and parts[i - 1].ends[1] == part.ends[0]
        if open_run and not goes_on and open_run != 2:
            raise InputError(f"line {parts[i - 1].ends[1]} has {open_run} endpoints, not two")
        first = whole[0] + (open_run if goes_on else 0)
        if len(whole) == 1:
            open_run = first
            continue
        if first != 2:
            raise InputError(f"line {part.ends[0]} has {first} endpoints, not two")
        open_run = whole[1]
    if open_run not in (0, 2):
        raise InputError(f"line {parts[-1].ends[1]} has {open_run} endpoints, not two")
