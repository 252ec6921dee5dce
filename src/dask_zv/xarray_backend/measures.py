"""Lengths, areas and speeds of what a Dataset holds: each edge, face and path once, wherever its chunks are.

Of edges and faces as a store has them a task reads its links and the vertices at their ends, which may be in any chunks. All
else is computed from the Dataset's own values: paths and trees in the objects view, where a task has whole objects, and links
whose positions were changed, or never were in a store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from dask.base import is_dask_collection
from numpy.typing import NDArray

from dask_zv.analysis import measures
from dask_zv.analysis.objects import objects_of_rows
from dask_zv.errors import InputError
from dask_zv.graph.builder import refuse_expressions
from dask_zv.read.edge_rows import CONNECTIVITY, EdgeRows
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.arrays import MARK, StatefulVariable, lazy_variable, merged_runs
from dask_zv.xarray_backend.content import Shape, check_in_step, places_of, shape_of, vertex_numbers
from dask_zv.xarray_backend.index import AxisIndex, RowIndex
from dask_zv.xarray_backend.origin import check_stored, where_from
from dask_zv.xarray_backend.selection import has_store_positions, places_of_ids, select_objects
from dask_zv.xarray_backend.views import objects_dataset

Dims = str | Sequence[str] | None
Measure = Callable[[NDArray[Any]], NDArray[np.float64]]


def edge_lengths(ds: xr.Dataset, dims: Dims) -> xr.DataArray:
    """Return the length of each edge, see :meth:`ZVDatasetAccessor.edge_lengths`."""
    shape = _linked(ds, names.EDGES, "edge_lengths")
    axes = _chosen_axes(ds, shape, dims)
    attrs = {"long_name": "length of the edge", **_units(ds, axes)}
    return _of_links(ds, shape, names.EDGES, axes, measures.edge_lengths, "edge_length", attrs)


def face_areas(ds: xr.Dataset, dims: Dims) -> xr.DataArray:
    """Return the area of each face, see :meth:`ZVDatasetAccessor.face_areas`."""
    shape = _linked(ds, names.FACES, "face_areas")
    axes = _chosen_axes(ds, shape, dims)
    if len(axes) < 2:
        raise InputError(f"an area needs two axes at least, and dims are {list(axes)}")
    attrs = {"long_name": "area of the face", **_units(ds, axes, power="2")}
    return _of_links(ds, shape, names.FACES, axes, measures.face_areas, "face_area", attrs)


def path_lengths(ds: xr.Dataset, dims: Dims) -> xr.DataArray:
    """Return the length of each path or tree, see :meth:`ZVDatasetAccessor.path_lengths`."""
    shape = shape_of(ds)
    if not (shape.is_path or names.PARENT in ds.variables or shape.geometry.has_parents):
        raise InputError(f"ds.zv.path_lengths() is of paths and skeletons: {_way_of(shape)}")
    if shape.view == "spatial":
        ds = _by_object(ds)
        shape = shape_of(ds)
    axes = _chosen_axes(ds, shape, dims)
    what = "path" if shape.is_path else "edges of the skeleton"
    attrs = {"long_name": f"length of the {what}", **_units(ds, axes)}
    columns = [] if shape.is_path else [_parents(ds), vertex_numbers(ds)]
    found = _of_objects(ds, axes, columns, _path_block if shape.is_path else _tree_block, per_object=True)
    return _named(ds, "path_length", xr.Variable(("object",), found, attrs))


def speeds(ds: xr.Dataset, time: str | None, dims: Dims) -> xr.DataArray:
    """Return the speed of the step to each vertex, see :meth:`ZVDatasetAccessor.speeds`."""
    shape = shape_of(ds)
    if not shape.is_path:
        raise InputError(
            f"ds.zv.speeds() is of paths: the vertices of a {shape.kind} have no order in time; write tracks with "
            "dzv.write_polylines(store, ..., object_ids=, sort_by=)"
        )
    if shape.view == "spatial":
        raise InputError("the vertices of paths are by chunk here: open the level with view='objects', then ds.zv.speeds()")
    name = _time_of(ds, shape, time)
    axes = _chosen_axes(ds, shape, dims, without=name)
    clock = ds.variables[name]
    unit, per = _units(ds, axes).get("units"), _time_unit(clock)
    attrs = {
        "long_name": "speed of the step that leads to the vertex",
        **({"units": f"{unit} {per}-1"} if unit and per else {}),
    }
    found = _of_objects(ds, axes, [clock], _speed_block, per_object=False)
    return _named(ds, "speed", xr.Variable(("vertex",), found, attrs))


# ---------------------------------------------------------------------------------------------- what is asked for


def _way_of(shape: Shape) -> str:
    """Return which method measures what a geometry is made of."""
    kind = shape.geometry
    if kind.is_path:
        return f"ds.zv.path_lengths() gives the length of each {shape.kind}, ds.zv.map_objects(...) anything else"
    if kind.link:
        method, holds = ("face_areas", "faces") if kind.link == "face" else ("edge_lengths", "edges")
        return f"a {shape.kind} has {holds}, which ds.zv.{method}() measures (view='spatial')"
    return f"the vertices of a {shape.kind} are not joined; ds.zv.map_objects(...) calls a function with those of each object"


def _linked(ds: xr.Dataset, role: str, method: str) -> Shape:
    """Return the shape of a Dataset that has links of a kind."""
    shape = shape_of(ds)
    if role in ds.variables:
        return shape
    if f"{shape.geometry.link}s" != role:
        raise InputError(f"ds.zv.{method}() is of {role}: {_way_of(shape)}")
    if shape.view == "objects":
        raise InputError(f"the {role} of a {shape.kind} are in the spatial view: open the level with view='spatial'")
    why = "keep them in the Dataset" if ds.sizes.get("vertex") else "the level has no data yet, or the selection none"
    raise InputError(f"the Dataset has no {role}, and ds.zv.{method}() measures them: {why}")


def _chosen_axes(ds: xr.Dataset, shape: Shape, dims: Dims, without: str | None = None) -> tuple[str, ...]:
    """Return the coordinates to measure along: all of space where nothing is said."""
    if dims is None:
        found = tuple(a for a in shape.axes if a != without and ds.variables[a].attrs.get("axis") != "T")
        if not found:
            raise InputError(f"no axis of {list(shape.axes)} is one of space: say along which to measure, dims=[...]")
        return found
    named = (dims,) if isinstance(dims, str) else tuple(dims)
    if not named or len(set(named)) < len(named) or not set(named) <= set(shape.axes):
        raise InputError(f"dims must be different axes of {list(shape.axes)}, each once, not {dims!r:.80}")
    return named


def _units(ds: xr.Dataset, axes: Sequence[str], power: str = "") -> dict[str, str]:
    """Return the attribute of units of a length along some axes; their units must be the same."""
    units = {a: ds.variables[a].attrs.get("units") for a in axes}
    if len(set(units.values())) > 1:
        told = ", ".join(f"{a} ({unit or 'none'})" for a, unit in units.items())
        unit, way = units[axes[0]], ""
        if unit and not any(ds.variables[a].attrs.get("axis") == "T" for a in axes):
            other = next(a for a in axes if units[a] != unit)
            way = (
                f", or scale the others and name the unit: ds = ds.drop_indexes({list(shape_of(ds).axes)}); "
                f"ds[{other!r}] = ds[{other!r}] * factor; ds[{other!r}].attrs['units'] = {unit!r}"
            )
        raise InputError(f"the axes have different units: {told}; measure along those of one unit, dims=[...]{way}")
    unit = units[axes[0]]
    return {} if unit is None else {"units": f"{unit}{power}"}


def _time_of(ds: xr.Dataset, shape: Shape, time: str | None) -> str:
    """Return the variable that holds the time of each vertex."""
    along = {**{a: a for a in shape.axes}, **shape.attributes}
    if time is not None:
        name = time if time in along.values() else along.get(time)
        if name is None or ds.variables[name].dtype.kind not in "iufmM" or ds.variables[name].ndim != 1:
            raise InputError(
                f"time is an axis or an attribute of vertices of numbers or dates, {list(along)}, not {time!r:.80}"
            )
        return name
    named = [a for a in shape.axes if ds.variables[a].attrs.get("axis") == "T"]
    dates = [v for v in shape.attributes.values() if ds.variables[v].dtype.kind in "mM"]
    usual = [v for own, v in shape.attributes.items() if own.lower() == "time" and ds.variables[v].dtype.kind in "iuf"]
    found = named or dates or usual
    if len(found) != 1:
        some = f"{' and '.join(found)} could be it" if found else "there is no axis of time, and no attribute of dates"
        raise InputError(f"the time of each vertex is not known, {some}: name it, ds.zv.speeds(time=...), of {list(along)}")
    return found[0]


def _time_unit(clock: xr.Variable) -> str | None:
    """Return the unit of differences in time: seconds of dates."""
    if clock.dtype.kind in "mM":
        return "s"
    told = str(clock.attrs.get("units", "")).partition(" since ")[0]
    return told or None


def _named(ds: xr.Dataset, name: str, variable: xr.Variable) -> xr.DataArray:
    """Return a variable with the coordinates that the Dataset has along its dimension."""
    return ds.drop_vars(name, errors="ignore").assign({name: variable})[name]


# ---------------------------------------------------------------------------------------------- links


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredLinks:
    """A table of one column: a measure of each link of a level, by the positions of its ends along some axes."""

    links: EdgeRows
    axes: tuple[int, ...]
    measure: Measure

    def column(self, name: Any, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Return the measure of some links; the chunks that their ends are in are read."""
        ends = self.links.column(CONNECTIVITY, rows)
        every, place = np.unique(ends, return_inverse=True)
        columns = [self.links.vertices.column(axis, every).astype(np.float64) for axis in self.axes]
        return self.measure(np.stack(columns, axis=-1)[place.reshape(ends.shape)])

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.links.__dask_tokenize__(), self.axes, self.measure.__name__)


