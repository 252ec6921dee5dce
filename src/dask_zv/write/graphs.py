"""Writing graphs and meshes: vertices, and a table of the edges or faces between them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

from dask.base import is_dask_collection
from dask.delayed import Delayed
from dask.task_spec import TaskRef

from dask_zv.errors import InputError
from dask_zv.format.links import LinkFamily
from dask_zv.geometry.graphs import encode_linked
from dask_zv.geometry.kinds import KINDS
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.graph.keeping import released_on_failure
from dask_zv.graph.report import Report
from dask_zv.level.contents import StoreContents
from dask_zv.write.containers import as_table
from dask_zv.write.explaining import not_begun
from dask_zv.write.inputs import partition_input
from dask_zv.write.job import LinkContext
from dask_zv.write.link_input import LinkInput, LinkScan, link_input, link_parts, scan_links
from dask_zv.write.link_join import LinkJoin, touches
from dask_zv.write.link_steps import Linked, all_objects, linked_level, name_ranges
from dask_zv.write.vertex_ids import numbers_of, take_ids
from dask_zv.write.write import Options, Write, scan_input


@overload
def write_graph(
    store: StoreContents,
    positions: Any,
    *,
    edges: Any,
    edge_attributes: Any = None,
    directed: bool = False,
    vertex_ids: Any = None,
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
def write_graph(
    store: StoreContents,
    positions: Any,
    *,
    edges: Any,
    edge_attributes: Any = None,
    directed: bool = False,
    vertex_ids: Any = None,
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
def write_graph(
    store: StoreContents,
    positions: Any,
    *,
    edges: Any,
    edge_attributes: Any = None,
    directed: bool = False,
    vertex_ids: Any = None,
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
    """Write a graph into level 0 of a store, as one Dask graph on the active scheduler.

    An edge is stored with the chunk of one of its ends, and read back with its direction and its attributes; the order of the
    table is not kept: an attribute of edges can number them. Loops and parallel edges are allowed.

    Parameters
    ----------
    store : Store
        Opened for writing, made with ``geometry="graph"``, and of layout ``grid``.
    positions : ndarray or dask array (N, D), or a pandas or dask DataFrame with the axes as columns
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
    >>> store = dzv.create({}, geometry="graph", chunk_shape=(10, 10))
    >>> nodes = np.array([[1.0, 1], [9, 9], [12, 9]])
    >>> report = dzv.write_graph(store, nodes, edges=[[1, 0], [2, 1]], edge_attributes={"weight": [0.5, 2.0]})
    >>> graph = store.level(0).read()
    >>> graph.edges.tolist(), graph.edge_attributes["weight"].tolist()
    ([[1, 0], [2, 1]], [0.5, 2.0])
    """
    started = time.perf_counter()
    options = Options(mode, out_of_bounds, position_tolerance, max_categories, compute, progress, resume)
    about = (object_attributes, groups, group_attributes)
    links = edges, edge_attributes, vertex_ids
    write = prepare_linked("graph", "write_graph", store, positions, links, attributes, object_ids, about, directed, options)
    return write.run(started)


@overload
def write_meshes(
    store: StoreContents,
    positions: Any,
    *,
    faces: Any,
    face_attributes: Any = None,
    vertex_ids: Any = None,
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
def write_meshes(
    store: StoreContents,
    positions: Any,
    *,
    faces: Any,
    face_attributes: Any = None,
    vertex_ids: Any = None,
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
def write_meshes(
    store: StoreContents,
    positions: Any,
    *,
    faces: Any,
    face_attributes: Any = None,
    vertex_ids: Any = None,
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
    """Write meshes into level 0 of a store, as one Dask graph on the active scheduler.

    Faces may span chunks and blocks; no vertex is doubled. Winding and first vertex of each face are kept.

    Parameters
    ----------
    store : Store
        Opened for writing, made with ``geometry="mesh"``, and of layout ``grid``.
    positions : ndarray or dask array (N, D), or a pandas or dask DataFrame with the axes as columns
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
    >>> store = dzv.create({}, geometry="mesh", chunk_shape=(10, 10, 10))
    >>> corners = np.array([[1.0, 1, 1], [9, 1, 1], [12, 9, 1], [1, 9, 1]])
    >>> report = dzv.write_meshes(store, corners, faces=[[0, 1, 3], [2, 3, 1]])
    >>> mesh = store.level(0).read()
    >>> len(mesh.positions), len(mesh.faces)
    (4, 2)
    """
    started = time.perf_counter()
    options = Options(mode, out_of_bounds, position_tolerance, max_categories, compute, progress, resume)
    about = (object_attributes, groups, group_attributes)
    links = faces, face_attributes, vertex_ids
    write = prepare_linked("mesh", "write_meshes", store, positions, links, attributes, object_ids, about, False, options)
    return write.run(started)


@released_on_failure()
def prepare_linked(
    geometry: str,
    function: str,
    store: StoreContents,
    positions: Any,
    links: tuple[Any, Any, Any],
    attributes: Any,
    object_ids: Any,
    about: tuple[Any, Any, Any],
    directed: bool,
    options: Options,
) -> Write:
    """Check what a function that writes edges or faces was given; `links` are the table, its attributes, the vertices' ids."""
    level = linked_level(store, geometry, function, options)
    table, link_attributes, vertex_ids = links
    renumber, what = None, KINDS[geometry].link
    consumed: tuple[str, ...] = ()
    positions, table = as_table(positions), as_table(table)
    if vertex_ids is not None and not any(is_dask_collection(v) for v in (positions, table, vertex_ids)):
        ids, consumed = take_ids(positions, vertex_ids)
        renumber, vertex_ids = partial(numbers_of, ids, f"{what}s", negative=False), None
    partitions = partition_input(positions, attributes, store.axes, consumed, object_ids=object_ids, vertex_ids=vertex_ids)
    given = link_input(table, link_attributes, what, renumber)
    partitions, conversion, scan = scan_input(level, partitions, options)
    with not_begun(level):
        scans, given = scan_links(given, scan.rows if vertex_ids is None else None)
    objects = all_objects(scan, about, store.layout)
    family = LinkFamily(given.width, conversion.grid.ndim, directed=directed)
    step = TableLinks(family, given, tuple(scans), vertex_ids is not None)
    return Write(geometry, level, partitions, conversion, scan, objects, encode_linked, options, step, numbered=True)


