"""What ``dzv.validate`` says of stores that the packages write, and what they read of a store that ``dzv.repair`` mended."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from geometry_exchange import exchange_with
from our_points import attributes_of, objects_of, points_of, same, write
from peer_client import SPURIOUS, Exchange, recipes_in, start_peer

import dask_zv as dzv

STORES = [
    ("0.9", "points", recipes_in("peer_09_recipes")),
    ("0.9", "others", recipes_in("peer_09_geometry_recipes", "GEOMETRY_RECIPES")),
    ("0.2", "points", recipes_in("peer_02_recipes")),
    ("0.2", "others", recipes_in("peer_02_recipes", "GEOMETRY_RECIPES")),
]
TRUE = {("0.9", "skeletons_mixed"): {"trees"}}
"""Its writer of several skeletons links nodes that are neighbours in the input, and so makes circles."""
NOT_COUNTED = ("built", "one_by_one", "streamed", "skeleton_chunked")


def turned(faces: np.ndarray) -> int:
    """Return at how many edges two faces run the same way, by what is read."""
    sides = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)
    edges, number, times = np.unique(np.sort(sides, axis=1), axis=0, return_inverse=True, return_counts=True)
    ahead = np.bincount(number.reshape(-1), sides[:, 0] < sides[:, 1], len(edges))
    return int(((times == 2) & (ahead != 1)).sum())


@pytest.mark.parametrize(("generation", "what", "names"), STORES, ids=lambda v: v if isinstance(v, str) else "")
def test_no_false_alarm_about_its_stores(generation, what, names):
    exchange = exchange_with(generation) if what == "others" else Exchange(start_peer(generation), None)
    wrong = {}
    for name in names:
        path = exchange.theirs(name)[0]
        found = dzv.validate(path)
        if {f.rule for f in found.errors} != TRUE.get((generation, name), set()):
            wrong[name] = found
        if any(f.rule == "counts" for f in found.findings) and not name.startswith(NOT_COUNTED):
            wrong[name] = found
        told = next((f.message for f in found.findings if f.rule == "winding"), None)
        faces = dzv.open(path).level(0).read().faces
        same_way = turned(faces) if faces is not None else 0
        if (told is not None) != (same_way > 0):
            wrong[name] = found, same_way
    assert wrong == {}


@pytest.mark.parametrize("generation", ["0.9", "0.2"])
def test_it_reads_what_was_repaired(generation, tmp_path):
    """A store of ours that lost a chunk, and its copy; and one of its own."""
    layout = "grid" if generation == "0.9" else "per_chunk"
    peer, exchange = start_peer(generation), Exchange(start_peer(generation), None)
    columns = {k: attributes_of()[k] for k in ("mass", "count")}
    write(tmp_path / "ours.zv", points_of(), attributes=columns, layout=layout, **objects_of(layout))
    paths = {"ours": tmp_path / "ours.zv"}
    own = "objects" if generation == "0.9" else recipes_in("peer_02_recipes")[0]
    exchange.copy(own, tmp_path / "theirs.zarrvectors")
    paths["theirs"] = tmp_path / "theirs.zarrvectors"
    for path in paths.values():
        copy = path.with_name(f"{path.stem}-copy")
        shutil.copytree(path, copy)
        before = dzv.open(copy).level(0).read()
        lost = sorted(p for p in (path / "0/vertices").rglob("*") if p.is_file() and p.name != "zarr.json")[0]
        lost.write_bytes(lost.read_bytes()[:5])
        assert not dzv.validate(path).ok
        assert dzv.repair(path, source=copy).ok
        after, _ = peer.arrays("read", path=path, attributes=[])
        same(after["positions"], before.positions)
        assert set(peer.call("validate", path=path)["errors"]) <= SPURIOUS[generation]
