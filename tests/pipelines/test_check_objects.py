"""Other tools' edits of single chunks: what a look at opening sees of them; and the mark of a level that is being replaced.

What reading makes of edits is in test_damage.
"""

import dask
import numpy as np
import pytest
import xarray as xr
from damaged_stores import Cells

import dask_zv as dzv
from dask_zv.format.fragments import encode_tiling

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")


@pytest.fixture(params=[1, 8], ids=["single", "packed"])
def path(request, tmp_path):
    store = dzv.create(tmp_path / "s.zv", chunk_shape=(10, 10, 10), shard_chunks=request.param, compressor=None)
    positions = np.random.default_rng(0).uniform(0, 50, (2000, 3)).astype("f4")
    dzv.write_points(store, positions, attributes={"mass": np.ones(2000)})
    return tmp_path / "s.zv"


def edit(path, **cells):
    """Put payloads into the first cell of arrays with plain zarr, which leaves their documents alone."""
    for name, payload in cells.items():
        Cells(path, "grid").write(name.replace("__", "/"), "0.0.0", payload)


def rows_of(path):
    return len(dzv.open(path).level(0).group.read_bytes("vertices", "0.0.0")) // 12


def test_edits_that_agree_are_seen_at_opening_when_asked(path):
    left = 2000 - rows_of(path) + 3
    vertices, mass = np.full((3, 3), 5, "f4").tobytes(), np.ones(3).tobytes()
    edit(path, vertices=vertices, vertex_fragments=encode_tiling([3]), vertex_attributes__mass=mass)
    assert len(dzv.open(path).level(0).read().positions) == left
    # counts of rows are of the last commit, until somebody looks
    with pytest.raises(dzv.FormatError, match=r"0\.0\.0"):
        _ = xr.open_dataset(path, engine="zv").x.values
    with pytest.warns(dzv.ZVWarning, match="chunk 0.0.0.* has other bytes than at the last commit"):
        checked = xr.open_dataset(path, engine="zv", check_objects=True)
    assert checked.sizes["vertex"] == len(checked.x.values) == len(checked.mass.values) == left
    dzv.refresh(path)
    assert xr.open_dataset(path, engine="zv").sizes["vertex"] == left


def test_tokens_are_those_of_the_edited_store(path):
    def token():
        level = dzv.open(path, check_objects=True).level(0)
        return level._contents.source.catalogued, level._contents.source.token

    (catalogued, before), tokens = token(), set()
    assert catalogued, "nothing changed keeps the catalog"
    for value in (7.0, 8.0):
        edit(path, vertex_attributes__mass=np.full(rows_of(path), value).tobytes())
        with pytest.warns(dzv.ZVWarning, match="chunk 0.0.0 has other bytes than at the last commit"):
            tokens.add(token()[1])
    assert len({before, *tokens}) == 3


def test_cells_of_another_chunk_are_no_edit(path):
    """As many rows, in the wrong place."""
    edit(path, vertices=(np.full((rows_of(path), 3), 5, "f4") + 30).tobytes())
    with pytest.raises(dzv.FormatError, match=r"another chunk.*0\.0\.0"):
        dzv.open(path).level(0).read()


def test_a_mark_of_a_dead_writer_is_no_edit(path):
    edit(path, vertex_attributes__mass=np.full(rows_of(path), 7.0).tobytes())
    assert 7.0 in dzv.open(path).level(0).read().attributes["mass"]
    mark = path / "0/dask_zv_replacing-somebody"
    mark.write_bytes(b"")
    for read in (lambda: dzv.open(path).level(0).read(), lambda: dzv.open(path, mode="r+").refresh()):
        with pytest.raises(dzv.FormatError, match="being replaced, or its writer died"):
            read()
    dzv.write_points(dzv.open(path, mode="r+"), np.ones((2, 3), "f4"), mode="overwrite")
    assert not mark.exists()
    assert len(dzv.open(path).level(0).read().positions) == 2


def test_a_write_that_replaces_marks_the_level_meanwhile(path):
    group = dzv.open(path, mode="r+").level(0).group
    with group.batched_writes(compute=False) as batch:
        group.write_bytes("vertices", "0.0.0", np.full((3, 3), 5, "f4").tobytes())
    delayed = batch.to_delayed()
    graph = dict(delayed.__dask_graph__())
    for keys, marked in ((list(graph[delayed.key].dependencies), True), (delayed.key, False)):
        dask.get(graph, keys)
        assert bool(list((path / "0").glob("dask_zv_replacing*"))) == marked
    with group.batched_writes(compute=False) as batch:
        group.write_array_meta("vertices", {"note": 1})
    assert not any("prepare" in str(k) for k in batch.to_delayed().__dask_graph__()), "nothing is replaced"


def test_a_refresh_that_fails_leaves_the_catalog(path):
    """The chunk that was lost is there again, and all is as before."""
    gone = next(p for p in sorted((path / "0/vertices/c").rglob("*")) if p.is_file())
    catalog, data = (path / "0/dask_zv_catalog/c/0").read_bytes(), gone.read_bytes()
    gone.unlink()
    with pytest.raises(dzv.StoreError, match="gone"):
        dzv.refresh(path)
    assert (path / "0/dask_zv_catalog/c/0").read_bytes() == catalog
    gone.write_bytes(data)
    assert dzv.open(path, check_objects=True).level(0)._contents.source.catalogued


def test_a_look_at_objects_tells_a_write_that_has_not_ended(tmp_path):
    store = dzv.create(tmp_path / "s.zv", chunk_shape=(10, 10, 10), exist_ok=True)
    plan = dzv.plan_points(store, np.random.default_rng(0).uniform(0, 50, (2000, 3)), resume=True)
    plan.run(0)
    with pytest.warns(dzv.ZVWarning, match="the level is empty: a write is under way or was interrupted"):
        dzv.open(tmp_path / "s.zv", check_objects=True)
