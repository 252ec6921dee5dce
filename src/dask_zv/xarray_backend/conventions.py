"""What the views say of themselves: names of dimensions and variables, CF and UGRID attributes.

Sources: CF conventions 1.11 (ragged arrays 9.3, geometries 7.5, grid mappings 5.6), UGRID 1.0.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import xarray as xr

from dask_zv.format.metadata import Axis
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.level.contents import LevelContents
from dask_zv.level.link_source import LinkSource
from dask_zv.level.stale import STALE, stale_message

EDGES, FACES, TOPOLOGY = "edges", "faces", "topology"
OBJECT_ID, OBJECT_INDEX, PARENT = "object_id", "object_index", "parent"
COUNT, CONTAINER, CRS = "node_count", "geometry", "crs"
DIMS = ("vertex", "edge", "face", "object", "group")
IN_GROUP, RANGE, TABLE = "in_group", "vertex_range", "object_table"
ROLES = (OBJECT_ID, OBJECT_INDEX, PARENT, COUNT, EDGES, FACES, TOPOLOGY, CONTAINER, CRS, IN_GROUP, RANGE, TABLE)
"""Variables that say how the others belong together. They are no data, so they are coordinates."""
CF_LINE = "line"
"""The ``geometry_type`` of containers of lines."""
_SPEC_WORDS = ("dtype", "channels", "categorical", "unit", "description", "attrs")
"""What the root's ``attribute_specs`` say in words of the format."""
_WORDS = {"description": "long_name", "unit": "units"}
"""The format's words for what xarray calls otherwise."""
_CF_AXIS = {"x": "X", "y": "Y", "z": "Z", "t": "T", "time": "T"}
_VERSIONS = "CF-1.11 UGRID-1.0"


def link_names(links: LinkSource) -> tuple[str, str]:
    """Return the name of the connectivity and its dimension: edges, or faces."""
    return (EDGES, "edge") if links.family.width == 2 else (FACES, "face")


def axis_attrs(axis: Axis, crs: bool, level: LevelContents | None = None) -> dict[str, Any]:
    """Return the attributes of a coordinate of positions, with what was said of them in the level's store."""
    attrs: dict[str, Any] = {"long_name": f"{axis.name} position"}
    if level is not None:
        plain = axis.name.replace("_", " ")  # the long_name of what has none
        attrs |= {k: v for k, v in described(level, "position", axis.name).items() if k != "long_name" or v != plain}
    if axis.unit:
        attrs["units"] = axis.unit
    if axis.type == "time" or axis.name.lower() in _CF_AXIS:
        attrs["axis"] = "T" if axis.type == "time" else _CF_AXIS[axis.name.lower()]
    if crs:
        attrs["grid_mapping"] = CRS
    return {**attrs, "zv_axis": axis.name}


