"""Arbitrary bytes and JSON, from hypothesis: no decoder ends otherwise than in an answer that holds, or a ZVError."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from fuzz_decoders import DECODERS, SLOW
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sampling import examples

from dask_zv.errors import ZVError

SETTINGS = settings(max_examples=examples(6, 300), deadline=None, suppress_health_check=list(HealthCheck))

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12
)


def _parts(kinds: str, seed: tuple[bytes, ...], data: st.DataObject) -> tuple[bytes, ...]:
    out: list[bytes] = []
    for kind, part in zip(kinds, seed, strict=True):
        if kind == "b":
            out.append(
                data.draw(st.binary(max_size=200) | st.binary(max_size=40).map(lambda b, part=part: part[: len(part) // 2] + b))
            )
        elif kind == "j":
            out.append(data.draw(st.binary(max_size=60) | values.map(lambda v: json.dumps(v).encode()) | _merged(part)))
        else:
            out.append(part)
    return tuple(out)


def _merged(part: bytes) -> st.SearchStrategy[bytes]:
    """Return the documents that a valid one gives with some of its values drawn."""
    document: Any = json.loads(part)
    if not isinstance(document, dict) or not document:
        return values.map(lambda v: json.dumps(v).encode())
    keys = st.sampled_from(sorted(document))
    return st.dictionaries(keys, values, min_size=1, max_size=2).map(lambda d: json.dumps({**document, **d}).encode())


@pytest.mark.parametrize("name", [n for n in DECODERS if n not in SLOW])
@SETTINGS
@given(data=st.data())
def test_arbitrary_input(name, data):
    decoder = DECODERS[name]
    seed = data.draw(st.sampled_from(list(decoder.seeds())))
    parts = _parts(decoder.kinds, seed, data)
    with contextlib.suppress(ZVError):
        decoder.run(parts, seed)
