"""Common parts of the exports: the library, axes and reference system, columns, and rows of geometries."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.xarray_backend.content import Content, Shape, places_of
from dask_zv.xarray_backend.conventions import CF_LINE, crs_text

if TYPE_CHECKING:
    from pyproj import CRS

STORES = "store"
"""The value of `crs` that means the reference system of the store."""


def library(name: str, extra: str) -> Any:
    """Import a module that the extra `extra` installs; if it is missing, the ImportError names the extra."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise ImportError(f"this export needs {missing}: pip install 'dask-zv[{extra}]'", name=error.name) from error


def source_attrs(ds: xr.Dataset) -> dict[str, Any]:
    """Return the attributes that name the store and the level of a Dataset."""
    return {k: ds.attrs[k] for k in ("zv_url", "zv_level") if k in ds.attrs}


def chosen_dims(shape: Shape, dims: Sequence[str] | None, most: int) -> tuple[int, ...]:
    """Return the numbers of the 2 to `most` axes of the geometries: x, y and z, or those named by `dims`."""
    wanted = shape.drawn if dims is None else tuple(dims)
    allowed = "two" if most == 2 else "two or three"
    unknown = [d for d in wanted if d not in shape.axes]
    if isinstance(dims, str) or unknown or len(set(wanted)) < len(wanted) or not 2 <= len(wanted) <= most:
        raise InputError(
            f"dims names {allowed} different axes of {', '.join(shape.axes)}, such as dims={shape.axes[:2]!r}"
            + (f"; not {dims!r}" if dims is not None else f": the Dataset has {len(shape.axes)}")
        )
    return tuple(shape.axes.index(d) for d in wanted)


def reference_system(shape: Shape, crs: Any, extra: str) -> CRS | None:
    """Return the reference system of `crs`: that of the store for "store", none for None, or anything that pyproj takes."""
    named = shape.crs if isinstance(crs, str) and crs == STORES else crs
    if named is None:
        return None
    pyproj = library("pyproj", extra)
    try:
        found: CRS = pyproj.CRS.from_user_input(_words(named) if isinstance(named, Mapping) else named)
    except pyproj.exceptions.CRSError as error:
        raise InputError(
            f"pyproj does not understand the coordinate reference system {named!r:.120}: pass crs= with one that it does, "
            "or crs=None to leave it out"
        ) from error
    return found


def _words(crs: Mapping[str, Any]) -> Any:
    """Return a reference system in a form that pyproj can parse: WKT, a code or a name, else all of it (PROJJSON)."""
    properties = crs.get("properties")
    if isinstance(properties, Mapping):  # GeoJSON's old form: {"type": "name", "properties": {"name": "urn:ogc:def:crs:…"}}
        return _words(properties)
    if (found := crs_text(crs)) is not None:
        return found[1]
    return crs["name"] if set(crs) == {"name"} else dict(crs)


# ---------------------------------------------------------------------------------------------- columns


def column_names(ds: xr.Dataset, variable: str) -> list[str]:
    """Return the column names of a variable: its name, or one per channel, such as ``colour_r``."""
    found = ds.variables[variable]
    if found.ndim == 1:
        return [variable]
    if found.ndim > 2:
        raise InputError(
            f"{variable!r} has {found.ndim} dimensions and cannot be a column: leave it out with drop_vars({variable!r})"
        )
    dim = found.dims[1]
    labels = ds.variables[dim].values.tolist() if dim in ds.variables else range(found.shape[1])
    return [f"{variable}_{label}" for label in labels]


