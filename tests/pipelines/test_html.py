"""What notebooks show of stores and levels, and the text of reports: the facts, nothing that could run, no secret, and few requests."""

import json
import re
import zipfile
from html.parser import HTMLParser

import numpy as np
import pytest
from counting_store import CountingStore
from golden_reference import DATA, every_store
from s3_account import BUCKET, S3_SECRET
from small import always
from zarr.buffer import cpu
from zarr.core.sync import sync
from zarr.storage import MemoryStore

import dask_zv as dzv

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
    assert found.row("0") == ["0", "3,000", "–"]


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
    _, keys, listed = asked(counted, store)
    assert keys == []  # opening read the documents of the store and of level 0
    assert listed == [""]
    _, keys, listed = asked(counted, store.level(0))
    assert [k for k in keys if "/c/" in k] == ["0/dask_zv_catalog/c/0"]
    segments = [a for a in report.arrays if a.startswith("links/0/")]
    assert len(keys) + len(listed) <= 16 + len(segments)  # whose documents every first look compares
    for shown in (store, store.level(0)):
        _, keys, listed = asked(counted, shown)
        assert keys + listed == []


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
    assert [k for k in keys if k.startswith(("1/", "2/"))] == ["1/zarr.json", "2/zarr.json"]
    for number in (1, 2):
        metadata = store.level(number).metadata
        made = f"from level {number - 1} by {metadata.coarsening_method}"
        assert found.row(str(number)) == [str(number), f"{metadata.vertex_count:,}", made]
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
    assert page(store).row("0") == ["0", "0", "–"]
    assert page(store.level(0)).row("chunks")[1] == "nothing written yet"


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
        assert ["vertices", f"{level.metadata.vertex_count:,}"] in found.rows
        assert {*level.attributes} <= {r[0] for r in found.rows}


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
