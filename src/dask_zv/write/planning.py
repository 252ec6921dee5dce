"""Planning the writes of all geometries for processes that share nothing but the store; see :mod:`.plans`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from dask_zv.errors import InputError
from dask_zv.graph.run import keep_on_client
from dask_zv.level.contents import StoreContents
from dask_zv.write.graphs import prepare_linked
from dask_zv.write.path_input import path_input
from dask_zv.write.plans import WritePlan
from dask_zv.write.points import prepare_points
from dask_zv.write.polylines import prepare_paths
from dask_zv.write.skeletons import prepare_skeletons
from dask_zv.write.write import Options, Write


def _plan(write: Write) -> WritePlan:
    job = write.job().stamped()
    if job.nodes_first:
        raise InputError(
            "a plan is run by processes that share nothing but the store, and a transaction (Icechunk) lives in one: write "
            "on a cluster, without a plan",
        )
    return WritePlan(job, write.level.store.url)


def plan_points(
    store: StoreContents,
    positions: Any,
    *,
    attributes: Any = None,
    object_ids: Any = None,
    object_attributes: Any = None,
    groups: Mapping[int, Sequence[int]] | None = None,
    group_attributes: Any = None,
    mode: Literal["error", "overwrite"] = "error",
    out_of_bounds: Literal["raise", "ignore", "expand"] = "raise",
    position_tolerance: float | None = None,
    max_categories: int = 10_000,
) -> WritePlan:
    """Plan what :func:`write_points` does, for job arrays, workflow managers and MPI.

    The input is looked at once, now, on the active scheduler. What is in memory becomes part of the plan; of a dask collection
    the plan holds how its partitions are made, and every block makes those that have rows for it.

    Parameters
    ----------
    store : Store
        That the processes can reach, too: no store in memory.
    positions, attributes, object_ids, object_attributes, groups, group_attributes
        As for :func:`write_points`.
    mode, out_of_bounds, position_tolerance, max_categories
        As for :func:`write_points`.

    Returns
    -------
    WritePlan

    Raises
    ------
    InputError, BoundsError, StoreError, PlanError
        As for :func:`write_points`.

    Examples
    --------
    >>> import dask_zv as dzv
    >>> import numpy as np
    >>> store = dzv.create({}, chunk_shape=(10, 10, 10))
    >>> plan = dzv.plan_points(store, np.random.default_rng(0).uniform(0, 20, (1000, 3)))
    >>> receipts = [plan.run(block) for block in range(len(plan))]
    >>> plan.commit(receipts).rows
    1000
    """
    options = Options(mode, out_of_bounds, position_tolerance, max_categories)
    about = (object_attributes, groups, group_attributes)
    with keep_on_client():
        return _plan(prepare_points(store, positions, attributes, object_ids, about, options))


def plan_polylines(
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
) -> WritePlan:
    """Plan what :func:`write_polylines` does; see :func:`plan_points`.

    Parameters
    ----------
    store, positions, lengths, sort_by, attributes, object_ids, object_attributes, groups, group_attributes
        As for :func:`write_polylines`.
    mode, out_of_bounds, position_tolerance, max_categories
        As for :func:`write_polylines`.

    Returns
    -------
    WritePlan

    Raises
    ------
    InputError, BoundsError, StoreError, PlanError
        As for :func:`write_polylines`.
    """
    options = Options(mode, out_of_bounds, position_tolerance, max_categories)
    about = (object_attributes, groups, group_attributes)
    paths = partial(path_input, positions, lengths, object_ids, attributes)
    with keep_on_client():
        return _plan(prepare_paths("write_polylines", ("streamline", "polyline"), store, paths, about, options, sort_by))


def plan_skeletons(
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
) -> WritePlan:
    """Plan what :func:`write_skeletons` does; see :func:`plan_points`.

    Parameters
    ----------
    store, positions, parents, vertex_ids, attributes, object_ids, object_attributes, groups, group_attributes
        As for :func:`write_skeletons`.
    mode, out_of_bounds, position_tolerance, max_categories
        As for :func:`write_skeletons`.

    Returns
    -------
    WritePlan

    Raises
    ------
    InputError, BoundsError, StoreError, PlanError
        As for :func:`write_skeletons`.
    """
    options = Options(mode, out_of_bounds, position_tolerance, max_categories)
    about = (object_attributes, groups, group_attributes)
    with keep_on_client():
        return _plan(prepare_skeletons(store, positions, parents, vertex_ids, attributes, object_ids, about, options))


def plan_graph(
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
) -> WritePlan:
    """Plan what :func:`write_graph` does; see :func:`plan_points`. The edges are stored by the commit.

    Parameters
    ----------
    store, positions, edges, edge_attributes, directed, vertex_ids, attributes
        As for :func:`write_graph`.
    object_ids, object_attributes, groups, group_attributes
        As for :func:`write_graph`.
    mode, out_of_bounds, position_tolerance, max_categories
        As for :func:`write_graph`.

    Returns
    -------
    WritePlan

    Raises
    ------
    InputError, BoundsError, StoreError, PlanError
        As for :func:`write_graph`.
    """
    options = Options(mode, out_of_bounds, position_tolerance, max_categories)
    about = (object_attributes, groups, group_attributes)
    links = edges, edge_attributes, vertex_ids
    with keep_on_client():
        return _plan(
            prepare_linked("graph", "write_graph", store, positions, links, attributes, object_ids, about, directed, options)
        )


def plan_meshes(
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
) -> WritePlan:
    """Plan what :func:`write_meshes` does; see :func:`plan_points`. The faces are stored by the commit.

    Parameters
    ----------
    store, positions, faces, face_attributes, vertex_ids, attributes
        As for :func:`write_meshes`.
    object_ids, object_attributes, groups, group_attributes
        As for :func:`write_meshes`.
    mode, out_of_bounds, position_tolerance, max_categories
        As for :func:`write_meshes`.

    Returns
    -------
    WritePlan

    Raises
    ------
    InputError, BoundsError, StoreError, PlanError
        As for :func:`write_meshes`.
    """
    options = Options(mode, out_of_bounds, position_tolerance, max_categories)
    about = (object_attributes, groups, group_attributes)
    links = faces, face_attributes, vertex_ids
    with keep_on_client():
        return _plan(
            prepare_linked("mesh", "write_meshes", store, positions, links, attributes, object_ids, about, False, options)
        )