def split(columns: list[str], values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the columns of an array by name."""
    return {columns[0]: values} if values.ndim == 1 else {name: values[:, i] for i, name in enumerate(columns)}


def add_columns(table: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Add columns to a table; a name that exists already is an error."""
    for name, values in new.items():
        if name in table:
            raise InputError(f"two columns would have the name {name!r}: rename one, ds.rename({{{name!r}: ...}})")
        table[name] = values


def flat(ds: xr.Dataset, variables: Mapping[str, str], values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return attributes as flat columns with the names in the Dataset: `variables` of a Shape, `values` of a Content."""
    out: dict[str, NDArray[Any]] = {}
    for name, column in values.items():
        add_columns(out, split(column_names(ds, variables[name]), column))
    return out


def numbers_of(ds: xr.Dataset) -> NDArray[np.int64]:
    """Return the vertex numbers, which stay the same in a selection."""
    return np.asarray(ds["vertex"].values if "vertex" in ds.variables else np.arange(ds.sizes["vertex"]))


def time_axes(ds: xr.Dataset, shape: Shape) -> set[str]:
    """Return the time axes."""
    return {a for a in shape.axes if ds[a].attrs.get("axis") == "T"}


# ---------------------------------------------------------------------------------------------- links and parts


def edges_of(content: Content) -> NDArray[np.int64]:
    """Return pairs of rows: the edges of a network, or (child, parent) of trees."""
    if (found := content.edge_rows()) is None:
        raise InputError(_without(content.shape, "edges"))
    return found


def faces_of(content: Content) -> NDArray[np.int64]:
    """Return the rows of the corners of each face."""
    if content.faces is None:
        raise InputError(_without(content.shape, "faces"))
    return content.faces


def _without(shape: Shape, what: str) -> str:
    if shape.view == "objects" and shape.geometry.link and not shape.geometry.has_parents:
        return f"the objects view of a {shape.kind} has no {what}: open the store with view='spatial'"
    return f"the Dataset ({shape.kind}, {shape.view} view) has no {what}"


def check_paths(shape: Shape) -> None:
    """Refuse paths in the spatial view, whose vertices are not in path order."""
    if shape.is_path and shape.view != "objects":
        raise InputError(
            f"vertices of a {shape.kind} are not in the order of its path in the spatial view: open the store with "
            "view='objects'"
        )


@dataclass(frozen=True, slots=True, eq=False)
class OwnedLinks:
    """Links of one object each: ids (P,), and for each vertex (-1: none) and each link the position of its object in them."""

    ids: NDArray[np.int64]
    vertices: NDArray[np.int64]
    links: NDArray[np.int64]


def owned_links(content: Content, links: NDArray[np.int64], what: str, instead: str) -> OwnedLinks | None:
    """Return the object of each link, or None if the Dataset has no objects; links between objects are an error."""
    if content.ids is not None and content.lengths is not None:
        ids, vertices = content.ids, np.repeat(np.arange(len(content.ids)), content.lengths)
    elif content.object_ids is not None:
        owners = content.object_ids
        ids = np.unique(owners[owners >= 0]) if content.object_index is None else content.object_index
        vertices = places_of(ids, owners)
    else:
        return None
    owner = vertices[links]
    odd = int(((owner != owner[:, :1]) | (owner < 0)).any(axis=1).sum())
    if odd:
        raise InputError(f"{odd:,} {what} are not of one object: their vertices belong to several, or to none; {instead}")
    return OwnedLinks(ids, vertices, owner[:, 0])


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Geometries with any number of parts each, usually one geometry per object.

    `kind` is "point", "line" or "polygon" (the first corner is not repeated). `rows` are the vertices of all parts one after
    the other, `part_lengths` the vertices of each part, `counts` the parts of each geometry (0: nothing to draw). `ids` are the
    objects, or None if each vertex is a geometry, or the whole Dataset is one.
    """

    kind: str
    rows: NDArray[np.int64]
    part_lengths: NDArray[np.int64]
    counts: NDArray[np.int64]
    ids: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.counts)


def parts_of(content: Content) -> Parts:
    """Return the geometries: every vertex of points; else every object, or everything as one if there are no objects."""
    shape = content.shape
    if shape.geometry.is_points:
        ones = np.ones(len(content), np.int64)
        return Parts("point", np.arange(len(content)), ones, ones)
    if shape.is_path:
        check_paths(shape)
        assert content.lengths is not None
        drawn = content.lengths >= 2
        rows = np.flatnonzero(np.repeat(drawn, content.lengths))
        return Parts(CF_LINE, rows, content.lengths[drawn], drawn.astype(np.int64), content.ids)
    surface = shape.geometry.link == "face"
    kind, what = ("polygon", "faces") if surface else (CF_LINE, "edges")
    links = faces_of(content) if surface else edges_of(content)
    widths = np.full(len(links), links.shape[1])
    owned = owned_links(content, links, what, "export them without objects, ds.drop_vars(['object_id', 'object'])")
    if owned is None:
        return Parts(kind, links.ravel(), widths, np.array([len(links)]))
    order = np.argsort(owned.links, kind="stable")
    return Parts(kind, links[order].ravel(), widths, np.bincount(owned.links, minlength=len(owned.ids)), owned.ids)
