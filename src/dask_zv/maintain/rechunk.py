"""A store written again: in other chunks and bins, another dtype, other bounds; or several stores in one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dask_zv.errors import InputError, ZVWarning
from dask_zv.format.keys import DOCUMENT
from dask_zv.format.objects import GROUP_NAMES, sentinel
from dask_zv.geometry.schema import VERTICES
from dask_zv.graph.run import check_reachable
from dask_zv.level.contents import StoreContents, opened_contents
from dask_zv.level.create import create_contents
from dask_zv.maintain.convert_level import copy_node
from dask_zv.maintain.rewrite import Column, LevelInput, level_input, names_of, write_input
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.handles import open_objects
from dask_zv.storage.layout import layout_for
from dask_zv.storage.nodes import SETTINGS, merge_attributes
from dask_zv.storage.specs import Place
from dask_zv.storage.targets import resolve_target

_ROOT = ("zarr_vectors", SETTINGS, "ome", "shard_layout", "shard_size")
"""Attributes of a root that its writer says, and no copy takes over."""


class _Made:
    """A store that was just made, as the writing functions take it."""

    def __init__(self, contents: StoreContents) -> None:
        self._contents = contents
        self.axes = contents.axes


def rechunk(
    store: StoreContents,
    target: object,
    *,
    chunk_shape: Sequence[float] | None,
    bin_shape: Sequence[float] | None,
    dtype: DTypeLike | None,
    bounds: Any,
    layout: str | None,
    shard_chunks: Any,
    compressor: Any,
    storage_options: Mapping[str, Any] | None,
    overwrite: bool,
    progress: bool | None,
    compute: bool,
) -> Any:
    """Write level 0 of a store into another, see :func:`dask_zv.convert`."""
    given = level_input(store.level(0))
    metadata = store.metadata
    asked: dict[str, Any] = {
        "chunk_shape": metadata.chunk_shape if chunk_shape is None else chunk_shape,
        "bounds": _declared([store]) if bounds is None else bounds,
        "dtype": given.positions.dtype if dtype is None else dtype,
        "bin_shape": bin_shape,
        "layout": store.layout if layout is None else layout,
        "shard_chunks": _kept_shards(store) if shard_chunks is None else shard_chunks,
        "compressor": compressor,
    }
    if bin_shape is None and chunk_shape is None:
        asked["bin_shape"] = metadata.bin_shape
    return _write([store], given, target, asked, storage_options, overwrite=overwrite, progress=progress, compute=compute)


def _kept_shards(store: StoreContents) -> Any:
    kept = store.settings.get("shard_chunks", "auto")
    return tuple(kept) if isinstance(kept, list) else kept


def _declared(stores: Sequence[StoreContents]) -> Any:
    """Return the box of all bounds, where all were declared; None where they are those of the data."""
    if any(s.settings.get("bounds", "declared") != "declared" for s in stores):
        return None
    both = np.array([s.metadata.bounds for s in stores], np.float64)
    return both[:, 0].min(axis=0).tolist(), both[:, 1].max(axis=0).tolist()


def _compressor(store: StoreContents, layout: str) -> Any:
    """Return the codecs of a store's positions, "auto" where they can't be kept."""
    level = store.level(0)
    if not (layout_for(layout).has_codecs and layout_for(store.layout).has_codecs):
        return "auto"
    found = GridArrays(open_objects(level.place.handle), level.place.prefix).array(VERTICES)
    return "auto" if found is None or not found.plain else [dict(c) for c in found.spec.codecs]


def _write(
    stores: Sequence[StoreContents],
    given: LevelInput,
    target: object,
    asked: dict[str, Any],
    storage_options: Mapping[str, Any] | None,
    *,
    overwrite: bool,
    progress: bool | None,
    compute: bool,
) -> Any:
    first = stores[0]
    handle, prefix = resolve_target(target, storage_options)
    for store in stores:
        check_reachable(store.handle)
        if handle.holds(prefix, store.handle, store.prefix, below=overwrite):
            raise InputError(
                "the target is a source (or contains it): write another store, and move it into place when it is complete",
                store=store.url,
            )
        if len(store.levels) > 1:
            warnings.warn(
                f"levels {list(store.levels[1:])} are not written again: dzv.build_pyramid makes them of the new store "
                f"[{store.url}]", ZVWarning, stacklevel=4,
            )  # fmt: skip
    if asked["compressor"] == "keep":
        asked["compressor"] = _compressor(first, asked["layout"])
    axes = [a.to_json() for a in first.metadata.axes]
    kind = first.level(0).kind
    made = create_contents(
        target, str(kind), storage_options=storage_options, overwrite=overwrite, axes=axes, crs=first.metadata.crs, **asked
    )
    objects = open_objects(made.handle)
    taken: set[str] = set()
    for store in stores:
        here, there = Place(store.handle, store.prefix), Place(made.handle, made.prefix)
        for name in store.headers:
            if name in taken:
                warnings.warn(
                    f"header {name!r} is kept of the first store that has one, not of {store.url}", ZVWarning, stacklevel=4
                )
                continue
            taken.add(name)
            merge_attributes(objects, there.prefix + "/headers" if there.prefix else "headers", {})
            copy_node(here, there, f"headers/{name}")
    root = {k: v for k, v in first.group.attrs.to_dict().items() if k not in _ROOT}
    if root:
        merge_attributes(objects, made.prefix, root)
    own = {k: v for k, v in first.level(0).group.attrs.to_dict().items() if k == "user_metadata"}
    if own:
        merge_attributes(objects, made.level(0).place.prefix, own)
    others = [
        n for n in open_objects(first.handle).list_dir(first.prefix) if not n.isdigit() and n not in (DOCUMENT, "headers")
    ]
    for name in others:
        if open_objects(first.handle).exists("/".join(p for p in (first.prefix, name, DOCUMENT) if p)):
            copy_node(Place(first.handle, first.prefix), Place(made.handle, made.prefix), name)
    made.reload()
    return write_input(_Made(made), given, compute=compute, progress=progress)


# ---------------------------------------------------------------------------------------------- several stores


def merge(
    stores: Sequence[object],
    target: object,
    *,
    object_ids: str = "distinct",
    chunk_shape: Sequence[float] | None = None,
    bin_shape: Sequence[float] | None = None,
    bounds: Any = None,
    dtype: DTypeLike | None = None,
    layout: str | None = None,
    shard_chunks: Any = "auto",
    compressor: Any = "keep",
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    compute: bool = True,
    progress: bool | None = None,
) -> Any:
    """Write several stores of one geometry into one, as one Dask graph.

    Vertices, links, objects, groups and headers of all go into level 0 of a new store, through the planner of all writes: rows
    are never all in memory. An attribute that a store does not have is filled where its dtype has a word for "missing".

    Parameters
    ----------
    stores : sequence of Store, or of targets as for :func:`open`
        Of one geometry, with the same axes and reference system.
    target : str, Path, zarr Store or StorePath, fsspec mapper, dict, or Icechunk session
        Must be empty.
    object_ids : {"distinct", "keep"}
        "distinct": ids of a store that come in those before it are moved: all of its ids by the same number, so that they begin
        after the greatest. "keep": ids stay, and one that comes twice is an error.
    chunk_shape, bin_shape, dtype, layout, compressor : optional
        As for :func:`create`; those of the first store where None (`dtype` one that holds the positions of all), or "keep".
    bounds : pair of corners, optional
        The box of the bounds of all where None.
    shard_chunks : int, sequence of int, or "auto"
        As for :func:`create`.
    storage_options : mapping, optional
        Options of the target's URL.
    overwrite : bool
        Replace what is at the target.
    compute : bool
        False returns a :class:`WritePlan`; the empty store is made now.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Report or WritePlan

    Raises
    ------
    InputError
        Geometries, axes or reference systems differ; only some stores have objects; an id comes twice, and ids are to be kept;
        an attribute has another kind of values, other units or channels, or can't be filled.
    StoreError
        The target holds something, or storage failed.

    Examples
    --------
    >>> import dask_zv as dzv
    >>> import numpy as np
    >>> monday, tuesday, both = {}, {}, {}
    >>> _ = dzv.write_points(monday, np.ones((3, 2)), chunk_shape=(10, 10), object_ids=[0, 0, 1])
    >>> _ = dzv.write_points(tuesday, np.full((2, 2), 15.0), chunk_shape=(10, 10), object_ids=[0, 1])
    >>> dzv.merge([monday, tuesday], both).objects
    4
    """
    if object_ids not in ("distinct", "keep"):
        raise InputError(f"object_ids is 'distinct' or 'keep', not {object_ids!r}")
    if isinstance(stores, str | Mapping) or not isinstance(stores, Sequence) or not stores:
        raise InputError("stores are a sequence of one store or more")
    opened = [opened_contents(s) for s in stores]
    first = opened[0]
    for other in opened[1:]:
        _check_alike(first, other)
    parts = [level_input(s.level(0)) for s in opened]
    given = _joined(parts, keep=object_ids == "keep")
    asked: dict[str, Any] = {
        "chunk_shape": first.metadata.chunk_shape if chunk_shape is None else chunk_shape,
        "bin_shape": first.metadata.bin_shape if bin_shape is None and chunk_shape is None else bin_shape,
        "bounds": _declared(opened) if bounds is None else bounds,
        "dtype": given.positions.dtype if dtype is None else dtype,
        "layout": first.layout if layout is None else layout,
        "shard_chunks": shard_chunks,
        "compressor": compressor,
    }
    return _write(opened, given, target, asked, storage_options, overwrite=overwrite, progress=progress, compute=compute)


def _check_alike(first: StoreContents, other: StoreContents) -> None:
    for what, a, b in (
        ("geometry", first.level(0).kind, other.level(0).kind),
        ("axes", [x.to_json() for x in first.metadata.axes], [x.to_json() for x in other.metadata.axes]),
        ("crs", first.metadata.crs and dict(first.metadata.crs), other.metadata.crs and dict(other.metadata.crs)),
    ):
        if a != b:
            raise InputError(f"{what} of the stores differ: {a} in {first.url}, {b} in {other.url}: bring them into one first")


def _joined(parts: Sequence[LevelInput], *, keep: bool) -> LevelInput:
    """Return all levels as one."""
    import dask.array as da

    first = parts[0]
    with_objects = [p.objects is not None for p in parts]
    if any(with_objects) and not all(with_objects):
        lost = parts[with_objects.index(False)].level.url
        raise InputError(f"{lost} has no objects, others have: write it with object_ids= first")
    sizes = [int(p.positions.shape[0]) for p in parts]
    starts = np.cumsum([0, *sizes])[:-1].tolist()
    shifts = _shifts(parts, keep=keep)
    positions = da.concatenate([p.positions for p in parts])
    ids: Any = None
    lengths = None
    if first.objects is not None:
        moved = [p.ids + s for p, s in zip(parts, shifts, strict=True)]
        ids = np.concatenate(moved) if first.kind.is_path else da.concatenate(moved)
    if first.lengths is not None:
        lengths = np.concatenate([p.lengths for p in parts if p.lengths is not None])
    parents = None
    if first.parents is not None:
        parents = da.concatenate([da.where(p.parents < 0, -1, p.parents + s) for p, s in zip(parts, starts, strict=True)])
    links = None
    if first.links is not None:
        links = da.concatenate([p.links + s for p, s in zip(parts, starts, strict=True)])
        if len({p.directed for p in parts}) > 1:
            raise InputError("edges have a direction in some of the stores, and none in others")
    attributes = _union("attribute", [p.attributes for p in parts], sizes, [p.level.url for p in parts])
    counts = [0 if p.links is None else int(p.links.shape[0]) for p in parts]
    of_links = _union("link attribute", [p.link_attributes for p in parts], counts, [p.level.url for p in parts])
    objects = (
        None if first.objects is None else np.sort(np.concatenate([p.objects + s for p, s in zip(parts, shifts, strict=True)]))
    )  # type: ignore[operator]
    groups, about = _groups(parts, shifts)
    return replace(
        first, positions=positions, attributes=attributes, ids=ids, lengths=lengths, parents=parents, links=links,
        link_attributes=of_links, objects=objects, object_attributes=_object_tables(parts, shifts), groups=groups,
        group_attributes=about,
    )  # fmt: skip


def _shifts(parts: Sequence[LevelInput], *, keep: bool) -> list[int]:
    """Return by how much the ids of each store are moved."""
    known = np.zeros(0, np.int64)
    out: list[int] = []
    for part in parts:
        ids = part.objects if part.objects is not None else np.zeros(0, np.int64)
        same = np.intersect1d(known, ids)
        if len(same) and keep:
            raise InputError(
                f"object {same[0]} of {part.level.url} is in a store before it ({len(same):,} ids come twice): "
                "object_ids='distinct' gives them ids of their own"
            )
        shift = int(known.max()) + 1 if len(same) else 0
        out.append(shift)
        known = np.union1d(known, ids + shift)
    return out


def _missing(what: str, name: str, dtype: np.dtype[Any], where: str) -> Any:
    """Return what stands for a missing value."""
    if dtype.kind in "fc":
        return np.array(np.nan, dtype)
    if dtype.kind in "mM":
        return np.array("NaT", dtype)
    if dtype.kind == "O":
        return None
    raise InputError(
        f"{what} {name!r} is not in {where}, and {dtype} has no word for a missing value: set it there with "
        "store.set_attribute, or store it as floats"
    )


def _union(what: str, parts: Sequence[Mapping[str, Column]], sizes: Sequence[int], urls: Sequence[str]) -> dict[str, Column]:
    """Return all columns, each of all stores."""
    import dask.array as da

    out: dict[str, Column] = {}
    for name in dict.fromkeys(n for p in parts for n in p):
        have = [p[name] for p in parts if name in p]
        like = have[0]
        dtypes = {c.values.dtype for c in have}
        if len({c.values.shape[1:] for c in have}) > 1 or len({d.kind == "O" for d in dtypes}) > 1:
            raise InputError(f"{what} {name!r} has other channels, or another kind of values, in some of the stores")
        units = {str(c.attrs.get("units")) for c in have}
        if len(units) > 1:
            raise InputError(f"{what} {name!r} has the units {' and '.join(sorted(units))}: bring it into one first")
        try:
            dtype = like.values.dtype if like.values.dtype.kind == "O" else np.result_type(*dtypes)
        except TypeError:
            raise InputError(f"{what} {name!r} has the dtypes {', '.join(map(str, dtypes))}: bring it into one first") from None
        columns = []
        for part, n, url in zip(parts, sizes, urls, strict=True):
            if name in part:
                columns.append(part[name].values.astype(dtype))
            elif n:
                fill = _missing(what, name, dtype, url)
                columns.append(
                    da.full((n, *like.values.shape[1:]), fill, dtype=dtype, chunks=(1 << 20, *like.values.shape[1:]))
                )
        attrs = dict(like.attrs)
        if attrs.get("ordered") and any(list(c.attrs.get("categories", [])) != list(attrs["categories"]) for c in have):
            raise InputError(
                f"{what} {name!r} has ordered categories that differ between the stores: bring them into one first"
            )
        out[name] = Column(da.concatenate(columns), attrs)
    return out


def _object_tables(parts: Sequence[LevelInput], shifts: Sequence[int]) -> dict[str, tuple[Any, Mapping[str, Any]]]:
    """Return the attributes of all objects, ascending by id, masked where a store has none."""
    if parts[0].objects is None:
        return {}
    ids = np.concatenate([p.objects + s for p, s in zip(parts, shifts, strict=True) if p.objects is not None])
    order = np.argsort(ids, kind="stable")
    out: dict[str, tuple[Any, Mapping[str, Any]]] = {}
    for name in dict.fromkeys(n for p in parts for n in p.object_attributes):
        have = [p.object_attributes[name] for p in parts if name in p.object_attributes]
        if len({v.shape[1:] for v, _ in have}) > 1 or len({v.dtype.kind == "U" for v, _ in have}) > 1:
            raise InputError(
                f"object attribute {name!r} has another kind of values, or other components, in some of the stores"
            )
        if len({str(a.get("units")) for _, a in have}) > 1:
            raise InputError(f"object attribute {name!r} has several units: bring it into one first")
        dtype = np.result_type(*(v.dtype for v, _ in have))
        columns: list[NDArray[Any]] = []
        for part in parts:
            n = 0 if part.objects is None else len(part.objects)
            if name in part.object_attributes:
                columns.append(np.ma.MaskedArray(part.object_attributes[name][0]).astype(dtype))
            else:
                fill = sentinel(dtype)
                columns.append(np.ma.MaskedArray(np.full((n, *have[0][0].shape[1:]), fill, dtype), True))
        out[name] = np.ma.concatenate(columns)[order], have[0][1]
    return out


def _groups(
    parts: Sequence[LevelInput], shifts: Sequence[int]
) -> tuple[dict[int, NDArray[np.int64]], dict[str, tuple[NDArray[Any], Mapping[str, Any]]]]:
    """Return all groups: those of one name are one, others are numbered on; attributes are those of the first that has them."""
    groups: dict[int, NDArray[np.int64]] = {}
    names: list[str] = []
    first: list[tuple[int, int]] = []  # store and number that each group comes of
    for i, (part, shift) in enumerate(zip(parts, shifts, strict=True)):
        called = names_of(part.group_attributes)
        for number in range(max(part.groups, default=-1) + 1):
            members = part.groups.get(number, np.zeros(0, np.int64)) + shift
            name = called[number] if called else ""
            at = names.index(name) if name and name in names else len(names)
            if at == len(names):
                names.append(name)
                first.append((i, number))
            groups[at] = np.union1d(groups[at], members) if at in groups else members
    out: dict[str, tuple[NDArray[Any], Mapping[str, Any]]] = {}
    for name in dict.fromkeys(n for p in parts for n in p.group_attributes if n != GROUP_NAMES):
        have = [p.group_attributes[name] for p in parts if name in p.group_attributes]
        dtype = np.result_type(*(v.dtype for v, _ in have))
        fill = None if all(name in parts[i].group_attributes for i, _ in first) else sentinel(dtype)
        values = [
            parts[i].group_attributes[name][0][n]
            if name in parts[i].group_attributes
            else np.full(have[0][0].shape[1:], fill, dtype)
            for i, n in first
        ]
        out[name] = np.array(values).astype(dtype), have[0][1]
    if any(names):
        out[GROUP_NAMES] = np.array(names), {}
    return groups, out