@dataclass(frozen=True, eq=False)
class TableLinks(Linked):
    """Edges or faces, from a table.

    Attributes
    ----------
    links : LinkInput
    scans : tuple of LinkScan
        One for each of its parts.
    by_key : bool
        They name vertices by ids of the user's.
    """

    links: LinkInput
    scans: tuple[LinkScan, ...]
    by_key: bool

    @property
    def attributes(self) -> tuple[AttributeSchema, ...]:
        """Attributes of the links."""
        return self.links.attributes

    @property
    def described(self) -> tuple[tuple[AttributeSchema, Mapping[str, Any]], ...]:
        """The attributes of links, each with its units and the like."""
        return tuple((a, self.links.attrs.get(a.name, {})) for a in self.links.attributes)

    @property
    def digests(self) -> tuple[int, ...]:
        """Checksums of the parts of the table."""
        return tuple(s.digest for s in self.scans)

    def add(self, context: LinkContext) -> list[TaskRef]:
        """Add the tasks; return the results of those that store."""
        low, high = name_ranges(context.scan, by_key=self.by_key)
        some = [i for i, s in enumerate(self.scans) if s.rows]
        parts = link_parts(self.links, self.scans, context.builder)
        named = [touches(self.scans[i].spans, low, high) for i in some]
        what = self.links.what
        lost = next((self.scans[i].spans for i, found in zip(some, named, strict=True) if not found), None)
        if lost is not None:  # no pair of tables would meet, so no task would see it
            raise InputError(
                f"{self.links.what}s name vertices {lost[0, 0]} to {lost[-1, 1]}, none of which is among the vertices"
            )
        return self.store(context, LinkJoin(self.family, [parts[i] for i in some], named, what, fed=context.fed()))
