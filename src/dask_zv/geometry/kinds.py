"""The geometries: what is asked about them, and the one list of them. A new one is a module beside this, and a line here."""

from __future__ import annotations

from dask_zv.errors import InputError, did_you_mean
from dask_zv.geometry.graphs import GRAPH
from dask_zv.geometry.meshes import MESH
from dask_zv.geometry.points import POINT_CLOUD
from dask_zv.geometry.polylines import LINE, POLYLINE, STREAMLINE
from dask_zv.geometry.schema import Kind
from dask_zv.geometry.skeletons import SKELETON

KINDS = {kind.name: kind for kind in (POINT_CLOUD, LINE, POLYLINE, STREAMLINE, SKELETON, GRAPH, MESH)}
"""By the name that stores give them (``geometry_types``), the default one first."""
PATHS = frozenset(name for name, kind in KINDS.items() if kind.is_path)
LINKED = frozenset(name for name, kind in KINDS.items() if kind.link)
_SYNONYMS = {"point": POINT_CLOUD, "track": POLYLINE, "neuron": SKELETON, "network": GRAPH, "surface": MESH}
_NAMES = {
    form: kind.name
    for name, kind in {**KINDS, **_SYNONYMS}.items()
    for form in (name, f"{name}es" if name.endswith("sh") else f"{name}s")
}
"""What users may call each geometry: its name or a synonym, in the singular or the plural."""
_NONE = Kind("", "implicit_sequential")


def kind_of(name: str | None) -> Kind:
    """Return what a geometry is; where a store names none, it is read as plain vertices."""
    return KINDS.get(name or "", _NONE)


def geometry_named(given: object) -> str:
    """Return the name that stores give the geometry which a user names."""
    found = _NAMES.get(given) if isinstance(given, str) else None
    if found is None:
        raise InputError(f"geometry {given!r:.80}: one of {', '.join(KINDS)}{did_you_mean(given, _NAMES)}")
    return found
