"""Exact selections that keep a Dataset consistent: vertices with the links between them, objects with their vertices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError, NotFoundError
from dask_zv.format.objects import GROUP_NAMES
from dask_zv.geometry.assembly import take_ranges
from dask_zv.level.contents import level_of
from dask_zv.level.object_index import chosen_ids, fragment_owners
from dask_zv.level.object_tables import ObjectTables
from dask_zv.read.columns import OBJECT_ID, LevelRows, PlacesIn, places_in, rows_in
from dask_zv.read.edge_rows import EdgeRows
from dask_zv.read.select import select as select_chunks
from dask_zv.spatial.grid import Box, as_box, stored_box
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.arrays import lazy_variable
from dask_zv.xarray_backend.content import Shape, check_in_step, group_numbers, object_index, row_index, shape_of, starts_of
from dask_zv.xarray_backend.cutting import cut_at_box
from dask_zv.xarray_backend.index import AxisIndex, RowIndex, position_label
from dask_zv.xarray_backend.step_index import held_together, isel_in_step
from dask_zv.xarray_backend.views import objects_dataset

_OBJECT_VIEWS: WeakKeyDictionary[LevelRows, xr.Dataset] = WeakKeyDictionary()
"""The objects view of levels that are open in the spatial view: who takes one object takes another."""


def has_store_positions(ds: xr.Dataset, shape: Shape) -> bool:
    """Return True if the positions are those of the store: their index goes when others are put in their place."""
    return all(isinstance(ds.xindexes.get(a), AxisIndex) for a in shape.axes if a in ds.variables)


def select(
    ds: xr.Dataset,
    bbox: Any,
    objects: int | Sequence[int] | None,
    groups: int | str | Sequence[int] | Sequence[str] | None,
    *,
    clip: bool | str,
    positions: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return the vertices inside a box that are of some objects; see :meth:`ZVDatasetAccessor.sel`."""
    shape = shape_of(ds)
    box = None if bbox is None else as_box(bbox, len(shape.axes))
    if positions:
        box = _narrowed(shape, box, positions)
    ids = _wanted(ds, objects, groups)
    if clip not in (True, False, "cut"):
        raise InputError(f"clip is True, False or 'cut', not {clip!r:.80}")
    if clip == "cut":
        ds = ds if ids is None else select(ds, None, ids, None, clip=True)
        if box is None or shape.geometry.is_points:  # a point has nothing to cut
            return ds if box is None else select(ds, box, None, None, clip=True)
        return cut_at_box(ds, shape, box)
    if shape.view == "objects":
        return _select_by_object(ds, shape, box, ids, clip=clip)
    if not clip:
        raise InputError("clip=False gives whole objects, which view='objects' holds: open the level in that view")
    index = row_index(ds) if has_store_positions(ds, shape) else None
    if index is None:
        return with_objects(_with_links(ds, ds.isel(vertex=_loaded_rows(ds, shape, box, ids))), ids)
    if ids is not None and not index.level.source.schema.has_objects:
        raise InputError(f"{index.level.source.where()} has no objects")
    if box is None and ids is None:
        return ds
    return with_objects(_with_links(ds, ds.isel(vertex=index.places(rows_in(index.level, box, ids)))), ids)


def _narrowed(shape: Shape, box: Box | None, positions: Mapping[str, Any]) -> Box:
    """Return what is in a box and in slices along axes."""
    low, high = (np.full(len(shape.axes), s) for s in (-np.inf, np.inf)) if box is None else (c.copy() for c in box)
    for name, label in positions.items():
        if name not in shape.axes or not isinstance(label, slice) or label.step is not None:
            form = ", ".join(f"{a}=slice(low, high)" for a in shape.axes)
            raise InputError(f"{name}={label!r:.80}: a box is given by slices along its axes, {form}")
        axis = shape.axes.index(name)
        ends = [position_label(name, end) if end is not None else None for end in (label.start, label.stop)]
        if None not in ends and ends[0] > ends[1]:  # type: ignore[operator]
            raise InputError(f"{name}={label!r:.80} begins after its end: slice(low, high) is meant")
        low[axis] = low[axis] if ends[0] is None else max(low[axis], ends[0])
        high[axis] = high[axis] if ends[1] is None else min(high[axis], ends[1])
    return low, high


