"""Stores, schedulers, and the contract matrix that the tests of all layers share."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dask
import pytest
import zarr
from contract_exceptions import need
from contract_matrix import ContractMatrix
from hypothesis import settings
from layouts import grid_settings
from s3_account import BUCKET, S3_SECRET
from sampling import Cases
from zarr.abc.store import Store
from zarr.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore

import dask_zv as dzv
from dask_zv import config as zv_config


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--record", metavar="FILE", help="write how many cases ran, how long and on what to a file of Markdown")
    parser.addoption("--hpc", action="store_true", help="also run the tests that need SLURM and Open MPI (see ci/hpc)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "contract: a row of the contract matrix (columns: `store`, `scheduler`)")
    config.addinivalue_line(
        "markers", "product(keep): without --long, cases with every pair ('pairs') or all ('values') of the parameters' values"
    )
    config.pluginmanager.register(ContractMatrix(list(STORES), list(SCHEDULERS)), "contract-matrix")
    config.pluginmanager.register(Cases(config), "cases")
    settings.register_profile("no clock", deadline=None)  # how long an example takes is up to what else the machine does
    settings.load_profile("no clock")


@pytest.fixture
def override() -> Iterator[Callable[..., None]]:
    """Change settings of the library until the test ends: ``override(write_block_bytes=(1000, 2000))``."""
    with ExitStack() as stack:
        yield lambda **values: stack.enter_context(zv_config.override(**values))


# -------------------------------------------------------------------------------------------------- an S3 endpoint


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of an S3 server on loopback, ended with the session."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # a process of its own: in this one it would share the interpreter lock with what it serves
    program = [sys.executable, str(Path(__file__).with_name("moto_s3.py")), str(port)]
    server = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if server.poll() is not None:
                raise RuntimeError(f"moto ended with status {server.returncode}")
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="session")
def s3_client(s3_endpoint: str) -> Any:
    """A client of that server."""
    import boto3

    account = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=s3_endpoint, **account)


@pytest.fixture(scope="session")
def s3_options(s3_endpoint: str, s3_client: Any) -> dict[str, Any]:
    """Storage options in fsspec's dialect, for a server that has the bucket BUCKET."""
    options = {"key": "moto-key-id", "secret": S3_SECRET, "endpoint_url": s3_endpoint}
    s3_client.create_bucket(Bucket=BUCKET)
    return options


# -------------------------------------------------------------------------------------------------- stores


@dataclass
class StoreUnderTest:
    """A fresh, empty store: what a user passes as `target`, and plain zarr's view of the same objects."""

    name: str
    target: Any
    plain: Store
    options: dict[str, Any] | None = None
    keep: list[Any] = field(default_factory=list)
    layout: str = "per_chunk"

    def open(self, mode: str = "r+", rank: int = 3) -> dzv.Group:
        """Open the root; in layout ``grid`` new arrays of it have the grid :func:`grid_settings` of that rank."""
        new = mode != "r" and self.layout == "grid" and self.get("zarr.json") is None
        group = dzv.open_group(self.target, mode, layout=self.layout if new else None, storage_options=self.options)
        if new:
            group.attrs["dask_zv"] = {"layout": "grid", "grid": grid_settings(rank)}
        return group

    def level(self, name: str = "0", rank: int = 3) -> dzv.Group:
        """Return a group of the root, made where it is absent, whose new arrays have a grid as those of the root do."""
        group = self.open().require_group(name)
        if self.layout == "grid" and "dask_zv" not in group.attrs:
            group.attrs["dask_zv"] = {"grid": grid_settings(rank)}
        return group

    def root(self) -> zarr.Group:
        """Return the root through plain zarr, made where it is absent."""
        return zarr.open_group(self.plain, mode="a", zarr_format=3, use_consolidated=False)

    def list_keys(self) -> list[str]:
        async def collect() -> list[str]:
            return [key async for key in self.plain.list()]

        return sorted(sync(collect()))

    def get(self, key: str) -> bytes | None:
        if self.name == "icechunk" and not sync(self.plain.exists(key)):  # it raises where the array is absent
            return None
        found = sync(self.plain.get(key, default_buffer_prototype()))
        return None if found is None else found.to_bytes()

    def put(self, key: str, data: bytes) -> None:
        sync(self.plain.set(key, cpu.Buffer.from_bytes(data)))

    def delete(self, key: str) -> None:
        sync(self.plain.delete(key))

    def dump(self) -> dict[str, bytes | None]:
        """Return every object of the store."""
        return {key: self.get(key) for key in self.list_keys()}

    def need(self, capability: str) -> None:
        need(self.name, capability)


