"""A level as the input of a write: its rows, links, objects and groups as lazy arrays, in the terms of ``write_*``.

So a level is written again in other chunks, or several into one, through the planners of all writes: in bounded memory, with
the same checks, resumable. One module because all of it is numbered by the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from dask.delayed import delayed
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import InputError
from dask_zv.format.objects import GROUP_NAMES, sentinel
from dask_zv.geometry.kinds import kind_of
from dask_zv.geometry.polylines import LINE
from dask_zv.geometry.schema import AttributeSchema, Kind
from dask_zv.graph.builder import refuse_expressions
from dask_zv.level.contents import LevelContents
from dask_zv.level.object_tables import WHOLE_STRINGS
from dask_zv.read.columns import OBJECT_ID, POSITIONS, LevelRows, RaggedColumns
from dask_zv.read.edge_rows import CONNECTIVITY, EdgeRows, ParentRows, count_links
from dask_zv.read.object_rows import ObjectRows, object_lengths
from dask_zv.write.containers import EACH_AXIS, with_attrs
from dask_zv.write.graphs import write_graph, write_meshes
from dask_zv.write.points import write_points
from dask_zv.write.polylines import write_lines, write_polylines
from dask_zv.write.skeletons import write_skeletons

Attrs = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class GivenColumn:
    """A lazy attribute, a row to a vertex or a link, with its units and the like."""

    values: Any  # a dask array
    attrs: Attrs


@dataclass(frozen=True, slots=True, eq=False)
class LevelInput:
    """A level, as `write_*` take it; rows are in reading order, of paths object by object."""

    level: LevelContents
    kind: Kind
    positions: Any  # dask array (N, D)
    attributes: Mapping[str, GivenColumn]
    ids: Any  # of each vertex, a dask array (N,); of paths of each object, an array (O,); None where there are no objects
    lengths: NDArray[np.int64] | None  # vertices of each path, (O,)
    parents: Any  # dask array (N,) of rows, -1 at roots
    links: Any  # dask array (E, L) of rows
    link_attributes: Mapping[str, GivenColumn]
    directed: bool
    objects: NDArray[np.int64] | None  # ids of all objects, ascending
    object_attributes: Mapping[str, tuple[Any, Attrs]]  # (O, ...), masked where an object has none
    groups: Mapping[int, NDArray[np.int64]]
    group_attributes: Mapping[str, tuple[NDArray[Any], Attrs]] = field(default_factory=dict)


def level_input(level: LevelContents) -> LevelInput:
    """Return what a level holds; nothing is read of its chunks."""
    refuse_expressions("writing a store again")
    source, kind = level.source, kind_of(level.kind)
    rows = LevelRows(source, level.chunks, level.offset, level.index if source.schema.has_objects else None)
    lengths = None
    table: RaggedColumns = rows
    ids: Any = None
    if kind.is_path:
        if not source.schema.has_objects:
            raise InputError(f"the {level.kind} have no manifests, which say how their vertices follow", store=level.url)
        found = object_lengths(source, level.chunks, level.index)
        table, lengths, ids = ObjectRows(rows, found), found.lengths, found.ids
    elif source.schema.has_objects:
        ids = _lazy(rows, OBJECT_ID, (), np.dtype(np.int64))
    specs = level.store.attribute_specs
    attributes = {a.name: _attribute(table, a, specs.get("vertex", {})) for a in source.schema.attributes}
    if source.chunk_attribute is not None:
        name = source.chunk_attribute[0]
        dtype = np.asarray(source.chunk_attribute[1]).dtype
        attributes[name] = GivenColumn(_lazy(table, name, (), dtype), {})
    parents, links, directed = None, None, False
    link_attributes: dict[str, GivenColumn] = {}
    if kind.link:
        parents, links, link_attributes, directed = _links(level, kind, rows)
    ndim = source.schema.grid.ndim
    positions = _lazy(table, POSITIONS, (ndim,), rows.dtype)
    objects, object_attributes, groups, group_attributes = _objects(level)
    return LevelInput(
        level, kind, positions, attributes, ids, lengths, parents, links, link_attributes, directed, objects,
        object_attributes, groups, group_attributes,
    )  # fmt: skip


def _lazy(rows: RaggedColumns, name: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Return a column as a dask array, whole cells to a chunk as far as they are small."""
    import dask.array as da

    if dtype.kind in "US":
        dtype = np.dtype(object)
    n = len(rows)
    step = max(settings().partition_bytes // max(rows.row_bytes, 1), 1)
    held = delayed(rows, pure=False, traverse=False)
    read = delayed(_column, pure=False)
    parts = [
        da.from_delayed(read(held, name, i, min(i + step, n), dtype), (min(i + step, n) - i, *shape), dtype=dtype)
        for i in range(0, n, step)
    ]
    return da.concatenate(parts) if parts else da.from_array(np.zeros((0, *shape), dtype))


def _column(rows: RaggedColumns, name: Any, start: int, stop: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    return rows.column(name, slice(start, stop)).astype(dtype, copy=False)


def _attribute(rows: RaggedColumns, schema: AttributeSchema, specs: Mapping[str, Mapping[str, Any]]) -> GivenColumn:
    attrs = dict(specs.get(schema.name, {}).get("attrs", {}))
    for word, said in (("units", schema.unit), ("long_name", schema.description)):
        if said:
            attrs.setdefault(word, said)
    if schema.dictionary is not None and schema.dictionary.ordered:
        attrs |= {"categories": list(schema.dictionary.categories), "ordered": 1}
    width = schema.channels
    if schema.any_width and width is None and len(rows):
        first = rows.column(schema.name, slice(0, 1))
        width = first.shape[1] if first.ndim > 1 else None
    return GivenColumn(_lazy(rows, schema.name, () if width is None else (width,), schema.value_dtype), attrs)


def _links(level: LevelContents, kind: Kind, rows: LevelRows) -> tuple[Any, Any, dict[str, GivenColumn], bool]:
    """Return parents, links, attributes of links, and whether these have a direction."""
    import dask.array as da

    found = level.found_links(0)
    if kind.has_parents:
        if found is None or level.is_chunked_skeleton:
            raise InputError("the parents of this level are known only when all is read: use ds.zv.to_store", store=level.url)
        table = ParentRows(rows, found.source, implied=level.has_implied_edges)
        return _lazy(table, "", (), np.dtype(np.int64)), None, {}, False
    if found is None:
        width = 2 if kind.link == "edge" else 3
        return None, da.from_array(np.zeros((0, width), np.int64)), {}, False
    if level.has_implied_edges:
        raise InputError("the links of this level are those between its rows, too: use ds.zv.to_store", store=level.url)
    counts = count_links(rows, found.source, trees=False)
    if counts is None:
        raise InputError("the level does not tell how many links its chunks have: store.refresh() counts them", store=level.url)
    links = EdgeRows(rows, found.source, counts, trees=False)
    specs = level.store.attribute_specs.get("link", {})
    values = {a.schema.name: _attribute(links, a.schema, specs) for a in found.source.attributes}
    family = found.source.family
    return None, _lazy(links, CONNECTIVITY, (family.width,), np.dtype(np.int64)), values, family.directed


def _objects(
    level: LevelContents,
) -> tuple[NDArray[np.int64] | None, dict[str, tuple[Any, Attrs]], dict[int, NDArray[np.int64]], dict[str, tuple[Any, Attrs]]]:
    """Return ids, attributes, groups and attributes of groups."""
    if not level.source.schema.has_objects:
        return None, {}, {}, {}
    index, specs = level.index, level.store.attribute_specs
    order = np.arange(index.count) if index.order is None else index.order
    attributes: dict[str, tuple[Any, Attrs]] = {}
    for name, values in index.attributes().items():
        attrs = dict(specs.get("object", {}).get(name, {}).get("attrs", {}))
        values = values[order]
        if values.dtype.kind == "U" and WHOLE_STRINGS not in index.tables.attributes(f"object_attributes/{name}"):
            values = np.ma.MaskedArray(values, np.ma.getmaskarray(values) | (np.ma.getdata(values) == ""))
        attributes[name] = values, attrs
    groups, about = index.tables.groups
    told = {n: (np.ma.getdata(v), specs.get("group", {}).get(n, {}).get("attrs", {})) for n, v in about.items()}
    return index.sorted_ids, attributes, dict(groups), told


# ---------------------------------------------------------------------------------------------- as arguments


_ID = "id of the object, to write"


def table_of(columns: Mapping[str, tuple[Any, Attrs]], ids: NDArray[np.int64]) -> Any:
    """Return a table about objects or groups, indexed by ids; what is missing has the sentinel of its dtype, which it names."""
    import xarray as xr

    table = {}
    for name, (values, attrs) in columns.items():
        missing = np.ma.getmaskarray(values)
        plain, about = np.asarray(np.ma.getdata(values)), dict(attrs)
        if missing.any():
            fill = sentinel(plain.dtype)
            plain = np.where(missing, fill, plain)
            if plain.dtype.kind != "f":
                about["_FillValue"] = fill
        table[name] = xr.Variable((_ID, *(f"{_ID} {name} {i}" for i in range(1, plain.ndim))), plain, about)
    return xr.Dataset(table, coords={_ID: ids})


def write_input(store: Any, given: LevelInput, *, compute: bool, **options: Any) -> Any:
    """Write a level's content into a store by the function of its geometry."""
    level, kind = given.level, given.kind
    described = level.store.attribute_specs.get("position", {})
    each = {a: spec["attrs"] for a, spec in described.items() if spec.get("attrs")}
    about: dict[str, Any] = {EACH_AXIS: each} if each else {}
    options |= {
        "attributes": {n: with_attrs(c.values, c.attrs) for n, c in given.attributes.items()}, "object_ids": given.ids,
        "compute": compute,
    }  # fmt: skip
    if given.objects is not None and given.object_attributes:
        options["object_attributes"] = table_of(given.object_attributes, given.objects)
    if given.groups:
        options["groups"] = dict(given.groups)
        if given.group_attributes:
            options["group_attributes"] = {n: with_attrs(v, a) for n, (v, a) in given.group_attributes.items()}
    positions = with_attrs(given.positions, about)
    if level.kind == LINE.name:
        pairs = with_attrs(given.positions.reshape((-1, 2, given.positions.shape[1])), about)
        options["attributes"] = {
            n: with_attrs(c.values.reshape((-1, 2, *c.values.shape[1:])), c.attrs) for n, c in given.attributes.items()
        }
        return write_lines(store, pairs, **options)
    if kind.is_path:
        return write_polylines(store, positions, lengths=given.lengths, **options)
    if kind.has_parents:
        return write_skeletons(store, positions, parents=given.parents, **options)
    if not kind.link:
        return write_points(store, positions, **options)
    values = {n: with_attrs(c.values, c.attrs) for n, c in given.link_attributes.items()} or None
    if kind.link == "face":
        return write_meshes(store, positions, faces=given.links, face_attributes=values, **options)
    return write_graph(store, positions, edges=given.links, edge_attributes=values, directed=given.directed, **options)


def names_of(groups: Mapping[str, tuple[NDArray[Any], Attrs]]) -> list[str]:
    """Return the names of groups, none where they have none."""
    return [] if GROUP_NAMES not in groups else list(map(str, groups[GROUP_NAMES][0].tolist()))
