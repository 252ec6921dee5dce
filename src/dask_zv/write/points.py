"""Writing points."""

from __future__ import annotations

import time
from typing import Any, Literal, Unpack, overload

from dask_zv.errors import InputError
from dask_zv.geometry.points import POINT_CLOUD, encode_points
from dask_zv.graph.keeping import released_on_failure
from dask_zv.graph.report import Report
from dask_zv.level.contents import Store
from dask_zv.write.inputs import partition_input
from dask_zv.write.labelled import as_columns
from dask_zv.write.options import WriteOptions, with_options
from dask_zv.write.planning import level_to_write, plan_write
from dask_zv.write.plans import WritePlan, planner
from dask_zv.write.running import Write
from dask_zv.write.scan import scan_input


@released_on_failure()
def _plan_points(store: Store | Any, positions: Any, **options: Unpack[WriteOptions]) -> Write:
    level = level_to_write(store, positions, (POINT_CLOUD.name,), "write_points", options)
    positions, options = as_columns(positions, level.store, options)
    about = (options["object_attributes"], options["groups"], options["group_attributes"])
    if options["object_ids"] is None and any(given is not None for given in about):
        raise InputError("object_attributes, groups and group_attributes belong to objects: pass object_ids= as well")
    partitions = partition_input(positions, options["attributes"], level.store.axes, object_ids=options["object_ids"])
    found = scan_input(level, partitions, options)
    return plan_write("points", level, options, found, encode_points, ids=found[-1].ids if partitions.has_ids else None)


@overload
def write_points(
    store: Store | Any, positions: Any, *, compute: Literal[True] = True, **options: Unpack[WriteOptions]
) -> Report: ...
@overload
def write_points(
    store: Store | Any, positions: Any, *, compute: Literal[False], **options: Unpack[WriteOptions]
) -> WritePlan: ...
@with_options(WriteOptions)
def write_points(
    store: Store | Any, positions: Any, *, compute: bool = True, **options: Unpack[WriteOptions]
) -> Report | WritePlan:
    """Write points into level 0 of a store, as one Dask graph on the active scheduler.

    The data is looked at once when the function is called (bounds, chunks, categories, ids, whether it can be stored); then
    the graph takes what was kept of it or reads it again, brings rows together by block, stores each block and commits.
    Rows of a chunk are in the order of the input, whatever the scheduler. Lazy input is kept where it fits into half of the
    workers' memory, or into what the setting ``dask_zv.keep-input`` says (bytes, 0 for none). Input that is not the same when
    it is read again is an error.

    Parameters
    ----------
    store : Store, or a target as for :func:`dask_zv.create`
        Opened for writing. At a target, a store is made with `chunk_shape` and whatever else is given; one that is there is
        used as by ``dask_zv.create(..., exist_ok=True)``. A call that is refused makes no store.
    positions : ndarray or dask array (N, D); pandas or dask DataFrame; xarray Dataset; or GeoDataFrame of points
        In the units of the axes. Columns of a DataFrame, and variables of a Dataset, are matched with the axes by name, in any
        order; the columns of an array are in the order of the store's axes. A Dataset may also mark them with the attribute
        ``axis`` (X, Y, Z). Partitions may be in any spatial order and of unknown length.
    attributes : mapping of name to array (N,) or (N, C), or to the name of a column; or the names of columns
        Any numeric, boolean or date dtype; strings and pandas categories become dictionary-encoded categories. With named
        columns, None takes all that are neither axes nor ids. Lazy columns may stand beside positions in memory.
    object_ids : integer array (N,), or a column's name, optional
        The object of each point; at least 0, and in layout ``per_chunk`` 0 to n-1 without gaps.
    object_attributes : DataFrame indexed by object id, or mapping of name to array (n, ...), optional
        Rows of an array are those of the objects in ascending order of their ids.
    groups : mapping of group number to object ids, optional
    group_attributes : DataFrame indexed by group number, or mapping of name to array (G, ...), optional
        Strings called ``group_names`` are the names of the groups: ``ds.zv.sel(groups="left")`` selects by them.
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
    progress : bool, optional
        Show blocks, bytes and rate while it runs, in a terminal or a notebook, on any scheduler.
    resume : bool, optional
        Finish what an interrupted call with the same arguments began: blocks that are whole in the store are not written again,
        and of a write that is committed already the report is returned. Data, arguments or chunks that have changed are
        refused. From the start it may be passed, too, and small writes (of less than 64 MB) can only be resumed if it was.
        None is True at a target, and for stores of ``dask_zv.create(..., exist_ok=True)``, but for a ``mode="overwrite"`` of
        what is committed, which is carried out; for other stores, None goes on where the receipts of this very write lie there.
    chunk_shape, bounds, bin_shape, axes, crs, dtype, layout, shard_chunks, compressor, storage_options
        As for :func:`dask_zv.create`, where `store` is a target. A store that is there, or open, must have been made so. Where
        they are not given, axes are x, y, z or those that a Dataset marks, and `crs` is that of the Dataset or GeoDataFrame.
    compute : bool
        False returns a :class:`WritePlan`: a Delayed, whose result is the report and which can join a larger ``dask.compute``,
        and blocks that processes without a cluster can run (``plan.run``, ``plan.commit``, ``plan.save``).

    Returns
    -------
    Report or WritePlan

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
    started = time.perf_counter()
    return _plan_points(store, positions, **options).run(started, compute=compute)


plan_points = planner(write_points)
