"""Moving a store: between packed and unpacked, between compressors, and between the generations."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack, overload

from dask.delayed import Delayed
from dask.task_spec import List

from dask_zv.errors import InputError, MetadataError
from dask_zv.format.grids import codec_list
from dask_zv.format.metadata import ome_collection
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.report import Report
from dask_zv.graph.run import check_reachable, compute_one
from dask_zv.level.contents import StoreContents, opened_contents
from dask_zv.level.unfinished import check_not_edited
from dask_zv.maintain.convert_level import LevelTarget, add_level, copy_others
from dask_zv.maintain.rechunk import rechunk
from dask_zv.storage.codecs import cell_codec
from dask_zv.storage.handles import StoreHandle, open_objects
from dask_zv.storage.layout import check_layout, layout_for
from dask_zv.storage.nodes import SETTINGS, merge_attributes
from dask_zv.storage.opening import objects_are_cheap, open_empty
from dask_zv.storage.targets import resolve_target
from dask_zv.write.options import CopyOptions, with_options


@overload
def convert(source: object, target: object, *, compute: Literal[True] = True, **options: Unpack[CopyOptions]) -> Report: ...
@overload
def convert(source: object, target: object, *, compute: Literal[False], **options: Unpack[CopyOptions]) -> Delayed: ...
@with_options(CopyOptions)
def convert(source: object, target: object, *, compute: bool = True, **options: Unpack[CopyOptions]) -> Report | Delayed:
    """Copy a store into another form, as one Dask graph: packed or not, otherwise compressed, of the other generation.

    Payloads are moved as they are; where source and target compress alike, not even that is undone. The target can't be
    opened before all of it is there.

    With `chunk_shape`, `bin_shape`, `dtype` or `bounds`, level 0 is written again, through the planner of all writes, with its
    links, objects, groups and headers; coarser levels are not. The target is an empty store until the commit then, and
    ``compute=False`` returns a :class:`WritePlan`.

    Parameters
    ----------
    source : Store, or a target as for :func:`open`
        Any geometry, where the layout stays; between layouts, point clouds.
    target : str, Path, zarr Store or StorePath, fsspec mapper, dict, or Icechunk session
        Must be empty.
    layout : {"grid", "per_chunk"}, optional
        That of the source where None.
    shard_chunks : int, sequence of int, or "auto", optional
        As for :func:`create`; 1 gives the form that every reader takes fastest. Where None, as the source is packed, or
        "auto" where the layout changes.
    compressor : {"keep", "zstd", "blosc", None}, or a list of Zarr codecs
        Of the chunks, in layout ``grid``; "keep" leaves each array's own ("zstd" where it has none to keep).
    chunk_shape, bin_shape : sequence of float, optional
        Edges of the chunks and bins of the target, in the units of the axes.
    dtype : optional
        Of the positions of the target; a cast that moves one is refused.
    bounds : pair of corners, optional
        Of the target; all positions must lie in them.
    storage_options : mapping, optional
        Options of the target's URL.
    overwrite : bool
        Replace what is at the target.
    compute : bool
        False returns a Delayed, whose result is the report.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Report or Delayed

    Raises
    ------
    InputError
        The source can't be told in the other layout: links, sparse object ids.
    StoreError
        The target holds something, or storage failed.
    FormatError
        A chunk of the source is damaged; the target stays unopenable.

    Examples
    --------
    >>> import dask_zv as dzv
    >>> import numpy as np
    >>> source = dzv.create({}, chunk_shape=(10, 10))
    >>> _ = dzv.write_points(source, np.random.default_rng(0).uniform(0, 100, (500, 2)))
    >>> packed = {}
    >>> report = dzv.convert(source, packed, shard_chunks=(4, 4))
    >>> report.chunks, report.files
    (100, 18)
    """
    started = time.perf_counter()
    storage_options, overwrite, progress = options["storage_options"], options["overwrite"], options["progress"]
    compressor = options["compressor"]
    store = opened_contents(source)
    for number in store.levels:
        check_not_edited(store.level(number))
    chosen = check_layout(options["layout"], store.layout)
    if compressor != "keep" and compressor is not None and not layout_for(chosen).has_codecs:
        raise InputError(f"compressor {compressor!r}: layout per_chunk stores raw bytes; leave it out")
    codecs = None
    if compressor != "keep":
        try:
            codecs = codec_list(compressor)
            cell_codec(codecs)
        except MetadataError as error:
            raise InputError(error.message) from None
    again = options["chunk_shape"], options["bin_shape"], options["dtype"], options["bounds"]
    if any(asked is not None for asked in again):
        written: Report = rechunk(
            store, target, chunk_shape=again[0], bin_shape=again[1], dtype=again[2], bounds=again[3], layout=chosen,
            shard_chunks=options["shard_chunks"], compressor=compressor, storage_options=storage_options, overwrite=overwrite,
            progress=progress, compute=compute,
        )  # fmt: skip
        return written
    check_reachable(store.handle)
    handle, prefix = resolve_target(target, storage_options)
    if handle.holds(prefix, store.handle, store.prefix, below=overwrite):
        raise InputError(
            "the target is the source (or contains it): convert into another store, and move it into place when it is complete",
            store=store.url,
        )
    handle, prefix, _ = open_empty(target, storage_options, overwrite=overwrite)
    check_reachable(handle)
    builder = GraphBuilder("zv-convert", watched=bool(progress))
    wanted = LevelTarget(handle, prefix, chosen, options["shard_chunks"], codecs, objects_are_cheap(handle))
    levels = [add_level(builder, store.level(n), wanted) for n in store.levels]
    others = copy_others(builder, store, wanted)
    end = builder.key("finish")
    builder.add(end, _finish, handle, prefix, _root(store, wanted, prefix), List(*levels), List(*others))
    delayed = builder.finish(end)
    if not compute:
        return delayed
    report: Report = compute_one(delayed, progress=progress)
    return dataclasses.replace(report, seconds=time.perf_counter() - started)


def _root(store: StoreContents, wanted: LevelTarget, prefix: str) -> dict[str, Any]:
    """Return the target's root attributes: all of the source's, in the words of the target's generation."""
    attributes, layout = store.group.attrs.to_dict(), layout_for(wanted.layout)
    settings = {**attributes.get(SETTINGS, {})}
    if wanted.shard_chunks is not None:
        chunks = wanted.shard_chunks
        settings["shard_chunks"] = chunks if isinstance(chunks, int | str) else list(chunks)
    if layout.has_codecs and wanted.codecs is not None:
        settings["codecs"] = [dict(c) for c in wanted.codecs]
    if layout is not layout_for(store.layout):
        metadata = dataclasses.replace(store.metadata, generation=layout.generation, zv_version="")
        attributes = {**attributes, **metadata.to_attributes()}
        for name in ("ome", "shard_layout", "shard_size"):
            attributes.pop(name, None)
        settings.pop("codecs", None)
        if layout.has_codecs:
            settings["codecs"] = [dict(c) for c in (codec_list("zstd") if wanted.codecs is None else wanted.codecs)]
            name = (prefix or store.url).rstrip("/").rpartition("/")[2]
            attributes.update(ome_collection(name, store.metadata.axes, store.levels))
    if not layout.shards_have_extents:
        number = wanted.per_chunk_shards(store)
        attributes["shard_layout"] = "flat" if number is None else "octree"
        attributes.pop("shard_size", None)
        if number is not None:
            attributes["shard_size"] = number
    return {**attributes, SETTINGS: settings}


def _finish(
    handle: StoreHandle, prefix: str, attributes: Mapping[str, Any], reports: Sequence[Report], _: Sequence[Any]
) -> Report:
    """Write the root's attributes, which make a store of the copied nodes; return one report for all levels."""
    merge_attributes(open_objects(handle), prefix, attributes)
    arrays: Counter[str] = Counter()
    for report in reports:
        arrays.update(report.arrays)
    counts = {
        name: sum(getattr(r, name) for r in reports) for name in ("rows", "chunks", "objects", "nbytes", "files", "blocks")
    }
    return Report(**counts, seconds=max((r.seconds for r in reports), default=0.0), arrays=dict(arrays))
