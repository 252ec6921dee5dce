"""Geometries of GeoPandas, a table or a column of them alone, as vertices and columns beside them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dask_zv.errors import InputError, ZVWarning
from dask_zv.level.asked import plain_crs
from dask_zv.level.contents import StoreContents
from dask_zv.write.containers import is_frame
from dask_zv.write.inputs import unknown_column

_POINT, _LINES = (0,), (1, 2)
"""Numbers of shapely's types: points; line strings and linear rings."""


def _table(shapes: Any) -> Any:
    """Return geometries as a table."""
    return shapes if is_frame(shapes) else shapes.to_frame("geometry")


def point_table(axes: Sequence[str], shapes: Any) -> Any:
    """Return a table of points with their coordinates as columns; they stand for columns of the same names."""
    import pandas as pd

    frame = _table(shapes)
    table = pd.DataFrame(frame.drop(columns=[frame.geometry.name, *(a for a in axes if a in frame.columns)]))
    points, _ = _coordinates(frame, len(axes), _POINT, "points", "a line is written by write_polylines")
    return table.assign(**dict(zip(axes, points.T, strict=True)))


def line_table(shapes: Any, ndim: int, options: Any) -> tuple[Any, Any]:
    """Return vertices and options of lines; the other columns are attributes of objects."""
    import pandas as pd

    frame = _table(shapes)
    points, lengths = _coordinates(
        frame, ndim, _LINES, "lines", "bring lines of several parts into rows of one with .explode()"
    )
    out, table = {**options, "lengths": lengths}, pd.DataFrame(frame.drop(columns=[frame.geometry.name]))
    ids, asked = options["object_ids"], options["attributes"]
    if isinstance(ids, str):
        if ids not in table.columns:
            raise unknown_column(ids, table.columns, " for object_ids")
        out["object_ids"], table = table[ids].to_numpy(), table.drop(columns=[ids])
    elif (
        ids is None and table.index.dtype.kind in "iu" and table.index.is_unique and (len(table) == 0 or table.index.min() >= 0)
    ):
        out["object_ids"] = table.index.to_numpy()
    if not isinstance(asked, Mapping):
        names = list(table.columns) if asked is None else [asked] if isinstance(asked, str) else list(asked)
        if lost := [n for n in names if n not in table.columns]:
            raise unknown_column(lost[0], table.columns)
        out["attributes"], table = None, table[names]
    if options["object_attributes"] is None and len(table.columns):
        out["object_attributes"] = table.set_axis(range(len(table)) if out["object_ids"] is None else out["object_ids"])
    return points, out


def _coordinates(frame: Any, ndim: int, types: Sequence[int], wanted: str, otherwise: str) -> tuple[Any, Any]:
    """Return the vertices of all geometries, shape (n, D), and how many each has."""
    import shapely  # type: ignore[import-untyped]

    shapes = np.asarray(frame.geometry.array, object)
    kinds = shapely.get_type_id(shapes)
    odd = ~np.isin(kinds, types) | shapely.is_empty(shapes)
    if odd.any():
        row = int(np.argmax(odd))
        found = "nothing" if shapes[row] is None or shapes[row].is_empty else f"a {shapes[row].geom_type}"
        raise InputError(f"{wanted} are wanted, row {row} of the geometries is {found}: drop it, or {otherwise}")
    deep = shapely.has_z(shapes)
    if ndim > 3 or (ndim == 3 and not deep.all()) or (ndim == 2 and deep.any()):
        have = "2 and 3" if deep.any() and not deep.all() else "3" if deep.any() else "2"
        raise InputError(
            f"the geometries have {have} dimensions, the store {ndim} axes: give chunk_shape an edge for each, or bring them "
            "together with shapely.force_2d or shapely.force_3d"
        )
    points = shapely.get_coordinates(shapes, include_z=ndim == 3)
    return points, np.asarray(shapely.get_num_coordinates(shapes), np.int64)


def check_crs(frame: Any, store: StoreContents) -> None:
    """Refuse geometries of another reference system than the store's; warn where the store has none."""
    if frame.crs is None:
        return
    told, mine = store.metadata.crs, plain_crs(frame.crs)
    if told is None:
        warnings.warn(
            f"the reference system of the geometries ({frame.crs.name}) is not kept: the store was made without one; make it "
            f"with dzv.create(..., crs=...) [{store.url}]",
            ZVWarning,
            stacklevel=5,
        )
    elif dict(told) != mine and told.keys() & {"crs_wkt", "code"} and not _same_crs(told, frame.crs):
        raise InputError(
            f"the geometries are in {frame.crs.name}, the store in {dict(told)!r:.120}: bring them into that with .to_crs(...)",
            store=store.url,
        )


def _same_crs(told: Mapping[str, Any], crs: Any) -> bool:
    """Return True if a store's reference system is another one's; of one that pyproj can't read nothing is known."""
    import pyproj

    try:
        return bool(crs == pyproj.CRS.from_user_input(told.get("crs_wkt") or f"{told.get('type', 'EPSG')}:{told['code']}"))
    except pyproj.exceptions.CRSError:
        return True
