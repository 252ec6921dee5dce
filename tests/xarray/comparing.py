"""What the tests of this folder share: opening, storing and comparing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

import dask_zv as dzv


def opened(target: Any, view: str = "spatial", **options: Any) -> xr.Dataset:
    return xr.open_dataset(target, engine="zv", view=view, **options)


def stored(ds: xr.Dataset, **options: Any) -> dzv.Store:
    """Return a Dataset as a new store in memory."""
    out: dict[str, Any] = {}
    ds.zv.to_store(out, **options)
    return dzv.open(out)


def cloud(positions: Any, chunk_shape: Any, *, axes: Any = None, **given: Any) -> dzv.Store:
    """Return points as a new store in memory."""
    store = dzv.create({}, chunk_shape=chunk_shape, **({} if axes is None else {"axes": axes}))
    dzv.write_points(store, positions, **given)
    return store


def assert_same(found: Any, expected: Any, message: str = "") -> None:
    """Assert that two arrays are equal; a missing string is NaN in xarray and None in a Geometry."""
    np.testing.assert_array_equal(_plain(found), _plain(expected), err_msg=message)


def _plain(values: Any) -> Any:
    values = np.asarray(values)
    if values.dtype != object:
        return values
    return np.where(pd.isnull(values), "(missing)", values).astype(str)
