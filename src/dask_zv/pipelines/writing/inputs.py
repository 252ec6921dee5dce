"""What users hand to a writing function, as partitions of one shape.

numpy arrays and pandas frames are cut into slices; dask arrays and dataframes keep their partitions. Each partition becomes
an argument for a task that evaluates to a :class:`RawPart`. pandas is only touched where a frame was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from dask.base import is_dask_collection
from dask.task_spec import List, Task
from numpy.typing import NDArray

from dask_zv.batch.arrays import block_delayeds
from dask_zv.batch.graph import GraphBuilder
from dask_zv.batch.keeping import Kept, nbytes_of
from dask_zv.batch.run import hold_on_workers
from dask_zv.errors import InputError
from dask_zv.geometry.schema import check_attribute_name

__all__ = [
    "INTEGERS",
    "AttributeInput",
    "Partitions",
    "RawPart",
    "is_frame",
    "numeric_dtype",
    "partition_input",
    "series_values",
]

INTEGERS = ("object_ids", "vertex_ids", "parents")
"""What a vertex can have besides its attributes: its object, its name, the name of its parent."""
_PARTITION_BYTES = 32 << 20
_KINDS = "biufcmM"


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
    """

    name: str
    dtype: np.dtype[Any]
    channels: int | None = None
    categories: tuple[str, ...] | None = None

    @property
    def is_dictionary(self) -> bool:
        """True for strings, which are stored as codes."""
        return self.dtype.kind not in _KINDS


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
    """

    arguments: Callable[[GraphBuilder], list[Any]]
    count: int
    dtype: np.dtype[Any]
    attributes: tuple[AttributeInput, ...]
    integers: tuple[str, ...]
    whole: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    nbytes: int | None = None
    kept: Kept | None = None

    @property
    def has_ids(self) -> bool:
        """True where vertices have objects."""
        return "object_ids" in self.integers


def partition_input(
    positions: Any, attributes: Any, axes: tuple[str, ...], consumed: Sequence[str] = (), **integers: Any
) -> Partitions:
    """Return the partitions of an input.

    Parameters
    ----------
    positions : ndarray (N, D), dask array (N, D), pandas or dask DataFrame with the axes as columns
    attributes : mapping, DataFrame, sequence of column names, or None
        A mapping of name to array (N,) or (N, C). Where `positions` is a frame: names of its columns; all others than the
        axes and the ids where None.
    axes : tuple of str
    consumed : sequence of str
        Columns of a frame that the caller has made use of: no attributes, unless they are named.
    **integers : array (N,), or a column's name, or None
        Any of :data:`INTEGERS`.

    Raises
    ------
    InputError
        Shapes, lengths or columns don't fit.
    """
    given = {k: v for k, v in integers.items() if v is not None}
    if is_frame(positions):
        return _from_frame(positions, attributes, given, axes, consumed)
    if is_frame(attributes):
        raise InputError(
            "attributes are a DataFrame and positions are not: pass the frame as positions, or a mapping of arrays"
        )
    if attributes is not None and not isinstance(attributes, Mapping):
        raise InputError("attributes are a mapping of name to array where positions are an array")
    for name, value in given.items():
        if isinstance(value, str):
            raise InputError(f"{name}={value!r} names a column, but positions are no DataFrame: pass the array")
    named = {check_attribute_name(k, axes): v for k, v in (attributes or {}).items()}
    if is_dask_collection(positions):
        return _from_dask_arrays(positions, named, given, axes)
    lazy = [k for k, v in {**named, **given}.items() if is_dask_collection(v)]
    if lazy:
        raise InputError(f"{lazy[0]!r} is lazy and positions are not: make positions a dask array, or compute it first")
    return _from_numpy(positions, named, given, axes)


def is_frame(value: Any) -> bool:
    """Tell whether a value is a pandas or a dask DataFrame."""
    return hasattr(value, "columns") and hasattr(value, "dtypes") and hasattr(value, "iloc")


# ---------------------------------------------------------------------------------------------- numpy


def _from_numpy(
    positions: Any, attributes: Mapping[str, Any], integers: Mapping[str, Any], axes: tuple[str, ...]
) -> Partitions:
    points = _check_positions(as_array("positions", positions), axes)
    n = len(points)
    values = {k: _as_column(k, v) for k, v in attributes.items()}
    whole = {k: _check_integers(k, as_array(k, v)) for k, v in integers.items()}
    for name, column in [*values.items(), *whole.items()]:
        if len(column) != n:
            raise InputError(f"{name!r} has {len(column):,} rows, positions have {n:,}")
    specs = tuple(_describe(k, v, attributes[k]) for k, v in values.items())
    row_bytes = (points.nbytes + sum(v.nbytes for v in [*values.values(), *whole.values()])) // max(n, 1) + 8
    step = max(1, _PARTITION_BYTES // row_bytes)
    slices = [slice(i, i + step) for i in range(0, n, step)] or [slice(0, 0)]
    parts = [RawPart(points[s], {k: v[s] for k, v in values.items()}, {k: v[s] for k, v in whole.items()}) for s in slices]
    held = hold_on_workers(parts)
    return Partitions(lambda builder: [builder.payload(h) for h in held], len(parts), points.dtype, specs, tuple(whole), whole)


def as_array(name: str, values: Any) -> NDArray[Any]:
    """Return values in memory as an array.

    Raises
    ------
    InputError
        Lists in lists are of several lengths.
    """
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name}: rows of several lengths are no array ({error})") from None


def _check_positions(points: Any, axes: tuple[str, ...]) -> Any:
    if points.ndim != 2 or points.shape[1] != len(axes):
        raise InputError(f"positions must have the shape (N, {len(axes)}) for the axes {', '.join(axes)}, not {points.shape}")
    if points.dtype.kind not in "iuf":
        raise InputError(f"positions are integers or floats, not {points.dtype}")
    return points


def _check_integers(name: str, values: Any) -> Any:
    if values.ndim != 1:
        raise InputError(f"{name} must have the shape (N,), not {values.shape}")
    if values.dtype.kind not in "iu":
        raise InputError(f"{name} are integers, not {values.dtype}{_hint(name)}")
    return values


def _as_column(name: str, values: Any) -> NDArray[Any]:
    if hasattr(values, "cat") or type(values).__name__ == "Categorical":
        values = np.asarray(values.astype(object), object)
    elif hasattr(values, "to_numpy"):
        values = series_values(name, values)
    column = as_array(f"attribute {name!r}", values)
    _check_column(name, column.dtype, column.ndim, column.shape)
    return column


def _check_column(name: str, dtype: np.dtype[Any], ndim: int, shape: tuple[Any, ...]) -> None:
    if ndim not in (1, 2) or (ndim == 2 and not shape[1] >= 1):
        raise InputError(f"attribute {name!r} has the shape {shape}: one value (N,) or C channels (N, C) per vertex are wanted")
    if dtype.kind not in _KINDS + "OUST":
        raise InputError(f"attribute {name!r} has the dtype {dtype}: numbers, booleans, dates and strings can be stored")
    if dtype.kind in "OUST" and ndim != 1:
        raise InputError(f"attribute {name!r} holds strings with {ndim} dimensions: categories are one per vertex")
    if dtype.kind in "mM" and np.datetime_data(dtype)[0] == "generic":
        raise InputError(f"attribute {name!r} has the dtype {dtype} without a unit: give one, such as datetime64[ns]")


def _describe(name: str, column: Any, original: Any) -> AttributeInput:
    dtype = column.dtype if column.dtype.kind in _KINDS else np.dtype(object)
    channels = int(column.shape[1]) if column.ndim == 2 else None
    return AttributeInput(name, dtype, channels, _declared(original))


def _declared(column: Any) -> tuple[str, ...] | None:
    """Return the categories of an ordered pandas dtype, or of attributes that say so (as a Dataset of a store has them)."""
    attrs = getattr(column, "attrs", None) or {}
    if attrs.get("ordered") and "categories" in attrs:
        return tuple(str(c) for c in np.atleast_1d(attrs["categories"]))
    dtype = getattr(column, "dtype", column)
    if getattr(dtype, "ordered", False) and hasattr(dtype, "categories") and dtype.categories is not None:
        return tuple(str(c) for c in dtype.categories)
    return None


# ---------------------------------------------------------------------------------------------- dask arrays


def _from_dask_arrays(
    positions: Any, attributes: Mapping[str, Any], integers: Mapping[str, Any], axes: tuple[str, ...]
) -> Partitions:
    if not hasattr(positions, "chunks"):
        raise InputError(f"positions are a {type(positions).__name__}: a dask array or a DataFrame is wanted")
    _check_positions(positions, axes)
    points = positions.rechunk({1: -1}) if len(positions.chunks[1]) > 1 else positions
    lengths = points.chunks[0]
    known = not any(np.isnan(c) for c in lengths)
    columns: dict[str, Any] = {}
    for name, values in {**attributes, **integers}.items():
        columns[name] = _aligned(name, values, lengths, known)
    for name in integers:
        _check_integers(name, columns[name])
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

    nbytes = int(sum(a.size * a.dtype.itemsize for a in (points, *columns.values()))) if known else None
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

        values = _as_column(name, values)
        if len(values) != sum(lengths):
            raise InputError(f"{name!r} has {len(values):,} rows, positions have {int(sum(lengths)):,}")
        return da.from_array(values, chunks=(tuple(lengths), *values.shape[1:]))
    if not hasattr(values, "chunks"):
        raise InputError(f"{name!r} is a {type(values).__name__}: a dask array is wanted beside an array of positions")
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
    points = np.asarray(positions)
    values = {n: np.asarray(c) for n, c in zip((*names, *others), columns, strict=True)}
    for name, column in values.items():
        if len(column) != len(points):
            raise InputError(f"partition {number}: {name!r} has {len(column):,} rows, positions have {len(points):,}")
    return RawPart(points, {n: values[n] for n in names}, {n: values[n] for n in others})


# ---------------------------------------------------------------------------------------------- frames


def _from_frame(
    frame: Any, attributes: Any, given: Mapping[str, Any], axes: tuple[str, ...], consumed: Sequence[str]
) -> Partitions:
    integers = {name: column for name, column in given.items() if isinstance(column, str)}
    arrays = {name: values for name, values in given.items() if name not in integers}
    if arrays and (is_dask_collection(frame) or any(is_dask_collection(v) for v in arrays.values())):
        raise InputError(f"{next(iter(arrays))} is the name of a column where positions are a Dask DataFrame")
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
    elif isinstance(attributes, Mapping) or is_frame(attributes) or isinstance(attributes, str):
        raise InputError("attributes is a list of column names where positions are a DataFrame")
    else:
        names = list(dict.fromkeys(str(n) for n in attributes))
    unknown = [n for n in names if n not in columns]
    if unknown:
        raise InputError(f"unknown column {unknown[0]!r}: the columns are {', '.join(columns)}")
    specs = tuple(_describe_column(check_attribute_name(n, axes), frame.dtypes[n]) for n in names)
    dtype = np.result_type(*(_position_column(a, frame.dtypes[a]) for a in axes))
    for name, column in integers.items():
        if numeric_dtype(frame.dtypes[column]).kind not in "iu":
            raise InputError(f"{name} {column!r} are integers, not {frame.dtypes[column]}{_hint(name)}")
    if not is_dask_collection(frame):
        part = _load_frame(0, frame, axes, specs, integers)
        made = _from_numpy(part.positions, part.attributes, {**part.integers, **arrays}, axes)
        return Partitions(made.arguments, made.count, dtype, specs, made.integers, made.whole)
    delayed = frame.to_delayed()

    def arguments(builder: GraphBuilder) -> list[Any]:
        return [
            Task(None, _load_frame, i, builder.absorb(d, inline=True), axes, specs, dict(integers))
            for i, d in enumerate(delayed)
        ]

    return Partitions(arguments, len(delayed), dtype, specs, tuple(integers))


def _hint(name: str) -> str:
    return ": roots are -1, so fill what is missing, such as with .fillna(-1).astype(int)" if name == "parents" else ""


def numeric_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the numpy dtype of a pandas one; object for strings, categories and the like."""
    if isinstance(dtype, np.dtype):
        return dtype
    if getattr(dtype, "tz", None) is not None:
        raise InputError(f"dates with a time zone ({dtype}) can't be stored: convert with .dt.tz_convert(None) first")
    numpy_dtype = getattr(dtype, "numpy_dtype", None)
    if isinstance(numpy_dtype, np.dtype) and not hasattr(dtype, "categories"):
        return numpy_dtype
    return np.dtype(object)


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
    return AttributeInput(name, found if found.kind in _KINDS else np.dtype(object), None, _declared(dtype))


