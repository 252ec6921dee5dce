"""The two views of a level as lazy Datasets.

``view="spatial"`` has vertices chunk by chunk, so that boxes prune; objects as an index per vertex, links by vertex number.
``view="objects"`` has each object's vertices together and in the order of its path: CF contiguous ragged arrays. One module
because both are put together from the same parts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.geometry.kinds import kind_of
from dask_zv.geometry.result import Geometry
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.level.contents import LevelContents
from dask_zv.level.link_source import LinkSource
from dask_zv.read.columns import OBJECT_ID, OBJECT_INDEX, LevelRows
from dask_zv.read.edge_rows import CONNECTIVITY, EdgeRows, ParentRows, count_links
from dask_zv.read.levels import read_level
from dask_zv.read.object_columns import GROUPS, ObjectColumns, array_state, object_fields
from dask_zv.read.object_rows import PARENT, ObjectRows, object_ids, object_lengths
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.arrays import MARK, StatefulVariable, even_chunks, lazy_variable, merged_chunks, object_runs
from dask_zv.xarray_backend.index import AxisIndex, ObjectIdIndex, RowIndex
from dask_zv.xarray_backend.object_axes import ObjectAxisIndex, ObjectRowIndex
from dask_zv.xarray_backend.step_index import held_together, in_step

_INT = np.dtype(np.int64)
Chunks = tuple[int, ...]


class _View:
    """The variables of a view as they come together: attributes get names that neither the view nor others have.

    `rows` is the table of vertices, `chunks` are the lengths along ``vertex`` that suit the store, `used` the names of the view
    itself but for those of the axes.
    """

    def __init__(
        self,
        level: LevelContents,
        dropped: Collection[str],
        used: Iterable[str],
        rows: Any,
        dtype: np.dtype[Any],
        chunks: Chunks,
    ) -> None:
        self.level, self.dropped, self.rows, self.chunks = level, dropped, rows, chunks
        self.n = sum(chunks)
        metadata = level.store.metadata
        self.crs = metadata.crs
        self.used = {"vertex", *used, *([names.CRS] if self.crs is not None else [])}
        self.axes: dict[str, xr.Variable] = {}
        self.data: dict[str, xr.Variable] = {}
        self.labels: dict[str, xr.Variable] = {}
        """Coordinates of channels."""
        for i, axis in enumerate(metadata.axes):
            if axis.name in self.used:
                raise InputError(
                    f"the axis {axis.name!r} has the name of an axis or of another variable of the view: leave it out with "
                    f"drop_variables=[{axis.name!r}]"
                )
            self.axes[axis.name] = self.lazy(i, dtype, names.axis_attrs(axis, self.crs is not None, level))

    def lazy(
        self,
        column: str | int,
        dtype: np.dtype[Any],
        attrs: dict[str, Any],
        dims: Sequence[str] = (),
        shape: Chunks = (),
        table: Any = None,
    ) -> xr.Variable:
        """Return a column of `table`, of the vertices by default, whose values have this shape along more dimensions."""
        rows = self.rows if table is None else table
        return lazy_variable(("vertex", *dims), rows, column, (self.n, *shape), dtype, attrs, self.chunks)

    def put(self, name: str, variable: xr.Variable) -> None:
        """Add a variable unless it is to be left out."""
        if name not in self.dropped:
            self.data[name] = variable

    @property
    def taken(self) -> set[str]:
        """Names that are used up."""
        return {*self.used, *self.axes, *self.data, *self.labels}

    def located(self, where: str) -> dict[str, Any]:
        """Return what places a variable: in the topology, at its nodes, edges or faces, and in the reference system."""
        mesh = names.on_mesh(where) if where else {}
        return mesh if self.crs is None else {**mesh, "grid_mapping": names.CRS}

    def add_vertex_attributes(self, where: str) -> None:
        """Add the attributes of vertices, and the labels of their channels."""
        source, taken, located = self.level.source, self.taken, self.located(where)
        for attribute in source.schema.attributes:
            shown, own = names.free_name(attribute.name, "vertex", taken)
            taken.add(shown)
            if shown in self.dropped:
                continue
            attrs = {**names.attribute_attrs(attribute, self.level), **located, **own}
            dims, shape = _channels(attribute, shown, {*taken, *self.level.attributes})
            self.data[shown] = self.lazy(attribute.name, attribute.value_dtype, attrs, dims, shape)
            if dims:
                taken.add(dims[0])
                labels = attribute.channel_names or tuple(f"ch{i}" for i in range(shape[0]))
                self.labels[dims[0]] = xr.Variable(dims, np.asarray(labels))
        if source.chunk_attribute is not None:
            name, values = source.chunk_attribute
            shown, own = names.free_name(name, "vertex", taken)
            if shown not in self.dropped:
                attrs = {"long_name": f"{name} (part of the chunk key)", **own}
                self.data[shown] = self.lazy(name, np.asarray(values).dtype, attrs)

    def add_object_attributes(self, columns: ObjectColumns, n: int, chunks: Chunks) -> None:
        """Add the attributes of objects."""
        taken = self.taken
        for name, f in columns.fields.items():
            shown, own = names.free_name(name, "object", taken)
            taken.add(shown)
            if shown in self.dropped:
                continue
            said = self.level.index.tables.attributes(f"object_attributes/{name}")
            attrs = {**names.described(self.level, "object", name, said), **own}
            if f.missing is not None and f.dtype.kind in "iu":
                attrs["missing_value"] = f.missing
            dims = ("object", *(names.channel_dim(f"{shown}_{i}", {*taken, *columns.fields}) for i in range(len(f.shape))))
            self.data[shown] = lazy_variable(dims, columns, name, (n, *f.shape), f.dtype, attrs, chunks)

    def dataset(self, view: str) -> xr.Dataset:
        """Return the Dataset without the indexes of dask-zv; variables that describe structure are coordinates."""
        if self.crs is not None:
            self.data[names.CRS] = names.grid_mapping(self.crs)
        kept = {k: v for k, v in {**self.data, **self.axes, **self.labels}.items() if k not in self.dropped}
        ds = xr.Dataset(kept, attrs=names.dataset_attrs(self.level, view))
        ds.encoding = names.dataset_encoding(self.level)
        return ds.set_coords([k for k in kept if k not in self.data or k in self.used])


def _channels(attribute: AttributeSchema, shown: str, taken: Collection[str]) -> tuple[tuple[str, ...], Chunks]:
    """Return the further dimension of an attribute, and its length; nothing where it has one value."""
    if attribute.channels is None:
        return (), ()
    return (names.channel_dim(f"{shown}_channel", taken),), (attribute.channels,)


def _parent_attrs(where: str = "") -> dict[str, Any]:
    about = f"number of the vertex' parent{where}"
    return {"long_name": about, "comment": "-1: a root", "valid_min": 0, "zv_role": names.PARENT}


# ---------------------------------------------------------------------------------------------- by chunk


def spatial_dataset(level: LevelContents, dropped: Collection[str] = (), *, chunk_table: bool = False) -> xr.Dataset:
    """Return a level as a lazy Dataset in the order of its chunks; with the table of chunks along ``chunk`` where wanted."""
    rows = LevelRows(level.source, level.chunks, level.offset)
    found = level.found_links(0) if kind_of(level.kind).link else None
    table = names.chunk_variables(level) if chunk_table else {}
    used = {*table, *(["chunk"] if table else [])}
    if level.source.schema.has_objects:
        used |= {"object", names.OBJECT_ID, names.OBJECT_INDEX, names.TABLE, "object_table_column"}
    if found is not None:
        name, dim = names.link_names(found.source)
        used |= {name, dim, f"{dim}_node", names.TOPOLOGY, *([names.PARENT] if kind_of(level.kind).has_parents else [])}
    view = _View(level, dropped, used, rows, rows.dtype, merged_chunks(level.chunks.rows))
    view.add_vertex_attributes("" if found is None else "node")
    if level.source.schema.has_objects:
        _add_owners(view)
    edges = None if found is None else _add_links(view, found.source)
    if level.source.schema.has_objects:
        columns = ObjectColumns(level.source, object_fields(level.index), 0, level.index)
        view.add_object_attributes(columns, level.index.count, even_chunks(level.index.count))
    view.data |= table
    return _indexed(view, rows, edges)


def _indexed(view: _View, rows: LevelRows, edges: EdgeRows | None) -> xr.Dataset:
    """Return the Dataset of the spatial view with its indexes."""
    # variables first: assign_coords would make plain Variables of them, whose Dask keys don't name the store's state
    ds, level = view.dataset("spatial"), view.level
    if level.source.schema.has_objects and "object" not in view.dropped:
        # a coordinate of its own dimension is in memory: xarray makes it so
        about = {"long_name": "id of the object", "zv_role": "object"}
        ids = xr.Variable(("object",), object_ids(level.source, level.index), about)
        ds = ds.assign_coords(xr.Coordinates({"object": ids}, indexes={}))
    by_row = RowIndex(rows, slice(0, len(rows)))
    axes = {k: v for k, v in view.axes.items() if k not in view.dropped}
    if axes:
        numbers = {a.name: i for i, a in enumerate(level.store.metadata.axes) if a.name in axes}
        by_axis = AxisIndex(by_row, numbers, view.chunks)
        ds = ds.assign_coords(xr.Coordinates(axes, indexes=dict.fromkeys(axes, by_axis)))
    dim = "" if edges is None else names.link_names(edges.links)[1]
    for index in (by_row, *([] if edges is None else [RowIndex(edges, slice(0, len(edges)), dim, dim)])):
        if index.dim in ds.dims:
            ds = ds.assign_coords(xr.Coordinates(index.create_variables(), indexes={index.name: index}))
    return held_together(ds, ds["object"].to_numpy()) if "object" in ds.variables else ds


def _add_owners(view: _View) -> None:
    """Add the object of each vertex: its id, and its place along ``object``."""
    shared = {"comment": "-1: of none, -2: shared"}
    owner = {"long_name": "object of each vertex", **shared, "zv_role": names.OBJECT_ID}
    view.put(names.OBJECT_ID, view.lazy(OBJECT_ID, _INT, owner))
    last = view.level.index.count - 1  # tells a table that was cut
    place = {"long_name": "place of each vertex' object along the dimension object", "instance_dimension": "object"}
    view.put(names.OBJECT_INDEX, view.lazy(OBJECT_INDEX, _INT, {**place, **shared, "valid_min": 0, "valid_max": last}))


def _add_links(view: _View, links: LinkSource) -> EdgeRows | None:
    """Add connectivity, attributes of links, topology, and parents of skeletons; return the table that links are read from."""
    level, rows = view.level, view.rows
    name, dim = names.link_names(links)
    trees = level.has_implied_edges
    with_parents = kind_of(level.kind).has_parents or trees
    if links.family.width == 1 or {name, *([names.PARENT] if with_parents else [])} <= {*view.dropped}:
        return None
    what = "numbers of the vertices of each link" if dim == "edge" else "numbers of the vertices around each face"
    about = "number of each vertex, and of its parent" if with_parents else what
    attrs = {"cf_role": f"{dim}_node_connectivity", "long_name": about, "start_index": 0}
    # which end of a record is the child only the whole level of a chunked skeleton tells
    counts = None if trees and level.is_chunked_skeleton else count_links(rows, links, trees=trees)
    table = None if counts is None else EdgeRows(rows, links, counts, trees=trees)
    if table is None:
        _add_loaded_links(view, links, attrs)
    else:
        runs = merged_chunks(table.counts)
        shape = (len(table), links.family.width)
        view.put(name, lazy_variable((dim, f"{dim}_node"), table, CONNECTIVITY, shape, _INT, attrs, runs))
        _add_link_attributes(view, table, dim, runs)
        if with_parents:
            parents = ParentRows(rows, links, implied=trees)
            view.put(names.PARENT, view.lazy(names.PARENT, _INT, _parent_attrs(), table=parents))
    view.put(names.TOPOLOGY, names.topology(links, level.store.axes))
    return table


def _add_link_attributes(view: _View, table: EdgeRows, dim: str, runs: Chunks) -> None:
    taken = view.taken
    every = {a.schema.name for a in table.links.attributes}
    for attribute in () if table.trees else table.links.attributes:
        schema = attribute.schema
        shown, own = names.free_name(schema.name, dim, taken)
        taken.add(shown)
        dims, shape = _channels(schema, shown, {*taken, *every})
        if schema.any_width and schema.channels is None and (width := table.value_width(schema.name)) != 1:
            dims, shape = (names.channel_dim(f"{shown}_channel", {*taken, *every}),), (width,)
        attrs = {**names.attribute_attrs(schema, view.level, "link"), **view.located(dim), **own}
        view.put(shown, lazy_variable((dim, *dims), table, schema.name, (len(table), *shape), schema.value_dtype, attrs, runs))


def _add_loaded_links(view: _View, links: LinkSource, attrs: dict[str, Any]) -> None:
    """Add the links as they are read with the whole level: other tools' stores don't tell how many there are."""
    name, dim = names.link_names(links)
    found = read_level(view.level, order="chunk", attributes=[a.schema.name for a in links.attributes])
    assert isinstance(found, Geometry)
    faces = name == names.FACES
    ends, values = (found.faces, found.face_attributes) if faces else (found.edges, found.edge_attributes)
    if ends is not None:
        taken = {*view.taken, name}
        view.put(name, xr.Variable((dim, f"{dim}_node"), ends, attrs))
        for key, column in values.items():
            plain = _plain(column)
            shown, own = names.free_name(key, dim, taken)
            taken.add(shown)
            more = tuple(names.channel_dim(f"{shown}_channel", {*taken, *values}) for _ in plain.shape[1:])
            about = {**names.described(view.level, "link", key), **view.located(dim), **own}
            view.put(shown, xr.Variable((dim, *more), plain, about))
    if found.parents is not None:  # cut as the other variables of vertices are
        encoding = {"preferred_chunks": {"vertex": view.chunks}}
        view.put(names.PARENT, xr.Variable(("vertex",), found.parents, _parent_attrs(), encoding))


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return values without a mask: NaN where there is none."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    missing = np.ma.getmaskarray(values)
    return np.where(missing, np.nan, values.data) if missing.any() else np.asarray(values.data)


# ---------------------------------------------------------------------------------------------- by object


def objects_dataset(level: LevelContents, dropped: Collection[str] = ()) -> xr.Dataset:
    """Return a level as a lazy Dataset in the order of its objects."""
    if not level.source.schema.has_objects:
        raise InputError(f"{level.url} has no objects: open it with view='spatial'")
    lengths = object_lengths(level.source, level.chunks, level.index)
    kind = kind_of(level.kind)
    trees, paths = kind.has_parents, kind.is_path
    vertices = LevelRows(level.source, level.chunks, level.offset)
    links = level.found_links(0) if trees else None
    rows = ObjectRows(vertices, lengths, links, chunked=level.is_chunked_skeleton, implied=level.has_implied_edges)
    groups, group_attributes = level.index.tables.groups
    used = {"object", "vertex_end", names.OBJECT_ID, names.COUNT, names.RANGE}
    used |= {*([names.PARENT] if trees else []), *([names.CONTAINER] if paths else [])}
    used |= {"group", names.IN_GROUP} if groups else set()
    cells, edges = (tuple(np.diff(at).tolist()) for at in object_runs(lengths.lengths))
    view = _View(level, dropped, used, rows, vertices.dtype, edges)
    view.add_vertex_attributes("")  # a container is claimed of what lies along objects, and the topology is not in this view
    about = {"long_name": "vertices of each object", "sample_dimension": "vertex"}
    # a copy: users may change it in place
    view.put(names.COUNT, StatefulVariable(("object",), lengths.lengths.copy(), about, {MARK: {"object": cells}}))
    owner = {"long_name": "object of each vertex", "zv_role": names.OBJECT_ID}
    view.put(names.OBJECT_ID, view.lazy(OBJECT_ID, _INT, owner))
    if trees:
        view.put(names.PARENT, view.lazy(PARENT, _INT, _parent_attrs(" in this view")))
    columns = ObjectColumns(level.source, object_fields(level.index), 0, level.index)
    view.add_object_attributes(columns, len(lengths), cells)
    if groups:
        columns.group_count = max(groups) + 1
        columns.group_state = array_state(level.index.tables, "groups")
        member = {"long_name": "object is in the group", "zv_role": names.IN_GROUP}
        shape = (len(lengths), columns.group_count)
        dims = ("object", "group")
        view.put(names.IN_GROUP, lazy_variable(dims, columns, GROUPS, shape, np.dtype(bool), member, cells))
        number = {"long_name": "number of the group", "zv_role": "group"}
        view.put("group", xr.Variable(("group",), np.arange(columns.group_count), number))
        _add_group_attributes(view, group_attributes)
    if paths:
        _add_container(view)
    ds = view.dataset("objects")
    numbers = {"long_name": "row number in this view", "zv_role": "vertex"}
    ds = ds.assign_coords(vertex=xr.IndexVariable("vertex", pd.RangeIndex(view.n), numbers))
    index = ObjectIdIndex(rows, lengths.ids)
    ds = ds.assign_coords(xr.Coordinates(index.create_variables(), indexes={"object": index}))
    by_row = ObjectRowIndex(rows, slice(0, view.n))
    kept = {k: v for k, v in view.axes.items() if k not in dropped}
    on_axes = {k: ObjectAxisIndex(by_row, {k: level.store.axes.index(k)}, edges) for k in kept}
    ds = ds.assign_coords(xr.Coordinates(kept, indexes=on_axes))
    return in_step(ds, lengths.lengths)


def _add_group_attributes(view: _View, attributes: Any) -> None:
    for name, values in attributes.items():
        shown, own = names.free_name(name, "group", view.taken)
        plain = np.ma.filled(values)
        dims = ("group", *(f"{shown}_{i}" for i in range(plain.ndim - 1)))
        view.put(shown, xr.Variable(dims, plain, {**names.described(view.level, "group", name), **own}))


def _add_container(view: _View) -> None:
    """Add the CF geometry container of lines, and name it in the variables of objects."""
    for name, variable in view.data.items():
        if variable.dims[:1] == ("object",) and name != names.COUNT:
            variable.attrs["geometry"] = names.CONTAINER
    coordinates = " ".join(names.drawn_axes(view.level.store.axes))
    attrs = {"geometry_type": names.CF_LINE, "node_count": names.COUNT, "node_coordinates": coordinates}
    if view.crs is not None:
        attrs["grid_mapping"] = names.CRS
    view.put(names.CONTAINER, xr.Variable((), 0, attrs))