def described(level: LevelContents, scope: str, name: str, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what the store's root says (units, long_name, flags ...) of an attribute of a "vertex", "link" and so on.

    Where it is silent, what the attribute's `own` array says of unit and description counts: other tools leave it there alone.
    """
    attrs: dict[str, Any] = {"long_name": name.replace("_", " ")}
    attrs |= {ours: own[word] for word, ours in _WORDS.items() if own and isinstance(own.get(word), str) and own[word]}
    specs = level.store.metadata.extra.get("attribute_specs", {})
    named = specs.get(scope) if isinstance(specs, Mapping) else None
    spec = named.get(name) if isinstance(named, Mapping) else None
    if not isinstance(spec, Mapping):
        return attrs
    for word, ours in _WORDS.items():
        if isinstance(spec.get(word), str) and spec[word]:
            attrs[ours] = spec[word]
    other = {k: v for k, v in spec.items() if k not in _SPEC_WORDS}  # words that we don't know; netCDF holds no mappings
    attrs |= {k: v if type(v) in (str, int, float) else json.dumps(v) for k, v in other.items()}
    return attrs | (dict(spec["attrs"]) if isinstance(spec.get("attrs"), Mapping) else {})


def attribute_attrs(attribute: AttributeSchema, level: LevelContents, scope: str = "vertex") -> dict[str, Any]:
    """Return the attributes of a variable: what was said of it, and of categories, which there are."""
    attrs = described(level, scope, attribute.name, {"unit": attribute.unit, "description": attribute.description})
    if attribute.dictionary is not None:
        attrs["categories"] = [str(c) for c in attribute.dictionary.categories]
        if attribute.dictionary.ordered:
            attrs["ordered"] = 1  # netCDF has no booleans
    return attrs


def on_mesh(where: str) -> dict[str, str]:
    """Return the attributes of a variable at the nodes, edges or faces of the topology."""
    return {"mesh": TOPOLOGY, "location": where}


def drawn_axes(axes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the axes of space in the order x, y, z, as CF and UGRID list them; those of the store where it names none so.

    Time is none of them: stores have it before the others.
    """
    letters = {name.lower(): name for name in axes}
    found = tuple(letters[a] for a in "xyz" if a in letters)
    return found if len(found) > 1 else axes


def topology(links: LinkSource, axes: tuple[str, ...]) -> xr.Variable:
    """Return the UGRID variable that says how vertices are connected: a network of edges, or a surface of faces."""
    name, dim = link_names(links)
    surface = name == FACES
    return xr.Variable(
        (),
        0,
        {
            "cf_role": "mesh_topology",
            "long_name": "faces between vertices" if surface else "edges between vertices",
            "topology_dimension": 2 if surface else 1,
            "node_coordinates": " ".join(drawn_axes(axes)),
            "node_dimension": "vertex",
            "directed": int(links.family.directed),
            f"{dim}_node_connectivity": name,
            f"{dim}_dimension": dim,
        },
    )


def chunk_variables(level: LevelContents) -> dict[str, xr.Variable]:
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


def grid_mapping(crs: Mapping[str, Any]) -> xr.Variable:
    """Return the variable that describes the store's coordinate reference system.

    The store's own words are its attribute ``zv_crs``; where pyproj is installed and understands them, CF's come with them.
    """
    attrs: dict[str, Any] = {"long_name": "coordinate reference system", "zv_crs": json.dumps(crs)}
    told = crs_text(crs)
    attrs |= {} if told is None else dict([told])
    if importlib.util.find_spec("pyproj") is not None:
        import pyproj

        known = dict(crs) if told is None else told[1]  # else PROJJSON, or PROJ's parameters
        try:
            attrs |= {k: v for k, v in pyproj.CRS.from_user_input(known).to_cf().items() if isinstance(v, str | int | float)}
        except pyproj.exceptions.CRSError:
            attrs["comment"] = "pyproj does not know this reference system"
    return xr.Variable((), 0, attrs)


def crs_text(crs: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return a reference system as text, and the attribute for it: ("crs_wkt", WKT), or ("epsg_code", authority and code)."""
    wkt = crs.get("crs_wkt") or crs.get("wkt")
    if isinstance(wkt, str):
        return "crs_wkt", wkt
    code = crs.get("code") or crs.get("epsg")
    if not isinstance(code, int | str):
        return None
    text = str(code)
    return "epsg_code", text if ":" in text else f"{crs.get('type') or 'EPSG'}:{text}".upper()


def free_name(name: str, dim: str, taken: Collection[str]) -> tuple[str, dict[str, str]]:
    """Return what an attribute is called in a Dataset, and the attribute that tells its own name there.

    It has its own name unless the view uses that: then the dimension comes before it, ``vertex_parent``.
    """
    shown = name
    while shown in taken:
        shown = f"{dim}_{shown}"
    return shown, {"zv_name": name} if shown != name or name in (*ROLES, *DIMS) else {}


def channel_dim(name: str, taken: Collection[str]) -> str:
    """Return the name of a further dimension of an attribute that no variable has."""
    while name in taken:
        name += "_"
    return name


def dataset_attrs(level: LevelContents, view: str) -> dict[str, Any]:
    """Return what a reader wants to know of a level, as netCDF can hold it: short strings, numbers and flat lists."""
    metadata = level.store.metadata
    return {
        "Conventions": _VERSIONS,
        "zv_view": view,
        "zv_url": level.store.url,
        "zv_level": level.number,
        "zv_axes": list(level.store.axes),
        "geometry_types": list(metadata.geometry_types),
        "vertex_count": level.metadata.vertex_count,
        "chunk_shape": list(level.source.schema.grid.chunk_shape),
        "bounds_min": list(metadata.bounds[0]),
        "bounds_max": list(metadata.bounds[1]),
    }


def dataset_encoding(level: LevelContents) -> dict[str, Any]:
    """Return how a level is stored: its URL, and the documents of the store and of the level as they are."""
    metadata = level.store.metadata
    encoding: dict[str, Any] = {
        "source": level.store.url,
        "zv_version": metadata.zv_version,
        "bin_shape": list(metadata.bin_shape),
        "zarr_vectors": metadata.to_attributes()["zarr_vectors"],
        "zarr_vectors_level": level.metadata.to_attributes()["zarr_vectors_level"],
    }
    if STALE in level._attributes:
        encoding["zv_stale"] = stale_message(level)
    return encoding if metadata.crs is None else {**encoding, "crs": dict(metadata.crs)}
