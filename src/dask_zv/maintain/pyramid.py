"""Building coarser levels of a store."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from dask_zv.errors import InputError, ReadOnlyError, StoreError
from dask_zv.geometry.kinds import kind_of
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.report import Report, finish_write
from dask_zv.graph.run import check_writable, compute_one
from dask_zv.level.contents import Store, opened_contents
from dask_zv.maintain.edit_log import finish_edits
from dask_zv.maintain.pyramid_asked import Keep, check_arguments, check_levels, check_source, recorded
from dask_zv.maintain.pyramid_objects import build_levels, is_built
from dask_zv.maintain.pyramid_plan import plan_pyramid
from dask_zv.maintain.refresh import refresh
from dask_zv.storage.icechunk.session import undone_on_failure

if TYPE_CHECKING:
    from dask.delayed import Delayed


@overload
def build_pyramid(
    store: Store | Any,
    levels: int | None = None,
    *,
    factor: int | Sequence[int] = 2,
    method: Literal["auto", "mean", "sample", "simplify", "contract"] = "auto",
    attributes: Literal["auto"] | Mapping[str, str | None] = "auto",
    seed: int = 0,
    keep: Keep | None = None,
    bin_shape: Sequence[float] | None = None,
    tolerance: float | None = None,
    links: bool = False,
    update: bool = False,
    overwrite: bool = False,
    compute: Literal[True] = True,
    progress: bool | None = None,
) -> Report: ...
@overload
def build_pyramid(
    store: Store | Any,
    levels: int | None = None,
    *,
    factor: int | Sequence[int] = 2,
    method: Literal["auto", "mean", "sample", "simplify", "contract"] = "auto",
    attributes: Literal["auto"] | Mapping[str, str | None] = "auto",
    seed: int = 0,
    keep: Keep | None = None,
    bin_shape: Sequence[float] | None = None,
    tolerance: float | None = None,
    links: bool = False,
    update: bool = False,
    overwrite: bool = False,
    compute: Literal[False],
    progress: bool | None = None,
) -> Delayed: ...
def build_pyramid(
    store: Store | Any,
    levels: int | None = None,
    *,
    factor: int | Sequence[int] = 2,
    method: Literal["auto", "mean", "sample", "simplify", "contract"] = "auto",
    attributes: Literal["auto"] | Mapping[str, str | None] = "auto",
    seed: int = 0,
    keep: Keep | None = None,
    bin_shape: Sequence[float] | None = None,
    tolerance: float | None = None,
    links: bool = False,
    update: bool = False,
    overwrite: bool = False,
    compute: bool = True,
    progress: bool | None = None,
) -> Report | Delayed:
    """Build coarser levels of a store, for overviews and for viewers, as one Dask graph on the active scheduler.

    Chunks of a level are `factor` times as large as those of the level before. Every task reads its part of level 0 once, and
    makes of it that part of all coarser levels. Level 0 stays as it is; readers see each new level when it is complete.

    Lines, paths and skeletons: each level is made of the level before, object by object. Vertices are left out where the path
    stays within `tolerance` (Douglas and Peucker's rule); ends of paths, and roots, branch points and tips of trees stay.
    Objects have an attribute ``path_length`` or ``cable_length``: the length that they have at level 0. ``count`` says how many
    vertices each one stands for.

    Graphs and meshes: each level is made of the level before, object by object. Vertices in one bin become one where links join
    them there; edges and faces between bins stay, once, with their winding.

    Points: each level has one vertex for every bin that holds vertices of level 0 (of each object, where there are objects),
    and an attribute ``count`` of how many these are. There are about `factor` times as few vertices along each axis from level
    to level. Ids, attributes and groups of objects are the same at every level.

    Parameters
    ----------
    store : Store, or a target as for :func:`dask_zv.open`
        Opened for writing, or its path or URL.
    levels : int, optional
        Number of coarser levels. By default as many as it takes until one has at most about 10**6 vertices, at least one.
    factor : int or sequence of int
        How much larger chunks and bins get from level to level, along all axes or along each (1 keeps an axis).
    method : {"auto", "mean", "sample", "simplify", "contract"}
        "simplify" is that of paths and trees, "contract" of graphs and meshes, the others are of points. The vertex of a bin:
        "mean" (the default), the mean of the positions in it; "sample", one of the vertices, drawn at random by `seed` and the
        positions alone: results are the same on every scheduler, and the vertices of a level are among those of the level
        before.
    attributes : "auto" or mapping of str to {"mean", "mode", "first", "min", "max", "sum", "count", "sample", None}
        What becomes of the values in a bin, by name of the attribute; None leaves it out. "auto", also for those that a mapping
        does not name: with ``method="sample"`` the values of the drawn vertex; else the mean of floats and of vectors, the most
        frequent value of categories, booleans and single integers (codes), the first of dates. Missing values (NaN) are left
        out of means.
    seed : int
        Decides what is drawn.
    keep : float, or (float, str), optional
        Share of the objects of a level that the next keeps: drawn at random, or those with the most vertices
        (``(0.5, "length")``), or with the largest values of an object attribute (``(0.5, "volume")``). Ids, attributes and
        groups stay those of all objects. By default all are kept.
    bin_shape : sequence of float, optional
        Edges of a bin of level 0, of which those of the coarser levels are multiples, in the units of the axes; they divide
        `chunk_shape` evenly. By default the bins of the store, if it has several in a chunk, else bins of about one vertex.
    tolerance : float, optional
        Of paths and trees: how far a path of level 1 may be from that of level 0, in the units of the axes; it grows by
        `factor` from level to level. By default half of the mean distance of neighbours along a path. Axes that are no space,
        such as time, are scaled so that chunks have the same edges.
    links : bool
        Links between the vertices of a level and the next are not written: True is an error.
    update : bool
        Make the levels anew, with the arguments that they were made with, if level 0 has changed since (an overwrite, append or
        edit marks them as stale); other arguments are ignored. Levels that are not stale stay.
    overwrite : bool
        Replace coarser levels that are there.
    compute : bool
        False returns a Delayed, whose result is the report (of points alone).
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Report or Delayed
        Rows, chunks and bytes of all levels that were built. An interrupted build is finished by the same call; of large stores
        it keeps the blocks that are stored.

    Raises
    ------
    InputError
        An argument can't be met, or the store's geometry or chunks can't be reduced; nothing is stored.
    StoreError
        The store has coarser levels already, or storage failed.
    FormatError
        A chunk of level 0 is damaged; the coarser levels stay as they were.

    Examples
    --------
    >>> import dask_zv as dzv
    >>> import numpy as np
    >>> store = dzv.create({}, chunk_shape=(10, 10))
    >>> points = np.random.default_rng(0).uniform(0, 80, (6400, 2))
    >>> _ = dzv.write_points(store, points, attributes={"mass": np.ones(6400)})
    >>> report = dzv.build_pyramid(store, levels=2, attributes={"mass": "sum"})
    >>> store.levels
    (0, 1, 2)
    >>> coarse = store.level(2).read()
    >>> float(coarse.attributes["mass"].sum()), int(coarse.attributes["count"].sum())
    (6400.0, 6400)
    """
    started = time.perf_counter()
    contents = opened_contents(store, "r+")
    if contents.read_only:
        raise ReadOnlyError("the store was opened read-only: dzv.open(..., mode='r+')", store=contents.url)
    check_writable(contents.handle)
    contents.reload()
    if finish_edits(contents):
        refresh(store)
        contents.reload()
    source = contents.level(0)
    check_source(source)
    points = not kind_of(source.kind).is_path and not kind_of(source.kind).link
    if links:
        raise InputError("links=True: links between levels are not written yet; leave it out")
    if update:
        found = recorded(contents)
        if found is None:
            nothing = Report(0, 0, 0, 0, 0, 0, time.perf_counter() - started)
            return nothing if compute else _as_delayed(nothing)
        asked, levels = found
    else:
        asked = check_arguments(source, factor, method, attributes, seed, keep, bin_shape, tolerance)
        levels = check_levels(levels)
        goes_on = not points and all(is_built(contents, n, asked) for n in contents.levels if n)
        complete = levels is None or len(contents.levels) > levels
        if len(contents.levels) > 1 and not overwrite and not (goes_on and not complete):
            raise StoreError(
                f"the store has the levels {list(contents.levels)} already: update=True makes stale ones anew, overwrite=True "
                "replaces them",
                store=contents.url,
            )
    if points:
        delayed = plan_pyramid(source, asked, levels, watched=bool(progress))
        if not compute:
            return delayed
        with undone_on_failure(contents.handle):
            report: Report = finish_write(contents.handle, compute_one(delayed, progress=progress))
        contents.reload()
    else:
        if not compute:
            raise InputError(
                f"compute=False: each level of a store of {source.kind} is made of the one before, now; leave it out"
            )
        report = build_levels(source, asked, levels, overwrite=overwrite and not update, progress=bool(progress))
    return dataclasses.replace(report, seconds=time.perf_counter() - started)


def _as_delayed(report: Report) -> Delayed:
    builder = GraphBuilder("zv-pyramid")
    key = builder.key("nothing")
    builder.add(key, dataclasses.replace, report)
    return builder.finish(key)
