"""Trials of a faulty object store: a fault begins at one request of a write or a read, and everything that follows is judged.

A trial writes through one client (obstore or fsspec's s3fs) while another, whose requests no fault hits, reads. A *short* fault
hits a request or three; a *lasting* one every request from the first that it hits, until the write has given up. Then the fault
ends, and the same write is made again with ``resume=True``.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import storage_cases as cases
from fault_server import FaultServer

import dask_zv as dzv
from dask_zv.config import override

CLIENTS = ("obstore", "s3fs")
SECRET = "a-secret-of-the-trials"
_ADVICE = ("write again", "try again", "write both again", "check the", "wait for it", "mode='overwrite'", "dzv.repair")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request."""

    name: str
    rule: Mapping[str, Any]  # of the server, without the moment
    ridden_out: bool = True  # nobody need notice a short one,
    harmless: bool = False  # nor a lasting one
    short: bool = True  # there is a short one


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("500", {"fault": "error"}),
        Fault("503 SlowDown", {"fault": "error", "status": 503, "code": "SlowDown"}),
        Fault("connection reset", {"fault": "reset"}),
        Fault("request cut off", {"fault": "cut"}),
        Fault("no answer", {"fault": "stall"}),
        Fault("answer reset", {"fault": "reset_body"}),
        Fault("answer truncated", {"fault": "truncate"}),
        Fault("answer short", {"fault": "short", "verb": "GET,HEAD,LIST"}, ridden_out=False),
        Fault("slow answers", {"fault": "slow", "seconds": 0.03}, harmless=True),
        Fault("acknowledgement lost: reset", {"fault": "reset", "stored": True}),
        Fault("acknowledgement lost: 500", {"fault": "error", "stored": True}),
        Fault("acknowledgement lost: no answer", {"fault": "stall", "stored": True}),
        Fault("403", {"fault": "error", "status": 403, "code": "AccessDenied"}, ridden_out=False),
        Fault("403 to writes", {"fault": "error", "status": 403, "code": "AccessDenied", "verb": "PUT,POST,DELETE"},
              ridden_out=False, short=False),
    )
}  # fmt: skip


@dataclass
class Trial:
    """What came of one."""

    fault: str
    client: str
    kind: str
    before: str
    lasting: bool
    moment: int  # the request at which the fault began,
    requests: int  # of how many an undisturbed write or read makes,
    at: str = ""  # and which that is
    fired: int = 0  # requests that went wrong
    outcome: str = ""  # "finished", or the name of the error
    message: str = ""
    seconds: float = 0.0
    during: dict[str, int] = field(default_factory=dict)  # what the other reader saw meanwhile, and how often
    seen: str = ""  # what it saw then
    peer: str = ""  # what the ZV 0.9 package made of the objects then, where it was asked
    resumed: str = ""  # what came of the same write after the fault; empty where there was none
    complaints: list[str] = field(default_factory=list)  # what should not be

    def judge(self, now: Mapping[str, bytes], wanted: Mapping[str, bytes], read_back: str) -> None:
        """Complain of what no write may leave, whatever went wrong: wrong answers, other objects than an undisturbed one."""
        if self.outcome == "finished" and self.seen != "new":
            self.complaints.append(f"the write has finished, and a reader sees: {self.seen}")
        if self.resumed not in ("", "finished"):
            self.complaints.append(f"not finished after the fault: {self.resumed}")
        if "WRONG" in {self.seen, *self.during}:
            self.complaints.append("a reader got a wrong answer")
        if self.before == "old" and "empty" in {self.seen, *self.during}:
            self.complaints.append("a reader got nothing where there was something")
        if now != wanted:
            differ = sorted(k for k in {*now, *wanted} if now.get(k) != wanted.get(k))
            self.complaints.append(f"objects that differ from those of an undisturbed write: {differ[:5]}")
        if read_back != "new":
            self.complaints.append("what was written does not read back")


@contextmanager
def impatient(lifetime: float = 2.0) -> Iterator[None]:
    """Let retries and locks of dead owners take seconds, where they may take minutes, and cut small writes into blocks."""
    with override(lock_lifetime=lifetime, request_backoff=0.005, write_block_bytes=cases.BLOCK_BYTES):
        yield


