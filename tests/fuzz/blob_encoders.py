"""Encoders of blobs that editing tools write and dask-zv only reads, straight from the format's text."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np


def encode_fragments(fragments: Sequence[Any]) -> bytes:
    """Return a fragment index: a tuple is a range (start, count), anything else a list of rows."""
    if not len(fragments):
        return struct.pack("<IHHII", 0x5A564647, 1, 0, 0, 0)
    ranges = [f for f in fragments if isinstance(f, tuple)]
    listed = [np.asarray(f, "<i8") for f in fragments if not isinstance(f, tuple)]
    bits = sum(1 << i for i, f in enumerate(fragments) if isinstance(f, tuple))
    offsets = np.cumsum([0, *map(len, listed)]).astype("<u4")
    return b"".join(
        [
            struct.pack("<IHHII", 0x5A564647, 1, 0, len(fragments), len(ranges)),
            bits.to_bytes(-(-len(fragments) // 64) * 8, "little"),
            *(struct.pack("<qq", *r) for r in ranges),
            offsets.tobytes(),
            *(rows.tobytes() for rows in listed),
        ]
    )


def encode_manifest(chunks: Any, fragments: Sequence[int]) -> bytes:
    """Return one object's manifest: a block of mode 0 for each fragment; chunks (M, K)."""
    blocks = [struct.pack(f"<{len(c)}qBq", *c, 0, f) for c, f in zip(chunks, fragments, strict=True)]
    return struct.pack("<I", len(blocks)) + b"".join(blocks)
