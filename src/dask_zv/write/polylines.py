"""Writing lines and polylines: paths that are cut where they leave a chunk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import numpy as np
from dask.delayed import Delayed
from dask.task_spec import List, Task, TaskRef

from dask_zv.format.links import LinkFamily
from dask_zv.geometry.links import LinkRecords, family_path
from dask_zv.geometry.polylines import encode_polylines
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.graph.keeping import released_on_failure
from dask_zv.graph.report import Report
from dask_zv.level.contents import StoreContents
from dask_zv.storage.specs import BlockSpec, EncodedBlock
from dask_zv.write.containers import position_attrs
from dask_zv.write.inputs import partition_input
from dask_zv.write.job import LinkContext
from dask_zv.write.link_join import add_links, pick_records, route_links, store_links
from dask_zv.write.object_plan import plan_objects
from dask_zv.write.path_input import PathInput, check_paths, line_input, path_input
from dask_zv.write.path_order import sort_paths
from dask_zv.write.write import Options, Write, level_to_write, scan_input

_CROSS_LINKS = "cross_chunk_links/0"


@overload
def write_lines(
    store: StoreContents,
    endpoints: Any,
    *,
    attributes: Any = None,
    object_ids: Any = None,
    object_attributes: Any = None,
    groups: Mapping[int, Sequence[int]] | None = None,
    group_attributes: Any = None,
    mode: Literal["error", "overwrite"] = "error",
    out_of_bounds: Literal["raise", "expand"] = "raise",
    position_tolerance: float | None = None,
    max_categories: int = 10_000,
    compute: Literal[True] = True,
    progress: bool | None = None,
    resume: bool = False,
) -> Report: ...
@overload
def write_lines(
    store: StoreContents,
    endpoints: Any,
    *,
    attributes: Any = None,
    object_ids: Any = None,
    object_attributes: Any = None,
    groups: Mapping[int, Sequence[int]] | None = None,
    group_attributes: Any = None,
    mode: Literal["error", "overwrite"] = "error",
    out_of_bounds: Literal["raise", "expand"] = "raise",
    position_tolerance: float | None = None,
    max_categories: int = 10_000,
    compute: Literal[False],
    progress: bool | None = None,
    resume: bool = False,
) -> Delayed: ...
def write_lines(
    store: StoreContents,
    endpoints: Any,
    *,
    attributes: Any = None,
    object_ids: Any = None,
    object_attributes: Any = None,
    groups: Mapping[int, Sequence[int]] | None = None,
    group_attributes: Any = None,
    mode: Literal["error", "overwrite"] = "error",
    out_of_bounds: Literal["raise", "expand"] = "raise",
    position_tolerance: float | None = None,
    max_categories: int = 10_000,
    compute: bool = True,
    progress: bool | None = None,
    resume: bool = False,
) -> Report | Delayed:
    """Write lines, each of two endpoints, into level 0 of a store, as one Dask graph on the active scheduler.

    A line whose endpoints are in two chunks is kept as two pieces, in either chunk one. Both layouts hold lines; the package
    of layout ``per_chunk`` itself writes no attributes of endpoints, but reads past them.

    Parameters
    ----------
    store : Store
        Opened for writing, and made with ``geometry="line"``.
    endpoints : ndarray or dask array (N, 2, D), or a pandas or dask DataFrame with a row to an endpoint
        In the units of the axes. In a frame the rows of a line follow each other.
    attributes : mapping of name to array (N, 2) or (N, 2, C), or a list of column names, optional
        Of the endpoints.
    object_ids : integer array (N,), or a column's name, optional
        Id of each line; its number where None.
    object_attributes : DataFrame indexed by object id, or mapping of name to array (O, ...), optional
        Rows of an array are those of the objects in ascending order of their ids.
    groups : mapping of group number to object ids, optional
    group_attributes : DataFrame indexed by group number, or mapping of name to array (G, ...), optional
    mode, position_tolerance, max_categories, compute, progress, resume
        As for :func:`write_points`.
    out_of_bounds : {"raise", "expand"}
        What to do with positions outside the bounds that the store was created with.

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
    >>> store = dzv.create({}, geometry="line", chunk_shape=(10, 10, 10))
    >>> ends = np.random.default_rng(0).uniform(0, 20, (100, 2, 3))
    >>> dzv.write_lines(store, ends).objects
    100
    """
    started = time.perf_counter()
    options = Options(mode, out_of_bounds, position_tolerance, max_categories, compute, progress, resume)
    about = (object_attributes, groups, group_attributes)
    paths = partial(line_input, endpoints, object_ids, attributes)
    return prepare_paths("write_lines", ("line",), store, paths, about, options).run(started)


@overload
def write_polylines(
    store: StoreContents,
    positions: Any,
    *,
    lengths: Any = None,
    sort_by: Any = None,
    attributes: Any = None,
    object_ids: Any = None,
    object_attributes: Any = None,
    groups: Mapping[int, Sequence[int]] | None = None,
    group_attributes: Any = None,
    mode: Literal["error", "overwrite"] = "error",
    out_of_bounds: Literal["raise", "expand"] = "raise",
    position_tolerance: float | None = None,
    max_categories: int = 10_000,
    compute: Literal[True] = True,
    progress: bool | None = None,
    resume: bool = False,
) -> Report: ...
@overload
def write_polylines(
    store: StoreContents,
    positions: Any,
    *,
    lengths: Any = None,
    sort_by: Any = None,
    attributes: Any = None,
    object_ids: Any = None,
    object_attributes: Any = None,
    groups: Mapping[int, Sequence[int]] | None = None,
    group_attributes: Any = None,
    mode: Literal["error", "overwrite"] = "error",
    out_of_bounds: Literal["raise", "expand"] = "raise",
    position_tolerance: float | None = None,
    max_categories: int = 10_000,
    compute: Literal[False],
    progress: bool | None = None,
    resume: bool = False,
) -> Delayed: ...
def write_polylines(
    store: StoreContents,
    positions: Any,
    *,
    lengths: Any = None,
    sort_by: Any = None,
    attributes: Any = None,
    object_ids: Any = None,
    object_attributes: Any = None,
    groups: Mapping[int, Sequence[int]] | None = None,
    group_attributes: Any = None,
    mode: Literal["error", "overwrite"] = "error",
    out_of_bounds: Literal["raise", "expand"] = "raise",
    position_tolerance: float | None = None,
    max_categories: int = 10_000,
    compute: bool = True,
    progress: bool | None = None,
    resume: bool = False,
) -> Report | Delayed:
    """Write polylines or streamlines into level 0 of a store, as one Dask graph on the active scheduler.

    Paths are cut where they leave a chunk, and no vertex is added: reading joins the pieces in the order of the path. A path
    may span many partitions of the input and many blocks of the store.

    Parameters
    ----------
    store : Store
        Opened for writing, and made with ``geometry="polyline"`` or ``"streamline"``.
    positions : ndarray or dask array (N, D), list of arrays (n, D), or a pandas or dask DataFrame with a row to a vertex
        Vertices of one path after the other, in the order of the paths. (``dask.dataframe.from_pandas`` sorts the rows by the
        index of the frame, unless it is told ``sort=False``.)
    lengths : integer array (O,), optional
        Vertices of each path; 0 is a path without vertices. May be a dask array, cut so that its partitions have the lengths of
        the paths in the partitions of `positions`. Where None, `object_ids` says whose each vertex is.
    sort_by : str or array (N,), optional
        Where the rows are not in the order of the paths, as in a table in order of time: the column, axis or attribute that the
        vertices of each object are sorted by. Its rows may then lie anywhere in the table.
    attributes : mapping of name to array (N,) or (N, C), or a list of column names, optional
        Of the vertices, as for :func:`write_points`; beside a list of paths, also lists of arrays.
    object_ids : integer array, or a column's name, optional
        With `lengths` or a list, id of each path, shape (O,): its number where None. Without, of each vertex, shape (N,).
    object_attributes : DataFrame indexed by object id, or mapping of name to array (O, ...), optional
        Rows of an array are those of the objects in ascending order of their ids.
    groups : mapping of group number to object ids, optional
    group_attributes : DataFrame indexed by group number, or mapping of name to array (G, ...), optional
    mode, position_tolerance, max_categories, compute, progress, resume
        As for :func:`write_points`.
    out_of_bounds : {"raise", "expand"}
        What to do with positions outside the bounds that the store was created with.

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
    >>> store = dzv.create({}, geometry="streamline", chunk_shape=(10, 10, 10))
    >>> steps = np.random.default_rng(0).normal(size=(300, 3))
    >>> report = dzv.write_polylines(store, np.cumsum(steps, axis=0), lengths=[100, 50, 150])
    >>> report.rows, report.objects
    (300, 3)
    """
    started = time.perf_counter()
    options = Options(mode, out_of_bounds, position_tolerance, max_categories, compute, progress, resume)
    about = (object_attributes, groups, group_attributes)
    paths = partial(path_input, positions, lengths, object_ids, attributes)
    return prepare_paths("write_polylines", ("streamline", "polyline"), store, paths, about, options, sort_by).run(started)


@released_on_failure()
def prepare_paths(
    function: str,
    geometries: Sequence[str],
    store: StoreContents,
    paths: Any,
    about: tuple[Any, Any, Any],
    options: Options,
    sort_by: Any = None,
) -> Write:
    """Check what a function that writes paths was given; `paths` returns them as :class:`PathInput`."""
    level = level_to_write(store, geometries, function, options)
    given: PathInput = paths()
    if sort_by is not None:
        given = sort_paths(given, sort_by, store.axes)
    attrs = position_attrs(paths.args[0])
    partitions = partition_input(given.positions, given.attributes, store.axes, attrs=attrs, object_ids=given.object_ids)
    partitions, conversion, scan = scan_input(level, partitions, options)
    check_paths(scan, lines=function == "write_lines")
    object_attributes, groups, group_attributes = about
    objects = plan_objects(
        scan.ids,
        object_attributes,
        groups,
        layout=store.layout,
        group_attributes=group_attributes,
        empty=given.objects,
    )
    rank = conversion.grid.ndim
    links = PieceLinks(rank) if store.layout == "grid" else PlainPieceLinks(rank)
    encode = partial(encode_polylines, at_bins=store.layout == "per_chunk")
    name = function.partition("_")[2]
    return Write(name, level, partitions, conversion, scan, objects, encode, options, links, numbered=True)


@dataclass(frozen=True)
class PieceLinks:
    """The links between pieces in layout grid: from a piece's last vertex to the next one's first."""

    rank: int
    arrays: tuple[str, ...] = ()
    families: tuple[str, ...] = (family_path(),)
    crossings: bool = True
    digests: tuple[int, ...] = ()
    described: tuple[tuple[AttributeSchema, Mapping[str, Any]], ...] = ()

    def metadata(self) -> list[tuple[str, dict[str, Any]]]:
        """Return nothing: where no path leaves its chunk, there are no links."""
        return []

    def add(self, context: LinkContext) -> list[TaskRef]:
        """Add the tasks; return the results of those that store."""
        builder, family = context.builder, LinkFamily(2, self.rank)
        pieces: list[list[TaskRef]] = [[] for _ in range(len(context.plan))]
        for i, crossing in enumerate(context.crossings):
            routed = builder.add(builder.key("route", i), route_links, family, context.plan, crossing)
            for b, share in enumerate(pieces):
                share.append(builder.add(builder.key("links", f"{i}-{b}"), pick_records, routed, b))
        return store_links(builder, context.spec, family, (), pieces, nodes_first=context.nodes_first)


@dataclass(frozen=True)
class PlainPieceLinks:
    """The same in layout per_chunk, where one blob holds all; other tools want it, and read paths from manifests."""

    rank: int
    arrays: tuple[str, ...] = (_CROSS_LINKS,)
    families: tuple[str, ...] = (_CROSS_LINKS,)
    crossings: bool = True
    digests: tuple[int, ...] = ()
    described: tuple[tuple[AttributeSchema, Mapping[str, Any]], ...] = ()

    def metadata(self) -> list[tuple[str, dict[str, Any]]]:
        """Return (path, attributes) of the blob's group."""
        return [(_CROSS_LINKS, {"zv_array": "cross_chunk_links", "level_delta": 0, "link_width": 2})]

    def add(self, context: LinkContext) -> list[TaskRef]:
        """Add the task; return its result."""
        builder = context.builder
        encoded = Task(None, _encode_cross_links, self.rank, context.replace, List(*context.crossings))
        return [add_links(builder, 0, BlockSpec(context.spec.place), encoded)]


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
