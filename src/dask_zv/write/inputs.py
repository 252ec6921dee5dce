"""What users hand to a writing function, as partitions: vertices here, edges and faces in :mod:`.link_input`.

What may be given is the matter of :mod:`.containers`, how it is cut that of :mod:`.partitions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from dask.base import is_dask_collection
from numpy.typing import NDArray

from dask_zv.errors import InputError, did_you_mean
from dask_zv.geometry.schema import check_attribute_name
from dask_zv.graph.run import computed
from dask_zv.write.containers import (
    KINDS,
    as_array,
    as_integers,
    as_table,
    attrs_of,
    declared_categories,
    frame_arrays,
    from_objects,
    in_memory,
    is_frame,
    is_series,
    numeric_dtype,
    position_attrs,
    stacked,
)
from dask_zv.write.partitions import (
    AttributeInput,
    Partitions,
    Subject,
    cut_arrays,
    cut_frame,
    cut_in_memory,
    hint,
    integer_column,
)

VERTICES = Subject("positions", "partition {}", "{!r}", "{!r}", "{:,} rows, positions have {:,}", integral=False)


def partition_input(
    positions: Any, attributes: Any, axes: tuple[str, ...], consumed: Sequence[str] = (), *, attrs: Any = None, **integers: Any
) -> Partitions:
    """Return the partitions of vertices, as :func:`~dask_zv.write_points` takes them, with any of :data:`INTEGERS`.

    Columns of a frame that are `consumed`, which the caller has made use of, are no attributes, unless they are named. `attrs`
    are those of the positions; what they carry themselves where None.
    """
    attrs = position_attrs(positions) if attrs is None else attrs
    made = _partitions(as_table(positions), as_table(attributes), axes, consumed, integers)
    return replace(made, attrs=attrs) if attrs else made


def _partitions(
    positions: Any, attributes: Any, axes: tuple[str, ...], consumed: Sequence[str], integers: Mapping[str, Any]
) -> Partitions:
    given = {k: v for k, v in integers.items() if v is not None}
    if not is_dask_collection(positions):
        given = _computed(given)
        attributes = _computed(attributes) if isinstance(attributes, Mapping) else attributes
    if is_frame(positions):
        beside = is_frame(attributes) or isinstance(attributes, Mapping)
        names = _check_frame(positions, [] if beside else attributes, given, axes, consumed)
        if not beside and is_dask_collection(positions):
            specs = tuple(_describe_column(check_attribute_name(n, axes), positions.dtypes[n]) for n in names)
            dtype = np.result_type(*(_position_column(a, positions.dtypes[a]) for a in axes))
            return cut_frame(VERTICES, positions, dtype, axes, specs, given)
        if is_frame(attributes):
            _check_same_rows(positions, attributes)
        named: Any = attributes if beside else {n: n for n in names}
        if isinstance(named, Mapping):
            called = {k: v for k, v in named.items() if isinstance(v, str)}
            _ = chosen_columns(positions, called.values(), ())
            named = {**named, **frame_arrays(positions, called)}
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
    if isinstance(positions, str | Mapping):
        way = "a file is read first, as by pandas.read_csv" if isinstance(positions, str) else "pandas.DataFrame(...) makes one"
        raise InputError(f"positions are an array or a table, not a {type(positions).__name__}: {way}")
    points = as_array("positions", _by_label(positions, axes))
    if is_dask_collection(points):
        return _from_dask(points, named, given, axes)
    return _from_memory(points, named, given, axes)


def _computed(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns beside positions that are in memory: they have as many rows, so there is room for them, too."""
    return {name: computed(v) if is_dask_collection(v) else v for name, v in columns.items()}


def _by_label(positions: Any, axes: tuple[str, ...]) -> Any:
    """Return a DataArray (N, D) whose columns are labelled by the axes with these in the order of the axes."""
    dims: tuple[Any, ...] = getattr(positions, "dims", ())
    if len(dims) != 2 or dims[1] not in getattr(positions, "coords", ()):
        return positions
    labels = positions.coords[dims[1]].values.tolist()
    return positions[:, [labels.index(a) for a in axes]] if sorted(map(str, labels)) == sorted(axes) else positions


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
            f"the rows of positions and of {what} have different indexes: align them, such as with "
            ".reindex(positions.index), or drop both indexes with reset_index(drop=True)"
        )


def _from_memory(
    points: NDArray[Any], attributes: Mapping[str, Any], integers: Mapping[str, Any], axes: tuple[str, ...]
) -> Partitions:
    if points.ndim == 1 and not points.size:
        points = np.zeros((0, len(axes)), points.dtype if points.dtype.kind in "iuf" else float)
    points = _check_positions(points, axes)
    values = {k: as_array(f"attribute {k!r}", v) for k, v in attributes.items()}
    specs = [describe(k, v, attributes[k]) for k, v in values.items()]
    return cut_in_memory(VERTICES, points, values, specs, {k: integer_column(k, k, v) for k, v in integers.items()})


def _from_dask(points: Any, attributes: Mapping[str, Any], integers: Mapping[str, Any], axes: tuple[str, ...]) -> Partitions:
    _check_positions(points, axes)
    columns = {name: as_array(name, values) for name, values in {**attributes, **integers}.items()}
    for name in integers:
        if not is_dask_collection(columns[name]):
            columns[name] = integer_column(name, name, columns[name])
        if columns[name].ndim != 1:
            raise InputError(f"{name} must have the shape (N,), not {columns[name].shape}")
        if columns[name].dtype.kind not in "iu":
            raise InputError(f"{name} are integers, not {columns[name].dtype}{hint(name, columns[name].dtype)}")
    specs = [describe(name, columns[name], attributes[name]) for name in attributes]
    return cut_arrays(VERTICES, points, columns, specs, tuple(integers))


