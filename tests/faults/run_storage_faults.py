"""The long profile of faulty storage: many seeded moments for each fault, a raw log, and a table.

    python tests/faults/run_storage_faults.py                                all: about half an hour
    python tests/faults/run_storage_faults.py --moments 2 --only 503 disk    fewer moments, faults with these words in their names
    python tests/faults/run_storage_faults.py --seed 7 --no-peer             other moments; without the ZV 0.9 package's reader

Writes ``storage-faults-<date>.jsonl`` (a trial a line: fault, seed, moment, outcome, message, what readers saw) and ``….md`` to
``benchmarks/results`` (``--result PREFIX`` puts them elsewhere). The exit status is 0 if nothing was as it should not be.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import logging
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":  # tests find them by pytest's settings
    sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "benchmarks"), str(ROOT / "tests" / "pipelines")]

import dask  # noqa: E402
import storage_cases as cases  # noqa: E402
from fault_server import serve_faults  # noqa: E402
from kills.readers import peer_09  # noqa: E402
from line_process import LineProcess  # noqa: E402
from local_trials import LocalTrials, owned_folder, small_disk  # noqa: E402
from storage_trials import FAULTS, Trials, impatient  # noqa: E402
from writer_trials import PLACES, PROGRAM, SCENARIOS, Writers, two_writers  # noqa: E402

import dask_zv as dzv  # noqa: E402

WRITES = [(kind, before) for kind in cases.KINDS for before in ("empty", "old")]
LOCAL = ("disk full", "no inodes", "permission lost", "file too large")


class Log:
    """Trials, as they end."""

    def __init__(self, path: Path, only: list[str], seed: int) -> None:
        self.path, self.only, self.seed = path, only, seed
        self.rows: list[dict[str, Any]] = []
        path.write_text("")

    def wants(self, name: str) -> bool:
        return not self.only or any(word in name for word in self.only)

    def moments(self, name: str, number: int) -> Iterator[tuple[int, random.Random]]:
        """Yield the number and the random numbers of each moment."""
        for i in range(number):
            yield i, random.Random(f"{self.seed} {name} {i}")

    def add(self, group: str, name: str, number: int, trial: Any) -> None:
        if not getattr(trial, "fired", 1):
            trial.outcome += " (not hit)"  # it makes fewer requests than the undisturbed one: caches, other order
        row = {"group": group, "name": name, "seed": self.seed, "number": number, **asdict(trial)}
        self.rows.append(row)
        with self.path.open("a") as file:  # what folders are called is no result
            file.write(json.dumps(row, ensure_ascii=False).replace(tempfile.gettempdir(), "/…") + "\n")
        sign = "!!" if row["complaints"] else "  "
        told = row.get("outcome") or "/".join(row.get("outcomes", []))
        print(f"{sign} {group} | {name} | {number} | {told} | {row['seen']} {row['complaints'] or ''}", flush=True)


class Peer:
    """The reader of the ZV 0.9 package, on stores that are put down as files."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._reader = folder, peer_09()
        self._known: dict[int, str] = {}
        self.close = self._reader.close

    def __call__(self, objects: Mapping[str, bytes], whole: Mapping[str, Mapping[str, bytes]]) -> str:
        """Return which of the whole contents it reads in some objects; "nothing", "error", or "WRONG"."""
        for found in whole.values():
            if id(found) not in self._known:
                with self._put_down(found) as folder:
                    self._known[id(found)] = self._reader.know(folder)["read"]
        way = f"{self._reader.name} read"
        with self._put_down(objects) as folder:
            known = {way: {name: self._known[id(found)] for name, found in whole.items()}}
            outcome, text = self._reader.look(folder, known)[way]
        return f"{outcome}: {text}" if text else outcome

    @contextlib.contextmanager
    def _put_down(self, objects: Mapping[str, bytes]) -> Iterator[Path]:
        folder = cases.put_down(objects, self._folder / "peer.zv")
        yield folder
        shutil.rmtree(folder)


