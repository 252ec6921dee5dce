"""An advisory lock for the moment of a commit: two writers of one level take turns in changing its metadata.

The lock is the object ``dask_zv_lock`` beside the arrays, made by exclusive creation; it names its owner and when it expires,
so that a writer that died holds up the others for a while and not for ever. Stores that can't create exclusively (fsspec's,
zip) have none: there a commit looks at the end whether what it wrote is still there. Icechunk's transactions need none.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from dask_zv.errors import PlanError, StoreError
from dask_zv.storage.objects import Objects, join

__all__ = ["LOCK_NAME", "Hold", "commit_lock"]

LOCK_NAME = "dask_zv_lock"
LIFETIME = 120.0
"""Seconds until a lock that its owner neither renewed nor released may be taken away."""
_PATIENCE = 600.0


class Hold:
    """What the owner of a lock knows of it; false where the store has no lock."""

    def __init__(self, objects: Objects, key: str, content: bytes) -> None:
        self._objects = objects
        self._key = key
        self.content = content
        self.lost = False

    def __bool__(self) -> bool:
        return bool(self.content)

    @property
    def expires(self) -> float:
        """When others may take the lock away, in seconds since the epoch."""
        return float(json.loads(self.content)["expires"])

    def check(self) -> None:
        """Raise where the lock is no longer this owner's: its machine slept, or its clock is minutes off the others'.

        Raises
        ------
        PlanError
            Nothing more may be committed under it.
        """
        if self and (self.lost or time.time() > self.expires):
            raise PlanError(
                f"the lock '/{self._key}' was lost during the commit (the machine was suspended, or the store did not answer "
                "for minutes): nothing of this write is lost but its commit; write again",
                store=self._objects.url,
            )

    def renew(self, stop: threading.Event) -> None:
        """Put off the end of the lock while it is needed."""
        owner = json.loads(self.content)["owner"]
        while not stop.wait(LIFETIME / 4):
            try:
                if self._objects.get(self._key) != self.content:
                    self.lost = True
                    return
                content = _content(owner)
                self._objects.put(self._key, content)
                self.content = content
            except StoreError:  # the next attempt may go through before the end; check() tells where none does
                continue

    def release(self) -> None:
        """Remove the lock where it is still this owner's."""
        # long before its end nobody can have taken it away
        if not self.lost and (self.expires - time.time() > LIFETIME / 2 or self._objects.get(self._key) == self.content):
            self._objects.delete(self._key)


@contextmanager
def commit_lock(objects: Objects, prefix: str) -> Iterator[Hold]:
    """Hold the lock of the group at `prefix`; what it yields is false where the store has no such lock.

    Clocks of writers on several machines must agree within a minute.

    Raises
    ------
    StoreError
        Another writer has held it for ten minutes, or something that is no lock is in its place.
    """
    key = join(prefix, LOCK_NAME)
    if objects.nodes_first:
        yield Hold(objects, key, b"")
        return
    content = _content()
    started = time.monotonic()
    pause = 0.01
    while True:
        made = objects.put_if_absent(key, content)
        if made is None:
            yield Hold(objects, key, b"")
            return
        if made:
            break
        _take_away_expired(objects, key)
        if pause >= 1.0 and objects.get(key) is None and objects.list_dir(key):
            raise StoreError(f"'/{key}' is no lock, but something else: remove it", store=objects.url)
        if time.monotonic() - started > _PATIENCE:
            raise StoreError(
                f"another writer has held the lock '/{key}' for {_PATIENCE / 60:.0f} minutes ({_owner(objects, key)}): "
                "where it is known to be dead, delete that object",
                store=objects.url,
            )
        time.sleep(pause * (0.5 + random.random()))
        pause = min(2 * pause, 1.0)
    hold = Hold(objects, key, content)
    stop = threading.Event()
    renewing = threading.Thread(target=hold.renew, args=(stop,), daemon=True)
    renewing.start()
    try:
        yield hold
    finally:
        stop.set()
        renewing.join()
        hold.release()


def _content(owner: str | None = None) -> bytes:
    owner = owner or f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex[:8]}"
    return json.dumps({"owner": owner, "expires": time.time() + LIFETIME}).encode()


def _take_away_expired(objects: Objects, key: str) -> None:
    """Remove a lock whose owner is dead.

    Of all who wait for it one may, and looks again: another may have removed it already, and hold the next one.
    """
    content = objects.get(key)
    if content is None or not _is_expired(content):
        return
    claim = f"{key}_expired"
    if not objects.put_if_absent(claim, _content()):
        other = objects.get(claim)
        if other is not None and _is_expired(other):  # who claimed it died as well
            objects.delete(claim)
        return
    try:
        if objects.get(key) == content:
            objects.delete(key)
    finally:
        objects.delete(claim)


def _is_expired(content: bytes) -> bool:
    try:
        return time.time() > float(json.loads(content)["expires"])
    except (ValueError, KeyError, TypeError):
        return True  # no lock of ours, or a damaged one


def _owner(objects: Objects, key: str) -> str:
    content = objects.get(key)
    try:
        return str(json.loads(content or b"{}").get("owner", "unknown"))
    except (ValueError, AttributeError):
        return "unknown"
