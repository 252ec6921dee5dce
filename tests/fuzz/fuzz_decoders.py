"""The decoders of bytes and documents, by name: what each is fed, and what must hold of whatever it answers.

An answer to mutated input can't be compared with the truth where nothing carries a checksum: a flipped bit of a coordinate is
another coordinate. So each entry says what is checked: shapes and dtypes, that numbers are in the ranges that callers rely on,
that two decoders of one thing agree, that what is encoded again is what was read; where there is a checksum, that the answer is
the original.
"""

from __future__ import annotations

from fuzz_base import Decoder
from fuzz_blobs import BLOB_DECODERS
from fuzz_cells import CELL_DECODERS
from fuzz_documents import DOCUMENT_DECODERS
from fuzz_level_decoders import LEVEL_DECODERS
from fuzz_receipts import RECEIPT_DECODERS

__all__ = ["DECODERS", "SLOW"]

DECODERS: dict[str, Decoder] = {
    d.name: d for d in (*BLOB_DECODERS, *DOCUMENT_DECODERS, *CELL_DECODERS, *RECEIPT_DECODERS, *LEVEL_DECODERS)
}
"""Every decoder by name."""

SLOW = frozenset(d.name for d in LEVEL_DECODERS)
"""Those that read whole stores, which takes milliseconds."""
