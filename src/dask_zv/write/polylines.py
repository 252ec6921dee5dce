"""Writing lines and polylines: paths that are cut where they leave a chunk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, Unpack, overload

import numpy as np
from dask.task_spec import List, Task, TaskRef

from dask_zv.errors import InputError
from dask_zv.format.links import LinkFamily
from dask_zv.geometry.block import EncodedBlock
from dask_zv.geometry.kinds import KINDS
from dask_zv.geometry.links import LinkRecords, family_path
from dask_zv.geometry.polylines import LINE, POLYLINE, encode_polylines
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.keeping import released_on_failure
from dask_zv.graph.report import Report
from dask_zv.graph.tasks import add_block
from dask_zv.level.contents import LevelContents, Store
from dask_zv.storage.layout import layout_for
from dask_zv.storage.specs import BlockSpec
from dask_zv.write.append_plan import plan_append
from dask_zv.write.containers import position_attrs
from dask_zv.write.inputs import partition_input
from dask_zv.write.job import Job, LinkWriter
from dask_zv.write.labelled import as_endpoints, as_paths
from dask_zv.write.links import route_links, store_links
from dask_zv.write.options import PathOptions, WriteOptions, with_options
from dask_zv.write.path_input import PathInput, line_input, path_input, sort_paths, with_owners
from dask_zv.write.planning import level_to_write, plan_write
from dask_zv.write.plans import WritePlan, planner
from dask_zv.write.running import Write
from dask_zv.write.scan import Scan, scan_input

_CROSS_LINKS = "cross_chunk_links/0"
_WRITTEN = (POLYLINE.name, *(name for name, kind in KINDS.items() if kind.is_path and kind not in (POLYLINE, LINE)))
"""Geometries that :func:`write_polylines` writes, the default first."""


@released_on_failure()
def _plan_lines(store: Store | Any, endpoints: Any, **options: Unpack[WriteOptions]) -> Write:
    level = level_to_write(store, endpoints, (LINE.name,), "write_lines", options)
    endpoints, options = as_endpoints(endpoints, level.store, options)
    paths = line_input(endpoints, options["object_ids"], options["attributes"])
    return _plan_paths(level, "lines", paths, endpoints, options)


@overload
def write_lines(
    store: Store | Any, endpoints: Any, *, compute: Literal[True] = True, **options: Unpack[WriteOptions]
) -> Report: ...
@overload
def write_lines(
    store: Store | Any, endpoints: Any, *, compute: Literal[False], **options: Unpack[WriteOptions]
) -> WritePlan: ...
@with_options(WriteOptions)
def write_lines(
    store: Store | Any, endpoints: Any, *, compute: bool = True, **options: Unpack[WriteOptions]
) -> Report | WritePlan:
    """Write lines, each of two endpoints, into level 0 of a store, as one Dask graph on the active scheduler.

    A line whose endpoints are in two chunks is kept as two pieces, in either chunk one. Both layouts hold lines; the package
    of layout ``per_chunk`` itself writes no attributes of endpoints, but reads past them.

    Parameters
    ----------
    store : Store, or a target as for :func:`write_points`
        Opened for writing, and made with ``geometry="line"``.
    endpoints : ndarray or dask array (N, 2, D); pandas or dask DataFrame with a row to an endpoint; or GeoDataFrame of lines
        In the units of the axes. In a frame the rows of a line follow each other; a row of a GeoDataFrame is a line, and its
        columns are attributes of the objects.
    attributes : mapping of name to array (N, 2) or (N, 2, C), or a list of column names, optional
        Of the endpoints.
    object_ids : integer array (N,), or a column's name, optional
        Id of each line; its number where None.
    out_of_bounds : {"raise", "expand"}
        What to do with positions outside the bounds that the store was created with.
    object_attributes, groups, group_attributes, mode, on_existing, fill_missing
        As for :func:`write_points`.
    position_tolerance, max_categories, progress, resume, compute
        As for :func:`write_points`.
    chunk_shape, bounds, bin_shape, axes, crs, dtype, layout, shard_chunks, compressor, storage_options
        As for :func:`write_points`.

    Returns
    -------
    Report or WritePlan

    Raises
    ------
    InputError, BoundsError, StoreError, PlanError
        As for :func:`write_points`.

    Examples
    --------
    >>> import dask_zv as dzv
    >>> import numpy as np
    >>> store = dzv.create({}, geometry="line", chunk_shape=(10, 10, 10))
    >>> ends = np.random.default_rng(0).uniform(0, 20, (100, 2, 3))
    >>> dzv.write_lines(store, ends).objects
    100
    """
    started = time.perf_counter()
    return _plan_lines(store, endpoints, **options).run(started, compute=compute)


@released_on_failure()
def _plan_polylines(store: Store | Any, positions: Any, **options: Unpack[PathOptions]) -> Write:
    level = level_to_write(store, positions, _WRITTEN, "write_polylines", options)
    positions, options = as_paths(positions, level.store, options)
    paths = path_input(positions, options["lengths"], options["object_ids"], options["attributes"])
    if options["sort_by"] is not None:
        paths = sort_paths(paths, options["sort_by"], level.store.axes)
    return _plan_paths(level, "polylines", paths, positions, options)


@overload
def write_polylines(
    store: Store | Any, positions: Any, *, compute: Literal[True] = True, **options: Unpack[PathOptions]
) -> Report: ...
@overload
def write_polylines(
    store: Store | Any, positions: Any, *, compute: Literal[False], **options: Unpack[PathOptions]
) -> WritePlan: ...
@with_options(PathOptions)
def write_polylines(
    store: Store | Any, positions: Any, *, compute: bool = True, **options: Unpack[PathOptions]
) -> Report | WritePlan:
    """Write polylines or streamlines into level 0 of a store, as one Dask graph on the active scheduler.

    Paths are cut where they leave a chunk, and no vertex is added: reading joins the pieces in the order of the path. A path
    may span many partitions of the input and many blocks of the store.

    Parameters
    ----------
    store : Store, or a target as for :func:`write_points`
        Opened for writing, and made with ``geometry="polyline"`` or ``"streamline"``.
    positions : ndarray or dask array (N, D); list of arrays (n, D); DataFrame, Dataset; or GeoDataFrame of lines
        Vertices of one path after the other, in the order of the paths. (``dask.dataframe.from_pandas`` sorts the rows by the
        index of the frame, unless it is told ``sort=False``.) Of a Dataset with ragged arrays as CF has them, the lengths, the
        ids and the attributes of objects are found. A row of a GeoDataFrame is a path, its index the id where that is an
        integer, and its columns are attributes of the objects.
    lengths : integer array (O,), optional
        Vertices of each path; 0 is a path without vertices. May be a dask array, cut so that its partitions have the lengths of
        the paths in the partitions of `positions`. Where None, `object_ids` says whose each vertex is.
    geometry : {"polyline", "streamline"}, optional
        What a store that is made at a target holds; "polyline" where None.
    sort_by : str or array (N,), optional
        Where the rows are not in the order of the paths, as in a table in order of time: the column, axis or attribute that the
        vertices of each object are sorted by. Its rows may then lie anywhere in the table.
    attributes : mapping of name to array (N,) or (N, C), or a list of column names, optional
        Of the vertices, as for :func:`write_points`; beside a list of paths, also lists of arrays.
    object_ids : integer array, or a column's name, optional
        With `lengths` or a list, id of each path, shape (O,): its number where None. Without, of each vertex, shape (N,).
    out_of_bounds : {"raise", "expand"}
        What to do with positions outside the bounds that the store was created with.
    object_attributes, groups, group_attributes, mode, on_existing, fill_missing
        As for :func:`write_points`.
    position_tolerance, max_categories, progress, resume, compute
        As for :func:`write_points`.
    chunk_shape, bounds, bin_shape, axes, crs, dtype, layout, shard_chunks, compressor, storage_options
        As for :func:`write_points`.

    Returns
    -------
    Report or WritePlan

    Raises
    ------
    InputError, BoundsError, StoreError, PlanError
        As for :func:`write_points`.

    Examples
    --------
    >>> import dask_zv as dzv
    >>> import numpy as np
    >>> store = dzv.create({}, geometry="streamline", chunk_shape=(10, 10, 10))
    >>> steps = np.random.default_rng(0).normal(size=(300, 3))
    >>> report = dzv.write_polylines(store, np.cumsum(steps, axis=0), lengths=[100, 50, 150])
    >>> report.rows, report.objects
    (300, 3)
    """
    started = time.perf_counter()
    return _plan_polylines(store, positions, **options).run(started, compute=compute)


plan_polylines = planner(write_polylines)


def _plan_paths(level: LevelContents, name: str, paths: PathInput, given: Any, options: WriteOptions) -> Write:
    axes, tables = level.store.axes, layout_for(level.store.layout).has_tables
    attrs = position_attrs(given)
    partitions = partition_input(paths.positions, paths.attributes, axes, attrs=attrs, object_ids=paths.object_ids)
    partitions = partitions if paths.owners is None else with_owners(partitions, paths.owners)
    found = scan_input(level, partitions, options)
    scan = found[-1]
    _check_paths(scan, lines=name == "lines")
    links = GridPathLinks(len(axes)) if tables else PerChunkPathLinks(len(axes))
    encode = partial(encode_polylines, at_bins=not tables)
    plan = plan_append if options["mode"] == "append" else plan_write
    return plan(name, level, options, found, encode, ids=scan.ids, empty=paths.objects, links=links)


def _check_paths(scan: Scan, lines: bool) -> None:
    """Raise :class:`InputError` where the rows of an object don't follow each other, or a line has not two."""
    parts = [scan.parts[p] for p in sorted(scan.parts) if scan.parts[p].rows]
    joins = sum(a.ends[1] == b.ends[0] for a, b in pairwise(parts))
    runs = sum(p.n_runs for p in parts) - joins
    distinct = int((scan.ids[:, 1] - scan.ids[:, 0]).sum())
    if runs != distinct:
        raise InputError(
            f"the vertices of {distinct:,} objects come in {runs:,} runs: those of one polyline must follow each other, in the "
            "order of its path; sort the table by its ids first (stably), or pass sort_by= (such as the column of time)"
        )
    if not lines:
        return
    open_run = 0
    for i, part in enumerate(parts):
        if any(n not in (0, 2) for n in part.runs[1:3]):
            raise InputError("a line has other than two endpoints: use write_polylines for paths of any length")
        whole = [part.runs[0]] if part.n_runs == 1 else [part.runs[0], part.runs[3]]
        goes_on = i > 0 and parts[i - 1].ends[1] == part.ends[0]
        if open_run and not goes_on and open_run != 2:
            raise InputError(f"line {parts[i - 1].ends[1]} has {open_run} endpoints, not two")
        first = whole[0] + (open_run if goes_on else 0)
        if len(whole) == 1:
            open_run = first
            continue
        if first != 2:
            raise InputError(f"line {part.ends[0]} has {first} endpoints, not two")
        open_run = whole[1]
    if open_run not in (0, 2):
        raise InputError(f"line {parts[-1].ends[1]} has {open_run} endpoints, not two")


