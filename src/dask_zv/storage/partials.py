"""Half-written files of local stores: their names say which process writes them, and so whether anybody still does."""

from __future__ import annotations

import itertools
import os
import re
import socket
import time
import uuid
import zlib
from pathlib import Path

_PARTIAL = re.compile(r"\.([0-9a-f]{32})\.partial\Z")
"""Ends of the names, ours and those of zarr's LocalStore."""
_OLD_SECONDS = 600.0
"""What nobody has written to for so long is a leftover, whoever began it: a file is there for the time of one write."""

_counter = itertools.count()


def _machine() -> str:
    """Return 8 hex digits for what a process id is unique in: a machine since it started, or a container of it."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(path) if "/ns/" in path else Path(path).read_text())  # noqa: PTH115
        except OSError:
            parts.append("")
    return f"{zlib.crc32(' '.join(parts).encode()):08x}"


def _process_token() -> str:
    """Return 20 hex digits: machine, process, and a few that tell it from another that gets its number later."""
    return f"{_machine()}{os.getpid() & 0xFFFFFFFF:08x}{uuid.uuid4().hex[:4]}"


_process = _process_token()


def _after_fork() -> None:
    global _process
    _process = _process_token()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def partial_name(path: str) -> str:
    """Return the name of the file that is written in place of `path` and then renamed; no other put has it."""
    return f"{path}.{_process}{next(_counter):012x}.partial"


def is_partial(name: str) -> bool:
    """Return True if a file's name is that of a half-written one."""
    return name.endswith(".partial") and _PARTIAL.search(name) is not None


def remove_leftovers(folder: str) -> int:
    """Remove the half-written files at and below a folder that no living writer owns; return how many.

    A process of this machine is asked for. Files of other machines and of other tools are left for ten minutes after they
    were last written to.
    """
    removed = 0
    for above, _, names in os.walk(folder):
        for name in names:
            if is_partial(name) and _is_left(f"{above}/{name}"):
                Path(above, name).unlink(missing_ok=True)
                removed += 1
    return removed


def _is_left(path: str) -> bool:
    found = _PARTIAL.search(path)
    assert found is not None
    token = found[1]
    if token.startswith(_process):
        return False
    if token.startswith(_process[:8]) and not _lives(int(token[8:16], 16)):
        return True
    try:
        return time.time() - Path(path).lstat().st_mtime > _OLD_SECONDS
    except FileNotFoundError:
        return False


def _lives(pid: int) -> bool:
    if pid == os.getpid():  # a token of an earlier process that had this number
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
