"""The stores of trials: as they are before a write, as it leaves them when nobody dies, and what readers make of both."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from points_reference import files, stored

from kills import programs
from kills.inputs import CASES
from kills.processes import end, start
from kills.readers import Reader

_PATIENCE = 180.0


@dataclass(frozen=True)
class Prepared:
    """A case, made ready."""

    before: Path  # the store as the write finds it,
    whole: Path  # and as the write leaves it
    known: dict[str, dict[str, str]]  # digests of "old" (where there is one) and "new", by reader and way to read
    events: dict[str, list[dict[str, Any]]]  # of the uninterrupted "write"; of the "run" and the "commit" of a plan


class Stores:
    """Cases that are made ready when they are first asked for: with `planned` with the events of a plan."""

    def __init__(self, folder: Path, readers: Sequence[Reader]) -> None:
        self._folder, self._readers = folder, readers
        self._made = functools.cache(self._make)

    def get(self, name: str, planned: bool = False) -> Prepared:
        return self._made(name, planned)

    def _make(self, name: str, planned: bool) -> Prepared:
        folder = self._folder / f"{name.replace(' ', '-')}{'-planned' * planned}"
        before, whole = folder / "before" / "s.zv", folder / "whole" / "s.zv"
        before.parent.mkdir(parents=True)
        run_program(folder, "prepare", programs.prepare, str(folder), name, str(before))
        shutil.copytree(before, whole)
        known: dict[str, dict[str, str]] = {}
        self._learn(known, "old", before)
        events = {}
        steps: list[tuple[str, Any, tuple[Any, ...]]] = [("write", programs.write, (name, str(whole), "sync"))]
        if planned:
            run_program(folder, "planned", programs.plan, str(folder), name, str(whole))
            steps = [("run0", programs.run_blocks, ()), ("commit", programs.commit, ())]
        for step, program, args in steps:
            arm(folder, {})
            run_program(folder, step, program, str(folder), *args)
            events[step.rstrip("0")] = events_of(folder)
            arm(folder, None)
        self._learn(known, "new", whole)
        # who sees no difference does not know the layout, and nothing can be told by its looks
        known = {way: found for way, found in known.items() if len(found) == 2 and found["old"] != found["new"]}
        if not CASES[name].before:
            known = {way: {"new": found["new"]} for way, found in known.items()}
        return Prepared(before, whole, known, events)

    def _learn(self, known: dict[str, dict[str, str]], content: str, target: Path) -> None:
        for reader in self._readers:
            for way, found in reader.know(target).items():
                known.setdefault(f"{reader.name} {way}", {})[content] = found


def arm(folder: Path, moments: dict[int, dict[str, Any]] | None, pause: float = 0.0) -> None:
    """Begin to count events in a folder, and say at which of them whom to kill; with None nothing is counted any more."""
    for name in ("counter", "events", "struck", "moments.json"):
        folder.joinpath(name).unlink(missing_ok=True)
    if moments is not None:
        folder.joinpath("moments.json").write_text(json.dumps({"at": moments, "pause": pause}))
        folder.joinpath("counter").touch()


def events_of(folder: Path, name: str = "events") -> list[dict[str, Any]]:
    """Return the events that were counted, or the kills that were struck."""
    path = folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def outcome_of(folder: Path, name: str) -> dict[str, Any] | None:
    """Return how a program said that it ended, None where it did not come to that."""
    path = folder / name
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return found


def run_program(folder: Path, name: str, program: Any, *args: Any, must: bool = True, **more: Any) -> dict[str, Any]:
    """Run a program to its end and return how it ended; raises where it `must` succeed and does not."""
    folder.joinpath(name).unlink(missing_ok=True)
    process = start(program, *args, **more)
    process.join(_PATIENCE)
    found = outcome_of(folder, name)
    if found is None:
        found = {"outcome": "hangs" if process.is_alive() else f"killed ({process.exitcode})"}
    end(process)
    if must and found["outcome"] != "done":
        raise RuntimeError(f"{name} of {folder.name} ended so: {found.get('trace', found)}")
    return found


def differences(one: Path, other: Path) -> tuple[list[str], int]:
    """Return the names of what differs between two stores but for times of change, and how many files of `one` are half-written."""
    ones, others = _comparable(one), _comparable(other)
    temporary = [name for name in ones if name.endswith(".partial")]
    for name in temporary:
        ones.pop(name)
    return sorted(n for n in ones.keys() | others.keys() if ones.get(n) != others.get(n)), len(temporary)


def _comparable(target: Path) -> dict[str, Any]:
    found: dict[str, Any] = {n: b"" for n in files(target) if "dask_zv_catalog" in n}  # there, whatever times they hold
    found |= stored(target)
    documents = {n: json.loads(data) for n, data in found.items() if n.endswith("zarr.json") and data}
    return {**found, **documents}