def _wanted(ds: xr.Dataset, objects: Any, groups: Any) -> list[int] | None:
    """Return the ids of the objects that are asked for, directly or as members of groups."""
    ids = None if objects is None else chosen_ids(objects)
    if groups is not None:
        members = _members(ds, chosen_ids(_group_numbers(ds, groups)))
        ids = members if ids is None else np.intersect1d(ids, members)
    return None if ids is None else ids.tolist()


def _group_numbers(ds: xr.Dataset, groups: Any) -> Any:
    """Return groups by their numbers where they are given by name."""
    wanted = np.atleast_1d(np.asarray(groups))
    if wanted.dtype.kind not in "OUT" or not len(wanted):
        return groups
    index = row_index(ds)
    named = np.zeros(0, str)
    if GROUP_NAMES in ds.variables:
        named = ds[GROUP_NAMES].to_numpy()
    elif index is not None and index.level.source.schema.has_objects:
        named = ObjectTables(index.level.source).groups[1].get(GROUP_NAMES, named)
    lost = [g for g in wanted.tolist() if g not in named.tolist()]
    if lost:
        raise NotFoundError(f"no group {lost[0]!r}: they are called {', '.join(map(repr, named.tolist())) or 'nothing'}")
    found = np.flatnonzero(np.isin(named, wanted.astype(str)))
    return group_numbers(ds)[found] if GROUP_NAMES in ds.variables else found


def _members(ds: xr.Dataset, groups: NDArray[np.int64]) -> NDArray[np.int64]:
    if names.IN_GROUP in ds.variables:
        table, numbers = np.asarray(ds[names.IN_GROUP].values), group_numbers(ds)
        if len(absent := groups[~np.isin(groups, numbers)]):
            raise NotFoundError(f"no group {absent[0]}: there are {len(numbers)}")
        return np.asarray(ds["object"].values)[table[:, np.isin(numbers, groups)].any(axis=1)]
    index = row_index(ds)
    if index is None or not index.level.source.schema.has_objects:
        raise InputError("groups= needs a Dataset of a level with objects, as it was opened or selected from that")
    known, _ = ObjectTables(index.level.source).groups
    lost = [g for g in groups.tolist() if g not in known]
    if lost:
        raise NotFoundError(f"no group {lost[0]}: there are {len(known)}", store=index.level.source.where())
    return np.unique(np.concatenate([np.zeros(0, np.int64), *(known[g] for g in groups.tolist())]))


def _loaded_rows(ds: xr.Dataset, shape: Shape, box: Box | None, ids: list[int] | None) -> NDArray[np.intp]:
    """Select among rows of unknown origin: by their own coordinates, which are read for it."""
    mask = np.ones(ds.sizes["vertex"], bool)
    if box is not None:
        mask &= _inside(ds, shape, box)
    if ids is not None:
        if names.OBJECT_ID not in ds.variables:
            raise InputError("the Dataset has no objects")
        mask &= np.isin(ds[names.OBJECT_ID].to_numpy(), ids)
    return np.flatnonzero(mask)


def _inside(ds: xr.Dataset, shape: Shape, box: Box) -> NDArray[np.bool_]:
    mask = np.ones(ds.sizes["vertex"], bool)
    for name, low, high in zip(shape.axes, *box, strict=True):
        values = ds[name].to_numpy()
        low, high = stored_box((low, high), values.dtype)
        values = values.astype(np.float64, copy=False)
        mask &= (values >= low) & (values <= high)
    return mask


# ---------------------------------------------------------------------------------------------- links among vertices


def _with_links(before: xr.Dataset, after: xr.Dataset) -> xr.Dataset:
    """Leave out the links that lead to vertices which are not there any more."""
    for name, dim in ((names.EDGES, "edge"), (names.FACES, "face")):
        if name not in before.variables or "vertex" not in after.variables:
            continue
        links, vertices = after.xindexes.get(dim), after.xindexes.get("vertex")
        if isinstance(links, RowIndex) and isinstance(vertices, RowIndex) and isinstance(links.rows, EdgeRows):
            after = after.isel({dim: links.places(_filed_near(links.rows, vertices))})
        numbers = after["vertex"].to_numpy()
        ends = np.asarray(after[name].variable.to_numpy())
        after = after.isel({dim: np.flatnonzero(np.isin(ends, numbers).all(axis=1))})
    return after


