"""Writing skeletons, graphs and meshes: vertices, and links between them that may cross chunks and blocks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import numpy as np
from dask.base import is_dask_collection
from dask.delayed import Delayed
from dask.task_spec import TaskRef
from numpy.typing import NDArray

from dask_zv.batch.receipts import Report
from dask_zv.errors import InputError
from dask_zv.format.links import LinkFamily
from dask_zv.geometry.blocks import encode_linked, encode_skeletons
from dask_zv.geometry.link_records import family_path, intra_segment, link_attribute_metadata
from dask_zv.geometry.schema import LINK_FRAGMENTS, AttributeSchema
from dask_zv.geometry.skeletons import check_forest, check_same_object
from dask_zv.pipelines.inputs import Partitions, is_frame, partition_input
from dask_zv.pipelines.link_input import LinkInput, LinkScan, link_input, link_parts, scan_links
from dask_zv.pipelines.link_join import LinkJoin, store_links, touches
from dask_zv.pipelines.manifests import ObjectPlan, plan_objects
from dask_zv.pipelines.scan import Scan
from dask_zv.pipelines.store import Level, Store
from dask_zv.pipelines.writing import LinkContext, Options, Write, level_to_write, scan_input

__all__ = ["write_graph", "write_meshes", "write_skeletons"]


@overload
def write_skeletons(
    store: Store,
    positions: Any,
    *,
    parents: Any,
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
) -> Report: ...
@overload
def write_skeletons(
    store: Store,
    positions: Any,
    *,
    parents: Any,
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
) -> Delayed: ...
def write_skeletons(
    store: Store,
    positions: Any,
    *,
    parents: Any,
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
) -> Report | Delayed:
    """Write skeletons (trees of nodes) into level 0 of a store, as one Dask graph on the active scheduler.

    An object may be one tree or several; a node without a parent is a root. Most parents are told by the order of the nodes in
    their chunk, the others, and all that are in another chunk, are stored as links.

    Parameters
    ----------
    store : Store
        Opened for writing, made with ``geometry="skeleton"``, and of layout ``grid``.
    positions : ndarray or dask array (N, D), or a pandas or dask DataFrame with the axes as columns
        In the units of the axes.
    parents : integer array (N,), or a column's name
        Parent of each node, negative at roots.
    vertex_ids : integer array (N,), or a column's name, optional
        What `parents` call the vertices, distinct and not negative; their places in the input, from 0, where None.
    attributes : mapping of name to array (N,) or (N, C), or a list of column names, optional
        Of the vertices, as for :func:`write_points`.
    object_ids : integer array (N,), or a column's name, optional
        Object of each vertex; all are of object 0 where None.
    object_attributes : DataFrame indexed by object id, or mapping of name to array (O, ...), optional
        Rows of an array are those of the objects in ascending order of their ids.
    groups : mapping of group number to object ids, optional
    group_attributes : DataFrame indexed by group number, or mapping of name to array (G, ...), optional
    mode, position_tolerance, max_categories, compute, progress
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
    >>> store = dzv.create({}, geometry="skeleton", chunk_shape=(10, 10, 10))
    >>> nodes = np.array([[1.0, 1, 1], [9, 9, 9], [12, 9, 9], [9, 14, 9]])
    >>> report = dzv.write_skeletons(store, nodes, parents=[-1, 0, 1, 1])
    >>> store.level(0).read().parents.tolist()
    [-1, 0, 1, 1]
    """
    started = time.perf_counter()
    options = Options(mode, out_of_bounds, position_tolerance, max_categories, compute, progress)
    about = (object_attributes, groups, group_attributes)
    level = _level(store, "skeleton", "write_skeletons", options)
    if parents is None:
        raise InputError("write_skeletons needs parents=: the parent of each node, -1 at roots")
    parents, vertex_ids, positions = _parents_by_number(positions, parents, vertex_ids)
    partitions = partition_input(
        positions, attributes, store.axes, object_ids=object_ids, vertex_ids=vertex_ids, parents=parents
    )
    _check_trees(partitions)
    conversion, scan = scan_input(level, partitions, options)
    if "vertex_ids" not in partitions.integers:
        _check_parents(scan)
    objects = _objects(scan, about, store.layout)
    step = ParentLinks(LinkFamily(2, conversion.grid.ndim), "vertex_ids" in partitions.integers)
    encode = partial(encode_skeletons, family=step.family)
    return Write("skeletons", level, partitions, conversion, scan, objects, encode, options, step, numbered=True).run(started)


@overload
def write_graph(
    store: Store,
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
) -> Report: ...
@overload
def write_graph(
    store: Store,
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
) -> Delayed: ...
def write_graph(
    store: Store,
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
) -> Report | Delayed:
    """Write a graph into level 0 of a store, as one Dask graph on the active scheduler.

    An edge is stored with the chunk of one of its ends, and read back as it was given, its direction and its place in the table
    of attributes included. Loops and parallel edges are allowed.

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
    mode, position_tolerance, max_categories, compute, progress
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
    options = Options(mode, out_of_bounds, position_tolerance, max_categories, compute, progress)
    about = (object_attributes, groups, group_attributes)
    links = edges, edge_attributes, vertex_ids
    return _write_linked("graph", "write_graph", store, positions, links, attributes, object_ids, about, directed, options)


