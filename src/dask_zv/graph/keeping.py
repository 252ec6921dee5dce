"""A first look at lazy input that keeps what it saw, so that a source which is costly runs once.

The parts of the input are looked at in one graph, and what was found in them is merged. Where all parts together fit into a
share of memory, they stay where they are: on a cluster as results that the client holds, on a local scheduler in this process.
The graph that needs them again names them. On a cluster it also says how they are made, under the same keys: a part that went
down with its worker, or whose client is gone, is made again.
"""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
from dask.callbacks import Callback
from dask.task_spec import List, TaskRef
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.graph.builder import GraphBuilder, reduce_tree
from dask_zv.graph.run import (
    WorkersAwaited,
    active_client,
    cluster_memory,
    compute_one,
    current_scheduler,
    end_on_workers,
    seceded,
)

if TYPE_CHECKING:
    from distributed import Client, Future


_CLUSTER_PARTS, _LOCAL_PARTS = 2, 4
_POLL = 0.25
_SAMPLE = 64
_LOCAL_SCHEDULERS = ("dask.threaded", "dask.local", "dask.multiprocessing")
_LOCK = threading.Lock()
_LIVE: WeakSet[Kept] = WeakSet()
_SEEN: dict[str, int] = {}
"""Bytes that the looks of a run have handed on in this process."""
_MADE: ContextVar[list[Kept] | None] = ContextVar("dask_zv_kept", default=None)

_NOTHING: ContextVar[bool] = ContextVar("dask_zv_keep_nothing", default=False)

Arguments = Callable[[GraphBuilder], list[Any]]


class Kept:
    """Parts of one input, for as long as this or a graph with them lives.

    They are on the workers of the client `where` (in this process where that is None), and may have `room` bytes in all.
    """

    def __init__(self, where: Any, room: int) -> None:
        self.where, self.room, self.run = where, room, uuid.uuid4().hex[:12]
        self.nbytes = room  # until all is known, none of it is for others
        self._parts: dict[int, Any] = {}
        self._lock = threading.Lock()
        _LIVE.add(self)
        made = _MADE.get()
        if made is not None:
            made.append(self)

    def add(self, number: int, part: Any) -> None:
        """Keep a part, or the future of one."""
        with self._lock:
            if self.room:
                self._parts[number] = part

    def parts(self, count: int) -> list[Any] | None:
        """Return the parts by their numbers; None where not all of `count` are kept."""
        with self._lock:
            return [self._parts[i] for i in range(count)] if len(self._parts) == count else None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # what is kept is kept here

    def release(self) -> None:
        """Keep nothing from now on."""
        with self._lock:
            self._parts, self.room, self.nbytes = {}, 0, 0


class _Holder:
    """Keeps parts alive as long as a graph lives, without being sent anywhere with it."""

    def __init__(self, kept: Kept | None = None) -> None:
        self.kept = kept

    def __reduce__(self) -> tuple[Any, ...]:
        return _Holder, ()


@dataclasses.dataclass(slots=True)
class LookedAt:
    """What a local scheduler's task found in a part, and the part, until this process has taken it."""

    run: str
    number: int
    found: Any
    part: Any


@contextmanager
def nothing_kept() -> Iterator[None]:
    """Keep nothing of what is looked at inside: it is for other processes to make again."""
    token = _NOTHING.set(True)
    try:
        yield
    finally:
        _NOTHING.reset(token)


@contextmanager
def released_on_failure() -> Iterator[None]:
    """Release what is kept by looks inside if the block raises: a traceback would hold it."""
    made: list[Kept] = []
    token = _MADE.set(made)
    try:
        yield
    except BaseException:
        for kept in made:
            kept.release()
        raise
    finally:
        _MADE.reset(token)


def look_once(
    arguments: Arguments, look: Callable[[int, Any], Any], merge: Callable[[Sequence[Any]], Any], nbytes: int | None = None
) -> tuple[Any, Arguments, Kept | None]:
    """Look at all parts of an input on the active scheduler: `arguments` gives one task argument per part.

    Returns the results of `look` (of number and part), merged on the workers by `merge` (associative); what gives the same
    parts again; and what holds them, where they need not be made again. `nbytes` is that of all parts, where it is known.
    """
    builder = GraphBuilder("zv-scan")
    parts = arguments(builder)
    client = active_client()
    room = _room(client) if builder.lazy and not _NOTHING.get() else 0
    if not room or (nbytes or 0) > room:
        found = compute_one(builder.finish(_merged(builder, [_look(builder, look, i, p) for i, p in enumerate(parts)], merge)))
        return found, arguments, None
    kept = Kept(client, room)
    try:
        if client is None:
            found = _look_here(builder, kept, parts, look, merge)
        else:
            found = _look_on_workers(client, builder, kept, parts, look, merge)
    except BaseException:
        kept.release()
        raise
    if kept.parts(len(parts)) is None:
        kept.release()
        return found, arguments, None
    return found, _Again(arguments, kept, len(parts), builder.run), kept


@dataclasses.dataclass(frozen=True, eq=False)
class _Again:
    """Gives parts that were looked at to another graph."""

    arguments: Arguments
    kept: Kept
    count: int
    run: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (self.arguments,)

    def __call__(self, builder: GraphBuilder) -> list[Any]:
        parts = self.kept.parts(self.count)
        if parts is None:
            return self.arguments(builder)
        builder.share(f"kept-{self.run}", _Holder(self.kept))
        if self.kept.where is None:
            return [builder.payload(part) for part in parts]
        again = zip(parts, self.arguments(builder), strict=True)
        return [builder.add(future.key, owned_part, argument) for future, argument in again]


def _made_again(arguments: Arguments) -> Arguments:
    """Return what makes the parts, for a process in which none is kept."""
    return arguments


