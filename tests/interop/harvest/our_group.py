"""A pytest plugin that puts our Group in the place of the seed package's: its own tests then run on ours.

    GROUP_OUTCOMES=FILE PYTHONPATH=src pytest -p our_group

Runs in an environment that has ``zarr-vectors`` 0.2.0 and what this project needs. Every member of their Group that the contract
names is answered by one of ours on the same store; our ``StoreError`` becomes theirs, which their tests ask for.
"""

from __future__ import annotations

import functools
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zarr_vectors.core.group as seed
from zarr_vectors.exceptions import StoreError as SeedError

import dask_zv

Seed = seed.Group
CALLS = ("write_bytes", "read_bytes", "chunk_exists", "list_chunks", "write_array_meta", "read_array_meta", "array_exists",
         "delete_subtree", "__contains__", "__repr__")  # fmt: skip
VALUES = ("attrs", "path", "url", "prefix", "zarr_group")
CHILDREN = ("create_group", "require_group", "__getitem__")
CONTEXTS = ("batched_writes", "batched_reads")


def ours(group: Any) -> dask_zv.Group:
    """Return our Group on what theirs wraps."""
    if "_ours" not in group.__dict__:
        group.__dict__["_ours"] = dask_zv.Group(group.__dict__["_given"])
    found: dask_zv.Group = group.__dict__["_ours"]
    return found


@contextmanager
def their_errors():
    try:
        yield
    except dask_zv.errors.StoreError as error:
        raise SeedError(str(error)) from error


def call(name: str) -> Any:
    @functools.wraps(getattr(Seed, name))
    def wrapper(self, *args, **kwargs):
        with their_errors():
            return getattr(ours(self), name)(*args, **kwargs)

    return wrapper


def child(name: str) -> Any:
    @functools.wraps(getattr(Seed, name))
    def wrapper(self, *args, **kwargs):
        with their_errors():
            found = getattr(ours(self), name)(*args, **kwargs)
        made = type(self).__new__(type(self))
        made.__dict__["_ours"] = found
        return made

    return wrapper


def context(name: str) -> Any:
    @contextmanager
    @functools.wraps(getattr(Seed, name))
    def wrapper(self, *args, **kwargs):
        with their_errors(), getattr(ours(self), name)(*args, **kwargs):
            yield

    return wrapper


def value(name: str) -> Any:
    def get(self):
        with their_errors():
            return getattr(ours(self), name)

    return property(get)


def their_state(get: Any) -> Any:
    """Return a property for what their code looks at, and sets to None where it makes a Group."""
    return property(get, lambda _self, _given: None)


def wrap(self, zarr_group):
    self.__dict__["_given"] = zarr_group
    self.__dict__.pop("_ours", None)


def iterate(self):
    with their_errors():
        yield from list(ours(self))


for name in CALLS:
    setattr(Seed, name, call(name))
for name in VALUES:
    setattr(Seed, name, value(name))
for name in CHILDREN:
    setattr(Seed, name, child(name))
for name in CONTEXTS:
    setattr(Seed, name, context(name))
Seed.__iter__ = iterate
Seed._zarr = property(lambda self: self.__dict__.get("_given") or ours(self).zarr_group, wrap)
Seed._pending_writes = Seed._pending_array_metas = their_state(lambda self: None if ours(self)._batch is None else {})
Seed._prefetch_cache = their_state(lambda self: ours(self)._fetched)


outcomes: dict[str, str] = {}
"""Of each test: passed, failed or skipped."""


def pytest_runtest_logreport(report) -> None:
    if report.when == "call" or report.outcome != "passed":
        outcomes[report.nodeid] = "failed" if outcomes.get(report.nodeid) == "failed" else report.outcome


def pytest_sessionfinish() -> None:
    Path(os.environ["GROUP_OUTCOMES"]).write_text(json.dumps(outcomes))


def pytest_report_header() -> str:
    return f"the Group is that of dask-zv {dask_zv.__version__}"
