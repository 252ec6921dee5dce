"""The measurements of ``compare_grid.py``; ``grid_bars.py`` says what they are held against.

A scenario takes one round of one setting on one store. Its sides take turns, and the one that begins changes from round to
round. What was read is compared with what was written, by checksum.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import Bench, Row, agree
from grid_workload import BOX, EXTENT, PARTITIONS, Job, cloud_digest, make_points

SHARD = (4, 8, 8)
"""256 chunks."""
BYTES_PER_POINT = 20
GRAPHS: dict[str, Any] = {"graph of random points": "auto", "graph of slabs of points": "auto", "graph of blobs": SHARD}

Grid = tuple[int, int, int]

PEER, CLUSTER, OURS, LIMITS, IMPORT = "peers/peer_09.py", "grid_cluster.py", "grid_ours.py", "grid_limits.py", "import_time.py"
SIDES = {
    "peer": (PEER, "its thread pool"),
    "peer, sharded": (PEER, "its thread pool"),
    "peer, job": (PEER, "2 processes"),
    "peer on our store": (PEER, "its thread pool"),
    "ours": (OURS, "threads, 2"),
    "ours, one thread": (OURS, "threads, 1"),
    "ours, single": (OURS, "threads, 2"),
    "ours, 4x4x4": (OURS, "threads, 2"),
    "ours on the peer's store": (OURS, "threads, 2"),
    "ours, cluster": (CLUSTER, "LocalCluster, 2 processes"),
    "packed": (LIMITS, "asyncio"),
    "parquet": (LIMITS, "pyarrow"),
    "ours, import": (IMPORT, ""),
}
"""Who does it: script and scheduler."""


def blobs(bench: Bench, store: str, grid: Grid, blob_bytes: int) -> None:
    """Write many chunks and read them all back; also what the peer sharded."""
    chunks = math.prod(grid)
    setting = f"{chunks:,} chunks x 3 x {blob_bytes:,} B"
    about: Row = {"row": "blobs", "store": store, "setting": setting, "chunks": chunks, "codec": "none"}
    shards = {"peer": None, "peer, sharded": SHARD, "ours": 256, "ours, single": 1, "packed": None}
    for side in bench.turns(list(shards)):
        with bench.place(store) as place:
            job = Job("write blobs", grid=grid, blob_bytes=blob_bytes, shards=shards[side], **place)
            written = bench.measure(about, side, job)
            # the constant: documents of root, groups and arrays, the commit stamp and the catalog
            written["objects_share"] = (written["objects"] - 30) / (math.ceil(chunks / 256) * 3)
            agree(written, bench.measure(about, side, replace(job, verb="read blobs")))
            if side == "peer, sharded":
                agree(written, bench.measure(about, "ours on the peer's store", replace(job, verb="read blobs")))


def cluster(bench: Bench, store: str, grid: Grid, blob_bytes: int) -> None:
    """Write many chunks from a distributed cluster, payloads made by tasks or held by the client; beside the peer's batch."""
    chunks = math.prod(grid)
    setting = f"{chunks:,} chunks x 3 x {blob_bytes:,} B"
    about: Row = {"row": "cluster", "store": store, "setting": setting, "chunks": chunks, "codec": "none"}
    turns = [("peer", "write blobs"), ("ours, cluster", "blobs made by tasks"), ("ours, cluster", "blobs of the client")]
    for side, verb in bench.turns(turns):
        with bench.place(store) as place:
            shards = None if side == "peer" else SHARD
            job = Job(verb, grid=grid, blob_bytes=blob_bytes, shards=shards, **place)
            written = bench.measure(about, side, job)
            reader = "peer" if side == "peer" else "ours"
            agree(written, bench.measure({**about, "row": "check"}, reader, replace(job, verb="read blobs")))


def points(bench: Bench, store: str, grid: Grid, count: int) -> None:
    """Ingest points, read the whole level and a box, open; each side its own store, then the other's."""
    setting = f"{count:,} points, {math.prod(grid):,} chunks"
    about: Row = {
        "row": "points",
        "store": store,
        "setting": setting,
        "chunks": math.prod(grid),
        "points": count,
        "codec": "zstd",
    }
    sides: dict[str, Any] = {"peer": None, "ours": "auto", "parquet": None}
    if store != "local":
        sides = {"peer": None, "ours": "auto", "peer, sharded": SHARD, "ours, 4x4x4": (4, 4, 4)}
    for side in bench.turns(list(sides)):
        with bench.place(store) as place:
            job = Job("ingest", grid=grid, points=count, shards=sides[side], **place)
            written = bench.measure(about, side, job)
            if side in ("parquet", "peer, sharded"):
                continue
            opened = bench.measure(about, side, replace(job, verb="open"))
            box = bench.measure(about, side, replace(job, verb="box"))
            agree({**written, **written["box"]}, box)
            if side == "ours, 4x4x4":
                box |= box_costs(box, opened, grid)
                continue
            agree(written, bench.measure(about, side, replace(job, verb="whole level")))
            if side == "ours":
                bench.measure(about, side, replace(job, verb="open in xarray"))
            other = "peer on our store" if side == "ours" else "ours on the peer's store"
            sharded = store != "local" or "sharding_indexed" in Path(job.target, "0/vertices/zarr.json").read_text()
            if other == "peer on our store" and sharded and bench.number:
                continue  # minutes, and only stated: once is enough
            agree(written, bench.measure(about, other, replace(job, verb="whole level"), sharded=sharded))


