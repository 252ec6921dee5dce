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

from dask_zv.errors import StoreError
from dask_zv.storage.objects import Objects, join

__all__ = ["LOCK_NAME", "commit_lock"]

LOCK_NAME = "dask_zv_lock"
LIFETIME = 120.0
"""Seconds until a lock that its owner neither renewed nor released may be taken away."""
_PATIENCE = 600.0


@contextmanager
def commit_lock(objects: Objects, prefix: str) -> Iterator[bool]:
    """Hold the lock of the group at `prefix`; yields False where the store has no such lock.

    Raises
    ------
    StoreError
        Another writer has held it for ten minutes.
    """
    key = join(prefix, LOCK_NAME)
    if objects.nodes_first:
        yield False
        return
    content = _content()
    started = time.monotonic()
    pause = 0.01
    while True:
        made = objects.put_if_absent(key, content)
        if made is None:
            yield False
            return
        if made:
            break
        _take_away_expired(objects, key)
        if time.monotonic() - started > _PATIENCE:
            raise StoreError(
                f"another writer has held the lock '/{key}' for {_PATIENCE / 60:.0f} minutes ({_owner(objects, key)}): "
                "where it is known to be dead, delete that object",
                store=objects.url,
            )
        time.sleep(pause * (0.5 + random.random()))
        pause = min(2 * pause, 1.0)
    held = [content]
    stop = threading.Event()
    renewing = threading.Thread(target=_renew, args=(objects, key, held, stop), daemon=True)
    renewing.start()
    try:
        yield True
    finally:
        stop.set()
        renewing.join()
        # long before its end nobody can have taken it away
        if json.loads(held[0])["expires"] - time.time() > LIFETIME / 2 or objects.get(key) == held[0]:
            objects.delete(key)


def _content(owner: str | None = None) -> bytes:
    owner = owner or f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex[:8]}"
    return json.dumps({"owner": owner, "expires": time.time() + LIFETIME}).encode()


def _renew(objects: Objects, key: str, held: list[bytes], stop: threading.Event) -> None:
    """Put off the end of a lock that is still needed."""
    owner = json.loads(held[0])["owner"]
    while not stop.wait(LIFETIME / 4):
        content = _content(owner)
        held[0] = content
        objects.put(key, content)


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
