"""A Dataset in one of the two views, written into a new store as one graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.geometry.kinds import geometry_named, kind_of
from dask_zv.geometry.polylines import LINE
from dask_zv.geometry.schema import Kind
from dask_zv.graph.builder import refuse_expressions
from dask_zv.level.contents import level_of, read_headers
from dask_zv.level.object_tables import ObjectTables
from dask_zv.storage.handles import open_objects
from dask_zv.storage.nodes import read_document
from dask_zv.storage.targets import resolve_target
from dask_zv.store.store import create
from dask_zv.write.containers import EACH_AXIS, attrs_of, with_attrs
from dask_zv.write.graphs import write_graph, write_meshes
from dask_zv.write.points import write_points
from dask_zv.write.polylines import write_lines, write_polylines
from dask_zv.write.skeletons import write_skeletons
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.content import (
    Shape,
    check_in_step,
    group_numbers,
    object_index,
    row_index,
    shape_of,
    vertex_numbers,
)
from dask_zv.xarray_backend.origin import place_of

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from dask_zv.graph.report import Report


_USER_METADATA = "user_metadata"
"""Attribute of a root and of levels that the format leaves to applications."""
_ID = "id of the object, to write"


def to_store(
    ds: xr.Dataset,
    target: Any,
    *,
    chunk_shape: Sequence[float] | None,
    geometry: str | None,
    create_options: Mapping[str, Any],
    write_options: Mapping[str, Any],
) -> Report | Delayed:
    """Write a Dataset into a new store, see :meth:`ZVDatasetAccessor.to_store`; options are those of `create` and `write_*`."""
    refuse_expressions("to_store")
    shape = shape_of(ds)
    kind = shape.kind if geometry is None else geometry_named(geometry)
    if chunk_shape is None:
        chunk_shape = ds.attrs.get("chunk_shape")
        if chunk_shape is None:
            raise InputError(
                "chunk_shape says how large the chunks of the new store are, one edge an axis; the Dataset has none"
            )
    _check_view(shape, kind)
    _check_target(ds, target, create_options["storage_options"], overwrite=create_options["overwrite"])
    lazy = ds.drop_indexes(list(ds.xindexes)).chunk({}).unify_chunks()
    axes = [
        {"name": a, **({"unit": u} if u else {}), "type": _axis_type(ds, a)}
        for a, u in zip(shape.axes, shape.units, strict=True)
    ]
    positions = da.stack([lazy[a].data for a in shape.axes], axis=1)
    positions = positions.rechunk({1: -1})
    about = {EACH_AXIS: {a: _about_axis(ds, a) for a in shape.axes}}
    options = {**write_options, "attributes": {k: _column(lazy, v) for k, v in shape.attributes.items()}}
    options |= _objects(ds, lazy, shape, kind)
    options |= _links(ds, lazy, shape, kind)
    headers, own = headers_of(ds), _user_metadata(ds)
    store = create(target, geometry=kind, chunk_shape=tuple(chunk_shape), axes=axes, crs=shape.crs, **create_options)
    for name, header in headers.items():
        store.group.require_group("headers").require_group(name).attrs.update(header)
    for group, values in zip((store.group, store.level(0).group), own, strict=True):
        if values is not None:
            group.attrs.update({_USER_METADATA: values})
    written: Report | Delayed
    if kind == LINE.name:
        positions = positions.reshape((-1, 2, len(shape.axes)))
        written = write_lines(store, with_attrs(positions, about), **_pairs(options))
    else:
        written = _writer(kind_of(kind))(store, with_attrs(positions, about), **options)
    return written


def _writer(geometry: Kind) -> Any:
    if geometry.is_path:
        return write_polylines
    if geometry.has_parents:
        return write_skeletons
    return {"": write_points, "edge": write_graph, "face": write_meshes}[geometry.link]


def _check_view(shape: Shape, kind: str) -> None:
    if kind_of(kind).is_path and shape.view != "objects":
        raise InputError(
            f"the vertices of a {kind} are not in the order of its path in the spatial view: open the store with "
            "view='objects', and select with ds.zv.sel(...) there"
        )
    if kind_of(kind).link and not kind_of(kind).has_parents and shape.view != "spatial":
        raise InputError(f"the links of a {kind} are in the spatial view: open the store with view='spatial'")


def _check_target(ds: xr.Dataset, target: Any, storage_options: Mapping[str, Any] | None, *, overwrite: bool) -> None:
    """Refuse the store that the Dataset is read from: it would be gone before it was read."""
    place = place_of(ds)
    if place is not None:
        source = place.handle, place.prefix.rpartition("/")[0]
    elif str(url := ds.attrs.get("zv_url", "")).startswith("file:"):  # lazy columns may be its, though no index knows
        source = resolve_target(url, read_only=True)
    else:
        return
    handle, prefix = resolve_target(target, storage_options, read_only=True)
    if handle.holds(prefix, *source, below=overwrite):
        raise InputError(
            "the target is the store that the Dataset is read from (or holds it): write another one, and move "
            "it into place when it is whole"
        )


def headers_of(ds: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Return the headers of the store that a Dataset is of; none where it does not know it any more."""
    place = place_of(ds)
    return {} if place is None else read_headers(place.handle, place.prefix.rpartition("/")[0])


