"""What stores, levels and reports say of themselves, as text and in notebooks: the facts, nothing that could run, no secret, few requests."""

import io
import json
import re
import shutil
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
import xarray as xr
from counting_store import CountingStore
from golden_reference import DATA, every_store
from s3_account import BUCKET, S3_SECRET
from small import always
from zarr.buffer import cpu
from zarr.core.sync import sync
from zarr.storage import MemoryStore, WrapperStore

import dask_zv as dzv
from dask_zv.storage.handles import open_objects

AXES = [{"name": "t", "type": "time"}, {"name": "x", "unit": "micrometer"}, {"name": "y", "unit": "micrometer"}]


_sync = always(scheduler="sync")


class Page(HTMLParser):
    """Checks that elements nest, and collects text and the cells of tables row by row."""

    VOID = ("br", "hr", "img")

    def __init__(self, markup):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words, self.rows = [], set(), [], []
        self.feed(markup)
        self.close()
        assert not self.open
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not any(name.startswith("on") or "javascript" in (value or "") for name, value in attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.words.append(" ")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, first):
        """Return the only row of a table that begins with a cell of this text."""
        (found,) = [r for r in self.rows if r[0] == first]
        return found


def page(shown):
    found = Page(shown._repr_html_())
    assert not found.tags & {"script", "style", "link", "iframe", "img", "a", "svg"}
    return found


@pytest.fixture(scope="module")
def positions():
    rng = np.random.default_rng(0)
    return rng.uniform([100, 0, 0], [135, 95, 45], (3000, 3)).astype("f4")


def write_graph(target, positions, **options):
    store = dzv.create(target, geometry="graph", chunk_shape=(20, 10, 10), bin_shape=(20, 5, 10), axes=AXES, **options)
    report = dzv.write_graph(
        store,
        positions,
        edges=np.stack([np.arange(2999), np.arange(1, 3000)], axis=1),
        attributes={
            "mass": np.ones(3000, "f4"),
            "kind": np.array(["soma", "axon", "tip"])[np.arange(3000) % 3],
            "colour": np.zeros((3000, 4), "u1"),
        },
        object_ids=np.arange(3000) // 1000,
        groups={0: [0, 1], 1: [2]},
    )
    return dzv.open(target), report


@pytest.fixture(scope="module", params=[1, 8], ids=["single", "packed"])
def graph(request, tmp_path_factory, positions):
    return write_graph(
        tmp_path_factory.mktemp("html") / "s.zv", positions, shard_chunks=request.param, crs={"name": "EPSG:3857"}
    )


def test_a_store(graph, positions):
    store, _ = graph
    found = page(store)
    assert found.text.startswith("dask_zv.Store graph")
    assert found.row("url")[1] == store.url
    assert found.row("layout")[1] == "grid (ZV 0.9.2)"
    assert json.loads(found.row("crs")[1]) == {"name": "EPSG:3857"}
    low, high = (f(positions, axis=0) for f in (np.min, np.max))
    for i, (name, unit, edge) in enumerate([("t time", "–", "20"), ("x", "micrometer", "10"), ("y", "micrometer", "10")]):
        row = found.row(name)
        assert (row[1], row[4]) == (unit, edge)
        assert [float(v) for v in row[2:4]] == pytest.approx([low[i], high[i]], rel=1e-6)
    catalogued = dzv.open(store.url).level(0)
    assert found.row("0")[:3] == ["0", "3,000", f"{len(catalogued.chunks):,}"]
    assert found.row("0")[3:] == [f"{catalogued.nbytes / 1e3:.1f} kB", "–"]


def test_a_level(graph):
    store, report = graph
    level = store.level(0)
    found = page(level)
    assert found.text.startswith("dask_zv.Level 0 graph")
    assert found.row("url")[1] == level.url
    rows = level.chunks.rows
    assert found.row("chunks")[1] == f"{report.chunks} of {rows.min()} to {rows.max()} vertices"
    assert found.row("objects")[1] == "3"
    assert found.row("stored as")[1] == ("an object per chunk" if store._contents.settings["shard_chunks"] == 1 else "shards")
    assert ["vertices", "3,000"] in found.rows
    arrays = {r[0]: r[1:] for r in found.rows if len(r) == 4}
    assert arrays["vertices"] == ["float32", "3", "–"]
    assert arrays["mass"] == ["float32", "–", "–"]
    assert arrays["kind"] == ["str as uint8", "–", "3"]
    assert arrays["colour"] == ["uint8", "4 (ch0, ch1, ch2, ch3)", "–"]


