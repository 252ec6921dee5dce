"""The benchmarks of scale run and check what they stored; what they measure here means nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(tmp_path: Path, script: str, *arguments: str) -> Any:
    command = [sys.executable, str(BENCHMARKS / script), "--results", str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.json")
    assert path.with_suffix(".md").stat().st_size > 300
    return json.loads(path.read_text())


def test_sizes(tmp_path: Path) -> None:
    (found,) = run(tmp_path, "scale.py", "--cases", "polylines", "--sizes", "5000")
    assert (found["rows"], found["chunks"] > 100, found["blocks"] > 1) == (500_000, True, True)


@pytest.mark.long
def test_the_shuffles_of_dask_store_the_same(tmp_path: Path) -> None:
    found = run(tmp_path, "scale.py", "--exchange", "--sizes", "500000", "--sides", "ours", "p2p")
    assert [f["side"] for f in found] == ["ours", "p2p"]
    assert len({f["digest"] for f in found}) == 1


def test_simulation(tmp_path: Path) -> None:
    (found,) = run(tmp_path, "simulate_scale.py", "--points", "1e9", "--kinds", "tiles", "--no-run")
    assert found["chunks"] > 10_000
    assert found["waves"] == 1
    assert found["tasks"] < 10_000


@pytest.mark.long
def test_files(tmp_path: Path) -> None:
    found = run(tmp_path, "inodes.py", "--quick", "--folder", str(tmp_path))
    files = {(row["layout"], row["shard_chunks"]): row["files"] for row in found["rows"] if not row["fsync"]}
    assert files["grid", 256] < files["grid", 1] < files["per_chunk", 1]
