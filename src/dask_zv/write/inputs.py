"""What users hand to a writing function, as partitions of one shape.

What is in memory is cut into slices; dask arrays and dataframes keep their partitions. Each partition becomes an argument for
a task that evaluates to a :class:`RawPart`. What may be given is the matter of :mod:`.containers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from dask.base import is_dask_collection
from dask.task_spec import List, Task
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import InputError
from dask_zv.geometry.schema import check_attribute_name
from dask_zv.graph.builder import GraphBuilder, block_delayeds
from dask_zv.graph.keeping import Kept, nbytes_of
from dask_zv.graph.run import hold_on_workers
from dask_zv.write.containers import (
    KINDS,
    as_array,
    as_integers,
    as_table,
    attrs_of,
    column_of,
    declared_categories,
    frame_arrays,
    in_memory,
    is_frame,
    is_series,
    numeric_dtype,
    position_attrs,
    series_values,
    stacked,
)

INTEGERS = ("object_ids", "vertex_ids", "parents")
"""What a vertex can have besides its attributes: its object, its name, the name of its parent."""


@dataclass(frozen=True, slots=True, eq=False)
class RawPart:
    """One partition as it came.

    Attributes
    ----------
    positions : ndarray, shape (n, D)
    attributes : dict of str to ndarray, shape (n,) or (n, C)
    integers : dict of str to ndarray, shape (n,)
        Those of :data:`INTEGERS` that were given.
    """

    positions: NDArray[Any]
    attributes: dict[str, NDArray[Any]]
    integers: dict[str, NDArray[Any]]

    def __sizeof__(self) -> int:
        return nbytes_of(self)


@dataclass(frozen=True, slots=True)
class AttributeInput:
    """What is known of an attribute before any of it is read.

    Attributes
    ----------
    name : str
    dtype : dtype
        Of the values; object for strings.
    channels : int, optional
    categories : tuple of str, optional
        Declared in an order that means something (an ordered pandas category).
    attrs : mapping
        Units and the like, as JSON values.
    """

    name: str
    dtype: np.dtype[Any]
    channels: int | None = None
    categories: tuple[str, ...] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def is_dictionary(self) -> bool:
        """True for strings, which are stored as codes."""
        return self.dtype.kind not in KINDS


@dataclass(frozen=True, slots=True, eq=False)
class Partitions:
    """The input, cut.

    Attributes
    ----------
    arguments : function of GraphBuilder
        Returns one task argument per partition, each evaluating to a :class:`RawPart`.
    count : int
    dtype : dtype
        Of the positions.
    attributes : tuple of AttributeInput
    integers : tuple of str
        Those of :data:`INTEGERS` that the parts have.
    whole : mapping of str to ndarray, shape (N,)
        These, where the input is in memory.
    nbytes : int, optional
        Of all parts, where that is known before they are made.
    kept : Kept, optional
        What holds the parts, where the scan has kept them.
    attrs : mapping
        Units and the like of the positions, as JSON values.
    """

    arguments: Callable[[GraphBuilder], list[Any]]
    count: int
    dtype: np.dtype[Any]
    attributes: tuple[AttributeInput, ...]
    integers: tuple[str, ...]
    whole: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    nbytes: int | None = None
    kept: Kept | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def has_ids(self) -> bool:
        """True where vertices have objects."""
        return "object_ids" in self.integers


def partition_input(
    positions: Any, attributes: Any, axes: tuple[str, ...], consumed: Sequence[str] = (), *, attrs: Any = None, **integers: Any
) -> Partitions:
    """Return the partitions of an input.

    Parameters
    ----------
    positions : array_like or dask array (N, D), or a table (pandas, dask, pyarrow) with the axes as columns
    attributes : mapping of name to column (N,) or (N, C), table, sequence of column names, or None
        Where `positions` is a table: names of its columns, or None for all others than the axes and the ids.
    axes : tuple of str
    consumed : sequence of str
        Columns of a frame that the caller has made use of: no attributes, unless they are named.
    attrs : mapping, optional
        Of the positions; what they carry themselves where None.
    **integers : column (N,), or a column's name, or None
        Any of :data:`INTEGERS`.

    Raises
    ------
    InputError
        Shapes, lengths or columns don't fit, or values are missing that their dtype can't call missing.
    """
    attrs = position_attrs(positions) if attrs is None else attrs
    made = _partitions(as_table(positions), as_table(attributes), axes, consumed, integers)
    return replace(made, attrs=attrs) if attrs else made


def _partitions(
    positions: Any, attributes: Any, axes: tuple[str, ...], consumed: Sequence[str], integers: Mapping[str, Any]
) -> Partitions:
    given = {k: v for k, v in integers.items() if v is not None}
    if is_frame(positions):
        beside = is_frame(attributes) or isinstance(attributes, Mapping)
        names = _check_frame(positions, [] if beside else attributes, given, axes, consumed)
        if not beside and is_dask_collection(positions):
            return _from_frame(positions, names, given, axes)
        if is_frame(attributes):
            _check_same_rows(positions, attributes)
        named: Any = attributes if beside else frame_arrays(positions, {n: n for n in names})
        columns = {k: v for k, v in given.items() if isinstance(v, str)}
        given |= frame_arrays(positions, columns)
        for name, column in {**(named if isinstance(named, Mapping) else {}), **given}.items():
            if is_series(column) and is_dask_collection(column) == is_dask_collection(positions):
                _check_same_index(positions, column, f"{name!r}")
        positions = stacked(frame_arrays(positions, {a: a for a in axes}))
    elif attributes is not None and not (isinstance(attributes, Mapping) or is_frame(attributes)):
        raise InputError("attributes are a mapping of name to array where positions are an array")
    else:
        named = attributes
        for name, value in given.items():
            if isinstance(value, str):
                raise InputError(f"{name}={value!r} names a column, but positions are no DataFrame: pass the array")
    if is_frame(named):
        named = frame_arrays(named, {n: n for n in named.columns})
    named = {check_attribute_name(k, axes): v for k, v in (named or {}).items()}
    points = as_array("positions", positions)
    if is_dask_collection(points):
        return _from_dask_arrays(points, named, given, axes)
    lazy = [k for k, v in {**named, **given}.items() if is_dask_collection(v)]
    if lazy:
        raise InputError(f"{lazy[0]!r} is lazy and positions are not: make positions a dask array, or compute it first")
    return _from_numpy(points, named, given, axes)


def _check_same_rows(positions: Any, attributes: Any) -> None:
    """Refuse two frames that pandas would align."""
    if is_dask_collection(positions) != is_dask_collection(attributes):
        raise InputError("positions and attributes are both DataFrames of Dask, or both of pandas: compute one of them")
    repeated = [c for c in attributes.columns if list(attributes.columns).count(c) > 1]
    if repeated:
        raise InputError(f"several columns of attributes have the name {repeated[0]!r}: rename or drop all but one")
    _check_same_index(positions, attributes, "attributes")


def _check_same_index(positions: Any, column: Any, what: str) -> None:
    same = positions.divisions == column.divisions if is_dask_collection(positions) else positions.index.equals(column.index)
    if not same:
        raise InputError(
            f"the rows of positions and of {what} have different indexes: bring both into one order, such as with "
            ".reindex(positions.index), or drop both indexes with reset_index(drop=True)"
        )


# ---------------------------------------------------------------------------------------------- in memory


def _from_numpy(
    points: NDArray[Any], attributes: Mapping[str, Any], integers: Mapping[str, Any], axes: tuple[str, ...]
) -> Partitions:
    if points.ndim == 1 and not points.size:
        points = np.zeros((0, len(axes)), points.dtype if points.dtype.kind in "iuf" else float)
    points = _check_positions(points, axes)
    n = len(points)
    values = {k: _as_column(k, v) for k, v in attributes.items()}
    whole = {k: _ids(k, k, v) for k, v in integers.items()}
    for name, column in [*values.items(), *whole.items()]:
        if len(column) != n:
            raise InputError(f"{name!r} has {len(column):,} rows, positions have {n:,}")
    specs = tuple(_describe(k, v, attributes[k]) for k, v in values.items())
    row_bytes = (points.nbytes + sum(v.nbytes for v in [*values.values(), *whole.values()])) // max(n, 1) + 8
    step = max(1, settings().partition_bytes // row_bytes)
    slices = [slice(i, i + step) for i in range(0, n, step)] or [slice(0, 0)]
    parts = [RawPart(points[s], {k: v[s] for k, v in values.items()}, {k: v[s] for k, v in whole.items()}) for s in slices]
    held = hold_on_workers(parts)
    return Partitions(lambda builder: [builder.payload(h) for h in held], len(parts), points.dtype, specs, tuple(whole), whole)


def _check_positions(points: Any, axes: tuple[str, ...]) -> Any:
    if points.ndim != 2 or points.shape[1] != len(axes):
        raise InputError(f"positions must have the shape (N, {len(axes)}) for the axes {', '.join(axes)}, not {points.shape}")
    if points.dtype.kind not in "iuf":
        raise InputError(f"positions are integers or floats, not {points.dtype}")
    return points


def _ids(what: str, name: str, values: Any) -> NDArray[np.int64]:
    """Return ids in memory; the scan looks at their range."""
    try:
        given = as_array(what, values)
        if given.ndim != 1:
            raise InputError(f"{what} must have the shape (N,), not {given.shape}")
        return as_integers(what, given)
    except InputError as error:
        raise InputError(f"{error.message}{_hint(name)}") from None


def _as_column(name: str, values: Any) -> NDArray[Any]:
    column = as_array(f"attribute {name!r}", values)
    _check_column(name, column.dtype, column.ndim, column.shape)
    return np.asarray(column)


def _check_column(name: str, dtype: np.dtype[Any], ndim: int, shape: tuple[Any, ...]) -> None:
    if ndim not in (1, 2) or (ndim == 2 and not shape[1] >= 1):
        raise InputError(f"attribute {name!r} has the shape {shape}: one value (N,) or C channels (N, C) per vertex are wanted")
    if dtype.kind not in KINDS + "OUST":
        raise InputError(f"attribute {name!r} has the dtype {dtype}: numbers, booleans, dates and strings can be stored")
    if dtype.kind in "OUST" and ndim != 1:
        raise InputError(f"attribute {name!r} holds strings with {ndim} dimensions: categories are one per vertex")
    if dtype.kind in "mM" and np.datetime_data(dtype)[0] == "generic":
        raise InputError(f"attribute {name!r} has the dtype {dtype} without a unit: give one, such as datetime64[ns]")


def _describe(name: str, column: Any, original: Any) -> AttributeInput:
    dtype = column.dtype if column.dtype.kind in KINDS else np.dtype(object)
    channels = int(column.shape[1]) if column.ndim == 2 else None
    attrs = attrs_of(f"attribute {name!r}", original)
    return AttributeInput(name, dtype, channels, declared_categories(original), attrs)


# ---------------------------------------------------------------------------------------------- dask arrays


def _from_dask_arrays(
    positions: Any, attributes: Mapping[str, Any], integers: Mapping[str, Any], axes: tuple[str, ...]
) -> Partitions:
    _check_positions(positions, axes)
    points = positions.rechunk({1: -1}) if len(positions.chunks[1]) > 1 else positions
    lengths = points.chunks[0]
    known = not any(np.isnan(c) for c in lengths)
    columns: dict[str, Any] = {}
    for name, values in {**attributes, **integers}.items():
        columns[name] = _aligned(name, as_array(name, values), lengths, known)
    for name in integers:
        if columns[name].ndim != 1:
            raise InputError(f"{name} must have the shape (N,), not {columns[name].shape}")
        if columns[name].dtype.kind not in "iu":
            raise InputError(f"{name} are integers, not {columns[name].dtype}{_hint(name)}")
    specs = []
    for name in attributes:
        _check_column(name, columns[name].dtype, columns[name].ndim, columns[name].shape)
        specs.append(_describe(name, columns[name], attributes[name]))
    names, others = tuple(attributes), tuple(integers)

    def arguments(builder: GraphBuilder) -> list[Any]:
        blocks = {n: _blocks(builder, columns[n]) for n in columns}
        return [
            Task(None, _load_arrays, number, point, names, others, List(*(blocks[n][number] for n in (*names, *others))))
            for number, point in enumerate(_blocks(builder, points))
        ]

    total = sum(float(a.size * a.dtype.itemsize) for a in (points, *columns.values()))
    nbytes = None if np.isnan(total) else int(total)  # a column's lengths may be unknown where those of positions are not
    return Partitions(arguments, len(lengths), points.dtype, tuple(specs), others, nbytes=nbytes)


def _aligned(name: str, values: Any, lengths: Sequence[float], known: bool) -> Any:
    """Return a column cut like the positions."""
    if not is_dask_collection(values):
        if not known:
            raise InputError(
                f"{name!r} is in memory and the positions' partitions have unknown lengths: call "
                "positions.compute_chunk_sizes(), or make it a dask array of the same partitions"
            )
        import dask.array as da

        if name in INTEGERS:
            values = _ids(name, name, values)
        if not values.ndim or len(values) != sum(lengths):
            raise InputError(f"{name!r} has {len(values) if values.ndim else 1:,} rows, positions have {int(sum(lengths)):,}")
        return da.from_array(values, chunks=(tuple(lengths), *values.shape[1:]))
    if values.ndim == 2 and len(values.chunks[1]) > 1:
        values = values.rechunk({1: -1})
    mine = values.chunks[0]
    if known and not any(np.isnan(c) for c in mine):
        if sum(mine) != sum(lengths):
            raise InputError(f"{name!r} has {int(sum(mine)):,} rows, positions have {int(sum(lengths)):,}")
        return values if tuple(mine) == tuple(lengths) else values.rechunk({0: tuple(lengths)})
    if len(mine) != len(lengths):
        raise InputError(
            f"{name!r} has {len(mine)} partitions, positions have {len(lengths)}, and lengths are unknown: make them agree, or "
            "call compute_chunk_sizes()"
        )
    return values


def _blocks(builder: GraphBuilder, array: Any) -> list[Any]:
    return [builder.absorb(d, inline=True) for d in block_delayeds(array)]


def _load_arrays(number: int, positions: Any, names: Sequence[str], others: Sequence[str], columns: Sequence[Any]) -> RawPart:
    where = f"partition {number}: "
    points = in_memory(f"{where}positions", positions)
    values = {n: in_memory(f"{where}{n!r}", c) for n, c in zip(names, columns, strict=False)}
    values |= {n: _ids(f"{where}{n}", n, c) for n, c in zip(others, columns[len(names) :], strict=True)}
    for name, column in values.items():
        if not column.ndim or len(column) != len(points):
            raise InputError(f"{where}{name!r} has {len(column) if column.ndim else 1:,} rows, positions have {len(points):,}")
    return RawPart(points, {n: values[n] for n in names}, {n: values[n] for n in others})


# ---------------------------------------------------------------------------------------------- frames


def _check_frame(
    frame: Any, attributes: Any, given: Mapping[str, Any], axes: tuple[str, ...], consumed: Sequence[str]
) -> list[str]:
    """Return the columns that are attributes, of a frame that has all that it is said to have."""
    integers = {name: column for name, column in given.items() if isinstance(column, str)}
    arrays = [name for name in given if name not in integers]
    if arrays and (is_dask_collection(frame) or any(is_dask_collection(given[name]) for name in arrays)):
        raise InputError(f"{arrays[0]} is the name of a column where positions are a Dask DataFrame")
    columns = [c for c in frame.columns if isinstance(c, str)]
    repeated = sorted({c for c in columns if columns.count(c) > 1})
    if repeated:
        raise InputError(f"several columns have the name {repeated[0]!r}: rename or drop all but one")
    unnamed = [c for c in frame.columns if not isinstance(c, str)]
    if unnamed and attributes is None:
        raise InputError(f"column {unnamed[0]!r}: attributes are named by strings; rename it, or list those to store")
    missing = [a for a in axes if a not in columns]
    if missing:
        raise InputError(f"unknown column {missing[0]!r}: the axes are {', '.join(axes)}, the columns {', '.join(columns)}")
    for name, column in integers.items():
        if column not in columns:
            raise InputError(f"unknown column {column!r} for {name}: the columns are {', '.join(columns)}")
    if attributes is None:
        names = [c for c in columns if c not in axes and c not in integers.values() and c not in consumed]
    elif isinstance(attributes, str):
        raise InputError("attributes is a list of column names where positions are a DataFrame")
    else:
        names = list(dict.fromkeys(str(n) for n in attributes))
    unknown = [n for n in names if n not in columns]
    if unknown:
        raise InputError(f"unknown column {unknown[0]!r}: the columns are {', '.join(columns)}")
    for axis in axes:
        _position_column(axis, frame.dtypes[axis])
    for name, column in integers.items():
        if numeric_dtype(frame.dtypes[column]).kind not in "iu" and (is_dask_collection(frame) or len(frame)):
            raise InputError(f"{name} {column!r} are integers, not {frame.dtypes[column]}{_hint(name)}")
    return names


def _from_frame(frame: Any, names: Sequence[str], given: Mapping[str, str], axes: tuple[str, ...]) -> Partitions:
    """Return the partitions of a dask DataFrame."""
    specs = tuple(_describe_column(check_attribute_name(n, axes), frame.dtypes[n]) for n in names)
    dtype = np.result_type(*(_position_column(a, frame.dtypes[a]) for a in axes))
    delayed = frame.to_delayed()

    def arguments(builder: GraphBuilder) -> list[Any]:
        return [
            Task(None, _load_frame, i, builder.absorb(d, inline=True), axes, specs, dict(given)) for i, d in enumerate(delayed)
        ]

    return Partitions(arguments, len(delayed), dtype, specs, tuple(given))


def _hint(name: str) -> str:
    return ": roots are -1, so fill what is missing, such as with .fillna(-1).astype(int)" if name == "parents" else ""


def _position_column(name: str, dtype: Any) -> np.dtype[Any]:
    found = numeric_dtype(dtype)
    if found.kind not in "iuf":
        raise InputError(f"column {name!r} is an axis: integers or floats are wanted, not {dtype}")
    return found


def _describe_column(name: str, dtype: Any) -> AttributeInput:
    try:
        found = numeric_dtype(dtype)
    except InputError as error:
        raise InputError(f"attribute {name!r}: {error.message}") from None
    _check_column(name, found, 1, (0,))
    return AttributeInput(name, found if found.kind in KINDS else np.dtype(object), None, declared_categories(dtype))


def _load_frame(
    number: int, frame: Any, axes: Sequence[str], specs: Sequence[AttributeInput], integers: Mapping[str, str]
) -> RawPart:
    where = f"partition {number}: "

    def column(name: str) -> NDArray[Any]:
        return series_values(name, column_of(frame, name, ""))

    try:
        # not cast to what was declared: the scan looks whether a cast would move them
        points = np.stack([column(a) for a in axes], axis=1)
        values = {s.name: column(s.name) for s in specs}
        return RawPart(
            points, values, {k: _ids(f"{k} (column {c!r})", k, column_of(frame, c, "")) for k, c in integers.items()}
        )
    except InputError as error:
        raise InputError(f"{where}{error.message}") from None
