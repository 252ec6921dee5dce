"""What the arrays of a level hold: dtype, channels, categories."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError, MetadataError, ZVWarning, has_control
from dask_zv.format.dictionary import DictionaryEncoding
from dask_zv.format.keys import LONGEST
from dask_zv.spatial.grid import ChunkGrid

VERTICES = "vertices"
FRAGMENTS = "vertex_fragments"
ATTRIBUTES = "vertex_attributes"
LINK_FRAGMENTS = "link_fragments"

_KINDS = "biufcmM"
VALUE_KINDS = _KINDS + "US"
"""Kinds of dtypes of values: other tools store strings of one length as they are, too."""
_DTYPE = re.compile(r"[<>=|]?[A-Za-z][A-Za-z0-9_]{0,15}(\[[A-Za-z0-9]{1,8}\])?")
"""Names of dtypes, such as float32, <f8 and datetime64[ns]; numpy takes more for one, and evaluates some of it."""

T = TypeVar("T")


class UnreadableDtypeError(MetadataError):
    """A dtype whose values can't be read: who does not ask for them need not care."""


def readable(read: Callable[[], T], where: str) -> T | None:
    """Return what `read` gets of an attribute; None, with a warning, where its dtype is none that can be read."""
    try:
        return read()
    except UnreadableDtypeError as error:
        warnings.warn(f"{error.message}; it is left out [{where}]", ZVWarning, stacklevel=3)
        return None


def parse_dtype(text: object, what: str, kinds: str = _KINDS) -> np.dtype[Any]:
    """Return the dtype that a store's metadata names."""
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise MetadataError(f"{what} has the dtype {text!r:.80}: a name such as 'float32' is wanted")
    try:
        dtype: np.dtype[Any] = np.dtype(text)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnreadableDtypeError(f"{what} has the dtype {text!r}, which numpy does not know") from error
    if dtype.kind not in kinds or not dtype.itemsize:
        strings = ", strings of one length" if "U" in kinds else ""
        raise UnreadableDtypeError(f"{what} has the dtype {text!r}: numbers, booleans, dates{strings} can be read")
    return dtype


def check_attribute_name(name: object, axes: tuple[str, ...]) -> str:
    """Return an attribute's name if a store can hold it beside these axes."""
    if not isinstance(name, str) or not name:
        raise InputError(f"attribute names are non-empty strings, not {name!r}")
    if "/" in name or "\\" in name or name in (".", "..", "zarr.json") or has_control(name):
        raise InputError(f"attribute {name!r}: a name can't hold '/', '\\' or control characters, nor be '.' or 'zarr.json'")
    if len(name.encode(errors="replace")) > LONGEST:
        raise InputError(f"attribute {name!r:.60}...: a name has at most {LONGEST} bytes, as file names have")
    if name in axes:
        raise InputError(f"attribute {name!r} has the name of an axis: rename one of them")
    if name == "object_id":
        raise InputError("attribute 'object_id': pass it as object_ids=, or rename the attribute")
    return name


@dataclass(frozen=True, slots=True)
class Kind:
    """What a geometry is, for whoever creates, reads or shows its stores."""

    name: str
    convention: str  # the root's links_convention: how links are told where no record is stored
    is_path: bool = False  # objects are sequences of vertices, in the order of their manifests
    link: str = ""  # "edge" or "face": what joins the vertices, in records
    has_parents: bool = False  # links lead from a vertex to its one parent

    @property
    def is_points(self) -> bool:
        """True where it is known that nothing joins the vertices."""
        return bool(self.name) and not (self.is_path or self.link)


