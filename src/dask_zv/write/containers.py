"""What users have in hand, as plain arrays: every argument of a writing function comes through here.

Masks, nullable dtypes, units and the containers of other libraries end at this door (one module because each may hold another);
what follows sees numpy and dask arrays. Where a value is missing and the dtype has no word for it, an error names the row.
Other libraries are known by what their objects can do, and imported for data of theirs alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from dask.base import is_dask_collection
from numpy.typing import NDArray

from dask_zv.errors import InputError, has_control
from dask_zv.graph.builder import refuse_expressions
from dask_zv.graph.run import computed

KINDS = "biufcmM"
_LAST_ID = 2**63 - 1
EACH_AXIS = "zv_axes"
"""Attribute of positions that holds those of each axis."""
_VIEWS_OWN = frozenset(
    {"categories", "geometry", "grid_mapping", "location", "mesh", "ordered", "zv_axis", "zv_name", "zv_role"}
)
"""Attributes that the views give their variables: they tell of the Dataset, not of the values."""


def is_frame(value: Any) -> bool:
    """Return True for a pandas or a dask DataFrame."""
    return hasattr(value, "columns") and hasattr(value, "dtypes") and hasattr(value, "iloc") and not _is_delayed(value)


def is_series(value: Any) -> bool:
    """Return True for a pandas or a dask Series."""
    return hasattr(value, "to_frame") and hasattr(value, "iloc" if not is_dask_collection(value) else "divisions")


def is_row_numbers(index: Any) -> bool:
    """Return True for an index of pandas that only counts its rows."""
    return index.dtype.kind in "iu" and bool((index.to_numpy() == np.arange(len(index))).all())


def _is_delayed(value: Any) -> bool:
    """Return True for a ``Delayed``, which has whatever attribute it is asked for."""
    from dask.delayed import Delayed

    return isinstance(value, Delayed)


def as_table(value: Any) -> Any:
    """Return a table of another library (pyarrow, polars) as a pandas DataFrame, anything else as it is."""
    if is_frame(value) or _is_delayed(value) or not (hasattr(value, "column_names") or hasattr(value, "columns")):
        return value
    if not hasattr(value, "__arrow_c_stream__"):
        return value
    import pandas as pd
    import pyarrow as pa

    table = pa.table(value)
    for number, field in enumerate(table.schema):
        if pa.types.is_string_view(field.type):  # those of polars: pandas can't look at all of them
            table = table.set_column(number, field.name, table.column(number).cast(pa.large_string()))
    return table.to_pandas(types_mapper=pd.ArrowDtype)


def as_array(what: str, values: Any) -> Any:
    """Return what was given as a numpy or a dask array; blocks of the latter still need :func:`in_memory`."""
    values = _unwrapped(values)
    if _is_delayed(values):
        raise InputError(f"{what}: a Delayed has no known shape: make a dask array from it with dask.array.from_delayed")
    if not is_dask_collection(values):
        return from_objects(what, in_memory(what, values))
    if hasattr(values, "chunks") and hasattr(values, "dtype"):
        return values
    if hasattr(values, "divisions") and hasattr(values, "dtype"):  # a Series or an Index
        return _lazy_column(what, values.to_delayed(), values.dtype, None)
    raise InputError(f"{what}: a dask array (or Series) is wanted, not a {type(values).__name__}")


def in_memory(what: str, values: Any) -> NDArray[Any]:
    """Return values in memory as an array; missing ones as NaN, NaT or None."""
    table, missing = split_missing(what, values)
    if missing is None:
        return table
    if table.dtype.kind in "fc":
        fill: Any = np.nan
    elif table.dtype.kind in "mM":
        fill = np.array("NaT", table.dtype)
    elif table.dtype.kind in "OUST":
        table, fill = table.astype(object), None
    else:
        raise missing_error(what, table.dtype, missing)
    out = table.copy()
    out[missing] = fill
    return out


def missing_error(what: str, dtype: Any, missing: NDArray[np.bool_]) -> InputError:
    """Return the error that says which row has no value."""
    row = int(np.argwhere(missing)[0][0])
    return InputError(
        f"{what}: row {row} has a missing value (masked or NA), which {dtype} cannot represent: fill or drop missing values, "
        "or store floats with NaN"
    )


def split_missing(what: str, values: Any) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return values in memory, and which of them are masked or NA: None where none is."""
    values = _unwrapped(values)
    if is_dask_collection(values):
        values = computed(values)
    if type(values).__module__.partition(".")[0] == "pyarrow":
        values = _from_arrow(what, values)
    for dense in ("toarray", "todense"):  # scipy.sparse, sparse
        if not isinstance(values, np.ndarray) and hasattr(values, dense):
            values = getattr(values, dense)()
            break
    if hasattr(values, "isna") and hasattr(values, "to_numpy") and hasattr(values, "dtype"):
        return _split_pandas(what, values)
    try:
        masked = isinstance(values, np.ma.MaskedArray) or (
            isinstance(values, list | tuple) and any(isinstance(v, np.ma.MaskedArray) for v in values)
        )
        table = np.ma.array(values) if masked else np.asarray(values)
        if table.dtype.kind in "US" and isinstance(values, list | tuple):
            given = np.array(values, object)  # numpy writes out what stands between strings: NaN as "nan", 1 as "1"
            table = table if all(isinstance(v, str | bytes) for v in given.flat) else given
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: rows of several lengths, or a {type(values).__name__} are no array ({error})") from None
    if table.dtype.names is not None:
        raise InputError(f"{what} has the dtype {table.dtype}, one of records: pass its fields one by one")
    if not masked:
        return table, None
    missing = np.ma.getmaskarray(table)
    return np.asarray(np.ma.getdata(table)), missing if missing.any() else None