@overload
def write_meshes(
    store: Store,
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
) -> Report: ...
@overload
def write_meshes(
    store: Store,
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
) -> Delayed: ...
def write_meshes(
    store: Store,
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
    mode, position_tolerance, max_categories, compute, progress
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
    options = Options(mode, out_of_bounds, position_tolerance, max_categories, compute, progress)
    about = (object_attributes, groups, group_attributes)
    links = faces, face_attributes, vertex_ids
    return _write_linked("mesh", "write_meshes", store, positions, links, attributes, object_ids, about, False, options)


def _level(store: Store, geometry: str, function: str, options: Options) -> Level:
    """Return the level to write to, in a layout that can hold links."""
    level = level_to_write(store, (geometry,), function, options)
    if store.layout == "per_chunk":
        raise InputError(
            f"{store.url} has layout per_chunk (ZV 0.7), whose writers and readers lose or mix up the links of objects that share a "
            f"chunk: make the store with dzv.create(geometry={geometry!r}, layout='grid')"
        )
    return level


def _write_linked(
    geometry: str,
    function: str,
    store: Store,
    positions: Any,
    links: tuple[Any, Any, Any],
    attributes: Any,
    object_ids: Any,
    about: tuple[Any, Any, Any],
    directed: bool,
    options: Options,
) -> Report | Delayed:
    started = time.perf_counter()
    level = _level(store, geometry, function, options)
    table, link_attributes, vertex_ids = links
    renumber = None
    if vertex_ids is not None and not (is_dask_collection(positions) or is_dask_collection(table)):
        positions, ids = _take_ids(positions, vertex_ids)
        renumber, vertex_ids = partial(numbers_of, ids), None
    partitions = partition_input(positions, attributes, store.axes, object_ids=object_ids, vertex_ids=vertex_ids)
    given = link_input(table, link_attributes, "edge" if geometry == "graph" else "face", renumber)
    conversion, scan = scan_input(level, partitions, options)
    scans = scan_links(given, scan.rows if vertex_ids is None else None)
    objects = _objects(scan, about, store.layout)
    family = LinkFamily(given.width, conversion.grid.ndim, directed=directed)
    step = TableLinks(family, given, tuple(scans), vertex_ids is not None)
    return Write(geometry, level, partitions, conversion, scan, objects, encode_linked, options, step, numbered=True).run(
        started
    )


def _objects(scan: Scan, about: tuple[Any, Any, Any], layout: str) -> ObjectPlan:
    """Return the plan of the objects; all vertices are of object 0 where they have none."""
    ids = scan.ids
    if not len(ids) and scan.rows:
        ids = np.array([[0, 1]])
    object_attributes, groups, group_attributes = about
    return plan_objects(ids, object_attributes, groups, layout=layout, group_attributes=group_attributes)


def _take_ids(table: Any, vertex_ids: Any) -> tuple[Any, NDArray[np.int64]]:
    """Return a table of vertices in memory without the column of their ids, and the ids.

    Raises
    ------
    InputError
        They are not distinct integers from 0 on.
    """
    column = vertex_ids
    if isinstance(vertex_ids, str):
        if not is_frame(table) or vertex_ids not in table.columns:
            raise InputError(f"unknown column {vertex_ids!r} for vertex_ids")
        column, table = table[vertex_ids], table.drop(columns=vertex_ids)
    ids = np.asarray(column)
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise InputError(f"vertex_ids are integers of the shape (N,), not {ids.dtype} {ids.shape}")
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= 2**63):
        raise InputError(f"vertex_ids are not negative, found {ids.min()} to {ids.max()}")
    if len(ids) != len(table):
        raise InputError(f"vertex_ids have {len(ids):,} rows, positions have {len(table):,}")
    return table, ids.astype(np.int64)


