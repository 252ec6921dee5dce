"""A server with faults and two writing processes for the whole session, and schedulers that start nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask
import pytest
from fault_server import FaultServer, serve_faults
from line_process import LineProcess
from writer_trials import two_writers


@pytest.fixture(scope="session")
def running_fault_server() -> Iterator[FaultServer]:
    """An S3 server that fails as it is told, in a process of its own."""
    with serve_faults() as server:
        yield server


@pytest.fixture
def fault_server(running_fault_server: FaultServer) -> FaultServer:
    """The same, empty and without faults."""
    running_fault_server.faults()
    running_fault_server.clear()
    return running_fault_server


@pytest.fixture(scope="session")
def writing_processes() -> Iterator[tuple[LineProcess, LineProcess]]:
    """Two other clients."""
    with two_writers() as processes:
        yield processes


@pytest.fixture
def sync_scheduler() -> Iterator[Any]:
    """Tasks run in this thread, one after the other."""
    with dask.config.set(scheduler="sync"):
        yield
