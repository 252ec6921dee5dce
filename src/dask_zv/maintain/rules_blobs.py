"""Reading blobs that may be damaged: what can be read, and findings for the rest; the strict decoders stay the judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from dask_zv.errors import FormatError, StoreError, ZVError
from dask_zv.maintain.validation import Finding, finding_of
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.layout import Blobs
from dask_zv.storage.objects import Address

T = TypeVar("T")
K = TypeVar("K")


def level_number(prefix: str) -> int:
    """Return the number of the level at a path in a store."""
    return int(prefix.rpartition("/")[2])


def read_what_can_be(blobs: Blobs, addresses: Sequence[Address]) -> tuple[dict[Address, bytes], list[Finding]]:
    """Return the blobs at listed addresses that can be read, and a finding for each of the others."""
    level = level_number(blobs.prefix)
    out: dict[Address, bytes] = {}
    found: list[Finding] = []
    todo = [list(addresses)]
    while todo:
        some = todo.pop()
        if not some:
            continue
        try:
            got = blobs.read_many(some)
        except ZVError as error:
            bad = _named(blobs, error, some)
            if bad is None and len(some) > 1:
                half = len(some) // 2
                todo += [some[:half], some[half:]]
                continue
            bad = bad or some[0]
            rule = "shards" if _of_shard(blobs, bad, error) else "blobs"
            found.append(Finding(rule, "error", error.message, level, *bad))
            rest = [a for a in some if a != bad]
            half = len(rest) // 2
            todo += [rest[:half], rest[half:]]
            continue
        out |= got
        found += [
            Finding("blobs", "error", "a listed chunk is gone: its object is missing", level, *a) for a in some if a not in got
        ]
    return out, found


def _named(blobs: Blobs, error: ZVError, addresses: Sequence[Address]) -> Address | None:
    """Return which of some addresses an error names."""
    if error.array is None or error.chunk is None:
        return None
    return next((a for a in addresses if a[1] == error.chunk and blobs.path(a[0]) == error.array), None)


def _of_shard(blobs: Blobs, address: Address, error: ZVError) -> bool:
    """Return True if a cell cannot be found because the index of its shard is damaged or gone."""
    if isinstance(blobs, GridArrays):
        node = blobs.array(address[0])
        in_shard = node is not None and node.spec.shard_shape is not None
    else:
        in_shard = address[1] in blobs.listing(address[0]).entries
    return in_shard and "shard" in error.message


def examine(
    items: Sequence[K],
    decode: Callable[[Sequence[K]], T],
    rule: str,
    level: int,
    place: Callable[[K], Address] | None = None,
) -> tuple[list[tuple[Sequence[K], T]], list[Finding]]:
    """Decode all of some items at once; where one is refused, halves of them, so that it alone is left out.

    Returns (items, what they decode to) for what can be decoded, in order, and a finding for each that can't; `place` is array
    and chunk of an item, where the error does not say.
    """
    if not len(items):
        return [], []
    try:
        return [(items, decode(items))], []
    except (FormatError, StoreError) as error:
        if len(items) == 1:
            found = finding_of(error, rule, level)
            if found.chunk is None and place is not None:
                array, chunk = place(items[0])
                found = replace(found, array=found.array or array, chunk=chunk)
            return [], [found]
    half = len(items) // 2
    first, second = (examine(part, decode, rule, level, place) for part in (items[:half], items[half:]))
    return first[0] + second[0], first[1] + second[1]