def test_keys_that_an_attribute_leads():
    level = dzv.open(DATA / "golden_0.9/points_attr_chunked.zarrvectors.zip").level(0)
    assert page(level).row("cls")[1] == "leads the chunk keys: a, b, c"


def test_names_are_escaped():
    name = '<script>alert("1")&amp;'
    store = dzv.create(
        MemoryStore(),
        chunk_shape=(10, 10),
        bounds=((0, 0), (20, 20)),
        axes=[{"name": "<b onclick=x>", "unit": "'<u>\""}, "y"],
        crs={"name": "<iframe>"},
    )
    dzv.write_points(store, np.full((3, 2), 5.0), attributes={name: np.arange(3)})
    for shown in (store.level(0),):
        assert name in page(shown).text
    assert "<iframe>" in page(store).row("crs")[1]
    assert page(store).row("<b onclick=x>")[1] == "'<u>\""


def test_secrets_stay_out(s3_options):
    options = {**s3_options, "key": "key-id-do-not-print"}
    url = f"s3://{BUCKET}/html.zv"
    store = dzv.create(url, chunk_shape=(10, 10), bounds=((0, 0), (20, 20)), storage_options=options)
    dzv.write_points(store, np.full((3, 2), 5.0))
    for shown in (dzv.open(url, storage_options=options), dzv.open(url, storage_options=options).level(0)):
        found = shown._repr_html_()
        assert url in found
        assert S3_SECRET not in found
        assert "key-id-do-not-print" not in found


def asked(store, shown):
    """Return the page, the keys that were asked for, and the prefixes that were listed."""
    store.forget()
    return page(shown), list(store.log), list(store.listed)


def test_requests(positions):
    counted = CountingStore(MemoryStore())
    _, report = write_graph(counted, positions)
    store = dzv.open(counted)
    found, keys, listed = asked(counted, store)
    assert keys == ["0/dask_zv_catalog/c/0"]  # opening read the documents of the store and of level 0
    assert listed == ["", "0"]
    counted.forget()
    assert found.row("0")[3] in repr(store)
    assert (counted.log, counted.listed) == ([], ["0"])  # whether a write was interrupted meanwhile
    _, keys, listed = asked(counted, store.level(0))
    assert [k for k in keys if "/c/" in k] == ["0/dask_zv_catalog/c/0"]
    segments = [a for a in report.arrays if a.startswith("links/0/")]
    assert len(keys) + len(listed) <= 16 + len(segments)  # whose documents every first look compares
    for shown in (store, store.level(0)):
        _, keys, listed = asked(counted, shown)
        assert (keys, listed) == ([], ["0"])
    counted.forget()
    store.info(io.StringIO())
    assert not counted.blobs
    assert len(counted.log) + len(counted.listed) <= 30 + len(segments)


def unpacked(name):
    """Return a counted copy in memory of a zipped reference store."""
    inside = {}
    with zipfile.ZipFile(DATA / name) as archive:
        for entry in archive.namelist():
            if not entry.endswith("/"):
                inside[entry] = cpu.Buffer.from_bytes(archive.read(entry))
    top = {entry.partition("/")[0] for entry in inside}
    if "zarr.json" not in inside:
        assert len(top) == 1
        inside = {entry.partition("/")[2]: data for entry, data in inside.items()}
    return CountingStore(MemoryStore(inside))


@pytest.mark.parametrize("generation", ["0.7", "0.9"])
def test_levels_without_a_catalog_are_not_read(generation):
    counted = unpacked(f"golden_{generation}/streamlines_pyramid.zarrvectors.zip")
    store = dzv.open(counted)
    found, keys, _ = asked(counted, store)
    looked = {f"{n}/{node}" for n in (1, 2) for node in ("zarr.json", "dask_zv_catalog/c/0")}
    assert {k for k in keys if k.startswith(("1/", "2/"))} == looked
    for number in (1, 2):
        metadata = store.level(number).metadata
        made = f"from level {number - 1} by {metadata.coarsening_method}"
        assert found.row(str(number)) == [str(number), f"{metadata.vertex_count:,}", "–", "–", f"{made}; no catalog"]
    found, keys, _ = asked(counted, store.level(0))
    assert found.row("chunks")[1] == "not catalogued: dzv.open(…, mode='r+').refresh()"
    assert found.row("objects")[1] == "10"
    assert not counted.blobs
    assert not [k for k in keys if "/c/" in k and "catalog" not in k]
    assert page(store.level(1)).row("made")[1].startswith("from level 0 by ")
    # once the caller has paid for the table of chunks, it is shown
    chunks = store.level(0).chunks
    assert page(store.level(0)).row("chunks")[1].startswith(f"{len(chunks)} of ")
    assert page(dzv.open(counted, mode="r+").level(0)).row("chunks")[1] == "not catalogued: store.refresh()"


