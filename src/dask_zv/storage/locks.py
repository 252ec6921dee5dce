"""An advisory lock for the moment of a commit: two writers of one level take turns in changing its metadata.

The lock is the object ``dask_zv_lock`` beside the arrays, made by exclusive creation. Its owner writes it anew every quarter of
its lifetime. Whoever waits takes it away when it has stayed as it is for longer than that lifetime *while it was watched*, or
at once where its owner was a process of the same machine that is gone. No machine's time of day is compared with another's,
so clocks that differ neither break the lock nor make a dead owner's last. Most packages of fsspec look for the object and then
write it, so that two who begin at the same moment may both have the lock; others can't create exclusively (zip, and packages
whose puts take no such condition): in both a commit looks at the end whether what it wrote is still there. Icechunk's
transactions need no lock.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dask_zv.config import settings
from dask_zv.errors import PlanError, StoreError
from dask_zv.format.keys import join
from dask_zv.storage.objects import Objects

LOCK_NAME = "dask_zv_lock"
_SLACK = 1.25
"""How much longer than that others watch it before they take it away: what its owner began in time ends meanwhile."""
_LOG = logging.getLogger("dask_zv.storage")


class Hold:
    """What the owner of a lock knows of it; false where the store has no lock."""

    def __init__(self, objects: Objects, key: str, owner: str, renewed: float) -> None:
        self._objects = objects
        self._key = key
        self.owner = owner
        self.lost = False
        self._renewed = renewed

    def __bool__(self) -> bool:
        return bool(self.owner)

    def check(self) -> None:
        """Raise where the lock may no longer be this owner's: its machine slept, or the store did not answer."""
        if self and (self.lost or _now() - self._renewed > settings().lock_lifetime):
            raise PlanError(
                f"the lock '/{self._key}' was lost during the commit (the machine was suspended, or the store did not answer "
                "for a minute): only the commit of this write is lost; write again",
                store=self._objects.url,
            )

    def renew(self, stop: threading.Event) -> None:
        """Write the lock anew while it is needed."""
        turn = 0
        while not stop.wait(settings().lock_lifetime / 4):
            turn += 1
            try:
                if _parse(self._objects.get(self._key)).get("owner") != self.owner:
                    self.lost = True
                    return
                at = _now()
                self._objects.put(self._key, _content(self.owner, turn))
                self._renewed = at
            except StoreError:  # the next attempt may go through before the end; check() tells where none does
                continue

    def release(self) -> None:
        """Remove the lock where it is still this owner's."""
        try:
            # long before its end nobody can have taken it away
            young = _now() - self._renewed < settings().lock_lifetime / 2
            if not self.lost and (young or _parse(self._objects.get(self._key)).get("owner") == self.owner):
                self._objects.delete(self._key)
        except StoreError as error:  # what was done under it is done, and failing now would say otherwise
            _LOG.warning(
                "the lock '/%s' stays behind: the next writer takes it away after %.0f s (%s)",
                self._key, _SLACK * settings().lock_lifetime, error,
            )  # fmt: skip


class _Watch:
    """How long a lock has stayed as it is, by this machine's clock, and by whom it is held."""

    def __init__(self) -> None:
        self._content: bytes | None = None
        self._since = 0.0
        self.owner = ""
        self.owned_since = _now()

    def sees_dead(self, content: bytes) -> bool:
        """Take note of the lock as it is now; tell whether its owner is dead."""
        found = _parse(content)
        now = _now()
        if content != self._content:
            self._content, self._since = content, now
        if (owner := str(found.get("owner", "unknown"))) != self.owner:
            self.owner, self.owned_since = owner, now
        lifetime = found.get("lifetime")
        if isinstance(lifetime, int | float):
            return now - self._since > _SLACK * lifetime or _has_ended(found)
        expires = found.get("expires")  # of a release that went by the time of day
        return not isinstance(expires, int | float) or time.time() > expires


@contextmanager
def commit_lock(objects: Objects, prefix: str, of: str = "") -> Iterator[Hold]:
    """Hold the lock of the group at `prefix`, or of a part of it; what it yields is false where the store has no such lock."""
    key = join(prefix, LOCK_NAME + of)
    if objects.nodes_first:
        yield Hold(objects, key, "", 0.0)
        return
    owner = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex[:8]}"
    watch, claims = _Watch(), _Watch()
    pause = 0.01
    while True:
        began = _now()
        made = objects.put_if_absent(key, _content(owner))
        if made is None:
            yield Hold(objects, key, "", 0.0)
            return
        if made:
            break
        _take_away_dead(objects, key, watch, claims)
        if pause >= 1.0 and objects.get(key) is None and objects.list_dir(key):
            raise StoreError(f"'/{key}' is not a lock, but something else: remove it", store=objects.url)
        if _now() - watch.owned_since > settings().lock_patience:
            raise StoreError(
                f"another writer has held the lock '/{key}' for {settings().lock_patience / 60:.0f} minutes ({watch.owner}): "
                "if it is known to be dead, delete that object",
                store=objects.url,
            )
        time.sleep(pause * (0.5 + random.random()))
        pause = min(2 * pause, 1.0)
    hold = Hold(objects, key, owner, began)
    stop = threading.Event()
    renewing = threading.Thread(target=hold.renew, args=(stop,), daemon=True)
    renewing.start()
    try:
        yield hold
    finally:
        stop.set()
        renewing.join()
        hold.release()


def _take_away_dead(objects: Objects, key: str, watch: _Watch, claims: _Watch) -> None:
    """Remove a lock whose owner is dead.

    Of all who wait for it one may, and looks again: another may have removed it already, and hold the next one.
    """
    content = objects.get(key)
    if content is None or not watch.sees_dead(content):
        return
    claim = f"{key}_expired"
    if not objects.put_if_absent(claim, _content(uuid.uuid4().hex)):
        other = objects.get(claim)
        if other is not None and claims.sees_dead(other):  # who claimed it died as well
            objects.delete(claim)
        return
    try:
        if objects.get(key) == content:
            objects.delete(key)
    finally:
        objects.delete(claim)


def claim_of(owner: str) -> bytes:
    """Return what says that something is being done by `owner`, in this process."""
    return _content(owner)


def claimed_by(content: bytes | None) -> str:
    """Return who is at what a claim speaks of; empty for nobody, or a process of this machine that is gone."""
    found = _parse(content)
    return "" if _has_ended(found) else str(found.get("owner", ""))


def _content(owner: str, turn: int = 0) -> bytes:
    """Return the lock of an owner; the time of day in it is for people."""
    pid = os.getpid()
    until = {"expires": time.time() + settings().lock_lifetime, "lifetime": settings().lock_lifetime, "renewed": turn}
    return json.dumps({"owner": owner, **until, "machine": _machine(), "pid": pid, "began": _began(pid)}).encode()


def _parse(content: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _now() -> float:
    """Return seconds of this machine that nobody sets, those in which it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _machine() -> str:
    """Return what tells the running kernel and its process numbers from all others; empty where there is no such thing."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - its text, not a path
    except OSError:
        return ""


def _began(pid: int) -> int | None:
    """Return when a process began, by the kernel's count; 0 where it has ended, None where that can't be known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def _has_ended(found: dict[str, Any]) -> bool:
    """Return True if the owner of a lock is a dead process of this machine."""
    pid, machine = found.get("pid"), found.get("machine")
    if type(pid) is not int or pid <= 0 or not machine or machine != _machine():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's: it lives
        return False
    began = _began(pid)  # its number may be another's by now
    return began is not None and found.get("began") is not None and began != found["began"]
