"""From partitions as they come to rows as they are stored, twice: for the scan, and when blocks are made of them.

Blocks, links and the object index are planned by what the scan saw. Rows that are others the second time would be stored in
the wrong place, or not at all: what the scan saw of each part is compared wherever the part is made again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import BoundsError, InputError
from dask_zv.format.dictionary import DictionaryEncoding
from dask_zv.geometry.rows import VertexRows
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.spatial.grid import Box, ChunkGrid
from dask_zv.storage.codecs import columns_crc32c
from dask_zv.write.partitions import RawPart


@dataclass(frozen=True, slots=True)
class Conversion:
    """How rows become stored rows."""

    grid: ChunkGrid
    dtype: np.dtype[Any]  # of stored positions
    tolerance: float  # A position may move this much by the cast to `dtype`
    box: Box | None  # bounds that positions must lie in
    drop_outside: bool  # leave positions out of bounds out, instead of raising
    axes: tuple[str, ...]


def convert_part(conversion: Conversion, number: int, part: RawPart, start: int | None = None) -> tuple[VertexRows, int]:
    """Return a partition's rows, with attributes as they came, and how many were left out as out of bounds.

    `start` is the number of the partition's first row in the whole input, where rows are to be numbered.
    """
    raw = part.table
    where = f"partition {number}: " if number >= 0 else ""
    if raw.ndim != 2 or raw.shape[1] != conversion.grid.ndim:
        raise InputError(f"{where}positions have the shape {raw.shape}, (n, {conversion.grid.ndim}) is wanted")
    if raw.dtype.kind not in "iuf":  # a lazy array that is not what it said
        raise InputError(f"{where}positions are integers or floats, not {raw.dtype}")
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        row = int(np.flatnonzero(~np.isfinite(raw).all(axis=1))[0])
        raise InputError(f"{where}position {row} is {raw[row].tolist()}: NaN and infinite positions have no chunk; drop them")
    with np.errstate(over="ignore", invalid="ignore"):
        points = np.ascontiguousarray(raw, conversion.dtype)
    if points.dtype != raw.dtype:
        _check_cast(conversion, where, raw, points)
    outside = None
    if conversion.box is not None and len(points):
        # compared in the dtype of the positions, as the format's other writers do
        low, high = (corner.astype(points.dtype) for corner in conversion.box)
        inside = ((points >= low) & (points <= high)).all(axis=1)
        if not inside.all():
            if not conversion.drop_outside:
                row = int(np.flatnonzero(~inside)[0])
                raise BoundsError(
                    f"{where}{int((~inside).sum()):,} positions are out of bounds, the first is row {row}, "
                    f"{points[row].tolist()}; the store's bounds are {conversion.box[0].tolist()} to "
                    f"{conversion.box[1].tolist()}: pass out_of_bounds='expand' to make the bounds larger, create the store "
                    "with other bounds, or leave these out with write_points(..., out_of_bounds='ignore')"
                )
            outside = ~inside
    values: dict[str, NDArray[Any]] = dict(part.attributes)
    if outside is not None:
        points, values = points[~outside], {k: v[~outside] for k, v in values.items()}
    integers = {k: _integers(k, v, where) for k, v in part.integers.items()}
    if outside is not None:
        integers = {k: v[~outside] for k, v in integers.items()}
    numbers = None
    if start is not None:
        if outside is not None:
            raise InputError(f"{where}only points can be left out if they are out of bounds")
        numbers = np.arange(start, start + len(points))
    rows = VertexRows(points, values, integers.get("object_ids"), numbers, integers.get("vertex_ids"), integers.get("parents"))
    return rows, 0 if outside is None else int(outside.sum())


def _integers(name: str, values: NDArray[Any], where: str) -> NDArray[np.int64]:
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise InputError(f"{where}{name} are integers of the shape (n,), not {values.dtype} {values.shape}")
    if len(values):
        low, high = int(values.min()), int(values.max())
        if high > np.iinfo(np.int64).max or (low < 0 and name != "parents"):  # a negative parent is none
            called = "object ids" if name == "object_ids" else name
            raise InputError(f"{where}{called} are between 0 and 2**63 - 1, found {low} to {high}")
    return values.astype(np.int64, copy=False)


def _check_cast(conversion: Conversion, where: str, raw: NDArray[Any], points: NDArray[Any]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        moved = np.abs(points.astype(np.longdouble) - raw.astype(np.longdouble))
    bad = ~(moved <= conversion.tolerance).all(axis=1) if len(moved) else np.zeros(0, bool)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{where}storing {raw.dtype} positions as {points.dtype} moves {int(bad.sum()):,} of them by more than "
            f"{conversion.tolerance:g}, row {row} from {raw[row].tolist()} to {points[row].tolist()}: store a wider dtype "
            "(create(dtype='float64')), subtract an offset first, or allow it with position_tolerance="
        )


def encode_attributes(schemas: Sequence[AttributeSchema], rows: VertexRows, number: int) -> dict[str, NDArray[Any]]:
    """Return the attributes of partition `number` as they are stored."""
    encoded: dict[str, NDArray[Any]] = {}
    for schema in schemas:
        try:
            encoded[schema.name] = schema.encode(rows.attributes[schema.name])
        except InputError as error:
            raise InputError(f"partition {number}: attribute {schema.name!r}: {error.message}") from None
    return encoded


def rows_crc32c(rows: VertexRows, codes: Mapping[str, NDArray[Any]]) -> int:
    """Return a checksum of a partition's content.

    Attributes are as they came; `codes` (n,) are strings, by :func:`categories_key`, as codes of those categories.
    """
    numbers = [(name, values) for name, values in rows.attributes.items() if values.dtype.kind in "biufcmM"]
    columns = [("", rows.positions), *sorted(numbers), *sorted(codes.items())]
    others = (("ids", rows.object_ids), ("keys", rows.keys), ("parents", rows.parents))
    return columns_crc32c([*columns, *((name, values) for name, values in others if values is not None)])


def categories_key(name: str, encoding: DictionaryEncoding) -> str:
    """Return what a checksum calls an attribute of strings: its name and its categories."""
    return "\0".join([name, *map(str, encoding.categories)])


class Seen(NamedTuple):
    """What is compared of a part: rows, CRC-32C of their content, and rows that were left out."""

    rows: int
    digest: int
    dropped: int = 0


def check_same(what: str, before: Seen, now: Seen) -> None:
    """Raise :class:`InputError` where a part, such as ``"partition 3"``, is not what the scan saw."""
    if now != before:
        raise changed(what, f"{_told(before)} then, {_told(now)} now")


def _told(seen: Seen) -> str:
    dropped = f" and {seen.dropped:,} out of bounds" if seen.dropped else ""
    return f"{seen.rows:,} rows{dropped} of CRC-32C {seen.digest:08x}"


def changed(what: str, why: str) -> InputError:
    """Return the error of a part that is not what the scan saw."""
    return InputError(
        f"{what} differs from the first reading of the input: {why}. Its rows and their order must be the same in every "
        "reading. They differ if random numbers have no seed, a query has no ORDER BY, a file grows, or an array is changed "
        "before the write is done: persist() it, or seed it"
    )


def convert_again(
    conversion: Conversion,
    schemas: Sequence[AttributeSchema],
    number: int,
    start: int | None,
    before: Seen,
    part: RawPart,
) -> VertexRows:
    """Return a partition's rows as they are stored, once they are found to be those that the scan saw.

    `start` is the number of its first row in the whole input, where rows are to be numbered.
    """
    what = f"partition {number}"
    part = owned(part)  # what is compared is what is stored
    try:
        rows, dropped = convert_part(conversion, number, part, start)
        encoded = encode_attributes(schemas, rows, number)
    except (InputError, BoundsError) as error:  # the scan had nothing against it
        raise changed(what, error.message) from error
    strings = [(s.name, s.dictionary) for s in schemas if s.dictionary is not None]
    codes = dict(_own_codes(name, encoding, encoded[name]) for name, encoding in strings)
    check_same(what, before, Seen(len(rows), rows_crc32c(rows, codes), dropped))
    return dataclasses.replace(rows, attributes=encoded)


def owned(part: RawPart) -> RawPart:
    """Return a part without views of other arrays: a caller may change an array of theirs at any time."""

    def own(values: NDArray[Any]) -> NDArray[Any]:
        return values if values.base is None else values.copy()

    columns = ({name: own(values) for name, values in some.items()} for some in (part.attributes, part.integers))
    return RawPart(own(part.table), *columns)


def _own_codes(name: str, encoding: DictionaryEncoding, codes: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    """Return strings as the scan's checksum has them: codes of their own categories, not of all that the input has.

    `codes` (n,) are what `encoding` makes of the strings of an attribute.
    """
    present = [c for c in np.unique(codes).tolist() if c != encoding.fill_value]
    known = sorted((str(encoding.categories[c]), c) for c in present)
    missing = encoding.fill_value is not None and bool((codes == encoding.fill_value).any())
    table = np.full(len(encoding.categories) + 1, -1, np.int64)
    table[[c for _, c in known]] = np.arange(len(known))
    own = DictionaryEncoding(tuple(category for category, _ in known), fill_value=-1 if missing else None)
    # the code of what is missing is -1, and so is what the table has there
    return categories_key(name, own), table[codes].astype(own.dtype)