def is_clear(error: BaseException, url: str = cases.URL) -> list[str]:
    """Return what an error lacks (that it is ours, its store, the place in it, what to do), and whether it tells a secret."""
    text = str(error)
    lacks = [] if isinstance(error, dzv.ZVError) else ["is no ZVError"]
    if url not in text:
        lacks.append("does not name the store")
    if "'/" not in text and "array " not in text and f"{url}/0" not in text:
        lacks.append("does not name a place")
    if not isinstance(error, dzv.FormatError) and not any(words in text for words in _ADVICE):
        lacks.append("does not say what to do")
    if SECRET in text:
        lacks.append("tells a secret")
    return lacks


class _Watcher(threading.Thread):
    """Reads a store again and again."""

    def __init__(self, options: Mapping[str, Any], known: Mapping[str, list[Any]], pause: float) -> None:
        super().__init__(daemon=True)
        self._pause = pause
        self.counts: Counter[str] = Counter()
        self._ended = threading.Event()
        self._options, self._known = options, known

    def run(self) -> None:
        while not self._ended.wait(self._pause):
            self.counts[cases.look(cases.URL, self._options, self._known)] += 1

    def end(self) -> dict[str, int]:
        self._ended.set()
        self.join()
        return dict(self.counts)


@dataclass(frozen=True)
class _Prepared:
    """An undisturbed write or read."""

    saved: str
    log: list[list[Any]]
    objects: dict[str, bytes]
    known: dict[str, list[Any]]
    old: dict[str, bytes] = field(default_factory=dict)


