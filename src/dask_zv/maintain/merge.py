"""Several stores written into one: ids made distinct, attributes united, groups and links numbered on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dask_zv.errors import InputError
from dask_zv.format.objects import GROUP_NAMES, sentinel
from dask_zv.level.contents import StoreContents, opened_contents
from dask_zv.level.unfinished import check_not_edited
from dask_zv.maintain.rechunk import declared_bounds, write_again
from dask_zv.maintain.rewrite import GivenColumn, LevelInput, level_input, names_of


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
    given_stores: Any = stores
    if isinstance(given_stores, str | Mapping) or not isinstance(given_stores, Sequence) or not given_stores:
        raise InputError("stores are a sequence of one store or more")
    opened = [opened_contents(s) for s in stores]
    for one in opened:
        check_not_edited(one.level(0))
    first = opened[0]
    for other in opened[1:]:
        _check_alike(first, other)
    parts = [level_input(s.level(0)) for s in opened]
    given = _joined(parts, keep=object_ids == "keep")
    asked: dict[str, Any] = {
        "chunk_shape": first.metadata.chunk_shape if chunk_shape is None else chunk_shape,
        "bin_shape": first.metadata.bin_shape if bin_shape is None and chunk_shape is None else bin_shape,
        "bounds": declared_bounds(opened) if bounds is None else bounds,
        "dtype": given.positions.dtype if dtype is None else dtype,
        "layout": first.layout if layout is None else layout,
        "shard_chunks": shard_chunks,
        "compressor": compressor,
    }
    return write_again(opened, given, target, asked, storage_options, overwrite=overwrite, progress=progress, compute=compute)


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
    objects = None if first.objects is None else np.sort(_moved_ids(parts, shifts))
    groups, about = _groups(parts, shifts)
    return replace(
        first, positions=positions, attributes=attributes, ids=ids, lengths=lengths, parents=parents, links=links,
        link_attributes=of_links, objects=objects, object_attributes=_object_tables(parts, shifts), groups=groups,
        group_attributes=about,
    )  # fmt: skip


def _moved_ids(parts: Sequence[LevelInput], shifts: Sequence[int]) -> NDArray[np.int64]:
    """Return the ids of the objects of all stores, store by store."""
    return np.concatenate([p.objects + s for p, s in zip(parts, shifts, strict=True) if p.objects is not None])


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


def _union(
    what: str, parts: Sequence[Mapping[str, GivenColumn]], sizes: Sequence[int], urls: Sequence[str]
) -> dict[str, GivenColumn]:
    """Return all columns, each of all stores."""
    import dask.array as da

    out: dict[str, GivenColumn] = {}
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
        out[name] = GivenColumn(da.concatenate(columns), attrs)
    return out


def _object_tables(parts: Sequence[LevelInput], shifts: Sequence[int]) -> dict[str, tuple[Any, Mapping[str, Any]]]:
    """Return the attributes of all objects, ascending by id, masked where a store has none."""
    if parts[0].objects is None:
        return {}
    order = np.argsort(_moved_ids(parts, shifts), kind="stable")
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