@dataclass(frozen=True, slots=True)
class AttributeSchema:
    """One vertex attribute."""

    name: str
    dtype: np.dtype[Any]  # As stored; the codes' where the attribute is a dictionary
    channels: int | None = None  # Width of a 2-D attribute; None for one value per vertex
    dictionary: DictionaryEncoding | None = None  # Categories of strings
    channel_names: tuple[str, ...] | None = None
    any_width: bool = False  # The metadata does not tell the width (0.7's writers of polylines, graphs and meshes leave it out)
    unit: str | None = None  # As other tools note it beside the array; ours is in the root's attribute_specs
    description: str | None = None

    @property
    def array(self) -> str:
        """Path of the array below its level."""
        return f"{ATTRIBUTES}/{self.name}"

    @property
    def width(self) -> int:
        """Values per vertex."""
        return 1 if self.channels is None else self.channels

    @property
    def row_bytes(self) -> int:
        """Bytes per vertex."""
        return self.width * self.dtype.itemsize

    @property
    def value_dtype(self) -> np.dtype[Any]:
        """Dtype of decoded values: fixed-width strings for categories, objects where some can be missing."""
        if self.dictionary is None:
            return self.dtype
        if self.dictionary.fill_value is not None:
            return np.dtype(object)
        return np.asarray(self.dictionary.categories).dtype if self.dictionary.categories else np.dtype("<U1")

    def to_attributes(self, *, grid: bool = False) -> dict[str, Any]:
        """Return the metadata of the attribute's array; `grid` where it is of generation 0.9, which also tells the width."""
        out: dict[str, Any] = {"zv_array": "attribute", "name": self.name, "dtype": str(self.dtype)}
        if grid:
            out["row_shape"] = [] if self.channels is None else [self.channels]
        if self.channels is not None:
            out["channel_names"] = list(self.channel_names or (f"ch{i}" for i in range(self.channels)))
        if self.dictionary is not None:
            out.update(self.dictionary.to_attributes())
        out.update({k: v for k, v in (("unit", self.unit), ("description", self.description)) if v})
        return out

    @classmethod
    def from_attributes(cls, name: str, attrs: Mapping[str, Any], *, any_width: bool = False) -> AttributeSchema:
        """Return the schema in the metadata of an attribute's array."""
        what = f"attribute {name!r}"
        dtype = parse_dtype(attrs.get("dtype", "float32"), what, VALUE_KINDS)
        any_width = any_width or not {"dtype", "row_shape"} & attrs.keys()  # a writer that notes nothing takes channels, too
        names = attrs.get("channel_names")
        if names is not None and not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
            raise MetadataError(f"{what} has the channel_names {names!r}: a list of strings is wanted")
        dictionary = DictionaryEncoding.from_attributes(attrs)
        if dictionary is not None and dtype.kind not in "iu":
            raise MetadataError(f"{what} is a dictionary with codes of dtype {dtype}")
        rows = attrs.get("row_shape")
        if rows is not None and not (isinstance(rows, list) and all(type(r) is int and r > 0 for r in rows)):
            raise MetadataError(f"{what} has the row_shape {rows!r}: a list of positive integers is wanted")
        width = math.prod(rows) if rows else None
        if names is not None and width not in (None, len(names)):
            raise MetadataError(f"{what} has the row_shape {rows!r} and {len(names)} channel_names")
        channels = width if names is None else len(names)
        any_width = any_width and channels is None and dictionary is None
        said = [v if isinstance(v := attrs.get(word), str) else None for word in ("unit", "description")]
        return cls(name, dtype, channels, dictionary, None if names is None else tuple(names), any_width, *said)

    def encode(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values as they are stored, C-contiguous, shape (n,) or (n, channels)."""
        if self.dictionary is not None:
            values = self.dictionary.encode(values)
        return np.ascontiguousarray(values, self.dtype)

    def values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return stored values as the user sees them: categories for codes."""
        return stored if self.dictionary is None else self.dictionary.decode(stored)


@dataclass(frozen=True, slots=True)
class PointSchema:
    """What a level of points holds."""

    grid: ChunkGrid
    dtype: np.dtype[Any]  # Of the positions
    attributes: tuple[AttributeSchema, ...] = ()
    has_objects: bool = False  # Fragments are objects' runs, rather than bins

    @property
    def row_bytes(self) -> int:
        """Bytes per vertex in all arrays."""
        return self.grid.ndim * self.dtype.itemsize + sum(a.row_bytes for a in self.attributes)

    @property
    def arrays(self) -> tuple[str, ...]:
        """Paths of the chunk arrays."""
        return (VERTICES, FRAGMENTS, *(a.array for a in self.attributes))

    def array_metadata(self, *, grid: bool = False) -> list[tuple[str, dict[str, Any]]]:
        """Return (path, attributes) of each chunk array's node; `grid` for generation 0.9."""
        return [
            (VERTICES, {"zv_array": VERTICES, "dtype": str(self.dtype), "encoding": "raw"}),
            (FRAGMENTS, {"zv_array": FRAGMENTS, "encoding": "fragment_index_v1"}),
            *((a.array, a.to_attributes(grid=grid)) for a in self.attributes),
        ]


def position_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the little-endian dtype for stored positions: integers or floats."""
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"positions are integers or floats of at most 64 bits, not {dtype}")
    return dtype.newbyteorder("<")
