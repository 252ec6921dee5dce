"""Functions of chunks and objects, and densities, as xarray objects; the work is done by `dask_zv.analysis`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from dask.delayed import Delayed
from numpy.typing import NDArray

from dask_zv.analysis.chunks import looked_up
from dask_zv.analysis.density import plan_density
from dask_zv.analysis.mapping import MapPlan, plan_map_chunks, plan_map_objects
from dask_zv.analysis.objects import objects_of_rows
from dask_zv.analysis.results import VALUE, Mapped
from dask_zv.errors import InputError
from dask_zv.level.contents import LevelContents
from dask_zv.level.object_index import chosen_ids
from dask_zv.xarray_backend.conventions import axis_attrs

Rows = slice | NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Shown:
    """How results become an xarray object; small, since it travels where they do.

    `axes` are those of the chunk coordinates, none for objects; `name` is for results of a function that returns no dict.
    """

    dim: str
    axes: tuple[str, ...]
    name: str
    attrs: Mapping[str, Any]

    @classmethod
    def of(cls, level: LevelContents, func: Callable[..., Any], dim: str) -> _Shown:
        given = getattr(func, "__name__", VALUE)
        own = () if level.source.leading is None else (level.source.leading,)
        axes = (*own, *level.store.axes) if dim == "chunk" else ()
        return cls(dim, axes, given if given.isidentifier() else VALUE, _attrs(level))

    def __call__(self, mapped: Mapped) -> xr.Dataset | xr.DataArray:
        return self.show(mapped.labels, mapped.rows, mapped.values, single=mapped.single)

    def show(
        self, labels: NDArray[np.int64], rows: NDArray[np.int64], columns: Mapping[str, Any], *, single: bool
    ) -> xr.Dataset | xr.DataArray:
        """Return columns with their coordinates."""
        coords: dict[str, xr.Variable] = {}
        if self.dim == "object":
            coords["object"] = xr.Variable(("object",), labels, {"long_name": "id of the object"})
        for i, axis in enumerate(self.axes):
            about = {"long_name": f"chunk coordinate along {axis}"}
            coords[f"chunk_{axis}"] = xr.Variable((self.dim,), labels[:, i], about)
        coords["rows"] = xr.Variable((self.dim,), rows, {"long_name": f"vertices of each {self.dim}"})
        taken = [name for name in columns if not single and (name in coords or name == self.dim)]
        if taken:
            raise InputError(
                f"the function returns {taken[0]!r}, which is the name of a coordinate of the result: return it by another"
            )
        if single:
            values = columns[VALUE]
            dims = (self.dim, *(f"{self.name}_{i}" for i in range(values.ndim - 1)))
            return xr.DataArray(values, coords, dims, self.name, self.attrs)
        data = {name: ((self.dim, *(f"{name}_{i}" for i in range(v.ndim - 1))), v) for name, v in columns.items()}
        return xr.Dataset(data, coords, self.attrs)


def _attrs(level: LevelContents) -> dict[str, Any]:
    return {"zv_url": level.store.url, "zv_level": level.number}


def map_chunks(
    level: LevelContents,
    func: Callable[..., Any],
    *,
    rows: Rows | None = None,
    bbox: Any = None,
    objects: Any = None,
    meta: Any = None,
    compute: bool = True,
    **options: Any,
) -> xr.Dataset | xr.DataArray | Delayed:
    """Call a function for every chunk of a selection, see :meth:`ZVDatasetAccessor.map_chunks`."""
    if not compute and meta is not None:
        rows, bbox, objects = looked_up(level, rows, bbox, objects), None, None
    plan = plan_map_chunks(level, func, rows=rows, bbox=bbox, objects=objects, meta=meta, **options)
    return _shown(plan, _Shown.of(level, func, "chunk"), compute=compute)


def map_objects(
    level: LevelContents,
    func: Callable[..., Any],
    *,
    rows: Rows | None = None,
    objects: Any = None,
    meta: Any = None,
    compute: bool = True,
    **options: Any,
) -> xr.Dataset | xr.DataArray | Delayed:
    """Call a function for every object that has a vertex in `rows`, see :meth:`ZVDatasetAccessor.map_objects`."""
    if rows is not None:
        found = objects_of_rows(level, rows)
        objects = found if objects is None else np.intersect1d(found, chosen_ids(objects))
    by_id = not compute and meta is not None  # the order of the lazy columns
    plan = plan_map_objects(level, func, objects=objects, meta=meta, by_id=by_id, **options)
    return _shown(plan, _Shown.of(level, func, "object"), compute=compute)


def _shown(plan: MapPlan, shown: _Shown, *, compute: bool) -> xr.Dataset | xr.DataArray | Delayed:
    if compute:
        return shown(plan.compute())
    example = plan.function.example
    if example is None or plan.known is None:
        return plan.delayed(shown)
    return shown.show(plan.labels, plan.known, plan.arrays(), single=example.single)


def density(level: LevelContents, *, weights: str | None = None, compute: bool = True, **options: Any) -> xr.DataArray:
    """Count vertices, or add up a column of theirs, on a regular grid, see :meth:`ZVDatasetAccessor.density`."""
    plan = plan_density(level, weights=weights, **options)
    values = plan.compute() if compute else plan.array()
    about = {a.name: a for a in level.store.metadata.axes}
    coords: dict[str, xr.Variable] = {}
    for name, edges in zip(plan.dims, plan.cells.edges, strict=True):
        centres, low, high = (edges[1:] + edges[:-1]) / 2, float(edges[0]), float(edges[-1])
        sizes = {"lower": low, "upper": high, "spacing": (high - low) / len(centres)}
        coords[name] = xr.Variable(
            (name,), centres, {**axis_attrs(about[name], False), "long_name": f"{name} of cell centres", **sizes}
        )
    attrs: dict[str, Any] = {"long_name": "vertices in each cell", "units": "1"}
    if weights is not None:
        attrs = {"long_name": f"{plan.statistic} of {weights} over the vertices in each cell"}
        if weights in about and about[weights].unit:
            attrs["units"] = about[weights].unit
    name = "count" if weights is None else f"{weights}_{plan.statistic}"
    return xr.DataArray(values, coords, plan.dims, name, {**attrs, **_attrs(level)})
