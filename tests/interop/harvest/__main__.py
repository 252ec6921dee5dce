"""Run the ZV packages' own suites, keep every store that they write, and read each with ours: ``ci/harvest`` starts this.

    python -m harvest [--suite NAME ...] [--match TEXT] [--folder FOLDER] [--result FILE]
    python -m harvest --group [--match TEXT]

With ``--group`` the tests of ``zarr-vectors`` 0.2.0 run on our Group in the place of its own (``our_group.py``); exit status 0 only
where those alone fail whose reasons are known.

A test file is a process of its own, with a limit: some of their tests never end. Exit status 0 only if nothing is different.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import our_reading

from peer_env import ROOT, peer_python

HERE = Path(__file__).parent
KEPT = {
    f"tests/integration/test_lazy_sharding_rechunk.py::{name}": "writes shards by the name that is theirs; ours are made by shards="
    for name in ("TestShardReshardChain::test_shard_chain", "TestShardedPyramid::test_pyramid_then_shard")
}
"""Tests of the seed package that fail on our Group, and why."""
SECONDS = 600
"""For a file of tests."""
PARTS = 2
"""Processes that run tests, read and compare, at one time."""


@dataclass(frozen=True)
class Suite:
    """The tests of a package, and the environment that they run in."""

    package: str
    requirements: tuple[str, ...]


MORE = ("obstore", "pytest", "hypothesis")
SUITES = {
    "0.9.2": Suite("zarr-vectors==0.9.2", ("zarr-vectors==0.9.2", *MORE, "icechunk", "dask", "pandas", "pyarrow")),
    "0.2.0": Suite("zarr-vectors==0.2.0", ("zarr-vectors==0.2.0", *MORE)),
    "tools": Suite(
        "zarr-vectors-tools==0.3.0",
        ("zarr-vectors==0.9.2", "zarr-vectors-tools==0.3.0", *MORE, "nibabel", "networkx", "anndata", "plyfile", "laspy", "scipy"),
    ),
}  # fmt: skip


def source_of(package: str, folder: Path) -> Path:
    """Return the unpacked source distribution of a package."""
    command = [sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps", "--quiet", "--dest", str(folder)]
    subprocess.run([*command, package], check=True, stdin=subprocess.DEVNULL)
    archive = max(folder.glob("*.tar.gz"), key=lambda p: p.stat().st_mtime)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    archive.unlink()
    return folder / archive.name.removesuffix(".tar.gz")


def run_file(python: Path, source: Path, folder: Path, file: Path) -> str:
    """Run a file of tests with the plugin that keeps stores; return what pytest said last."""
    kept = folder / file.stem
    kept.mkdir(parents=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"HARVEST_FOLDER": str(kept), "PYTHONPATH": str(HERE)}
    command = [str(python), "-m", "pytest", "-q", "-p", "keep_stores", "-p", "no:cacheprovider", f"--basetemp={kept / 'tmp'}"]
    try:
        done = subprocess.run(
            [*command, str(file)], cwd=source, env=environment, capture_output=True, text=True, timeout=SECONDS,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        said = (done.stdout.strip().splitlines() or ["nothing"])[-1]
    except subprocess.TimeoutExpired:
        said = f"did not end in {SECONDS} s"
    shutil.rmtree(kept / "tmp", ignore_errors=True)
    return f"{file.name}: {said}"


def harvest(name: str, folder: Path, match: str) -> list[our_reading.Outcome]:
    """Return what came of the stores of one suite."""
    suite = SUITES[name]
    python = peer_python(*suite.requirements)
    source = source_of(suite.package, folder)
    files = [f for f in sorted((source / "tests").rglob("test_*.py")) if match in f.name]
    with ThreadPoolExecutor(PARTS) as pool:
        for said in pool.map(partial(run_file, python, source, folder / "kept"), files):
            print(f"{name}: {said}", flush=True)
    stores = folder / "stores"
    stores.mkdir()
    for found in sorted((folder / "kept").glob("*/stores/*")):
        found.rename(stores / f"{found.parents[1].name}_{found.name}")
    command = [str(python), str(HERE / "peer_reading.py"), str(stores), str(folder / "read")]
    with ThreadPoolExecutor(PARTS) as pool:
        runs = [
            pool.submit(subprocess.run, [*command, str(part), str(PARTS)], check=True, stdin=subprocess.DEVNULL)
            for part in range(PARTS)
        ]
    for run in runs:
        run.result()
    jobs = []
    for reading in sorted((folder / "read").glob("*.json")):
        store, level = reading.stem.rsplit("-", 1)
        jobs.append((stores / store, int(level), reading))
    with ProcessPoolExecutor(PARTS) as pool:
        return list(pool.map(our_reading.compare_level, *zip(*jobs, strict=True), chunksize=8)) if jobs else []


def run_on_our_group(match: str) -> int:
    """Run the seed package's tests on our Group, and print what came of them; return how many surprises there were."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = peer_python("zarr-vectors==0.2.0", *MORE, "icechunk", *(d.replace(" ", "") for d in project["dependencies"]))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = source_of("zarr-vectors==0.2.0", folder)
        outcomes = folder / "outcomes.json"
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        environment |= {"GROUP_OUTCOMES": str(outcomes), "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT / "src")])}
        command = [
            str(python),
            "-m",
            "pytest",
            "-q",
            "-p",
            "our_group",
            "-p",
            "no:cacheprovider",
            f"--basetemp={folder / 'tmp'}",
        ]
        files = [str(f) for f in sorted((source / "tests").rglob("test_*.py")) if match in f.name]
        subprocess.run([*command, *files], cwd=source, env=environment, stdin=subprocess.DEVNULL, check=False)
        found: dict[str, str] = json.loads(outcomes.read_text())
    counts = Counter(found.values())
    print(
        f"\nzarr-vectors 0.2.0 on our Group: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped"
    )
    surprises = 0
    for test, outcome in found.items():
        if outcome == "failed" or test in KEPT:
            reason = KEPT.get(test, "not known: a fault") if outcome == "failed" else f"{outcome}, where a difference was kept"
            surprises += outcome != "failed" or test not in KEPT
            print(f"  {test}: {reason}")
    return surprises


def main(arguments: Sequence[str]) -> int:
    """Harvest, print the table, and write it to a file."""
    parser = argparse.ArgumentParser(prog="ci/harvest", description=__doc__.partition("\n")[0])
    parser.add_argument("--suite", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--match", default="", help="only files of tests whose name holds this")
    parser.add_argument("--folder", type=Path, help="keep stores and readings here")
    parser.add_argument("--result", type=Path, help="write the table here, too")
    parser.add_argument("--group", action="store_true", help="the seed package's tests on our Group, and nothing else")
    given = parser.parse_args(arguments)
    if given.group:
        return 1 if run_on_our_group(given.match) else 0
    texts, different = [], 0
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.suite:
            folder = (given.folder or Path(temporary)) / name
            folder.mkdir(parents=True)
            outcomes = harvest(name, folder, given.match)
            different += sum(o.word == "different" for o in outcomes)
            texts.append(f"## {SUITES[name].package}\n\n{our_reading.table(outcomes)}\n")
            print(texts[-1], flush=True)
    if given.result:
        given.result.write_text("\n".join(texts))
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
