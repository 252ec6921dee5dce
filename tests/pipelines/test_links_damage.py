"""Links that lost or broke something say so, or read as if nothing were: never fewer edges, nor edges between other vertices."""

from __future__ import annotations

import json
import shutil
import struct

import numpy as np
import pytest
from damaged_stores import Breakable, Cells, copy_of, damages, edit_document, impatient
from golden_reference import Golden
from points_reference import CATALOG, files

import dask_zv as dzv
from dask_zv.format.links import encode_ragged

N = 60
CHUNK = (20.0, 20.0, 20.0)
BOX = ([-18, -15, -18], [12, 13, 11])


@pytest.fixture(autouse=True, scope="module")
def _sync():
    with impatient():
        yield


def write(target, geometry, shards):
    rng = np.random.default_rng(0)
    positions = rng.uniform(-20, 20, (N, 3))
    ids = np.arange(N) % 3 * 2 + 1
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


def answer(geometry):
    """Return everything of a geometry as comparable values."""
    out = {"positions": geometry.positions.tolist(), "ids": geometry.object_ids.tolist()}
    for name in ("edges", "faces", "parents"):
        value = getattr(geometry, name)
        out[name] = None if value is None else value.tolist()
    out |= {f"edge {k}": v.tolist() for k, v in geometry.edge_attributes.items()}
    return out


def questions(path):
    """Return ways to read a store, each from its opening on."""

    def level():
        return dzv.open(path).level(0)

    return {
        "all": lambda: answer(level().read()),
        "object": lambda: answer(level().read(objects=[3])),
        "box": lambda: answer(level().read(bbox=BOX)),
        "links": lambda: sorted(map(str, zip(level().links().chunks.tolist(), level().links().rows.tolist(), strict=True))),
    }


@pytest.fixture(scope="module", params=["graph-shards", "mesh-cells", "skeleton-shards"])
def whole(request, tmp_path_factory):
    """Return (path, expected answers, whether chunks share objects)."""
    geometry, _, packing = request.param.partition("-")
    path = tmp_path_factory.mktemp("whole") / "s.zv"
    write(path, geometry, 4 if packing == "shards" else 1)
    return path, {q: ask() for q, ask in questions(path).items()}, packing == "shards"


@pytest.fixture
def copy(whole, tmp_path):
    """Return a function that makes a fresh copy of the store."""
    number = iter(range(10**6))
    return lambda *, catalog=True: copy_of(whole[0], tmp_path / f"{next(number)}.zv", catalog=catalog)


def check(path, expected):
    """Ask everything: the answer is right, or an error of ours; return the errors."""
    errors = {}
    for question, ask in questions(path).items():
        try:
            found = ask()
        except dzv.ZVError as error:
            errors[question] = error
            continue
        assert found == expected[question], question
    return errors


