"""Reading through xarray beside what it stands on: one object, a box with Dask, a whole level, the first look; memory and maps.

Every row is a ratio of two readings of one run, which take turns: CPU seconds of the process beside wall seconds, medians. What
both read is compared. The stores are made in memory (``/dev/shm`` where there is one); with ``--s3`` the box is also read from
an S3-compatible server, by a fresh process for each reading, which says how many requests and bytes it took::

    python benchmarks/xarray_reads.py --rounds 5
    python benchmarks/xarray_reads.py --chunks 10648 --objects 1000000 --s3 20

Memory is that of a fresh process (Linux), the most while ``level.read()`` runs above what it had before, over the bytes of the
result. ``map_objects`` is the CPU time of a loop over parts that were read, without that of the function.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

import dask_zv as dzv
from dask_zv.analysis.cutting import cut_by_rows
from dask_zv.analysis.results import MappedFunction
from dask_zv.read import columns, edge_rows
from s3server import serve

SEED, LENGTH = 5, 4
PROCESS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import dask, xarray as xr
from s3server import Server
port, pid, url, options, chunks, low, high = json.loads(sys.argv[2])
dask.config.set(scheduler="threads", num_workers=2)
ds = xr.open_dataset(url, engine="zv", storage_options=options, chunks=chunks)
server = Server(port, pid)
server.reset()
found = ds.zv.sel(bbox=(low, high)).load()
told = server.stats()
print(json.dumps([told["requests"], told["bytes_out"], found.sizes["vertex"], float(found.mass.sum())]))
"""
LOOK = """
import sys, time
import xarray as xr
ds = xr.open_dataset(sys.argv[1], engine="zv")
start = time.process_time()
ds._repr_html_()
print(time.process_time() - start)
"""


MEMORY = """
import sys
import dask, numpy as np, xarray
import dask_zv as dzv
from dask_zv.analysis.cutting import cut_by_rows
from dask_zv.analysis.results import MappedFunction
dask.config.set(scheduler="threads", num_workers=2)
level = dzv.open(sys.argv[1]).level(0)
level.read(chunks=level.chunks.coords[:1])
resident = int(open("/proc/self/statm").read().split()[1]) * 4096
open("/proc/self/clear_refs", "w").write("5")
found = level.read()
most = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
arrays = [found.positions, found.edges, found.parents, found.object_ids, *found.attributes.values()]
print((most - resident) / sum(a.nbytes for a in arrays if a is not None))
"""


def forget() -> None:
    """Leave what this process keeps of chunks, which a process that begins has not."""
    for cache in (columns._POSITIONS, columns._FRAGMENTS, edge_rows._PARENTS):
        cache.clear()


