"""Processes that are killed: forked from one that has imported everything, so that many of them cost little."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kills import hooks

_MODULES = ["kills.programs", "distributed", "dask.array", "dask_zv.write.points"]


def start(function: Callable[..., None], *args: Any, **more: Any) -> Any:
    """Start a process that calls a function; it leads a process group of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_MODULES)
    process = context.Process(target=_lead, args=(os.getpid(), function, args, more))
    process.start()
    return process


def _lead(owner: int, function: Callable[..., None], args: tuple[Any, ...], more: dict[str, Any]) -> None:
    os.setsid()
    threading.Thread(target=_end_with, args=(owner,), daemon=True).start()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # workers and clients that die complain at length
    function(*args, **more)


def _end_with(owner: int) -> None:
    """End this process and all that it started when the process that wanted it is gone."""
    while Path(f"/proc/{owner}").exists():
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


def end(process: Any) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join(20)


def run_scheduler(folder: str) -> None:
    """Run a scheduler; its address is in the file ``address``."""

    async def serve() -> None:
        from distributed import Scheduler

        async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0", dashboard=False) as scheduler:
            part = Path(folder, "address.part")
            part.write_text(scheduler.address)
            part.replace(Path(folder, "address"))
            await scheduler.finished()

    asyncio.run(serve())


def run_worker(address: str, folder: str, shared: str) -> None:
    """Run a worker of one thread that counts its events in the folder `shared`."""

    async def serve() -> None:
        from distributed import Worker

        async with Worker(address, nthreads=1, local_directory=folder, host="127.0.0.1", dashboard=False) as worker:
            await worker.finished()

    hooks.attach(shared)
    hooks.install()
    asyncio.run(serve())


class Cluster:
    """A scheduler and workers in processes of their own, which count events in `shared`; a worker that dies is started again."""

    def __init__(self, folder: Path, shared: Path, workers: int = 2) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.shared = folder, shared
        self._number = workers
        self._closed = threading.Event()
        self._begin()

    def _begin(self) -> None:
        self.folder.joinpath("address").unlink(missing_ok=True)
        self.scheduler = start(run_scheduler, str(self.folder))
        while not self.folder.joinpath("address").exists():
            if not self.scheduler.is_alive():
                raise RuntimeError("the scheduler did not start")
            self._closed.wait(0.02)
        self.address = self.folder.joinpath("address").read_text()
        self.workers = [self._worker() for _ in range(self._number)]
        self._nurse = threading.Thread(target=self._tend, daemon=True)
        self._nurse.start()

    def _worker(self) -> Any:
        return start(run_worker, self.address, str(self.folder), str(self.shared))

    def _tend(self) -> None:
        while not self._closed.wait(0.1):
            for i, worker in enumerate(self.workers):
                if not worker.is_alive() and self.scheduler.is_alive() and not self._closed.is_set():
                    self.workers[i] = self._worker()

    def restore(self) -> None:
        """Start a scheduler that died again, with new workers."""
        if not self.scheduler.is_alive():
            self.close()
            self._closed.clear()
            self._begin()

    def note_pids(self, folder: Path) -> None:
        """Write the process numbers into files of a folder, as moments name them."""
        folder.joinpath("scheduler.pid").write_text(str(self.scheduler.pid))
        for i, worker in enumerate(self.workers):
            folder.joinpath(f"worker{i}.pid").write_text(str(worker.pid))

    def close(self) -> None:
        """End all processes."""
        self._closed.set()
        self._nurse.join()
        for process in (*self.workers, self.scheduler):
            end(process)
