"""A function of every chunk, or of every object, of a level: a task handles a block of them, and only results travel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from dask_zv.analysis.map_plan import MappedChunks, MappedObjects, plan_map_chunks, plan_map_objects
from dask_zv.level.contents import LevelContents


@overload
def map_chunks(
    level: LevelContents,
    func: Callable[..., Any],
    *,
    bbox: Any = None,
    chunks: Any = None,
    objects: Any = None,
    rows: slice | NDArray[np.int64] | None = None,
    attributes: Sequence[str] | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    meta: Any = None,
    rows_per_task: int | None = None,
    halo: str | None = None,
    compute: Literal[True] = True,
) -> MappedChunks: ...
@overload
def map_chunks(
    level: LevelContents,
    func: Callable[..., Any],
    *,
    bbox: Any = None,
    chunks: Any = None,
    objects: Any = None,
    rows: slice | NDArray[np.int64] | None = None,
    attributes: Sequence[str] | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    meta: Any = None,
    rows_per_task: int | None = None,
    halo: str | None = None,
    compute: Literal[False],
) -> Delayed: ...
def map_chunks(
    level: LevelContents,
    func: Callable[..., Any],
    *,
    bbox: Any = None,
    chunks: Any = None,
    objects: Any = None,
    rows: slice | NDArray[np.int64] | None = None,
    attributes: Sequence[str] | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    meta: Any = None,
    rows_per_task: int | None = None,
    halo: str | None = None,
    compute: bool = True,
) -> MappedChunks | Delayed:
    """Call a function for every chunk that holds a vertex of a selection.

    A task reads a block of many chunks with few requests, cuts it into chunks and calls the function for each; only what it
    returns leaves the task.

    Parameters
    ----------
    level : Level
    func : callable
        Gets a :class:`~dask_zv.geometry.result.Geometry` of one chunk, as ``level.read(chunks=[key], order="chunk")`` gives it
        but without the tables of objects and groups: its selected vertices, their attributes and object ids, and the links
        between them (see `halo` for those that lead out). It returns a number, a numpy array, or a dict of these: of the same
        shapes and dtypes for all chunks.
    bbox : pair of corners, optional
        Only vertices inside the closed box ``(least corner, greatest corner)``, in the units of the axes.
    chunks : sequence of str or of int tuples, optional
        Only these chunks, by key or coordinates.
    objects : int or sequence of int, optional
        Only vertices of these objects.
    rows : slice or ndarray of int64, optional
        Only these vertices, by number in reading order (that of ``level.read(order="chunk")``). Box, chunks, objects and rows
        combine: what the function gets is in all of them.
    attributes : sequence of str, optional
        Attributes of vertices, and of edges or faces, to read; all where None.
    args, kwargs : sequence, mapping, optional
        Passed to the function after the geometry. A Delayed or a Future among them is computed once and shared by all tasks.
    meta : optional
        An example of what the function returns, or dtypes in its place (``float``, ``{"mean": "float32"}``). Results are cast
        to it, and it tells what columns of no rows are like where nothing is selected. Where it is None the first result tells.
    rows_per_task : int, optional
        About how many vertices a task handles; by memory (32 MB) where None. Fewer make more tasks, for functions that take
        long.
    halo : {"links"}, optional
        "links": each chunk gets the far ends of its links, and each link between selected vertices is in one chunk, so that a
        sum over links is right. The vertices of other chunks come last: ``geometry.halo`` of them, with positions, attributes
        and object ids; they are the chunk's own up to ``len(geometry) - geometry.halo``. `edges` of skeletons are those
        from the chunk's nodes to their parents, of graphs (and `faces` of meshes) what is filed under the chunk, and of lines,
        polylines and streamlines the segments that begin in the chunk, as (row, row that follows it). `chunks` picks the
        calls: their links may lead to other chunks. Box and objects are looked up now. None: what leads out of the chunk is
        left out, so a sum of lengths is too small; there are no edges of lines, polylines and streamlines.
    compute : bool
        False returns a Delayed of the same.

    Returns
    -------
    MappedChunks or Delayed
        A row for each chunk, ascending. The function is not called for chunks in which nothing is selected.

    Raises
    ------
    InputError
        Results differ in names, shape or dtype, or are no numbers, the message names the chunk; nothing is selected and `meta`
        is None; an argument is malformed.
    NotFoundError
        The level has no such object or chunk.
    FormatError, StoreError
        A chunk is missing or damaged; the message names it.
    Exception
        Whatever the function raises, with a note that names the store and the chunk.
    """
    plan = plan_map_chunks(
        level,
        func,
        bbox=bbox,
        chunks=chunks,
        objects=objects,
        rows=rows,
        attributes=attributes,
        args=args,
        kwargs=kwargs,
        meta=meta,
        rows_per_task=rows_per_task,
        halo=halo,
    )
    if not compute:
        return plan.delayed()
    result = plan.compute()
    assert isinstance(result, MappedChunks)
    return result


@overload
def map_objects(
    level: LevelContents,
    func: Callable[..., Any],
    *,
    objects: Any = None,
    attributes: Sequence[str] | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    meta: Any = None,
    rows_per_task: int | None = None,
    compute: Literal[True] = True,
) -> MappedObjects: ...
@overload
def map_objects(
    level: LevelContents,
    func: Callable[..., Any],
    *,
    objects: Any = None,
    attributes: Sequence[str] | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    meta: Any = None,
    rows_per_task: int | None = None,
    compute: Literal[False],
) -> Delayed: ...
def map_objects(
    level: LevelContents,
    func: Callable[..., Any],
    *,
    objects: Any = None,
    attributes: Sequence[str] | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    meta: Any = None,
    rows_per_task: int | None = None,
    compute: bool = True,
) -> MappedObjects | Delayed:
    """Call a function for every object as a whole, whatever chunks it is in.

    A task reads a block of objects that lie near each other: each chunk that they have vertices in once, of which it keeps
    their rows. Only what the function returns leaves the task. A chunk that objects of several blocks share is read by each of
    these: where objects are all over space, tasks of more vertices (`rows_per_task`) read less in all.

    Parameters
    ----------
    level : Level
    func : callable
        Gets a :class:`~dask_zv.geometry.result.Geometry` of one object, as ``level.read(objects=id, order="object")`` gives it:
        vertices in the order of its path, links by row number, its row of `object_attributes` (arrays of length 1). Of an
        object without vertices it has no rows. Returns a number, a numpy array, or a dict of these: of the same shapes and
        dtypes for all objects.
    objects : int or sequence of int, optional
        Ids; all objects where None.
    attributes, args, kwargs, meta, rows_per_task
        As of :func:`map_chunks`.
    compute : bool
        False returns a Delayed of the same.

    Returns
    -------
    MappedObjects or Delayed
        A row for each object, ascending by id.

    Raises
    ------
    InputError
        The level has no objects; results differ in names, shape or dtype, or are no numbers, the message names the object;
        there are no objects and `meta` is None; an argument is malformed.
    NotFoundError
        The level has no such object.
    FormatError, StoreError
        A part of an object is missing or damaged; the message names it.
    Exception
        Whatever the function raises, with a note that names the store and the object.
    """
    plan = plan_map_objects(
        level,
        func,
        objects=objects,
        attributes=attributes,
        args=args,
        kwargs=kwargs,
        meta=meta,
        rows_per_task=rows_per_task,
    )
    if not compute:
        return plan.delayed()
    result = plan.compute()
    assert isinstance(result, MappedObjects)
    return result
