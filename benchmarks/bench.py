"""What the comparisons share: workers that are started, measured and checked, and the files that say what came out."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grid_workload import Job, worker_arguments
from s3server import Server

HERE = Path(__file__).resolve().parent
STORES = {"local": None, "s3": 0.0, "s3+20ms": 20.0}
"""Latency added to each request."""
PEER_BATCH = 1000
"""Chunks per read of the peer on S3: it opens a socket per object, and fails with some 10,000."""

Row = dict[str, Any]


class FailedError(Exception):
    """A worker failed, or read other data than was written."""


class KeptWorker:
    """A worker that does one job after the other, each a line of its input."""

    def __init__(self, command: list[str], environment: dict[str, str], timeout: float) -> None:
        self.timeout = timeout
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close()
        self.process = subprocess.Popen(
            [*command, "-"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )

    def ask(self, arguments: Sequence[str]) -> Row:
        """Return what the worker measures.

        Raises
        ------
        FailedError
            It ended, or took too long.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        alarm = threading.Timer(self.timeout, self.process.kill)
        alarm.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # then it says why it ended
                print(*arguments, file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        finally:
            alarm.cancel()
        if not answer:
            status = self.process.wait(self.timeout)
            self.errors.seek(0)
            said = self.errors.read().strip()[-2000:]
            raise FailedError(f"exit status {status} after at most {self.timeout:g} s: {said or 'no message'}")
        measured: Row = json.loads(answer)
        return measured

    def close(self) -> None:
        with self.errors, self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()


@dataclass
class Bench:
    """Starts workers and keeps what they measured."""

    peer_python: Path
    server: Server
    folder: Path
    timeout: float
    sides: Mapping[str, tuple[str, str]]
    """Script and scheduler of each; those in ``peers/`` are run by the peer's interpreter."""
    keep: Collection[str] = ()
    """Scripts whose worker does all jobs, one after the other; of the others each job has a worker of its own."""
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    number: int = 0
    """The round."""
    places: int = 0
    kept: dict[str, KeptWorker] = field(default_factory=dict)

    def turns(self, sides: Sequence[Any]) -> list[Any]:
        """Return the sides, beginning with another one each round."""
        start = self.number % len(sides)
        return [*sides[start:], *sides[:start]]

    @contextlib.contextmanager
    def place(self, store: str) -> Iterator[dict[str, Any]]:
        """Give an empty place for a store, as arguments of a job; it is emptied again.

        A failure in the block ends it, and is kept as a problem: the rest of a long run goes on.
        """
        latency = STORES[store]
        self.places += 1
        name = f"store-{self.places}"  # another each time: workers that are kept may remember stores
        if latency is None:
            place = {"target": str(self.folder / name)}
        else:
            self.server.set_latency(latency)
            place = {"target": f"s3://bucket/{name}", "endpoint": self.server.endpoint}
        try:
            yield place
        except FailedError as error:
            self.problems.append(str(error))
            print(f"FAILED: {error}", file=sys.stderr, flush=True)
        finally:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            self.server.clear()

    def measure(self, about: Row, side: str, job: Job, **more: Any) -> Row:
        """Run one worker and keep the row; `about` says what it belongs to, `more` what else is to be kept."""
        script, scheduler = self.sides[side]
        if script.startswith("peers/") and job.endpoint and job.chunks > 2 * PEER_BATCH:
            job = replace(job, batch=PEER_BATCH)
        arguments = more.pop("arguments", None) or worker_arguments(job)
        self.server.reset()
        try:
            measured = self.worker(script).ask(arguments) if script in self.keep else self.run(script, arguments)
        except FailedError as error:
            raise FailedError(f"{side}, {job.verb}, {about}: {error}") from error
        row: Row = {
            "round": self.number,
            **about,
            "side": side,
            "verb": job.verb,
            "scheduler": scheduler,
            "batch": job.batch,
            **more,
        }
        row |= measured
        row |= self.stored(job)
        self.rows.append(row)
        print(
            f"  round {self.number + 1}  {about['row']:8} {about['store']:8} {about['setting']:24} {side:24} {job.verb:20} "
            f"{row['seconds']:8.3f} s",
            file=sys.stderr,
            flush=True,
        )
        return row

    def command(self, script: str) -> tuple[list[str], dict[str, str]]:
        """Return how a script is started, and in which environment."""
        peer = script.startswith("peers/")
        # a PYTHONPATH of the caller's would put its packages before those of the peer's environment
        environment = {k: v for k, v in os.environ.items() if not peer or k != "PYTHONPATH"}
        return [str(self.peer_python) if peer else sys.executable, str(HERE / script)], environment

    def run(self, script: str, arguments: Sequence[str]) -> Row:
        """Return what a worker of its own measures."""
        command, environment = self.command(script)
        try:
            done = subprocess.run(
                [*command, *arguments], env=environment, capture_output=True, text=True, timeout=self.timeout, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise FailedError(f"took longer than {self.timeout:g} s") from error
        if done.returncode:
            raise FailedError(f"exit status {done.returncode}: {done.stderr.strip()[-2000:] or 'no message'}")
        measured: Row = json.loads(done.stdout.splitlines()[-1])
        return measured

    def worker(self, script: str) -> KeptWorker:
        """Return the one worker of a script."""
        if script not in self.kept:
            self.kept[script] = KeptWorker(*self.command(script), self.timeout)
        return self.kept[script]

    def close(self) -> None:
        """End the workers that were kept."""
        while self.kept:
            self.kept.popitem()[1].close()

    def stored(self, job: Job) -> Row:
        """Return what the store holds, and what was asked of the server."""
        if job.endpoint is None:
            files = [Path(top, name) for top, _, names in os.walk(job.target) for name in names] if job.target else []
            return {"objects": len(files), "stored_bytes": sum(f.stat().st_size for f in files)}
        stats = self.server.stats()
        return {k: v for k, v in stats.items() if k not in ("in_flight", "latency_ms")}


def agree(*rows: Row, keys: Sequence[str] = ("digest",)) -> None:
    """Check that all of these have written or read the same: as many things, of the same checksums."""
    first = rows[0]
    for row in rows[1:]:
        if any(row.get(key) != first.get(key) for key in ("count", *keys)):
            what = f"{row['count']} of {first['count']} things, {row['row']}, {row['store']}, {row['setting']}"
            raise FailedError(f"{row['side']}, {row['verb']}: read other data than {first['side']} wrote ({what})")


def raise_file_limit() -> None:
    """Let workers have as many files and sockets as the system allows."""
    # the peer opens a socket per object; at the usual limit of 1,024 it would fail with 1,000 chunks
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def about_run(bench: Bench, started: datetime.datetime, size: str, ours: str) -> dict[str, Any]:
    """Return what is to be known of a run, and take the versions out of its rows."""
    versions: dict[str, dict[str, str]] = {"peer": {}, "ours": {}}
    for row in bench.rows:
        versions["peer" if row["side"].startswith("peer") else "ours"] |= row.pop("versions")
    return {
        "date": started.isoformat(timespec="seconds"),
        "size": size,
        "rounds": 1 + max(row["round"] for row in bench.rows),
        "ours": ours,
        "local": "tmpfs" if bench.folder.is_relative_to("/dev/shm") else "temporary directory",
        "s3": "loopback server, through obstore on all sides",
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "versions": versions,
    }


def report(bench: Bench, about: Mapping[str, Any], title: str, *tables: str) -> str:
    """Return tables as a Markdown page, with what is known of the run and what failed."""
    known = "\n".join(f"- {k}: {v}" for k, v in about.items())
    peer = about["versions"]["peer"].get("zarr-vectors", "")
    text = "\n\n".join([f"# {title} beside zarr-vectors {peer}", known, *(t for t in tables if t)]) + "\n"
    if bench.problems:
        failed = (f"- {problem.splitlines()[0]} ... {problem.splitlines()[-1]}\n" for problem in bench.problems)
        text += "\nFailed:\n\n" + "".join(failed)
    return text
