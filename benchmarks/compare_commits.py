"""The stores that two commits of this repository write, compared object by object.

The same input goes through the library of either commit (a git worktree of each, a process of its own with ``PYTHONPATH``):
every geometry, layout and packing, and what changes a store afterwards. Names and bytes of all stored objects must be the
same; only the catalog's stamps of objects (times of change, entity tags) may differ::

    python benchmarks/compare_commits.py 6e25083 HEAD
    python benchmarks/compare_commits.py v1.0 HEAD --only "mesh grid" --keep /tmp/stores

It prints a table and ends with 1 where a store differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
N = 1500
CHUNK = (25.0, 25.0, 25.0)
PACKINGS: dict[str, dict[str, Any]] = {
    "grid single": {"layout": "grid", "shard_chunks": 1},
    "grid packed": {"layout": "grid", "shard_chunks": 8},
    "grid auto blosc": {"layout": "grid", "compressor": "blosc"},
    "grid packed raw": {"layout": "grid", "shard_chunks": 27, "compressor": None},
    "per_chunk single": {"layout": "per_chunk", "shard_chunks": 1},
    "per_chunk packed": {"layout": "per_chunk", "shard_chunks": 8},
    "per_chunk auto": {"layout": "per_chunk"},
}

# ------------------------------------------------------------------------------------------------------------- what is written


def inputs() -> dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Return for each kind of data its geometry, its writing function, the arguments, and those of ``create``."""
    import dask.array as da
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(18)
    positions = rng.uniform(-40, 60, (N, 3)).astype(np.float32)
    flat = rng.uniform(0, 90, (N, 2))
    rows = np.arange(N)
    steps = rng.normal(0, 4, (N, 3)).astype(np.float32)
    lengths = np.array([1, 2, 70, 300, 127, 400, 600])
    paths = np.concatenate([p.cumsum(axis=0) for p in np.split(steps, np.cumsum(lengths)[:-1])])
    parents = np.where(rows % 300 == 0, -1, rows - 1 - (rows % 7 == 0) * (rows % 300 > 9) * 5)
    words = np.array(["soma", "axon", None], object)[rows % 3]
    vertex = {
        "mass": rng.normal(size=N),
        "color": rng.integers(0, 255, (N, 3)).astype(np.uint8),
        "kind": words,
        "flag": rows % 2 == 0,
        "when": (np.datetime64("2026-01-01", "s") + rows).astype("datetime64[s]"),
    }
    numbers = {"object_attributes": pd.DataFrame({"size": np.arange(5.0), "n": range(5)}), "groups": {0: [0, 3], 1: [], 2: [4]}}
    texts = {"object_attributes": pd.DataFrame({"size": np.arange(5.0), "name": list("abcde")}), "groups": {0: [1]}}
    of_paths = {"object_attributes": pd.DataFrame({"n": lengths}), "groups": {0: [6, 1], 1: [0, 1, 2]}}
    edges = np.stack([rows[:-9], rows[9:]], axis=1)
    weights = {"w": rng.normal(size=len(edges)), "pair": rng.integers(0, 9, (len(edges), 2))}
    faces = rng.integers(0, N, (700, 3))
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])]
    lazy = da.from_array(positions, chunks=(400, 3))
    lazily = {name: da.from_array(v, chunks=(400, *v.shape[1:])) for name, v in vertex.items() if name != "when"}
    bins = {"bin_shape": (5.0, 12.5, 25.0), "bounds": ((-50, -50, -50), (75, 75, 75))}
    lazy_paths, ids = da.from_array(paths, chunks=(400, 3)), da.from_array(rows % 5, 400)
    lazy_trees = {"parents": da.from_array(parents, 400), "object_ids": da.from_array(rows // 300, 400)}
    lazy_edges = {"edges": da.from_array(edges, chunks=(300, 2)), "object_ids": ids}
    trees = {"parents": parents, "object_ids": rows // 300}
    microns = {"axes": [{"name": n, "type": "space", "unit": "micrometer"} for n in "xyz"]}
    ends = positions[: N - N % 2].reshape(-1, 2, 3)
    given: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = [
        ("points", "point_cloud", "points", {"positions": positions, "attributes": vertex}, {}),
        ("points in bins, lazy", "point_cloud", "points", {"positions": lazy, "attributes": lazily}, bins),
        ("points 2-D", "point_cloud", "points", {"positions": flat}, {"chunk_shape": (10.0, 30.0), "axes": ["y", "x"]}),
        (
            "points of objects",
            "point_cloud",
            "points",
            {"positions": lazy, "object_ids": ids, "attributes": lazily, **numbers},
            {},
        ),
        ("points of named objects", "point_cloud", "points", {"positions": positions, "object_ids": rows % 5, **texts}, {}),
        ("lines", "line", "lines", {"endpoints": ends}, {}),
        ("polylines", "polyline", "polylines", {"positions": paths, "lengths": lengths, "attributes": vertex, **of_paths}, {}),
        ("streamlines, lazy", "streamline", "polylines", {"positions": lazy_paths, "lengths": lengths, **of_paths}, microns),
        ("skeletons", "skeleton", "skeletons", {"positions": paths, **trees, "attributes": vertex, **texts}, {}),
        ("skeletons, lazy", "skeleton", "skeletons", {"positions": lazy_paths, **lazy_trees}, {}),
        (
            "graph",
            "graph",
            "graph",
            {"positions": positions, "edges": edges, "edge_attributes": weights, "attributes": vertex},
            {},
        ),
        ("graph of objects, lazy", "graph", "graph", {"positions": lazy, **lazy_edges, **numbers}, {}),
        ("mesh", "mesh", "meshes", {"positions": positions, "faces": faces, "object_ids": rows * 0, "attributes": vertex}, {}),
    ]
    return {name: tuple(rest) for name, *rest in given}  # type: ignore[misc]


def changes() -> dict[str, Callable[[Any, Path], None]]:
    """Return what is done to a store of points or skeletons after it was written, by name."""
    import dask.array as da
    import numpy as np

    import dask_zv as dzv

    def overwrite(store: Any, _: Path) -> None:
        positions = np.random.default_rng(1).uniform(-30, 40, (500, 3)).astype(np.float32)
        dzv.write_points(store, da.from_array(positions, chunks=(200, 3)), mode="overwrite")

    def group_writes(store: Any, _: Path) -> None:
        group = store.level(0).group
        key, other = group.list_chunks("vertices")[:2]
        with group.batched_writes():
            for array in ("vertices", "vertex_fragments"):
                group.write_bytes(array, other, b"")
        group.write_bytes("vertices", key, group.read_bytes("vertices", key))
        group.write_array_meta("vertex_attributes/new", {"dtype": "uint8", "zv_array": "attribute", "name": "new"})

    def refresh(store: Any, _: Path) -> None:
        dzv.open(store.url, mode="r+").refresh()

    def expand(store: Any, _: Path) -> None:
        dzv.open(store.url, mode="r+").expand(((-200, -200, -200), (200, 200, 200)))

    def convert(**more: Any) -> Callable[[Any, Path], None]:
        return lambda store, folder: dzv.convert(store.url, folder / "converted.zv", **more) and None

    return {
        "overwrite": overwrite,
        "group writes": group_writes,
        "refresh": refresh,
        "expand": expand,
        "convert to grid": convert(layout="grid", shard_chunks=8),
        "convert to per_chunk": convert(layout="per_chunk", shard_chunks=1),
        "convert packing": convert(shard_chunks=8),
    }


def write_all(folder: Path, only: str) -> None:
    """Write every case into a folder of its own; what is refused is noted, so that the refusals are compared as well."""
    import dask

    import dask_zv as dzv

    given = inputs()
    linked = ("skeletons", "graph", "mesh")
    cases = [
        (f"{kind} / {packing}", kind, packing, "")
        for kind in given
        for packing in PACKINGS
        if not kind.startswith(linked) or packing.startswith("grid") or packing == "per_chunk single"  # which is refused
    ]
    for change in changes():
        for packing in PACKINGS:
            kind = "skeletons" if change == "convert packing" else "points of objects" if "convert" in change else "points"
            cases.append((f"{change} / {packing}", kind, packing, change))
    # blocks of a few kilobytes, where the commit has settings: what is stored does not depend on how it is cut
    small = {"dask_zv.write-block-bytes": (4000, 9000), "dask_zv.write-block-chunks": 16}
    with dask.config.set({"scheduler": "sync", **small}):
        for name, kind, packing, change in cases:
            if only not in name:
                continue
            geometry, function, arguments, creation = given[kind]
            here = folder / name.replace(" / ", "--").replace(" ", "_")
            here.mkdir(parents=True)
            try:
                options = {"chunk_shape": CHUNK, "geometry": geometry, **PACKINGS[packing], **creation}
                store = dzv.create(here / "s.zv", **options)
                getattr(dzv, f"write_{function}")(store, **arguments)
                if change:
                    changes()[change](store, here)
            except Exception as error:  # noqa: BLE001 - compared like what is stored
                (here / "error.txt").write_text(type(error).__name__)
                print(f"{name}: {error}", file=sys.stderr)


# ------------------------------------------------------------------------------------------------------------- the comparison


def without_stamps(payload: bytes) -> Any:
    """Return a catalog's header and columns but for its stamps, and the identities of documents, which are times too."""
    end = 12 + int.from_bytes(payload[8:12], "little")
    header = json.loads(payload[12:end])
    columns: dict[str, Any] = {}
    for column in header["columns"]:
        nbytes = column.pop("nbytes", 0)
        frame, end = payload[end : end + nbytes], end + nbytes
        if not column["name"].startswith("stamp:"):
            columns[column["name"]] = column, frame
    return payload[:8], columns, {name: node["document"] for name, node in header["nodes"].items()}


def objects_of(folder: Path) -> dict[str, Any]:
    """Return all files of a case, those of catalogs without their stamps."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name, data = str(path.relative_to(folder)), path.read_bytes()
        # the catalog's document tells its length, which depends on how well stamps compress
        if "dask_zv_catalog/" in name:
            found[name] = (
                without_stamps(data) if "/c/" in name else sorted(json.loads(data)["attributes"].keys() - {"payload_crc32c"})
            )
        else:
            found[name] = data
    return found


def differences(old: Path, new: Path) -> list[str]:
    """Return what differs between two cases, a line for each stored object."""
    before, after = objects_of(old), objects_of(new)
    lines = [f"only in the old: {n}" for n in before.keys() - after.keys()] + [
        f"only in the new: {n}" for n in after.keys() - before.keys()
    ]
    return sorted(lines) + [f"differs: {n}" for n in before if n in after and before[n] != after[n]]


def written_by(commit: str, folder: Path, only: str) -> Path:
    """Let a commit write all cases; return their folder."""
    tree, stores = folder / "tree" / commit.replace("/", "_"), folder / commit.replace("/", "_")
    subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", "--quiet", str(tree), commit], check=True)
    try:
        environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).resolve()), "--write", str(stores), "--only", only]
        subprocess.run(command, check=True, env=environment, cwd=folder)
    finally:
        subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)], check=True)
    return stores


def table(old: Path, new: Path) -> Iterator[tuple[str, int, int, list[str]]]:
    """Yield the name of each case, its objects and bytes, and what differs."""
    for case in sorted({p.name for p in (*old.iterdir(), *new.iterdir())}):
        files = [p for p in (new / case).rglob("*") if p.is_file()]
        yield case, len(files), sum(p.stat().st_size for p in files), differences(old / case, new / case)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="*", metavar="COMMIT", help="the old and the new one")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--keep", type=Path, help="folder for the stores, which are removed otherwise")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_all(given.write, given.only)
        return 0
    if len(given.commits) != 2:
        parser.error("two commits are compared")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(2) as pool:
            old, new = pool.map(lambda commit: written_by(commit, folder, given.only), given.commits)
        print(f"| case | objects | bytes | {given.commits[0]} → {given.commits[1]} |\n|---|---|---|---|")
        wrong = 0
        for case, count, nbytes, lines in table(old, new):
            refused = " (refused)" if (new / case / "error.txt").exists() else ""
            print(f"| {case.replace('--', ', ')}{refused} | {count} | {nbytes:,} | {'; '.join(lines[:4]) or 'the same'} |")
            wrong += bool(lines)
        print(f"\n{wrong} cases differ" if wrong else "\nall the same")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
