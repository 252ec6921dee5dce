"""The comparisons run, on every store, and say what they should; what they measure here means nothing."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_comparison_beside_the_peer_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "compare_per_chunk.py"), "--quick", "--results", str(tmp_path)]
    run = subprocess.run(
        [*command, "--stores", "local", "s3"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert run.returncode == 0, run.stdout + run.stderr
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
    assert "peer / ours" in run.stdout


def run_grid(tmp_path: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    command = [
        sys.executable,
        str(BENCHMARKS / "compare_grid.py"),
        "--size",
        "quick",
        "--rounds",
        "1",
        "--results",
        str(tmp_path),
    ]
    run = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=900, check=False, stdin=subprocess.DEVNULL
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = tmp_path.glob("*.json")
    for ending in (".csv", ".md", ".png"):
        assert path.with_suffix(ending).stat().st_size > 1000
    result: dict[str, Any] = json.loads(path.read_text())
    assert result["versions"]["peer"]["zarr-vectors"] == "0.9.2"
    assert all(r["seconds"] > 0 for r in result["rows"])
    return run.stdout, result


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
