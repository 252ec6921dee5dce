"""Which level of which store a Dataset is of, and whether its variables still are the store's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.level.contents import LevelContents, level_of
from dask_zv.storage.specs import Place
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.arrays import MARK, StatefulVariable, is_lazy
from dask_zv.xarray_backend.content import Shape, check_in_step, object_index, row_index, shape_of
from dask_zv.xarray_backend.index import RowIndex
from dask_zv.xarray_backend.roles import by_roles
from dask_zv.xarray_backend.selection import has_store_positions, places_of_ids, select_objects, with_objects
from dask_zv.xarray_backend.views import objects_dataset, spatial_dataset


def place_of(ds: xr.Dataset) -> Place | None:
    """Return the place of the level that a Dataset is of, None where it does not know it any more."""
    index, objects = row_index(ds), object_index(ds)
    if objects is not None and objects.rows is not None:
        return objects.rows.vertices.source.place
    return None if index is None else index.level.source.place


def where_from(ds: xr.Dataset) -> tuple[LevelContents, slice | NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """Return the level that a Dataset is of, which of its rows it holds (None: all), and which objects, in the objects view.

    A Dataset that no longer knows, and a level that was rewritten since, are errors.
    """
    shape = shape_of(ds)
    index = row_index(ds)
    if index is not None and not has_store_positions(ds, shape):
        raise InputError(
            "the positions have no index any more, so they may differ from the store, which this function reads: write the "
            "Dataset with ds.zv.to_store(...), or use it as it was opened"
        )
    if index is not None:
        every = index.numbers == slice(0, len(index.level)) if isinstance(index.numbers, slice) else False
        return level_of(index.level.source), None if every else index.numbers, None
    objects = object_index(ds)
    if objects is not None and objects.rows is not None:
        check_in_step(ds)
        at = np.searchsorted(objects.rows.lengths.ids, objects.ids)
        if not np.array_equal(objects.rows.counts[at], ds[names.COUNT].to_numpy()):
            raise InputError(
                "a box clipped the objects, but this needs whole ones: select with clip=False, or do it with view='spatial'"
            )
        return level_of(objects.rows.vertices.source), None, objects.ids
    raise InputError(
        "the Dataset has lost the connection to its level (clip='cut' makes new vertices, too): use it as it was opened, or as "
        "ds.zv.sel selected from it"
    )


def check_stored(
    ds: xr.Dataset, level: LevelContents, what: str, wanted: Sequence[str] | None, *, objects: bool = False
) -> None:
    """Refuse variables that were changed or added, where `what` reads them from the store on the workers.

    `wanted` are the attributes of vertices that it reads, all where None; with `objects`, it reads those of objects, too.
    """
    shape = shape_of(ds)
    tables = [shape.attributes, *([shape.object_attributes] if objects else [])]
    read = [*(a for a in shape.axes if a in ds.variables)]
    chosen = [wanted] if isinstance(wanted, str) else wanted
    read += [name for table in tables for own, name in table.items() if chosen is None or own in chosen]
    changed = [name for name in read if MARK not in ds.variables[name].encoding]
    # how the rest belongs together is in memory from the start where no table tells of it
    held = [r for r in (names.OBJECT_ID, names.OBJECT_INDEX, names.PARENT, names.EDGES, names.FACES) if r in ds.variables]
    changed += [r for r in held if isinstance(v := ds.variables[r], StatefulVariable) and MARK not in v.encoding]
    read += [r for r in held if isinstance(ds.variables[r], StatefulVariable)]
    if not changed and (doubtful := [name for name in read if not is_lazy(ds.variables[name])]):
        stored = _as_stored(ds, level, shape, doubtful)
        changed = [n for n in doubtful if n not in stored or not stored[n].equals(ds.variables[n].to_base_variable())]
    if changed:
        name = changed[0]
        raise InputError(
            f"{name!r} was changed or added since the level was opened, and {what} reads the store: write the Dataset with "
            f"ds.zv.to_store(...) and map that, leave it out with ds.drop_vars({name!r}), or name what the function "
            "needs, attributes=[...]",
            store=level.url,
        )


def _as_stored(ds: xr.Dataset, level: LevelContents, shape: Shape, wanted: list[str]) -> dict[str, xr.Variable]:
    """Return variables as the store has them, where it has them; they are read."""
    index, by_id = row_index(ds), object_index(ds)
    if shape.view == "objects":
        assert by_id is not None
        fresh = objects_dataset(level)
        fresh = select_objects(fresh, places_of_ids(fresh, by_id.ids))
    else:
        assert index is not None
        fresh = spatial_dataset(level)
        rows = {"vertex": index.numbers}
        for dim in ("edge", "face", "object"):
            links = ds.xindexes.get(dim)
            if isinstance(links, RowIndex) and dim in fresh.dims:
                rows[dim] = links.numbers
        fresh = with_objects(fresh.isel(rows), ds["object"].to_numpy() if "object" in ds.dims else None)
    fresh = by_roles(fresh)[0]
    # axes and attributes that were renamed are what they were
    before, now = shape_of(fresh), shape
    back = dict(zip(now.axes, before.axes, strict=True))
    for old, new in ((before.attributes, now.attributes), (before.object_attributes, now.object_attributes)):
        back |= {new[own]: old[own] for own in new if own in old}
    there = {name: back.get(name, name) for name in wanted}
    return {k: fresh.variables[v].to_base_variable().load() for k, v in there.items() if v in fresh.variables}
