"""The decoders of bytes and documents, by name: what each is fed, and what must hold of whatever it answers.

An answer to mutated input can't be compared with the truth where nothing carries a checksum: a flipped bit of a coordinate is another
coordinate. So what is checked are shapes and dtypes, that numbers are in the ranges that callers rely on, that two decoders of one
thing agree, that what is encoded again is what was read; where there is a checksum, that the answer is the original.
"""

from __future__ import annotations

import fuzz_blobs  # noqa: F401 - it registers its decoders, as the next ones do
import fuzz_cells  # noqa: F401
import fuzz_documents  # noqa: F401
import fuzz_receipts  # noqa: F401
from fuzz_base import DECODERS
from fuzz_level_decoders import LEVEL_DECODERS

__all__ = ["DECODERS", "SLOW"]

SLOW = frozenset(LEVEL_DECODERS)
"""Those that read whole stores, which takes milliseconds."""
