"""What a decoder is to the fuzzer, and where its inputs come from."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
from fuzz_corpus import Mutator
from fuzz_stores import golden, golden_names

from dask_zv.format.documents import parse_blob_document, parse_document
from dask_zv.storage.codecs import unpack_zstd

Parts = tuple[bytes, ...]
FREE = 64 << 20
"""Bytes that a decoder may take whatever its input is; beyond them at most `Decoder.ratio` times the input's length."""
PACKED = 1 << 16
"""Zstandard and Blosc pack constant data some ten thousand times: so much a compressed frame may unpack to."""


@dataclass(frozen=True)
class Decoder:
    """One decoder."""

    name: str
    seeds: Callable[[], Sequence[Parts]]  # valid inputs, each a tuple of blobs
    run: Callable[
        [Parts, Parts], object
    ]  # decodes an input (beside its seed); AssertionError where the answer breaks a promise
    kinds: str = "b"  # for each blob of an input how it is mutated: "b" as bytes, "j" as JSON, "-" not at all
    # corrects checksums of a mutated input, so that what lies behind them is reached; used for two inputs of three
    refit: Callable[[Parts, Parts, random.Random], Parts] | None = None
    ratio: int = 100
    free: int = FREE  # more where a payload is unpacked and then taken out of its frame

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


DECODERS: dict[str, Decoder] = {}
"""Every decoder by name."""


def decodes(name: str, seeds: Callable[[], Sequence[Parts]], kinds: str = "b", **how: Any) -> Callable[[Any], Any]:
    """Let the function below be the decoder of a name."""

    def register(run: Any) -> Any:
        DECODERS[name] = Decoder(name, seeds, run, kinds, **how)
        return run

    return register


def split_payload(payload: bytes) -> Parts:
    """Return (magic and version, header, arrays) of a catalog or a receipt, without the length and the checksum."""
    end = 12 + int.from_bytes(payload[8:12], "little")
    return payload[:8], payload[12:end], payload[end:-4]


def join_payload(parts: Parts) -> bytes:
    """Return the payload of the parts, with the length and the checksum that fit."""
    body = parts[0] + len(parts[1]).to_bytes(4, "little") + parts[1] + parts[2]
    return body + int(google_crc32c.value(body)).to_bytes(4, "little")


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
