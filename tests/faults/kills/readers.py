"""The readers beside a write: processes that look at stores when they are told to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from line_process import LineProcess

_HERE = Path(__file__).parent


class Reader(LineProcess):
    """A process that reads stores in some ways, by its name in tables."""

    def __init__(self, name: str, program: str, ways: Sequence[str], **process: Any) -> None:
        self.name, self.ways = name, list(ways)
        super().__init__(_HERE / program, **process)

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
        self.tell(do="poll", target=str(target), known={w: known[f"{self.name} {w}"] for w in ways}, ways=ways)
        try:
            yield seen
        finally:
            self.tell()
            seen.update(self.hear())


def ours(ways: Sequence[str] = ("read", "xarray")) -> Reader:
    """Start a reader of this project: ``Level.read`` and ``xr.open_dataset``."""
    return Reader("dask-zv", "looking.py", ways)


def peer_09() -> Reader:
    """Start a reader of zarr-vectors 0.9.2, in an environment of its own."""
    from peer_env import PEER_09, peer_python

    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    return Reader("zarr-vectors 0.9.2", "looking_09.py", ["read"], python=peer_python(*PEER_09), environment=clean)
