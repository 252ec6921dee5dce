"""Progress of a write, the same on every scheduler: blocks, bytes and rate, as a line in a terminal or a bar in a notebook.

Blocks are noted where they come back: by a callback of the local schedulers, by events that the storing tasks log on a cluster.
"""

from __future__ import annotations

import html
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dask.callbacks import Callback
from dask.delayed import Delayed

from dask_zv.storage.specs import BlockResult

if TYPE_CHECKING:
    from distributed import Client

_STORING = re.compile(r"-(?:store|store-links)-([0-9a-f]{12})(?:-\d+)?$")
_EVERY = 0.1
_WIDTH = 30


def run_of(key: object) -> str | None:
    """Return the run in a key such as ``zv-points-store-0123456789ab-7``, of a task that stores a block; None of others."""
    found = _STORING.search(key) if isinstance(key, str) else None
    return found[1] if found else None


def block_keys(graph: Mapping[Any, Any]) -> list[str]:
    """Return the keys of the tasks of a graph that store blocks."""
    return [key for key in graph if run_of(key) is not None]


def topic_of(run: str) -> str:
    """Return where the tasks of a run log their blocks."""
    return f"dask-zv-{run}"


def tell(topic: str, key: str, nbytes: int) -> None:
    """Log a stored block on the cluster whose worker this is; nothing happens elsewhere."""
    if "distributed" not in sys.modules:
        return
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:  # a local scheduler, where a callback sees the result
        return
    worker.log_event(topic, {"block": key, "nbytes": nbytes})


@contextmanager
def shown_blocks(delayed: Sequence[Delayed], progress: Progress | bool | None) -> Iterator[Progress | None]:
    """Yield what shows the blocks of a graph: a progress of the caller's, or with True one for this graph."""
    if isinstance(progress, Progress) or not progress:
        yield progress or None
        return
    made = Progress("writing", len(block_keys(delayed[0].__dask_graph__())))
    try:
        yield made
    finally:
        made.close()


@contextmanager
def watch_local(progress: Progress | None) -> Iterator[None]:
    """Note the blocks that the local schedulers store inside."""
    if progress is None:
        yield
        return

    def posttask(key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        if isinstance(result, BlockResult) and run_of(key) is not None:
            progress.block(key, result.receipt.nbytes)

    with Callback(posttask=posttask):
        yield


@contextmanager
def watch_cluster(client: Client, delayed: Sequence[Delayed], progress: Progress | None) -> Iterator[None]:
    """Note the blocks that a cluster's tasks log inside."""
    runs = {run for key in block_keys(delayed[0].__dask_graph__()) if (run := run_of(key))} if progress else set()
    topics = sorted(map(topic_of, runs))

    def note(event: tuple[float, Any]) -> None:
        if progress is not None:
            progress.block(event[1]["block"], event[1]["nbytes"])

    for topic in topics:
        client.subscribe_topic(topic, note)
    try:
        yield
    finally:
        for topic in topics:
            for event in client.get_events(topic) if client.status == "running" else ():  # those still on their way
                note(event)
            client.unsubscribe_topic(topic)


class Progress:
    """Blocks and bytes stored so far, of so many `blocks` in all, of which some were `done` before."""

    def __init__(self, label: str, blocks: int, done: int = 0) -> None:
        self.label, self.blocks, self.done, self.nbytes = label, blocks, done, 0
        self._seen: set[str] = set()
        self._started = time.monotonic()
        self._shown = 0.0
        self._lock = threading.Lock()
        self._view = _NotebookView() if _in_notebook() else _TerminalView()
        self._show()

    def block(self, key: str, nbytes: int) -> None:
        """Note a stored block; a second time, as of a task that ran again, counts nothing."""
        with self._lock:
            if key in self._seen:
                return
            self._seen.add(key)
            self.done += 1
            self.nbytes += nbytes
            now = time.monotonic()
            if now - self._shown >= _EVERY or self.done >= self.blocks:
                self._shown = now
                self._show()

    def add(self, blocks: int) -> None:
        """Note that more blocks are to come than was known."""
        with self._lock:
            self.blocks += blocks

    def _show(self) -> None:
        seconds = time.monotonic() - self._started
        rate = self.nbytes / seconds / 1e6 if seconds > 0 else 0.0
        minutes, rest = divmod(int(seconds), 60)
        text = (
            f"{self.label}: {self.done:,}/{self.blocks:,} blocks, {self.nbytes / 1e6:,.1f} MB, {rate:,.1f} MB/s, "
            f"{minutes}:{rest:02d}"
        )
        self._view.show(text, min(self.done / self.blocks, 1.0) if self.blocks else 1.0)

    def close(self) -> None:
        """Show the last state, and leave it there."""
        with self._lock:
            self._show()
            self._view.close()


class _TerminalView:
    """One line on standard error, written over itself; where that is no terminal, the first and the last state alone.

    By hand: tqdm writes a line for every state where it has no terminal, as in the logs of jobs.
    """

    def __init__(self) -> None:
        self._interactive = sys.stderr.isatty()
        self._last = ""

    def show(self, text: str, fraction: float) -> None:
        filled = round(fraction * _WIDTH)
        line = f"[{'#' * filled}{' ' * (_WIDTH - filled)}] {text}"
        if self._interactive:
            sys.stderr.write("\r" + line.ljust(len(self._last)))
            sys.stderr.flush()
        elif not self._last:
            sys.stderr.write(line + "\n")
        self._last = line

    def close(self) -> None:
        sys.stderr.write("\n" if self._interactive else self._last + "\n")
        sys.stderr.flush()


class _NotebookView:
    """A bar in the cell's output."""

    def __init__(self) -> None:
        from IPython import display

        module: Any = display
        self._html = module.HTML
        self._handle = module.display(module.HTML(""), display_id=True)

    def show(self, text: str, fraction: float) -> None:
        bar = f'<progress value="{fraction:.4f}" max="1" style="width: 20em"></progress> {html.escape(text)}'
        self._handle.update(self._html(bar))

    def close(self) -> None:
        return


def _in_notebook() -> bool:
    """Return True under a Jupyter kernel, whose output can be changed."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython  # type: ignore[import-not-found,attr-defined,unused-ignore]

    shell = get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