def test_checked_stores_are_not_compared_for_it(positions):
    counted = CountingStore(MemoryStore())
    write_graph(counted, positions)
    store = dzv.open(counted, check_objects=True)  # which looks at all levels
    assert page(store.level(0)).row("objects")[1] == "3"
    store._contents.reload()
    level = store.level(0)
    found, keys, _ = asked(counted, level)
    assert "not looked at yet: store.level(0).chunks compares every object" in found.text
    assert not keys
    _ = level.chunks
    assert page(level).row("objects")[1] == "3"


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_an_empty_store(layout):
    store = dzv.create(MemoryStore(), chunk_shape=(10, 10), layout=layout)
    assert page(store).row("0") == ["0", "0", "–", "–", "no data yet"]
    assert page(store.level(0)).row("chunks")[1] == "no data yet"
    assert page(store).row("x")[2:4] == ["–", "–"]
    assert repr(store).splitlines()[1:] == [
        "  x: no bounds yet, chunks of 10", "  y: no bounds yet, chunks of 10", "  level 0: no data yet",
    ]  # fmt: skip
    assert repr(store.level(0)) == f"<dask_zv.Level {store.url}/0: point_cloud, no data yet>"
    assert store.nbytes == store.level(0).nbytes == 0
    assert np.isnan(store.bounds).all()
    bounded = dzv.create(MemoryStore(), chunk_shape=(10, 10), layout=layout, bounds=((0, 0), (5, 5)))
    assert bounded.bounds == ((0.0, 0.0), (5.0, 5.0))
    assert bounded.chunk_shape == bounded.level(0).chunk_shape == (10.0, 10.0)


def put(store, key, data):
    sync(store.set(key, cpu.Buffer.from_bytes(data)))


def get(store, key):
    return sync(store.get(key, cpu.buffer_prototype)).to_bytes()


@pytest.fixture
def memory(positions):
    store = MemoryStore()
    write_graph(store, positions)
    return store


def test_a_damaged_catalog(memory):
    key = "0/dask_zv_catalog/c/0"
    data = bytearray(get(memory, key))
    data[40] ^= 1
    put(memory, key, bytes(data))
    store = dzv.open(memory)
    assert page(store).row("0")[1] == "3,000"
    assert page(store).row("0")[2].startswith("FormatError: the catalog is damaged")
    for shown in (store, store.level(0)):
        assert repr(shown).count("FormatError: the catalog is damaged") == 1
    store.info(buffer := io.StringIO())
    assert "FormatError: the catalog is damaged" in buffer.getvalue()
    with pytest.raises(dzv.FormatError, match="the catalog is damaged"):
        store.nbytes  # noqa: B018
    found = page(store.level(0))
    assert found.row("arrays")[1].startswith("FormatError: the catalog is damaged")
    assert found.row("x")[4] == "10"
    assert found.text.count("FormatError") == 1


def test_a_lost_document(memory):
    sync(memory.delete("0/vertices/zarr.json"))
    assert page(dzv.open(memory).level(0)).row("arrays")[1].startswith("MetadataError: the document of 'vertices' is missing")


def test_a_damaged_level():
    counted = unpacked("golden_0.9/streamlines_pyramid.zarrvectors.zip")
    document = json.loads(get(counted, "1/zarr.json"))
    document["attributes"]["zarr_vectors_level"]["vertex_count"] = "<script>"
    put(counted, "1/zarr.json", json.dumps(document).encode())
    found = page(dzv.open(counted))
    assert found.row("1")[1].startswith("MetadataError: ")
    assert "<script>" in found.row("1")[1]
    assert found.row("2")[1] == "5"


def test_a_written_level_without_vertices_is_counted():
    store = dzv.create({}, chunk_shape=(10, 10))
    dzv.write_points(store, np.zeros((0, 2)))
    assert "level 0: 0 vertices in 0 chunks" in repr(store)
    assert ["vertices", "0"] in page(store.level(0)).rows


