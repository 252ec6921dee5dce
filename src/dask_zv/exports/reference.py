"""The store's coordinate reference system, as other libraries understand it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dask_zv.errors import InputError
from dask_zv.exports.optional import library
from dask_zv.xarray_backend.content import Shape

if TYPE_CHECKING:
    from pyproj import CRS


STORES = "store"
"""Argument that stands for the store's own reference system."""


def reference_system(shape: Shape, crs: Any, extra: str) -> CRS | None:
    """Return a reference system, None where there is none.

    Parameters
    ----------
    shape : Shape
    crs : Any
        "store" for the one that the Dataset names, None for none, or whatever pyproj takes.
    extra : str
        The extra of this package that installs pyproj.

    Raises
    ------
    InputError
        pyproj doesn't understand it.
    ImportError
        pyproj is not installed.
    """
    named = shape.crs if isinstance(crs, str) and crs == STORES else crs
    if named is None:
        return None
    pyproj = library("pyproj", extra)
    given = _words(named) if isinstance(named, Mapping) else named
    try:
        found: CRS = pyproj.CRS.from_user_input(given)
    except pyproj.exceptions.CRSError as error:
        raise InputError(
            f"pyproj does not understand the coordinate reference system {named!r:.120}: pass crs= with one that it does, "
            "or crs=None to leave it out"
        ) from error
    return found


def _words(crs: Mapping[str, Any]) -> Any:
    """Return what pyproj can parse of a store's mapping: WKT, a code or a name where it has one, else all of it (PROJJSON)."""
    properties = crs.get("properties")
    if isinstance(properties, Mapping):  # GeoJSON's old way: {"type": "name", "properties": {"name": "urn:ogc:def:crs:…"}}
        return _words(properties)
    for key in ("crs_wkt", "wkt"):
        if isinstance(crs.get(key), str):
            return crs[key]
    code = crs.get("code", crs.get("epsg"))
    if isinstance(code, int | str):
        text = str(code)
        return text if ":" in text else f"{crs.get('type') or 'EPSG'}:{text}".upper()
    return crs["name"] if set(crs) == {"name"} else dict(crs)
