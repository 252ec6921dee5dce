"""What a level holds beside its chunks: groups of objects, and the documents of tables with a row to an object.

Source: Zarr Vectors format, group membership and non-chunk arrays. Groups are, in 0.7, two blobs: ``data`` has the
little-endian int64 members of all groups back to back, ``offsets`` per group the int64 *byte* at which its members start. In
0.9 they are the elements of one array: the int64 members of a group, or nothing where the array's ``group_ranges`` has the
group's [start, stop). An object without a value has, in 0.9, the *sentinel* of its dtype: NaN, the least signed, the greatest
unsigned integer, the empty string; it is the array's fill value as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, InputError
from dask_zv.format.documents import array_document, dump_json

GROUP_NAMES = "group_names"
"""Attribute of ``groups`` that names them; readers give it as an attribute of groups, and writers take it as one."""

MAX_RANGE = 2**22
"""Members that the ranges of a level's groups are expanded to, however few objects it has.

The bounds of a range are a claim that a few digits can make.
"""


_VLEN_BYTES = {"name": "vlen-bytes", "configuration": {}}
_ZSTD = {"name": "zstd", "configuration": {"level": 0, "checksum": True}}
"""With the codec's own checksum: it goes along with every change in place, by whatever tool."""


def names_of_groups(attributes: Mapping[str, Any], count: int) -> dict[str, NDArray[Any]]:
    """Return the names of groups as an attribute of groups, "" for those without; nothing where no group has one."""
    given = attributes.get(GROUP_NAMES)
    if not isinstance(given, list) or not given:
        return {}
    return {GROUP_NAMES: np.array([*map(str, given), *[""] * count][:count], str)}


def encode_groups(members: Sequence[Sequence[int] | NDArray[np.int64]]) -> tuple[bytes, bytes]:
    """Encode groups; a group's id is its position."""
    arrays = [_members(group, ids) for group, ids in enumerate(members)]
    sizes = np.array([0, *(8 * len(ids) for ids in arrays)], dtype=np.int64)
    offsets = np.cumsum(sizes)[:-1].astype("<i8").tobytes()
    return b"".join(ids.astype("<i8", copy=False).tobytes() for ids in arrays), offsets


