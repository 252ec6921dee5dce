"""What is unpacked and listed is bounded before memory is taken, whatever documents and headers claim."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest
import xarray as xr
from refusals import fails
from small import sizes

import dask_zv as dzv
from dask_zv.format import levels
from dask_zv.storage import codecs

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
HOLES = 200 << 20


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with cells, a catalog and tables about objects."""
    path = tmp_path_factory.mktemp("bounds") / "s.zv"
    points = np.random.default_rng(0).uniform(0, 4, (200, 2))
    store = dzv.create(path, chunk_shape=(1, 1), bounds=((0, 0), (4, 4)))
    ids = np.arange(200) % 7
    dzv.write_points(store, points, attributes={"a": np.arange(200)}, object_ids=ids, object_attributes={"b": np.arange(7)})
    return path


def read_all(path):
    level = dzv.open(path).level(0)
    return level.read(), level.read(objects=[1]), level.object_attributes() if hasattr(level, "object_attributes") else None


def test_files_of_holes_are_refused(made, tmp_path):
    tried = set()
    for file in sorted(p.relative_to(made) for p in made.rglob("*") if p.is_file()):
        kind = file.parts[:3]
        if kind in tried or file.name == "dask_zv_journal":
            continue
        path = tmp_path / "s.zv"
        shutil.copytree(made, path)
        os.truncate(path / file, HOLES)
        try:
            read_all(path)
        except dzv.ZVError as error:
            if "claims 209,715,200 bytes" in str(error):
                tried.add(kind)
        shutil.rmtree(path)
    found = {"/".join(k) for k in tried}
    assert {"zarr.json", "0/zarr.json", "0/vertices/c", "0/vertices/zarr.json", "0/dask_zv_catalog/c"} <= found
    assert any(k.startswith("0/object_") for k in found), found


def test_lists_of_more_chunks_than_a_grid_has_are_refused(made, tmp_path):
    path = tmp_path / "s.zv"
    shutil.copytree(made, path)
    shutil.rmtree(path / "0" / "dask_zv_catalog")
    file = path / "0" / "vertices" / "zarr.json"
    document = json.loads(file.read_text())
    cells = int(np.prod(document["shape"]))
    for names in ([f"{i}.0" for i in range(cells + 1)], ["0.0"] * (cells + 1)):
        document["attributes"]["nonempty_chunks"] = names
        file.write_text(json.dumps(document))
        fails(dzv.MetadataError, f"{cells + 1} keys, and the grid {cells} cells", lambda: dzv.open(path).level(0).read())
    del document["attributes"]["nonempty_chunks"]
    file.write_text(json.dumps(document))
    for i in range(cells + 1):
        (path / "0" / "vertices" / "c" / f"{i + 10}").mkdir()
        (path / "0" / "vertices" / "c" / f"{i + 10}" / "0").touch()
    fails(dzv.FormatError, f"its grid has room for {cells}", lambda: dzv.open_group(path, "r")["0"].list_chunks("vertices"))


def test_more_names_than_a_level_has_room_for_are_refused_before_they_are_looked_at(tmp_path, monkeypatch):
    """Layout per_chunk: each name is a folder, whose document would be asked for."""
    monkeypatch.setattr(levels, "_STRAYS", 20)
    path = tmp_path / "s.zv"
    points = np.random.default_rng(0).uniform(0, 4, (50, 2))
    dzv.write_points(dzv.create(path, chunk_shape=(1, 1), bounds=((0, 0), (4, 4)), layout="per_chunk"), points)
    shutil.rmtree(path / "0" / "dask_zv_catalog")
    for i in range(30):
        (path / "0" / "vertices" / f"{i + 10}.0").mkdir()
    assert len(dzv.open(path).level(0).read().positions) == 50
    for i in range(30, 200):
        (path / "0" / "vertices" / f"{i + 10}.0").mkdir()
    for call in (lambda s: s.level(0).read(), lambda s: s.refresh(), lambda s: xr.open_dataset(s.url, engine="zv").load()):
        with pytest.raises(dzv.FormatError, match=r"2\d\d names lie below it, but its level has room for 106 chunks"):
            call(dzv.open(path, mode="r+"))


def zipped(made, path, **how):
    with zipfile.ZipFile(path, "w", **how) as file:
        for p in sorted(made.rglob("*")):
            if p.is_file():
                file.write(p, str(p.relative_to(made)))
    return path


def test_members_of_zip_files_are_read_whole_and_in_parts(made, tmp_path):
    wanted = dzv.open(made).level(0).read(order="chunk")
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = zipped(made, tmp_path / f"{how}.zip", compression=how)
        found = dzv.open(path).level(0).read(order="chunk")
        np.testing.assert_array_equal(found.positions, wanted.positions)
        np.testing.assert_array_equal(found.attributes["a"], wanted.attributes["a"])
    with pytest.raises(dzv.StoreError, match="stored or deflated"):
        dzv.open(zipped(made, tmp_path / "bz2.zip", compression=zipfile.ZIP_BZIP2))


