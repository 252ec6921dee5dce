"""What notebooks show of stores, levels and reports: the facts, nothing that could run, no secret, and few requests."""

from __future__ import annotations

import json
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
from counting_store import CountingStore
from s3_account import BUCKET, S3_SECRET
from zarr.buffer import cpu
from zarr.core.sync import sync
from zarr.storage import MemoryStore

import dask_zv as dzv

DATA = Path(__file__).parent.parent / "data"
GOLDEN = sorted(p for p in DATA.glob("golden_*/*.zarrvectors*") if p.suffix in (".zarrvectors", ".zip"))
AXES = [{"name": "t", "type": "time"}, {"name": "x", "unit": "micrometer"}, {"name": "y", "unit": "micrometer"}]


@pytest.fixture(autouse=True, scope="module")
def _sync():
    with dask.config.set(scheduler="sync"):
        yield


class Page(HTMLParser):
    """Checks that elements nest, and collects text, the cells of tables row by row, and drawn paths."""

    VOID = ("br", "hr", "img", "path")

    def __init__(self, markup):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words, self.rows, self.paths, self.svg = [], set(), [], [], [], {}
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
        elif tag == "path":
            self.paths.append(dict(attrs))
        elif tag == "svg":
            self.svg = dict(attrs)

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

    def cells(self):
        """Return the opacity of each cell of the map, by (column, row) from the upper left."""
        out = {}
        for path in self.paths:
            for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", path["d"]):
                out |= {(int(x) + i, int(y)): float(path["fill-opacity"]) for i in range(int(width))}
        return out


def page(shown):
    found = Page(shown._repr_html_())
    assert not found.tags & {"script", "style", "link", "iframe", "img", "a"}
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