def victims(path):
    """Return the documents and one cell of some segments: of that inside of chunks, and of two across."""
    names = [n for n in files(path) if n.startswith(("0/links/", "0/link_attributes/"))]
    segments = sorted({n.split("/")[3] for n in names if n.startswith("0/links/0/") and n.count("/") > 3})
    inside = next(s for s in segments if set(s) <= set("0._"))
    some = {inside, segments[0], segments[len(segments) // 2]}
    seen = set()
    for name in names:
        array, cell, _ = name.partition("/c/")
        segment = next((p for p in name.split("/") if set(p) <= set("+-_.0123456789") and "." in p), inside)
        if segment in some and (not cell or array not in seen):
            seen |= {array} if cell else set()
            yield name


@pytest.mark.parametrize("catalog", [True, False], ids=["catalog", "no catalog"])
def test_every_object(catalog, whole, copy):
    path, expected, packed = whole
    store = Breakable(copy(catalog=catalog))
    tried = 0
    for name in victims(path):
        data = (path / name).read_bytes()
        array, cell, _ = name.removeprefix("0/").partition("/c/")
        for what, damaged in damages(data, document=not cell):
            with store.broken(name, damaged) as broken:
                try:
                    errors = check(broken, expected)
                except AssertionError as failure:
                    pytest.fail(f"{name} {what}: wrong without an error, {failure}")
            tried += 1
            if cell and (what == "deleted" or not packed) and what != "one byte long":  # what follows a cell is not read
                error = errors["all"]
                assert array in (error.array or "") or array in str(error), (name, what, error)
                assert error.chunk is not None, (name, what, error)
            elif name.startswith("0/links/0/") and not cell and what == "deleted":
                assert isinstance(errors["all"], dzv.MetadataError), (name, errors)
    assert tried >= 28
    assert check(store.path, expected) == {}


def test_a_segment_that_is_gone(whole, copy):
    """The catalog named it: without it the level has fewer links, and nothing else would tell."""
    path, expected, _ = whole
    for segment in sorted(p for p in (path / "0/links/0").iterdir() if p.is_dir())[::5]:
        here = copy()
        shutil.rmtree(here / "0/links/0" / segment.name)
        errors = check(here, expected)
        assert isinstance(errors["all"], dzv.MetadataError)
        assert f"links/0/{segment.name}" in str(errors["all"])
        assert "refresh" in str(errors["all"])
    here = copy()
    shutil.rmtree(here / "0/links")
    assert {"all", "object", "box", "links"} == set(check(here, expected))


def test_links_that_are_fewer_than_the_family_counts(whole, copy):
    """A level that has fewer than it says has lost some, whoever wrote it."""
    _, expected, _ = whole
    for catalog in (True, False):
        here = copy(catalog=catalog)
        edit_document(here, "0/links/0", {}, num_physical_records=attributes_of(here, "links/0")["num_physical_records"] + 1)
        errors = check(here, expected)
        assert set(errors) == {"all", "links"}
        assert errors["all"].array == "links/0"
        assert isinstance(errors["all"], dzv.FormatError)


# -------------------------------------------------------------------------------------------------- edits of one cell


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


def some_cell(path, segment):
    """Return the key of a segment's first chunk, and its rows as they are stored."""
    key = attributes_of(path, f"links/0/{segment}")["nonempty_chunks"][0]
    return key, Cells(path, "grid").read(f"links/0/{segment}", key)


def edit(path, array, key, data):
    """Write a cell as any tool of Zarr would."""
    Cells(path, "grid").write(array, key, data)


def assert_refused(path, array, key, match):
    for read in (lambda level: level.read(), lambda level: level.read(chunks=level.chunks.keys)):
        with pytest.raises(dzv.FormatError, match=match) as caught:
            read(dzv.open(path).level(0))
        assert caught.value.array == array
        assert caught.value.chunk == key


INTRA, ACROSS = "0.0.0", "+1.0.0"


@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
@pytest.mark.parametrize("segment", [INTRA, ACROSS])
@pytest.mark.parametrize("row", [-1, 10**6, 2**62])
def test_rows_that_no_chunk_has(segment, row, graph):
    key, data = some_cell(graph, segment)
    edit(graph, f"links/0/{segment}", key, data[:-8] + struct.pack("<q", row))
    assert_refused(graph, f"links/0/{segment}", key, f"row {row}")


@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
@pytest.mark.parametrize("code", [2, -1, 2**62])
def test_codes_of_no_permutation(code, graph):
    key, data = some_cell(graph, ACROSS)
    rows = np.frombuffer(data, "<i8", offset=16).reshape(-1, 3).copy()
    rows[-1, 0] = code
    edit(graph, f"links/0/{ACROSS}", key, encode_ragged(rows))
    assert_refused(graph, f"links/0/{ACROSS}", key, f"{code} is the code of no permutation")


@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
@pytest.mark.parametrize("segment", [INTRA, ACROSS])
def test_cells_cut_short(segment, graph):
    key, data = some_cell(graph, segment)
    edit(graph, f"links/0/{segment}", key, data[:-3])
    assert_refused(graph, f"links/0/{segment}", key, "whole number")


@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
@pytest.mark.parametrize("segment", [INTRA, ACROSS])
def test_a_row_that_went_without_its_attributes(segment, graph):
    """A cell that lost a row whole is an edit, unless its attributes say that there was one more."""
    key, data = some_cell(graph, segment)
    width = 2 if segment == INTRA else 3
    edit(graph, f"links/0/{segment}", key, data[: -8 * width])
    assert_refused(graph, f"link_attributes/w/0/{segment}", key, "do(es)? not belong|have no values|bytes")


@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
def test_an_edit_that_is_whole_is_read(graph):
    """One edge less, in the cell and in its attributes alike: an error until somebody says that it is no loss."""
    before = dzv.open(graph).level(0).read()
    key, data = some_cell(graph, ACROSS)
    values = Cells(graph, "grid").read(f"link_attributes/w/0/{ACROSS}", key)
    edit(graph, f"links/0/{ACROSS}", key, data[:-24])
    edit(graph, f"link_attributes/w/0/{ACROSS}", key, values[:-8])
    with pytest.raises(dzv.FormatError, match="correct the counts"):
        dzv.open(graph).level(0).read()
    counts = attributes_of(graph, "links/0")
    edit_document(graph, "0/links/0", {}, **{n: counts[n] - 1 for n in ("num_links", "num_physical_records")})
    after = dzv.open(graph).level(0).read()
    gone = np.frombuffer(values[-8:], "<f8")[0]
    kept = before.edge_attributes["w"] != gone
    assert kept.sum() == len(kept) - 1
    assert after.edges.tolist() == before.edges[kept].tolist()
    assert after.edge_attributes["w"].tolist() == before.edge_attributes["w"][kept].tolist()


def test_links_to_a_chunk_that_is_none(graph):
    """A segment under another's name leads out of the level."""
    for family in ("links/0", "link_attributes/w/0"):
        (graph / "0" / family / ACROSS).rename(graph / "0" / family / "+7.0.0")
    shutil.rmtree(graph / "0" / CATALOG, ignore_errors=True)
    level = dzv.open(graph).level(0)
    for read in (level.read, lambda: level.read(objects=[1]), lambda: level.read(bbox=BOX)):
        with pytest.raises(dzv.FormatError, match="does not have") as caught:
            read()
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
        dzv.open(graph).level(0).read()
    assert node.split("/")[-1] in str(caught.value) or node.split("/")[1] in str(caught.value)


def test_rows_taken_for_rows_with_permutations(graph):
    """A wrong `has_perm` is another width of rows: an error, or at the least no link to a row that isn't there."""
    edit_document(graph, f"0/links/0/{ACROSS}", {}, has_perm=False)
    with pytest.raises(dzv.ZVError, match=r"\+1\.0\.0"):
        dzv.open(graph).level(0).read()


# -------------------------------------------------------------------------------------------------- layout per_chunk


@pytest.fixture
def old(tmp_path):
    """Return the path of a graph that the 0.7 package wrote, as a directory."""
    return Golden("golden_0.7/graph").unpacked(tmp_path / "s.zv")


def read(path):
    return dzv.open(path).level(0).read()


def test_old_cells_that_are_gone(old):
    array = old / "0/links/0/0.0.0"
    shutil.rmtree(array / "c")
    with pytest.raises(dzv.StoreError, match="missing") as caught:
        read(old)
    assert caught.value.chunk == "0.0.0"
    shutil.rmtree(array)
    with pytest.raises(dzv.FormatError, match="not in 'links/0'") as caught:
        read(old)
    assert caught.value.array == "links/0"
    assert caught.value.chunk == "0.0.0"
    shutil.rmtree(old / "0/link_fragments/0.0.0")
    with pytest.raises(dzv.FormatError, match="not in 'links/0'"):  # the attributes are still there
        read(old)


def test_old_attributes_that_are_gone(old):
    shutil.rmtree(old / "0/link_attributes/weight/0/0.0.0")
    with pytest.raises(dzv.FormatError, match="weight") as caught:
        read(old)
    assert caught.value.array == "link_attributes/weight/0"
    assert caught.value.chunk == "0.0.0"
    assert len(dzv.open(old).level(0).read(attributes=[]).edges) == 206


def test_old_links_across_chunks(old):
    place = old / "0/cross_chunk_links/0/data"
    data = (place / "c/0").read_bytes()
    document = json.loads((place / "zarr.json").read_bytes())

    def store(payload):
        document["shape"] = document["chunk_grid"]["configuration"]["chunk_shape"] = [len(payload)]
        (place / "zarr.json").write_text(json.dumps(document))
        (place / "c/0").write_bytes(payload)

    store(data[:-8])
    with pytest.raises(dzv.FormatError, match="whole number of records") as caught:
        read(old)
    assert caught.value.array == "cross_chunk_links/0"
    store(data[:-8] + struct.pack("<q", 10**6))
    with pytest.raises(dzv.FormatError, match="row 1000000"):
        read(old)
    store(struct.pack("<q", 99) + data[8:])
    with pytest.raises(dzv.FormatError, match=r"chunk 99\.\d\.\d, which the level does not have"):
        read(old)
    store(data)
    assert len(read(old).edges) == 206
    shutil.rmtree(place)
    with pytest.raises(dzv.StoreError, match="131 links across chunks") as caught:
        read(old)
    assert caught.value.array == "cross_chunk_links/0"


def test_old_metadata(old):
    for node in ("links/0", "cross_chunk_links/0"):
        place = old / "0" / node / "zarr.json"
        before = place.read_bytes()
        document = json.loads(before)
        document["attributes"]["link_width"] = 3
        place.write_text(json.dumps(document))
        with pytest.raises(dzv.MetadataError, match="link_width"):
            read(old)
        place.write_bytes(before)
    (old / "0/links/0/zarr.json").unlink()
    with pytest.raises(dzv.MetadataError, match="links/0"):
        read(old)


def test_cells_of_a_write_that_did_not_reach_its_commit(tmp_path):
    """A failed join leaves cells of links before the document that says what they are; the level is still empty."""
    store = dzv.create(tmp_path / "new.zv", geometry="graph", chunk_shape=(10, 10, 10))
    cell = tmp_path / "new.zv/0/links/0/0.0.0/c/0/0/0"
    cell.parent.mkdir(parents=True)
    cell.write_bytes(b"whatever")
    found = dzv.open(tmp_path / "new.zv").level(0).read()
    assert len(found) == 0
    dzv.write_graph(store, [[1.0, 1, 1], [2, 2, 2]], edges=[[1, 0]])
    assert dzv.open(tmp_path / "new.zv").level(0).read().edges.tolist() == [[1, 0]]
