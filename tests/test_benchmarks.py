"""The comparisons and the benchmarks of scale run, and say what they should; what they measure here means nothing."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import FailedError, agree
from geometry_workload import KINDS, Shapes, digest, digest_of_all, make
from grid_workload import Job

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script: str, *arguments: Any) -> str:
    """Run a benchmark; return what it printed."""
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_comparison_beside_the_peer_runs(tmp_path: Path) -> None:
    printed = run("compare_per_chunk.py", "--quick", "--results", tmp_path, "--stores", "local", "s3")
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert result["versions"]["peer 0.2"]["zarr-vectors"] == "0.2.0"
    measured = {(r["store"], r["side"], r["verb"]) for r in result["rows"]}
    sides = ("peer 0.2", "plain", "shards")
    assert measured == {(s, side, v) for s in ("local", "s3") for side in sides for v in ("write", "read")}
    assert len({r["digest"] for r in result["rows"]}) == 1
    assert all(r["seconds"] > 0 and r["peak_mb"] > 10 for r in result["rows"])
    requests = {r["side"]: r["requests"] for r in result["rows"] if r["store"] == "s3" and r["verb"] == "read"}
    assert requests["shards"] < requests["plain"] < requests["peer 0.2"]
    with path.with_suffix(".csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(result["rows"])
    assert "peer / ours" in printed


def run_grid(tmp_path: Path, *arguments: str, script: str = "compare_grid.py") -> tuple[str, dict[str, Any]]:
    printed = run(script, "--size", "quick", "--rounds", "1", "--results", tmp_path, *arguments)
    (path,) = tmp_path.glob("*.json")
    for ending in (".csv", ".md", ".png"):
        assert path.with_suffix(ending).stat().st_size > 1000
    result: dict[str, Any] = json.loads(path.read_text())
    assert result["versions"]["peer"]["zarr-vectors"] == "0.9.2"
    assert all(r["seconds"] > 0 for r in result["rows"])
    return printed, result


@pytest.mark.long
def test_comparison_of_grid_runs_on_an_object_store(tmp_path: Path) -> None:
    printed, result = run_grid(tmp_path, "--store", "s3", "--rows", "blobs", "import")
    assert "| bar " in printed
    requests = {(r["side"], r["verb"]): r["requests"] for r in result["rows"] if r["row"] == "blobs"}
    for verb in ("write blobs", "read blobs"):
        assert requests["ours", verb] < requests["ours, single", verb] < requests["peer", verb]
        assert requests["packed", verb] == 3


@pytest.mark.long
def test_every_row_of_the_comparison_of_grid_runs(tmp_path: Path) -> None:
    _, result = run_grid(tmp_path, "--store", "local", "s3")
    rows = {(r["row"], r["store"], r["side"], r["verb"]) for r in result["rows"]}
    for store in ("local", "s3"):
        assert {("points", store, "ours", verb) for verb in ("ingest", "whole level", "box", "open")} <= rows
    assert {r[0] for r in rows} >= {"blobs", "cluster", "small", "jobs, slabs", "jobs, random", "open", "graphs", "import"}


def test_comparison_of_geometries_runs_on_an_object_store(tmp_path: Path) -> None:
    printed, result = run_grid(tmp_path, "--store", "s3", "--radius", "--side", "peer", "ours", script="compare_geometries.py")
    assert "| mesh: read all, 2 threads: peer / ours " in printed
    rows = {(r["row"], r["side"], r["verb"]): r for r in result["rows"]}
    assert rows.keys() == {
        (kind, side, verb)
        for kind in KINDS
        for side in ("peer", "ours")
        for verb in ("write", "read", "read one")
        if (kind, verb) != ("graph", "read one")
    }
    for (kind, side, verb), row in rows.items():
        assert row["requests"] > 0, (kind, side, verb)
        assert row["memory_mb"] > 0, (kind, side, verb)
        if verb == "read one":
            assert row["requests_opened"] > row["requests_object"] > 0, (kind, side)
            assert len(row["picked"]) > 1, (kind, side)
        if side == "ours":
            assert row["requests"] < rows[kind, "peer", verb]["requests"], (kind, verb)


@pytest.mark.long
def test_every_row_of_the_comparison_of_geometries_runs(tmp_path: Path) -> None:
    printed, result = run_grid(tmp_path, "--store", "local", "s3+20ms", script="compare_geometries.py")
    assert "| graph: write, 2 workers: peer / ours " in printed
    rows = {(r["row"], r["store"], r["side"], r["verb"]) for r in result["rows"]}
    for kind in KINDS:
        for store in ("local", "s3+20ms"):
            sides = ("peer", "ours", "ours, 2 workers")
            assert {(kind, store, side, verb) for side in sides for verb in ("write", "read")} <= rows
    assert all(r["waits"] >= 1 for r in result["rows"] if r["store"] == "s3+20ms")


def small_job(geometry: str) -> Job:
    return Job("", "", (2, 2, 2), geometry=geometry, count=4, radius=True)


def spoilt(geometry: str, what: str) -> tuple[Shapes, Shapes]:
    """Return what was written, and what a reader might make of it that gets one thing wrong."""
    shapes = make(small_job(geometry))
    arrays = {n: None if getattr(shapes, n) is None else getattr(shapes, n).copy() for n in Shapes.__slots__}
    name, at, value = {
        "order of a path": ("positions", [3, 4], lambda a: a[[4, 3]]),
        "a position": ("positions", (5, 0), lambda a: np.nextafter(a[5, 0], np.float32(0))),
        "an owner": ("owners", 7, lambda a: a[7] + 1),
        "two radii": ("radius", [0, 1], lambda a: a[[1, 0]]),
        "direction of an edge": ("edges", 0, lambda a: a[0, ::-1]),
        "an edge": ("edges", (0, 1), lambda a: a[1, 1]),
        "winding": ("faces", 2, lambda a: a[2, [0, 2, 1]]),
    }[what]
    arrays[name][at] = np.copy(value(arrays[name]))
    return shapes, Shapes(**arrays)


@pytest.mark.parametrize(
    ("geometry", "what"),
    [
        ("polylines", "order of a path"),
        ("polylines", "an owner"),
        ("skeletons", "direction of an edge"),
        ("skeletons", "two radii"),
        ("mesh", "winding"),
        ("mesh", "an owner"),
        ("graph", "a position"),
        ("graph", "an edge"),
    ],
)
def test_comparison_of_geometries_notices_wrong_data(geometry: str, what: str) -> None:
    job = small_job(geometry)
    about = {"row": geometry, "store": "local", "setting": "", "side": "ours", "verb": "read"}
    shapes, wrong = ({**about, **digest(job, some)} for some in spoilt(geometry, what))
    keys = [key for key in shapes if key.endswith("digest")]
    agree(shapes, dict(shapes), keys=keys)
    with pytest.raises(FailedError, match="read other data"):
        agree(shapes, wrong, keys=keys)


@pytest.mark.parametrize("geometry", KINDS)
def test_comparison_of_geometries_knows_data_in_another_order(geometry: str) -> None:
    """Readers give chunks, objects and links in orders of their own; that alone is no difference."""
    job = small_job(geometry)
    shapes = make(job)
    source = np.random.default_rng(0)
    if geometry == "polylines":
        order = np.arange(len(shapes.positions)).reshape(4, -1)[[2, 0, 3, 1]].ravel()
    else:
        order = source.permutation(len(shapes.positions))
    place = np.argsort(order)
    arrays = {n: getattr(shapes, n) for n in ("positions", "radius", "owners")}
    moved = {n: None if v is None else v[order] for n, v in arrays.items()}
    for name in ("edges", "faces"):
        links = getattr(shapes, name)
        if links is not None:
            moved[name] = source.permutation(place[links])
    if geometry == "graph":  # its edges have no direction
        moved["edges"] = moved["edges"][:, ::-1]
    assert digest(job, Shapes(**moved, lengths=shapes.lengths)) == {
        key: value for key, value in digest_of_all(job, shapes).items() if key != "picked"
    }


def test_opening_in_xarray_costs_as_many_requests_whatever_the_chunks(tmp_path: Path) -> None:
    run("open_in_xarray.py", "--chunks", 27, 729, "--rounds", 1, "--output", tmp_path / "open.json")
    rows = json.loads((tmp_path / "open.json").read_text(encoding="utf-8"))
    assert [(r["chunks"], r["view"]) for r in rows] == [(n, v) for n in (27, 729) for v in ("spatial", "objects")]
    for few, many in zip(rows[:2], rows[2:], strict=True):
        assert (few["open_requests"], few["repr_requests"]) == (many["open_requests"], 0)


def test_reads_through_xarray_are_compared_with_what_they_stand_on() -> None:
    told = json.loads(
        run("xarray_reads.py", "--chunks", 27, "--per-chunk", 20, "--objects", 300, "--memory", 3_000, "--rounds", 1, "--s3", 1)
    )
    assert len(told) == 15
    assert max(told["box with Dask / without, S3"]["ratio_of_requests_and_bytes"]) <= 1.3


def scale(tmp_path: Path, script: str, *arguments: Any) -> Any:
    run(script, "--results", tmp_path, *arguments)
    (path,) = tmp_path.glob("*.json")
    assert path.with_suffix(".md").stat().st_size > 300
    return json.loads(path.read_text())


def test_sizes(tmp_path: Path) -> None:
    (found,) = scale(tmp_path, "scale.py", "--cases", "polylines", "--sizes", 5000)
    assert (found["rows"], found["chunks"] > 100, found["blocks"] > 1) == (500_000, True, True)


@pytest.mark.long
def test_the_shuffles_of_dask_store_the_same(tmp_path: Path) -> None:
    found = scale(tmp_path, "scale.py", "--exchange", "--sizes", 500_000, "--sides", "ours", "p2p")
    assert [f["side"] for f in found] == ["ours", "p2p"]
    assert len({f["digest"] for f in found}) == 1


def test_simulation(tmp_path: Path) -> None:
    (found,) = scale(tmp_path, "simulate_scale.py", "--points", "1e9", "--kinds", "tiles", "--no-run")
    assert found["chunks"] > 10_000
    assert found["waves"] == 1
    assert found["tasks"] < 10_000


@pytest.mark.long
def test_files(tmp_path: Path) -> None:
    found = scale(tmp_path, "inodes.py", "--quick", "--folder", tmp_path)
    files = {(row["layout"], row["shard_chunks"]): row["files"] for row in found["rows"] if not row["fsync"]}
    assert files["grid", 256] < files["grid", 1] < files["per_chunk", 1]


def test_levels_beside_those_of_the_peer() -> None:
    printed = run("pyramid.py", "--points", 3000, "--rounds", 1)
    assert "| peer |" in printed
    assert "CPU, peer : ours = " in printed
