"""Decoders of blobs: fragments, manifests, groups, links; and of the names in a store."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from blob_encoders import encode_fragments, encode_manifest
from fuzz_base import FREE, Parts, decodes, from_per_chunk, spread
from fuzz_corpus import HOSTILE_NAMES

from dask_zv.errors import FormatError, InvalidNameError
from dask_zv.format import fragments, keys, links, manifests, objects


@cache
def _fragment_seeds() -> list[Parts]:
    rng = np.random.default_rng(0)
    ours: list[Any] = [
        fragments.encode_tiling([3, 0, 4]),
        fragments.encode_single(5),
        fragments.encode_tiling(rng.integers(0, 5, 130)),
        fragments.encode_tiling([]),
        encode_fragments([(0, 3), np.array([7, 5, 5]), (2, 4), np.array([], np.int64)]),
        encode_fragments([np.array([1, 0])] * 70),
    ]
    return [(b,) for b in [*ours, *spread(from_per_chunk("vertex_fragments"), 20)]]


@decodes("fragments", _fragment_seeds)
def _run_fragments(parts: Parts, seed: Parts) -> None:
    (blob,) = parts
    index = fragments.decode_fragments(blob)
    n = len(index)
    assert index.starts.shape == index.counts.shape == (n,)
    assert index.starts.dtype == index.counts.dtype == index.explicit_rows.dtype == np.int64
    assert not n or (int(index.counts.min()) >= 0 and int(index.starts.min()) >= -1)
    assert int(index.counts[index.starts < 0].sum()) == len(index.explicit_rows)
    if float((index.starts + index.counts).max(initial=0)) < 1e6 and float(index.counts.sum(dtype=float)) < 1e6 > max(
        index.explicit_rows.max(initial=0), 0
    ):
        rows = index.all_rows()
        assert len(rows) == int(index.counts.sum())
        # a reader that knows the chunk's rows accepts exactly what stays inside of them
        limit = int(rows.max()) + 1 if len(rows) else 0
        empty_beyond = bool(((index.counts == 0) & (index.starts > limit)).any())
        if not empty_beyond:
            assert len(fragments.decode_fragments(blob, n_rows=limit)) == n
        if limit:
            _expect_error(lambda: fragments.decode_fragments(blob, n_rows=limit - 1))
    _run_tilings(blob, index)


def _run_tilings(blob: bytes, index: fragments.FragmentIndex) -> None:
    total = float(index.counts.sum(dtype=float))
    found = fragments.decode_tilings([blob], np.array([int(min(total, 2**62))], np.int64))
    if found is not None:
        assert np.array_equal(found[0], index.counts)
        assert found[1].tolist() == [len(index)]
        assert (index.starts >= 0).all()


def _expect_error(call: Callable[[], object]) -> None:
    try:
        call()
    except FormatError:
        return
    raise AssertionError("a row beyond the chunk was accepted")


def _manifest_seeds() -> list[Parts]:
    blocks = struct.pack("<I", 3)
    modes = blocks + struct.pack("<3qBq", 0, -1, 2, 0, 4) + struct.pack("<3qBqq", 1, 1, 1, 1, 3, 5)
    modes += struct.pack("<3qBI3q", 0, 0, 0, 2, 3, 7, 1, 7)
    single = encode_manifest([[0, 1, 2], [0, -1, 2], [5, 5, 5]], [0, 3, 1])
    return [(modes,), (single,), (encode_manifest(np.zeros((40, 3), int), range(40)),), (b"\0\0\0\0",), (b"",)]


@decodes("manifests", _manifest_seeds, ratio=10_000, free=3 * FREE)
def _run_manifest(parts: Parts, seed: Parts) -> None:
    chunks, numbers = manifests.decode_manifest(parts[0], 3)
    assert chunks.shape == (len(numbers), 3)
    assert chunks.dtype == numbers.dtype == np.int64
    assert not len(numbers) or int(numbers.min()) >= 0
    rows, same, fragment = manifests.decode_manifests([seed[0], parts[0], b"", parts[0]], 3)
    before = len(manifests.decode_manifest(seed[0], 3)[1])
    assert np.array_equal(same[before : before + len(numbers)], chunks)
    assert np.array_equal(fragment[before + len(numbers) :], numbers)
    assert np.array_equal(np.bincount(rows, minlength=4), [before, len(numbers), 0, len(numbers)])


def _group_seeds() -> list[Parts]:
    found = list(zip(from_per_chunk("groups/data"), from_per_chunk("groups/offsets"), strict=False))
    ours = [objects.encode_groups(m) for m in ([[4, 7], [], [1]], [], [[]], [range(50)] * 3)]
    return [*ours, *[f for f in found if _is_decodable(*f)]]


def _is_decodable(*pair: bytes) -> bool:
    try:
        objects.decode_groups(*pair)
    except FormatError:
        return False
    return True


@decodes("groups 0.7", _group_seeds, "bb")
def _run_groups(parts: Parts, seed: Parts) -> None:
    data, offsets = parts
    found = objects.decode_groups(data, offsets)
    assert len(found) == len(offsets) // 8
    assert all(g.dtype == np.int64 and (not len(g) or int(g.min()) >= 0) for g in found)
    assert b"".join(g.astype("<i8").tobytes() for g in found) == data
    elements = objects.decode_group_elements([data, offsets[:0], data], {})
    assert [len(g) for g in elements] == [len(data) // 8, 0, len(data) // 8]


def _group_element_seeds() -> list[Parts]:
    ranges = json.dumps({"1": [0, 5], "0": [7, 7], "2": [3, 100]}).encode()
    return [(np.arange(4).astype("<i8").tobytes(), ranges), (b"", b"{}")]


@decodes("groups 0.9", _group_element_seeds, "bj")
def _run_group_elements(parts: Parts, seed: Parts) -> None:
    try:
        ranges = json.loads(parts[1])
    except (ValueError, RecursionError):
        return
    found = objects.decode_group_elements([parts[0], b"", b""], ranges)
    assert len(found) == 3
    assert all(g.dtype == np.int64 and g.ndim == 1 and (not len(g) or int(g.min()) >= 0) for g in found)


def _link_seeds() -> list[Parts]:
    rows = np.arange(12).reshape(-1, 3)
    two = np.array([2, 0, 24], "<i8").tobytes() + np.arange(6).astype("<i8").tobytes()
    return [(links.encode_ragged(rows),), (two,), (links.encode_ragged(rows[:0]),), (rows.astype("<i8").tobytes(),), (b"",)]


@decodes("link cells", _link_seeds)
def _run_links(parts: Parts, seed: Parts) -> None:
    (blob,) = parts
    problems = 0
    for width, dtype in ((3, "<i8"), (2, "<i4"), (1, "<u2")):
        try:
            rows, counts = links.decode_ragged(blob, width, dtype)
            assert rows.shape == (int(counts.sum()), width)
            assert rows.dtype == np.int64
            codes = links.permutations(rows[:, 0], 3)
            assert (np.sort(codes, axis=1) == np.arange(3)).all()
            assert np.array_equal(links.lehmer_codes(codes), rows[:, 0])
        except FormatError:
            problems += 1
        try:
            flat = links.decode_flat(blob, width, dtype)
            assert flat.shape == (len(blob) // (width * np.dtype(dtype).itemsize), width)
            assert flat.dtype == np.int64
        except FormatError:
            problems += 1
    if problems == 6:
        raise FormatError("none of the shapes fits")


def _name_seeds() -> list[Parts]:
    names = ("self", "0.0.0", "+1.0.-2", "0.0.0_+1.-1.0", "+12.0.0_-9.0.0_0.0.+1", "0", "-1", "+2", "0.-1.2", "12.0.7", "data")
    return [(n.encode(),) for n in (*names, *(h for h in HOSTILE_NAMES if h.isascii()))]


@decodes("names and keys", _name_seeds)
def _run_names(parts: Parts, seed: Parts) -> None:
    """Names of segments, levels, chunks and nodes: what is accepted names one place below its group, and only one."""
    text = parts[0].decode("utf-8", "surrogateescape")
    problems = 0
    for parse in (lambda: links.parse_segment(text, 3), lambda: links.parse_delta(text), lambda: keys.parse_key(text)):
        try:
            found = parse()
        except (FormatError, InvalidNameError):
            problems += 1
            continue
        if isinstance(found, int):
            assert links.delta_name(found) == text
        elif isinstance(found, tuple):
            assert keys.format_key(found) in (text, text.replace("-0", "0"))
            assert all(abs(c) < 2**63 for c in found)
        else:
            assert found.shape[1:] == (3,)
            assert links.segment_name(found) == text
    for check in (keys.check_chunk_key, keys.check_name):
        try:
            check(text)
        except InvalidNameError:
            problems += 1
            continue
        parts_of = text.split("/")
        assert not {"", ".", "..", "zarr.json"} & set(parts_of)
        assert "\0" not in text
        assert "\\" not in text
        text.encode()
    if problems == 5 and parts != seed:
        raise InvalidNameError("no name of anything")
