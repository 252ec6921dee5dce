"""Forms in which users have their data: lazy arrays with known and unknown lengths, frames in partitions."""

from itertools import pairwise

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np


def lazily(values, chunks=13):
    """Return a dask array; along other axes than the first it is whole."""
    values = np.asarray(values)
    return da.from_array(values, chunks=(chunks, *(-1 for _ in values.shape[1:])))


def unknown(values, chunks=13):
    """Return a dask array of the same rows whose lengths nobody knows: every other one is filtered out."""
    twice = np.repeat(np.asarray(values), 2, axis=0)
    return lazily(twice, 2 * chunks)[da.from_array(np.arange(len(twice)) % 2 == 0, chunks=2 * chunks)]


def spread(frame, parts=5):
    """Return a dask DataFrame with an empty partition among the others; `parts` are their number or their lengths."""
    ends = np.linspace(0, len(frame), parts + 1).astype(int) if isinstance(parts, int) else np.cumsum([0, *parts])
    made = [dask.delayed(frame.iloc[a:b]) for a, b in pairwise(ends.tolist())]
    return dd.from_delayed([*made[:2], dask.delayed(frame.iloc[:0]), *made[2:]], meta=frame.iloc[:0], verify_meta=False)


def but(values, at, value):
    """Return a copy with one value changed."""
    values = np.array(values)
    values[at] = value
    return values
