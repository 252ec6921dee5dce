"""Mutations of blobs and of JSON documents, seeded: what a broken disk, a bad client or an attacker may leave in a store."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

COUNTS = (0, 1, 2, 7, 8, 255, 256, 65_535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
"""What is written where a length or a count may be; -1 is the last of 32 and of 64 bits."""

HOSTILE_NAMES = (
    "..", "../../outside", "../sentinel", "/etc/passwd", "/outside", ".", "", "a//b", "a/../../b", "a\0b", "..\\..\\outside",
    "C:\\outside", "zarr.json", "c/0", "dask_zv_catalog", "__shard_000000", "x" * 300, "n" * 5000, "\u2025/\u2025",
    "\uff0e\uff0e/outside", "..\u2215outside", "vert\u0456ces", "\u202egnp.exe", "\ud800", "a\nb", "-0", "00", "1e3", "\u0661\u0662",
    "<script>alert(1)</script>", "%2e%2e/outside", "~root", "$HOME",
)  # fmt: skip
"""Names that lead out of a store, that no file system holds, or that look like others."""

_TOKENS = (
    b"[",
    b"{",
    b'"',
    b"]",
    b"}",
    b",",
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\\ud800",
)


def junk(rng: random.Random) -> Any:
    """Return a JSON value that is seldom what is wanted."""
    kind = rng.randrange(14)
    if kind < 2:
        return rng.choice((None, True, False))
    if kind < 5:
        return rng.choice(COUNTS) * rng.choice((1, 1, -1)) + rng.choice((0, 0, 1, -1))
    if kind == 5:
        return rng.choice((10**19, 10**40, 10**300, -(10**25)))
    if kind == 6:
        return rng.choice((float("nan"), float("inf"), -float("inf"), 1e308, 5e-324, -0.0, 0.5, 1e-300, -1.5))
    if kind < 9:
        return rng.choice(HOSTILE_NAMES)
    if kind == 9:
        return rng.choice(([], {}, [[]], [None], {"": None}, [{}], [[], []]))
    if kind == 10:
        value: Any = rng.choice((1, "x", None, []))
        for _ in range(rng.choice((3, 30, 300))):
            value = [value] if rng.random() < 0.5 else {"k": value}
        return value
    if kind == 11:
        return [junk(rng) for _ in range(rng.randrange(4))]
    if kind == 12:
        return {rng.choice(HOSTILE_NAMES): junk(rng) for _ in range(rng.randrange(3))}
    return rng.choice(
        ("float32", "<f8", "O", "V8", "S3", "datetime64[ns]", "f4,f4", "bytes", "0.0.0", "NaN", "zstd", "dictionary")
    )


class Mutator:
    """A source of mutated inputs; equal seeds give equal inputs; `others` are blobs to splice with."""

    def __init__(self, seed: object, others: Sequence[bytes] = ()) -> None:
        self.rng = random.Random(f"{seed}")
        self.others = list(others)

    def blob(self, data: bytes) -> bytes:
        """Return a mutated blob, by one to three mutations; it may be equal to what it was."""
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            data = self._mutate(data)
        return data

    def _mutate(self, data: bytes) -> bytes:
        rng = self.rng
        kind = rng.randrange(12)
        n = len(data)
        if kind == 0 or (not n and kind != 11):
            tail = rng.choice((b"\0", b"\0" * 8, bytes(rng.randbytes(rng.randrange(1, 33))), data[-16:], data))
            return data + tail
        if kind < 3:
            return self._flip(data)
        if kind == 3:
            return data[: rng.choice((0, 1, 4, 8, 16, n // 2, max(0, n - 1), max(0, n - 4), max(0, n - 8), rng.randrange(n)))]
        if kind == 4:
            return data[rng.choice((1, 4, 8, rng.randrange(n))) :]
        if kind < 8:
            return self._set_count(data)
        if kind == 8:  # a part again, or in another place
            start, stop = sorted((rng.randrange(n), rng.randrange(n) + 1))
            at = rng.randrange(n + 1)
            return data[:at] + data[start:stop] + data[at:]
        if kind == 9:
            start, stop = sorted((rng.randrange(n), rng.randrange(n) + 1))
            return data[:start] + data[stop:]
        if kind == 10:
            start = rng.randrange(n)
            size = rng.choice((1, 4, 8, 16, 64))
            fill = rng.choice((b"\0", b"\xff", b"\x80", b"\x7f")) * size
            return data[:start] + fill[: n - start] + data[start + size :]
        return self._splice(data)

    def _flip(self, data: bytes) -> bytes:
        out = bytearray(data)
        for _ in range(self.rng.choice((1, 1, 1, 2, 8))):
            bit = self.rng.randrange(8 * len(out))
            out[bit // 8] ^= 1 << bit % 8
        return bytes(out)

    def _set_count(self, data: bytes) -> bytes:
        rng = self.rng
        size = rng.choice((2, 4, 4, 4, 8, 8, 8))
        if len(data) < size:
            return self._flip(data)
        at = rng.randrange(len(data) - size + 1)
        if rng.random() < 0.7:  # fields are aligned, and most of them are near the start
            at = min(4 * rng.randrange(1 + min(at, 64) // 4), len(data) - size)
        value = rng.choice((*COUNTS, len(data), len(data) + 1, -(len(data)), len(data) // 8)) % (1 << 8 * size)
        return data[:at] + value.to_bytes(size, rng.choice(("little", "little", "little", "big"))) + data[at + size :]

    def _splice(self, data: bytes) -> bytes:
        rng = self.rng
        other = rng.choice(self.others) if self.others else rng.randbytes(rng.randrange(64))
        if rng.random() < 0.2:
            return other
        cut = rng.randrange(len(data) + 1)
        return data[:cut] + other[min(cut, len(other)) if rng.random() < 0.5 else rng.randrange(len(other) + 1) :]

    def document(self, data: bytes) -> bytes:
        """Return a mutated JSON document: mostly still JSON, of other values."""
        rng = self.rng
        kind = rng.randrange(20)
        if kind == 0:
            return self.blob(data)
        if kind == 1:
            return self._tokens(data)
        if kind == 2:
            depth = rng.choice((50, 1000, 100_000))
            return rng.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth))
        try:
            value = json.loads(data)
        except ValueError:
            return self.blob(data)
        value = copy.deepcopy(value)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            value = self._change(value)
        text = json.dumps(value)
        if kind == 3:
            text = self._twice(text)
        if kind == 4:
            text = text.replace(
                ": ", f': {rng.choice(("1" * 5000, "-" + "9" * 400, "1e999", "0." + "0" * 500 + "1"))}, "z": ', 1
            )
        return text.encode("utf-8", "surrogatepass")

    def _tokens(self, data: bytes) -> bytes:
        at = self.rng.randrange(len(data) + 1)
        return data[:at] + self.rng.choice(_TOKENS) + data[at + self.rng.choice((0, 1, 4)) :]

    def _twice(self, text: str) -> str:
        """Return the text of an object that has one of its keys twice, with another value."""
        rng = self.rng
        places = [i for i, c in enumerate(text) if c == "{"]
        keys = [part.partition('"')[0] for part in text.split('"')[1::2]]
        if not places or not keys:
            return text
        at = rng.choice(places) + 1
        close = "" if text[at : at + 1] == "}" else ", "
        return f"{text[:at]}{json.dumps(rng.choice(keys))}: {json.dumps(junk(rng))}{close}{text[at:]}"

    def _change(self, value: Any) -> Any:
        """Return the value with one place in it changed."""
        rng = self.rng
        places = list(_places(value))
        if not places:
            return junk(rng)
        holder, key = rng.choice(places)
        kind = rng.randrange(12)
        if kind < 5:
            holder[key] = junk(rng)
        elif kind == 5:
            del holder[key]
        elif kind == 6 and isinstance(holder, dict):
            holder[rng.choice(HOSTILE_NAMES)] = holder.pop(key)
        elif kind == 7:
            other, where = rng.choice(places)
            holder[key] = copy.deepcopy(
                other.get(where) if isinstance(other, dict) else other[where] if where < len(other) else 0
            )
        elif kind == 8 and isinstance(holder[key], str):
            holder[key] = rng.choice(
                (holder[key].upper(), holder[key] + "\0", " " + holder[key], holder[key][:-1], holder[key] * 50)
            )
        elif kind == 8 and type(holder[key]) in (int, float) and abs(holder[key]) < 2.0**53:
            holder[key] = rng.choice((holder[key] + 1, -holder[key], holder[key] * 10**9, float(holder[key]), str(holder[key])))
        elif kind == 9 and isinstance(holder, list):
            holder.insert(rng.randrange(len(holder) + 1), rng.choice((junk(rng), copy.deepcopy(holder[key]))))
        elif kind == 9 and isinstance(holder, dict):
            holder[rng.choice(HOSTILE_NAMES)] = copy.deepcopy(holder[key])
        elif kind == 10 and isinstance(holder[key], list):
            holder[key] = holder[key] * rng.choice((2, 3, 100))
        else:
            holder[key] = rng.choice(HOSTILE_NAMES)
        return value


def _places(value: Any, depth: int = 0) -> Any:
    """Yield (container, key) of everything in a JSON value that isn't nested very deeply."""
    if depth > 12:
        return
    if isinstance(value, dict):
        for key in value:
            yield value, key
        for item in value.values():
            yield from _places(item, depth + 1)
    elif isinstance(value, list):
        for i in range(len(value)):
            yield value, i
        for item in value[:50]:
            yield from _places(item, depth + 1)