def test_damage_shows_in_its_place(memory):
    document = json.loads(get(memory, "0/object_index/zarr.json"))
    document["attributes"]["num_objects"] = -1
    put(memory, "0/object_index/zarr.json", json.dumps(document).encode())
    found = page(dzv.open(memory).level(0))
    assert found.row("objects")[1].startswith("MetadataError: object_index has num_objects -1")
    assert ["vertices", "3,000"] in found.rows
    assert re.match(r"\d+ of ", found.row("chunks")[1])


@every_store
def test_stores_of_others(path):
    store = dzv.open(path)
    found = page(store)
    assert "Error" not in found.text
    assert [r[0] for r in found.rows[-len(store.levels) :]] == list(map(str, store.levels))
    for number in store.levels:
        level = store.level(number)
        found = page(level)
        assert "Error" not in found.text
        assert ["vertices", f"{level.metadata.vertex_count:,}" if level.metadata.vertex_count else "not counted"] in found.rows
        assert {*level.attributes} <= {r[0] for r in found.rows}
        assert all(name in repr(level) for name in level.attributes)
        level.info(buffer := io.StringIO())
        assert "Error" not in repr(level) + repr(store) + buffer.getvalue()
        assert level.nbytes > 0


def test_sizes_are_those_of_the_chunks(graph, tmp_path):
    store, _ = graph
    stored = [p for p in Path(url2pathname(urlsplit(store.url).path)).rglob("*") if p.is_file() and "/c/" in str(p)]
    chunks = [p for p in stored if not {"dask_zv_catalog", "object_index", "groups"} & set(p.parts)]
    chunks = [p for p in chunks if "0/dask_zv" not in str(p)]
    assert store.nbytes == store.level(0).nbytes
    assert 0 <= sum(p.stat().st_size for p in chunks) - store.nbytes <= 150 * len(chunks)  # indexes of shards
    (size,) = re.findall(r"size +([0-9.]+) kB in ([0-9,]+) files", info(store.level(0)))
    assert float(size[0]) == pytest.approx(store.nbytes / 1e3, abs=0.06)
    assert int(size[1].replace(",", "")) == len(chunks)
    # without a catalog every object is looked at
    copied = tmp_path / "copy.zv"
    shutil.copytree(url2pathname(urlsplit(store.url).path), copied)
    shutil.rmtree(copied / "0" / "dask_zv_catalog")
    assert dzv.open(copied).nbytes == sum(p.stat().st_size for p in chunks)
    assert "3,000 vertices, no catalog" in repr(dzv.open(copied))
    assert "3,000 vertices, no catalog" in repr(dzv.open(copied).level(0))


def info(shown):
    shown.info(buffer := io.StringIO())
    return buffer.getvalue()


def test_info(graph, positions, capsys):
    store, report = graph
    level = store.level(0)
    assert store.info() is None
    text = capsys.readouterr().out
    assert text == info(store)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    rows = level.chunks.rows
    for line in (
        "<dask_zv.Store graph>", f"url {store.url}", "layout grid (ZV 0.9.2)", 'crs {"name": "EPSG:3857"}', "<dask_zv.Level 0 graph>",
        "vertices 3,000", f"chunks {report.chunks} of {rows.min()} to {rows.max()} vertices", "compression zstd", "objects 3", "groups 2",
        "edges 2,999", "vertices float32 3 –", "kind str as uint8 – 3", "colour uint8 4 (ch0, ch1, ch2, ch3) –",
    ):  # fmt: skip
        assert line in lines, line
    x = next(line for line in lines if line.startswith("x micrometer"))
    assert [float(v) for v in x.split()[2:4]] == pytest.approx([positions[:, 1].min(), positions[:, 1].max()], rel=1e-6)
    assert info(level).splitlines()[0] == "<dask_zv.Level 0  graph>"


def test_info_of_attributes_of_all_kinds():
    store = dzv.create(MemoryStore(), geometry="graph", chunk_shape=(10, 10))
    dzv.write_graph(
        store, np.arange(8.0).reshape(4, 2), edges=[[0, 1], [2, 3]], edge_attributes={"weight": np.ones(2, "f4")},
        object_ids=[0, 0, 1, 1], object_attributes={"name": ["a", "b"], "place": np.zeros((2, 3))}, groups={0: [0, 1]},
        group_attributes={"rank": [1]},
    )  # fmt: skip
    lines = [" ".join(line.split()) for line in info(store).splitlines()]
    for line in ("weight float32 – –", "name str – –", "place float64 3 –", "rank int64 – –"):
        assert line in lines
    for line in ("attributes of edges:", "attributes of objects:", "attributes of groups:"):
        assert line in lines


