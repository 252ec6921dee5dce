"""What a store is asked to be: the arguments of :func:`dask_zv.create`, checked, and compared with a store that is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import DTypeLike

from dask_zv.errors import InputError, MetadataError, has_control
from dask_zv.format.documents import to_json
from dask_zv.format.grids import codec_list
from dask_zv.format.metadata import NOT_FOR_AXES, Axis, RootMetadata, parse_axes
from dask_zv.geometry.kinds import KINDS, geometry_named
from dask_zv.geometry.points import POINT_CLOUD
from dask_zv.geometry.schema import position_dtype
from dask_zv.level.contents import StoreContents
from dask_zv.spatial.grid import as_box
from dask_zv.storage.codecs import cell_codec
from dask_zv.storage.layout import Layout, check_layout, layout_for


class CreateOptions(TypedDict, total=False):
    """What a store is made with, see :func:`dask_zv.create`; None, or "auto", where it is left to us."""

    chunk_shape: Sequence[float] | None
    bounds: tuple[Sequence[float], Sequence[float]] | None
    bin_shape: Sequence[float] | None
    axes: Sequence[str | Mapping[str, object] | Axis] | None
    crs: Any
    dtype: DTypeLike | None
    layout: str | None
    shard_chunks: Any
    compressor: Any


@dataclass(frozen=True, slots=True)
class Asked:
    """Checked arguments."""

    metadata: RootMetadata
    layout: Layout
    declared: bool  # bounds were given
    dtype: np.dtype[Any] | None  # of stored positions
    shard_chunks: Any  # "auto", an int or extents
    codecs: tuple[Mapping[str, Any], ...]


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the arguments that say something; no compressor is one."""
    left_open = {k for k, v in options.items() if (v is None and k != "compressor") or (isinstance(v, str) and v == "auto")}
    return {k: v for k, v in options.items() if k not in left_open}


def check_asked(geometry: str, options: CreateOptions) -> Asked:
    """Return arguments as they are meant; raises :class:`InputError` about the first that is malformed."""
    layout = layout_for(check_layout(options.get("layout"), "grid"))
    geometry = geometry_named(geometry)
    if not layout.has_tables and KINDS[geometry].link:
        raise InputError(
            f"layout per_chunk (ZV 0.7) can't hold a {geometry} soundly: its writers and readers lose or mix up the links of "
            "objects that share a chunk; leave layout out, or pass layout='grid'"
        )
    shard_chunks = _plain_shards(options.get("shard_chunks", "auto"))
    codecs = _codecs(options.get("compressor", "auto"), layout)
    _check_shards(shard_chunks, layout, len(_edges(options["chunk_shape"], "chunk_shape", None)))
    dtype = options.get("dtype")
    stored = None if dtype is None else position_dtype(np.dtype(dtype))
    return Asked(
        _root_metadata(geometry, options, layout), layout, options.get("bounds") is not None, stored, shard_chunks, codecs
    )


def check_agrees(store: StoreContents, options: CreateOptions, geometry: str | None = None) -> Asked:
    """Raise :class:`InputError` where a store is not what is asked for; what the arguments leave open agrees."""
    asked, metadata = given(options), store.metadata
    kind = geometry or next(iter(metadata.geometry_types), POINT_CLOUD.name)
    whole: Any = {"chunk_shape": metadata.chunk_shape, "layout": store.layout, **asked}
    wanted = check_asked(kind, whole)
    differ = [*_differences(store, wanted, asked.keys() | ({"geometry"} if geometry else set()))]
    if differ:
        raise InputError(
            f"a store is here already, with other settings: {'; '.join(differ)}. Ask for what it has, choose another target, "
            "or replace it with dzv.create(..., overwrite=True)",
            store=store.url,
        )
    return wanted


def _differences(store: StoreContents, wanted: Asked, asked: set[str]) -> Iterator[str]:
    have, want, told = store.metadata, wanted.metadata, store.settings
    pairs: dict[str, tuple[Any, Any]] = {
        "geometry": (", ".join(have.geometry_types[:1]), want.geometry_types[0]),
        "layout": (store.layout, wanted.layout.name),
        "chunk_shape": (list(have.chunk_shape), list(want.chunk_shape)),
        "bin_shape": (list(have.bin_shape), list(want.bin_shape)),
        "axes": _axes(have.axes, want.axes),
        "bounds": _bounds(store, want),
        "crs": (have.crs and dict(have.crs), want.crs and dict(want.crs)),
    }
    own = {  # of stores that we made
        "dtype": ("dtype", None if wanted.dtype is None else str(wanted.dtype)),
        "shard_chunks": ("shard_chunks", list(s) if isinstance(s := wanted.shard_chunks, tuple) else s),
        "compressor": ("codecs", [dict(c) for c in wanted.codecs]),
    }
    pairs |= {name: (told[key], value) for name, (key, value) in own.items() if key in told}
    yield from (f"{n}: {a} there, {b} asked for" for n, (a, b) in pairs.items() if n in asked and a != b)


def _axes(have: Sequence[Axis], want: Sequence[Axis]) -> tuple[Any, Any]:
    """Return both as JSON; units that are not asked for are those that there are."""
    units = {a.name: a.unit for a in have}
    return [a.to_json() for a in have], [Axis(a.name, a.type, a.unit or units.get(a.name)).to_json() for a in want]


