"""Trials of two clients that write into one level at the same time, each a process of its own."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import storage_cases as cases
from fault_server import FaultServer
from storage_programs import ARRAYS, payload
from storage_trials import is_clear

import dask_zv as dzv

__all__ = ["PLACES", "SCENARIOS", "Process", "WriterTrial", "Writers", "two_writers"]

PLACES = ("local", "obstore", "s3fs")
SCENARIOS = (
    "disjoint blocks",
    "the same blocks",
    "the same level",
    "the same level, resume",
    "a level replaced twice",
    "plans",
)


class Process:
    """A process of storage_programs.py."""

    def __init__(self, *arguments: str) -> None:
        program = str(Path(__file__).with_name("storage_programs.py"))
        self._process = subprocess.Popen(
            [sys.executable, program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._ready = False

    def wait_ready(self) -> None:
        if not self._ready:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            if line != "ready\n":
                raise RuntimeError(f"the program did not start: {line!r}, exit status {self._process.wait(10)}")
            self._ready = True

    def begin(self, do: str, **job: Any) -> None:
        """Hand a job over."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **job}) + "\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """Return how it went."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the program has ended with exit status {self._process.wait(10)}")
        found: dict[str, Any] = json.loads(line)
        return found

    def run(self, do: str, **job: Any) -> dict[str, Any]:
        self.wait_ready()
        self.begin(do, **job)
        return self.end()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def two_writers() -> Iterator[tuple[Process, Process]]:
    """Run two of them for the length of a ``with`` block."""
    processes = Process(), Process()
    try:
        for process in processes:
            process.wait_ready()
        yield processes
    finally:
        for process in processes:
            process.close()


@dataclass
class WriterTrial:
    """What came of one.

    Attributes
    ----------
    scenario, place, kind : of what
    seed : int
    outcomes, messages : list of str
        Of both writers: "done" or the error's name, and what it says.
    seconds : list of float
    seen : str
        What a reader finds then.
    healed : str
        What comes of writing again where that was refused or the level is no longer whole.
    complaints : list of str
        What should not be.
    """

    scenario: str
    place: str
    kind: str
    seed: int
    outcomes: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    seen: str = ""
    healed: str = ""
    complaints: list[str] = field(default_factory=list)


class Writers:
    """Trials with two processes and two kinds of storage."""

    def __init__(self, processes: tuple[Process, Process], server: FaultServer, folder: Path) -> None:
        self.processes = processes
        self.server = server
        self.folder = folder
        self._known: dict[tuple[str, int], list[Any]] = {}

    def trial(self, scenario: str, place: str, seed: int, kind: str = "points") -> WriterTrial:
        """Run one and judge what came of it."""
        rng = random.Random(f"{scenario} {place} {seed}")
        trial = WriterTrial(scenario, place, kind, seed)
        target, options = self._place(place)
        cases.make(kind, target, options)
        where = {"target": target, "options": options, "client": place, "kind": kind}
        if scenario in ("disjoint blocks", "the same blocks"):
            self._blocks(trial, where, rng)
        elif scenario == "plans":
            self._plans(trial, where)
        else:
            self._level(trial, where, rng)
        for outcome, message in zip(trial.outcomes, trial.messages, strict=True):
            if outcome != "done":
                url = target if place == "local" else target.replace("s3://", "")
                trial.complaints += [f"the error {w}: {message}" for w in is_clear(dzv.PlanError(message), url)]
        return trial

    def _place(self, place: str) -> tuple[str, Mapping[str, Any] | None]:
        if place == "local":
            shutil.rmtree(self.folder / "s.zv", ignore_errors=True)
            return str(self.folder / "s.zv"), None
        self.server.faults()
        self.server.clear()
        return cases.URL, self.server.storage_options

    def known(self, kind: str, seed: int) -> list[Any]:
        """Return what a reader finds where a seed was written alone."""
        if (kind, seed) not in self._known:
            folder = self.folder / "alone.zv"
            shutil.rmtree(folder, ignore_errors=True)
            cases.write(kind, cases.make(kind, str(folder), None), seed)
            self._known[kind, seed] = cases.rows_of(dzv.open(str(folder)))
        return self._known[kind, seed]

    def _both(self, trial: WriterTrial, do: str, *jobs: dict[str, Any]) -> None:
        for process, job in zip(self.processes, jobs, strict=True):
            process.begin(do, **job)
        for process in self.processes:
            self._note(trial, process.end())

    def _note(self, trial: WriterTrial, answer: dict[str, Any]) -> None:
        trial.outcomes.append(answer["outcome"])
        trial.messages.append(answer["message"])
        trial.seconds.append(answer["seconds"])
        if not answer.get("is ours", True):
            trial.complaints.append(f"no ZVError: {answer}")

    # ------------------------------------------------------------------------------------------ blocks

    def _blocks(self, trial: WriterTrial, where: dict[str, Any], rng: random.Random) -> None:
        """Rounds of chunks of each writer; some chunks were committed by a third before."""
        open_now = {"storage_options": where["options"] if trial.place != "local" else None}
        group = dzv.open(where["target"], mode="r+", **open_now).level(0).group
        before = ["5.5", "5.4", "4.5"]
        with group.batched_writes():
            for key in before:
                for array in ARRAYS:
                    group.write_bytes(array, key, payload(array, key, 9))
        same = trial.scenario == "the same blocks"
        # shards are of 2 x 2 chunks in packed stores: writers that share none have rows of shards of their own
        rounds = [
            [[f"{0 if same else 2 * who}.{2 * r}", f"{1 if same else 2 * who + 1}.{2 * r + 1}"] for r in range(2)]
            for who in range(2)
        ]
        jobs = [
            {**where, "rounds": rounds[who], "who": who, "pause": rng.uniform(0, 0.05), "wait": rng.uniform(0, 0.05)}
            for who in range(2)
        ]
        self._both(trial, "batches", *jobs)
        done = [who for who in range(2) if trial.outcomes[who] == "done"]
        wanted: dict[str, set[int]] = {key: {9} for key in before}
        for who in range(2):
            for key in (k for keys in rounds[who] for k in keys):
                wanted.setdefault(key, set()).add(who)
        listed_by_all = set(before).union(k for who in done for keys in rounds[who] for k in keys)
        group = dzv.open(where["target"], **open_now).level(0).group
        writers: dict[str, list[Any]] = {}
        for array in ARRAYS:
            listed = set(group.list_chunks(array))
            if not listed_by_all <= listed:
                trial.complaints.append(f"committed chunks that {array} does not list: {sorted(listed_by_all - listed)}")
            for key in sorted(listed):
                try:
                    data = group.read_bytes(array, key)
                except dzv.ZVError as error:
                    writers.setdefault(key, []).append(type(error).__name__)
                    continue
                by = [who for who in wanted.get(key, ()) if data == payload(array, key, who)]
                writers.setdefault(key, []).append(by[0] if by else "WRONG")
        for key, by in writers.items():
            if "WRONG" in by:
                trial.complaints.append(f"chunk {key} holds what nobody wrote")
            if not same and any(isinstance(w, str) for w in by):
                trial.complaints.append(f"chunk {key} can't be read: {by}")
        if not same and trial.outcomes != ["done", "done"]:
            trial.complaints.append("writers of blocks that have nothing in common were refused")
        mixed = sorted(key for key, by in writers.items() if len(set(map(str, by))) > 1)
        trial.seen = "all chunks" if not mixed else f"mixed: {', '.join(mixed)}"

    # ------------------------------------------------------------------------------------------ levels

    def _level(self, trial: WriterTrial, where: dict[str, Any], rng: random.Random) -> None:
        """Both write the whole level."""
        options = where["options"]
        settings: dict[str, Any] = {"resume": trial.scenario.endswith("resume")}
        known = {str(seed): self.known(trial.kind, seed) for seed in (1, 2)}
        if trial.scenario == "a level replaced twice":
            cases.write(trial.kind, dzv.open(where["target"], mode="r+", storage_options=options), 3)
            known["3"] = self.known(trial.kind, 3)
            settings["mode"] = "overwrite"
        jobs = [
            {**where, **settings, "seed": seed, "pause": rng.uniform(0, 0.2), "wait": rng.uniform(0, 0.2)} for seed in (1, 2)
        ]
        self._both(trial, "write", *jobs)
        trial.seen = cases.look(where["target"], options, known)
        if "done" not in trial.outcomes:
            trial.complaints.append("nobody has finished")
        if trial.seen in ("WRONG", "empty"):
            trial.complaints.append(f"a reader gets: {trial.seen}")
        self._heal(trial, where, options)

    def _heal(self, trial: WriterTrial, where: dict[str, Any], options: Any) -> None:
        cases.write(trial.kind, dzv.open(where["target"], mode="r+", storage_options=options), 2, mode="overwrite")
        trial.healed = cases.look(where["target"], options, {"2": self.known(trial.kind, 2)})
        if trial.healed != "2":
            trial.complaints.append(f"a level that was written again is {trial.healed}")

    def _plans(self, trial: WriterTrial, where: dict[str, Any]) -> None:
        """One plans; another writes the level; the first runs its plan."""
        one, other = self.processes
        answers = [one.run("plan", **where, seed=1), other.run("write", **where, seed=2)]
        answers.append(one.run("run"))
        if answers[-1]["outcome"] == "done":
            answers.append(one.run("commit"))
        self._note(trial, answers[1])
        self._note(trial, answers[-1])
        known = {str(seed): self.known(trial.kind, seed) for seed in (1, 2)}
        trial.seen = cases.look(where["target"], where["options"], known)
        if trial.outcomes != ["done", "PlanError"]:
            trial.complaints.append("the second was not found out")
        if trial.seen == "WRONG":
            trial.complaints.append("a reader gets: WRONG")
        self._heal(trial, where, where["options"])
