"""One trial: a write in which a process is killed at one moment, what readers see, and the same write begun again."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kills import programs
from kills.inputs import CASES
from kills.processes import Cluster, end, start
from kills.readers import Reader
from kills.stores import Prepared, Stores, arm, differences, events_of, outcome_of, run_program

PHASES = ("scan", "split", "store", "index", "commit")
_PATIENCE = 120.0
PAUSE = 0.004
"""Seconds that every event takes longer, so that readers come between many of them."""


@dataclass(frozen=True)
class Kind:
    """Who dies."""

    name: str
    schedulers: Sequence[str]  # taken in turn: names of ``programs.scheduler``, or "cluster" for one that outlives the client
    step: str  # what is interrupted: "write", or of a plan "run" or "commit"
    kills: Callable[[list[dict[str, Any]], random.Random], dict[int, dict[str, Any]]]


def choose(events: list[dict[str, Any]], rng: random.Random) -> tuple[int, bool]:
    """Return the number of an event, and whether it is amid a file: any phase is as likely as another, then any event in it."""
    phases = sorted({e["phase"] for e in events if e["phase"] in PHASES}, key=PHASES.index)
    phase = rng.choice(phases)
    found = rng.choice([e for e in events if e["phase"] == phase])
    return int(found["n"]), found["kind"] == "write" and rng.random() < 0.5


def _whoever(events: list[dict[str, Any]], rng: random.Random) -> dict[int, dict[str, Any]]:
    """Kill the process in which the event is."""
    number, half = choose(events, rng)
    return {number: {"half": half}}


def _in_turn(events: list[dict[str, Any]], rng: random.Random) -> dict[int, dict[str, Any]]:
    """Kill either worker, then one of those that were started in their places."""
    number, _ = choose(events[: -len(events) // 4], rng)
    gaps = [rng.randint(1, max(len(events) // 8, 2)) for _ in range(2)]
    first, second = rng.sample(["worker0", "worker1"], 2)
    return {number: {"who": first}, number + gaps[0]: {"who": second}, number + sum(gaps): {"half": False}}


def _named(who: str) -> Callable[[list[dict[str, Any]], random.Random], dict[int, dict[str, Any]]]:
    def kills(events: list[dict[str, Any]], rng: random.Random) -> dict[int, dict[str, Any]]:
        return {choose(events, rng)[0]: {"who": who}}

    return kills


def _told(found: dict[str, Any]) -> dict[str, Any]:
    return {k: found[k] for k in ("outcome", "type", "text", "notes", "report") if k in found}


KINDS = {
    kind.name: kind
    for kind in (
        Kind("one worker", ["cluster"], "write", _whoever),
        Kind("all workers in turn", ["cluster"], "write", _in_turn),
        Kind("the scheduler", ["cluster"], "write", _named("scheduler")),
        Kind("the client, which computes", ["sync", "threads"], "write", _whoever),
        Kind("the client, beside its workers", ["cluster", "local-cluster", "processes"], "write", _named("write")),
        Kind("a process of a job array", ["jobs"], "run", _whoever),
        Kind("the process that commits a plan", ["jobs"], "commit", _whoever),
    )
}


@dataclass
class Bench:
    """Where trials are made; each event takes `pause` seconds longer."""

    folder: Path
    readers: Sequence[Reader]
    pause: float = PAUSE
    _cluster: Cluster | None = None
    _count: int = 0
    stores: Stores = field(init=False)

    def __post_init__(self) -> None:
        self.stores = Stores(self.folder / "stores", self.readers)

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def cluster(self) -> Cluster:
        """Return the cluster of all trials, whose processes all live."""
        if self._cluster is None:
            self._cluster = Cluster(self.folder / "cluster", self.folder / "current")
        self._cluster.restore()
        return self._cluster

    def trial(self, kind: Kind, case: str, scheduler: str, seed: int) -> dict[str, Any]:
        """Make one trial and return what came of it."""
        prepared = self.stores.get(case, kind.step != "write")
        moments = kind.kills(prepared.events[kind.step], random.Random(f"{seed} {kind.name} {case} {scheduler}"))
        self._count += 1
        folder = self.folder / f"trial{self._count}"
        folder.mkdir()
        target = folder / "s.zv"
        shutil.copytree(prepared.before, target)
        current = self.folder / "current"
        current.unlink(missing_ok=True)
        current.symlink_to(folder)
        record: dict[str, Any] = {"kind": kind.name, "step": kind.step, "case": case, "scheduler": scheduler, "seed": seed}
        record |= {"replaces": bool(CASES[case].before), "moments": moments, "events": len(prepared.events[kind.step])}
        where = scheduler
        if scheduler == "cluster":
            where = self.cluster().address
            self.cluster().note_pids(folder)
        with self.watching(target, prepared) as seen:
            record["told"] = self._kill(kind, case, folder, target, where, moments)
        struck = events_of(folder, "struck")
        noted = {e["n"]: e for e in events_of(folder)}
        record["struck"] = [
            {"n": s["n"], **{k: noted.get(s["n"], {}).get(k) for k in ("phase", "kind", "what")}} for s in struck
        ]
        record["committed"] = any(e["kind"] == "commit" and e["what"] == "ends" for e in noted.values())
        record |= {"during": seen, "after": self.look(target, prepared)}
        record |= self._again(kind, case, folder, target, prepared, scheduler)
        shutil.rmtree(folder, ignore_errors=True)
        return record

    def _kill(
        self, kind: Kind, case: str, folder: Path, target: Path, where: str, moments: dict[int, dict[str, Any]]
    ) -> dict[str, Any]:
        """Run the program and have somebody killed; return what the user is told."""
        if kind.step == "write":
            arm(folder, moments, self.pause)
            return self._ends(folder, "write", start(programs.write, str(folder), case, str(target), where))
        run_program(folder, "planned", programs.plan, str(folder), case, str(target))
        if kind.step == "run":
            arm(folder, moments, self.pause)
            both = [start(programs.run_blocks, str(folder), first, 2) for first in (0, 1)]
            ends = [self._ends(folder, f"run{i}", p) for i, p in enumerate(both)]
            return next((e for e in ends if e["outcome"] != "done"), ends[0])
        run_program(folder, "run0", programs.run_blocks, str(folder))
        arm(folder, moments, self.pause)
        return self._ends(folder, "commit", start(programs.commit, str(folder)))

    def _ends(self, folder: Path, name: str, process: Any) -> dict[str, Any]:
        process.join(_PATIENCE)
        alive = process.is_alive()
        end(process)  # with what it had started: a pool of processes outlives its owner
        found = outcome_of(folder, name)
        if found is None:
            return {"outcome": "hangs" if alive else "killed" if process.exitcode == -9 else f"exit {process.exitcode}"}
        return _told(found)

    def _again(self, kind: Kind, case: str, folder: Path, target: Path, prepared: Prepared, scheduler: str) -> dict[str, Any]:
        """Do the same again, to its end; return how that went, and how the store differs from one that nobody interrupted."""
        record: dict[str, Any] = {}
        arm(folder, {})
        if kind.step == "write":
            noted = {p.name for p in target.glob("0/dask_zv_journal/c/*") if p.name.isdigit()}
            where = self.cluster().address if scheduler == "cluster" else "sync"
            found = run_program(folder, "write", programs.write, str(folder), case, str(target), where, must=False)
        else:
            receipts = folder / "receipts"
            noted = {p.name for p in receipts.glob("*") if p.name.isdigit()}
            found = run_program(folder, "run0", programs.run_blocks, str(folder), must=False)
            if found["outcome"] == "done":
                found = run_program(folder, "commit", programs.commit, str(folder), must=False)
        begun = {e["block"] for e in events_of(folder) if e["kind"] == "block" and e["what"] == "begins"}
        again = sorted(n for n in noted if f"vertices {n}" in begun)
        record["resume"] = _told(found) | {
            "kept": len(noted),
            "written again": again,
            "stored": sum(b.startswith("vertices") for b in begun),
        }
        record["differs"], record["temporary"] = differences(target, prepared.whole)
        record["then"] = self.look(target, prepared)
        return record

    @contextlib.contextmanager
    def watching(self, target: Path, prepared: Prepared) -> Iterator[dict[str, Any]]:
        """Let all readers look inside."""
        seen: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            found = {r.name: stack.enter_context(r.watching(target, prepared.known)) for r in self.readers}
            yield seen
        seen.update({name: one for name, one in found.items() if one})

    def look(self, target: Path, prepared: Prepared) -> dict[str, list[str]]:
        """Let all readers look once."""
        return {way: seen for reader in self.readers for way, seen in reader.look(target, prepared.known).items()}