def timed(act: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return CPU and wall seconds, and what comes of it."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = act()
    return time.process_time() - cpu, time.perf_counter() - wall, found


def ratios(ours: Callable[[], Any], reference: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Return medians of both, and of the rounds' ratios with their spread; the one that begins changes."""
    both: dict[str, list[tuple[float, float]]] = {"ours": [], "reference": []}
    for number in range(rounds):
        turns = [("ours", ours), ("reference", reference)]
        values = {}
        for name, act in turns[:: 1 if number % 2 else -1]:
            forget()
            *took, values[name] = timed(act)
            both[name].append(tuple(took))
        if not same(values["ours"], values["reference"]):
            raise SystemExit("both read other values")
    seen = np.array(both["ours"]) / np.array(both["reference"])
    return {
        "cpu_ms": round(1e3 * statistics.median(c for c, _ in both["ours"]), 2),
        "reference_cpu_ms": round(1e3 * statistics.median(c for c, _ in both["reference"]), 2),
        "cpu_ratio": round(float(np.median(seen[:, 0])), 2),
        "cpu_spread": np.round([seen[:, 0].min(), seen[:, 0].max()], 2).tolist(),
        "wall_ratio": round(float(np.median(seen[:, 1])), 2),
    }


def same(one: Any, two: Any) -> bool:
    """Return True if both have the same masses: those of a Dataset, or of a geometry."""
    masses = [np.asarray(v.attributes["mass"] if hasattr(v, "positions") else v.mass) for v in (one, two)]
    return np.array_equal(*masses)


def box_of(ds: xr.Dataset, edge: float) -> tuple[list[float], list[float]]:
    """Return a box in the middle that has a hundredth of the volume."""
    half = edge * 0.01 ** (1 / 3) / 2
    return [edge / 2 - half] * 3, [edge / 2 + half] * 3


def of_boxes(points: str, edge: float, rounds: int) -> dict[str, Any]:
    """Measure a box, and the whole level, with Dask and without."""
    opened = {c: xr.open_dataset(points, engine="zv", chunks={} if c else None) for c in (True, False)}
    box = box_of(opened[False], edge)
    sides = {a: slice(low, high) for a, low, high in zip("xyz", *box, strict=True)}
    level = dzv.open(points).level(0)

    def fresh(chunks: Any) -> xr.Dataset:
        return xr.open_dataset(points, engine="zv", chunks=chunks)

    rows = {
        "box with Dask / without, ds.zv.sel": (
            lambda: opened[True].zv.sel(box).load(),
            lambda: opened[False].zv.sel(box).load(),
        ),
        "box with Dask / without, ds.sel": (lambda: opened[True].sel(sides).load(), lambda: opened[False].sel(sides).load()),
        "ds.load() / level.read()": (lambda: fresh(None).load(), level.read),
        "ds.load() with Dask / level.read()": (lambda: fresh({}).load(), level.read),
    }
    return {name: ratios(*pair, rounds) for name, pair in rows.items()}


def of_objects(paths: str, count: int, rounds: int) -> dict[str, Any]:
    """Measure one object, and loops over objects: each way beside ``level.read(objects=id)``."""
    out: dict[str, Any] = {}
    level = dzv.open(paths).level(0)
    rng = np.random.default_rng(SEED)
    for view in ("objects", "spatial"):
        for chunks in (None, {}):
            ds = xr.open_dataset(paths, engine="zv", view=view, chunks=chunks)
            ds.zv.objects[0].load()
            name = f"one object, view={view!r}, chunks={chunks} / level.read(objects=id)"
            ids = iter(np.repeat(rng.permutation(count)[:rounds], 2).tolist())
            out[name] = ratios(
                lambda ds=ds, ids=ids: ds.zv.objects[next(ids)].load(), lambda ids=ids: level.read(objects=next(ids)), rounds
            )
            loops = [timed(lambda n=n, ds=ds: [ds.zv.objects[i].load() for i in range(n)])[0] for n in (10, 40)]
            out[name]["ms_an_object_in_loops_of_10_and_40"] = [
                round(1e3 * s / n, 2) for s, n in zip(loops, (10, 40), strict=True)
            ]
            tracemalloc.start()
            ds.zv.objects[count - 1].load()
            out[name]["peak_mb"] = round(tracemalloc.get_traced_memory()[1] / 1e6, 2)
            tracemalloc.stop()
    return out


def of_memory(folder: str, count: int, rounds: int) -> dict[str, Any]:
    """Measure the memory of reading `count` points, and `count` edges of a graph, in few large and in 10,648 chunks."""
    rng = np.random.default_rng(SEED)
    positions = rng.uniform(0, 22, (count, 3)).astype(np.float32)
    mass, nodes = rng.normal(size=count).astype(np.float32), count // 3 + 3
    first = np.arange(nodes - 3)
    edges = np.concatenate([np.stack([first, first + i], axis=1) for i in (1, 2, 3)])
    chunk = np.floor(positions[:nodes] / 2).T[::-1]
    out: dict[str, Any] = {}
    for name, edge in (("points, 1,331 chunks", 2), ("points, 10,648 chunks", 1), ("edges, 1,331 chunks", 2)):
        path, is_graph = f"{folder}/memory-{len(out)}.zv", name.startswith("edges")
        store = dzv.create(path, geometry="graph" if is_graph else "point_cloud", chunk_shape=(edge,) * 3)
        if is_graph:
            dzv.write_graph(store, positions[:nodes][np.lexsort(chunk)], edges=edges)
        else:
            dzv.write_points(store, positions, attributes={"mass": mass})
        command = [sys.executable, "-W", "ignore", "-c", MEMORY, path]
        found = [float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(rounds)]
        out[f"memory of level.read() / data, {count:,} {name}"] = round(statistics.median(found), 2)
        shutil.rmtree(path)
    return out


def of_maps(paths: str, count: int, rounds: int) -> dict[str, Any]:
    """Measure what a map costs for each object: all of it, and without reading and the function itself."""
    level, ids = dzv.open(paths).level(0), np.arange(min(count, 200_000))
    ds = xr.open_dataset(paths, engine="zv", view="objects")
    read = level.read(objects=ids, order="object")
    whole, loop, alone = [], [], []
    for _ in range(rounds):
        with dask.config.set(scheduler="sync"):
            whole.append(timed(lambda: ds.zv.map_objects(len, objects=ids))[0])
        loop.append(timed(lambda: MappedFunction(len).map(ids, read.lengths, str, cut_by_rows(read, read.lengths)))[0])
        alone.append(timed(lambda: [len(read) for _ in ids])[0])
    beyond = [(a - b) / len(ids) for a, b in zip(loop, alone, strict=True)]
    named = {"map_objects, us an object": whole, "map_objects beyond reading and the function, us an object": None}
    return {
        name: round(1e6 * statistics.median(beyond if took is None else [t / len(ids) for t in took]), 2)
        for name, took in named.items()
    }


def of_requests(positions: np.ndarray, mass: np.ndarray, edge: float, latency_ms: float) -> dict[str, Any]:
    """Count requests and bytes of a box on S3, with Dask and without, each by a fresh process."""
    url, told = "s3://bucket/box.zv", {}
    with serve() as server:
        options = server.storage_options
        store = dzv.create(url, chunk_shape=(1, 1, 1), bounds=([0] * 3, [edge] * 3), storage_options=options)
        dzv.write_points(store, positions, attributes={"mass": mass})
        server.set_latency(latency_ms)
        for chunks in (None, {}):
            argument = [server.port, server.pid, url, options, chunks, *box_of(None, edge)]
            command = [sys.executable, "-W", "ignore", "-c", PROCESS, str(Path(__file__).parent), json.dumps(argument)]
            told[str(chunks)] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    plain, with_dask = told["None"], told["{}"]
    if plain[2:] != with_dask[2:]:
        raise SystemExit(f"other values with Dask: {told}")
    ratio = [round(a / b, 2) for a, b in zip(with_dask[:2], plain[:2], strict=True)]
    return {"requests": with_dask[0], "bytes": with_dask[1], "ratio_of_requests_and_bytes": ratio}


def main() -> None:
    """Make the stores, measure, and print rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=10_648)
    parser.add_argument("--per-chunk", type=int, default=94)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--memory", type=int, default=10_000_000, help="points, and edges, that are read whole")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--s3", type=float, help="also count requests of S3, with this latency in ms")
    args = parser.parse_args()
    edge = round(args.chunks ** (1 / 3))
    rng = np.random.default_rng(SEED)
    positions = rng.uniform(0, edge, (edge**3 * args.per_chunk, 3)).astype(np.float32)
    mass = rng.normal(size=len(positions)).astype(np.float32)
    walks = rng.uniform(0, 1000, (args.objects, 1, 3)) + np.cumsum(rng.uniform(-5, 5, (args.objects, LENGTH, 3)), axis=1)
    memory = Path("/dev/shm")
    out: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        dask.config.set(scheduler="threads", num_workers=2),
    ):
        points, paths = f"{folder}/points.zv", f"{folder}/paths.zv"
        dzv.write_points(dzv.create(points, chunk_shape=(1, 1, 1)), positions, attributes={"mass": mass})
        store = dzv.create(paths, geometry="polyline", chunk_shape=(100, 100, 100))
        lengths, along = np.full(args.objects, LENGTH), np.arange(args.objects * LENGTH, dtype=np.float32)
        dzv.write_polylines(store, walks.reshape(-1, 3), lengths=lengths, attributes={"mass": along})
        out |= of_boxes(points, edge, args.rounds)
        out |= of_objects(paths, args.objects, args.rounds)
        out |= of_maps(paths, args.objects, args.rounds)
        if Path("/proc/self/clear_refs").exists():
            out |= of_memory(folder, args.memory, args.rounds)
        looks = [
            float(subprocess.run([sys.executable, "-W", "ignore", "-c", LOOK, points], capture_output=True, check=True).stdout)
            for _ in range(args.rounds)
        ]
        out["first repr, cpu_ms"] = round(1e3 * statistics.median(looks), 1)
    if args.s3 is not None:
        out["box with Dask / without, S3"] = of_requests(positions, mass, edge, args.s3)
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
