"""Comparing arrays of which some hold missing strings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def assert_same(found: Any, expected: Any, message: str = "") -> None:
    """Assert that two arrays are equal; a missing string is NaN in xarray and None in a Geometry."""
    np.testing.assert_array_equal(_plain(found), _plain(expected), err_msg=message)


def _plain(values: Any) -> Any:
    values = np.asarray(values)
    if values.dtype != object:
        return values
    return np.where(pd.isnull(values), "(missing)", values).astype(str)
