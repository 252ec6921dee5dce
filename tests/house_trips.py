"""The modules that one call enters, for the calls that everybody makes: run in a process of its own, prints JSON.

Everything is imported before, so that what is counted is functions that run, not modules that load; the input is tiny, the
scheduler synchronous. ``python tests/house_trips.py NAME`` prints the modules of one trip in the order in which it enters them.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import dask
import numpy as np
import xarray as xr

import dask_zv as dzv

PACKAGE = Path(dzv.__file__).parent
BOX = ((5.0, 5.0, 5.0), (60.0, 60.0, 60.0))


@contextmanager
def noted(found: dict[str, list[str]], name: str) -> Iterator[None]:
    """Note the modules of ours whose functions are called inside, in order."""
    entered: dict[str, None] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            entered.setdefault(str(Path(frame.f_code.co_filename).relative_to(PACKAGE)))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        found[name] = list(entered)


def main() -> None:
    for module in pkgutil.walk_packages([str(PACKAGE)], "dask_zv."):
        importlib.import_module(module.name)
    positions = np.random.default_rng(0).uniform(0, 100, (200, 3)).astype(np.float32)
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
        place = Path(folder)
        blobs = dzv.create(place / "blobs.zv", chunk_shape=(50, 50, 50), bounds=((0, 0, 0), (99, 99, 99)))
        group = blobs.level(0).group
        with noted(found, "write_bytes"):
            group.write_bytes("vertices", "0.0.0", b"0" * 12)
        with noted(found, "write_bytes in a batch"), group.batched_writes() as batch:
            batch.write_bytes("vertices", "1.0.0", b"1" * 12)
        store = dzv.create(place / "points.zv", chunk_shape=(50, 50, 50))
        with noted(found, "write_points"):
            dzv.write_points(store, positions)
        with noted(found, "open and read a box"):
            rows = len(dzv.open(place / "points.zv").level(0).read(bbox=BOX))
        with noted(found, "xarray, a box"):
            ds = xr.open_dataset(place / "points.zv", engine="zv")
            loaded = ds.zv.sel(bbox=BOX).load()
        assert rows == loaded.sizes["vertex"] > 0
    print("\n".join(found[sys.argv[1]]) if len(sys.argv) > 1 else json.dumps(found))


if __name__ == "__main__":
    main()