def _user_metadata(ds: xr.Dataset) -> list[Any]:
    """Return what applications keep at the root and the level that a Dataset is of, None where there is nothing."""
    place = place_of(ds)
    if place is None:
        return [None, None]
    objects = open_objects(place.handle)
    documents = [read_document(objects, path) or {} for path in (place.prefix.rpartition("/")[0], place.prefix)]
    return [d.get("attributes", {}).get(_USER_METADATA) for d in documents]


def _axis_type(ds: xr.Dataset, name: str) -> str:
    return "time" if ds[name].attrs.get("axis") == "T" else "space"


def _about_axis(ds: xr.Dataset, name: str) -> dict[str, Any]:
    """Return what a coordinate of positions says of them, beside what the axis of the store says and views say of any."""
    attrs = attrs_of(f"axis {name!r}", ds[name].variable)
    any_views = {"units": attrs.get("units"), "axis": attrs.get("axis") if name.lower() in "xyzt" else "T"}
    any_views["long_name"] = f"{ds[name].attrs.get('zv_axis', name)} position"
    return {k: v for k, v in attrs.items() if v != any_views.get(k)}


def _column(ds: xr.Dataset, name: str) -> Any:
    """Return a variable as writing takes it: with what its attributes say of it, but for a name that says nothing more."""
    column = ds[name].variable
    plain = str(column.attrs.get("zv_name", name)).replace("_", " ")
    about = {k: v for k, v in column.attrs.items() if k != "long_name" or v != plain}
    values = column.data
    if values.dtype.kind in "OUT" and hasattr(values, "map_blocks"):
        values = values.map_blocks(np.asarray, object, dtype=object)
    return xr.Variable(column.dims, values, about)


def _objects(ds: xr.Dataset, lazy: xr.Dataset, shape: Shape, kind: str) -> dict[str, Any]:
    """Return the arguments that tell of objects."""
    out: dict[str, Any] = {}
    ids: NDArray[np.int64] | None = None
    if shape.view == "objects":
        ids = np.asarray(ds["object"].to_numpy() if "object" in ds.variables else np.arange(ds.sizes["object"]), np.int64)
        lengths = check_in_step(ds)
        if len(np.unique(ids)) < len(ids) and shape.is_path:
            raise InputError(
                "an id comes several times along 'object', since a box cut its path into runs: give every run an id of its "
                "own, ds.drop_vars('object').assign_coords(object=range(...)), or select with clip=False"
            )
        if kind == LINE.name:
            out["object_ids"] = ids
        elif kind_of(kind).is_path:
            out |= {"lengths": lengths, "object_ids": ids}
        else:
            out["object_ids"] = da.from_array(np.repeat(ids, lengths), chunks=(lazy.chunksizes["vertex"],))
    elif names.OBJECT_ID in ds.variables:
        out["object_ids"] = lazy[names.OBJECT_ID].data
        ids = np.asarray(ds["object"].to_numpy(), np.int64) if "object" in ds.variables else None
    if ids is None:
        if lost := [*shape.object_attributes.values()]:
            raise InputError(
                f"{', '.join(lost)} lie along 'object', and nothing says of which objects they are: keep the coordinate "
                f"'object' with their ids (and object_id of the vertices), or leave them out with ds.drop_vars({lost!r})"
            )
        return out
    # objects without vertices are told of where nothing was selected
    whole = shape.view == "objects" or (row_index(ds) is not None and not _is_part(ds))
    present = ids if whole else np.unique(np.asarray(ds[names.OBJECT_ID].to_numpy()))
    if shape.object_attributes:
        kept = np.flatnonzero(np.isin(ids, present))
        columns = {k: _column(ds, v)[kept] for k, v in shape.object_attributes.items()}
        out["object_attributes"] = _table(columns, ids[kept])
    groups, about = _groups(ds, present)
    if groups:
        out["groups"] = groups
        if about is not None:
            out["group_attributes"] = about
    return out