def numbers_of(ids: NDArray[np.int64], wanted: NDArray[Any]) -> NDArray[np.int64]:
    """Return the place of each wanted id among `ids`; negative ones stay.

    Raises
    ------
    InputError
        An id is unknown, or given twice.
    """
    order = np.argsort(ids, kind="stable")
    known = ids[order]
    twice = np.flatnonzero(known[1:] == known[:-1])
    if len(twice):
        raise InputError(f"vertex_ids must be distinct: {known[twice[0]]} is given twice")
    at = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
    negative = np.asarray(wanted) < 0
    unknown = ~negative & (known[at] != wanted) if len(known) else ~negative
    if unknown.any():
        raise InputError(f"there is no vertex {np.asarray(wanted)[unknown].reshape(-1)[0]}: it is not among vertex_ids")
    return np.where(negative, wanted, order[at] if len(known) else -1).astype(np.int64)


def _parents_by_number(positions: Any, parents: Any, vertex_ids: Any) -> tuple[Any, Any, Any]:
    """Return (parents, vertex ids, positions), with parents by number where all is in memory."""
    if vertex_ids is None or is_dask_collection(positions) or is_dask_collection(parents):
        return parents, vertex_ids, positions
    if not isinstance(parents, str):
        positions, ids = _take_ids(positions, vertex_ids)
        return numbers_of(ids, np.asarray(parents)), None, positions
    if not is_frame(positions) or parents not in positions.columns:
        raise InputError(f"unknown column {parents!r} for parents")
    positions, ids = _take_ids(positions, vertex_ids)
    return parents, None, positions.assign(**{parents: numbers_of(ids, np.asarray(positions[parents]))})


def _check_trees(partitions: Partitions) -> None:
    """Look at the parents before anything is stored, where they are in memory and name rows."""
    whole = partitions.whole
    if "parents" not in whole or "vertex_ids" in whole:
        return
    parents = whole["parents"].astype(np.int64)
    n = len(parents)
    if n and int(parents.max()) >= n:
        row = int(np.argmax(parents))
        raise InputError(f"vertex {row} has the parent {parents[row]}: there are {n:,} vertices, 0 to {n - 1}")
    check_forest(parents)
    if "object_ids" in whole:
        check_same_object(np.arange(n), whole["object_ids"], np.maximum(parents, -1))


def _check_parents(scan: Scan) -> None:
    for number, spans in scan.parent_spans.items():
        if len(spans) and int(spans[-1, 1]) >= scan.rows:
            raise InputError(
                f"partition {number}: a vertex has the parent {spans[-1, 1]}: there are {scan.rows:,} vertices, 0 to {scan.rows - 1}"
            )