def payload(folder):
    """Return the bytes of the chunks of all arrays below a folder, as stored."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and "c" in p.relative_to(folder).parts)


def shown_size(text):
    number, unit = text.split()
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit]


def test_a_store(graph, positions):
    store, report = graph
    found = page(store)
    assert found.text.startswith("dask_zv.Store graph")
    assert found.row("url")[1] == store.url
    assert found.row("layout")[1] == "grid (ZV 0.9.2)"
    assert json.loads(found.row("crs")[1]) == {"name": "EPSG:3857"}
    low, high = (f(positions, axis=0) for f in (np.min, np.max))
    for i, (name, unit, edge, bins) in enumerate(
        [("t time", "–", "20", "20"), ("x", "micrometer", "10", "5"), ("y", "micrometer", "10", "10")]
    ):
        row = found.row(name)
        assert (row[1], row[4], row[5]) == (unit, edge, bins)
        assert [float(v) for v in row[2:4]] == pytest.approx([low[i], high[i]], rel=1e-6)
    number, vertices, chunks, objects, attributes, packing, decoded, stored = found.row("0")
    assert (number, vertices, chunks, objects) == ("0", "3,000", f"{report.chunks:,}", "3")
    assert attributes == "colour uint8, kind str as uint8, mass float32"
    single = store.settings["shard_chunks"] == 1
    assert packing == ("an object per chunk" if single else "shards")
    assert shown_size(decoded) == pytest.approx(report.nbytes, rel=1e-3)
    level = Path(store.url.removeprefix("file://")) / "0"
    written = sum(payload(level / a) for a in ("vertices", "vertex_fragments", "vertex_attributes", "links", "link_fragments"))
    assert shown_size(stored) == pytest.approx(written, rel=1e-3) if single else 0 < shown_size(stored) < written


def test_a_level(graph):
    store, report = graph
    level = store.level(0)
    found = page(level)
    assert found.text.startswith("dask_zv.Level 0 graph")
    assert found.row("url")[1] == level.url
    rows = level.chunks.rows
    least, most = rows.min(), rows.max()
    assert found.row("chunks")[1] == f"{report.chunks} of {least} to {most} vertices, {rows.mean():.0f} on average"
    facts = {name: found.row(name)[1] for name in ("vertices", "objects", "groups", "links") if name != "vertices"}
    assert facts == {"objects": "3", "groups": "2", "links": "2,999 edges of 2 vertices each"}
    assert ["vertices", "3,000"] in found.rows
    by_name = {r[0]: r for r in found.rows if len(r) == 7}
    assert by_name["vertices"][1:4] == ["float32", "3", "–"]
    assert by_name["mass"][1:6] == ["float32", "–", "–", f"{report.chunks}", "12.0 kB"]
    assert by_name["kind"][1:4] == ["str as uint8", "–", "3"]
    assert by_name["colour"][1:3] == ["uint8", "4 (ch0, ch1, ch2, ch3)"]
    segments = [a for a in report.arrays if a.startswith("links/0/")]
    (links,) = (r for name, r in by_name.items() if name.startswith("links/0/*"))
    assert links[4] == format(sum(report.arrays[a] for a in segments), ",")


def test_the_map(graph):
    store, _ = graph
    chunks = store.level(0).chunks
    found = page(store)
    low, high = chunks.coords[:, 1:].min(axis=0), chunks.coords[:, 1:].max(axis=0)
    width, height = high - low + 1
    assert found.svg["viewbox"] == f"0 0 {width} {height}"
    assert f"x {10 * low[0]} … {10 * (high[0] + 1)} (micrometer)" in found.text
    assert "a cell is a column of chunks along t;" in found.text
    columns = pd.Series(chunks.rows).groupby(list(chunks.coords[:, 1:].T)).sum()
    assert f"{columns.min()} to {columns.max()} vertices" in found.text
    cells = found.cells()
    assert set(cells) == {(x - low[0], high[1] - y) for x, y in columns.index}  # y goes up
    shades = columns.sort_values()
    drawn = [cells[x - low[0], high[1] - y] for x, y in shades.index]
    assert drawn == sorted(drawn)
    assert drawn[0] < drawn[-1] == 1


def test_many_chunks_share_cells():
    store = dzv.create(MemoryStore(), chunk_shape=(1, 1), bounds=((0, -400), (300, 10)))
    line = np.linspace(0, 1, 4000)[:, None] * [[299.5, -399.5]]
    dzv.write_points(store, line)
    found = page(store)
    _, _, width, height = map(int, found.svg["viewbox"].split())
    assert width <= 64
    assert height <= 64
    assert "a cell is 5 × 7 chunks;" in found.text
    cells = found.cells()
    assert (0, 0) in cells  # the line runs from the upper left to the lower right
    assert (width - 1, height - 1) in cells
    assert (width - 1, 0) not in cells
    assert len(found.paths) <= 8


def test_keys_that_an_attribute_leads():
    level = dzv.open(DATA / "golden_0.9/points_attr_chunked.zarrvectors.zip").level(0)
    coords = level.chunks.coords[:, 1:3]  # on x and y
    found = page(level)
    assert found.row("cls")[1] == "leads the chunk keys: a, b, c"
    assert "a cell is a column of chunks along cls, z;" in found.text
    least, greatest = coords.min(axis=0), coords.max(axis=0)
    assert set(found.cells()) == {(x - least[0], greatest[1] - y) for x, y in coords.tolist()}


def test_names_are_escaped():
    name = '<script>alert("1")&amp;'
    store = dzv.create(
        MemoryStore(),
        chunk_shape=(10, 10),
        bounds=((0, 0), (20, 20)),
        axes=[{"name": "<b onclick=x>", "unit": "'<u>\""}, "y"],
        crs={"name": "<iframe>"},
    )
    report = dzv.write_points(store, np.full((3, 2), 5.0), attributes={name: np.arange(3)})
    for shown in (store, store.level(0), report):
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


# ------------------------------------------------------------------------------------------------ requests


def asked(store, shown):
    """Return the page, the keys that were asked for, and the prefixes that were listed."""
    store.forget()
    return page(shown), list(store.log), list(store.listed)


def test_requests_of_points(positions):
    counted = CountingStore(MemoryStore())
    made = dzv.create(counted, chunk_shape=(20, 10, 10))
    dzv.write_points(made, positions, attributes={"mass": np.ones(3000, "f4")})
    store = dzv.open(counted)
    found, keys, listed = asked(counted, store)
    assert found.row("0")[4] == "mass float32"
    assert [k for k in keys if "/c/" in k] == ["0/dask_zv_catalog/c/0"]
    assert len(keys) + len(listed) <= 8  # the catalog, documents of three arrays and of two tables that there aren't, two lists
    again, keys, listed = asked(counted, store)
    assert again.row("0") == found.row("0")
    assert keys + listed == []


def test_requests_of_a_graph(positions):
    counted = CountingStore(MemoryStore())
    _, report = write_graph(counted, positions)
    store = dzv.open(counted)
    _, keys, listed = asked(counted, store)
    assert [k for k in keys if "/c/" in k] == ["0/dask_zv_catalog/c/0"]
    segments = [a for a in report.arrays if a.startswith("links/0/")]
    assert len(keys) + len(listed) <= 16 + len(segments)  # whose documents every first look compares
    _, keys, listed = asked(counted, store.level(0))  # what the store's repr found is known
    assert sorted(keys) + listed == ["0/groups/zarr.json", "0/links/0/zarr.json"]


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
    assert not counted.blobs
    assert not [k for k in keys if "/c/" in k and "catalog" not in k]
    assert [k for k in keys if k.startswith(("1/", "2/"))] == ["1/zarr.json", "2/zarr.json"]
    assert found.row("0")[5] == "not catalogued: dzv.open(…, mode='r+').refresh()"
    assert found.row("0")[2:5] == ["–", "10", "radius float32"]
    for number in (1, 2):
        vertices = store.level(number).metadata.vertex_count
        assert found.row(str(number)) == [str(number), f"{vertices:,}", f"not looked at yet: store.level({number})"]
    found, keys, _ = asked(counted, store.level(0))
    assert "not catalogued" in found.row("chunks")[1]
    assert not counted.blobs
    assert not found.paths
    # once the caller has paid for the table of chunks, it is shown
    chunks = store.level(0).chunks
    found, _, _ = asked(counted, store)
    assert found.row("0")[2] == str(len(chunks))
    assert found.paths
    assert page(dzv.open(counted, mode="r+")).row("0")[5] == "not catalogued: store.refresh()"


def test_levels_that_were_looked_at():
    counted = unpacked("golden_0.9/streamlines_pyramid.zarrvectors.zip")
    dzv.open(counted, mode="r+").refresh()
    store = dzv.open(counted)
    found = page(store)
    assert found.row("0")[2] == str(len(store.level(0).chunks))
    assert "not looked at yet" in found.row("1")[2]
    chunks = store.level(1).chunks
    found, keys, _ = asked(counted, store)
    assert found.row("1")[2] == str(len(chunks))
    assert "not looked at yet" in found.row("2")[2]
    assert not [k for k in keys if k.startswith("1/")]
    assert page(store.level(1)).row("made")[1].startswith("from level 0 by ")


def test_checked_stores_are_not_compared_for_it(positions):
    counted = CountingStore(MemoryStore())
    write_graph(counted, positions)
    store = dzv.open(counted, check_objects=True)  # which looks at all levels
    for shown in (store, store.level(0)):
        found, keys, _ = asked(counted, shown)
        assert "not looked at yet" not in found.text
    store.reload()
    for shown in (store, store.level(0)):
        found, keys, _ = asked(counted, shown)
        assert "not looked at yet: store.level(0).chunks compares every object" in found.text
        assert not keys
    _ = store.level(0).chunks
    assert page(store).row("0")[3] == "3"


# ------------------------------------------------------------------------------------------------ empty, damaged, of others


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_an_empty_store(layout):
    store = dzv.create(MemoryStore(), chunk_shape=(10, 10), layout=layout)
    found = page(store)
    assert found.row("0") == ["0", "0", "–", "–", "–", "nothing written yet"]
    assert page(store.level(0)).row("chunks")[1] == "nothing written yet"
    assert not found.paths


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
    found = page(store)
    assert found.row("0")[1] == "3,000"
    assert found.row("0")[2].startswith("FormatError: the catalog is damaged")
    assert found.row("x")[4] == "10"
    found = page(store.level(0))
    assert found.row("arrays")[1].startswith("FormatError: the catalog is damaged")
    assert found.text.count("FormatError") == 1


def test_a_lost_document(memory):
    sync(memory.delete("0/vertices/zarr.json"))
    store = dzv.open(memory)
    assert page(store).row("0")[2].startswith("MetadataError: the document of 'vertices' is missing")
    assert "'vertices' is missing" in page(store.level(0)).row("arrays")[1]


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
    for node, change in (("links/0", {"link_width": 99}), ("object_index", {"num_objects": -1})):
        document = json.loads(get(memory, f"0/{node}/zarr.json"))
        document["attributes"] |= change
        put(memory, f"0/{node}/zarr.json", json.dumps(document).encode())
    put(memory, "0/groups/zarr.json", b"{")
    store = dzv.open(memory)
    found = page(store.level(0))
    assert found.row("links")[1].startswith("MetadataError: links have link_width 99")
    assert found.row("objects")[1].startswith("MetadataError: object_index has num_objects -1")
    assert re.match(r"(Metadata|Store|Format)Error: ", found.row("groups")[1])
    assert ["vertices", "3,000"] in found.rows
    assert found.paths
    assert page(store).row("0")[3].startswith("MetadataError: object_index has num_objects -1")


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: f"{p.parent.name}-{p.name.partition('.')[0]}")
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


# ------------------------------------------------------------------------------------------------ reports


def test_a_report(graph):
    _, report = graph
    found = page(report)
    assert found.text.startswith("dask_zv.Report")
    assert found.row("rows")[1] == "3,000"
    assert found.row("chunks")[1] == str(report.chunks)
    assert found.row("ZV objects")[1] == "3"
    assert found.row("payload")[1].endswith(f"in {report.stored_objects:,} objects")
    assert found.row("vertex_attributes/mass") == ["vertex_attributes/mass", str(report.arrays["vertex_attributes/mass"])]
    segments = [a for a in report.arrays if a.startswith("links/0/")]
    (links,) = [r for r in found.rows if r[0].startswith("links/")]
    assert links == [f"links/0/* ({len(segments)} arrays)", format(sum(report.arrays[a] for a in segments), ",")]
    assert f"  {links[0]}: {links[1]} blobs" in repr(report).splitlines()


def test_a_report_with_a_hint():
    report = dzv.Report(-1, 2000, 0, 4_000_000, 2000, 1, 0.5, dropped=7)
    found = page(report)
    hint = "chunks average 2.0 kB; larger ones are read and written faster"
    assert found.row("hint")[1] == hint
    assert f"  hint: {hint}" in repr(report)
    assert found.row("left out")[1] == "7 rows out of bounds"
    assert not [r for r in found.rows if r[0] in ("rows", "ZV objects")]