def _table(columns: Mapping[str, xr.Variable], ids: NDArray[np.int64]) -> xr.Dataset:
    """Return a row to each id, along dimensions whose names no attribute has: one may be called "object"."""
    table = {k: xr.Variable((_ID, *(f"{_ID} {k} {i}" for i in range(1, v.ndim))), v.data, v.attrs) for k, v in columns.items()}
    return xr.Dataset(table, coords={_ID: ids})


def _groups(ds: xr.Dataset, present: NDArray[np.int64]) -> tuple[dict[int, list[int]], Any]:
    """Return the members of each group that are in the Dataset, and the attributes of groups."""
    if names.IN_GROUP in ds.variables:
        table, ids = np.asarray(ds[names.IN_GROUP].to_numpy()), np.asarray(ds["object"].to_numpy())
        numbers = group_numbers(ds)
        groups = {g: ids[table[:, i]].tolist() for i, g in enumerate(numbers.tolist())}
        named = [str(k) for k, v in ds.variables.items() if v.dims == ("group",)]
        along = {str(ds[k].attrs.get("zv_name", k)): _column(ds, k) for k in named}
        along.pop("group", None)
        return groups, _table(along, numbers) if along else None
    index = row_index(ds)
    if index is None or not index.level.source.schema.has_objects:
        return {}, None
    known, about = ObjectTables(index.level.source).groups
    groups = {g: np.intersect1d(m, present).tolist() for g, m in known.items()}
    specs = level_of(index.level.source).store.attribute_specs.get("group", {})
    columns = {k: with_attrs(np.asarray(np.ma.getdata(v)), specs.get(k, {}).get("attrs", {})) for k, v in about.items()}
    return groups, columns or None


def _links(ds: xr.Dataset, lazy: xr.Dataset, shape: Shape, kind: str) -> dict[str, Any]:
    """Return the arguments that tell of links; those that lead out of the Dataset are left out."""
    geometry = kind_of(kind)
    if not geometry.link:
        return {}
    faces = geometry.link == "face"
    name = names.PARENT if geometry.has_parents else names.FACES if faces else names.EDGES
    if name not in ds.variables:
        raise InputError(f"the Dataset has no {name!r}, which a {kind} needs")
    other = {} if geometry.has_parents else shape.edge_attributes if faces else shape.face_attributes
    if other:
        raise InputError(f"a {kind} holds no {', '.join(other)}: leave them out with ds.drop_vars({[*other.values()]!r})")
    numbers = vertex_numbers(ds)
    known = np.sort(numbers)
    links = lazy[name].data
    vertex_ids = da.from_array(np.asarray(numbers, np.int64), chunks=(lazy.chunksizes["vertex"],))
    if geometry.has_parents:
        parents = links.map_blocks(_known_or_none, known, dtype=np.int64) if _is_part(ds) else links
        return {"parents": parents, "vertex_ids": vertex_ids}
    columns = shape.face_attributes if faces else shape.edge_attributes
    values = {k: _column(lazy, v) for k, v in columns.items()}
    if _is_part(ds):
        kept = links.map_blocks(_all_known, known, dtype=bool, drop_axis=1)
        links, values = links[kept], {k: with_attrs(v.data[kept], v.attrs) for k, v in values.items()}
    out: dict[str, Any] = {name: links, "vertex_ids": vertex_ids}
    if values:
        out[f"{geometry.link}_attributes"] = values
    if not faces:
        about_links = ds[names.TOPOLOGY].attrs if names.TOPOLOGY in ds.variables else {}
        out["directed"] = bool(about_links.get("directed", 0))
    return out


def _is_part(ds: xr.Dataset) -> bool:
    """Return True if links may lead out of the Dataset: it is a selection of the vertices of a level."""
    index, objects = row_index(ds), object_index(ds)
    if objects is not None and objects.rows is not None:
        return ds.sizes["vertex"] != len(objects.rows)
    return index is not None and len(index) != len(index.level)


def _known_or_none(parents: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(np.isin(parents, known), parents, -1)


def _all_known(links: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(np.isin(links, known).all(axis=1))


def _pairs(options: dict[str, Any]) -> dict[str, Any]:
    """Return arguments for lines: attributes a row to a line, not to an endpoint."""
    attributes = {k: with_attrs(v.data.reshape((-1, 2, *v.shape[1:])), v.attrs) for k, v in options["attributes"].items()}
    return {**options, "attributes": attributes}