def _of_links(
    ds: xr.Dataset, shape: Shape, role: str, axes: Sequence[str], measure: Measure, name: str, attrs: dict[str, str]
) -> xr.DataArray:
    dim, links = role[:-1], ds.variables[role]
    index = ds.xindexes.get(dim)
    read = [links, *(ds.variables[a] for a in axes)]
    stored = all(isinstance(v, StatefulVariable) and not v._in_memory and MARK in v.encoding for v in read)
    if names.TOPOLOGY in ds.variables:
        attrs = {**attrs, **names.on_mesh(dim)}
    if stored and has_store_positions(ds, shape) and isinstance(index, RowIndex) and isinstance(index.rows, EdgeRows):
        numbers = tuple(_axis_number(ds, a) for a in axes)
        table, n = MeasuredLinks(index.rows, numbers, measure), len(index.rows)
        whole = lazy_variable((dim,), table, name, (n,), np.dtype(np.float64), attrs, (n,))
        lazy = whole.isel({dim: index.numbers})
        lazy.encoding = {}
        return _named(ds, name, lazy if links.chunks is None else lazy.chunk({dim: links.chunksizes[dim]}))
    numbers_of = vertex_numbers(ds)
    columns = [ds.variables[a].data for a in axes]
    if not any(is_dask_collection(c) for c in (links.data, *columns)):
        positions = np.stack([np.asarray(c, np.float64) for c in columns], axis=-1)
        return _named(ds, name, xr.Variable((dim,), _measured(links.to_numpy(), positions, numbers_of, measure), attrs))
    import dask.array as da

    refuse_expressions(f"ds.zv.{name}s of a Dataset that is no longer the store's")
    positions = da.stack([da.asarray(c).astype(np.float64) for c in columns], axis=1).rechunk((-1, -1))
    of_edges = da.asarray(links.data).rechunk({1: -1})
    found = of_edges.map_blocks(
        _measured, positions.to_delayed()[0, 0], numbers_of, measure, dtype=np.float64, drop_axis=1, meta=np.zeros(0)
    )
    return _named(ds, name, xr.Variable((dim,), found, attrs))


