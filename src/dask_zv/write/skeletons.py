"""Writing skeletons: trees of nodes, whose parents may be in other chunks."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import numpy as np
from dask.base import is_dask_collection
from dask.delayed import Delayed
from dask.task_spec import Task, TaskRef

from dask_zv.errors import InputError
from dask_zv.format.links import LinkFamily
from dask_zv.geometry.skeletons import check_forest, check_same_object, encode_skeletons
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.keeping import released_on_failure
from dask_zv.graph.report import Report
from dask_zv.level.contents import StoreContents
from dask_zv.write.containers import as_table
from dask_zv.write.inputs import Partitions, RawPart, partition_input
from dask_zv.write.job import LinkContext
from dask_zv.write.link_join import LinkJoin, touches
from dask_zv.write.link_steps import Linked, all_objects, linked_level, name_ranges
from dask_zv.write.scan import Scan
from dask_zv.write.vertex_ids import numbers_of, take_ids, take_integers
from dask_zv.write.write import Options, Write, scan_input


@overload
def write_skeletons(
    store: StoreContents,
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
    resume: bool = False,
) -> Report: ...
@overload
def write_skeletons(
    store: StoreContents,
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
    resume: bool = False,
) -> Delayed: ...
def write_skeletons(
    store: StoreContents,
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
    resume: bool = False,
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
        Parent of each node, negative at roots. Parents that lead round in a cycle are refused where they are in memory; in lazy
        input, only where the cycle is short enough to be seen in one chunk.
    vertex_ids : integer array (N,), or a column's name, optional
        What `parents` call the vertices, not negative; their places in the input, from 0, where None. Distinct, or, beside
        `object_ids`, distinct among the vertices of each object.
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
    >>> store = dzv.create({}, geometry="skeleton", chunk_shape=(10, 10, 10))
    >>> nodes = np.array([[1.0, 1, 1], [9, 9, 9], [12, 9, 9], [9, 14, 9]])
    >>> report = dzv.write_skeletons(store, nodes, parents=[-1, 0, 1, 1])
    >>> store.level(0).read().parents.tolist()
    [-1, 0, 1, 1]
    """
    started = time.perf_counter()
    options = Options(mode, out_of_bounds, position_tolerance, max_categories, compute, progress, resume)
    about = (object_attributes, groups, group_attributes)
    return prepare_skeletons(store, positions, parents, vertex_ids, attributes, object_ids, about, options).run(started)


@released_on_failure()
def prepare_skeletons(
    store: StoreContents,
    positions: Any,
    parents: Any,
    vertex_ids: Any,
    attributes: Any,
    object_ids: Any,
    about: tuple[Any, Any, Any],
    options: Options,
) -> Write:
    """Check what :func:`write_skeletons` was given; `about` are the attributes and groups of objects, and those of groups."""
    level = linked_level(store, "skeleton", "write_skeletons", options)
    if parents is None:
        raise InputError("write_skeletons needs parents=: the parent of each node, -1 at roots")
    positions = as_table(positions)
    parents, vertex_ids, consumed = _parents_by_number(positions, parents, vertex_ids, object_ids)
    partitions = partition_input(
        positions, attributes, store.axes, consumed, object_ids=object_ids, vertex_ids=vertex_ids, parents=parents
    )
    _check_trees(partitions)
    partitions, conversion, scan = scan_input(level, partitions, options)
    if (renamed := _by_object(partitions, scan)) is not None:
        partitions, conversion, scan = scan_input(level, renamed, options)
    if "vertex_ids" not in partitions.integers:
        _check_parents(scan)
    objects = all_objects(scan, about, store.layout)
    step = ParentLinks(LinkFamily(2, conversion.grid.ndim), "vertex_ids" in partitions.integers)
    encode = partial(encode_skeletons, family=step.family)
    return Write("skeletons", level, partitions, conversion, scan, objects, encode, options, step, numbered=True)


def _parents_by_number(positions: Any, parents: Any, vertex_ids: Any, object_ids: Any) -> tuple[Any, Any, tuple[str, ...]]:
    """Return (parents, vertex ids, columns that these were), with parents by number where all is in memory."""
    if vertex_ids is None or any(is_dask_collection(v) for v in (positions, parents, vertex_ids, object_ids)):
        return parents, vertex_ids, ()
    ids, consumed = take_ids(positions, vertex_ids)
    wanted, of_parents = take_integers(positions, parents, "parents")
    objects = None if object_ids is None else take_integers(positions, object_ids, "object_ids")[0]
    return numbers_of(ids, "parents", wanted, negative=True, objects=objects), None, (*consumed, *of_parents)


def _by_object(partitions: Partitions, scan: Scan) -> Partitions | None:
    """Return lazy vertices under names that are distinct in the whole input, where theirs are in each object only; else None.

    More rows than there are numbers between the least and the greatest id show that some come twice.
    """
    if not {"vertex_ids", "object_ids"} <= set(partitions.integers) or not scan.rows:
        return None
    named = [p.names for p in scan.parts.values() if p.rows]
    low, high = min(n[0] for n in named), max(n[1] for n in named)
    if scan.rows <= high - low + 1:
        return None
    stride, last = high + 1, int((scan.ids[-1:, 1] - 1)[0])
    if (last + 1) * stride > 2**63:
        raise InputError(
            f"vertex_ids are distinct in each object only, and ids to {high} of objects to {last} together are beyond 2**63: "
            "number the vertices, or the objects, from 0"
        )

    def arguments(builder: GraphBuilder) -> list[Any]:
        return [Task(None, _rename, stride, part) for part in partitions.arguments(builder)]

    return dataclasses.replace(partitions, arguments=arguments, kept=None)


def _rename(stride: int, part: RawPart) -> RawPart:
    first = part.integers["object_ids"] * stride
    parents = part.integers["parents"]
    wild = np.flatnonzero(parents >= stride)
    if len(wild):
        raise InputError(f"parents: there is no vertex {parents[wild[0]]}, it is not among vertex_ids")
    names = {"vertex_ids": first + part.integers["vertex_ids"], "parents": np.where(parents < 0, parents, first + parents)}
    return dataclasses.replace(part, integers={**part.integers, **names})


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
                f"partition {number}: a vertex has the parent {spans[-1, 1]}: there are {scan.rows:,} vertices, 0 to "
                f"{scan.rows - 1}"
            )


@dataclass(frozen=True, eq=False)
class ParentLinks(Linked):
    """Links from nodes to parents in other chunks, which the blocks of nodes report.

    Attributes
    ----------
    by_key : bool
        Parents are ids of the user's.
    """

    by_key: bool

    def add(self, context: LinkContext) -> list[TaskRef]:
        """Add the tasks; return the results of those that store."""
        low, high = name_ranges(context.scan, by_key=self.by_key)
        fed = context.fed()
        named: list[set[int]] = [set() for _ in context.results]
        for partition, blocks in fed.items():
            near = {partition, *touches(context.scan.parent_spans[partition], low, high)}
            for block in blocks:
                named[block] |= near
        join = LinkJoin(
            self.family, context.results, [sorted(n) for n in named], "the parent of vertex", one_object=True, fed=fed
        )
        return self.store(context, join)
