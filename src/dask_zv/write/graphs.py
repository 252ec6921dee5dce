"""Writing graphs and meshes: vertices, and a table of the edges or faces between them."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Literal, Unpack, overload

from dask.base import is_dask_collection
from dask.task_spec import TaskRef

from dask_zv.errors import InputError
from dask_zv.format.links import LinkFamily
from dask_zv.geometry.graphs import GRAPH, encode_linked
from dask_zv.geometry.kinds import KINDS
from dask_zv.geometry.meshes import MESH
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.keeping import released_on_failure
from dask_zv.graph.report import Report
from dask_zv.level.contents import Store
from dask_zv.write.append_plan import plan_append
from dask_zv.write.containers import as_table
from dask_zv.write.inputs import partition_input
from dask_zv.write.job import Job
from dask_zv.write.labelled import as_columns
from dask_zv.write.link_input import LinkScan, link_parts, numbers_of, partition_links, scan_links, take_ids
from dask_zv.write.links import GivenLinks, linked_level, name_ranges, object_ranges, touches
from dask_zv.write.options import GraphOptions, MeshOptions, with_options
from dask_zv.write.partitions import Partitions
from dask_zv.write.planning import plan_write
from dask_zv.write.plans import WritePlan, planner
from dask_zv.write.running import Write
from dask_zv.write.scan import note_nothing_written, scan_input


def _plan_graph(store: Store | Any, positions: Any, **options: Unpack[GraphOptions]) -> Write:
    return _plan_linked(GRAPH.name, "write_graph", store, positions, options["directed"], options)


@overload
def write_graph(
    store: Store | Any, positions: Any, *, compute: Literal[True] = True, **options: Unpack[GraphOptions]
) -> Report: ...
@overload
def write_graph(
    store: Store | Any, positions: Any, *, compute: Literal[False], **options: Unpack[GraphOptions]
) -> WritePlan: ...
@with_options(GraphOptions)
def write_graph(
    store: Store | Any, positions: Any, *, compute: bool = True, **options: Unpack[GraphOptions]
) -> Report | WritePlan:
    """Write a graph into level 0 of a store, as one Dask graph on the active scheduler.

    An edge is stored with the chunk of one of its ends, and read back with its direction and its attributes; the order of the
    table is not kept: an attribute of edges can number them. Loops and parallel edges are allowed.

    Parameters
    ----------
    store : Store, or a target as for :func:`write_points`
        Opened for writing, made with ``geometry="graph"``, and of layout ``grid``.
    positions : ndarray or dask array (N, D), pandas or dask DataFrame, or xarray Dataset, as for :func:`write_points`
        In the units of the axes.
    edges : integer array or dask array (E, 2), or a pandas or dask DataFrame with the columns ``source`` and ``target``
        The vertices that each edge joins.
    edge_attributes : mapping of name to array (E,) or (E, C), or a list of column names, optional
        Numbers, booleans or dates.
    directed : bool
        The store says that edges have a direction, and files each with the chunk that it starts in.
    vertex_ids : integer array (N,), or a column's name, optional
        What `edges` call the vertices, distinct and not negative; their places in the input, from 0, where None.
    attributes : mapping of name to array (N,) or (N, C), or a list of column names, optional
        Of the vertices, as for :func:`write_points`.
    object_ids : integer array (N,), or a column's name, optional
        Object of each vertex; all are of object 0 where None.
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
    >>> store = dzv.create({}, geometry="graph", chunk_shape=(10, 10))
    >>> nodes = np.array([[1.0, 1], [9, 9], [12, 9]])
    >>> report = dzv.write_graph(store, nodes, edges=[[1, 0], [2, 1]], edge_attributes={"weight": [0.5, 2.0]})
    >>> graph = store.level(0).read()
    >>> graph.edges.tolist(), graph.edge_attributes["weight"].tolist()
    ([[1, 0], [2, 1]], [0.5, 2.0])
    """
    started = time.perf_counter()
    return _plan_graph(store, positions, **options).run(started, compute=compute)


plan_graph = planner(write_graph)


def _plan_meshes(store: Store | Any, positions: Any, **options: Unpack[MeshOptions]) -> Write:
    return _plan_linked(MESH.name, "write_meshes", store, positions, False, options)


@overload
def write_meshes(
    store: Store | Any, positions: Any, *, compute: Literal[True] = True, **options: Unpack[MeshOptions]
) -> Report: ...
@overload
def write_meshes(
    store: Store | Any, positions: Any, *, compute: Literal[False], **options: Unpack[MeshOptions]
) -> WritePlan: ...
@with_options(MeshOptions)
def write_meshes(
    store: Store | Any, positions: Any, *, compute: bool = True, **options: Unpack[MeshOptions]
) -> Report | WritePlan:
    """Write meshes into level 0 of a store, as one Dask graph on the active scheduler.

    Faces may span chunks and blocks; no vertex is doubled. Winding and first vertex of each face are kept.

    Parameters
    ----------
    store : Store, or a target as for :func:`write_points`
        Opened for writing, made with ``geometry="mesh"``, and of layout ``grid``.
    positions : ndarray or dask array (N, D), pandas or dask DataFrame, or xarray Dataset, as for :func:`write_points`
        In the units of the axes.
    faces : integer array or dask array (F, k), or a pandas or dask DataFrame with the columns ``v0``, ``v1``, ``v2``, …
        The vertices of each face, k of at least 3 for all.
    face_attributes : mapping of name to array (F,) or (F, C), or a list of column names, optional
        Numbers, booleans or dates. The format holds them; the ``zarr-vectors`` package reads past them.
    vertex_ids : integer array (N,), or a column's name, optional
        What `faces` call the vertices, distinct and not negative; their places in the input, from 0, where None.
    attributes : mapping of name to array (N,) or (N, C), or a list of column names, optional
        Of the vertices, as for :func:`write_points`.
    object_ids : integer array (N,), or a column's name, optional
        Object of each vertex; all are of object 0 where None.
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
    >>> store = dzv.create({}, geometry="mesh", chunk_shape=(10, 10, 10))
    >>> corners = np.array([[1.0, 1, 1], [9, 1, 1], [12, 9, 1], [1, 9, 1]])
    >>> report = dzv.write_meshes(store, corners, faces=[[0, 1, 3], [2, 3, 1]])
    >>> mesh = store.level(0).read()
    >>> len(mesh.positions), len(mesh.faces)
    (4, 2)
    """
    started = time.perf_counter()
    return _plan_meshes(store, positions, **options).run(started, compute=compute)


plan_meshes = planner(write_meshes)


@released_on_failure()
def _plan_linked(
    geometry: str,
    function: str,
    store: Store | Any,
    positions: Any,
    directed: bool,
    options: Any,
) -> Write:
    """Plan vertices, and the edges or faces between them."""
    level = linked_level(store, positions, geometry, function, options)
    what = KINDS[geometry].link
    positions, options = as_columns(positions, level.store, options)
    table, link_attributes, vertex_ids = options[f"{what}s"], options[f"{what}_attributes"], options["vertex_ids"]
    renumber = None
    consumed: tuple[str, ...] = ()
    positions, table = as_table(positions), as_table(table)
    if vertex_ids is not None and not any(is_dask_collection(v) for v in (positions, table, vertex_ids)):
        ids, consumed = take_ids(positions, vertex_ids)
        renumber, vertex_ids = partial(numbers_of, ids, f"{what}s", negative=False), None
    columns = {"object_ids": options["object_ids"], "vertex_ids": vertex_ids}
    partitions = partition_input(positions, options["attributes"], level.store.axes, consumed, **columns)
    given = partition_links(table, link_attributes, what, renumber)
    found = scan_input(level, partitions, options)
    scan = found[-1]
    with note_nothing_written(level):
        scans, given = scan_links(given, what, scan.rows if vertex_ids is None else None)
    family = LinkFamily(given.width, len(level.store.axes), directed=directed)
    writer = TableLinks(family, given, scans, what, by_key=vertex_ids is not None)
    plan = plan_append if options["mode"] == "append" else plan_write
    return plan(geometry, level, options, found, encode_linked, ids=object_ranges(scan), links=writer)


class TableLinks(GivenLinks):
    """Edges or faces, from a table; with `by_key` it calls vertices by ids of the user's."""

    def __init__(self, family: LinkFamily, links: Partitions, scans: tuple[LinkScan, ...], what: str, *, by_key: bool) -> None:
        super().__init__(family, tuple((a.schema(), a.attrs) for a in links.attributes), tuple(s.digest for s in scans))
        self.links, self.scans, self.what, self.by_key = links, scans, what, by_key

    def add(self, job: Job, builder: GraphBuilder, results: list[TaskRef], crossings: list[TaskRef]) -> list[TaskRef]:
        """Add the tasks; return the results of those that store."""
        low, high = name_ranges(job.scan, by_key=self.by_key)
        some = [i for i, s in enumerate(self.scans) if s.rows]
        parts = link_parts(self.links, self.scans, builder)
        named = [touches(self.scans[i].spans, low, high) for i in some]
        lost = next((self.scans[i].spans for i, found in zip(some, named, strict=True) if not found), None)
        if lost is not None:  # no pair of tables would meet, so no task would see it
            raise InputError(f"{self.what}s name vertices {lost[0, 0]} to {lost[-1, 1]}, none of which is among the vertices")
        return self.add_join(job, builder, results, [parts[i] for i in some], named, self.what)
