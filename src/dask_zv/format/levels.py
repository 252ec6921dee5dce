"""Metadata of one resolution level.

Source: Zarr Vectors format 0.7, level attributes ``zarr_vectors_level``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dask_zv.errors import MetadataError
from dask_zv.format import documents

_TOLERANCE = 1e-9
_STRAYS = 1 << 16
"""Names beside those of chunks that are put up with below an array."""
_FAR = 2.0**62
_FIELDS = frozenset(
    {
        *("level", "object_sparsity", "vertex_count", "coarsening_method", "parent_level", "arrays_present"),
        *("chunk_shape", "chunk_dims", "chunk_attribute_name", "chunk_attribute_values"),
        *("preserves_object_ids", "inherited_num_objects", "shared_fragments", "fragments_tile"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelMetadata:
    """What the group of a level says about it."""

    level: int  # Number of the level, which is also its group's name; 0 is full resolution
    vertex_count: int  # Vertices, as the writer counted them
    arrays_present: tuple[str, ...]  # Informative; not every array is named
    object_sparsity: float = 1.0  # Share of the parent's objects that the level keeps, in (0, 1]
    coarsening_method: str = "none"  # How the level was made
    parent_level: int | None = None  # Level that it was made from; None at level 0
    chunk_shape: tuple[float, ...] | None = None  # Edges of the level's chunks where they differ from the root's
    chunk_dims: tuple[str, ...] | None = None  # Names of the chunk key's parts, where one leads it that is no axis
    chunk_attribute_name: str | None = None  # The attribute that it comes of
    chunk_attribute_values: tuple[str | int | float | bool, ...] | None = None
    """Its values; the key's first part is an index into them, if :meth:`exact_values`."""
    preserves_object_ids: bool = False  # Whether object ids are the parent's (objects that were dropped have empty manifests)
    inherited_num_objects: int | None = None  # Objects of the parent
    shared_fragments: bool = False  # Whether several objects may name one fragment
    fragments_tile: bool = False  # Claim that fragments, concatenated, are the rows of every chunk. A hint, to be checked.
    extra: Mapping[str, Any] = field(default_factory=dict)  # Unknown keys, kept when the document is rewritten

    def __post_init__(self) -> None:
        documents.integer(self.level, "level", least=0)
        documents.integer(self.vertex_count, "vertex_count", least=0)
        if not 0 < documents.number(self.object_sparsity, "object_sparsity") <= 1:
            raise documents.wrong(self.object_sparsity, "object_sparsity", "above 0 and at most 1")
        if self.parent_level is not None and documents.integer(self.parent_level, "parent_level", least=0) >= self.level:
            raise documents.wrong(self.parent_level, "parent_level", f"a level below {self.level}")
        if self.chunk_shape is not None:
            documents.floats(self.chunk_shape, "chunk_shape", len(self.chunk_shape), positive=True)
        if (self.chunk_attribute_name is None) != (self.chunk_attribute_values is None):
            raise MetadataError("chunk_attribute_name and chunk_attribute_values must be given together")
        for value in self.chunk_attribute_values or ():
            if not isinstance(value, str | int | float | bool):
                raise documents.wrong(value, "chunk_attribute_values", "strings, numbers or booleans")
        if self.inherited_num_objects is not None:
            documents.integer(self.inherited_num_objects, "inherited_num_objects", least=0)

    def room(self, root_chunk_shape: tuple[float, ...], bounds: tuple[tuple[float, ...], tuple[float, ...]]) -> int:
        """Return how many chunks the level can have by its bounds and vertices, and some more: neither need be up to date."""
        cells = len(self.chunk_attribute_values or ("",))
        for low, high, edge in zip(*bounds, self.chunk_shape_in(root_chunk_shape), strict=True):
            cells *= int(min(max(high - low, 0) // edge, _FAR)) + 2
        return _STRAYS + self.vertex_count + cells

    def chunk_shape_in(self, root_chunk_shape: tuple[float, ...]) -> tuple[float, ...]:
        """Return the edges of the level's chunks, its own or the root's."""
        if self.chunk_shape is None:
            return root_chunk_shape
        own = documents.floats(self.chunk_shape, "chunk_shape", len(root_chunk_shape), positive=True)
        for edge, base in zip(own, root_chunk_shape, strict=True):
            ratio = edge / base
            if not abs(ratio - max(1, round(min(ratio, 2.0**53)))) <= _TOLERANCE:
                text = f"chunk_shape {own} of level {self.level} must be a whole multiple"
                raise MetadataError(f"{text} of the root's {root_chunk_shape}")
        return own

    def leading_part(self, ndim: int) -> str | None:
        """Return the name of the part that leads the chunk keys, None where they have one part for each of the `ndim` axes."""
        if self.chunk_dims is None:
            return self.chunk_attribute_name
        if len(self.chunk_dims) not in (ndim, ndim + 1):
            raise documents.wrong(list(self.chunk_dims), "chunk_dims", f"{ndim} names, or {ndim + 1}")
        return self.chunk_dims[0] if len(self.chunk_dims) > ndim else None

    def exact_values(self) -> bool:
        """Return True if the first part of the chunk keys tells the exact value of an attribute.

        Where a store was cut by bins of numbers, or may have been (tools then call the part "attribute"),
        `chunk_attribute_values` are the first value that was found in each bin.
        """
        return self.chunk_attribute_name is not None and (
            self.chunk_dims is None or self.chunk_dims[:1] == (self.chunk_attribute_name,)
        )

    @classmethod
    def from_attributes(cls, attrs: Mapping[str, Any]) -> LevelMetadata:
        """Read the attributes of a level's group."""
        if not attrs:
            raise MetadataError(
                "the level's document zarr.json is missing, or has no attributes (zarr_vectors_level): copy it back from a "
                "copy of the store, or write the store again"
            )
        doc = documents.mapping(documents.require(attrs, "zarr_vectors_level", "the level's group"), "zarr_vectors_level")
        documents.known_capabilities(doc, "zarr_vectors_level", ())
        if doc.get("refinement") not in (None, "replace"):
            raise MetadataError(
                f"refinement of the level is {doc['refinement']!r:.80}: it does not hold all vertices itself, which this "
                "release cannot read"
            )
        level = documents.require(doc, "level", "zarr_vectors_level")
        count = documents.require(doc, "vertex_count", "zarr_vectors_level")
        arrays = documents.require(doc, "arrays_present", "zarr_vectors_level")
        parent, inherited = doc.get("parent_level"), doc.get("inherited_num_objects")
        edges, dims = doc.get("chunk_shape"), doc.get("chunk_dims")
        name, values = doc.get("chunk_attribute_name"), doc.get("chunk_attribute_values")
        if edges is not None and (not isinstance(edges, list | tuple) or not edges):
            raise documents.wrong(edges, "chunk_shape", "a list of numbers, one per axis")
        if values is not None and not isinstance(values, list | tuple):
            raise documents.wrong(values, "chunk_attribute_values", "a list")
        return cls(
            level=documents.integer(level, "level", least=0),
            vertex_count=documents.integer(count, "vertex_count", least=0),
            arrays_present=documents.strings(arrays, "arrays_present"),
            object_sparsity=documents.number(doc.get("object_sparsity", 1.0), "object_sparsity"),
            coarsening_method=documents.string(doc.get("coarsening_method", "none"), "coarsening_method"),
            parent_level=None if parent is None else documents.integer(parent, "parent_level", least=0),
            chunk_shape=None if edges is None else documents.floats(edges, "chunk_shape", len(edges), positive=True),
            chunk_dims=None if dims is None else documents.strings(dims, "chunk_dims"),
            chunk_attribute_name=None if name is None else documents.string(name, "chunk_attribute_name"),
            chunk_attribute_values=None if values is None else tuple(values),
            preserves_object_ids=documents.boolean(doc.get("preserves_object_ids", False), "preserves_object_ids"),
            inherited_num_objects=inherited,
            shared_fragments=documents.boolean(doc.get("shared_fragments", False), "shared_fragments"),
            fragments_tile=documents.boolean(doc.get("fragments_tile", False), "fragments_tile"),
            extra={key: value for key, value in doc.items() if key not in _FIELDS},
        )

    def to_attributes(self) -> dict[str, Any]:
        """Return the attribute ``zarr_vectors_level``, as JSON values."""
        values = self.chunk_attribute_values
        optional = {
            "chunk_shape": None if self.chunk_shape is None else list(self.chunk_shape),
            "chunk_dims": None if self.chunk_dims is None else list(self.chunk_dims),
            "chunk_attribute_name": self.chunk_attribute_name,
            "chunk_attribute_values": None if values is None else list(values),
            "preserves_object_ids": self.preserves_object_ids or None,
            "inherited_num_objects": self.inherited_num_objects,
            "shared_fragments": self.shared_fragments or None,
            "fragments_tile": self.fragments_tile or None,
        }
        document = {
            "level": self.level,
            "object_sparsity": self.object_sparsity,
            "vertex_count": self.vertex_count,
            "coarsening_method": self.coarsening_method,
            "parent_level": self.parent_level,
            "arrays_present": list(self.arrays_present),
            **{key: value for key, value in optional.items() if value is not None},
            **self.extra,
        }
        return {"zarr_vectors_level": copy.deepcopy(document)}
