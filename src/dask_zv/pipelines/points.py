"""Writing points: the plan, and the one graph that carries it out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import Task, TaskRef
from numpy.typing import NDArray

from dask_zv.batch.graph import GraphBuilder, build_write_graph
from dask_zv.batch.receipts import Report
from dask_zv.batch.run import check_reachable, compute_one
from dask_zv.batch.tasks import BlockSpec, CommitSpec, EncodedBlock, Place
from dask_zv.errors import InputError, PlanError, ReadOnlyError, StoreError
from dask_zv.format.dictionary import DictionaryEncoding
from dask_zv.format.grids import GridSpec, codec_list
from dask_zv.format.keys import DOCUMENT
from dask_zv.format.metadata import LevelMetadata
from dask_zv.geometry.points import PointRows, encode_points
from dask_zv.geometry.schema import AttributeSchema, PointSchema
from dask_zv.pipelines.creation import FEW_CHUNKS, SHARD_CHUNKS, packing, position_dtype
from dask_zv.pipelines.exchange import plan_blocks, remove_spill, spill_directory, split_partitions
from dask_zv.pipelines.inputs import AttributeInput, Partitions, partition_input
from dask_zv.pipelines.manifests import (
    ObjectPlan,
    object_blobs,
    object_metadata,
    old_object_nodes,
    plan_objects,
    write_object_index,
)
from dask_zv.pipelines.scan import Conversion, Scan, scan_partitions
from dask_zv.pipelines.store import SETTINGS, Level, Store
from dask_zv.spatial.grid import Box, ChunkGrid
from dask_zv.spatial.morton import morton_codes
from dask_zv.storage.grid_commit import GridPlan
from dask_zv.storage.grid_defaults import grid_of_bounds, grid_settings
from dask_zv.storage.handles import open_objects
from dask_zv.storage.local import LocalObjects
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.objects import Objects, join

__all__ = ["write_points"]

_TOLERANCE = 1e-4


@overload
def write_points(
    store: Store,
    positions: Any,
    *,
    attributes: Any = None,
    object_ids: Any = None,
    object_attributes: Any = None,
    groups: Mapping[int, Sequence[int]] | None = None,
    mode: Literal["error", "overwrite"] = "error",
    out_of_bounds: Literal["raise", "ignore", "expand"] = "raise",
    position_tolerance: float | None = None,
    max_categories: int = 10_000,
    compute: Literal[True] = True,
    progress: bool | None = None,
) -> Report: ...
@overload
def write_points(
    store: Store,
    positions: Any,
    *,
    attributes: Any = None,
    object_ids: Any = None,
    object_attributes: Any = None,
    groups: Mapping[int, Sequence[int]] | None = None,
    mode: Literal["error", "overwrite"] = "error",
    out_of_bounds: Literal["raise", "ignore", "expand"] = "raise",
    position_tolerance: float | None = None,
    max_categories: int = 10_000,
    compute: Literal[False],
    progress: bool | None = None,
) -> Delayed: ...
def write_points(
    store: Store,
    positions: Any,
    *,
    attributes: Any = None,
    object_ids: Any = None,
    object_attributes: Any = None,
    groups: Mapping[int, Sequence[int]] | None = None,
    mode: Literal["error", "overwrite"] = "error",
    out_of_bounds: Literal["raise", "ignore", "expand"] = "raise",
    position_tolerance: float | None = None,
    max_categories: int = 10_000,
    compute: bool = True,
    progress: bool | None = None,
) -> Report | Delayed:
    """Write points into level 0 of a store, as one Dask graph on the active scheduler.

    The data is looked at once when the function is called (bounds, chunks, categories, ids, whether it can be stored); then
    the graph reads it a second time, brings rows together by block, stores each block and commits. Rows of a chunk are in the
    order of the input, whatever the scheduler.

    Parameters
    ----------
    store : Store
        Opened for writing.
    positions : ndarray or dask array (N, D), or a pandas or dask DataFrame with the axes as columns
        In the units of the axes. Partitions may be in any spatial order and of unknown length.
    attributes : mapping of name to array (N,) or (N, C); or a list of column names, where `positions` is a frame
        Any numeric, boolean or date dtype; strings and pandas categories become dictionary-encoded categories. With a frame,
        None takes all columns that are neither axes nor ids.
    object_ids : integer array (N,), or a column's name, optional
        The object of each point; at least 0, and in layout ``per_chunk`` 0 to n-1 without gaps.
    object_attributes : DataFrame indexed by object id, or mapping of name to array (n, ...), optional
    groups : mapping of group number to object ids, optional
    mode : {"error", "overwrite"}
        What to do where the level has vertices: refuse, or replace the level. Chunks that are replaced in place change before
        the commit; Icechunk alone makes replacement atomic.
    out_of_bounds : {"raise", "ignore", "expand"}
        What to do with positions outside the bounds that the store was created with: refuse all, leave those out, or make the
        bounds (and in layout ``grid`` the arrays' grid) larger.
    position_tolerance : float, optional
        How far the cast to the store's dtype may move a position; a ten-thousandth of the least bin edge where None.
    max_categories : int
        Distinct strings that an attribute may have, 65,535 at the most.
    compute : bool
        False returns a Delayed, whose result is the report and which can join a larger ``dask.compute``.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Report or Delayed

    Raises
    ------
    InputError
        The data can't be stored as given; nothing was stored.
    BoundsError
        Positions are out of bounds; nothing was stored.
    StoreError
        The level has vertices and `mode` is "error", or storage failed.
    PlanError
        The store can't be reached from where the tasks run.

    Examples
    --------
    >>> import dask_zv as dzv
    >>> import numpy as np
    >>> store = dzv.create({}, chunk_shape=(10, 10, 10))
    >>> points = np.random.default_rng(0).uniform(0, 20, (1000, 3))
    >>> report = dzv.write_points(store, points, attributes={"mass": np.ones(1000)})
    >>> report.rows, report.chunks
    (1000, 8)
    """
    if mode not in ("error", "overwrite"):
        raise InputError(f"mode is 'error' or 'overwrite', not {mode!r}")
    if out_of_bounds not in ("raise", "ignore", "expand"):
        raise InputError(f"out_of_bounds is 'raise', 'ignore' or 'expand', not {out_of_bounds!r}")
    if object_ids is None and (object_attributes is not None or groups is not None):
        raise InputError("object_attributes and groups belong to objects: pass object_ids= as well")
    if not isinstance(store, Store):
        raise InputError(f"store is a dask_zv.Store (from dzv.create or dzv.open), not {type(store).__name__}")
    if store.read_only:
        raise ReadOnlyError("the store was opened read-only: dzv.open(..., mode='r+')", store=store.url)
    started = time.perf_counter()
    check_reachable(store.handle)
    level = store.level(0)
    _check_empty(level, mode)
    partitions = partition_input(positions, attributes, object_ids, store.axes)
    conversion = _conversion(store, partitions, out_of_bounds, position_tolerance)
    scan = scan_partitions(partitions, conversion, max_categories)
    objects = plan_objects(scan.ids, object_attributes, groups, layout=store.layout) if partitions.has_ids else None
    schema = PointSchema(
        conversion.grid,
        conversion.dtype,
        tuple(_attribute_schema(a, scan) for a in partitions.attributes),
        objects is not None,
    )
    spill = spill_directory(scan.rows * schema.row_bytes)
    delayed = _build(level, partitions, conversion, scan, schema, objects, mode, spill)
    if not compute:
        return delayed
    try:
        report: Report = compute_one(delayed, progress=progress)
    finally:
        remove_spill(spill)
    store.reload()
    return dataclasses.replace(report, seconds=time.perf_counter() - started)


def _check_empty(level: Level, mode: str) -> None:
    if mode == "overwrite":
        return
    if level.metadata.vertex_count:
        raise StoreError(
            f"level 0 has {level.metadata.vertex_count:,} vertices already: pass mode='overwrite' to replace them",
            store=level.url,
        )
    objects = open_objects(level.place.handle)
    if level.store.layout == "grid":  # chunks without a commit are in nobody's list
        if len(level.place.open().list_keys("vertices")):
            raise StoreError("level 0 has chunks already: pass mode='overwrite' to replace them", store=level.url)
        return
    if any(n != "zarr.json" for n in objects.list_dir(join(level.place.prefix, "vertices"))):
        raise StoreError(
            "level 0 holds chunks of a write that did not reach its commit: pass mode='overwrite' to replace them",
            store=level.url,
        )


def _conversion(store: Store, partitions: Partitions, out_of_bounds: str, position_tolerance: float | None) -> Conversion:
    metadata = store.metadata
    grid = ChunkGrid(metadata.chunk_shape, metadata.bins_per_chunk)
    declared = store.settings.get("dtype")
    dtype = position_dtype(np.dtype(declared) if isinstance(declared, str) else partitions.dtype)
    tolerance = _TOLERANCE * min(metadata.bin_shape) if position_tolerance is None else float(position_tolerance)
    if not tolerance >= 0:
        raise InputError(f"position_tolerance is a distance of at least 0, not {position_tolerance!r}")
    box: Box | None = None
    if out_of_bounds != "expand" and store.settings.get("bounds", "declared") == "declared":
        box = np.asarray(metadata.bounds[0], np.float64), np.asarray(metadata.bounds[1], np.float64)
    return Conversion(grid, dtype, tolerance, box, out_of_bounds == "ignore", store.axes)


def _attribute_schema(attribute: AttributeInput, scan: Scan) -> AttributeSchema:
    if not attribute.is_dictionary:
        return AttributeSchema(attribute.name, attribute.dtype.newbyteorder("<"), attribute.channels)
    found, missing = scan.categories.get(attribute.name, (frozenset(), False))
    ordered = attribute.categories is not None
    categories = attribute.categories if attribute.categories is not None else tuple(sorted(found))
    dictionary = DictionaryEncoding(categories, ordered, -1 if missing else None)
    return AttributeSchema(attribute.name, dictionary.dtype, None, dictionary)


def _shards(store: Store, objects: Objects, coords: NDArray[np.int64]) -> int | None:
    """Return the chunks per shard, None for an object per chunk.

    Raises
    ------
    PlanError
        Shards were asked for, and their numbers are too large to be recorded.
    """
    asked = store.settings.get("shard_chunks", "auto")
    local = isinstance(objects, LocalObjects) or store.handle.one_process
    if asked == 1 or (asked == "auto" and local and len(coords) <= FEW_CHUNKS):
        return None
    if len(coords) and int(morton_codes(coords).max()) > np.iinfo(np.int64).max:
        if asked == "auto":
            return None
        raise PlanError(
            f"shards of chunks from {coords.min(axis=0).tolist()} to {coords.max(axis=0).tolist()} have numbers beyond 2**63: "
            "make the store with shard_chunks=1, choose a larger chunk_shape, or shift the positions",
            store=store.url,
        )
    return asked if isinstance(asked, int) else SHARD_CHUNKS


def _build(
    level: Level,
    partitions: Partitions,
    conversion: Conversion,
    scan: Scan,
    schema: PointSchema,
    objects: ObjectPlan | None,
    mode: str,
    spill: str | None,
) -> Delayed:
    """Build the graph; nothing runs."""
    store, place = level.store, level.place
    opened = open_objects(place.handle)
    builder = GraphBuilder("zv-points")
    grid, shards = None, None
    if store.layout == "grid":
        grid = _grid_plan(level, scan, schema, mode)
        if mode == "overwrite" and len(place.open().list_keys("vertices")):
            grid = dataclasses.replace(grid, marker=builder.run)
    else:
        shards = _shards(store, opened, scan.coords)
    cells = None if grid is None else grid.specs["vertices"]
    plan = plan_blocks(scan, schema.row_bytes, shards, partitions.count, cells)
    gathered = split_partitions(builder, partitions, conversion, schema.attributes, plan, scan, spill)
    block = BlockSpec(place, shard_chunks=shards, grid=grid)
    blocks: list[tuple[BlockSpec, Any]] = [(block, Task(None, encode_block, schema, rows)) for rows in gathered]
    metadata: list[tuple[str, Mapping[str, Any]]] = list(schema.array_metadata(grid=grid is not None))
    arrays = [*schema.arrays]
    if objects is not None:
        extra = object_blobs(objects) if grid is None else []
        if extra:
            blocks.append((BlockSpec(place), EncodedBlock({(a, k): data for a, k, data in extra})))
        described = object_metadata(objects, conversion.grid.ndim, store.layout)
        metadata += described
        arrays += [a for a, _ in described]
    metadata += [
        ("", _level_attributes(level, scan, schema, objects, cells)),
        ("..", _root_attributes(store, scan, conversion, shards)),
    ]
    spec = CommitSpec(
        place,
        tuple(metadata),
        tuple(arrays),
        catalog=True,
        replace=mode == "overwrite",
        remove=_old_nodes(opened, place, schema, objects) if mode == "overwrite" else (),
        report=Report(scan.rows, 0, objects.count if objects else 0, 0, 0, 0, 0.0, scan.dropped),
        grid=grid,
    )

    def after_blocks(builder: GraphBuilder, results: list[TaskRef]) -> list[TaskRef]:
        waiting = [builder.add(builder.key("tidy"), _tidy, spill, *results)] if spill else []
        if objects is not None:
            waiting += write_object_index(
                builder, place, objects, conversion.grid.ndim, results, nodes_first=opened.nodes_first
            )
        return waiting

    then = after_blocks if objects is not None or spill else None
    return build_write_graph(blocks, spec, builder=builder, nodes_first=opened.nodes_first, then=then)


def _grid_plan(level: Level, scan: Scan, schema: PointSchema, mode: str) -> GridPlan:
    """Return the grid of the level's arrays: of the store's bounds where they were declared, and always of the data."""
    store, metadata = level.store, level.store.metadata
    corners = [scan.coords.min(axis=0), scan.coords.max(axis=0)] if len(scan.coords) else []
    if store.settings.get("bounds", "declared") == "declared" or not corners:
        origin, shape = grid_of_bounds(metadata.chunk_shape, *metadata.bounds)
        corners += [np.array(origin, np.int64), np.array(origin, np.int64) + np.array(shape, np.int64) - 1]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    extents: list[int] = (high - low + 1).tolist()
    local = isinstance(open_objects(store.handle), LocalObjects) or store.handle.one_process
    shards = packing(store.settings.get("shard_chunks", "auto"), len(scan.coords), extents, local=local)
    spec = GridSpec(tuple(extents), tuple(low.tolist()), shards, codec_list(store.settings.get("codecs", "zstd")))
    catalog = load_catalog(open_objects(store.handle), level.place.prefix)
    return GridPlan(
        dict.fromkeys(schema.arrays, spec), token="" if catalog is None else catalog.token, alone=mode != "overwrite"
    )


def encode_block(schema: PointSchema, rows: PointRows) -> EncodedBlock:
    """Encode one block's rows; the fragments of objects go on to the object index."""
    encoded = encode_points(schema, rows)
    extra: tuple[NDArray[np.int64], ...] | None = None
    if schema.has_objects:
        extra = (encoded.objects, encoded.chunks, encoded.fragments)
    return EncodedBlock(encoded.blobs, encoded.rows, extra)


def _tidy(spill: str, *_: Any) -> None:
    remove_spill(spill)


def _level_attributes(
    level: Level, scan: Scan, schema: PointSchema, objects: ObjectPlan | None, cells: GridSpec | None
) -> dict[str, Any]:
    present = ["vertices"]
    if schema.attributes:
        present.append("vertex_attributes")
    if objects is not None:
        present.append("object_index")
    # what another writer's level said of its chunk keys and fragments does not hold for ours
    metadata: LevelMetadata = dataclasses.replace(
        level.metadata,
        vertex_count=scan.rows,
        arrays_present=tuple(present),
        chunk_dims=None,
        chunk_attribute_name=None,
        chunk_attribute_values=None,
        shared_fragments=False,
        fragments_tile=cells is not None,  # true of all that is written here; 0.7 has no such word
    )
    if cells is None:
        return metadata.to_attributes()
    return {**metadata.to_attributes(), SETTINGS: {"layout": "grid", "grid": grid_settings(cells)}}


def _root_attributes(store: Store, scan: Scan, conversion: Conversion, shards: int | None) -> dict[str, Any]:
    metadata = store.metadata
    if conversion.box is None and scan.rows:
        low, high = np.asarray(scan.low, np.float64), np.asarray(scan.high, np.float64)
        if store.settings.get("bounds", "declared") == "declared":  # expanded
            low, high = np.minimum(low, metadata.bounds[0]), np.maximum(high, metadata.bounds[1])
        metadata = dataclasses.replace(metadata, bounds=(tuple(low.tolist()), tuple(high.tolist())))
    attributes = {**metadata.to_attributes(), SETTINGS: dict(store.settings)}
    if store.layout == "per_chunk":
        attributes["shard_layout"] = "flat" if shards is None else "octree"
        if shards is not None:
            attributes["shard_size"] = shards
    return attributes


def _old_nodes(objects: Objects, place: Place, schema: PointSchema, plan: ObjectPlan | None) -> tuple[str, ...]:
    """Return what the level holds that the new content has no place for."""
    keep = {a.name for a in schema.attributes}
    old = ["vertex_attributes"]
    if keep:
        names = objects.list_dir(join(place.prefix, "vertex_attributes"))
        old = [f"vertex_attributes/{n}" for n in names if n not in keep and n != DOCUMENT]
    return (*old, "fragment_attributes", *old_object_nodes(objects, place.prefix, plan, place.layout))
