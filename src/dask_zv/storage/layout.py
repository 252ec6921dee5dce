"""The two layouts by name: which one a group has, and its blobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from dask_zv.errors import InputError
from dask_zv.format.documents import parse_document
from dask_zv.format.generations import Generation, detect_generation
from dask_zv.format.grids import parse_grid_document
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.nodes import SETTINGS
from dask_zv.storage.objects import Objects
from dask_zv.storage.per_chunk.read import PerChunk

Layout = Literal["per_chunk", "grid"]
Blobs = PerChunk | GridArrays


def check_layout(layout: str | None, default: Layout) -> Layout:
    """Return the layout that a new group gets."""
    if layout is None:
        return default
    if layout in ("per_chunk", "grid"):
        return "grid" if layout == "grid" else "per_chunk"
    raise InputError(f"layout {layout!r} is not known: 'grid' (ZV 0.9) or 'per_chunk' (ZV 0.7)")


def layout_of(generation: Generation) -> Layout:
    """Return the layout of a generation's stores."""
    return "grid" if generation is Generation.GRID else "per_chunk"


def open_blobs(
    objects: Objects, prefix: str, layout: str, catalog: Catalog | None = None, *, trust: bool = False
) -> PerChunk | GridArrays:
    """Return the blobs of a group; `trust` where the catalog was compared with the store before."""
    if layout == "grid":
        return GridArrays(objects, prefix, catalog, trust=trust)
    return PerChunk(objects, prefix, catalog)


def detect_layout(objects: Objects, prefix: str, attributes: Mapping[str, Any] | None = None) -> Layout | None:
    """Return the layout of the group at `prefix`: by its attributes or those of a group above it, then by its arrays.

    None where nothing tells. The group's attributes, where they are known, are not read again.
    """
    told = _by_attributes(attributes) if attributes is not None else None
    if told is not None:
        return told
    parts = prefix.split("/") if prefix else []
    above = ["/".join(parts[:i]) for i in range(len(parts), -1, -1)][0 if attributes is None else 1 :]
    structural = [join(prefix, "vertices"), join(prefix, "0/vertices")]
    found = objects.get_many([(join(p, DOCUMENT), None) for p in (*above, *structural)])
    documents = [
        None if d is None else parse_document(d, p, objects.url) for d, p in zip(found, (*above, *structural), strict=True)
    ]
    for document in documents[: len(above)]:
        told = _by_attributes(document.get("attributes", {})) if document is not None else None
        if told is not None:
            return told
    for path, document in zip(structural, documents[len(above) :], strict=True):
        if document is not None:
            return "per_chunk" if parse_grid_document(document, path, objects.url) is None else "grid"
    return None


def _by_attributes(attributes: Mapping[str, Any]) -> Layout | None:
    root, settings = attributes.get("zarr_vectors"), attributes.get(SETTINGS)
    if isinstance(root, Mapping):
        return layout_of(detect_generation(root))
    if isinstance(settings, Mapping) and settings.get("layout") in ("per_chunk", "grid"):
        return "grid" if settings["layout"] == "grid" else "per_chunk"
    return None
