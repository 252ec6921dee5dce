"""Trials of two clients that write into one level at the same time, each a process of its own."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import storage_cases as cases
from fault_server import FaultServer
from line_process import LineProcess
from storage_programs import ARRAYS, payload
from storage_trials import is_clear

import dask_zv as dzv

PLACES = ("local", "obstore", "s3fs")
SCENARIOS = (
    "disjoint blocks",
    "the same blocks",
    "the same level",
    "the same level, resume",
    "a level replaced twice",
    "plans",
)
PROGRAM = Path(__file__).with_name("storage_programs.py")


@contextmanager
def two_writers() -> Iterator[tuple[LineProcess, LineProcess]]:
    """Run two writing processes for the length of a ``with`` block."""
    with closing(LineProcess(PROGRAM)) as one, closing(LineProcess(PROGRAM)) as other:
        for process in (one, other):
            process.hear()
        yield one, other


@dataclass
class WriterTrial:
    """What came of one."""

    scenario: str
    place: str
    kind: str
    seed: int
    outcomes: list[str] = field(default_factory=list)  # of both writers: "done" or the error's name,
    messages: list[str] = field(default_factory=list)  # and what it says
    seconds: list[float] = field(default_factory=list)
    seen: str = ""  # what a reader finds then
    healed: str = ""  # what comes of writing again where that was refused or the level is no longer whole
    complaints: list[str] = field(default_factory=list)  # what should not be


class Writers:
    """Trials with two processes and two kinds of storage."""

    def __init__(self, processes: tuple[LineProcess, LineProcess], server: FaultServer, folder: Path) -> None:
        self.processes, self.server, self.folder = processes, server, folder
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
            process.tell(do=do, **job)
        for process in self.processes:
            self._note(trial, process.hear())

    @staticmethod
    def _delays(rng: random.Random, most: float) -> dict[str, float]:
        return {"pause": rng.uniform(0, most), "wait": rng.uniform(0, most)}

    def _note(self, trial: WriterTrial, answer: dict[str, Any]) -> None:
        trial.outcomes.append(answer["outcome"])
        trial.messages.append(answer["message"])
        trial.seconds.append(answer["seconds"])
        if not answer.get("is ours", True):
            trial.complaints.append(f"no ZVError: {answer}")

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
        first = [0, 0] if same else [0, 2]
        rounds = [[[f"{row}.{2 * r}", f"{row + 1}.{2 * r + 1}"] for r in range(2)] for row in first]
        jobs = [{**where, "rounds": rounds[who], "who": who, **self._delays(rng, 0.05)} for who in range(2)]
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

    def _level(self, trial: WriterTrial, where: dict[str, Any], rng: random.Random) -> None:
        """Both write the whole level."""
        options = where["options"]
        settings: dict[str, Any] = {"resume": trial.scenario.endswith("resume")}
        known = {str(seed): self.known(trial.kind, seed) for seed in (1, 2)}
        if trial.scenario == "a level replaced twice":
            cases.write(trial.kind, dzv.open(where["target"], mode="r+", storage_options=options), 3)
            known["3"] = self.known(trial.kind, 3)
            settings["mode"] = "overwrite"
        self._both(trial, "write", *({**where, **settings, "seed": seed, **self._delays(rng, 0.2)} for seed in (1, 2)))
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
        answers = [one.ask(do="plan", **where, seed=1), other.ask(do="write", **where, seed=2), one.ask(do="run")]
        if answers[-1]["outcome"] == "done":
            answers.append(one.ask(do="commit"))
        self._note(trial, answers[1])
        self._note(trial, answers[-1])
        known = {str(seed): self.known(trial.kind, seed) for seed in (1, 2)}
        trial.seen = cases.look(where["target"], where["options"], known)
        if trial.outcomes != ["done", "PlanError"]:
            trial.complaints.append("the second was not found out")
        if trial.seen == "WRONG":
            trial.complaints.append("a reader gets: WRONG")
        self._heal(trial, where, where["options"])
