"""How long ``import dask_zv`` takes once its dependencies are imported, alone and with every public name used."""

from __future__ import annotations

import json
import sys
import time

import dask
import dask.array
import dask.delayed
import distributed
import fsspec
import google_crc32c
import numcodecs
import numpy
import xarray
import zarr

from workload import peak_memory

DEPENDENCIES = (dask, distributed, fsspec, google_crc32c, numcodecs, numpy, xarray, zarr)

if __name__ == "__main__":
    before = peak_memory()
    start = time.perf_counter()
    import dask_zv

    alone = time.perf_counter()
    assert all(getattr(dask_zv, name) for name in dask_zv.__all__)
    end = time.perf_counter()
    seconds = end - start if sys.argv[1:] == ["all"] else alone - start
    measured = {"seconds": seconds, "peak_mb": peak_memory(), "before_mb": before}
    print(json.dumps({**measured, "versions": {"dask-zv": dask_zv.__version__}}))
