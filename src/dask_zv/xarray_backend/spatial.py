"""``view="spatial"``: vertices chunk by chunk, so that boxes prune; objects as an index per vertex, links by vertex number."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.geometry.schema import AttributeSchema
from dask_zv.level.link_source import LinkSource
from dask_zv.read.columns import OBJECT_ID, OBJECT_INDEX, LevelRows
from dask_zv.read.edge_rows import CONNECTIVITY, EdgeRows, ParentRows, count_links
from dask_zv.read.object_columns import ObjectColumns, object_fields
from dask_zv.read.object_rows import object_ids
from dask_zv.store.level import Level
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.arrays import lazy_variable
from dask_zv.xarray_backend.index import AxisIndex, RowIndex
from dask_zv.xarray_backend.step_index import held_together

_CHUNK_ROWS = 500_000
_CHUNK_CELLS = 4096
_LINKED = ("graph", "skeleton", "mesh")
Variables = dict[str, xr.Variable]


def spatial_dataset(level: Level, dropped: Collection[str] = (), *, chunk_table: bool = False) -> xr.Dataset:
    """Return a level as a lazy Dataset in the order of its chunks.

    Parameters
    ----------
    level : Level
    dropped : collection of str
        Variables to leave out.
    chunk_table : bool
        Add the chunks themselves: their coordinates, rows and first rows, along ``chunk``.

    Raises
    ------
    InputError
        An attribute has the name of an axis, or of something else in the Dataset.
    """
    rows = LevelRows(level.source, level.chunks, level.offset)
    chunks = tuple(np.diff(merged_runs(level.chunks.rows)[1]).tolist())
    axes = level.store.metadata.axes
    coords: Variables = {
        axis.name: lazy_variable(
            ("vertex",),
            rows,
            i,
            (len(rows),),
            rows.dtype,
            names.axis_attrs(axis, level.store.metadata.crs is not None, level),
            chunks,
        )
        for i, axis in enumerate(axes)
    }
    table = chunk_variables(level) if chunk_table else {}
    taken = {"vertex", *_used(level), *table, *(["chunk"] if table else [])}
    names.check_names(taken, dict.fromkeys(coords, "the axis"))
    taken |= {*coords}
    data, more = _vertex_data(level, rows, chunks, dropped, taken)
    links_index: list[RowIndex] = []
    if level.kind in _LINKED and (links := level.found_links(0)) is not None:
        new, edges = _link_data(level, rows, links.source, dropped, {*taken, *data, *more})
        if edges is not None:
            dim = names.link_names(links.source)[1]
            links_index.append(RowIndex(edges, slice(0, len(edges)), dim, dim))
        data |= new
    if level.source.schema.has_objects:
        new, ids = _object_data(level, {*taken, *data, *more}, dropped)
        data, more = {**data, **new}, {**more, **ids}
    if level.store.metadata.crs is not None:
        data[names.CRS] = names.grid_mapping(level.store.metadata.crs)
    data |= table
    more |= {k: v for k, v in data.items() if k in taken}  # how the rest belongs together: no data
    return _assembled(level, [RowIndex(rows, slice(0, len(rows))), *links_index], chunks, coords, more, data, dropped)


def _used(level: Level) -> set[str]:
    """Return the names that the view itself uses, but for those of the axes."""
    used: set[str] = set()
    if level.source.schema.has_objects:
        used |= {"object", names.OBJECT_ID, names.OBJECT_INDEX, names.TABLE, "object_table_column"}
    if level.kind in _LINKED and (links := level.found_links(0)) is not None:
        name, dim = names.link_names(links.source)
        used |= {name, dim, f"{dim}_node", names.TOPOLOGY, *([names.PARENT] if level.kind == "skeleton" else [])}
    return used if level.store.metadata.crs is None else {*used, names.CRS}


def _assembled(
    level: Level,
    indexes: list[RowIndex],
    chunks: tuple[int, ...],
    axes: Variables,
    coords: Variables,
    data: Variables,
    dropped: Collection[str],
) -> xr.Dataset:
    """Return the Dataset with its indexes."""
    axes = {k: v for k, v in axes.items() if k not in dropped}
    kept = {k: v for k, v in {**data, **axes, **coords}.items() if k not in dropped}
    without_index = {k for k in coords if k == "object"}
    by_axis = AxisIndex(indexes[0], {a.name: i for i, a in enumerate(level.store.metadata.axes) if a.name in axes}, chunks)
    # variables first: assign_coords would make plain Variables of them, whose Dask keys don't name the store's state
    ds = xr.Dataset({k: v for k, v in kept.items() if k not in without_index}, attrs=names.dataset_attrs(level, "spatial"))
    ds = ds.set_coords([k for k in {**axes, **coords} if k in ds.variables])
    bare = {k: kept[k] for k in without_index if k in kept}
    if bare:
        ds = ds.assign_coords(xr.Coordinates(bare, indexes={}))
    if axes:
        ds = ds.assign_coords(xr.Coordinates(axes, indexes=dict.fromkeys(axes, by_axis)))
    for index in indexes:
        if index.dim in ds.dims:
            ds = ds.assign_coords(xr.Coordinates(index.create_variables(), indexes={index.name: index}))
    return held_together(ds, ds["object"].to_numpy()) if "object" in ds.variables else ds


def vertex_attributes(
    level: Level, rows: Any, length: int, chunks: tuple[int, ...], dropped: Collection[str], taken: Collection[str]
) -> tuple[Variables, Variables]:
    """Return the attributes of vertices, and the coordinates of their channels.

    Parameters
    ----------
    level : Level
    rows : Columns
        Has the attributes by name.
    length : int
    chunks : tuple of int
    dropped, taken : collection of str
    """
    data: Variables = {}
    coords: Variables = {}
    taken = {*taken}
    for attribute in level.source.schema.attributes:
        shown, own = names.free_name(attribute.name, "vertex", taken)
        taken.add(shown)
        if shown in dropped:
            continue
        dims, shape = _shape("vertex", length, attribute, shown, {*taken, *level.attributes})
        if len(dims) > 1:
            taken.add(dims[1])
            labels = attribute.channel_names or tuple(f"ch{i}" for i in range(shape[1]))
            coords[dims[1]] = xr.Variable(dims[1:], np.asarray(labels))
        attrs = {**names.attribute_attrs(attribute, level), **_located(level, "node"), **own}
        data[shown] = lazy_variable(dims, rows, attribute.name, shape, attribute.value_dtype, attrs, chunks)
    if level.source.chunk_attribute is not None:
        name, values = level.source.chunk_attribute
        shown, own = names.free_name(name, "vertex", taken)
        attrs = {"long_name": f"{name} (part of the chunk key)", **own}
        if shown not in dropped:
            data[shown] = lazy_variable(("vertex",), rows, name, (length,), np.asarray(values).dtype, attrs, chunks)
    return data, coords


def _shape(
    dim: str, n: int, attribute: AttributeSchema, shown: str, taken: Collection[str]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if attribute.channels is None:
        return (dim,), (n,)
    return (dim, names.channel_dim(f"{shown}_channel", taken)), (n, attribute.channels)


def _located(level: Level, where: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if level.kind in _LINKED and level.found_links(0) is not None:
        out = {"mesh": names.TOPOLOGY, "location": where}
    if level.store.metadata.crs is not None:
        out["grid_mapping"] = names.CRS
    return out


def _vertex_data(
    level: Level, rows: LevelRows, chunks: tuple[int, ...], dropped: Collection[str], taken: Collection[str]
) -> tuple[Variables, Variables]:
    data, coords = vertex_attributes(level, rows, len(rows), chunks, dropped, taken)
    if level.source.schema.has_objects:
        n = (len(rows),)
        attrs = {"long_name": "object of each vertex", "comment": "-1: of none, -2: shared", "zv_role": names.OBJECT_ID}
        data[names.OBJECT_ID] = lazy_variable(("vertex",), rows, OBJECT_ID, n, np.dtype(np.int64), attrs, chunks)
        place: dict[str, Any] = {
            "long_name": "place of each vertex' object along the dimension object",
            "instance_dimension": "object",
            "comment": "-1: of none, -2: shared",
            "valid_min": 0,
            "valid_max": level.index.count - 1,  # tells a table that was cut
        }
        data[names.OBJECT_INDEX] = lazy_variable(("vertex",), rows, OBJECT_INDEX, n, np.dtype(np.int64), place, chunks)
    return data, coords


def _object_data(level: Level, taken: Collection[str], dropped: Collection[str]) -> tuple[Variables, Variables]:
    """Return the attributes of objects, and their ids."""
    fields = object_fields(level.index)
    columns = ObjectColumns(level.source, fields, 0, level.index)
    n = level.index.count
    chunks = _even(n)
    # a coordinate of its own dimension is in memory: xarray makes it so
    ids = xr.Variable(
        ("object",), object_ids(level.source, level.index), {"long_name": "id of the object", "zv_role": "object"}
    )
    return object_attributes(level, columns, n, chunks, taken, dropped), {"object": ids}


def object_attributes(
    level: Level, columns: ObjectColumns, n: int, chunks: tuple[int, ...], taken: Collection[str], dropped: Collection[str]
) -> Variables:
    """Return the attributes of objects; one that has the name of something else gets ``object_`` before it."""
    data: Variables = {}
    taken = {*taken}
    for name, f in columns.fields.items():
        shown, own = names.free_name(name, "object", taken)
        taken.add(shown)
        if shown in dropped:
            continue
        attrs = {**names.described(level, "object", name), **own}
        if f.missing is not None and f.dtype.kind in "iu":
            attrs["missing_value"] = f.missing
        dims = ("object", *(names.channel_dim(f"{shown}_{i}", {*taken, *columns.fields}) for i in range(len(f.shape))))
        data[shown] = lazy_variable(dims, columns, name, (n, *f.shape), f.dtype, attrs, chunks)
    return data


def _link_data(
    level: Level, rows: LevelRows, links: LinkSource, dropped: Collection[str], taken: Collection[str]
) -> tuple[Variables, EdgeRows | None]:
    """Return connectivity, attributes of links, topology, and parents of skeletons; and the table that they are read from."""
    name, dim = names.link_names(links)
    trees, with_parents = level.has_implied_edges, level.kind == "skeleton" or level.has_implied_edges
    if links.family.width == 1 or {name, names.PARENT} <= {*dropped, *([] if with_parents else [names.PARENT])}:
        return {}, None
    attrs = {
        "cf_role": f"{dim}_node_connectivity",
        "long_name": "numbers of the vertices of each link" if dim == "edge" else "numbers of the vertices around each face",
        "start_index": 0,
    }
    if with_parents:
        attrs["long_name"] = "number of each vertex, and of its parent"
    dims = (dim, f"{dim}_node")
    made = _counts(level, rows, links, trees=trees)
    table = None if made is None else EdgeRows(rows, links, made, trees=trees)
    if table is None:
        out = _loaded(level, dims, attrs, name, taken)
    else:
        out = _lazy_links(level, table, dims, attrs, name, taken)
        if with_parents:
            chunks = tuple(np.diff(merged_runs(level.chunks.rows)[1]).tolist())
            parents, n = ParentRows(rows, links, implied=trees), (len(rows),)
            about = _parent_attrs()
            out[names.PARENT] = lazy_variable(("vertex",), parents, names.PARENT, n, np.dtype(np.int64), about, chunks)
    out[names.TOPOLOGY] = names.topology(links, level.store.axes)
    return {k: v for k, v in out.items() if k not in dropped}, table


def _parent_attrs() -> dict[str, Any]:
    return {"long_name": "number of the vertex' parent", "comment": "-1: a root", "valid_min": 0, "zv_role": names.PARENT}


def _counts(level: Level, rows: LevelRows, links: LinkSource, *, trees: bool) -> NDArray[np.int64] | None:
    """Return the links of each chunk, None where only reading tells."""
    if trees and level.is_chunked_skeleton:
        return None  # which end of a record is the child only the whole level tells
    return count_links(rows, links, trees=trees)


def _lazy_links(
    level: Level, table: EdgeRows, dims: tuple[str, str], attrs: dict[str, Any], name: str, taken: Collection[str]
) -> Variables:
    n = len(table)
    runs = tuple(np.diff(merged_runs(table.counts)[1]).tolist())
    width = table.links.family.width
    out = {name: lazy_variable(dims, table, CONNECTIVITY, (n, width), np.dtype(np.int64), attrs, runs)}
    taken = {*taken}
    every = {a.schema.name for a in table.links.attributes}
    for attribute in () if table.trees else table.links.attributes:
        schema = attribute.schema
        shown, about = names.free_name(schema.name, dims[0], taken)
        taken.add(shown)
        channel = names.channel_dim(f"{shown}_channel", {*taken, *every})
        if schema.any_width and schema.channels is None:
            values = table.value_width(schema.name)
            shape: tuple[int, ...] = (n,) if values == 1 else (n, values)
        else:
            shape = (n,) if schema.channels is None else (n, schema.channels)
        own = (dims[0], *(channel for _ in shape[1:]))
        about = {**names.attribute_attrs(schema, level, "link"), **_located(level, dims[0]), **about}
        out[shown] = lazy_variable(own, table, schema.name, shape, schema.value_dtype, about, runs)
    return out


def _loaded(level: Level, dims: tuple[str, str], attrs: dict[str, Any], name: str, taken: Collection[str]) -> Variables:
    """Return the links as they are read with the whole level: other tools' stores don't tell how many there are."""
    found = level.read(order="chunk", attributes=_of_links(level))
    ends = found.faces if name == names.FACES else found.edges
    values = found.face_attributes if name == names.FACES else found.edge_attributes
    out: Variables = {}
    if ends is not None:
        out[name] = xr.Variable(dims, ends, attrs)
        for key, column in values.items():
            plain = _plain(column)
            shown, about = names.free_name(key, dims[0], {*taken, *out})
            extra = tuple(names.channel_dim(f"{shown}_channel", {*taken, *values}) for _ in plain.shape[1:])
            about = {**names.described(level, "link", key), **_located(level, dims[0]), **about}
            out[shown] = xr.Variable((dims[0], *extra), plain, about)
    if found.parents is not None:
        runs = tuple(np.diff(merged_runs(level.chunks.rows)[1]).tolist())  # as the other variables of vertices are cut
        out[names.PARENT] = xr.Variable(("vertex",), found.parents, _parent_attrs(), {"preferred_chunks": {"vertex": runs}})
    return out


def _of_links(level: Level) -> list[str]:
    links = level.found_links(0)
    return [] if links is None else [a.schema.name for a in links.source.attributes]


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return values without a mask: NaN where there is none."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    missing = np.ma.getmaskarray(values)
    return np.where(missing, np.nan, values.data) if missing.any() else np.asarray(values.data)


def chunk_variables(level: Level) -> Variables:
    """Return the table of chunks: coordinates, rows and first row of each, along ``chunk``."""
    table = level.chunks
    own = [] if level.source.leading is None else [level.source.leading]
    out = {
        f"chunk_{axis}": xr.Variable(("chunk",), table.coords[:, i], {"long_name": f"chunk coordinate along {axis}"})
        for i, axis in enumerate([*own, *level.store.axes])
    }
    first = np.cumsum(table.rows) - table.rows
    out["chunk_rows"] = xr.Variable(("chunk",), table.rows, {"long_name": "vertices in the chunk"})
    out["chunk_first_row"] = xr.Variable(("chunk",), first, {"long_name": "number of the chunk's first vertex"})
    return out


def merged_runs(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Merge cells into runs that make tasks worth their cost.

    Returns
    -------
    cells : ndarray of int64
        First cell of each run, and the number of cells at the end.
    edges : ndarray of int64
        The rows at which runs begin, and the number of rows at the end.
    """
    ends = np.cumsum(rows)
    cells = [0]
    n = len(rows)
    while cells[-1] < n:
        start = cells[-1]
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + _CHUNK_ROWS, side="right"))
        cells.append(min(max(stop, start + 1), start + _CHUNK_CELLS, n))
    at = np.asarray(cells, np.int64)
    if len(at) == 1:
        return np.array([0, 0]), np.array([0, 0])
    return at, np.append(0, ends)[at]


def _even(n: int) -> tuple[int, ...]:
    """Return lengths of parts of a table of n rows."""
    full, rest = divmod(n, _CHUNK_ROWS)
    return (_CHUNK_ROWS,) * full + ((rest,) if rest or not full else ())