def _look(builder: GraphBuilder, look: Callable[..., Any], number: int, part: Any) -> TaskRef:
    return builder.add(builder.key("look", number), look, number, part)


def _merged(builder: GraphBuilder, level: list[TaskRef], merge: Callable[..., Any]) -> str:
    """Add the tasks that merge results; return the key of the last."""
    found = reduce_tree(
        level, lambda depth, i, group: builder.add(builder.key(f"merge{depth}", i), _merge, merge, List(*group))
    )
    return str(found[0].key)


def _merge(merge: Callable[..., Any], found: Sequence[Any]) -> Any:
    return merge([f.found if isinstance(f, LookedAt) else f for f in found])


# ---------------------------------------------------------------------------------------------- in this process


def _look_here(builder: GraphBuilder, kept: Kept, parts: Sequence[Any], look: Any, merge: Any) -> Any:
    task = partial(_look_and_hand_on, kept.run, kept.room, look)
    level = [_look(builder, task, i, part) for i, part in enumerate(parts)]
    total = [0]

    def posttask(key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        if not isinstance(result, LookedAt) or result.run != kept.run:
            return
        total[0] += 0 if result.part is None else nbytes_of(result.part)
        if result.part is None or total[0] > kept.room:
            kept.release()
        kept.add(result.number, result.part)
        result.part = None  # tasks that take the result want what was found alone

    try:
        with Callback(posttask=posttask):
            found = compute_one(builder.finish(_merged(builder, level, merge)))
    finally:
        _SEEN.pop(kept.run, None)
    kept.nbytes = total[0] if kept.room else 0
    return found.found if isinstance(found, LookedAt) else found


def _look_and_hand_on(run: str, room: int, look: Callable[..., Any], number: int, part: Any) -> LookedAt:
    found = look(number, part)
    with _LOCK:  # a pool of processes need not send what no longer fits
        _SEEN[run] = total = _SEEN.get(run, 0) + nbytes_of(part)
    return LookedAt(run, number, found, owned_part(part) if total <= room else None)


# ---------------------------------------------------------------------------------------------- on a cluster


def _look_on_workers(client: Client, builder: GraphBuilder, kept: Kept, parts: Sequence[Any], look: Any, merge: Any) -> Any:
    refs = [builder.add(builder.key("part", i), owned_part, part) for i, part in enumerate(parts)]
    end = _merged(builder, [_look(builder, look, i, ref) for i, ref in enumerate(refs)], merge)
    futures: list[Future[Any]] = list(client.get(builder.tasks, [end, *(ref.key for ref in refs)], sync=False))
    last = futures.pop(0)
    for number, future in enumerate(futures):
        kept.add(number, future)
    sizes: dict[Any, int] = {}
    awaited = WorkersAwaited(client)
    with seceded():
        try:
            while _pending(last):
                awaited.check()
                if kept.room and sum(_learn_sizes(client, sizes, futures).values()) > kept.room:
                    kept.release()
                    futures.clear()
            found = last.result()
        except BaseException as error:
            for future in futures:
                future.release()
            end_on_workers(client, [last], builder.tasks, error)
            raise
    kept.nbytes = sum(_learn_sizes(client, sizes, futures).values()) if futures else 0
    if kept.nbytes > kept.room:
        kept.release()
    return found


def _pending(future: Future[Any]) -> bool:
    """Wait for a future for a moment; return True if it is not done."""
    from distributed import TimeoutError as NotYet
    from distributed import wait

    try:
        wait(future, timeout=_POLL)
    except NotYet:
        return True
    return False


def _learn_sizes(client: Client, sizes: dict[Any, int], futures: Sequence[Future[Any]]) -> dict[Any, int]:
    """Add the bytes of those parts that are there by now."""
    new = [f.key for f in futures if f.status == "finished" and f.key not in sizes]
    if new:
        sizes.update({key: max(int(size), 0) for key, size in client.nbytes(new, summary=False).items()})
    return sizes


# ---------------------------------------------------------------------------------------------- memory


def _room(client: Client | None) -> int:
    """Return the bytes that may be kept now, beside what is kept already."""
    room = settings().keep_input
    if room is None:
        room = _room_here() if client is None else (cluster_memory() or 0) // _CLUSTER_PARTS
    get = current_scheduler()
    if client is None and get is not None and getattr(get, "func", get).__module__ not in _LOCAL_SCHEDULERS:
        return 0  # a scheduler of others, which may not tell of its tasks
    return max(room - sum(kept.nbytes for kept in list(_LIVE) if kept.where is client), 0)


def _room_here() -> int:
    import psutil  # type: ignore[import-untyped]

    free = int(psutil.virtual_memory().available)
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            free = min(free, int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return free // _LOCAL_PARTS


def owned_part(part: Any) -> Any:
    """Return a part whose arrays hold no larger ones in memory."""
    return dataclasses.replace(part, **{f.name: _owned(getattr(part, f.name)) for f in dataclasses.fields(part)})


def _owned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _owned(column) for name, column in value.items()}
    base = getattr(value, "base", None)
    return value.copy() if isinstance(base, np.ndarray) and base.nbytes > 2 * value.nbytes else value


def nbytes_of(part: Any) -> int:
    """Return the bytes of a part's arrays; of objects, by a sample."""
    columns: list[NDArray[Any]] = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        columns += value.values() if isinstance(value, dict) else [value]
    return sum(c.nbytes + (_bytes_of_objects(c) if c.dtype == object else 0) for c in columns) + 200


def _bytes_of_objects(column: NDArray[Any]) -> int:
    some = column.reshape(-1)[:: max(column.size // _SAMPLE, 1)]
    return int(sum(value.__sizeof__() for value in some.tolist())) * column.size // max(len(some), 1)