class Trials:
    """Trials on one server; clients take a request for lost after `timeout` s, the other reader looks every `pause` s."""

    def __init__(self, server: FaultServer, timeout: float = 1.5, pause: float = 0.02) -> None:
        self.server, self.timeout, self.pause = server, timeout, pause
        self.safe = cases.unharmed(server)
        options = {**server.storage_options, "secret": SECRET}
        self._obstore = {**cases.quick(server, f"{timeout}s"), **options}
        self._s3fs = {
            **options,
            "use_listings_cache": False,
            "config_kwargs": {"retries": {"max_attempts": 0}, "read_timeout": timeout, "connect_timeout": 10},
        }
        self._prepared: dict[tuple[str, ...], _Prepared] = {}
        self.peer: Callable[[Mapping[str, bytes], Mapping[str, Mapping[str, bytes]]], str] | None = None

    def open(self, client: str, mode: str = "r") -> dzv.Store:
        """Open the store through a client that faults hit."""
        if client == "obstore":
            return dzv.open(cases.URL, mode=mode, storage_options=self._obstore)
        from zarr.storage import FsspecStore

        store = FsspecStore.from_url(cases.URL, storage_options=self._s3fs)
        store.fs.retries = 2
        return dzv.open(store, mode=mode)

    def write(self, client: str, kind: str, before: str) -> None:
        """Write what the trials write."""
        mode = "overwrite" if before == "old" else "error"
        cases.write(kind, self.open(client, "r+"), 2, mode=mode, resume=True)

    def prepare(self, client: str, kind: str, before: str) -> _Prepared:
        """Write without faults, and keep the store as it was before, the requests, and what came of them."""
        key = client, kind, before
        if key in self._prepared:
            return self._prepared[key]
        with impatient():
            self.server.faults()
            self.server.clear()
            cases.make(kind, cases.URL, self.safe)
            known, old = {}, {}
            if before == "old":
                cases.write(kind, self.open(client, "r+"), 1)
                known["old"] = cases.rows_of(dzv.open(cases.URL, storage_options=self.safe))
                old = self.server.dump("s.zv/")
            self.server.save(" ".join(key).replace(" ", "-"))
            self.server.faults()
            self.write(client, kind, before)
            log = self.server.log()
            known["new"] = cases.rows_of(dzv.open(cases.URL, storage_options=self.safe))
        self._prepared[key] = _Prepared(" ".join(key).replace(" ", "-"), log, self.server.dump("s.zv/"), known, old)
        return self._prepared[key]

    def prepare_read(self, client: str, kind: str) -> _Prepared:
        """Read without faults what was written without."""
        key = client, kind, "read"
        if key in self._prepared:
            return self._prepared[key]
        made = self.prepare(client, kind, "empty")
        with impatient():
            self.server.restore(made.saved)
            self.server.faults()
            self.write(client, kind, "empty")
            self.server.save("-".join(key).replace(" ", "-"))
            self.server.faults()
            cases.rows_of(self.open(client))
        self._prepared[key] = _Prepared("-".join(key).replace(" ", "-"), self.server.log(), made.objects, made.known)
        return self._prepared[key]

    def of_write(self, fault: Fault, client: str, kind: str, before: str, where: float, *,
                 lasting: bool, hits: int = 1, watch: bool = True) -> Trial:  # fmt: skip
        """Write while a fault begins at a part `where` (0 to 1) of the requests, and judge what came of it."""
        found = self.prepare(client, kind, before)
        trial = self._begin(found, fault, client, kind, before, where, lasting=lasting, hits=hits)
        with impatient(max(4 * self.timeout, 2.0) if "stall" in fault.rule.values() else 2.0):
            watcher = _Watcher(self.safe, found.known, self.pause) if watch else None
            if watcher:
                watcher.start()
            self._attempt(trial, lambda: self.write(client, kind, before))
            trial.fired = self.server.fired()
            trial.during = watcher.end() if watcher else {}
            trial.seen = cases.look(cases.URL, self.safe, found.known)
            self.server.faults()
            if self.peer is not None and kind != "points per chunk":
                whole = {"new": found.objects, **({"old": found.old} if before == "old" else {})}
                trial.peer = self.peer(self.server.dump("s.zv/"), whole)
            if trial.outcome != "finished":
                trial.resumed = self._resume(trial)
        if trial.outcome != "finished" and (fault.harmless or (fault.ridden_out and not lasting)):
            trial.complaints.append("a fault that should be ridden out was not")
        trial.judge(self.server.dump("s.zv/"), found.objects, cases.look(cases.URL, self.safe, found.known))
        return trial

    def of_read(self, fault: Fault, client: str, kind: str, where: float, *, lasting: bool, hits: int = 1) -> Trial:
        """Read while a fault begins, and judge what is read."""
        found = self.prepare_read(client, kind)
        trial = self._begin(found, fault, client, kind, "read", where, lasting=lasting, hits=hits)

        def read() -> None:
            trial.seen = "new" if cases.rows_of(self.open(client)) == found.known["new"] else "WRONG"

        with impatient():
            self._attempt(trial, read)
        trial.fired = self.server.fired()
        self.server.faults()
        if trial.outcome == "finished" and trial.seen != "new":
            trial.complaints.append("a reader got a wrong answer")
        if trial.outcome != "finished" and (fault.harmless or (fault.ridden_out and not lasting)):
            trial.complaints.append("a reader gave up")
        return trial

    def _begin(self, found: _Prepared, fault: Fault, client: str, kind: str, before: str, where: float, **how: Any) -> Trial:
        verbs = str(fault.rule.get("verb", "")).split(",")
        hit = [f"{verb} {key}" for verb, key, _ in found.log if verbs == [""] or verb in verbs]
        moment = min(int(where * len(hit)), len(hit) - 1)
        self.server.faults()
        self.server.restore(found.saved)
        count = None if how["lasting"] else how["hits"]
        self.server.faults({"seconds": 2 * self.timeout, **fault.rule, "first": moment + 1, "count": count})
        return Trial(fault.name, client, kind, before, how["lasting"], moment + 1, len(hit), at=hit[moment])

    def _attempt(self, trial: Trial, action: Any) -> None:
        started = time.monotonic()
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever is raised is what a user sees
            trial.outcome, trial.message = type(error).__name__, str(error)
            url = cases.URL if trial.client == "obstore" else cases.URL.replace("s3://", "")
            trial.complaints += [f"the error {what}" for what in is_clear(error, url)]
        else:
            trial.outcome = "finished"
        trial.seconds = round(time.monotonic() - started, 2)

    def _resume(self, trial: Trial) -> str:
        try:
            self.write(trial.client, trial.kind, trial.before)
        except dzv.ZVError as error:
            return f"{type(error).__name__}: {error}"
        return "finished"