def as_integers(what: str, values: NDArray[Any], hint: str = "") -> NDArray[np.int64]:
    """Return ids or numbers of vertices as int64, from any integers; `hint` ends the error of others."""
    if not values.size:
        return values.astype(np.int64)  # an empty list is one of floats to numpy
    if values.dtype.kind not in "iu":
        raise InputError(f"{what} are integers, not {values.dtype}{hint}")
    if values.dtype.kind == "u" and int(values.max()) > _LAST_ID:
        row = int(np.argwhere(values > _LAST_ID)[0][0])
        raise InputError(f"{what}: row {row} has {int(values[row].max())}: ids are between 0 and 2**63 - 1")
    return values.astype(np.int64, copy=False)


def attrs_of(what: str, values: Any) -> dict[str, Any]:
    """Return the attributes of an xarray object (units, long_name, flags ...), and the unit of a quantity, as JSON values."""
    found = dict(values.attrs) if _is_xarray(values) else {}
    inner = values.data if _is_xarray(values) and not is_dask_collection(values) else values
    if hasattr(inner, "magnitude"):
        found.setdefault("units", str(inner.units))
    elif isinstance(inner, np.ndarray) and hasattr(inner, "unit"):
        found.setdefault("units", str(inner.unit))
    out: dict[str, Any] = {}
    for name, value in found.items():
        if name in _VIEWS_OWN:
            continue
        plain = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        try:
            out[str(name)] = json.loads(json.dumps(plain, allow_nan=False))
        except (TypeError, ValueError):
            if isinstance(plain, float):  # NaN as fill value: what NaN means anyway
                continue
            raise InputError(
                f"{what} has the attribute {name!r} = {value!r:.80}, which JSON can't hold: remove it, or make it a string"
            ) from None
    return out


def declared_categories(column: Any) -> tuple[str, ...] | None:
    """Return the categories of an ordered pandas dtype, or of attributes that say so (as a Dataset of a store has them)."""
    attrs = getattr(column, "attrs", None) or {}
    if attrs.get("ordered") and "categories" in attrs:
        return tuple(str(c) for c in np.atleast_1d(attrs["categories"]))
    dtype = getattr(column, "dtype", column)
    if getattr(dtype, "ordered", False) and hasattr(dtype, "categories") and dtype.categories is not None:
        return tuple(str(c) for c in dtype.categories)
    return None


