"""Dictionary encoding: attributes of repeated strings as integer codes.

The payload of such an attribute is an ordinary integer array; the categories are in the array's metadata. They are
known before the first chunk is encoded, so every task of a write uses the same codes.

Source: Zarr Vectors format, dictionary (categorical) vertex attributes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dask_zv.errors import FormatError, InputError, MetadataError

MAX_CATEGORIES = 65_535
"""Categories that an attribute is encoded with. A text column of more distinct values is not categorical."""

Category = str | int | float | bool

_ENCODING = "dictionary"
_FILL = -1
_UNKNOWN = np.iinfo(np.int64).min
_NA_TYPES = frozenset({"NAType", "NaTType"})


@dataclass(frozen=True, slots=True)
class DictionaryEncoding:
    """Categories of one attribute and how codes stand for them."""

    categories: tuple[Category, ...]
    """``categories[code]`` is the value. Stores of other writers also hold numbers or booleans here; they are decoded to arrays
    of that kind."""
    ordered: bool = False  # Whether the order of the categories means something
    fill_value: int | None = None  # Code of missing values; None where the attribute has none

    def __post_init__(self) -> None:
        kinds = {_kind(c) for c in self.categories}
        if len(kinds) > 1 or None in kinds:
            raise MetadataError("categories must be all strings, all numbers or all booleans")
        if len(set(self.categories)) != len(self.categories):
            raise MetadataError("categories must differ from each other")
        if any(isinstance(c, str) and c.endswith("\0") for c in self.categories):
            raise MetadataError("a category ends with a NUL character, which numpy strings can't hold")
        if self.fill_value is not None:
            info = np.iinfo(self.dtype)
            if 0 <= self.fill_value < len(self.categories) or not info.min <= self.fill_value <= info.max:
                raise MetadataError(f"_FillValue {self.fill_value} is a category's code, or not a code of {self.dtype}")

    @property
    def dtype(self) -> np.dtype[np.integer[Any]]:
        """Dtype of the codes: the smallest unsigned one, or signed one where values can be missing."""
        n = len(self.categories)
        if self.fill_value is None:
            return np.dtype(np.uint8 if n <= 255 else np.uint16 if n <= 65_535 else np.uint32)
        return np.dtype(np.int8 if n <= 127 else np.int16 if n <= 32_767 else np.int32)

    @classmethod
    def from_values(cls, values: ArrayLike | Iterable[object], *, ordered: bool = False) -> DictionaryEncoding:
        """Make the encoding of an array: its distinct values, sorted, and a fill value if some are missing.

        Shapes: `values` (n,).
        """
        found: set[str] = set()
        missing = False
        for value in _distinct(_as_list(values)):
            if _is_missing(value):
                missing = True
            else:
                found.add(_as_text(value))
        if len(found) > MAX_CATEGORIES:
            raise InputError(f"{len(found)} distinct strings; a dictionary holds {MAX_CATEGORIES}")
        return cls(tuple(sorted(found)), ordered, _FILL if missing else None)

    @classmethod
    def from_attributes(cls, attrs: Mapping[str, Any]) -> DictionaryEncoding | None:
        """Read the encoding from the metadata of an attribute array; None where it isn't dictionary encoded."""
        if attrs.get("encoding") != _ENCODING:
            return None
        categories = attrs.get("categories")
        if not isinstance(categories, list | tuple):
            raise MetadataError(f"categories of a dictionary encoded attribute must be a list, not {categories!r:.80}")
        ordered = attrs.get("ordered", False)
        if not isinstance(ordered, bool):
            raise MetadataError(f"ordered must be true or false, not {ordered!r:.80}")
        fill = attrs.get("_FillValue")
        if fill is not None and (isinstance(fill, bool) or not isinstance(fill, int)):
            raise MetadataError(f"_FillValue of a dictionary encoded attribute must be an integer, not {fill!r:.80}")
        return cls(tuple(categories), ordered, fill)

    def to_attributes(self) -> dict[str, Any]:
        """Return the metadata entries of an array that holds these codes, without its ``dtype``."""
        attrs: dict[str, Any] = {
            "encoding": _ENCODING,
            "categories": list(self.categories),
            "ordered": self.ordered,
        }
        if self.fill_value is not None:
            attrs["_FillValue"] = self.fill_value
        return attrs

    def encode(self, values: ArrayLike | Iterable[object]) -> NDArray[np.integer[Any]]:
        """Return the codes of values. Shapes: `values` (n,)."""
        items = _as_list(values)
        table: dict[object, int] = {c: code for code, c in enumerate(self.categories)}
        try:
            codes = np.fromiter(map(table.get, items, repeat(_UNKNOWN)), dtype=np.int64, count=len(items))
        except TypeError as error:
            raise InputError("values of Python objects must be strings; give numbers as a numpy array") from error
        for row in np.flatnonzero(codes == _UNKNOWN).tolist():
            codes[row] = self._code_of(items[row], row, table)
        return codes.astype(self.dtype)

    def decode(self, codes: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Return the values of codes. Shapes: `codes` (n,) or (n, C)."""
        if codes.dtype.kind not in "iu":
            raise FormatError(f"codes of a dictionary encoded attribute are {codes.dtype}, not integers")
        n = len(self.categories)
        missing = np.zeros(codes.shape, dtype=np.bool_) if self.fill_value is None else codes == self.fill_value
        bad = ((codes < 0) | (codes >= n)) & ~missing
        if bad.any():
            at = int(np.argmax(bad))
            text = f"code {codes.flat[at]} of row {at} is none of the {n} categories"
            raise FormatError(text, offset=at * codes.dtype.itemsize)
        if self.fill_value is None:
            text_like = not n or isinstance(self.categories[0], str)
            known: NDArray[Any] = np.array(self.categories, dtype=np.str_ if text_like else None)
            return np.asarray(known[codes])
        table = np.empty(n + 1, dtype=object)
        table[:n] = self.categories
        values: NDArray[Any] = table[np.where(missing, n, codes)]
        return values

    def _code_of(self, value: object, row: int, table: dict[object, int]) -> int:
        if _is_missing(value):
            if self.fill_value is None:
                raise InputError(f"the value of row {row} is missing, and the encoding has no fill value")
            return self.fill_value
        code = table.get(value.decode("utf-8", "replace")) if isinstance(value, bytes) else None
        if code is None:
            raise InputError(f"{value!r:.80}, the value of row {row}, is none of the {len(self.categories)} categories")
        return code


def _kind(value: object) -> str | None:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else None


def _as_list(values: ArrayLike | Iterable[object]) -> list[object]:
    if isinstance(values, list | tuple):
        return list(values)
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"values of a dictionary encoded attribute must be 1-D, not {array.ndim}-D")
    items: list[object] = array.tolist()
    return items


def _distinct(items: list[object]) -> Iterable[Hashable]:
    try:
        return set(items)
    except TypeError as error:
        raise InputError("values of Python objects must be strings; give numbers as a numpy array") from error


def _as_text(value: object) -> str:
    if isinstance(value, str):
        text = str(value)
    elif isinstance(value, bytes):
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{value!r:.80} is not UTF-8") from error
    else:
        raise InputError(f"{value!r:.80} is not a string; store numbers as they are, or format them first")
    if text.endswith("\0"):
        raise InputError(f"{text!r:.80} ends with a NUL character, which numpy strings can't hold")
    return text


def _is_missing(value: object) -> bool:
    if value is None or type(value).__name__ in _NA_TYPES:
        return True
    return isinstance(value, float | np.floating) and math.isnan(value)
