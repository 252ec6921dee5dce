"""Schedulers, repositories and writes of these tests."""

from __future__ import annotations

from typing import Any

import cloudpickle
import dask
import pytest
from dask.local import get_async, synchronous_executor


def pickling_scheduler(dsk: Any, keys: Any, **_: Any) -> Any:
    """Run a graph here, but send it, every task and every result through pickle, as a cluster does."""
    graph = dsk.__dask_graph__() if hasattr(dsk, "__dask_graph__") else dsk
    sent = cloudpickle.loads(cloudpickle.dumps(dict(graph)))
    return get_async(synchronous_executor.submit, 1, sent, keys, dumps=cloudpickle.dumps, loads=cloudpickle.loads)


@pytest.fixture(params=["threads", "pickling"])
def few_forks_or_many(request):
    """All tasks share a fork, as in one process, or each has its own, as on a cluster."""
    with dask.config.set(scheduler=pickling_scheduler if request.param == "pickling" else request.param):
        yield request.param


@pytest.fixture
def repo(tmp_path):
    icechunk = pytest.importorskip("icechunk")
    return icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
