"""What opening and looking cost: a number of requests that has nothing to do with the size of the level."""

from __future__ import annotations

from collections import Counter
from functools import partialmethod
from typing import Any, Self

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from small_geometries import write_any
from small_stores import KINDS
from zarr.abc.store import Store
from zarr.storage import MemoryStore, WrapperStore

import dask_zv as dzv

VIEWS = ("spatial", "objects")
SIZES = {"small": (50, 10), "many chunks": (5_000, 10), "many objects": (50, 20_000)}


class EveryRequest(WrapperStore[Store]):
    """Records every request of every kind; copies that are opened for another mode write into the same log."""

    def __init__(self, store: Store, log: list[tuple[str, str]] | None = None) -> None:
        super().__init__(store)
        self.log: list[tuple[str, str]] = [] if log is None else log

    def with_read_only(self, read_only: bool = False) -> Self:
        return type(self)(self._store.with_read_only(read_only), self.log)

    async def _one(self, verb: str, key: str, *args: Any, **kwargs: Any) -> Any:
        self.log.append((verb, key))
        return await getattr(super(), verb)(key, *args, **kwargs)

    async def _many(self, verb: str, *prefix: str) -> Any:
        self.log.append((verb, *prefix) if prefix else (verb, ""))
        async for name in getattr(super(), verb)(*prefix):
            yield name

    get, exists, getsize = partialmethod(_one, "get"), partialmethod(_one, "exists"), partialmethod(_one, "getsize")
    list_dir, list_prefix, list = (
        partialmethod(_many, "list_dir"),
        partialmethod(_many, "list_prefix"),
        partialmethod(_many, "list"),
    )

    def taken(self) -> Counter[tuple[str, str]]:
        """Return what was asked for since the last call."""
        found = Counter(self.log)
        self.log.clear()
        return found


def is_blob(key: str) -> bool:
    """Tell whether a key holds vertices, attributes, fragments or links of a chunk."""
    arrays = ("0/vertices/", "0/vertex_attributes/", "0/vertex_fragments/", "0/links/", "0/link_attributes/")
    return key.startswith(arrays) and "/c/" in key


def write_wide(kind: str, chunks: int, objects: int) -> EveryRequest:
    """Write pairs of vertices, each within a chunk; `chunks` chunks in a plane, so that links cross none of their faces."""
    rows = max(2 * chunks, 2 * objects)
    rows -= rows % (2 * objects) - 2 * objects if rows % (2 * objects) else 0
    pair = np.arange(rows) // 2
    at = pair % chunks
    side = int(np.ceil(np.sqrt(chunks)))
    positions = np.stack([at % side, at // side, 0 * at], 1) * 10.0 + 2 + np.arange(rows)[:, None] % 2
    if kind == "mesh":  # a face of three vertices
        pair, positions = np.repeat(pair[::2], 3), np.repeat(positions[::2], 3, axis=0) + np.tile(np.eye(3), (rows // 2, 1))
    owner = np.sort(pair % objects) if kind == "polyline" else pair % objects
    store = EveryRequest(MemoryStore())
    options = {
        "attributes": {"mass": np.arange(len(positions)), "colour": np.zeros((len(positions), 3), np.uint8)},
        "object_attributes": pd.DataFrame({"score": np.arange(objects), "rank": 1.0}),
        "groups": {0: [1, 2], 1: range(objects)},
    }
    made = dzv.create(store, geometry=kind, chunk_shape=(10, 10, 10))
    here = np.arange(len(positions))
    links = here.reshape(-1, 3 if kind == "mesh" else 2)
    weights = {"weight": np.arange(len(links))}
    write_any(made, kind, positions, owner, links[:, ::-1] if kind == "skeleton" else links, weights, **options)
    assert len(dzv.open(store).level(0).chunks) == chunks
    assert dzv.open(store).level(0)._contents.index.count == objects
    store.taken()
    return store


@pytest.fixture(scope="module", params=KINDS)
def stores(request):
    with dask.config.set(scheduler="sync"):
        return {name: write_wide(request.param, *size) for name, size in SIZES.items()}


def look(ds):
    repr(ds), ds._repr_html_(), ds.nbytes, ds.sizes, ds.chunks, ds.dtypes, ds.xindexes, ds.attrs
    for name in ds.variables:
        repr(ds[name]), ds[name]._repr_html_(), ds[name].nbytes, ds[name].size


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("chunks", [None, {}])
def test_opening_costs_the_same_whatever_the_size(stores, view, chunks):
    costs = {}
    for name, store in stores.items():
        ds = xr.open_dataset(store, engine="zv", view=view, chunks=chunks)
        asked = store.taken()
        assert not [key for _, key in asked if is_blob(key)]
        look(ds)
        assert not store.taken()
        costs[name] = sum(asked.values())
    assert len(set(costs.values())) == 1, costs
    assert max(costs.values()) < 45


def test_a_tree_costs_the_same_whatever_the_size(stores):
    costs = set()
    for store in stores.values():
        tree = xr.open_datatree(store, engine="zv")
        repr(tree), tree._repr_html_()
        asked = store.taken()
        assert not [key for _, key in asked if is_blob(key)]
        costs.add(sum(asked.values()))
    assert len(costs) == 1


@pytest.mark.parametrize("view", VIEWS)
def test_an_object_and_a_box_cost_no_more_in_a_larger_level(stores, view):
    """A chunk, and what is next to it; not the tables of all."""
    costs = {}
    for name in ("small", "many chunks"):
        ds = xr.open_dataset(stores[name], engine="zv", view=view)
        stores[name].taken()
        ds.x[:3].values, ds.mass[:3].values
        blobs = {key for kind, key in stores[name].taken() if is_blob(key)}
        costs[name] = len(blobs)
    if view == "spatial":
        assert costs["many chunks"] <= costs["small"]


def test_selections_read_nothing_but_positions(stores):
    store = stores["many chunks"]
    ds = xr.open_dataset(store, engine="zv")
    store.taken()
    near = ds.zv.chunks_in(((25, 25, 0), (55, 55, 9)))
    ds.isel(vertex=slice(100, 3000)), ds.isel(vertex=[5, 3, 1]), ds[["mass"]].isel(vertex=slice(None, None, -1))
    assert not store.taken()
    assert near.sizes["vertex"] < 60
    ds.sel(x=slice(20, 39.9), y=slice(20, 39.9))  # whole chunks: nothing to look at
    assert not {key for _, key in store.taken() if is_blob(key) and "/vertex_attributes/" in key}
    inside = ds.sel(x=slice(22.5, 31), y=slice(20, 39))
    arrays = {key.split("/")[1] for _, key in store.taken() if is_blob(key)}
    assert arrays <= {"vertices", "vertex_fragments"}
    assert 0 < inside.sizes["vertex"] < 30