def _axis_number(ds: xr.Dataset, axis: str) -> int:
    index = ds.xindexes[axis]
    assert isinstance(index, AxisIndex)
    return index.names[axis]


def _measured(
    links: NDArray[np.int64], positions: NDArray[Any], numbers: NDArray[np.int64], measure: Measure
) -> NDArray[np.float64]:
    """Measure links between vertices that are all there; NaN where an end is not."""
    ends = places_of(numbers, links)
    known = (ends >= 0).all(axis=1)
    out = np.full(len(links), np.nan)
    out[known] = measure(positions[ends[known]])
    return out


# ---------------------------------------------------------------------------------------------- whole objects


def _by_object(ds: xr.Dataset) -> xr.Dataset:
    """Return the objects view of what a Dataset in the spatial view holds a vertex of."""
    level, rows, _ = where_from(ds)
    check_stored(ds, level, "path_lengths", [])
    chunked = any(v.chunks is not None for v in ds.variables.values())
    found = objects_dataset(level)
    if rows is not None:
        found = select_objects(found, places_of_ids(found, objects_of_rows(level, rows)))
    if chunked:
        found = found.chunk(vertex=tuple(np.diff(merged_runs(check_in_step(found))[1]).tolist()))
    return found


def _parents(ds: xr.Dataset) -> xr.Variable:
    if names.PARENT not in ds.variables:
        raise InputError(
            "the Dataset has no 'parent' any more, by which the edges of skeletons are known: keep it in the Dataset"
        )
    return ds.variables[names.PARENT]