def position_attrs(positions: Any) -> dict[str, Any]:
    """Return the attributes of positions (of the first, in a list of paths), as :func:`attrs_of` does."""
    if isinstance(positions, list | tuple) and len(positions):
        positions = positions[0]
    found = attrs_of("positions", positions)
    found.pop("axis", None)  # the letter of one, and these are all
    if has_control(str(found.get("units", ""))):
        raise InputError(f"units of positions have no control characters: {found['units']!r:.80}")
    return found


def with_attrs(values: Any, attrs: Mapping[str, Any]) -> Any:
    """Return an array that carries attributes as :func:`attrs_of` finds them."""
    if not attrs:
        return values
    import xarray as xr

    return xr.Variable([f"dim_{i}" for i in range(values.ndim)], values, dict(attrs))


def _is_xarray(values: Any) -> bool:
    if isinstance(values, Mapping) or _is_delayed(values):
        return False
    return hasattr(values, "dims") and hasattr(values, "attrs") and hasattr(values, "data")


def _unwrapped(values: Any) -> Any:
    """Return what an xarray object, or a quantity with a unit, holds."""
    if _is_xarray(values):
        values = values.data
    if _is_delayed(values):
        return values
    return values.magnitude if hasattr(values, "magnitude") and hasattr(values, "units") else values