def _bounds(store: StoreContents, want: RootMetadata) -> tuple[Any, Any]:
    """Return both boxes; one that has been expanded since agrees."""
    low, high = np.array(store.metadata.bounds), np.array(want.bounds)
    if store.settings.get("bounds", "declared") != "declared":
        return "those of the data", high.tolist()
    holds = low.shape == high.shape and (low[0] <= high[0]).all() and (low[1] >= high[1]).all()
    return low.tolist(), low.tolist() if holds else high.tolist()


def _plain_shards(shard_chunks: Any) -> Any:
    """Return numpy integers as Python's, whatever else as it is."""
    if isinstance(shard_chunks, np.integer):
        return int(shard_chunks)
    if isinstance(shard_chunks, list | tuple | np.ndarray):
        return tuple(int(s) if isinstance(s, np.integer) else s for s in shard_chunks)
    return shard_chunks


def _check_shards(shard_chunks: Any, layout: Layout, ndim: int) -> None:
    if shard_chunks == "auto" or (isinstance(shard_chunks, int) and shard_chunks is not True and shard_chunks >= 1):
        return
    several = layout.shards_have_extents and isinstance(shard_chunks, list | tuple)
    if several and all(type(s) is int and s >= 1 for s in shard_chunks):
        if len(shard_chunks) == ndim:
            return
        raise InputError(f"shard_chunks {shard_chunks!r} has {len(shard_chunks)} extents for {ndim} axes")
    extents = ", or positive extents of a shard along each axis" if layout.shards_have_extents else ""
    raise InputError(f"shard_chunks is 'auto' or a positive int{extents}, not {shard_chunks!r}")


def _codecs(compressor: Any, layout: Layout) -> tuple[Mapping[str, Any], ...]:
    if not layout.has_codecs:
        if compressor not in ("auto", None):
            raise InputError(f"compressor {compressor!r}: layout per_chunk stores raw bytes; leave it out")
        return ()
    try:
        codecs = codec_list("zstd" if compressor == "auto" else compressor)
        cell_codec(codecs)
    except MetadataError as error:
        raise InputError(error.message) from None
    return codecs


def _root_metadata(geometry: str, options: CreateOptions, layout: Layout) -> RootMetadata:
    chunk = _edges(options["chunk_shape"], "chunk_shape", None)
    parsed = parse_axes(options.get("axes"), len(chunk))
    bounds, bin_shape = options.get("bounds"), options.get("bin_shape")
    odd = next((t for a in parsed for t in (a.name, a.type, a.unit or "") if has_control(t)), None)
    if odd is not None:
        raise InputError(f"names, types and units of axes have no control characters: {odd!r:.80}")
    of_chunks = {f"chunk_{a.name}" for a in parsed}
    taken = [a.name for a in parsed if a.name in NOT_FOR_AXES or a.name in of_chunks]
    if taken:
        raise InputError(
            f"an axis called {taken[0]!r} would hide what Datasets of a store have by that name: call it otherwise"
        )
    bins = None if bin_shape is None else _edges(bin_shape, "bin_shape", len(chunk))
    low = high = (0.0,) * len(chunk)
    if bounds is not None:
        box = as_box(bounds, len(chunk), "bounds")
        if not np.isfinite(np.stack(box)).all():
            raise InputError("bounds must be finite: leave them out to take those of the data")
        low, high = tuple(box[0].tolist()), tuple(box[1].tolist())
    try:
        return RootMetadata(
            generation=layout.generation,
            chunk_shape=chunk,
            bounds=(low, high),
            axes=parsed,
            geometry_types=(geometry,),
            base_bin_shape=bins,
            links_convention=KINDS[geometry].convention,
            object_index_convention="standard",
            cross_chunk_strategy="explicit_links",
            crs=plain_crs(options.get("crs")),
        )
    except MetadataError as error:
        raise InputError(error.message) from None


def plain_crs(crs: Any) -> dict[str, Any] | None:
    """Return a reference system as stores keep it."""
    if crs is not None and not isinstance(crs, Mapping):
        crs = _described(crs)
    try:
        return None if crs is None else {str(k): v for k, v in to_json(crs, "crs").items()}
    except TypeError as error:
        raise InputError(str(error)) from None


def _described(crs: Any) -> dict[str, str]:
    """Return what pyproj takes as a mapping: by authority and code where that is the very system, else its WKT."""
    try:
        import pyproj
    except ImportError:
        raise InputError(
            f'crs={crs!r:.80} needs pyproj to be understood: pip install "dask-zv[geo]", or give a mapping, such as '
            '{"type": "EPSG", "code": 4326}'
        ) from None
    try:
        found = pyproj.CRS.from_user_input(crs)
    except (pyproj.exceptions.CRSError, TypeError, ValueError) as error:
        raise InputError(f"crs is a mapping or what pyproj.CRS.from_user_input takes, not {crs!r:.80}: {error}") from None
    authority = found.to_authority(min_confidence=100)
    if authority is None or pyproj.CRS.from_authority(*authority) != found:
        return {"crs_wkt": found.to_wkt()}
    code: Any = int(authority[1]) if authority[1].isdecimal() else authority[1]
    return {"type": authority[0], "code": code}


def _edges(values: Any, what: str, ndim: int | None) -> tuple[float, ...]:
    try:
        edges = tuple(float(v) for v in values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be a sequence of numbers, one for each axis, not {values!r}") from error
    if ndim is not None and len(edges) != ndim:
        raise InputError(f"{what} has {len(edges)} numbers for {ndim} axes")
    if not 2 <= len(edges) <= 4:
        raise InputError(f"{what} has {len(edges)} numbers: a store has 2 to 4 axes")
    if not all(np.isfinite(e) and e > 0 for e in edges):
        raise InputError(f"{what} must be positive and finite, not {edges}")
    return edges