class GridPathLinks(LinkWriter):
    """The links between pieces in layout grid: from a piece's last vertex to the next one's first."""

    families = (family_path(),)
    crossings = True

    def __init__(self, rank: int) -> None:
        self.family = LinkFamily(2, rank)

    def add(self, job: Job, builder: GraphBuilder, results: list[TaskRef], crossings: list[TaskRef]) -> list[TaskRef]:
        """Add the tasks; return the results of those that store. Where no path leaves its chunk, there are no links."""
        pieces: list[list[TaskRef]] = [[] for _ in range(len(job))]
        for i, crossing in enumerate(crossings):
            routed = builder.add(builder.key("route", i), route_links, self.family, job.plan, crossing)
            for b, share in enumerate(pieces):
                share.append(builder.add(builder.key("links", f"{i}-{b}"), dict.get, routed, b))
        return store_links(builder, job, self.family, (), pieces)


class PerChunkPathLinks(LinkWriter):
    """The same in layout per_chunk, where one blob holds all; other tools want it, and read paths from manifests."""

    arrays = families = (_CROSS_LINKS,)
    crossings = True

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def metadata(self) -> list[tuple[str, dict[str, Any]]]:
        """Return (path, attributes) of the blob's group."""
        return [(_CROSS_LINKS, {"zv_array": "cross_chunk_links", "level_delta": 0, "link_width": 2})]

    def add(self, job: Job, builder: GraphBuilder, results: list[TaskRef], crossings: list[TaskRef]) -> list[TaskRef]:
        """Add the task; return its result."""
        encoded = Task(None, _encode_cross_links, self.rank, job.commit.replace, List(*crossings))
        return [add_block(builder, 0, BlockSpec(job.block.place), encoded, kind="links")]


def _encode_cross_links(rank: int, replace: bool, parts: Sequence[LinkRecords]) -> EncodedBlock:
    """Return the blob of links between pieces: for each its two ends, as chunk coordinates and row, in the input's order."""
    if not any(len(p) for p in parts):
        # an overwrite leaves no old blob behind
        return EncodedBlock({(_CROSS_LINKS, "data"): b""} if replace else {})
    records = LinkRecords.join([p for p in parts if len(p)])
    order = np.argsort(records.numbers, kind="stable")
    table = np.concatenate([records.coords[records.chunks[order]], records.rows[order][:, :, None]], axis=2)
    metadata = {_CROSS_LINKS: {"sid_ndim": rank}}
    blob = np.ascontiguousarray(table, "<i8").tobytes()
    return EncodedBlock({(_CROSS_LINKS, "data"): blob}, metadata=metadata, records={_CROSS_LINKS: len(records)})
