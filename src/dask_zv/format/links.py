"""Links: records of L endpoints, each a row of a chunk's vertices; names, orders and bytes of the grid generation.

A record is filed under its *source*, the chunk of its first stored endpoint, in the array of a *segment*: the offsets from
that chunk to the chunks of the others. Source: Zarr Vectors format 0.9, links families::

    links/<delta>/<segment>     one array, a cell per source chunk
    segment                     L-1 offsets joined by "_", each K components joined by ".", each "0", "+n" or "-n"; "self" for
                                L = 1
    row of a cell               [permutation,] row of endpoint 0, ..., row of endpoint L-1     (all int64, little-endian)
    cell, intra-chunk, delta 0  rows, nothing else
    every other cell            int64 G, int64 byte offset[G] (from the end of this table), rows of group 0, 1, ...

Where a family is undirected, the endpoints of a record that crosses chunks are stored in ascending order of (chunk, row), and
the permutation, as its Lehmer code, says how they were given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, MetadataError

MAX_WIDTH = 16
"""Endpoints of a record; the Lehmer codes of more don't fit 64 bits for long, and no geometry has them."""

_ONE_GROUP = np.array([1, 0], "<i8").tobytes()
_NUMBER = re.compile(r"0|[+-][1-9][0-9]*")
_MAX_DIGITS = 18


def delta_name(delta: int) -> str:
    """Return the path segment of a level difference: ``"0"``, ``"+1"``, ``"-2"``."""
    return f"{delta:+d}" if delta else "0"


def parse_delta(name: str) -> int:
    """Return the level difference that a path segment names."""
    if not _NUMBER.fullmatch(name) or len(name) > _MAX_DIGITS + 1:
        raise FormatError(f"{name!r:.120} is no level difference, such as '0', '+1' or '-1'")
    return int(name)


def segment_name(offsets: NDArray[np.int64] | Sequence[Sequence[int]]) -> str:
    """Return the name of a segment. Shapes: `offsets` (L-1, K)."""
    rows = np.asarray(offsets).tolist()
    return "_".join(".".join(delta_name(c) for c in offset) for offset in rows) or "self"


def parse_segment(name: str, rank: int) -> NDArray[np.int64]:
    """Return the offsets that a segment's name tells, shape (L-1, K)."""
    if name == "self":
        return np.zeros((0, rank), np.int64)
    offsets: list[list[int]] = []
    for part in name.split("_"):
        components = part.split(".")
        if len(components) != rank or not all(_NUMBER.fullmatch(c) for c in components):
            raise FormatError(f"{name!r:.120} is no segment of links between chunks of rank {rank}")
        if any(len(c) > _MAX_DIGITS + 1 for c in components):  # no key of a chunk has more
            raise FormatError(f"{name[:80]!r} names chunks beyond 2**63")
        offsets.append([int(c) for c in components])
    if len(offsets) >= MAX_WIDTH:
        raise FormatError(f"{name[:80]!r} names more than {MAX_WIDTH} endpoints")
    return np.array(offsets, np.int64)


def has_permutation(*, intra: bool, delta: int, directed: bool, store: str) -> bool:
    """Return True if rows start with a permutation, where the array's metadata doesn't say."""
    return not intra and delta == 0 and (store == "duplicate" or not directed)


def encode_ragged(rows: NDArray[np.int64]) -> bytes:
    """Return a cell of one group; rows (m, width)."""
    return _ONE_GROUP + np.ascontiguousarray(rows, "<i8").tobytes()


def decode_ragged(blob: bytes, width: int, dtype: np.dtype[Any] | str = "<i8") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of a ragged cell, shape (m, width), and the rows of each of its groups, shape (G,)."""
    kind = np.dtype(dtype)
    if blob[:16] == _ONE_GROUP and (len(blob) - 16) % (width * kind.itemsize) == 0:  # what writers emit
        rows = np.frombuffer(blob, kind, offset=16).astype(np.int64, copy=False).reshape(-1, width)
        return rows, np.array([len(rows)])
    nothing = np.zeros((0, width), np.int64), np.zeros(0, np.int64)
    if len(blob) < 8:
        if len(blob):
            raise FormatError(f"links are cut off: {len(blob)} bytes, their count takes 8", offset=len(blob))
        return nothing
    groups = int(np.frombuffer(blob, "<i8", 1)[0])
    if groups < 0 or groups > (len(blob) - 8) // 8:
        raise FormatError(f"links claim {groups} groups in {len(blob)} bytes", offset=0)
    if groups == 0:
        if len(blob) > 8:
            raise FormatError(f"{len(blob) - 8} bytes after links of no group", offset=8)
        return nothing
    start = 8 + 8 * groups
    size = len(blob) - start
    edges = np.r_[np.frombuffer(blob, "<i8", groups, 8), size]
    if edges[0] != 0 or (edges[1:] < edges[:-1]).any():
        raise FormatError("the groups of links don't start at 0, or are out of order", offset=8)
    counts, rest = np.divmod(np.diff(edges), width * kind.itemsize)
    if rest.any():
        raise FormatError(
            f"group {int(np.flatnonzero(rest)[0])} of the links is not a whole number of rows of {width} x {kind}", offset=start
        )
    rows = np.frombuffer(blob, kind, offset=start).astype(np.int64, copy=False).reshape(-1, width)
    return rows, counts.astype(np.int64)


def decode_flat(blob: bytes, width: int, dtype: np.dtype[Any] | str = "<i8") -> NDArray[np.int64]:
    """Return the rows of an intra-chunk cell, shape (m, width)."""
    kind = np.dtype(dtype)
    if len(blob) % (width * kind.itemsize):
        raise FormatError(f"the links have {len(blob)} bytes, not a whole number of rows of {width} x {kind}", offset=len(blob))
    return np.frombuffer(blob, kind).astype(np.int64, copy=False).reshape(-1, width)


def lehmer_codes(orders: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the Lehmer code of each permutation; orders (m, L) to int64 (m,)."""
    width = orders.shape[1]
    out = np.zeros(len(orders), np.int64)
    for i in range(width - 1):
        smaller = (orders[:, i + 1 :] < orders[:, i : i + 1]).sum(axis=1)
        out += smaller * math.factorial(width - 1 - i)
    return out