def run_s3(log: Log, moments: int, peer: Peer | None) -> None:
    """Writes and reads through both clients."""
    with serve_faults() as server:
        trials = Trials(server, timeout=0.7)
        trials.peer = peer
        for name, fault in FAULTS.items():
            for lasting in (False, True):
                if not log.wants(name) or not (lasting or fault.short):
                    continue
                group = "lasting" if lasting else "short"
                for i, rng in log.moments(f"{name} {group}", moments):
                    # s3fs takes a minute to give up a server that never answers
                    seldom = 6 if lasting and fault.rule["fault"] == "stall" else 3
                    client = "s3fs" if i % seldom == seldom - 1 else "obstore"
                    kind, before = WRITES[(i + len(name)) % len(WRITES)]
                    trial = trials.of_write(fault, client, kind, before, rng.random(), lasting=lasting, hits=rng.choice([1, 3]))
                    log.add(f"write, {group}", name, i, trial)
                for i, rng in log.moments(f"{name} {group} read", -(-moments // 2)):
                    if fault.rule.get("stored") or fault.rule.get("verb") == "PUT,POST,DELETE":
                        continue  # of requests that change nothing there is nothing to carry out
                    if lasting and fault.rule["fault"] == "stall" and i >= 2:
                        continue
                    client = "s3fs" if i % 3 == 2 else "obstore"
                    trial = trials.of_read(
                        fault, client, cases.KINDS[i % 4], rng.random(), lasting=lasting, hits=rng.choice([1, 3])
                    )
                    log.add(f"read, {group}", name, i, trial)


def run_local(log: Log, moments: int, folder: Path) -> None:
    """A file system that refuses."""
    wanted = [name for name in LOCAL if log.wants(name)]
    if {"disk full", "no inodes"} & {*wanted}:
        try:
            with small_disk(folder / "disk") as disk:
                local = LocalTrials(disk)
                try_local(log, wanted, moments, {"disk full": local.disk_full, "no inodes": local.no_inodes})
        except PermissionError as error:
            print(f"left out: disk full, no inodes ({error})")
    if {"permission lost", "file too large"} & {*wanted}:
        with owned_folder() as (owned, arguments), contextlib.closing(LineProcess(PROGRAM, *arguments)) as process:
            process.hear()
            local = LocalTrials(owned, process)
            tried = {"permission lost": local.permission_lost, "file too large": local.file_too_large}
            try_local(log, wanted, moments, tried)


def try_local(log: Log, wanted: list[str], moments: int, tried: Mapping[str, Any]) -> None:
    for name, function in tried.items():
        for i, rng in log.moments(name, 2 * moments if name in wanted else 0):
            log.add("local", name, i, function(*WRITES[i % len(WRITES)], rng.random()))


def run_writers(log: Log, moments: int, folder: Path) -> None:
    """Two clients."""
    wanted = [scenario for scenario in SCENARIOS if log.wants(scenario)]
    if not wanted:
        return
    with serve_faults() as server, two_writers() as processes, impatient():
        writers = Writers(processes, server, folder)
        for scenario in wanted:
            for i in range(2 * moments):
                kind = ("points", "packed points")[i // 3 % 2]
                log.add("two writers", scenario, i, writers.trial(scenario, PLACES[i % 3], 1000 * log.seed + i, kind))


def table(log: Log, seconds: float) -> str:
    """Return the results as Markdown."""
    bad = sum(bool(row["complaints"]) for row in log.rows)
    lines = [
        "# Faults of storage: the long profile",
        "",
        f"{len(log.rows):,} trials in {seconds / 60:.0f} minutes, seed {log.seed}, {bad} that were not as they should be. "
        f"dask-zv {dzv.__version__}, Python {platform.python_version()}, {datetime.date.today().isoformat()}.",  # noqa: DTZ011
        f"Rerun: `ci/storage-faults --seed {log.seed}`; raw log: `{log.path.name}`.",
        "",
        "*Short* faults hit one request or three, *lasting* ones every request from a seeded moment on. *During* is what a reader through",
        "another client saw from begin to end (looks in all); *then* what it saw when the writer had finished or given up;",
        "*ZV 0.9.2* what that package read in the same objects. `old`, `new`: the whole content before and after. *Resumed*: the same",
        "write after the fault, `resume=True`, equal to an undisturbed one object by object.",
        "",
        "| what | fault | moments | outcome | during | then | ZV 0.9.2 | resumed | not as it should be |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in log.rows:
        groups.setdefault((row["group"], row["name"]), []).append(row)
    for (group, name), rows in groups.items():
        if group == "two writers":
            continue
        during: Counter[str] = Counter()
        for row in rows:
            during.update(row["during"])
        cells = [
            group, name, str(len(rows)), _counts(Counter(r["outcome"] for r in rows)), _counts(during),
            _counts(Counter(r["seen"] for r in rows if r["seen"])),
            _counts(Counter(r["peer"].partition(":")[0] for r in rows if r["peer"])),
            _counts(Counter(r["resumed"] for r in rows if r["resumed"])), str(sum(bool(r["complaints"]) for r in rows)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Two writers", "", "| scenario | where | trials | outcomes | then | after writing again | not as it should be |",
              "|---|---|---|---|---|---|---|"]  # fmt: skip
    pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in log.rows:
        if row["group"] == "two writers":
            pairs.setdefault((row["name"], row["place"]), []).append(row)
    for (name, place), rows in pairs.items():
        outcomes = Counter(" and ".join(sorted(r["outcomes"])) for r in rows)
        seen = Counter(_seen(r["seen"]) for r in rows)
        healed = Counter("whole" if r["healed"] == "2" else r["healed"] for r in rows if r["healed"])
        cells = [name, place, str(len(rows)), _counts(outcomes), _counts(seen), _counts(healed),
                 str(sum(bool(r["complaints"]) for r in rows))]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    messages: dict[str, str] = {}
    for row in log.rows:
        for text in (row.get("message", ""), *row.get("messages", [])):
            if text:
                messages.setdefault(row["name"], text)
    lines += ["", "## What the user is told", "", "One message of each.", ""]
    lines += [f"- **{name}**: {_shown(text)}" for name, text in messages.items()]
    return "\n".join(lines) + "\n"


def _counts(found: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in found.most_common()) or "–"


def _seen(seen: str) -> str:
    return "one content whole" if seen in ("1", "2", "3") else seen.partition(":")[0]


def _shown(text: str) -> str:
    """Return a message without the folders and ports of this machine."""
    words = []
    for word in text[:420].split():
        if "file://" in word or word.startswith("/tmp"):
            word = f"file:///…/{word.rstrip('],').rpartition('/')[2]}]"
        words.append("http://…" if "127.0.0.1" in word else word)
    return " ".join(words)


def main() -> int:
    parser = argparse.ArgumentParser(description="Try many moments of each fault of storage.")
    parser.add_argument(
        "--moments", type=int, default=12, help="of each fault: short, lasting; half as many reads; twice as many local"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="faults and scenarios with one of these words in their names")
    parser.add_argument("--no-peer", action="store_true", help="do not ask the ZV 0.9 package's reader")
    parser.add_argument("--result", help="beginning of the names of the results")
    options = parser.parse_args()
    day = datetime.date.today().strftime("%Y%m%d")  # noqa: DTZ011
    result = Path(options.result or ROOT / "benchmarks" / "results" / f"storage-faults-{day}")
    logging.disable(logging.WARNING)
    started = time.monotonic()
    log = Log(result.with_name(f"{result.name}.jsonl"), options.only, options.seed)
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"), contextlib.ExitStack() as stack:
        peer = None if options.no_peer else Peer(Path(folder))
        if peer is not None:
            stack.callback(peer.close)
        run_local(log, options.moments, Path(folder))
        run_writers(log, options.moments, Path(folder))
        run_s3(log, options.moments, peer)
    result.with_name(f"{result.name}.md").write_text(table(log, time.monotonic() - started))
    bad = sum(bool(row["complaints"]) for row in log.rows)
    print(f"{len(log.rows)} trials, {bad} not as they should be, {time.monotonic() - started:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