def decode_groups(data: bytes | bytearray | memoryview, offsets: bytes | bytearray | memoryview) -> list[NDArray[np.int64]]:
    """Decode the two blobs of the groups."""
    size, n_bytes = memoryview(data).nbytes, memoryview(offsets).nbytes
    if size % 8:
        raise FormatError(f"data of groups is {size} bytes, not whole 8-byte integers", array="groups", offset=size)
    if n_bytes % 8:
        raise FormatError(f"offsets of groups are {n_bytes} bytes, not whole 8-byte integers", array="groups", offset=n_bytes)
    if n_bytes == 0:
        if size:
            raise FormatError(f"{size} bytes of members without a group", array="groups", offset=0)
        return []
    starts = np.frombuffer(offsets, dtype="<i8").astype(np.int64)
    bad = (starts % 8 != 0) | (starts < 0) | (starts > size)
    bad[1:] |= starts[1:] < starts[:-1]
    bad[0] |= starts[0] != 0
    if bad.any():
        group = int(np.argmax(bad))
        text = f"group {group} starts at byte {starts[group]} of {size}; starts must run from 0 upwards, in steps of 8"
        raise FormatError(text, array="groups", offset=8 * group)
    members = np.frombuffer(data, dtype="<i8").astype(np.int64) if size else np.empty(0, dtype=np.int64)
    if size and int(members.min()) < 0:
        at = int(np.argmax(members < 0))
        raise FormatError(f"member {members[at]} of a group is not an object id", array="groups", offset=8 * at)
    return np.split(members, starts[1:] // 8)


def encode_group_elements(members: Sequence[Sequence[int] | NDArray[np.int64]]) -> list[bytes]:
    """Encode groups as the elements of an array; a group's id is its position."""
    return [_members(group, ids).astype("<i8", copy=False).tobytes() for group, ids in enumerate(members)]


def decode_group_elements(elements: Sequence[bytes], ranges: object, *, objects: int = 0) -> list[NDArray[np.int64]]:
    """Decode the elements of the groups' array; a range counts for more than the element beside it."""
    out: list[NDArray[np.int64]] = []
    for group, element in enumerate(elements):
        if len(element) % 8:
            raise FormatError(f"group {group} is {len(element)} bytes, not whole 8-byte integers", array="groups")
        members = np.frombuffer(element, "<i8").astype(np.int64)
        if len(members) and int(members.min()) < 0:
            raise FormatError(f"group {group} has the member {members.min()}, which is no object id", array="groups")
        out.append(members)
    if not isinstance(ranges, dict):
        raise FormatError(f"group_ranges is {ranges!r:.80}, no mapping", array="groups")
    most = max(MAX_RANGE, 4 * objects * min(len(ranges), len(out)))
    total = 0
    for text, bounds in ranges.items():
        whole = isinstance(bounds, list) and len(bounds) == 2 and all(type(v) is int for v in bounds)
        number = isinstance(text, str) and len(text) < 19 and text.isdecimal() and text.isascii()
        if not (whole and number and int(text) < len(out)):
            raise FormatError(f"group_ranges has {text!r:.80}: {bounds!r:.80} for {len(out)} groups", array="groups")
        start, stop = bounds
        total += max(0, stop - start)
        if not 0 <= start <= stop < 2**63 or total > most:
            raise FormatError(
                f"group {text} is the range {start} to {stop}; the ranges of all groups are expanded to {most} members",
                array="groups",
            )
        out[int(text)] = np.arange(start, stop, dtype=np.int64)
    return out


def _members(group: int, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"members of group {group} must be a list of integers, not {array.ndim}-D {array.dtype}")
    array = array.astype(np.int64)
    if array.size and int(array.min()) < 0:
        raise InputError(f"group {group} has the member {array.min()}; object ids count from 0")
    return array


def sentinel(dtype: np.dtype[Any]) -> Any:
    """Return the value of objects that have none."""
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return float("nan")
    if dtype.kind == "i":
        return int(np.iinfo(dtype).min)
    if dtype.kind == "u":
        return int(np.iinfo(dtype).max)
    if dtype.kind == "U":
        return ""
    raise InputError(f"{dtype} has no value for 'missing', so objects cannot have attributes of this dtype")


def table_document(shape: Sequence[int], dtype: np.dtype[Any], chunk: int, fill: Any, attributes: Mapping[str, Any]) -> bytes:
    """Return the document of an array with a row to an object, `chunk` rows to a stored object."""
    data_type: Any = dtype.name
    if dtype.kind == "U":
        data_type = {"name": "fixed_length_utf32", "configuration": {"length_bytes": dtype.itemsize}}
    endian = {"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {}
    fill = "NaN" if isinstance(fill, float) and np.isnan(fill) else fill
    codecs = [{"name": "bytes", **endian}, _ZSTD]
    return dump_json(array_document(shape, data_type, [chunk, *shape[1:]], fill, codecs, attributes))


def elements_document(count: int, chunk: int, attributes: Mapping[str, Any]) -> bytes:
    """Return the document of a 1-D array of bytes of any length, `chunk` elements to a stored object."""
    codecs = [_VLEN_BYTES, _ZSTD]
    return dump_json(array_document([count], "variable_length_bytes", [chunk], "", codecs, attributes))


def manifests_document(count: int, chunk: int) -> bytes:
    """Return the document of ``object_index/manifests``: as of other elements, but for the checksum."""
    codecs = [_VLEN_BYTES, {"name": "zstd", "configuration": {"level": 0, "checksum": False}}]
    return dump_json(array_document([count], "variable_length_bytes", [chunk], "", codecs, {}))
