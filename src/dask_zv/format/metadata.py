"""What the root group of a store says: its generation, geometry, axes, grid and levels.

Source: Zarr Vectors format, ``zarr_vectors`` and ``multiscales`` of the root group; NGFF 0.4 for the order of axis types.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from dask_zv.errors import InputError, MetadataError
from dask_zv.format import documents

_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})*")


NOT_FOR_AXES = (
    *("vertex", "vertex_end", "vertex_range", "object", "object_id", "object_index", "node_count", "geometry", "parent"),
    *("object_table", "object_table_column"),
    *("topology", "edge", "edges", "edge_node", "face", "faces", "face_node", "group", "in_group", "crs"),
    *("chunk", "chunk_rows", "chunk_first_row"),
)
"""What Datasets of a store call their dimensions, and the coordinates that say how the others belong together."""
_DEFAULT_NAMES = "xyzw"
_RANKS = {"time": 0, "channel": 1, "space": 3}
_CUSTOM_RANK = 2
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


class Generation(Enum):
    """Generations of the format; the value is the ``zv_version`` that is written."""

    PER_CHUNK = "0.7.0"
    """One small array per chunk (0.7)."""
    GRID = "0.9.2"
    """One array per logical array, a cell per chunk (0.9)."""


def detect_generation(zarr_vectors: Mapping[str, Any]) -> Generation:
    """Return the generation of a store from its ``zarr_vectors`` attribute."""
    version = documents.string(documents.require(zarr_vectors, "zv_version", "zarr_vectors"), "zarr_vectors.zv_version")
    if not _VERSION.fullmatch(version):
        raise MetadataError(f"zarr_vectors.zv_version must be numbers joined by dots, not {version!r:.80}")
    parts = tuple(int(part) for part in version.split("."))
    if (0, 7) <= parts < (0, 8):
        return Generation.PER_CHUNK
    if (0, 9) <= parts < (0, 10):
        return Generation.GRID
    raise MetadataError(f"Zarr Vectors version {version} is not read; versions 0.7 and 0.9 are")


_MIN_AXES, _MAX_AXES = 2, 4


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: column j of every position belongs to axis j."""

    name: str  # Not empty, without ``/``
    type: str = "space"  # ``space``, ``time``, ``channel`` or a type of one's own
    unit: str | None = None  # UDUNITS-2 name such as ``micrometer``

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise InputError(f"axis name must be a non-empty string without '/', not {self.name!r:.80}")
        if not self.type:
            raise InputError(f"type of axis {self.name!r} must not be empty")

    @classmethod
    def from_json(cls, value: str | Mapping[str, object] | Axis) -> Axis:
        """Make an axis of a name, or of an object with ``name`` and optionally ``type`` and ``unit``."""
        if isinstance(value, Axis):
            return value
        if isinstance(value, str):
            return cls(value)
        if not isinstance(value, Mapping):
            raise InputError(f"axis must be a name or an object with a name, not {value!r:.80}")
        name, kind, unit = value.get("name"), value.get("type", "space"), value.get("unit")
        if not isinstance(name, str) or not isinstance(kind, str) or not (unit is None or isinstance(unit, str)):
            raise InputError(f"name, type and unit of an axis must be strings: {dict(value)!r:.120}")
        return cls(name, kind, unit or None)

    def to_json(self) -> dict[str, str]:
        """Return the axis as an entry of ``multiscales[0].axes``; without a unit where there is none."""
        entry = {"name": self.name, "type": self.type}
        return entry if self.unit is None else entry | {"unit": self.unit}


