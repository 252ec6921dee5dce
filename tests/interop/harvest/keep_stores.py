"""A pytest plugin that keeps every ZV store that a test writes: as it is whenever the package opens it, and as the test leaves it.

    HARVEST_FOLDER=... pytest -p keep_stores --basetemp=...

Runs in an environment that has the ZV package, and not this project. Each state is a folder of HARVEST_FOLDER/stores; states with
the same files are kept once. ``stores.jsonl`` says which test each is of.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
import zarr_vectors
import zarr_vectors.core.store as peer_store
from zarr.storage import MemoryStore

MOST_BYTES = 64_000_000
SECONDS = 45
"""For a test: some never end (synchronous spellings of a lazy writer)."""
FOLDER = Path(os.environ["HARVEST_FOLDER"])


class Keeper:
    """Puts stores aside, each content once."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.looked: dict[Path, tuple[object, ...]] = {}
        self.test = "collection"
        (FOLDER / "stores").mkdir(parents=True, exist_ok=True)

    def keep(self, files: dict[str, bytes]) -> None:
        digest = hashlib.sha256()
        for name, data in sorted(files.items()):
            digest.update(f"{name} {len(data)} ".encode())
            digest.update(data)
        if digest.hexdigest() in self.seen:
            return
        self.seen.add(digest.hexdigest())
        number = f"{len(self.seen):05d}"
        for name, data in files.items():
            path = FOLDER / "stores" / number / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        with (FOLDER / "stores.jsonl").open("a") as log:
            log.write(json.dumps({"store": number, "test": self.test, "bytes": sum(map(len, files.values()))}) + "\n")

    def keep_folder(self, root: Path) -> None:
        listed = [p for p in root.rglob("*") if p.is_file()]
        state = tuple(sorted((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in listed))
        if self.looked.get(root) == state or sum(s for _, s, _ in state) > MOST_BYTES:
            return
        self.looked[root] = state
        self.keep({p.relative_to(root).as_posix(): p.read_bytes() for p in listed})

    def keep_memory(self) -> None:
        for found in gc.get_objects():
            if type(found) is MemoryStore:
                files = {k: bytes(v.as_numpy_array()) for k, v in dict(found._store_dict).items()}
                for root in [k.removesuffix("zarr.json") for k, v in files.items() if k.endswith("zarr.json") and is_root(v)]:
                    self.keep({k.removeprefix(root): v for k, v in files.items() if k.startswith(root)})

    def keep_below(self, folder: Path) -> None:
        for document in folder.rglob("zarr.json"):
            if is_root(document.read_bytes()):
                self.keep_folder(document.parent)


def is_root(document: bytes) -> bool:
    with contextlib.suppress(ValueError, AttributeError):
        return "zarr_vectors" in json.loads(document).get("attributes", {})
    return False


keeper = Keeper()
temporary = Path(os.environ["HARVEST_FOLDER"]) / "temporary"
temporary.mkdir(parents=True, exist_ok=True)
tempfile.tempdir = str(temporary)


def keeping(function):
    @functools.wraps(function)
    def wrapper(path, *args, **kwargs):
        if isinstance(path, (str, Path)):
            root = Path(str(path).removeprefix("file://"))
            with contextlib.suppress(OSError):  # files that another thread of the test removes
                if (root / "zarr.json").is_file() and is_root((root / "zarr.json").read_bytes()):
                    keeper.keep_folder(root)
        return function(path, *args, **kwargs)

    return wrapper


def pytest_collection_finish() -> None:
    original = peer_store.open_store
    patched = keeping(original)
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()) if module else ():
            if value is original:
                setattr(module, name, patched)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    signal.alarm(0)
    with contextlib.suppress(OSError):
        for name in ("tmp_path", "tmpdir", "tmp_store_path", "tmp_dir"):
            if name in getattr(item, "funcargs", {}):
                keeper.keep_below(Path(item.funcargs[name]))
        keeper.keep_below(temporary)
        keeper.keep_memory()
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    keeper.test = item.nodeid
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(SECONDS)


def _stop(*_):
    raise TimeoutError(f"the test took more than {SECONDS} s")


def pytest_report_header() -> str:
    return f"keeps stores of zarr-vectors {getattr(zarr_vectors, '__version__', '?')} in {FOLDER}"
