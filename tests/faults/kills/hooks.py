"""Counts what the processes of a write do, and kills one of them at a chosen moment.

Loaded into each process of a write (Dask's workers by ``--preload``). The folder ``KILLS_DIR`` holds what they share: ``counter``,
which grows by a byte at each event; ``moments.json``, which says at which events whom to kill; ``events``, a line of JSON for each.
Events are the tasks that look at a partition, and divide one; every file that is written under a temporary name, renamed or removed;
the beginning and the end of a block and of the commit. A moment is before an event, or in the midst of a file that is written.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

_at = threading.local()
_committing = [False]
_installed: list[bool] = []


def attach(folder: str | Path) -> None:
    """Name the folder that processes share; those that this one starts inherit it."""
    os.environ["KILLS_DIR"] = str(folder)


def event(kind: str, what: str = "", half: Any = None) -> None:
    """Note an event, and kill whom a moment names."""
    folder = os.environ.get("KILLS_DIR")
    if not folder:
        return
    try:
        fd = os.open(f"{folder}/counter", os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        return
    try:
        os.write(fd, b".")
        number = os.lseek(fd, 0, os.SEEK_CUR)
    finally:
        os.close(fd)
    try:
        told = json.loads(Path(f"{folder}/moments.json").read_text())
    except (FileNotFoundError, ValueError):
        told = {}
    phase = "commit" if _committing[0] else "store" if getattr(_at, "block", None) is not None else kind
    if phase in ("write", "remove"):
        phase = "index"  # object index and tables, between the blocks and the commit
    line = {"n": number, "kind": kind, "phase": phase, "what": what, "pid": os.getpid(), "block": getattr(_at, "block", None)}
    with Path(f"{folder}/events").open("a") as file:
        file.write(json.dumps(line) + "\n")
    moment = told.get("at", {}).get(str(number))
    if moment:
        strike(folder, number, moment, half)
    if told.get("pause"):
        time.sleep(told["pause"])


def strike(folder: str, number: int, moment: dict[str, Any], half: Any) -> None:
    """Kill whom the moment names: the process whose number is in a file of that name, or this one."""
    pid = int(Path(folder, f"{moment['who']}.pid").read_text()) if moment.get("who") else os.getpid()
    if moment.get("half") and half is not None:
        half()
    with Path(f"{folder}/struck").open("a") as file:
        file.write(json.dumps({"n": number, "pid": pid, "by": os.getpid(), "time": time.time()}) + "\n")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    if pid == os.getpid():
        time.sleep(60)  # the signal is on its way


def install() -> None:
    """Count the events of this process."""
    if _installed:
        return
    _installed.append(True)
    from dask_zv.graph import tasks as graph
    from dask_zv.storage import local
    from dask_zv.write import exchange, scan

    def told(module: Any, name: str, kind: str) -> None:
        inner = getattr(module, name)

        @functools.wraps(inner)
        def outer(*args: Any, **kwargs: Any) -> Any:
            event(kind, args[1] if kind == "remove" else "")
            return inner(*args, **kwargs)

        setattr(module, name, outer)

    told(scan, "scan_part", "scan")
    told(exchange, "split_part", "split")

    store, commit = graph.run_block, graph.commit

    @functools.wraps(store)
    def run_block(kind: str, number: int, *args: Any) -> Any:
        _at.block = f"{kind} {number}"
        try:
            event("block", "begins")
            result = store(kind, number, *args)
            event("block", "ends")
        finally:
            _at.block = None
        return result

    @functools.wraps(commit)
    def run_commit(*args: Any) -> Any:
        _committing[0] = True
        try:
            event("commit", "begins")
            result = commit(*args)
            event("commit", "ends")
        finally:
            _committing[0] = False
        return result

    graph.run_block, graph.commit = run_block, run_commit

    objects: Any = local.LocalObjects
    make = objects._create

    def create(self: Any, path: str, data: Any) -> None:
        def half() -> None:
            part = bytes(memoryview(data).cast("B"))
            make(self, path, part[: len(part) // 2])

        event("write", os.path.relpath(path, self.root), half)
        make(self, path, data)

    objects._create = create
    for name in ("delete", "delete_prefix"):
        told(objects, name, "remove")

    replace = local.os.replace

    class Os:
        """The module ``os`` of one module, with a rename that is an event."""

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        @staticmethod
        def replace(source: str, target: str) -> None:
            event("rename", target)
            replace(source, target)

    local.os = Os()


def dask_setup(worker: Any) -> None:
    """Count the events of a Dask worker: what ``--preload`` calls."""
    install()