def permutations(codes: NDArray[np.int64], width: int) -> NDArray[np.intp]:
    """Return the permutation of each Lehmer code; codes (m,) to intp (m, L)."""
    if len(codes) and (int(codes.min()) < 0 or int(codes.max()) >= math.factorial(width)):
        bad = int(codes.min()) if int(codes.min()) < 0 else int(codes.max())
        raise FormatError(f"{bad} is not the code of a permutation of {width} endpoints")
    out = np.zeros((len(codes), width), np.intp)
    rest = codes.astype(np.int64)
    for i in range(width):
        out[:, i], rest = np.divmod(rest, math.factorial(width - 1 - i))
    for i in range(width - 2, -1, -1):  # a digit counts the smaller ones that are left: put them back one by one
        out[:, i + 1 :] += out[:, i + 1 :] >= out[:, i : i + 1]
    return out


def stored_order(chunks: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the order in which an undirected family stores the endpoints of each record: slot i holds input endpoint [.., i].

    Shapes: `chunks` (m, L), `rows` (m, L).
    """
    order = np.broadcast_to(np.arange(chunks.shape[1]), chunks.shape).copy()
    crossing = np.flatnonzero((chunks != chunks[:, :1]).any(axis=1))
    if len(crossing):
        by_row = np.argsort(rows[crossing], axis=1, kind="stable")
        by_chunk = np.argsort(np.take_along_axis(chunks[crossing], by_row, 1), axis=1, kind="stable")
        order[crossing] = np.take_along_axis(by_row, by_chunk, 1)
    return order


@dataclass(frozen=True, slots=True)
class LinkFamily:
    """What the group ``links/<delta>`` says of all its segments."""

    width: int  # Endpoints L of a record
    rank: int  # Rank K of the chunk keys
    delta: int = 0  # Level of the endpoints but the first, minus that of the first
    directed: bool = False  # The order of the endpoints means something, and is kept as it is
    store: str = "canonical"  # One copy of a record, or one in each chunk that it touches
    count: int | None = None  # Records, and the rows that hold them
    physical: int | None = None

    def to_attributes(self) -> dict[str, Any]:
        """Return the attributes of the group."""
        out: dict[str, Any] = {
            "zv_array": "links_family",
            "level_delta": self.delta,
            "link_width": self.width,
            "directed": self.directed,
            "store": self.store,
            "sid_ndim": self.rank,
        }
        if self.count:
            out["num_links"] = self.count
            out["num_physical_records"] = self.count if self.physical is None else self.physical
        return out

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], rank: int, delta: int) -> LinkFamily:
        """Return what a group's attributes say."""
        width, store = attributes.get("link_width"), attributes.get("store", "canonical")
        if type(width) is not int or not 1 <= width <= MAX_WIDTH:
            raise MetadataError(f"links have link_width {width!r}: 1 to {MAX_WIDTH} endpoints are wanted")
        if store not in ("canonical", "duplicate"):
            raise MetadataError(f"links are stored as {store!r}: 'canonical' or 'duplicate' are known")
        directed = attributes.get("directed", False)
        if type(directed) is not bool:
            raise MetadataError(f"links have directed {directed!r}: true or false is wanted")
        if attributes.get("sid_ndim", rank) != rank or attributes.get("level_delta", delta) != delta:
            raise MetadataError(
                f"links/{delta_name(delta)} say sid_ndim {attributes.get('sid_ndim')!r} and level_delta "
                f"{attributes.get('level_delta')!r}, chunk keys have rank {rank}"
            )
        counts: list[int | None] = []
        for key in ("num_links", "num_physical_records"):
            value = attributes.get(key)
            if value is not None and (type(value) is not int or value < 0):
                raise MetadataError(f"links have {key} {value!r}")
            counts.append(value)
        return cls(width, rank, delta, directed, store, *counts)

    def segment_attributes(self, name: str) -> dict[str, Any]:
        """Return the attributes of a segment's array."""
        offsets = parse_segment(name, self.rank)
        intra = not offsets.any()  # a link of one endpoint crosses nothing
        permuted = has_permutation(intra=intra, delta=self.delta, directed=self.directed, store=self.store)
        return {
            "zv_array": "links",
            "dtype": "int64",
            "offsets": offsets.tolist(),
            "has_perm": permuted,
            "link_width": self.width,
            "level_delta": self.delta,
        }