def from_objects(what: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return an array of Python's numbers and dates in numpy's dtype; strings, and what is no value at all, stay objects."""
    if values.dtype.kind != "O" or not values.size or not values.ndim:
        return values
    import pandas as pd
    from pandas.api.types import infer_dtype

    flat = values.reshape(-1)
    kind = infer_dtype(flat, skipna=True)
    if kind in ("datetime", "datetime64", "date", "timedelta", "timedelta64"):
        dates = pd.Series(flat)
        try:
            dates = pd.to_timedelta(dates) if kind.startswith("time") else pd.to_datetime(dates)
        except (TypeError, ValueError) as error:
            raise InputError(f"{what}: {error}") from None
        return series_values(what, dates).reshape(values.shape)
    if kind not in ("integer", "floating", "mixed-integer-float", "boolean"):
        return values
    missing = np.asarray(pd.isna(flat), bool)
    if kind in ("integer", "boolean"):
        if missing.any():
            raise missing_error(what, kind, missing.reshape(values.shape))
        out = np.array(flat.tolist())
        if out.dtype.kind not in "biu":
            worst = max(flat.tolist(), key=abs)
            raise InputError(f"{what}: {worst} does not fit into integers of 64 bits")
        return out.reshape(values.shape)
    return np.array([np.nan if m else v for v, m in zip(flat.tolist(), missing.tolist(), strict=True)], float).reshape(
        values.shape
    )


def _from_arrow(what: str, values: Any) -> Any:
    """Return a pyarrow array as a pandas Series, lists of one length as a table."""
    import pandas as pd
    import pyarrow as pa

    if not isinstance(values, pa.Array | pa.ChunkedArray):
        raise InputError(f"{what}: a {type(values).__name__} is no array")
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
        if isinstance(values, pa.ChunkedArray):  # some releases leave it so where there are no chunks
            values = pa.array([], values.type)
    if pa.types.is_fixed_size_list(values.type):
        if values.null_count:
            raise missing_error(what, values.type, np.asarray(values.is_null()))
        return split_missing(what, values.flatten())[0].reshape(len(values), values.type.list_size)
    if pa.types.is_nested(values.type):
        raise InputError(f"{what}: {values.type} is no array: a value, or a list of one length, is wanted in each row")
    if pa.types.is_string_view(values.type):
        values = values.cast(pa.large_string())
    return pd.Series(values, dtype=pd.ArrowDtype(values.type))


# ---------------------------------------------------------------------------------------------- pandas


def numeric_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the numpy dtype of a pandas one; object for strings, categories and the like."""
    if isinstance(dtype, np.dtype):
        return dtype
    arrow = getattr(dtype, "pyarrow_dtype", None)
    if getattr(arrow if arrow is not None else dtype, "tz", None) is not None:
        raise InputError(f"dates with a time zone ({dtype}) can't be stored: convert with .dt.tz_convert(None) first")
    if arrow is not None and str(arrow).startswith("date"):
        return np.dtype("datetime64[s]")
    if hasattr(dtype, "categories"):
        return np.dtype(object)
    found = getattr(dtype, "subtype", None) if hasattr(dtype, "fill_value") else None  # a sparse column
    try:
        found = getattr(dtype, "numpy_dtype", None) if found is None else found
        _ = dtype.type
    except NotImplementedError:  # of Arrow's types that pandas has no use for
        raise InputError(f"{dtype} can't be stored: numbers, booleans, dates and strings can") from None
    return found if isinstance(found, np.dtype) else np.dtype(object)


def series_values(name: str, series: Any) -> NDArray[Any]:
    """Return the values of a pandas column as numpy ones; strings and categories as objects."""
    return in_memory(f"column {name!r} ({series.dtype})", series)


def _split_pandas(what: str, column: Any) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    if getattr(column, "nlevels", 1) > 1:
        raise InputError(f"{what}: an index of {column.nlevels} levels is not a column: pass its levels one by one")
    try:
        wanted = numeric_dtype(column.dtype)
    except InputError as error:
        raise InputError(f"{what}: {error.message}") from None
    if isinstance(column.dtype, np.dtype) and wanted.kind in KINDS:
        return np.asarray(column), None
    missing = np.asarray(column.isna(), bool)
    if wanted.kind not in KINDS:
        out = np.array(column.astype(object), object)
        out[missing] = None
        return out, None
    if wanted.kind == "M" and hasattr(column.dtype, "pyarrow_dtype"):
        column = column.astype(wanted)
        return np.asarray(column), None
    none = {"f": np.nan, "m": np.timedelta64("NaT", "s"), "M": np.datetime64("NaT", "s"), "b": False}.get(wanted.kind, 0)
    if not missing.any():
        return np.asarray(column.to_numpy(dtype=wanted)), None
    return np.asarray(column.to_numpy(dtype=wanted, na_value=none)), missing


def frame_arrays(frame: Any, columns: Mapping[str, str]) -> dict[str, Any]:
    """Return columns of a frame, under other names: pandas Series as they are, of a dask DataFrame as dask arrays."""
    if not is_dask_collection(frame):
        return {name: frame[column] for name, column in columns.items()}
    parts = frame.to_delayed()  # once: the columns share what makes them
    return {name: _lazy_column(f"column {column!r}", parts, frame.dtypes[column], column) for name, column in columns.items()}


def _lazy_column(what: str, parts: Any, dtype: Any, column: str | None) -> Any:
    import dask.array as da
    from dask.delayed import delayed

    refuse_expressions(f"{what}, of a Dask DataFrame beside arrays")
    wanted, take = numeric_dtype(dtype), delayed(_column_of, pure=True)
    blocks = [da.from_delayed(take(what, i, part, column), (np.nan,), wanted) for i, part in enumerate(parts)]
    return da.concatenate(blocks, allow_unknown_chunksizes=True) if blocks else da.zeros((0,), dtype=wanted)


def _column_of(what: str, number: int, part: Any, column: str | None) -> NDArray[Any]:
    if column is not None:
        part = column_of(part, column, f"partition {number}: ")
    return in_memory(f"partition {number}: {what}", part)


def column_of(frame: Any, column: str, where: str) -> Any:
    """Return a column of one partition."""
    if not is_frame(frame):
        raise InputError(f"{where}expected a DataFrame, not a {type(frame).__name__}")
    if column not in frame.columns:
        raise InputError(f"{where}there is no column {column!r}: it has {', '.join(map(str, frame.columns))}")
    return frame[column]


def stacked(columns: Mapping[str, Any]) -> Any:
    """Return columns as one table (N, C)."""
    values = [as_array(f"column {name!r}", column) for name, column in columns.items()]
    if is_dask_collection(values[0]):
        import dask.array as da

        return da.stack(values, axis=1, allow_unknown_chunksizes=True)
    return np.stack(values, axis=1)
