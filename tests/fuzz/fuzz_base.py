"""What a decoder is to the fuzzer, and where its inputs come from."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fuzz_corpus import Mutator
from fuzz_stores import golden, golden_names

from dask_zv.format.documents import parse_blob_document, parse_document
from dask_zv.storage.codecs import unpack_zstd

__all__ = ["FREE", "PACKED", "Decoder", "Parts", "attributes_of", "from_per_chunk", "node_of", "spread"]


Parts = tuple[bytes, ...]
FREE = 64 << 20
"""Bytes that a decoder may take whatever its input is; beyond them at most `Decoder.ratio` times the input's length."""
PACKED = 1 << 16
"""Zstandard and Blosc pack constant data some ten thousand times: so much a compressed frame may unpack to."""


@dataclass(frozen=True)
class Decoder:
    """One decoder.

    Attributes
    ----------
    name : str
    seeds : function
        Returns valid inputs, each a tuple of blobs.
    run : function
        Decodes an input, and raises AssertionError where the answer breaks a promise; it is given the seed as well.
    kinds : str
        For each blob of an input how it is mutated: "b" as bytes, "j" as JSON, "-" not at all.
    refit : function, optional
        Corrects checksums of a mutated input, so that what lies behind them is reached; used for two inputs of three.
    ratio, free : int
        See :data:`FREE`; more is free where a payload is unpacked and then taken out of its frame.
    """

    name: str
    seeds: Callable[[], Sequence[Parts]]
    run: Callable[[Parts, Parts], object]
    kinds: str = "b"
    refit: Callable[[Parts, Parts, random.Random], Parts] | None = None
    ratio: int = 100
    free: int = FREE

    def mutate(self, seed: Parts, mutator: Mutator) -> Parts:
        """Return a mutated input; one in a hundred is the seed itself, which must be decoded."""
        rng = mutator.rng
        if rng.random() < 0.01:
            return seed
        free = [i for i, kind in enumerate(self.kinds) if kind != "-"]
        which = {rng.choice(free)} | ({rng.choice(free)} if rng.random() < 0.2 else set())
        parts = tuple(
            part if i not in which else mutator.document(part) if kind == "j" else mutator.blob(part)
            for i, (part, kind) in enumerate(zip(seed, self.kinds, strict=True))
        )
        return parts if self.refit is None or rng.random() < 0.33 else self.refit(parts, seed, rng)

    def bound(self, parts: Parts) -> int:
        """Return the bytes that decoding an input may take."""
        return self.free + self.ratio * sum(map(len, parts))


def spread(blobs: Sequence[bytes], n: int = 40) -> list[bytes]:
    """Return distinct blobs, `n` at most, short ones and long ones."""
    distinct = sorted(set(blobs), key=len)
    return [distinct[i] for i in sorted({round(j * (len(distinct) - 1) / max(1, n - 1)) for j in range(n)})] if distinct else []


def from_per_chunk(array: str) -> list[bytes]:
    """Return the raw blobs of an array in all golden stores of generation 0.7."""
    out: list[bytes] = []
    for name in golden_names():
        if name.startswith("0.7/"):
            files = golden(name)
            for path, data in files.items():
                if f"/{array}/" in f"/{path}" and path.endswith("/c/0") and "__shard" not in path:
                    document = parse_blob_document(files[f"{path[:-4]}/zarr.json"], path)
                    if document is not None and document.raw:
                        out.append(data)
                    elif document is not None and document.zstd:
                        out.append(unpack_zstd(data, document.nbytes))
    return out


def node_of(attributes: Any) -> bytes:
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}).encode()


def attributes_of(data: bytes) -> Any:
    return parse_document(data, "x").get("attributes", {})
