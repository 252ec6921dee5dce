"""What a write says of its level and its store: grid and packing, attributes, and the nodes that it leaves no place for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import PlanError
from dask_zv.format.grids import GridSpec, codec_list
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.metadata import Axis
from dask_zv.geometry.kinds import KINDS
from dask_zv.geometry.schema import PointSchema
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.create import packing
from dask_zv.level.object_tables import EDGE_COUNTS
from dask_zv.spatial.chunks import group_by_chunk, morton_codes
from dask_zv.storage.catalog import CATALOG_NAME
from dask_zv.storage.grid.settings import grid_of_bounds, grid_settings
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for
from dask_zv.storage.nodes import SETTINGS, load_catalog
from dask_zv.storage.objects import Objects
from dask_zv.storage.opening import objects_are_cheap
from dask_zv.storage.specs import GridPlan, Place
from dask_zv.write.convert import Conversion
from dask_zv.write.object_arrays import old_object_nodes
from dask_zv.write.object_plan import ObjectPlan
from dask_zv.write.scan import Scan

AttributeSpecs = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What a store's root says of attributes: by scope ("vertex", "object", "link", "group") and name; of positions by axis."""

EACH_AXIS = "zv_axes"
"""Attribute of positions that holds those of each axis."""


def shards_of(store: StoreContents, scan: Scan, row_bytes: int) -> int | None:
    """Return the chunks per shard, None for an object per chunk.

    Where the store leaves it to us, shards are so small that the densest has a bounded number of bytes.
    """
    coords = scan.coords
    asked = store.settings.get("shard_chunks", "auto")
    local = objects_are_cheap(store.handle)
    if asked == 1 or (asked == "auto" and local and len(coords) <= settings().few_chunks):
        return None
    if len(coords) and int(morton_codes(coords).max()) > np.iinfo(np.int64).max:
        if asked == "auto":
            return None
        raise PlanError(
            f"shards of chunks from {coords.min(axis=0).tolist()} to {coords.max(axis=0).tolist()} have numbers beyond 2**63: "
            "make the store with shard_chunks=1, choose a larger chunk_shape, or shift the positions",
            store=store.url,
        )
    if isinstance(asked, int):
        return asked
    shards, codes = settings().shard_chunks, morton_codes(coords)
    most = settings().shard_bytes
    if scan.rows * row_bytes > most:
        while shards > 1 and _densest((codes // shards).astype(np.int64)[:, None], scan.counts) * row_bytes > most:
            shards //= 2
    return None if shards == 1 else shards


def _densest(units: NDArray[Any], counts: NDArray[np.int64]) -> int:
    """Return the rows of the unit (a shard) that has most; units (n, D) of chunks, and the rows of each chunk."""
    which = group_by_chunk(units)[1]
    return int(np.bincount(which, weights=counts).max())


def _fitting(shape: tuple[int, ...] | None, scan: Scan, low: NDArray[np.int64], row_bytes: int) -> tuple[int, ...] | None:
    """Return the extents of a shard, halved until the densest shard is no more than a task can hold."""
    while shape is not None and scan.rows * row_bytes > settings().shard_bytes:
        if _densest((scan.coords - low) // np.array(shape), scan.counts) * row_bytes <= settings().shard_bytes:
            break
        axis = int(np.argmax(shape))
        halved = tuple(max(s // 2, 1) if i == axis else s for i, s in enumerate(shape))
        shape = None if halved == shape or max(halved) == 1 else halved
    return shape


def grid_plan(level: LevelContents, scan: Scan, arrays: Sequence[str], mode: str, row_bytes: int) -> GridPlan:
    """Return the grid of the level's arrays: of the store's bounds where they were declared, and always of the data."""
    store, metadata = level.store, level.store.metadata
    corners = [scan.coords.min(axis=0), scan.coords.max(axis=0)] if len(scan.coords) else []
    if store.settings.get("bounds", "declared") == "declared" or not corners:
        origin, shape = grid_of_bounds(metadata.chunk_shape, *metadata.bounds)
        corners += [np.array(origin, np.int64), np.array(origin, np.int64) + np.array(shape, np.int64) - 1]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    extents: list[int] = (high - low + 1).tolist()
    local = objects_are_cheap(store.handle)
    asked = store.settings.get("shard_chunks", "auto")
    shards = packing(asked, len(scan.coords), extents, local=local)
    if asked == "auto":
        shards = _fitting(shards, scan, low, row_bytes)
    spec = GridSpec(tuple(extents), tuple(low.tolist()), shards, codec_list(store.settings.get("codecs", "zstd")))
    catalog = load_catalog(open_objects(store.handle), level.place.prefix)
    return GridPlan(dict.fromkeys(arrays, spec), token="" if catalog is None else catalog.token, alone=mode != "overwrite")


def level_attributes(
    level: LevelContents,
    scan: Scan,
    schema: PointSchema,
    cells: GridSpec | None,
    *,
    objects: bool,
    links: bool,
) -> dict[str, Any]:
    """Return the attributes that make the level what was written; `links` are those that were given."""
    present = ["vertices"]
    if schema.attributes:
        present.append("vertex_attributes")
    if links:
        present.append("links")
    if objects:
        present.append("object_index")
    # what was said of the level's content before does not hold for ours, whatever it is (keys of other tools are in `extra`)
    metadata: LevelMetadata = dataclasses.replace(
        level.metadata,
        vertex_count=scan.rows,
        arrays_present=tuple(present),
        chunk_dims=None,
        chunk_attribute_name=None,
        chunk_attribute_values=None,
        shared_fragments=False,
        preserves_object_ids=False,
        inherited_num_objects=None,
        object_sparsity=1.0,
        coarsening_method="none",
        extra={},
        fragments_tile=cells is not None,  # true of all that is written here; 0.7 has no such word
    )
    if cells is None:
        return metadata.to_attributes()
    return {**metadata.to_attributes(), SETTINGS: {"layout": "grid", "grid": grid_settings(cells)}}


def root_attributes(
    store: StoreContents, scan: Scan, conversion: Conversion, shards: int | None, specs: AttributeSpecs | None = None
) -> dict[str, Any]:
    """Return the attributes of the store: its bounds are now those of the data, where they were not declared.

    `specs` are units and the like of all attributes that are written, see :func:`merge_specs`.
    """
    extra = {**store.metadata.extra}
    if merged := merge_specs(extra.pop("attribute_specs", {}), specs or {}):
        extra["attribute_specs"] = merged
    metadata = dataclasses.replace(store.metadata, extra=extra, axes=tuple(_with_unit(a, specs) for a in store.metadata.axes))
    if (kind := KINDS.get(next(iter(metadata.geometry_types), ""))) is not None:  # another tool's edit may have changed it
        metadata = dataclasses.replace(metadata, links_convention=kind.convention)
    if conversion.box is None and scan.rows:
        low, high = np.asarray(scan.low, np.float64), np.asarray(scan.high, np.float64)
        if store.settings.get("bounds", "declared") == "declared":  # expanded
            low, high = np.minimum(low, metadata.bounds[0]), np.maximum(high, metadata.bounds[1])
        metadata = dataclasses.replace(metadata, bounds=(tuple(low.tolist()), tuple(high.tolist())))
    attributes = {**metadata.to_attributes(), SETTINGS: dict(store.settings)}
    if not layout_for(store.layout).shards_have_extents:
        attributes["shard_layout"] = "flat" if shards is None else "octree"
        if shards is not None:
            attributes["shard_size"] = shards
    return attributes


def _with_unit(axis: Axis, specs: AttributeSpecs | None) -> Axis:
    """Return an axis with the unit that its positions came with; one that the store was made with stands."""
    unit = (specs or {}).get("position", {}).get(axis.name, {}).get("unit")
    return axis if axis.unit or axis.type == "time" or not unit else dataclasses.replace(axis, unit=unit)


def merge_specs(old: AttributeSpecs, new: AttributeSpecs) -> dict[str, dict[str, Any]]:
    """Return the root's ``attribute_specs``; what is written without any loses its old ones, other attributes keep theirs."""
    out: dict[str, dict[str, Any]] = {}
    for scope in dict.fromkeys([*old, *new]):
        written = new.get(scope, {})
        named = {n: dict(spec) for n, spec in old.get(scope, {}).items() if n not in written}
        named |= {n: dict(spec) for n, spec in written.items() if spec}
        if named:
            out[scope] = named
    return out


def attribute_spec(dtype: np.dtype[Any], channels: int | None, categorical: bool, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the root says of an attribute: in the format's words, and all of `attrs` beside them; nothing for none."""
    if not attrs:
        return {}
    out: dict[str, Any] = {"dtype": dtype.name, "attrs": dict(attrs)}
    if channels is not None:
        out["channels"] = channels
    if categorical:
        out["categorical"] = True
    for word, name in (("unit", "units"), ("description", "long_name")):
        if isinstance(attrs.get(name), str):
            out[word] = attrs[name]
    return out


def old_nodes(
    objects: Objects, place: Place, schema: PointSchema, plan: ObjectPlan | None, families: Sequence[str], *, trees: bool
) -> tuple[str, ...]:
    """Return what the level holds that the new content (of skeletons: `trees`) has no place for."""
    keep = {a.name for a in schema.attributes}
    old = ["vertex_attributes"]
    if keep:
        names = objects.list_dir(join(place.prefix, "vertex_attributes"))
        old = [f"vertex_attributes/{n}" for n in names if n not in keep and n != DOCUMENT]
    # the links of other levels' vertices to these are wrong now, and so are these ones' to theirs
    above = {f.rpartition("/")[0] for f in families}
    for family in ("links", "cross_chunk_links", "link_attributes", "cross_chunk_link_attributes"):
        if not any(f.startswith(f"{family}/") for f in families):
            old.append(family)
            continue
        for name in objects.list_dir(join(place.prefix, family)):
            path = f"{family}/{name}"
            if name != DOCUMENT and path not in families and path not in above:
                old.append(path)
    for path in above:
        old += [
            f"{path}/{n}" for n in objects.list_dir(join(place.prefix, path)) if n != DOCUMENT and f"{path}/{n}" not in families
        ]
    if not families:
        old.append("link_fragments")
    if not trees:
        old.append(EDGE_COUNTS)
    old += _links_to_this(objects, place.prefix)
    return (*dict.fromkeys(old), "fragment_attributes", *old_object_nodes(objects, place.prefix, plan, place.layout))


def _links_to_this(objects: Objects, prefix: str) -> list[str]:
    """Return the links that other levels have to the vertices of this one, which are about to be others."""
    root, _, number = prefix.rpartition("/")
    old: list[str] = []
    for level in objects.list_dir(root):
        if not (level.isascii() and level.isdigit()) or level == number:
            continue
        delta = f"{int(number) - int(level):+d}"
        found: list[str] = []
        for family in ("links", "cross_chunk_links", "link_attributes", "cross_chunk_link_attributes"):
            names = [n for n in objects.list_dir(join(root, level, family)) if n != DOCUMENT]
            if family.endswith("_attributes"):
                found += [f"{family}/{n}/{delta}" for n in names if delta in objects.list_dir(join(root, level, family, n))]
            elif delta in names:
                found.append(family if names == [delta] else f"{family}/{delta}")  # no group of nothing is left
        if found:
            old += [f"../{level}/{path}" for path in (*found, CATALOG_NAME)]  # a catalog would still name them
    return old
