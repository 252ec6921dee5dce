"""Coarser levels: what build_pyramid makes, what readers say of levels that were made from other data."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import dask_zv as dzv
from dask_zv.level.stale import is_stale, mark_stale

RNG = np.random.default_rng(0)


def golden_levels(tmp_path: Path) -> Path:
    """Return a store of the peer's that has coarser levels."""
    found = next(Path(__file__).parents[1].joinpath("data", "golden_0.9").glob("points_pyramid*.zip"))
    shutil.unpack_archive(found, tmp_path / "levels.zv", "zip")
    return tmp_path / "levels.zv"


def test_readers_tell_of_a_stale_level(tmp_path: Path) -> None:
    """What is marked is told by every reader, with what to do; finer levels and other stores are read in silence."""
    path = golden_levels(tmp_path)
    store = dzv.open(path, "r+")
    mark_stale(store._contents, 0)
    assert [is_stale(store._contents.level(n)) for n in store.levels] == [n > 0 for n in store.levels]
    store = dzv.open(path)
    store.level(0).read()
    with pytest.warns(dzv.ZVWarning, match=r"level 1 .*dzv.build_pyramid\(store, update=True\)"):
        store.level(1).read()
    with pytest.warns(dzv.ZVWarning, match="level 1 was made before"):
        xr.open_dataset(path, engine="zv", level=1)
    with pytest.warns(dzv.ZVWarning, match="level 1 was made before"):
        tree = xr.open_datatree(path, engine="zv")
    assert tree.zv.level_for(max_vertices=10**6) == 0
    with pytest.warns(dzv.ZVWarning, match=f"level {max(store.levels)} was made before"):
        tree.zv.level_for(max_vertices=1)