@pytest.mark.parametrize("fixture", ["store", "level"])
def test_text_and_notebook_agree(graph, fixture):
    store, _ = graph
    shown = store if fixture == "store" else store.level(0)
    found, text = page(shown), " ".join(f"{shown!r} {info(shown)}".split())
    values = [
        cell for row in found.rows[1:] for cell in row if cell not in ("–", "") and row[0] not in ("axis", "array", "level")
    ]
    assert [v for v in values if " ".join(v.split()) not in text] == []


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
@pytest.mark.parametrize("resume", [True, False])
def test_an_interrupted_write_is_told(layout, resume, override, positions):
    class Full(WrapperStore):
        """Takes so many chunks of positions, and no more."""

        left = 40

        async def set(self, key, value):
            if "/vertices/" in key and "/c/" in key:
                Full.left -= 1
                if Full.left < 0:
                    raise OSError("no space left on device")
            await self._store.set(key, value)

    override(write_block_bytes=(10_000, 20_000))
    inner = MemoryStore()
    store = dzv.create(Full(inner), chunk_shape=(20, 10, 10), layout=layout)
    with pytest.raises(dzv.StoreError, match="no space left"):
        dzv.write_points(store, positions, resume=resume)
    for each in (store, dzv.open(inner)):
        for shown in (each, each.level(0)):
            for text in (repr(shown), page(shown).text, info(shown)):
                assert "no data yet" in text
                if resume:
                    assert re.search(r"a write is under way or was interrupted: [1-9]\d* of \d+ blocks stored", text), text
                elif layout == "grid":
                    assert "a write is under way or was interrupted" in text
        assert each.nbytes == 0
        for look in (lambda s: xr.open_dataset(s, engine="zv").x, lambda s: s.level(0).read().positions):
            if layout == "grid":
                with pytest.warns(dzv.ZVWarning, match="the level is empty: a write is under way or was interrupted"):
                    assert len(look(each)) == 0
            elif resume:
                with pytest.raises(dzv.MetadataError) as caught:
                    look(each)
                assert "a write is under way or was interrupted" in caught.value.__notes__[0]
    dzv.write_points(dzv.open(inner, "r+"), positions, resume=resume, mode="error" if resume else "overwrite")
    assert "interrupted" not in repr(dzv.open(inner)) + info(dzv.open(inner))


def test_reprs_never_raise(memory):
    class Gone(WrapperStore):
        async def get(self, key, *args, **kwargs):
            raise RuntimeError("the network is gone")

        async def list_dir(self, prefix):
            raise RuntimeError("the network is gone")
            yield

    store = dzv.open(memory)
    level = store.level(0)
    store_objects = open_objects(store._contents.handle if hasattr(store, "_contents") else store.handle)
    store_objects.store = Gone(store_objects.store)
    for shown in (store, level):
        assert "the network is gone" in repr(shown)
        assert "the network is gone" in page(shown).text


def test_many_levels_are_counted(memory):
    for number in range(1, 40):
        document = json.loads(get(memory, "0/zarr.json"))
        document["attributes"]["zarr_vectors_level"] |= {"level": number, "parent_level": 0}
        put(memory, f"{number}/zarr.json", json.dumps(document).encode())
    store = dzv.open(memory)
    assert repr(store).splitlines()[-1] == "  and 20 levels more"
    assert page(store).row("levels")[1] == "40, of which 20 are shown"


def test_a_report(graph):
    _, report = graph
    first, *rest = repr(report).splitlines()
    assert first.startswith(f"<dask_zv.Report: 3,000 rows, {report.chunks:,} chunks, ")
    assert f" MB in {report.files:,} files, 3 ZV objects, " in first
    assert f"  vertex_attributes/mass: {report.arrays['vertex_attributes/mass']:,} blobs" in rest
    segments = [a for a in report.arrays if a.startswith("links/0/")]
    assert f"  links/0/* ({len(segments)} arrays): {sum(report.arrays[a] for a in segments):,} blobs" in rest
    with pytest.warns(DeprecationWarning, match="Report.files"):
        assert report.stored_objects == report.files


def test_a_report_with_a_hint():
    report = dzv.Report(-1, 2000, 0, 4_000_000, 2000, 1, 0.5, dropped=7)
    assert repr(report).splitlines() == [
        "<dask_zv.Report: 2,000 chunks, 4.0 MB in 2,000 files, 7 rows out of bounds left out, 1 blocks in 0.50 s>",
        "  hint: chunks average 2.0 kB; larger ones are read and written faster",
    ]
