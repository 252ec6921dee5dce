"""Writing skeletons: trees of nodes, whose parents may be in other chunks."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from typing import Any, Literal, Unpack, overload

import numpy as np
from dask.base import is_dask_collection
from dask.task_spec import Task, TaskRef

from dask_zv.errors import InputError
from dask_zv.format.links import LinkFamily
from dask_zv.geometry.skeletons import SKELETON, check_forest, check_same_object, encode_skeletons
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.keeping import released_on_failure
from dask_zv.graph.report import Report
from dask_zv.level.contents import Store
from dask_zv.write.append_plan import plan_append
from dask_zv.write.containers import as_table
from dask_zv.write.inputs import partition_input, take_integers
from dask_zv.write.job import Job
from dask_zv.write.labelled import as_columns
from dask_zv.write.link_input import numbers_of, take_ids
from dask_zv.write.links import GivenLinks, linked_level, name_ranges, object_ranges, touches
from dask_zv.write.options import SkeletonOptions, with_options
from dask_zv.write.partitions import Partitions, RawPart
from dask_zv.write.planning import plan_write
from dask_zv.write.plans import WritePlan, planner
from dask_zv.write.running import Write
from dask_zv.write.scan import Scan, scan_input


@released_on_failure()
def _plan_skeletons(store: Store | Any, positions: Any, **options: Unpack[SkeletonOptions]) -> Write:
    level = linked_level(store, positions, SKELETON.name, "write_skeletons", options)
    positions, options = as_columns(positions, level.store, options)
    parents, vertex_ids = options["parents"], options["vertex_ids"]
    if parents is None:
        raise InputError("write_skeletons needs parents=: the parent of each node, -1 at roots")
    positions, object_ids = as_table(positions), options["object_ids"]
    parents, vertex_ids, consumed = _parents_by_number(positions, parents, vertex_ids, object_ids)
    columns = {"object_ids": object_ids, "vertex_ids": vertex_ids, "parents": parents}
    partitions = partition_input(positions, options["attributes"], level.store.axes, consumed, **columns)
    _check_trees(partitions)
    found = scan_input(level, partitions, options)
    if (renamed := _by_object(found[0], found[-1])) is not None:
        found = scan_input(level, renamed, options)
    scan, by_key = found[-1], "vertex_ids" in partitions.integers
    if not by_key:
        _check_parents(scan)
    links = ParentLinks(LinkFamily(2, len(level.store.axes)), by_key=by_key)
    encode = partial(encode_skeletons, family=links.family)
    plan = plan_append if options["mode"] == "append" else plan_write
    return plan("skeletons", level, options, found, encode, ids=object_ranges(scan), links=links)


@overload
def write_skeletons(
    store: Store | Any, positions: Any, *, compute: Literal[True] = True, **options: Unpack[SkeletonOptions]
) -> Report: ...
@overload
def write_skeletons(
    store: Store | Any, positions: Any, *, compute: Literal[False], **options: Unpack[SkeletonOptions]
) -> WritePlan: ...
@with_options(SkeletonOptions)
def write_skeletons(
    store: Store | Any, positions: Any, *, compute: bool = True, **options: Unpack[SkeletonOptions]
) -> Report | WritePlan:
    """Write skeletons (trees of nodes) into level 0 of a store, as one Dask graph on the active scheduler.

    An object may be one tree or several; a node without a parent is a root. Most parents are told by the order of the nodes in
    their chunk, the others, and all that are in another chunk, are stored as links.

    Parameters
    ----------
    store : Store, or a target as for :func:`write_points`
        Opened for writing, made with ``geometry="skeleton"``, and of layout ``grid``.
    positions : ndarray or dask array (N, D), pandas or dask DataFrame, or xarray Dataset, as for :func:`write_points`
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
    >>> store = dzv.create({}, geometry="skeleton", chunk_shape=(10, 10, 10))
    >>> nodes = np.array([[1.0, 1, 1], [9, 9, 9], [12, 9, 9], [9, 14, 9]])
    >>> report = dzv.write_skeletons(store, nodes, parents=[-1, 0, 1, 1])
    >>> store.level(0).read().parents.tolist()
    [-1, 0, 1, 1]
    """
    started = time.perf_counter()
    return _plan_skeletons(store, positions, **options).run(started, compute=compute)


plan_skeletons = planner(write_skeletons)


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


class ParentLinks(GivenLinks):
    """Links from nodes to parents in other chunks, which the blocks of nodes report; with `by_key` they are ids of users."""

    trees = True

    def __init__(self, family: LinkFamily, *, by_key: bool) -> None:
        super().__init__(family)
        self.by_key = by_key

    def add(self, job: Job, builder: GraphBuilder, results: list[TaskRef], crossings: list[TaskRef]) -> list[TaskRef]:
        """Add the tasks; return the results of those that store."""
        low, high = name_ranges(job.scan, by_key=self.by_key)
        named: list[set[int]] = [set() for _ in results]
        for partition in job.scan.spans:
            near = {partition, *touches(job.scan.parent_spans[partition], low, high)}
            for block in job.block_map.blocks(partition):
                named[block] |= near
        return self.add_join(
            job, builder, results, results, [sorted(n) for n in named], "the parent of vertex", one_object=True
        )
