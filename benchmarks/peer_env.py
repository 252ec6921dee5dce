"""Environments of the packages that benchmarks and interoperation tests run beside: made once, kept in ``.venv-peers/``."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PEER_02", "PEER_09", "peer_python"]

PEER_02 = ("zarr-vectors==0.2.0", "obstore")
PEER_09 = ("zarr-vectors==0.9.2", "obstore")
ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv-peers"


def peer_python(*requirements: str) -> Path:
    """Return the interpreter of an environment that has `requirements`, made where there is none yet.

    Raises
    ------
    RuntimeError
        The environment can't be made; with what pip said.
    """
    wanted = "\n".join((sys.version.split()[0], *requirements))
    name = re.sub(r"[^a-z0-9.]+", "-", requirements[0].lower())
    folder = FOLDER / f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "installed"
    FOLDER.mkdir(exist_ok=True)
    with _lock(FOLDER / f"{folder.name}.lock"):
        if stamp.exists() and python.exists():
            return python
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", *requirements])
        stamp.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    # a PYTHONPATH of the caller's would put its packages before those of the environment
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed (exit status {done.returncode}):\n{done.stdout}{done.stderr}")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process at a time make an environment; the others wait and find it made."""
    with path.open("w") as file:
        try:
            import fcntl
        except ImportError:  # no such lock here: two at once would do the work twice
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    print(peer_python(*(sys.argv[1:] or PEER_02)))