def test_members_that_claim_too_much_are_refused(made, tmp_path):
    path = tmp_path / "zeros.zip"
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as file:
        file.writestr("zarr.json", bytes(80 << 20))
    fails(dzv.StoreError, "claims 83,886,080 bytes", dzv.open, path)
    path = tmp_path / "more.zip"
    content = bytes(1 << 20)
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as file:
        file.writestr("zarr.json", content)
    data = path.read_bytes()
    length = len(content).to_bytes(4, "little")
    assert data.count(length) == 2
    path.write_bytes(data.replace(length, (100).to_bytes(4, "little")))
    fails(dzv.StoreError, "CRC", dzv.open, path)


def test_chunks_of_tables_unpack_to_no_more_than_their_document_says(made, tmp_path, monkeypatch):
    """A little more than fits into the chunk, by each codec: before zarr sees it."""
    codecs_of_zarr = [{"name": "gzip", "configuration": {"level": 5}}, {"name": "zstd", "configuration": {"level": 3}}]
    codecs_of_zarr += [{"name": "numcodecs.bz2", "configuration": {}}, {"name": "numcodecs.lz4", "configuration": {}}]
    for codec in codecs_of_zarr:
        path = tmp_path / codec["name"]
        shutil.copytree(made, path)
        shutil.rmtree(path / "0" / "dask_zv_catalog")
        table = path / "0" / "object_attributes" / "b"
        document = json.loads((table / "zarr.json").read_text())
        nbytes = int(np.prod(document["chunk_grid"]["configuration"]["chunk_shape"])) * 8
        document["codecs"] = [document["codecs"][0], codec]
        (table / "zarr.json").write_text(json.dumps(document))
        chunk = next(p for p in table.rglob("*") if p.is_file() and p.name != "zarr.json")
        values = np.arange(nbytes // 8).astype("<i8").tobytes()
        pack = codecs.cell_codec([codec]).encode
        chunk.write_bytes(pack(values))
        assert dzv.open(path).level(0).read().object_attributes["b"].tolist() == list(range(7))
        chunk.write_bytes(pack(values + bytes(8)))
        with pytest.raises(dzv.FormatError, match=r"can have|can't unpack|claims more") as caught:
            dzv.open(path).level(0).read()
        assert "object_attributes/b" in str(caught.value)


def test_cells_unpack_to_no_more_than_the_catalog_says():
    for name in ["zstd", "blosc", *PACKING, *CLAIMING]:
        configuration = {"gzip": {"level": 5}, "blosc": {"shuffle": "noshuffle"}}.get(name, {})
        codec = codecs.CellCodec([{"name": name, "configuration": configuration}])
        data = codec.encode(bytes(1000))
        assert codec.decode(data, 1000) == bytes(1000)
        fails(dzv.FormatError, None, codec.decode, data, 999)


PACKING = ["gzip", "numcodecs.gzip", "numcodecs.zlib", "numcodecs.bz2", "numcodecs.lzma"]
CLAIMING = ["numcodecs.lz4", "numcodecs.zstd", "numcodecs.blosc"]


def test_codecs_unpack_to_no_more_than_cells_may_hold(override):
    override(unpacked_bytes=1 << 20)
    some = np.random.default_rng(0).integers(0, 9, 5000).astype("u1").tobytes()
    for name in [*PACKING, *CLAIMING]:
        codec = codecs.CellCodec([{"name": name, "configuration": {"level": 5} if name == "gzip" else {}}])
        assert codec.decode(codec.encode(some)) == some, name
        for broken in (codec.encode(some)[:-7], b"", b"x" * 20):
            if broken or name in CLAIMING:
                fails(dzv.FormatError, None, codec.decode, broken)
    for name in PACKING:
        codec = codecs.CellCodec([{"name": name, "configuration": {"level": 5} if name == "gzip" else {}}])
        with pytest.raises(dzv.FormatError, match="far more than its length allows"):
            codec.decode(codec.encode(bytes(8 << 20)))
    for name, at in (("numcodecs.lz4", 0), ("numcodecs.blosc", 4)):
        codec = codecs.CellCodec([{"name": name, "configuration": {}}])
        data = bytearray(codec.encode(some))
        data[at : at + 4] = (2**31 - 1).to_bytes(4, "little")
        with pytest.raises(dzv.FormatError, match="claims more than it can hold"):
            codec.decode(bytes(data))


@pytest.mark.parametrize(("kind", "most"), [("points", 1.4), ("edges", 3.0)])
def test_a_level_is_read_into_arrays_that_are_taken_once(tmp_path, kind, most):
    rng = np.random.default_rng(1)
    positions = rng.uniform(0, 10, (600_000 if kind == "points" else 150_000, 3)).astype(np.float32)
    store = dzv.create(tmp_path / "s.zv", geometry="point_cloud" if kind == "points" else "graph", chunk_shape=(2, 2, 2))
    if kind == "points":
        dzv.write_points(store, positions, attributes={"mass": positions[:, 0]})
    else:
        first = np.arange(len(positions) - 3)
        dzv.write_graph(store, positions, edges=np.concatenate([np.stack([first, first + i], axis=1) for i in (1, 2, 3)]))
    level = dzv.open(tmp_path / "s.zv").level(0)
    with sizes(scheduler="sync", read_step_bytes=1 << 18, read_block_bytes=2 << 20):
        level.read()
        tracemalloc.start()
        found = level.read()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    arrays = [found.positions, *found.attributes.values(), *([] if found.edges is None else [found.edges, found.object_ids])]
    assert peak < most * sum(a.nbytes for a in arrays if a is not None)
