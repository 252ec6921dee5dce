"""Tables whose rows are in another order than the paths, such as that of time: the rows of each object, sorted by a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from dask.base import is_dask_collection
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.write.containers import as_array, attrs_of, column_of, in_memory, is_frame, series_values, with_attrs
from dask_zv.write.path_input import PathInput
from dask_zv.write.vertex_ids import take_integers

_ROW = "dask_zv row in the input"


def sort_paths(paths: PathInput, sort_by: Any, axes: tuple[str, ...]) -> PathInput:
    """Return paths whose rows are those of one object after the other, each in the order of `sort_by`.

    Rows that are equal in it stay in the order of the input.

    Parameters
    ----------
    paths : PathInput
        Rows of an object may lie apart.
    sort_by : str or array (N,)
        A column, an axis or an attribute; or a value for each row. Numbers or dates.
    axes : tuple of str

    Raises
    ------
    InputError
        There is no such column, or it can't be sorted by; lazy arrays, which have no columns to shuffle by.
    """
    positions, ids, attributes = paths.positions, paths.object_ids, paths.attributes
    if is_frame(positions) and is_dask_collection(positions):
        if not (isinstance(sort_by, str) and isinstance(ids, str)) or isinstance(attributes, Mapping) or is_frame(attributes):
            raise InputError("sort_by and object_ids are the names of columns where positions are a Dask DataFrame")
        _check_column(positions, sort_by)
        return replace(paths, positions=_shuffled(positions, ids, sort_by))
    if any(is_dask_collection(v) for v in (positions, ids, sort_by)):
        raise InputError("sort_by brings rows together by columns: pass a Dask DataFrame, or sort the dask arrays first")
    owners, _ = take_integers(positions, ids, "object_ids")
    order = row_order(_key(positions, attributes, sort_by, axes), owners, "sort_by")
    if isinstance(attributes, Mapping):
        attributes = {name: _taken(f"attribute {name!r}", values, order) for name, values in attributes.items()}
    elif is_frame(attributes):
        attributes = attributes.iloc[order]
    positions = positions.iloc[order] if is_frame(positions) else np.asarray(positions)[order]
    return replace(paths, positions=positions, object_ids=ids if isinstance(ids, str) else owners[order], attributes=attributes)


def row_order(key: NDArray[Any], owners: NDArray[np.int64], what: str) -> NDArray[np.intp]:
    """Return the order of rows by owner, then by key, then as they are.

    Raises
    ------
    InputError
        The key has a value that has no place in an order.
    """
    if key.ndim != 1 or key.dtype.kind not in "biufmM":
        raise InputError(f"{what} is a number or a date for each row, not {key.dtype} {key.shape}")
    if len(key) != len(owners):
        raise InputError(f"{what} has {len(key):,} rows, positions have {len(owners):,}")
    nowhere = np.isnat(key) if key.dtype.kind in "mM" else np.isnan(key) if key.dtype.kind == "f" else np.zeros(0, bool)
    if nowhere.any():
        raise InputError(f"{what}: row {int(np.argmax(nowhere))} is {key[np.argmax(nowhere)]}, which has no place in an order")
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


def _taken(what: str, values: Any, order: NDArray[np.intp]) -> Any:
    column = as_array(what, values)
    if is_dask_collection(column) or not column.ndim or len(column) != len(order):
        return values  # an error of its own follows
    return with_attrs(column[order], attrs_of(what, values))


# ---------------------------------------------------------------------------------------------- dask DataFrames


def _check_column(frame: Any, column: str) -> None:
    if column not in frame.columns:
        raise InputError(f"unknown column {column!r} for sort_by: the columns are {', '.join(map(str, frame.columns))}")


def _shuffled(frame: Any, ids: str, sort_by: str) -> Any:
    """Return a dask DataFrame with all rows of an object in one partition, sorted."""
    import dask.dataframe as dd
    from dask.dataframe.dispatch import make_meta
    from dask.delayed import delayed

    if ids not in frame.columns:
        raise InputError(f"unknown column {ids!r} for object_ids: the columns are {', '.join(map(str, frame.columns))}")
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