def _path_block(positions: NDArray[Any], lengths: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.float64]:
    return measures.path_lengths(positions, lengths)


def _tree_block(
    positions: NDArray[Any],
    lengths: NDArray[np.int64],
    ids: NDArray[np.int64],
    parents: NDArray[np.int64],
    numbers: NDArray[np.int64],
) -> NDArray[np.float64]:
    return measures.tree_lengths(positions, lengths, places_of(numbers, parents))


def _speed_block(
    positions: NDArray[Any], lengths: NDArray[np.int64], ids: NDArray[np.int64], times: NDArray[Any]
) -> NDArray[np.float64]:
    return measures.speeds(positions, lengths, times, ids)


def _of_objects(
    ds: xr.Dataset, axes: Sequence[str], columns: Sequence[Any], function: Callable[..., Any], *, per_object: bool
) -> Any:
    """Call a function with blocks of whole objects: positions, lengths, ids, and columns of their vertices.

    It returns a number to each object, or to each vertex. What comes is a Dask array where positions or columns are.
    """
    lengths = check_in_step(ds)
    ids = np.asarray(ds["object"].to_numpy() if "object" in ds.variables else np.arange(len(lengths)), np.int64)
    variables = [ds.variables[a] for a in axes]
    given = [c.data if isinstance(c, xr.Variable) else c for c in (*variables, *columns)]
    chunked = [c for c in given if is_dask_collection(c)]
    if not chunked or not len(lengths):
        some = [np.asarray(c) for c in given]
        positions = np.stack([c.astype(np.float64) for c in some[: len(axes)]], axis=1)
        return function(positions, lengths, ids, *some[len(axes) :])
    import dask.array as da

    objects, rows = _whole_objects(lengths, chunked[0].chunks[0])
    cut = [da.asarray(c).rechunk((rows,)) for c in given]
    positions = da.stack([c.astype(np.float64) for c in cut[: len(axes)]], axis=1).rechunk({1: -1})
    of_objects = [da.from_array(c, chunks=(objects,)) for c in (lengths, ids)]
    arrays = [positions, "ij", *(a for c in (*of_objects, *cut[len(axes) :]) for a in (c, "i"))]
    return da.blockwise(
        function,
        "i",
        *arrays,
        align_arrays=False,
        concatenate=True,
        adjust_chunks={"i": objects if per_object else rows},
        dtype=np.float64,
        meta=np.zeros(0),
    )


def _whole_objects(lengths: NDArray[np.int64], chunks: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the objects and the rows of each block of whole objects, about as large as some chunks of rows."""
    ends = np.cumsum(lengths)
    stops = np.unique(np.minimum(np.searchsorted(ends, np.cumsum(chunks)), len(ends) - 1)) + 1
    stops[-1] = len(ends)  # objects without vertices come last, maybe
    return tuple(np.diff(stops, prepend=0).tolist()), tuple(np.diff(ends[stops - 1], prepend=0).tolist())
