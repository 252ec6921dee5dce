"""The readers beside a write: processes that look at stores when they are told to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Reader", "ours", "peer_09"]

_HERE = Path(__file__).parent


class Reader:
    """A process that reads stores.

    Parameters
    ----------
    name : str
        Of the reader, in tables.
    command : sequence of str
    ways : sequence of str
        Ways to read that it knows.
    environment : mapping of str to str
    """

    def __init__(self, name: str, command: Sequence[str], ways: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name, self.ways = name, list(ways)
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(environment)
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the answer to one request."""
        self._tell(request)
        return self._hear()

    def know(self, target: Path) -> dict[str, str]:
        """Return the digests of a store's content by way of reading; empty where this reader can't read such stores."""
        found = self.ask(do="know", target=str(target), ways=self.ways)
        return {} if "failed" in found else found

    def look(self, target: Path, known: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
        """Return [outcome, text] of one look in each way; none where `known` has no way of this reader's."""
        ways = [w for w in self.ways if f"{self.name} {w}" in known]
        request = {"known": {w: known[f"{self.name} {w}"] for w in ways}, "ways": ways}
        return {f"{self.name} {w}": a for w, a in self.ask(do="look", target=str(target), **request).items()} if ways else {}

    @contextmanager
    def watching(self, target: Path, known: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, Any]]:
        """Look again and again inside; what was seen is in the dict afterwards: ``counts`` and ``texts``."""
        ways = [w for w in self.ways if f"{self.name} {w}" in known]
        seen: dict[str, Any] = {}
        if not ways:
            yield seen
            return
        self._tell({"do": "poll", "target": str(target), "known": {w: known[f"{self.name} {w}"] for w in ways}, "ways": ways})
        try:
            yield seen
        finally:
            self._tell({})
            seen.update(self._hear())

    def _tell(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the reader {self.name} ended with status {self._process.wait(10)}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()


def ours(ways: Sequence[str] = ("read", "xarray")) -> Reader:
    """Start a reader of this project: ``Level.read`` and ``xr.open_dataset``."""
    return Reader("dask-zv", [sys.executable, str(_HERE / "looking.py")], ways, os.environ)


def peer_09() -> Reader:
    """Start a reader of zarr-vectors 0.9.2, in an environment of its own."""
    from peer_env import PEER_09, peer_python

    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    return Reader("zarr-vectors 0.9.2", [str(peer_python(*PEER_09)), str(_HERE / "looking_09.py")], ["read"], clean)
