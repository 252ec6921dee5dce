"""What the tests of this folder share: the survey of the examples, and stores compared object by object."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import dask
import numpy as np

import dask_zv as dzv

EXAMPLES = Path(__file__).parents[2] / "examples"
SLURM = EXAMPLES / "slurm"
CATALOG = "0/dask_zv_catalog"


def load_survey() -> ModuleType:
    """Return the examples' module that makes their input."""
    spec = importlib.util.spec_from_file_location("survey", SLURM / "survey.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_undisturbed(path: Path, side: int = 4, points: int = 25_000) -> Path:
    """Write the survey in this process, without a cluster and without a break, as a store of the same name."""
    path.parent.mkdir(exist_ok=True)
    survey = load_survey()
    with dask.config.set(scheduler="synchronous"):
        positions, attributes = survey.open_survey(side, points)
        dzv.write_points(survey.open_or_create(path), positions, attributes=attributes)
    return path


def objects_of(store: Path) -> dict[str, bytes]:
    """Return the objects of a store, but the catalog's: that has times of change, and the stamp of its commit."""
    found = {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(CATALOG)}


def assert_same_store(store: Path, expected: Path) -> None:
    """Compare two stores object by object, and what is read from them."""
    ours, theirs = objects_of(store), objects_of(expected)
    assert set(ours) == set(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
    geometries = [dzv.open(path).level(0).read(order="chunk") for path in (store, expected)]
    np.testing.assert_array_equal(geometries[0].positions, geometries[1].positions)
    for name, values in geometries[1].attributes.items():
        np.testing.assert_array_equal(geometries[0].attributes[name], values)


def is_empty(store: Path) -> bool:
    """Tell whether a reader sees a level without points."""
    return not len(dzv.open(store).level(0).chunks)


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment for one that is started, with other variables."""
    return {**os.environ, "DASK_ZV_PYTHON": sys.executable, "SCRIPTS": str(SLURM), **more}


def wait_until(what: Callable[[], object], seconds: float, otherwise: Callable[[], str]) -> None:
    """Wait until something is so; fail with `otherwise` where it takes longer."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise AssertionError(otherwise())
        time.sleep(0.3)
