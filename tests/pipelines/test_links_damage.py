"""Links that lost or broke something say so, or read as if nothing were: never fewer edges, nor edges between other vertices."""

import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_stores import Breakable, Cells, answer, copy, damages, edit_document, errors_of
from golden_reference import Golden
from points_reference import CATALOG, files
from small import always

import dask_zv as dzv
from dask_zv.format.links import encode_ragged

N = 60
CHUNK = (20.0, 20.0, 20.0)
BOX = ([-18, -15, -18], [12, 13, 11])
INTRA, ACROSS = "0.0.0", "+1.0.0"
__all__ = ["copy"]

_impatient = always(scheduler="sync", reread_wait=0)
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
in_each_segment = pytest.mark.parametrize("segment", [INTRA, ACROSS])


def write(target, geometry, shards):
    rng = np.random.default_rng(0)
    positions, ids = rng.uniform(-20, 20, (N, 3)), np.arange(N) % 3 * 2 + 1
    store = dzv.create(target, geometry=geometry, chunk_shape=CHUNK, shard_chunks=shards)
    if geometry == "skeleton":
        parents = np.where(np.arange(N) < 3, -1, np.arange(N) - 3 * rng.integers(1, 3, N).clip(max=np.arange(N) // 3))
        dzv.write_skeletons(store, positions, parents=parents, object_ids=ids)
        return
    width = 2 if geometry == "graph" else 3
    links = np.array([rng.choice(np.flatnonzero(ids == i), width, replace=False) for i in ids for _ in range(3)])
    if geometry == "graph":
        links = np.unique(links, axis=0)
        dzv.write_graph(store, positions, edges=links, edge_attributes={"w": rng.normal(size=len(links))}, object_ids=ids)
    else:
        dzv.write_meshes(store, positions, faces=links, object_ids=ids)


def level_of(path):
    return dzv.open(path).level(0)


def records(level):
    links = level.links()
    return sorted(map(str, zip(links.chunks.tolist(), links.rows.tolist(), strict=True)))


def questions(path):
    """Return ways to read a store, each from its opening on."""
    return {
        "all": lambda: answer(level_of(path).read()),
        "object": lambda: answer(level_of(path).read(objects=[3])),
        "box": lambda: answer(level_of(path).read(bbox=BOX)),
        "links": lambda: records(level_of(path)),
    }


@dataclass
class Whole:
    """A store, all that reading it gives, and whether chunks share stored objects."""

    path: Path
    packed: bool

    def __post_init__(self):
        self.answers: dict[str, Any] = {q: ask() for q, ask in questions(self.path).items()}

    def check(self, path):
        return errors_of(questions(path), self.answers)

    def victims(self):
        """Yield the documents and one cell of some segments: of that inside of chunks, and of two across."""
        names = [n for n in files(self.path) if n.startswith(("0/links/", "0/link_attributes/"))]
        segments = sorted({n.split("/")[3] for n in names if n.startswith("0/links/0/") and n.count("/") > 3})
        inside = next(s for s in segments if set(s) <= set("0._"))
        some, seen = {inside, segments[0], segments[len(segments) // 2]}, set()
        for name in names:
            array, cell, _ = name.partition("/c/")
            segment = next((p for p in name.split("/") if set(p) <= set("+-_.0123456789") and "." in p), inside)
            if segment in some and (not cell or array not in seen):
                seen |= {array} if cell else set()
                yield name


@pytest.fixture(scope="module", params=["graph-shards", "mesh-cells", "skeleton-shards"])
def whole(request, tmp_path_factory):
    geometry, _, packing = request.param.partition("-")
    path = tmp_path_factory.mktemp("whole") / "s.zv"
    write(path, geometry, 4 if packing == "shards" else 1)
    return Whole(path, packing == "shards")


@pytest.mark.parametrize("catalog", [True, False], ids=["catalog", "no catalog"])
def test_every_object(catalog, whole, copy):
    store = Breakable(copy(catalog=catalog))
    tried = 0
    for name in whole.victims():
        array, cell, _ = name.removeprefix("0/").partition("/c/")
        for what, damaged in damages((whole.path / name).read_bytes(), document=not cell):
            with store.broken(name, damaged) as broken:
                errors = whole.check(broken)
            tried += 1
            if cell and (what == "deleted" or not whole.packed) and what != "one byte long":  # what follows a cell is not read
                error = errors["all"]
                assert array in (error.array or "") or array in str(error), (name, what, error)
                assert error.chunk is not None, (name, what, error)
            elif name.startswith("0/links/0/") and not cell and what == "deleted":
                assert isinstance(errors["all"], dzv.MetadataError), (name, errors)
    assert tried >= 28
    assert whole.check(store.path) == {}


def test_a_segment_that_is_gone(whole, copy):
    """The catalog named it: without it the level has fewer links, and nothing else would tell."""
    for segment in sorted(p for p in (whole.path / "0/links/0").iterdir() if p.is_dir())[::5]:
        here = copy()
        shutil.rmtree(here / "0/links/0" / segment.name)
        error = whole.check(here)["all"]
        assert isinstance(error, dzv.MetadataError)
        assert f"links/0/{segment.name}" in str(error)
        assert "refresh" in str(error)
    here = copy()
    shutil.rmtree(here / "0/links")
    assert set(whole.check(here)) == {"all", "object", "box", "links"}


def test_links_that_are_fewer_than_the_family_counts(whole, copy):
    """A level that has fewer than it says has lost some, whoever wrote it."""
    for catalog in (True, False):
        here = copy(catalog=catalog)
        edit_document(here, "0/links/0", {}, num_physical_records=attributes_of(here, "links/0")["num_physical_records"] + 1)
        errors = whole.check(here)
        assert set(errors) == {"all", "links"}
        assert errors["all"].array == "links/0"
        assert isinstance(errors["all"], dzv.FormatError)


@pytest.fixture(params=[True, False], ids=["catalog", "no catalog"])
def graph(request, tmp_path):
    """Return the path of a store of a graph with cells of their own."""
    path = tmp_path / "s.zv"
    write(path, "graph", 1)
    if not request.param:
        shutil.rmtree(path / "0" / CATALOG)
    return path


def attributes_of(path, node):
    return json.loads((path / "0" / node / "zarr.json").read_bytes())["attributes"]


def edited(path, segment, edit, array="links/0"):
    """Change a cell of a segment's first chunk as any tool of Zarr would; return its key, and what it was."""
    key, cells = attributes_of(path, f"{array}/{segment}")["nonempty_chunks"][0], Cells(path, "grid")
    before = cells.read(f"{array}/{segment}", key)
    cells.write(f"{array}/{segment}", key, edit(before))
    return key, before


def assert_refused(path, array, key, match):
    for read in (lambda level: level.read(), lambda level: level.read(chunks=level.chunks.keys)):
        with pytest.raises(dzv.FormatError, match=match) as caught:
            read(level_of(path))
        assert (caught.value.array, caught.value.chunk) == (array, key)


@in_each_segment
@pytest.mark.parametrize("row", [-1, 10**6, 2**62])
def test_rows_that_no_chunk_has(segment, row, graph):
    key, _ = edited(graph, segment, lambda data: data[:-8] + struct.pack("<q", row))
    assert_refused(graph, f"links/0/{segment}", key, f"row {row}")


@pytest.mark.parametrize("code", [2, -1, 2**62])
def test_codes_of_no_permutation(code, graph):
    def edit(data):
        rows = np.frombuffer(data, "<i8", offset=16).reshape(-1, 3).copy()
        rows[-1, 0] = code
        return encode_ragged(rows)

    key, _ = edited(graph, ACROSS, edit)
    assert_refused(graph, f"links/0/{ACROSS}", key, f"{code} is not the code of a permutation")


@in_each_segment
def test_cells_cut_short(segment, graph):
    """Also of a row that went without its attributes: whole, that is an edit, unless they say that there was one more."""
    key, data = edited(graph, segment, lambda data: data[:-3])
    assert_refused(graph, f"links/0/{segment}", key, "whole number")
    edited(graph, segment, lambda _: data[: -8 * (2 if segment == INTRA else 3)])
    assert_refused(graph, f"link_attributes/w/0/{segment}", key, "do(es)? not belong|have no values|bytes")


def test_an_edit_that_is_whole_is_read(graph):
    """One edge less, in the cell and in its attributes alike: an error until somebody says that it is no loss."""
    before = level_of(graph).read()
    edited(graph, ACROSS, lambda data: data[:-24])
    _, values = edited(graph, ACROSS, lambda data: data[:-8], "link_attributes/w/0")
    with pytest.raises(dzv.FormatError, match="correct the counts"):
        level_of(graph).read()
    counts = attributes_of(graph, "links/0")
    edit_document(graph, "0/links/0", {}, **{n: counts[n] - 1 for n in ("num_links", "num_physical_records")})
    after = level_of(graph).read()
    kept = before.edge_attributes["w"] != np.frombuffer(values[-8:], "<f8")[0]
    assert kept.sum() == len(kept) - 1
    assert after.edges.tolist() == before.edges[kept].tolist()
    assert after.edge_attributes["w"].tolist() == before.edge_attributes["w"][kept].tolist()


def test_links_to_a_chunk_that_is_none(graph):
    """A segment under another's name leads out of the level."""
    for family in ("links/0", "link_attributes/w/0"):
        (graph / "0" / family / ACROSS).rename(graph / "0" / family / "+7.0.0")
    shutil.rmtree(graph / "0" / CATALOG, ignore_errors=True)
    for part in ({}, {"objects": [1]}, {"bbox": BOX}):
        with pytest.raises(dzv.FormatError, match="does not have") as caught:
            level_of(graph).read(**part)
        assert caught.value.array == "links/0/+7.0.0"
        assert caught.value.chunk is not None


@pytest.mark.parametrize(
    ("node", "attributes"),
    [
        ("links/0", {"link_width": 3}),
        ("links/0", {"link_width": None}),
        ("links/0", {"store": "thrice"}),
        ("links/0", {"sid_ndim": 2}),
        ("links/0", {"directed": 1}),
        ("links/0", {"num_links": -4}),
        (f"links/0/{ACROSS}", {"has_perm": "yes"}),
        (f"links/0/{ACROSS}", {"link_width": 3}),
        (f"links/0/{ACROSS}", {"dtype": "float64"}),
        (f"links/0/{ACROSS}", {"dtype": "nonsense"}),
        (f"link_attributes/w/0/{ACROSS}", {"dtype": "float32"}),
        (f"link_attributes/w/0/{ACROSS}", {"row_shape": [-1]}),
    ],
)
def test_damaged_metadata(node, attributes, graph):
    edit_document(graph, f"0/{node}", {}, **attributes)
    with pytest.raises(dzv.MetadataError) as caught:
        level_of(graph).read()
    assert node.split("/")[-1] in str(caught.value) or node.split("/")[1] in str(caught.value)


def test_rows_taken_for_rows_with_permutations(graph):
    """A wrong `has_perm` is another width of rows: an error, or at the least no link to a row that isn't there."""
    edit_document(graph, f"0/links/0/{ACROSS}", {}, has_perm=False)
    with pytest.raises(dzv.ZVError, match=r"\+1\.0\.0"):
        level_of(graph).read()


@pytest.fixture
def old(tmp_path):
    """Return the path of a graph that the 0.7 package wrote, as a directory."""
    return Golden("golden_0.7/graph").unpacked(tmp_path / "s.zv")


def refused(path, error, match):
    """Return (array, chunk) of the error."""
    with pytest.raises(error, match=match) as caught:
        level_of(path).read()
    return caught.value.array, caught.value.chunk


def test_old_cells_that_are_gone(old):
    array = old / "0/links/0/0.0.0"
    shutil.rmtree(array / "c")
    assert refused(old, dzv.StoreError, "missing")[1] == "0.0.0"
    shutil.rmtree(array)
    assert refused(old, dzv.FormatError, "not in 'links/0'") == ("links/0", "0.0.0")
    shutil.rmtree(old / "0/link_fragments/0.0.0")
    refused(old, dzv.FormatError, "not in 'links/0'")  # the attributes are still there


def test_old_attributes_that_are_gone(old):
    shutil.rmtree(old / "0/link_attributes/weight/0/0.0.0")
    assert refused(old, dzv.FormatError, "weight") == ("link_attributes/weight/0", "0.0.0")
    assert len(level_of(old).read(attributes=[]).edges) == 206


def test_old_links_across_chunks(old):
    place = old / "0/cross_chunk_links/0/data"
    data = (place / "c/0").read_bytes()
    document = json.loads((place / "zarr.json").read_bytes())

    def store(payload):
        document["shape"] = document["chunk_grid"]["configuration"]["chunk_shape"] = [len(payload)]
        (place / "zarr.json").write_text(json.dumps(document))
        (place / "c/0").write_bytes(payload)

    store(data[:-8])
    assert refused(old, dzv.FormatError, "whole number of records")[0] == "cross_chunk_links/0"
    store(data[:-8] + struct.pack("<q", 10**6))
    refused(old, dzv.FormatError, "row 1000000")
    store(struct.pack("<q", 99) + data[8:])
    refused(old, dzv.FormatError, r"chunk 99\.\d\.\d, which the level does not have")
    store(data)
    assert len(level_of(old).read().edges) == 206
    shutil.rmtree(place)
    assert refused(old, dzv.StoreError, "131 links across chunks")[0] == "cross_chunk_links/0"


def test_old_metadata(old):
    for node in ("links/0", "cross_chunk_links/0"):
        before = (old / "0" / node / "zarr.json").read_bytes()
        edit_document(old, f"0/{node}", {}, link_width=3)
        refused(old, dzv.MetadataError, "link_width")
        (old / "0" / node / "zarr.json").write_bytes(before)
    (old / "0/links/0/zarr.json").unlink()
    refused(old, dzv.MetadataError, "links/0")


def test_cells_of_a_write_that_did_not_reach_its_commit(tmp_path):
    """A failed join leaves cells of links before the document that says what they are; the level is still empty."""
    store = dzv.create(tmp_path / "new.zv", geometry="graph", chunk_shape=(10, 10, 10))
    cell = tmp_path / "new.zv/0/links/0/0.0.0/c/0/0/0"
    cell.parent.mkdir(parents=True)
    cell.write_bytes(b"whatever")
    assert len(level_of(tmp_path / "new.zv").read()) == 0
    dzv.write_graph(store, [[1.0, 1, 1], [2, 2, 2]], edges=[[1, 0]])
    assert level_of(tmp_path / "new.zv").read().edges.tolist() == [[1, 0]]
