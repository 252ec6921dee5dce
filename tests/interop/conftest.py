"""The packages that we exchange stores with, and few threads."""

from __future__ import annotations

import dask
import pytest
from peer_client import start_peer


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


@pytest.fixture(scope="session")
def peer():
    """The ZV 0.9 package."""
    return start_peer("0.9")