def box_costs(box: Row, opened: Row, grid: Grid) -> Row:
    """Return the requests and bytes of a box, without those of opening, as shares of what they may be at shards of 4x4x4."""
    shards = 1
    for chunks in grid:
        first, last = (int(edge / EXTENT * chunks / 4) for edge in BOX)
        shards *= last - first + 1
    arrays = 4  # positions, fragments, two attributes
    return {
        "requests_share": box["requests"] / ((1 + 4) * shards * arrays + 4),
        "bytes_per_byte": (box["bytes_out"] - opened["bytes_out"]) / (box["count"] * BYTES_PER_POINT),
    }


def few_points(bench: Bench, store: str, grid: Grid, count: int) -> None:
    """Ingest little data with one worker thread."""
    setting = f"{count:,} points, {math.prod(grid):,} chunks"
    about: Row = {"row": "small", "store": store, "setting": setting, "chunks": math.prod(grid), "codec": "zstd"}
    for side in bench.turns(["peer", "ours, one thread"]):
        with bench.place(store) as place:
            shards = None if side == "peer" else "auto"
            job = Job("ingest", grid=grid, points=count, shards=shards, workers=1, **place)
            agree(
                bench.measure(about, side, job),
                bench.measure({**about, "row": "check"}, side, replace(job, verb="whole level")),
            )


def jobs(bench: Bench, store: str, grid: Grid, count: int) -> None:
    """Ingest points that lie in partitions, on two processes: by slabs of whole chunks, and in random order."""
    for order in ("slabs", "random"):
        setting = f"{count:,} points, {math.prod(grid):,} chunks"
        about: Row = {"row": f"jobs, {order}", "store": store, "setting": setting, "chunks": math.prod(grid), "points": count}
        about["codec"] = "zstd"
        inputs = bench.folder / "inputs"
        expected = save_partitions(inputs, grid, count, by_slab=order == "slabs")
        beside = ("peer, job", "job") if order == "slabs" else ("peer", "ingest")
        for side, verb in bench.turns([("ours, cluster", "job"), beside]):
            with bench.place(store) as place:
                shards = "auto" if side == "ours, cluster" else None
                job = Job(verb, grid=grid, points=count, shards=shards, inputs=str(inputs), **place)
                bench.measure(about, side, job)
                reader = "ours" if side == "ours, cluster" else "peer"
                read = replace(job, verb="whole level", inputs="")
                agree({**about, **expected, "side": side}, bench.measure({**about, "row": "check"}, reader, read))
        shutil.rmtree(inputs)


def save_partitions(folder: Path, grid: Grid, count: int, *, by_slab: bool) -> Row:
    """Save the points in files, by slabs of whole chunks along the first axis or as they come; return their checksum."""
    folder.mkdir()
    positions, attributes = make_points(Job("", "", grid, points=count))
    if by_slab:
        chunk = (positions[:, 0] / np.float32(EXTENT / grid[0])).astype(np.intp)
        part = chunk * PARTITIONS // grid[0]
    else:
        part = np.arange(count) * PARTITIONS // count
    for number in range(PARTITIONS):
        rows = part == number
        columns = {name: values[rows] for name, values in attributes.items()}
        np.savez(folder / f"{number:03}.npz", positions=positions[rows], **columns)
    return cloud_digest(positions, attributes)


def graphs(bench: Bench, store: str, grid: Grid) -> None:
    """Build graphs that touch every chunk of a grid; nothing is run."""
    setting = f"{math.prod(grid):,} chunks"
    about: Row = {"row": "graphs", "store": store, "setting": setting, "chunks": math.prod(grid), "codec": "none"}
    for verb, shards in GRAPHS.items():
        with bench.place(store) as place:
            bench.measure(about, "ours", Job(verb, grid=grid, shards=shards, **place))


def open_large(bench: Bench, store: str, grid: Grid) -> None:
    """Open a store with very many chunks."""
    setting = f"{math.prod(grid):,} chunks"
    about: Row = {"row": "open", "store": store, "setting": setting, "chunks": math.prod(grid), "codec": "zstd"}
    with bench.place(store) as place:
        job = Job("lattice", grid=grid, shards="auto", **place)
        bench.measure(about, "ours", job)
        bench.measure(about, "ours", replace(job, verb="open"))
        bench.measure(about, "ours", replace(job, verb="open in xarray"))


def imports(bench: Bench) -> None:
    about: Row = {"row": "import", "store": "-", "setting": "dask_zv", "chunks": 0, "codec": ""}
    for verb, arguments in (("import", ["alone"]), ("import and use all names", ["all"])):
        with bench.place("local"):
            bench.measure(about, "ours, import", Job(verb, "", (1, 1, 1)), arguments=arguments)
