"""Metadata of a store: which generation it is, its grid, its axes.

`RootMetadata` stands for the root group's attributes, which `RootMetadata.from_attributes` checks before anything else
of a store is believed. `LevelMetadata`, `Generation` and `Axis` have modules of their own and are exported here too.

Source: Zarr Vectors format 0.7, root attributes ``zarr_vectors`` and ``multiscales``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dask_zv.errors import InputError, MetadataError
from dask_zv.format import _json
from dask_zv.format.axes import Axis, parse_axes
from dask_zv.format.generations import Generation, detect_generation

GEOMETRY_TYPES = ("point_cloud", "line", "polyline", "streamline", "skeleton", "graph", "mesh")
CAPABILITIES = ("fragment_index", "preserved_object_ids", "shared_fragments", "multiscale_links")
"""Features of stores that are read, by the tokens that name them."""
LINKS_CONVENTIONS = ("explicit", "implicit_sequential", "implicit_sequential_with_branches")
_CHOICES = {
    "links_convention": LINKS_CONVENTIONS,
    "object_index_convention": ("standard", "identity"),
    "cross_chunk_strategy": ("explicit_links", "boundary_deduplication", "both"),
    "cross_level_storage": ("none", "implicit", "explicit"),
}
_FIELDS = frozenset(
    {
        *("zv_version", "format_capabilities", "chunk_shape", "bounds", "geometry_types", "base_bin_shape", "crs"),
        *("links_convention", "object_index_convention", "cross_chunk_strategy"),
        *("cross_level_depth", "cross_level_storage", "reduction_factor"),
    }
)
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class RootMetadata:
    """What the root group says about a store.

    Optional fields are None where the document leaves them out, and then left out again when it is written; the text
    names the value that readers assume.

    Parameters
    ----------
    generation : Generation
        How chunks are stored.
    chunk_shape : tuple of float, length D
        Edges of a chunk of level 0, in world units.
    bounds : (tuple of float, tuple of float)
        Lowest and highest corner, inclusive.
    axes : tuple of Axis
        The columns of positions.
    geometry_types : tuple of str
        Of `GEOMETRY_TYPES`; the first is the store's main kind.
    base_bin_shape : tuple of float, optional
        Edges of a bin of level 0; assumed: `chunk_shape`.
    links_convention : str, optional
        Of `LINKS_CONVENTIONS`; assumed: ``implicit_sequential``. This and the next two are set by the first writer.
    object_index_convention : str, optional
        Assumed: ``standard``.
    cross_chunk_strategy : str, optional
        Assumed: ``explicit_links``.
    crs : mapping, optional
        Coordinate reference system, free form.
    format_capabilities : tuple of str
        Informative tokens.
    cross_level_depth : int, optional
        How many levels links across levels span, -1 for all; assumed: 1.
    cross_level_storage : str, optional
        ``none``, ``implicit`` or ``explicit``; assumed: ``explicit``.
    reduction_factor : int, optional
        Informative.
    zv_version : str
        As stored; by default that of `generation`.
    datasets : tuple of mapping
        Entries of ``multiscales[0].datasets``. They hold the bins of levels; level 0's is made where it is absent.
    multiscales_extra : tuple of mapping
        What else ``multiscales`` holds: other keys of its first entry, then its other entries.
    extra : mapping
        Unknown keys of ``zarr_vectors``, kept when it is rewritten.

    Raises
    ------
    MetadataError
        If a value is wrong; the message names its key.

    Examples
    --------
    >>> axes = parse_axes(["x", "y"])
    >>> RootMetadata(generation=Generation.PER_CHUNK, chunk_shape=(50.0, 50.0), bounds=((0.0, 0.0), (99.0, 80.0)),
    ...              axes=axes, base_bin_shape=(25.0, 50.0)).bins_per_chunk
    (2, 1)
    """

    generation: Generation
    chunk_shape: tuple[float, ...]
    bounds: tuple[tuple[float, ...], tuple[float, ...]]
    axes: tuple[Axis, ...]
    geometry_types: tuple[str, ...] = ()
    base_bin_shape: tuple[float, ...] | None = None
    links_convention: str | None = None
    object_index_convention: str | None = None
    cross_chunk_strategy: str | None = None
    crs: Mapping[str, Any] | None = None
    format_capabilities: tuple[str, ...] = ()
    cross_level_depth: int | None = None
    cross_level_storage: str | None = None
    reduction_factor: int | None = None
    zv_version: str = ""
    datasets: tuple[Mapping[str, Any], ...] = ()
    multiscales_extra: tuple[Mapping[str, Any], ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.zv_version:
            object.__setattr__(self, "zv_version", self.generation.value)
        if detect_generation({"zv_version": self.zv_version}) is not self.generation:
            raise MetadataError(f"zv_version {self.zv_version} is not of the generation {self.generation.name}")
        _json.floats(self.chunk_shape, "chunk_shape", self.ndim, positive=True)
        low, high = (_json.floats(corner, "bounds", self.ndim) for corner in self.bounds)
        if any(a > b for a, b in zip(low, high, strict=True)):
            raise _json.wrong(self.bounds, "bounds", "[min corner, max corner]")
        for kind in self.geometry_types:
            if kind not in GEOMETRY_TYPES:
                raise _json.wrong(kind, "geometry_types", f"of {', '.join(GEOMETRY_TYPES)}")
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in (None, *choices):
                raise _json.wrong(getattr(self, key), key, f"one of {', '.join(choices)}")
        if self.base_bin_shape is not None:
            _json.floats(self.base_bin_shape, "base_bin_shape", self.ndim, positive=True)
            for chunk, edge in zip(self.chunk_shape, self.base_bin_shape, strict=True):
                ratio = chunk / edge
                if not abs(ratio - max(1, round(min(ratio, 2.0**53)))) <= _TOLERANCE:
                    text = f"base_bin_shape {self.base_bin_shape} must divide chunk_shape {self.chunk_shape} evenly"
                    raise MetadataError(text)
        for index, entry in enumerate(self.datasets):
            _json.string(entry.get("path"), f"multiscales[0].datasets[{index}].path")

    @property
    def ndim(self) -> int:
        """Number of axes, D."""
        return len(self.axes)

    @property
    def bin_shape(self) -> tuple[float, ...]:
        """Edges of a bin of level 0."""
        return self.chunk_shape if self.base_bin_shape is None else self.base_bin_shape

    @property
    def bins_per_chunk(self) -> tuple[int, ...]:
        """Bins along each edge of a chunk of level 0."""
        return tuple(round(chunk / edge) for chunk, edge in zip(self.chunk_shape, self.bin_shape, strict=True))

    def bin_shape_at(self, level: int) -> tuple[float, ...] | None:
        """Return the edges of a bin of `level`: twice the translation of its dataset; None where that says nothing.

        Raises
        ------
        MetadataError
            If the translation is there and isn't D positive numbers.
        """
        if level == 0:
            return self.bin_shape
        key = f"translation of level {level} in multiscales[0].datasets"
        for entry in self.datasets:
            if entry["path"] != str(level):
                continue
            transforms = entry.get("coordinateTransformations", [])
            if not isinstance(transforms, list | tuple):
                raise _json.wrong(transforms, f"coordinateTransformations of level {level}", "a list")
            for item in transforms:
                transform = _json.mapping(item, f"coordinateTransformations of level {level}")
                if transform.get("type") == "translation":
                    halves = _json.floats(transform.get("translation"), key, self.ndim, positive=True)
                    return tuple(2 * half for half in halves)
        return None

    def with_level(self, level: int, bin_shape: tuple[float, ...]) -> RootMetadata:
        """Return the metadata with the dataset of `level` added or replaced.

        Parameters
        ----------
        level : int
            Number of the level.
        bin_shape : tuple of float, length D
            Edges of its bins.

        Raises
        ------
        MetadataError
            If `bin_shape` isn't D positive numbers.
        """
        edges = _json.floats(bin_shape, f"bin shape of level {level}", self.ndim, positive=True)
        scale = [edge / base for edge, base in zip(edges, self.bin_shape, strict=True)]
        if self.generation is Generation.PER_CHUNK:
            scale = [float(max(1, round(ratio))) for ratio in scale]
        others = [entry for entry in self.datasets if entry["path"] != str(level)]
        datasets = [*others, _dataset(level, scale, edges)]
        return replace(self, datasets=tuple(sorted(datasets, key=_dataset_order)))

    @classmethod
    def from_attributes(cls, attrs: Mapping[str, Any]) -> RootMetadata:
        """Read the root group's attributes.

        Parameters
        ----------
        attrs : mapping
            All of them.

        Raises
        ------
        MetadataError
            If this is no Zarr Vectors store, its version isn't read, or a value is absent or wrong; the message names
            the key.
        """
        if "zarr_vectors" not in attrs:
            found = ", ".join(sorted(map(str, attrs))) or "none"
            raise MetadataError(f"not a Zarr Vectors store: the root has no attribute zarr_vectors; it has {found}")
        zv = _json.mapping(attrs["zarr_vectors"], "zarr_vectors")
        generation = detect_generation(zv)
        _json.known_capabilities(zv, "zarr_vectors", CAPABILITIES)
        first, *others = _multiscales(attrs)
        try:
            axes = parse_axes(_json.require(first, "axes", "multiscales[0]"))
        except InputError as error:
            raise MetadataError(f"multiscales[0].axes: {error.message}") from error
        ndim = len(axes)
        bounds = _json.require(zv, "bounds", "zarr_vectors")
        if not isinstance(bounds, list | tuple) or len(bounds) != 2:
            raise _json.wrong(bounds, "bounds", "[min corner, max corner]")
        datasets = first.get("datasets", [])
        if not isinstance(datasets, list | tuple):
            raise _json.wrong(datasets, "multiscales[0].datasets", "a list")
        bins, crs = zv.get("base_bin_shape"), zv.get("crs")
        depth, factor = zv.get("cross_level_depth"), zv.get("reduction_factor")
        kinds = _json.require(zv, "geometry_types", "zarr_vectors")
        edges = _json.require(zv, "chunk_shape", "zarr_vectors")
        return cls(
            generation=generation,
            chunk_shape=_json.floats(edges, "chunk_shape", ndim, positive=True),
            bounds=(_json.floats(bounds[0], "bounds", ndim), _json.floats(bounds[1], "bounds", ndim)),
            axes=axes,
            geometry_types=_json.strings(kinds, "geometry_types"),
            base_bin_shape=None if bins is None else _json.floats(bins, "base_bin_shape", ndim, positive=True),
            crs=None if crs is None else _json.mapping(crs, "crs"),
            format_capabilities=_json.strings(zv.get("format_capabilities", []), "format_capabilities"),
            cross_level_depth=None if depth is None else _json.integer(depth, "cross_level_depth", least=-1),
            reduction_factor=None if factor is None else _json.integer(factor, "reduction_factor", least=2),
            zv_version=zv["zv_version"],
            datasets=tuple(_json.mapping(entry, "multiscales[0].datasets") for entry in datasets),
            multiscales_extra=({k: v for k, v in first.items() if k not in ("axes", "datasets")}, *others),
            extra={key: value for key, value in zv.items() if key not in _FIELDS},
            **{key: None if zv.get(key) is None else _json.string(zv[key], key) for key in _CHOICES},
        )

    def to_attributes(self) -> dict[str, Any]:
        """Return the attributes ``zarr_vectors`` and ``multiscales``, as JSON values."""
        optional = {
            "crs": self.crs,
            "base_bin_shape": None if self.base_bin_shape is None else list(self.base_bin_shape),
            "links_convention": self.links_convention,
            "object_index_convention": self.object_index_convention,
            "cross_chunk_strategy": self.cross_chunk_strategy,
            "cross_level_depth": self.cross_level_depth,
            "cross_level_storage": self.cross_level_storage,
            "reduction_factor": self.reduction_factor,
        }
        zarr_vectors = {
            "zv_version": self.zv_version,
            "format_capabilities": list(self.format_capabilities),
            "chunk_shape": list(self.chunk_shape),
            "bounds": [list(corner) for corner in self.bounds],
            "geometry_types": list(self.geometry_types),
            **{key: value for key, value in optional.items() if value is not None},
            **self.extra,
        }
        datasets = list(self.datasets)
        if not any(entry["path"] == "0" for entry in datasets):
            datasets.insert(0, _dataset(0, [1.0] * self.ndim, self.bin_shape))
        extra, *others = self.multiscales_extra or ({},)
        multiscale = {
            "version": "0.4",
            "name": "default",
            "axes": [axis.to_json() for axis in self.axes],
            "datasets": datasets,
            "metadata": {"format": "zarr_vectors"},
            **extra,
        }
        return copy.deepcopy({"zarr_vectors": zarr_vectors, "multiscales": [multiscale, *others]})


def ome_collection(name: str, axes: Sequence[Axis], levels: Iterable[int]) -> dict[str, Any]:
    """Return the root attribute ``ome`` of a store of generation 0.9, which describes it to tools of OME-Zarr (FORMAT.md A.4).

    Parameters
    ----------
    name : str
        Of the store; the endings ``.zarrvectors``, ``.zv`` and ``.zarr`` are left out.
    axes : sequence of Axis
    levels : iterable of int
    """
    for ending in (".zarrvectors", ".zv", ".zarr"):
        name = name.removesuffix(ending)
    world = {"name": "world", "axes": [axis.to_json() for axis in axes]}
    return {
        "ome": {
            "version": "0.6",
            "type": "collection",
            "name": name,
            "attributes": {"scene": {"coordinateSystems": [world], "coordinateTransformations": []}},
            "nodes": [{"type": "zv:level", "name": str(level)} for level in levels],
        }
    }


def _multiscales(attrs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = _json.require(attrs, "multiscales", "the root of the store")
    if not isinstance(found, list | tuple) or not found:
        raise _json.wrong(found, "multiscales", "a list of at least one object")
    return [_json.mapping(entry, "multiscales") for entry in found]


def _dataset(level: int, scale: list[float], edges: tuple[float, ...]) -> dict[str, Any]:
    transforms: list[dict[str, Any]] = [
        {"type": "scale", "scale": scale},
        {"type": "translation", "translation": [edge / 2 for edge in edges]},
    ]
    return {"path": str(level), "coordinateTransformations": transforms}


def _dataset_order(entry: Mapping[str, Any]) -> tuple[bool, int, str]:
    path = str(entry["path"])
    is_level = path.isascii() and path.isdigit()
    return not is_level, int(path) if is_level else 0, path
