"""Receipts of blocks, as files and as cells of a journal: what writers read back after an interruption.

Checked: an answer has arrays that fit each other, its journal entries are those of the write that is asked for, and where the
checksum of a receipt was not made to fit, it is one of the originals.
"""

from __future__ import annotations

import json
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import dask
import numpy as np
import zstandard
from fuzz_base import FREE, PACKED, Parts, decodes, join_payload, split_payload
from fuzz_corpus import HOSTILE_NAMES

import dask_zv as dzv
from dask_zv.storage.receipts import COLUMNS
from dask_zv.storage.specs import Place
from dask_zv.storage.targets import resolve_target
from dask_zv.write.journal import Journal, find_journal, whole_blocks


@cache
def _folder() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    held = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None, prefix="zv-fuzz-")
    return Path(held.name), held


@cache
def _receipts() -> list[bytes]:
    """Return receipts of the blocks of points, paths, trees, graphs and meshes."""
    rng = np.random.default_rng(5)
    positions = rng.uniform(-30, 30, (24, 3)).astype(np.float32)
    owner = np.repeat(np.arange(4), 6)
    path = _folder()[0] / "receipt"
    out: list[bytes] = []
    plans: list[tuple[str, Any, dict[str, Any]]] = [
        ("point_cloud", dzv.plan_points, {"object_ids": owner, "attributes": {"mass": np.arange(24.0)}}),
        ("polyline", dzv.plan_polylines, {"lengths": [6] * 4}),
        ("skeleton", dzv.plan_skeletons, {"parents": np.where(np.arange(24) % 6, np.arange(24) - 1, -1), "object_ids": owner}),
        ("graph", dzv.plan_graph, {"edges": np.stack([np.arange(1, 24), np.arange(23)], 1)}),
        ("mesh", dzv.plan_meshes, {"faces": np.stack([np.arange(2, 24), np.arange(1, 23), np.arange(22)], 1)}),
    ]
    with dask.config.set(scheduler="sync"):
        for kind, make, options in plans:
            store = dzv.create(_folder()[0] / f"{kind}.zv", geometry=kind, chunk_shape=(20.0,) * 3)
            make(store, positions, **options).run(0).save(path)
            out.append(path.read_bytes())
    return out


def _load(data: bytes) -> Any:
    path = _folder()[0] / "receipt"
    path.write_bytes(data)
    return dzv.load_receipt(path)


def _check(receipt: Any) -> None:
    stored = receipt.result.receipt
    n = len(stored.coords)
    assert type(receipt.block) is int
    assert stored.rows.shape == (n,)
    for columns in stored.arrays.values():
        assert all(columns[kind].shape == (n,) and columns[kind].dtype == dtype for kind, (dtype, _) in COLUMNS.items())
    repr(receipt)


def _other_names(parts: Parts, seed: Parts, rng: random.Random) -> Parts:
    """Now and then a receipt that tells of hostile arrays, so that all else in it holds."""
    if rng.random() < 0.9:
        return parts
    return seed[0], seed[1].replace(b"vertices", json.dumps(rng.choice(HOSTILE_NAMES))[1:-1].encode()), seed[2]


@decodes("receipt", lambda: [split_payload(d) for d in _receipts()], "bjb", refit=_other_names)
def _run_receipt(parts: Parts, seed: Parts) -> None:
    _check(_load(join_payload(parts)))


@decodes("receipt, checksum", lambda: [(d,) for d in _receipts()])
def _run_whole(parts: Parts, seed: Parts) -> None:
    _check(_load(parts[0]))
    assert parts[0] in _receipts(), "the checksum missed it"


def _journal_seeds() -> list[Parts]:
    out: list[Parts] = []
    packer = zstandard.ZstdCompressor(level=1, write_checksum=True)
    for data in _receipts():
        magic, header, arrays = split_payload(data)
        about = json.loads(header)
        about["about"] = {"block": 0, "write": "d" * 32}
        receipt = join_payload((magic, json.dumps(about).encode(), arrays))
        cell = packer.compress((1).to_bytes(4, "little") + len(receipt).to_bytes(4, "little") + receipt)
        attributes = {"zv_array": "dask_zv_journal", "write": "d" * 32, "block_starts": [0, 7, 2**60]}
        document = {"zarr_format": 3, "node_type": "array", "shape": [3], "attributes": attributes}
        out.append((json.dumps(document).encode(), cell))
    return out


@decodes("journal", _journal_seeds, "jb", ratio=2 * PACKED, free=2 * FREE)
def _run_journal(parts: Parts, seed: Parts) -> None:
    level = _folder()[0] / "point_cloud.zv" / "0"
    (level / "dask_zv_journal" / "c").mkdir(parents=True, exist_ok=True)
    (level / "dask_zv_journal" / "zarr.json").write_bytes(parts[0])
    (level / "dask_zv_journal" / "c" / "0").write_bytes(parts[1])
    handle, _ = resolve_target(level.parent)
    place = Place(handle, "0", "grid")
    found = find_journal(place)
    assert found is not None
    assert found.starts.ndim == 1
    results = Journal(place, found.digest, found.starts).read()
    assert set(results) <= {0}
    if parts == seed:
        assert set(results) == {0}, "a whole receipt was passed by"
    for specs in (None, {}):
        assert set(whole_blocks(place, specs, results)) <= set(results)