def parse_axes(axes: Sequence[str | Mapping[str, object] | Axis] | None, ndim: int | None = None) -> tuple[Axis, ...]:
    """Check the axes of a store, or make the default ones."""
    if axes is None:
        if ndim is None:
            raise InputError("axes or their number must be given")
        axes = _DEFAULT_NAMES[:ndim]
    if isinstance(axes, Mapping) or not isinstance(axes, Sequence):
        raise InputError(f"axes must be a sequence of names or of objects with a name, not {axes!r:.80}")
    found = tuple(Axis.from_json(axis) for axis in axes)
    names = [axis.name for axis in found]
    if ndim is not None and len(found) != ndim:
        raise InputError(f"{len(found)} axes ({', '.join(names)}) for positions of {ndim} columns")
    if not _MIN_AXES <= len(found) <= _MAX_AXES:
        raise InputError(f"a store has {_MIN_AXES} to {_MAX_AXES} axes, not {len(found)}")
    if len(set(names)) != len(names):
        raise InputError(f"axis names must differ from each other: {', '.join(names)}")
    n_space = sum(axis.type == "space" for axis in found)
    if n_space < _MIN_AXES:
        raise InputError(f"a store has at least {_MIN_AXES} axes of type space, not {n_space}")
    ranks = [_RANKS.get(axis.type, _CUSTOM_RANK) for axis in found]
    if ranks != sorted(ranks):
        types = ", ".join(axis.type for axis in found)
        raise InputError(f"axes must be in the order time, channel, custom types, space; they are {types}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RootMetadata:
    """What the root group says about a store.

    Optional fields are None where the document leaves them out, and then left out again when it is written; the text
    names the value that readers assume.
    """

    generation: Generation  # How chunks are stored
    chunk_shape: tuple[float, ...]  # Edges of a chunk of level 0, in world units
    bounds: tuple[tuple[float, ...], tuple[float, ...]]  # Lowest and highest corner, inclusive
    axes: tuple[Axis, ...]  # The columns of positions
    geometry_types: tuple[str, ...] = ()  # Of `GEOMETRY_TYPES`; the first is the store's main kind
    base_bin_shape: tuple[float, ...] | None = None  # Edges of a bin of level 0; assumed: `chunk_shape`
    links_convention: str | None = None
    """Of `LINKS_CONVENTIONS`; assumed: ``implicit_sequential``. This and the next two are set by the first writer."""
    object_index_convention: str | None = None  # Assumed: ``standard``
    cross_chunk_strategy: str | None = None  # Assumed: ``explicit_links``
    crs: Mapping[str, Any] | None = None  # Coordinate reference system, free form
    format_capabilities: tuple[str, ...] = ()  # Informative tokens
    cross_level_depth: int | None = None  # How many levels links across levels span, -1 for all; assumed: 1
    cross_level_storage: str | None = None  # ``none``, ``implicit`` or ``explicit``; assumed: ``explicit``
    reduction_factor: int | None = None  # Informative
    zv_version: str = ""  # As stored; by default that of `generation`
    datasets: tuple[Mapping[str, Any], ...] = ()
    """Entries of ``multiscales[0].datasets``. They hold the bins of levels; level 0's is made where it is absent."""
    multiscales_extra: tuple[Mapping[str, Any], ...] = ()
    """What else ``multiscales`` holds: other keys of its first entry, then its other entries."""
    extra: Mapping[str, Any] = field(default_factory=dict)  # Unknown keys of ``zarr_vectors``, kept when it is rewritten

    def __post_init__(self) -> None:
        if not self.zv_version:
            object.__setattr__(self, "zv_version", self.generation.value)
        if detect_generation({"zv_version": self.zv_version}) is not self.generation:
            raise MetadataError(f"zv_version {self.zv_version} is not of the generation {self.generation.name}")
        documents.floats(self.chunk_shape, "chunk_shape", self.ndim, positive=True)
        low, high = (documents.floats(corner, "bounds", self.ndim) for corner in self.bounds)
        if any(a > b for a, b in zip(low, high, strict=True)):
            raise documents.wrong(self.bounds, "bounds", "[min corner, max corner]")
        for kind in self.geometry_types:
            if kind not in GEOMETRY_TYPES:
                raise documents.wrong(kind, "geometry_types", f"of {', '.join(GEOMETRY_TYPES)}")
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in (None, *choices):
                raise documents.wrong(getattr(self, key), key, f"one of {', '.join(choices)}")
        if self.base_bin_shape is not None:
            documents.floats(self.base_bin_shape, "base_bin_shape", self.ndim, positive=True)
            for chunk, edge in zip(self.chunk_shape, self.base_bin_shape, strict=True):
                ratio = chunk / edge
                if not abs(ratio - max(1, round(min(ratio, 2.0**53)))) <= _TOLERANCE:
                    text = f"base_bin_shape {self.base_bin_shape} must divide chunk_shape {self.chunk_shape} evenly"
                    raise MetadataError(text)
        for index, entry in enumerate(self.datasets):
            documents.string(entry.get("path"), f"multiscales[0].datasets[{index}].path")

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

    @classmethod
    def from_attributes(cls, attrs: Mapping[str, Any]) -> RootMetadata:
        """Read the root group's attributes."""
        if "zarr_vectors" not in attrs:
            found = ", ".join(sorted(map(str, attrs))) or "none"
            raise MetadataError(f"not a Zarr Vectors store: the root has no attribute zarr_vectors; it has {found}")
        zv = documents.mapping(attrs["zarr_vectors"], "zarr_vectors")
        generation = detect_generation(zv)
        documents.known_capabilities(zv, "zarr_vectors", CAPABILITIES)
        first, *others = _multiscales(attrs)
        try:
            axes = parse_axes(documents.require(first, "axes", "multiscales[0]"))
        except InputError as error:
            raise MetadataError(f"multiscales[0].axes: {error.message}") from error
        ndim = len(axes)
        bounds = documents.require(zv, "bounds", "zarr_vectors")
        if not isinstance(bounds, list | tuple) or len(bounds) != 2:
            raise documents.wrong(bounds, "bounds", "[min corner, max corner]")
        datasets = first.get("datasets", [])
        if not isinstance(datasets, list | tuple):
            raise documents.wrong(datasets, "multiscales[0].datasets", "a list")
        bins, crs = zv.get("base_bin_shape"), zv.get("crs")
        depth, factor = zv.get("cross_level_depth"), zv.get("reduction_factor")
        kinds = documents.require(zv, "geometry_types", "zarr_vectors")
        edges = documents.require(zv, "chunk_shape", "zarr_vectors")
        return cls(
            generation=generation,
            chunk_shape=documents.floats(edges, "chunk_shape", ndim, positive=True),
            bounds=(documents.floats(bounds[0], "bounds", ndim), documents.floats(bounds[1], "bounds", ndim)),
            axes=axes,
            geometry_types=documents.strings(kinds, "geometry_types"),
            base_bin_shape=None if bins is None else documents.floats(bins, "base_bin_shape", ndim, positive=True),
            crs=None if crs is None else documents.mapping(crs, "crs"),
            format_capabilities=documents.strings(zv.get("format_capabilities", []), "format_capabilities"),
            cross_level_depth=None if depth is None else documents.integer(depth, "cross_level_depth", least=-1),
            reduction_factor=None if factor is None else documents.integer(factor, "reduction_factor", least=2),
            zv_version=zv["zv_version"],
            datasets=tuple(documents.mapping(entry, "multiscales[0].datasets") for entry in datasets),
            multiscales_extra=({k: v for k, v in first.items() if k not in ("axes", "datasets")}, *others),
            extra={key: value for key, value in zv.items() if key not in _FIELDS},
            **{key: None if zv.get(key) is None else documents.string(zv[key], key) for key in _CHOICES},
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
            datasets.insert(0, level_dataset(0, [1.0] * self.ndim, self.bin_shape))
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
    """Return the root attribute ``ome`` of a store of generation 0.9, which describes it to tools of OME-Zarr."""
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
    found = documents.require(attrs, "multiscales", "the root of the store")
    if not isinstance(found, list | tuple) or not found:
        raise documents.wrong(found, "multiscales", "a list of at least one object")
    return [documents.mapping(entry, "multiscales") for entry in found]


def level_dataset(level: int, scale: Sequence[float], edges: Sequence[float]) -> dict[str, Any]:
    """Return a level's entry of ``multiscales[0].datasets``: the edges of its bins, alone and by those of level 0 (`scale`)."""
    transforms: list[dict[str, Any]] = [
        {"type": "scale", "scale": list(scale)},
        {"type": "translation", "translation": [edge / 2 for edge in edges]},
    ]
    return {"path": str(level), "coordinateTransformations": transforms}