def _load_frame(
    number: int, frame: Any, axes: Sequence[str], specs: Sequence[AttributeInput], integers: Mapping[str, str]
) -> RawPart:
    try:
        # not cast to what was declared: the scan looks whether a cast would move them
        points = np.stack([series_values(a, frame[a]) for a in axes], axis=1)
        values = {s.name: series_values(s.name, frame[s.name]) for s in specs}
        return RawPart(points, values, {k: series_values(c, frame[c]) for k, c in integers.items()})
    except InputError as error:
        raise InputError(f"partition {number}: {error.message}") from None


def series_values(name: str, series: Any) -> NDArray[Any]:
    """Return the values of a pandas column as numpy ones; strings and categories as objects.

    Raises
    ------
    InputError
        Values are missing where numpy's dtype has none to say so.
    """
    wanted = numeric_dtype(series.dtype)
    if wanted.kind not in _KINDS:
        return np.asarray(series.astype(object).to_numpy(), object)
    if not isinstance(series.dtype, np.dtype) and wanted.kind not in "f" and bool(series.isna().any()):
        raise InputError(f"column {name!r} ({series.dtype}) has missing values, which {wanted} can't hold: fill or drop them")
    if not isinstance(series.dtype, np.dtype) and wanted.kind == "f":
        return np.asarray(series.to_numpy(dtype=wanted, na_value=np.nan))
    return np.asarray(series.to_numpy(dtype=wanted))