STORES = (
    *("local_path", "local_store", "memory_store", "dict", "memory_url", "fsspec_memory", "fsspec_s3", "obstore_s3"),
    *("obstore_memory", "icechunk"),
)


def _make_store(name: str, request: pytest.FixtureRequest, root: Path, layout: str) -> StoreUnderTest:
    """Return a fresh store of a kind."""
    unique = uuid.uuid4().hex

    def made(target: Any, plain: Store | None = None, **more: Any) -> StoreUnderTest:
        return StoreUnderTest(name, target, target if plain is None else plain, **more, layout=layout)

    match name:
        case "local_path":
            return made(str(root / "s.zv"), LocalStore(root / "s.zv"))
        case "local_store":
            return made(LocalStore(root / "s.zv"))
        case "memory_store":
            return made(MemoryStore())
        case "dict":
            mapping: dict[str, Any] = {}
            return made(mapping, MemoryStore(mapping))
        case "memory_url":
            return made(f"memory://{unique}/s.zv", FsspecStore.from_url(f"memory://{unique}/s.zv"))
        case "fsspec_memory":
            from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
            from fsspec.implementations.memory import MemoryFileSystem

            return made(FsspecStore(AsyncFileSystemWrapper(MemoryFileSystem(), asynchronous=True), path=f"/{unique}"))
        case "fsspec_s3":
            options = {**request.getfixturevalue("s3_options"), "use_listings_cache": False}
            return made(FsspecStore.from_url(f"s3://{BUCKET}/{unique}", storage_options=options))
        case "obstore_s3":
            import obstore.store

            options = request.getfixturevalue("s3_options")
            plain = obstore.store.S3Store(
                BUCKET, prefix=unique, endpoint=options["endpoint_url"], access_key_id=options["key"],
                secret_access_key=options["secret"], region="us-east-1", client_options={"allow_http": True},
            )  # fmt: skip
            return made(f"s3://{BUCKET}/{unique}", ObjectStore(plain), options=options)
        case "obstore_memory":
            import obstore.store

            return made(ObjectStore(obstore.store.MemoryStore()))
        case _:
            import icechunk

            repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(root / "repo")))
            session = repo.writable_session("main")
            return made(session, session.store, keep=[repo])


@pytest.fixture
def layout() -> str:
    """Layout of the stores of `store` and `make_store`; modules whose tests run in both have a fixture of this name."""
    return "per_chunk"


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, layout: str) -> StoreUnderTest:
    """Every store that can be written, one after the other."""
    return _make_store(request.param, request, tmp_path, layout)


@pytest.fixture
def make_store(request: pytest.FixtureRequest, tmp_path: Path, layout: str) -> Callable[[str], StoreUnderTest]:
    """Return fresh stores by name, for tests that want a second one, or one kind alone."""
    return lambda name: _make_store(name, request, tmp_path / uuid.uuid4().hex[:8], layout)


@pytest.fixture
def no_waiting(override: Callable[..., None]) -> None:
    """Damage does not heal: don't wait between the attempts to read it."""
    override(reread_wait=0)


# -------------------------------------------------------------------------------------------------- schedulers


@pytest.fixture(scope="session")
def process_pool() -> Iterator[ProcessPoolExecutor]:
    """One pool for the multiprocessing scheduler: starting processes is what costs."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="session")
def process_cluster() -> Iterator[Any]:
    """A LocalCluster whose workers are processes."""
    from distributed import LocalCluster

    with LocalCluster(processes=True, n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def thread_cluster() -> Iterator[Any]:
    """A LocalCluster in this process."""
    from distributed import LocalCluster

    with LocalCluster(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture
def use_scheduler(request: pytest.FixtureRequest) -> Callable[[str], AbstractContextManager[Any]]:
    """Return a context in which a scheduler is the active one; it yields the client, if there is one."""

    @contextmanager
    def use(name: str) -> Iterator[Any]:
        if name in ("distributed", "in-process cluster"):
            from distributed import Client

            fixture = "process_cluster" if name == "distributed" else "thread_cluster"
            with Client(request.getfixturevalue(fixture)) as client:
                yield client
        elif name == "processes":
            with dask.config.set(scheduler="processes", pool=request.getfixturevalue("process_pool")):
                yield None
        else:
            with dask.config.set(scheduler=name):
                yield None

    return use


SCHEDULERS = ("sync", "threads", "processes", "distributed")


@pytest.fixture(params=SCHEDULERS)
def scheduler(request: pytest.FixtureRequest, use_scheduler: Any) -> Iterator[str]:
    """Every scheduler, one after the other, as the active one."""
    with use_scheduler(request.param):
        yield request.param