def _check_positions(points: Any, axes: tuple[str, ...]) -> Any:
    if points.ndim != 2 or points.shape[1] != len(axes):
        turned = "; transposed they have it" if points.ndim == 2 and points.shape[0] == len(axes) else ""
        raise InputError(
            f"positions must have the shape (N, {len(axes)}) for the axes {', '.join(axes)}, not {points.shape}{turned}"
        )
    if points.dtype.kind not in "iuf":
        raise InputError(f"positions are integers or floats, not {points.dtype}")
    return points


def _check_column(name: str, dtype: np.dtype[Any], ndim: int, shape: tuple[Any, ...]) -> None:
    if ndim not in (1, 2) or (ndim == 2 and not shape[1] >= 1):
        raise InputError(f"attribute {name!r} has the shape {shape}: one value (N,) or C channels (N, C) per vertex are wanted")
    if dtype.kind not in KINDS + "OUST":
        raise InputError(f"attribute {name!r} has the dtype {dtype}: numbers, booleans, dates and strings can be stored")
    if dtype.kind in "OUST" and ndim != 1:
        raise InputError(f"attribute {name!r} holds strings with {ndim} dimensions: categories are one per vertex")
    if dtype.kind in "mM" and np.datetime_data(dtype)[0] == "generic":
        raise InputError(f"attribute {name!r} has the dtype {dtype} without a unit: give one, such as datetime64[ns]")


def describe(name: str, column: Any, original: Any) -> AttributeInput:
    """Return what is known of an attribute by its array, `column`, and by what the user gave."""
    _check_column(name, column.dtype, column.ndim, column.shape)
    dtype = column.dtype if column.dtype.kind in KINDS else np.dtype(object)
    channels = int(column.shape[1]) if column.ndim == 2 else None
    return AttributeInput(name, dtype, channels, declared_categories(original), attrs_of(f"attribute {name!r}", original))


def take_integers(table: Any, given: Any, name: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return integers of the vertices of a table in memory, and the column that they are, if they are one."""
    column = given
    consumed: tuple[str, ...] = ()
    if isinstance(given, str):
        if not is_frame(table) or given not in table.columns:
            raise unknown_column(given, table.columns if is_frame(table) else (), f" for {name}")
        column, consumed = table[given], (given,)
    values = from_objects(name, in_memory(name, column))
    if values.ndim != 1 or (len(values) and values.dtype.kind not in "iu"):
        raise InputError(f"{name} are integers of the shape (N,), not {values.dtype} {values.shape}{hint(name, values.dtype)}")
    if len(values) != len(table):
        raise InputError(f"{name} have {len(values):,} rows, positions have {len(table):,}")
    return as_integers(name, values), consumed


# ---------------------------------------------------------------------------------------------- columns of frames


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
        raise unknown_column(
            missing[0], columns, f" for an axis (they are {', '.join(axes)}; axes=[...] names others for a new store)"
        )
    for name, column in integers.items():
        if column not in columns:
            raise unknown_column(column, columns, f" for {name}")
    names = chosen_columns(frame, attributes, (*axes, *integers.values(), *consumed))
    for axis in axes:
        _position_column(axis, frame.dtypes[axis])
    for name, column in integers.items():
        if numeric_dtype(frame.dtypes[column]).kind not in "iu" and (is_dask_collection(frame) or len(frame)):
            raise InputError(f"{name} {column!r} are integers, not {frame.dtypes[column]}{hint(name, frame.dtypes[column])}")
    return names


def chosen_columns(frame: Any, attributes: Any, taken: Sequence[str]) -> list[str]:
    """Return the columns of a frame that are attributes: those named, or where None all that are not `taken`."""
    columns = [c for c in frame.columns if isinstance(c, str)]
    attributes = [attributes] if isinstance(attributes, str) else attributes
    names = [c for c in columns if c not in taken] if attributes is None else list(dict.fromkeys(map(str, attributes)))
    unknown = [n for n in names if n not in columns]
    if unknown:
        raise unknown_column(unknown[0], columns)
    return names


def unknown_column(name: str, columns: Iterable[object], purpose: str = "") -> InputError:
    """Return the error about a column that a table does not have."""
    there = [str(c) for c in columns]
    return InputError(f"unknown column {name!r}{purpose}: the columns are {', '.join(there)}{did_you_mean(name, there)}")


def _position_column(name: str, dtype: Any) -> np.dtype[Any]:
    found = numeric_dtype(dtype)
    if found.kind not in "iuf":
        clock = "; dates are numbers first, as by (date - date.min()).dt.total_seconds()" if found.kind == "M" else ""
        raise InputError(f"column {name!r} is an axis: integers or floats are wanted, not {dtype}{clock}")
    return found


def _describe_column(name: str, dtype: Any) -> AttributeInput:
    try:
        found = numeric_dtype(dtype)
    except InputError as error:
        raise InputError(f"attribute {name!r}: {error.message}") from None
    _check_column(name, found, 1, (0,))
    return AttributeInput(name, found if found.kind in KINDS else np.dtype(object), None, declared_categories(dtype))