@dataclass(frozen=True, eq=False)
class _Linked:
    """What the links of skeletons, graphs and meshes have in common.

    Attributes
    ----------
    family : LinkFamily
    """

    family: LinkFamily

    @property
    def attributes(self) -> tuple[AttributeSchema, ...]:
        """Attributes of the links."""
        return ()

    @property
    def crossings(self) -> bool:
        """False: these links were given."""
        return False

    @property
    def families(self) -> tuple[str, ...]:
        """Groups of the arrays whose names only the data tells."""
        return (family_path(), *(family_path(a.name) for a in self.attributes))

    @property
    def arrays(self) -> tuple[str, ...]:
        """Those of links inside chunks, which other tools expect even where there are none."""
        inside = intra_segment(self.family)
        return (LINK_FRAGMENTS, *(f"{path}/{inside}" for path in self.families))

    def metadata(self) -> list[tuple[str, dict[str, Any]]]:
        """Return (path, attributes) of the nodes that are there whatever the data."""
        inside = intra_segment(self.family)
        out: list[tuple[str, dict[str, Any]]] = [
            (LINK_FRAGMENTS, {"zv_array": LINK_FRAGMENTS, "encoding": "fragment_index_v1"}),
            (f"{family_path()}/{inside}", self.family.segment_attributes(inside)),
        ]
        for attribute in self.attributes:
            path = family_path(attribute.name)
            out.append((f"{path}/{inside}", link_attribute_metadata(self.family, attribute, inside)))
            out.append((path, {"zv_array": "link_attribute_family", "name": attribute.name, "level_delta": 0}))
        return [*out, (family_path(), self.family.to_attributes())]

    def _store(self, context: LinkContext, join: LinkJoin) -> list[TaskRef]:
        pieces = join.add(context.builder, context.plan, context.scan.starts(), context.results)
        return store_links(context.builder, context.spec, self.family, self.attributes, pieces, nodes_first=context.nodes_first)


@dataclass(frozen=True, eq=False)
class TableLinks(_Linked):
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

    def add(self, context: LinkContext) -> list[TaskRef]:
        """Add the tasks; return the results of those that store."""
        low, high = _name_ranges(context.scan, by_key=self.by_key)
        some = [i for i, s in enumerate(self.scans) if s.rows]
        parts = link_parts(self.links, self.scans, context.builder)
        named = [touches(self.scans[i].spans, low, high) for i in some]
        what = self.links.what
        return self._store(context, LinkJoin(self.family, [parts[i] for i in some], named, what, fed=context.fed()))


@dataclass(frozen=True, eq=False)
class ParentLinks(_Linked):
    """Links from nodes to parents in other chunks, which the blocks of nodes report.

    Attributes
    ----------
    by_key : bool
        Parents are ids of the user's.
    """

    by_key: bool

    def add(self, context: LinkContext) -> list[TaskRef]:
        """Add the tasks; return the results of those that store."""
        low, high = _name_ranges(context.scan, by_key=self.by_key)
        fed = context.fed()
        named: list[set[int]] = [set() for _ in context.results]
        for partition, blocks in fed.items():
            near = {partition, *touches(context.scan.parent_spans[partition], low, high)}
            for block in blocks:
                named[block] |= near
        join = LinkJoin(
            self.family, context.results, [sorted(n) for n in named], "the parent of vertex", one_object=True, fed=fed
        )
        return self._store(context, join)


def _name_ranges(scan: Scan, *, by_key: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the least and the greatest name of each partition's vertices."""
    if by_key:
        names = [scan.parts[p].names for p in sorted(scan.parts)]
        return np.array([n[0] for n in names]), np.array([n[1] for n in names])
    starts = scan.starts()
    return starts[:-1], starts[1:] - 1
