"""Writing points."""

from __future__ import annotations

import time
from typing import Any, Literal, Unpack, overload

from dask_zv.errors import InputError
from dask_zv.geometry.points import POINT_CLOUD, encode_points
from dask_zv.graph.keeping import released_on_failure
from dask_zv.graph.report import Report
from dask_zv.level.contents import Store
from dask_zv.write.append_plan import plan_append
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
    plan = plan_append if options["mode"] == "append" else plan_write
    return plan("points", level, options, found, encode_points, ids=found[-1].ids if partitions.has_ids else None)


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

    The call first reads the data once, to check it and to find bounds, chunks, categories and ids. The graph then sends rows to
    the block (group of neighbouring chunks) that they belong to, stores each block and commits. Rows of a chunk keep the order
    of the input on every scheduler. Lazy input is kept in memory between the two steps if it fits into half of the workers'
    memory (or the setting ``dask_zv.keep-input``, in bytes, 0 for none); otherwise it is read twice. Input that differs between
    the two readings is an error.

    Parameters
    ----------
    store : Store, or a target as for :func:`dask_zv.create`
        A store opened for writing, or a path or URL, where a store is created with `chunk_shape` and the other arguments, or
        used as by ``dask_zv.create(..., exist_ok=True)``. A refused call creates no store.
    positions : ndarray or dask array (N, D); pandas or dask DataFrame; xarray Dataset; or GeoDataFrame of points
        In the units of the axes. Columns of a DataFrame, and variables of a Dataset, are matched with the axes by name, in any
        order; those of an array are in the order of the axes of the store. A Dataset may also mark them with the attribute
        ``axis`` (X, Y, Z). Partitions may be in any spatial order and of unknown length.
    attributes : mapping of name to array (N,) or (N, C), or to the name of a column; or the names of columns
        Any numeric, boolean or date dtype; strings and pandas categories become dictionary-encoded categories. With a table,
        None takes all columns that are neither axes nor ids. Lazy columns may be combined with positions in memory.
    object_ids : integer array (N,), or a column's name, optional
        The object of each point; at least 0, and in layout ``per_chunk`` 0 to n-1 without gaps.
    object_attributes : DataFrame indexed by object id, or mapping of name to array (n, ...), optional
        Rows of an array are in ascending order of the object ids.
    groups : mapping of group number to object ids, optional
    group_attributes : DataFrame indexed by group number, or mapping of name to array (G, ...), optional
        Strings called ``group_names`` are the names of the groups: ``ds.zv.sel(groups="left")`` selects by them.
    mode : {"error", "overwrite", "append"}
        If the level has vertices: refuse, replace the level, or add to it. Replaced chunks change before the commit; only
        Icechunk makes replacement atomic. Appended rows become visible with the commit: in layout ``grid`` they follow the rows
        that their chunks have, which keep their places. An empty level is written as by any other call.
    on_existing : {"error", "extend"}
        With ``mode="append"``: objects that are there already are refused, or get the new rows, paths at their end.
    fill_missing : bool or mapping of name to value
        With ``mode="append"``: what rows get of attributes that they have not. By default those of the store must be given.
        True stores NaN, NaT or None; a mapping names values, which integers and booleans need. Rows of the store get the same
        of attributes that are new.
    out_of_bounds : {"raise", "ignore", "expand"}
        For positions outside of the bounds of the store: refuse the write, leave them out, or make the bounds larger.
    position_tolerance : float, optional
        Largest change of a position by the cast to the store's dtype; by default a ten-thousandth of the smallest bin edge.
    max_categories : int
        Most distinct strings of an attribute, at most 65,535.
    progress : bool, optional
        Show blocks, bytes and rate during the write, in a terminal or a notebook, on any scheduler.
    resume : bool, optional
        Finish an interrupted call with the same arguments. Finished blocks are not written again; if the write is already
        committed, its report is returned. Changed data, arguments or chunks are refused. Pass it from the start for writes of
        less than 64 MB, which can only be resumed if it was passed.
        None means True for a path or URL and for stores from ``dask_zv.create(..., exist_ok=True)``, except that
        ``mode="overwrite"`` replaces a committed level. For others, None resumes if the store has receipts of this write.
    chunk_shape, bounds, bin_shape, axes, crs, dtype, layout, shard_chunks, compressor, storage_options
        As for :func:`dask_zv.create`, if `store` is a path or URL. An existing store must have the same settings. By default,
        axes are x, y, z or those that a Dataset marks, and `crs` is that of the Dataset or GeoDataFrame.
    compute : bool
        False returns a :class:`WritePlan`: a Delayed, whose result is the report and which can join a larger ``dask.compute``,
        and blocks that processes without a cluster can run (``plan.run``, ``plan.commit``, ``plan.save``).

    Returns
    -------
    Report or WritePlan

    Raises
    ------
    InputError
        The data cannot be stored as given; nothing is stored.
    BoundsError
        Positions are out of bounds; nothing is stored.
    StoreError
        The level has vertices and `mode` is "error", or storage failed.
    PlanError
        The store cannot be used in the processes of the tasks.

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
