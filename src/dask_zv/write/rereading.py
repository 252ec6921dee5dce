"""Input that is read more than once: what the scan saw of each part is compared wherever the part is made again.

Blocks, links and the object index are planned by what the scan saw. Rows that are others the second time would be stored in
the wrong place, or not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import BoundsError, InputError
from dask_zv.format.dictionary import DictionaryEncoding
from dask_zv.geometry.rows import VertexRows
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.write.inputs import RawPart
from dask_zv.write.scan import Conversion, categories_key, convert_part, encode_attributes, rows_crc32c


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
        f"{what} differs from what the scan of the input saw: {why}. Its rows and their order must be the same whenever it is "
        "read, and are not where random numbers have no seed, a query has no ORDER BY, a file grows, or an array is changed "
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

    Parameters
    ----------
    conversion : Conversion
    schemas : sequence of AttributeSchema
    number : int
        Of the partition.
    start : int, optional
        Number of its first row in the whole input, where rows are to be numbered.
    before : Seen
    part : RawPart

    Raises
    ------
    InputError
        They are others.
    """
    what = f"partition {number}"
    # what is compared is what is stored: a caller may change an array of theirs at any time
    part = RawPart(owned({"": part.positions})[""], owned(part.attributes), owned(part.integers))
    try:
        rows, dropped = convert_part(conversion, number, part, start)
        encoded = encode_attributes(schemas, rows, number)
    except (InputError, BoundsError) as error:  # the scan had nothing against it
        raise changed(what, error.message) from error
    strings = [(s.name, s.dictionary) for s in schemas if s.dictionary is not None]
    codes = dict(_own_codes(name, encoding, encoded[name]) for name, encoding in strings)
    check_same(what, before, Seen(len(rows), rows_crc32c(rows, codes), dropped))
    return dataclasses.replace(rows, attributes=encoded)


def owned(columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return columns, those that are views of other arrays as copies."""
    return {name: values if values.base is None else values.copy() for name, values in columns.items()}


def _own_codes(name: str, encoding: DictionaryEncoding, codes: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    """Return strings as the scan's checksum has them: codes of their own categories, not of all that the input has.

    Parameters
    ----------
    name : str
        Of the attribute.
    encoding : DictionaryEncoding
    codes : ndarray of integers, shape (n,)
        What `encoding` makes of the strings.
    """
    present = [c for c in np.unique(codes).tolist() if c != encoding.fill_value]
    known = sorted((str(encoding.categories[c]), c) for c in present)
    missing = encoding.fill_value is not None and bool((codes == encoding.fill_value).any())
    table = np.full(len(encoding.categories) + 1, -1, np.int64)
    table[[c for _, c in known]] = np.arange(len(known))
    own = DictionaryEncoding(tuple(category for category, _ in known), fill_value=-1 if missing else None)
    # the code of what is missing is -1, and so is what the table has there
    return categories_key(name, own), table[codes].astype(own.dtype)
