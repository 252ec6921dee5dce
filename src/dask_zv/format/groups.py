"""Groups of objects: lists of object ids, as two blobs.

Source: Zarr Vectors format 0.7, group membership. ``data`` is the little-endian int64 members of all groups back to
back; ``offsets`` is, per group, the little-endian int64 *byte* at which its members start in ``data``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, InputError

__all__ = ["decode_groups", "encode_groups"]


def encode_groups(members: Sequence[Sequence[int] | NDArray[np.int64]]) -> tuple[bytes, bytes]:
    """Encode groups; a group's id is its position.

    Parameters
    ----------
    members : sequence of sequences of int
        Object ids of each group, kept in their order.

    Returns
    -------
    data, offsets : bytes
        The two blobs.

    Raises
    ------
    InputError
        If a member is negative or not an integer.

    Examples
    --------
    >>> data, offsets = encode_groups([[4, 7], [], [1]])
    >>> [g.tolist() for g in decode_groups(data, offsets)]
    [[4, 7], [], [1]]
    """
    arrays = [_members(group, ids) for group, ids in enumerate(members)]
    sizes = np.array([0, *(8 * len(ids) for ids in arrays)], dtype=np.int64)
    offsets = np.cumsum(sizes)[:-1].astype("<i8").tobytes()
    return b"".join(ids.astype("<i8", copy=False).tobytes() for ids in arrays), offsets


def decode_groups(data: bytes | bytearray | memoryview, offsets: bytes | bytearray | memoryview) -> list[NDArray[np.int64]]:
    """Decode the two blobs of the groups.

    Parameters
    ----------
    data, offsets : bytes-like
        As `encode_groups` makes them.

    Returns
    -------
    list of ndarray of int64
        Object ids of each group.

    Raises
    ------
    FormatError
        If a blob isn't whole integers, offsets don't run from 0 upwards within `data`, or a member is negative.
    """
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


def _members(group: int, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"members of group {group} must be a list of integers, not {array.ndim}-D {array.dtype}")
    array = array.astype(np.int64)
    if array.size and int(array.min()) < 0:
        raise InputError(f"group {group} has the member {array.min()}; object ids count from 0")
    return array