def with_objects(ds: xr.Dataset, ids: Sequence[int] | NDArray[np.int64] | None) -> xr.Dataset:
    """Leave out all other objects of the spatial view's table, whose vertices are not there any more."""
    if ids is None or "object" not in ds.variables or ds["object"].dims != ("object",):
        return ds
    known = ds["object"].to_numpy()
    if (known[1:] > known[:-1]).all():
        near = np.searchsorted(known, np.unique(np.asarray(ids, np.int64)))
        near = near[near < len(known)]
        at = near[np.isin(known[near], ids)]
    else:
        at = np.flatnonzero(np.isin(known, ids))
    out = ds.drop_vars(names.TABLE, errors="ignore").isel(object=at)
    place = ds.variables.get(names.OBJECT_INDEX)
    if place is not None and names.OBJECT_ID in ds.variables:
        attrs = {**place.attrs, "valid_max": len(at) - 1}
        index, n = row_index(ds), ds.sizes["vertex"]
        if index is None:
            places = xr.Variable(place.dims, places_in(known[at], ds[names.OBJECT_ID].to_numpy()), attrs)
        else:
            table = PlacesIn(known[at], index.level)
            whole = lazy_variable(("vertex",), table, OBJECT_ID, (len(index.level),), place.dtype, attrs, (n,))
            places = whole.isel(vertex=index.numbers)
        out = out.assign_coords({names.OBJECT_INDEX: places if place.chunks is None else places.chunk(place.chunksizes)})
    return held_together(out, known[at]) if names.TABLE in ds.variables else out


def _filed_near(table: EdgeRows, index: RowIndex) -> slice | NDArray[np.int64]:
    """Return the numbers of the links that are filed under the chunks of some vertices: no other can be between them."""
    if isinstance(index.numbers, slice):
        if index.numbers.stop <= index.numbers.start:
            return slice(0, 0)
        first, last = table.vertices.cells_between(index.numbers.start, index.numbers.stop)
        return slice(int(table.offsets[first]), int(table.offsets[last]))
    chunks = np.unique(np.searchsorted(table.vertices.offsets, index.numbers, side="right") - 1)
    return take_ranges(table.offsets[chunks], table.counts[chunks])


def chunks_in(ds: xr.Dataset, bbox: Any) -> xr.Dataset:
    """Return whole chunks; see :meth:`ZVDatasetAccessor.chunks_in`."""
    index = row_index(ds)
    if index is None or not isinstance(index.numbers, slice):
        raise InputError("chunks_in needs a Dataset as it was opened, or a run of its rows; use sel(bbox=...) on others")
    rows = index.level
    chunks = _touched(rows, as_box(bbox, rows.source.schema.grid.ndim))
    after = ds.isel(vertex=index.places(_run(take_ranges(rows.offsets[chunks], rows.counts[chunks]))))
    for dim in ("edge", "face"):
        links = ds.xindexes.get(dim)
        if isinstance(links, RowIndex) and isinstance(links.rows, EdgeRows):
            table = links.rows
            near = _run(take_ranges(table.offsets[chunks], table.counts[chunks]))
            after = after.isel({dim: links.places(near)})
    return after


