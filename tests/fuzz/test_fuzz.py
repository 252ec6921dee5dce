"""Every decoder on mutated inputs, in a process whose memory is limited: a right answer or a ZVError, in time.

This is the short profile: a few seconds, other inputs than those of the long one (`ci/fuzz`), which has the same decoders.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import fuzz_run
import pytest
from fuzz_corpus import HOSTILE_NAMES, Mutator
from fuzz_decoders import DECODERS, SLOW
from fuzz_run import Outcome, fuzz

import dask_zv.format
from dask_zv.errors import FormatError

INPUTS, SLOWER = 64, 8


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """What becomes of some inputs of every decoder, by name."""
    script = Path(__file__).with_name("fuzz_run.py")
    command = [sys.executable, str(script), "--together", "--inputs", str(INPUTS), "--slower", str(SLOWER), "--seed", "short"]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.stdout, f"the process ended with status {done.returncode}: {done.stderr[-3000:]}"
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return {o["name"]: Outcome(**o) for o in found}


@pytest.mark.parametrize("name", list(DECODERS))
def test_mutated_inputs_end_in_a_right_answer_or_a_zv_error(name, outcomes):
    found = outcomes[name]
    assert not found.failures, "\n".join(found.failures)
    assert found.inputs == INPUTS // (SLOWER if name in SLOW else 1)
    assert found.right + found.errors == found.inputs
    assert found.right, "no input was decoded: the seeds are no seeds"
    assert found.errors, "no input was refused: nothing is mutated"


@pytest.mark.long
@pytest.mark.parametrize("name", list(DECODERS))
def test_more_inputs(name, tmp_path):
    found = fuzz(DECODERS[name], 400 if name in SLOW else 5000, "longer", save=tmp_path)
    assert not found.failures, "\n".join(found.failures)


NO_DECODERS = {
    "documents.wrong": "makes the error",
    "documents.dump_json": "writes",
    "documents.parse_blob_document": "by those that read stores, in other threads",
    "grids.codec_list": "writes",
}


def test_every_decoder_of_the_format_is_fed():
    """Whatever function of the format refuses what it reads, one of DECODERS calls it: a new one has to be among them."""
    folder = Path(dask_zv.format.__file__).parent
    refusing = set()
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        owners = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
        for function in (f for owner in owners for f in owner.body if isinstance(f, ast.FunctionDef)):
            calls = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
            if calls & {"FormatError", "MetadataError"}:
                refusing.add(f"{path.stem}.{function.name}")
    called = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(folder)):
            called.add(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")

    for decoder in (decoder for name, decoder in DECODERS.items() if name not in SLOW):
        seeds = decoder.seeds()[:12]
        sys.setprofile(note)
        try:
            for seed in seeds:
                decoder.run(seed, seed)
        finally:
            sys.setprofile(None)
    assert len(refusing) > 40
    assert refusing - called == set(NO_DECODERS)


def test_equal_seeds_give_equal_inputs():
    decoder = DECODERS["catalog"]
    seed = decoder.seeds()[0]
    first = [decoder.mutate(seed, Mutator(f"a-{i}", seed)) for i in range(50)]
    again = [decoder.mutate(seed, Mutator(f"a-{i}", seed)) for i in range(50)]
    other = [decoder.mutate(seed, Mutator(f"b-{i}", seed)) for i in range(50)]
    assert first == again != other
    assert len(set(first)) > 40


def test_documents_get_every_kind_of_change():
    """Numbers, types, depth, names, keys twice: each is among a thousand documents."""
    document = json.dumps({"a": [1, 2, {"b": "x"}], "c": {"d": 1.5, "e": True}}).encode()
    texts = [Mutator(i).document(document).decode("utf-8", "replace") for i in range(3000)]
    for part in ("NaN", "Infinity", str(2**63 - 1), str(2**31), "[[[", "../", "null", "\\u0000", "1e999"):
        assert any(part in t for t in texts), f"no document has {part!r}"
    assert any(any(json.dumps(n)[1:-1] in t for t in texts) for n in HOSTILE_NAMES)

    def has_twice(text: str) -> bool:
        found: list[bool] = []
        try:
            json.loads(text, object_pairs_hook=lambda pairs: found.append(len(dict(pairs)) < len(pairs)))
        except (ValueError, RecursionError, TypeError):
            return False
        return any(found)

    assert any(map(has_twice, texts))


def test_what_is_wrong_is_found_and_saved(tmp_path, capsys):
    """A decoder that crashes, one that hangs, and one that tells lies."""

    def broken(parts: tuple[bytes, ...], seed: tuple[bytes, ...]) -> None:
        if parts != seed:
            if len(parts[0]) < len(seed[0]):
                raise FormatError("short")
            if len(parts[0]) > len(seed[0]):
                raise IndexError("beyond")
            raise AssertionError("another answer")

    decoder = dataclasses.replace(DECODERS["cell frame"], run=broken)
    found = fuzz(decoder, 400, 0, save=tmp_path)
    assert any("IndexError" in f for f in found.failures)
    assert any("another answer" in f for f in found.failures)
    assert found.errors
    saved = sorted(tmp_path.iterdir())
    assert len(saved) == len(found.failures)
    before = DECODERS["cell frame"]
    DECODERS["cell frame"] = decoder
    try:
        assert fuzz_run.replay(saved[0]) == 1
    finally:
        DECODERS["cell frame"] = before
    assert "IndexError" in capsys.readouterr().out or "another answer" in saved[0].read_text()

    def hangs(parts: tuple[bytes, ...], seed: tuple[bytes, ...]) -> None:
        while parts != seed:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuzz_run, "SECONDS", 0.02)
        found = fuzz(dataclasses.replace(decoder, run=hangs), 3, 0)
    assert len(found.failures) == 3
    assert "0.02 s" in found.failures[0]