def _run(numbers: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Return ascending numbers as a slice where they are one run."""
    if len(numbers) and int(numbers[-1]) - int(numbers[0]) + 1 == len(numbers):
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers


def _touched(rows: LevelRows, box: Box) -> NDArray[np.int64]:
    """Return the numbers of the chunks that a box touches."""
    return select_chunks(rows.source, rows.table, lambda: rows.index, box=box, offset=rows.offset).chunks


# ---------------------------------------------------------------------------------------------- objects


def select_objects(ds: xr.Dataset, at: NDArray[np.intp]) -> xr.Dataset:
    """Return some objects of the objects view, by their places, with all their vertices."""
    lengths = check_in_step(ds)
    starts = starts_of(ds, lengths)
    if len(at) and (np.diff(at) == 1).all():
        rows: slice | NDArray[np.int64] = slice(int(starts[at[0]]), int(starts[at[-1] + 1]))
    else:
        rows = take_ranges(starts[at], lengths[at])
    return isel_in_step(ds, at, rows, lengths[at])


def _select_by_object(ds: xr.Dataset, shape: Shape, box: Box | None, ids: list[int] | None, *, clip: bool | str) -> xr.Dataset:
    if ids is not None:
        ds = select_objects(ds, places_of_ids(ds, np.asarray(ids, np.int64)))
    if box is None:
        return ds
    index = object_index(ds)
    if index is not None and index.rows is not None:  # no other objects can be in the box
        ds = select_objects(ds, np.flatnonzero(np.isin(index.ids, _near(index.rows.vertices, box))))
    lengths = check_in_step(ds)
    inside = _inside(ds, shape, box)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    if not clip:
        return select_objects(ds, np.unique(owner[inside]))
    rows = np.flatnonzero(inside)
    begins = np.ones(len(rows), bool)
    begins[1:] = owner[rows[1:]] != owner[rows[:-1]]
    if shape.is_path:  # each unbroken run is a path of its own: nothing is drawn where the box was left
        begins[1:] |= np.diff(rows) != 1
    first = np.flatnonzero(begins)
    counts = np.diff(np.r_[first, len(rows)]).astype(np.int64)
    out = isel_in_step(ds, owner[rows[first]], rows, counts)
    return out.assign_coords({names.COUNT: xr.Variable(("object",), counts, ds[names.COUNT].attrs)})


def places_of_ids(ds: xr.Dataset, ids: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the places of some objects (by id, ascending) in a Dataset, in its order: a path that a box cut has several."""
    known = np.asarray(ds["object"].to_numpy())
    if (known[1:] >= known[:-1]).all():
        first = np.searchsorted(known, ids)
        counts = np.searchsorted(known, ids, side="right") - first
        lost, at = ids[counts == 0], take_ranges(first, counts)
    else:
        lost, at = ids[~np.isin(ids, known)], np.flatnonzero(np.isin(known, ids))
    if len(lost):
        raise NotFoundError(f"no object {lost[0]} in the Dataset")
    return at


def _near(rows: LevelRows, box: Box) -> NDArray[np.int64]:
    """Return the ids of the objects that have a fragment in a chunk that the box touches."""
    coords = rows.table.coords[_touched(rows, box)]
    if not len(coords):
        return np.zeros(0, np.int64)
    return np.unique(fragment_owners(rows.source, coords, rows.index).within(coords).objects)


def objects_of(ds: xr.Dataset, key: Any) -> xr.Dataset:
    """Return whole objects by id; see :attr:`ZVDatasetAccessor.objects`."""
    shape = shape_of(ds)
    index = row_index(ds)
    if shape.view == "spatial":
        if index is None or index.rows is None or not index.rows.source.schema.has_objects:
            raise InputError(
                "ds.zv.objects[...] needs a Dataset of a level with objects, as it was opened or selected from that"
            )
        if shape.geometry.link:
            ids = _chosen(key, lambda: index.level.index.ids)
            whole = ds if index.numbers == slice(0, len(index.rows)) else None
            if whole is None:
                raise InputError(
                    "vertices were selected before, so objects may not be whole: use sel(objects=...), or the level"
                )
            return select(ds, None, ids.tolist(), None, clip=True)
        whole_view = _OBJECT_VIEWS.get(index.level)
        if whole_view is None:
            whole_view = _OBJECT_VIEWS[index.level] = objects_dataset(level_of(index.level.source))
        kept = shape_of(ds).attributes
        ds = whole_view.drop_vars([v for k, v in shape_of(whole_view).attributes.items() if k not in kept])
    return select_objects(ds, places_of_ids(ds, _chosen(key, lambda: np.asarray(ds["object"].to_numpy()))))


def _chosen(key: Any, ids: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the ids that a key names: one, several, or all from one to another (both are in it, as labels are)."""
    if isinstance(key, slice):
        if key.step is not None:
            raise InputError("objects are taken by id: a slice of ids has no step")
        low = -np.inf if key.start is None else key.start
        high = np.inf if key.stop is None else key.stop
        known = ids()
        return np.unique(known[(known >= low) & (known <= high)])
    return chosen_ids(key)
