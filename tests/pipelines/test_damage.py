"""A store that lost or broke something says so, or reads as if nothing were: never fewer points, never zeros, in both layouts.

In Zarr a missing cell is a legal empty one, so a plain reader would give fewer points, or the points of one chunk with the values
of none. What another tool edited in place, whole and in agreement with its siblings, is read as it is.
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from blob_encoders import encode_fragments
from damaged_stores import Breakable, Cells, answer, copy, damages, edit_document, errors_of, put
from points_reference import CATALOG, files, in_box
from small import always

import dask_zv as dzv
from dask_zv.format.fragments import encode_single

N = 240
CHUNK = (20.0, 20.0, 20.0)
BOX = ([5, -15, 2], [32, 3, 11])
VICTIM = "0.-1.0"
ARRAYS = ("vertices", "vertex_fragments", "vertex_attributes/mass", "vertex_attributes/rgb", "vertex_attributes/kind")
__all__ = ["copy"]

_impatient = always(scheduler="sync", reread_wait=0)
with_and_without_catalog = pytest.mark.parametrize("catalog", [True, False], ids=["catalog", "no catalog"])
plain_zarr = pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")


@dataclass(frozen=True)
class Kind:
    """A layout, how a store is written in it, and whether what all chunks share is damaged: it is alike in other kinds."""

    layout: str
    shards: int = 1
    objects: bool = False
    compressor: str | None = "auto"
    shared: bool = True

    @property
    def packed(self):
        return self.shards > 1


KINDS = {
    "per_chunk-cells": Kind("per_chunk"),
    "per_chunk-cells-objects": Kind("per_chunk", objects=True),
    "per_chunk-shards-objects": Kind("per_chunk", shards=3, objects=True, shared=False),
    "grid-cells-zstd": Kind("grid", compressor="zstd"),
    "grid-cells-none": Kind("grid", compressor=None, shared=False),
    "grid-shards-zstd-objects": Kind("grid", shards=2, compressor="zstd", objects=True),
    "grid-shards-none": Kind("grid", shards=2, compressor=None, shared=False),
}


def write(target, kind):
    rng = np.random.default_rng(0)
    attributes = {
        "mass": rng.normal(size=N) + 10,
        "rgb": rng.integers(1, 255, (N, 3), dtype=np.uint8),
        "kind": np.array(["soma", None, "axon"], object)[rng.integers(0, 3, N)],
    }
    more = {}
    if kind.objects:
        known = np.arange(13) if kind.layout == "per_chunk" else np.arange(13) * 3 + 1
        scores = pd.DataFrame({"score": [0.5, 1.5, 2.5]}, index=known[[1, 5, 9]])
        groups = {0: known[[1, 2]], 1: known[[12]]}
        more = {"object_ids": known[rng.permutation(np.arange(N) % 13)], "object_attributes": scores, "groups": groups}
    options = {} if kind.layout == "per_chunk" else {"compressor": kind.compressor}
    store = dzv.create(target, chunk_shape=CHUNK, shard_chunks=kind.shards, layout=kind.layout, **options)
    positions = rng.uniform([0, -20, 0], [40, 20, 20], (N, 3))  # four chunks, of which two and two share a shard
    dzv.write_points(store, positions, attributes=attributes, **more)


def level_of(path):
    return dzv.open(path).level(0)


def dataset(path):
    with xr.open_dataset(path, engine="zv", chunks=None) as ds:
        return {str(k): repr(np.asarray(v.values).tolist()) for k, v in ds.variables.items()}


def blobs(path, table):
    """Return every blob of every array through the group; none may be missing, whatever is listed."""
    group = level_of(path).group
    return {(array, key): group.read_bytes(array, key) for array in ARRAYS for key in table}


def lists(path):
    group = level_of(path).group
    return {array: [k for k in group.list_chunks(array) if group.chunk_exists(array, k)] for array in ARRAYS}


def rows_of(path):
    chunks = level_of(path).chunks
    return dict(zip(chunks.keys, chunks.rows.tolist(), strict=True))


def questions(path, kind, table):
    """Return ways to read a store, each from its opening on."""
    out = {
        "all": lambda: answer(level_of(path).read()),
        "box": lambda: answer(level_of(path).read(bbox=BOX)),
        "column": lambda: answer(level_of(path).read(attributes=["mass"])),
        "xarray": lambda: dataset(path),
        "table": lambda: rows_of(path),
    }
    if kind.objects:
        some = [1, 5] if kind.layout == "per_chunk" else [4, 16]
        out["objects"] = lambda: answer(level_of(path).read(objects=some, order="object"))
    if kind.layout == "grid":  # what is listed in layout per_chunk is what is there, and a blob is as it is
        out |= {"bytes": lambda: blobs(path, table), "lists": lambda: lists(path)}
    return out


@dataclass
class Whole:
    """A store, and all that reading it gives."""

    path: Path
    kind: Kind
    answers: dict = field(default_factory=dict)

    def __post_init__(self):
        self.names = sorted(files(self.path))
        counts = rows_of(self.path)
        self.table = list(counts)
        stops = np.cumsum(list(counts.values())).tolist()
        self.rows = {k: range(b - n, b) for (k, n), b in zip(counts.items(), stops, strict=True)}
        self.answers = {q: ask() for q, ask in questions(self.path, self.kind, self.table).items()}
        self.blobs = blobs(self.path, self.table)
        places = self._places()
        self._shard, self.neighbours = places[VICTIM], {k for k in places if places[k] == places[VICTIM]}

    def _places(self):
        """Return where below an array each chunk's cell lies, or the shard that it is in."""
        array = self.path / "0/vertices"
        if self.kind.layout == "grid":
            document = json.loads((array / "zarr.json").read_bytes())
            size, origin = document["chunk_grid"]["configuration"]["chunk_shape"], document["attributes"]["chunk_grid_origin"]
            cells = {k: [(int(c) - o) // s for c, o, s in zip(k.split("."), origin, size, strict=True)] for k in self.table}
            return {k: "/".join(["c", *map(str, cell)]) for k, cell in cells.items()}
        if not self.kind.packed:
            return {k: k for k in self.table}
        shards = {
            s.name: json.loads((s / "zarr.json").read_bytes())["attributes"]["shard_index"] for s in array.glob("__shard_*")
        }
        return {key: name for name, index in shards.items() for key in index}

    def remove(self, path, *arrays):
        """Remove the victim's cell, or the shard that it is in."""
        for array in arrays:
            place = path / "0" / array / self._shard
            shutil.rmtree(place) if place.is_dir() else place.unlink()

    def victims(self, *, catalog):
        """Yield (name, array) of one object of each kind: of one cell or shard of each array, and of all that is shared."""
        for name in self.names:
            array = next((a for a in ARRAYS if name.startswith(f"0/{a}/") and name != f"0/{a}/zarr.json"), None)
            if array is None and CATALOG not in name and not self.kind.shared:
                continue
            below = f"0/{array}/{self._shard}"
            if array is not None and name != below and not name.startswith(f"{below}/"):
                continue
            if catalog or CATALOG not in name:
                yield name, array

    def check(self, path, allowed=()):
        """Ask everything: the answer is right, or an error of ours that names a place; return the errors."""
        return errors_of(questions(path, self.kind, self.table), self.answers, allowed)


@pytest.fixture(scope="module", params=KINDS)
def whole(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "s.zv"
    write(path, KINDS[request.param])
    return Whole(path, KINDS[request.param])


@with_and_without_catalog
def test_every_object(catalog, whole, copy):
    """Each kind of object deleted, cut, lengthened or zeroed, one after the other."""
    store = Breakable(copy(catalog=catalog))
    tried = noticed = 0
    for name, array in whole.victims(catalog=catalog):
        document = name.endswith("zarr.json")
        data = (whole.path / name).read_bytes()
        for what, damaged in damages(data, document=document):
            if damaged == data or (what == "zeroed" and undetectable(name, whole.kind)):
                continue
            # only a catalog knows these documents to have existed: without them, the level is one without objects
            if what == "deleted" and not catalog and whole.kind.objects and name == "0/object_index/zarr.json":
                continue
            # a group lists nothing of an absent array
            allowed = ("lists",) if what == "deleted" and document and not catalog else ()
            with store.broken(name, damaged) as path:
                errors = whole.check(path, allowed)
            tried += 1
            noticed += bool(errors)
            if array is None or document:
                continue
            for question in {"all", "bytes"} & whole.answers.keys() if "one byte" not in what else ():
                error = errors[question]
                assert array in error.array, (name, what, error)
                assert array in str(error)
                if not whole.kind.packed:
                    assert error.chunk == VICTIM, (name, what, error)
                    assert VICTIM in str(error)
                elif what == "deleted":
                    assert error.chunk in whole.neighbours, (name, what, error)
            # a damaged cell is no reason to hide what the others have
            assert "lists" not in errors, (name, what, errors)
    assert tried >= (50 if whole.kind.shared else 20)
    assert noticed > tried // 3
    assert whole.check(store.path) == {}


def undetectable(name, kind):
    """Tell where other bytes of the same length are another tool's edit for all that the format says.

    A blob of its own has no checksum beside it; the catalog's tells that it changed, not by whom.
    """
    own = ("0/vertices/", "0/vertex_attributes/", "0/object_attributes/", "0/groups/")
    return kind.layout != "grid" and not name.endswith("zarr.json") and name.startswith(own) and "__shard_" not in name


@with_and_without_catalog
def test_an_array_without_its_siblings(catalog, whole, copy):
    """The whole array of one blob, or of all blobs, is gone."""
    for array in ARRAYS:
        path = copy(catalog=catalog)
        whole.remove(path, array)
        assert whole.check(path)["all"].chunk in whole.neighbours
        path = copy(catalog=catalog)
        shutil.rmtree(path / "0" / array)
        if catalog or array == "vertices":
            assert "all" in whole.check(path, () if catalog else ("lists",))  # of an absent array nothing is listed


@with_and_without_catalog
def test_a_chunk_that_is_gone_from_all_arrays(catalog, whole, copy):
    """The catalog knows that it was there, and in layout grid the list in the document."""
    if not catalog and whole.kind.layout == "per_chunk":
        return
    path = copy(catalog=catalog)
    whole.remove(path, *ARRAYS)
    assert whole.check(path)["all"].chunk in whole.neighbours
    if catalog:  # where a box does not touch it, reading goes on
        away = next(k for k in whole.table if k not in whole.neighbours)
        low = np.array([int(c) for c in away.split(".")]) * 20 + 0.1
        assert len(level_of(path).read(bbox=(low, low + 19.8))) > 0


@with_and_without_catalog
def test_flipped_bits(catalog, whole, copy):
    """Single bits: an error, or at the most other values of that array in one chunk, as another tool might have put there.

    Nothing in Zarr's format tells the two apart where the codecs have no checksum; what has one is right, or an error.
    """
    rng = np.random.default_rng(0)
    store = Breakable(copy(catalog=catalog))
    noticed = tried = 0
    for name, array in whole.victims(catalog=catalog):
        if name.endswith("zarr.json") or (array is None and not catalog):
            continue
        if array == "vertex_fragments" and whole.kind.objects and whole.kind.layout == "grid":
            continue  # see test_fragments_that_overlap
        data = (whole.path / name).read_bytes()
        for at in rng.choice(len(data) * 8, size=min(6, len(data) * 8), replace=False).tolist():
            flipped = bytearray(data)
            flipped[at // 8] ^= 1 << (at % 8)
            tried += 1
            with store.broken(name, bytes(flipped)) as path:
                if sealed(name, whole.kind):
                    noticed += bool(whole.check(path))
                    continue
                try:
                    found, read = answer(level_of(path).read()), blobs(path, whole.table)
                except (dzv.ZVError, dzv.ZVWarning):  # a warning says that a vertex is outside of its chunk
                    noticed += 1
                    continue
            assert_confined(found, read, whole, name, array, f"bit {at} of {name}")
    assert tried >= 16
    assert noticed >= tried // 4


def sealed(name, kind):
    """Tell whether what is stored has a checksum: its own, or that of the catalog's or a shard's index."""
    more = () if kind.layout == "grid" else ("__shard_", "manifests", "vertex_fragments")
    return any(part in name for part in (CATALOG, *more))


COLUMNS = {"positions", "ids", "mass", "rgb", "kind"}
ALSO = {
    "vertex_fragments": COLUMNS,  # the order of a chunk's rows
    "object_index/object_ids": ("ids", "object score", "groups"),
    "object_attributes/score": ("object score",),
    "groups": ("groups",),
}


def assert_confined(found, read, whole, name, array, what):
    """Assert that the values of one array in one chunk are all that changed, and that they are as many as before."""
    expected = whole.answers["all"]
    column = "positions" if array == "vertices" else str(array).rpartition("/")[2]
    shared = next((more for place, more in ALSO.items() if name.startswith(f"0/{place}/")), ())
    assert {k for k in expected if found[k] != expected[k]} <= {column, *shared}, what
    changed = [a for a in whole.blobs if read[a] != whole.blobs[a]]
    assert len(changed) <= 1, what
    for address in changed:
        assert address[0] == array, what
        assert address[1] in whole.neighbours, what
        assert len(read[address]) == len(whole.blobs[address]), what
    for k in expected.keys() & COLUMNS if array else ():
        now, then = (f[k][1] if isinstance(f[k], tuple) else f[k] or () for f in (found, expected))
        rows = {i for i, (a, b) in enumerate(zip(now, then, strict=True)) if a != b}
        assert rows <= {r for _, key in changed for r in whole.rows[key]}, what


# -------------------------------------------------------------------------------------------------- edits


@pytest.fixture
def cells(whole):
    """Return a function that gives the blobs of a copy, to be read and edited; shards of layout per_chunk are nobody else's."""
    if whole.kind.layout == "per_chunk" and whole.kind.packed:
        pytest.skip("no other tool edits such shards")
    return lambda path: Cells(path, whole.kind.layout)


@plain_zarr
@with_and_without_catalog
def test_cells_of_two_chunks_exchanged(catalog, whole, copy, cells):
    """A blob of another chunk: other rows are an error, and so are the positions of another place."""
    other = next(k for k in whole.table if len(whole.rows[k]) != len(whole.rows[VICTIM]))

    def exchanged(*arrays):
        path = copy(catalog=catalog)
        for array in arrays:
            here, there = (cells(path).read(array, key) for key in (VICTIM, other))
            cells(path).write(array, VICTIM, there)
            cells(path).write(array, other, here)
        return path

    for array in ARRAYS:
        errors = whole.check(exchanged(array), ["table", "bytes"])  # which tell what is there
        assert {"all", "box"} <= set(errors), array
        assert errors["all"].chunk in (VICTIM, other)
    path = exchanged(*ARRAYS)  # the rows agree, the place does not
    if catalog:
        with pytest.raises((dzv.FormatError, dzv.ZVWarning), match=r"another chunk|outside of its box"):
            level_of(path).read()


def of_xarray(path, name="mass"):
    with xr.open_dataset(path, engine="zv", chunks=None) as ds:
        return ds[name].values.tolist()


@plain_zarr
@with_and_without_catalog
def test_an_edit_by_another_tool_is_read(catalog, whole, copy, cells):
    """Other values of the same rows: every way of reading gives them."""
    path, rows = copy(catalog=catalog), whole.rows[VICTIM]
    mass = np.arange(len(rows), dtype="<f8")
    cells(path).write("vertex_attributes/mass", VICTIM, mass.tobytes())
    dtype, values = whole.answers["all"]["mass"]
    values = [*values[: rows.start], *mass.tolist(), *values[rows.stop :]]
    expected = {**whole.answers["all"], "mass": (dtype, values)}
    assert answer(level_of(path).read()) == expected
    inside = in_box(np.array(expected["positions"]), BOX)
    assert level_of(path).read(bbox=BOX).attributes["mass"].tolist() == np.array(values)[inside].tolist()
    assert of_xarray(path) == values
    assert level_of(path).group.read_bytes("vertex_attributes/mass", VICTIM) == mass.tobytes()
    assert whole.check(path, ["all", "box", "column", "objects", "xarray", "bytes"]) == {}
    dzv.open(path, mode="r+").refresh()
    assert level_of(path)._contents.source.catalogued
    assert answer(level_of(path).read()) == expected


@plain_zarr
@with_and_without_catalog
def test_an_edit_that_changes_the_rows(catalog, whole, copy, cells):
    """In all arrays alike it is read; in one alone it is an error; `refresh` makes the catalog true again."""
    if whole.kind.objects:
        return  # a fragment belongs to an object: what this makes of the manifests is another matter
    path, rows = copy(catalog=catalog), whole.rows[VICTIM]
    keep = len(rows) - 3
    for array in ARRAYS:
        if array != "vertex_fragments":
            data = cells(path).read(array, VICTIM)
            width, rest = divmod(len(data), len(rows))
            assert not rest
            cells(path).write(array, VICTIM, data[: width * keep])
        with pytest.raises(dzv.ZVError) as caught:  # before all of them agree, the fragments included
            level_of(path).read()
        assert caught.value.chunk == VICTIM
    cells(path).write("vertex_fragments", VICTIM, encode_single(keep))
    left = [i for i in range(N) if i not in rows[keep:]]
    expected = {
        k: [v[i] for i in left] if k == "positions" else (v[0], [v[1][i] for i in left]) if isinstance(v, tuple) else v
        for k, v in whole.answers["all"].items()
    }
    assert answer(level_of(path).read()) == expected
    if catalog:  # xarray's table of rows is the catalog's
        with pytest.raises(dzv.FormatError, match=VICTIM):
            dataset(path)
    else:
        assert of_xarray(path) == expected["mass"][1]
    dzv.open(path, mode="r+").refresh()
    assert level_of(path)._contents.source.catalogued
    assert rows_of(path)[VICTIM] == keep
    assert answer(level_of(path).read()) == expected
    assert of_xarray(path) == expected["mass"][1]


@with_and_without_catalog
@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_a_replaced_shard_is_not_read_by_its_old_index(layout, catalog, tmp_path):
    """Cells of one length in another order: what this process remembers of the shard finds whole cells, of other chunks."""
    path = tmp_path / "s.zv"
    options = {"compressor": None} if layout == "grid" else {}
    bounds = ((0, 0), (39, 9))
    store = dzv.create(path, chunk_shape=(10.0, 10.0), bounds=bounds, shard_chunks=4, layout=layout, **options)

    def write_chunks(numbers):
        x = np.repeat(np.asarray(numbers, float), 5)
        dzv.write_points(store, np.stack([10 * x + 5, x], axis=1), attributes={"mass": x}, mode="overwrite")
        if not catalog:
            shutil.rmtree(path / "0" / CATALOG)

    write_chunks([0, 1, 2])
    early = level_of(path)
    assert early.read().attributes["mass"].tolist() == np.repeat([0.0, 1, 2], 5).tolist()
    write_chunks([1, 2, 3])
    for level in (level_of(path), early):
        try:
            found = level.read()
        except dzv.ZVError:
            assert level is early
            continue
        assert found.attributes["mass"].tolist() == np.repeat([1.0, 2, 3], 5).tolist()
        assert found.positions[:, 0].tolist() == np.repeat([15.0, 25, 35], 5).tolist()


@plain_zarr
@pytest.mark.xfail(reason="a level that says that its fragments tile is not held to it: a row of two fragments is read twice")
def test_fragments_that_overlap(tmp_path):
    """Fragments that name a row twice are another level's right (shared fragments), not that of one whose fragments tile."""
    path = tmp_path / "s.zv"
    write(path, KINDS["grid-cells-zstd"])
    n = len(Cells(path, "grid").read("vertices", VICTIM)) // 24
    Cells(path, "grid").write("vertex_fragments", VICTIM, encode_fragments([(0, n), (n - 1, 1)]))
    with pytest.raises(dzv.FormatError) as caught:
        level_of(path).read()
    assert caught.value.chunk == VICTIM


# -------------------------------------------------------------------------------------------------- catalogs


def test_a_copied_store_keeps_its_catalog(whole, copy):
    """`cp -r` gives every file another time: the documents say the same, so the catalog holds."""
    path = copy()
    for number, place in enumerate(sorted(path.rglob("*"))):
        if place.is_file():
            os.utime(place, ns=(10**18 + number, 10**18 + number))
    assert whole.check(path) == {}
    assert level_of(path)._contents.source.catalogued


def test_a_damaged_catalog_is_rebuilt(whole, copy):
    place = f"0/{CATALOG}/c/0"
    for broken in (b"", b"garbage", (whole.path / place).read_bytes()[:-9], None):
        path = copy()
        put(path / place, broken)
        if broken is not None:
            with pytest.raises(dzv.FormatError, match="catalog"):
                level_of(path).read()
        dzv.open(path, mode="r+").refresh()
        assert whole.check(path) == {}
        assert level_of(path)._contents.source.catalogued


def test_refresh_refuses_a_loss(whole, copy):
    """A catalog made of what is left would turn a loss into a fact; in layout per_chunk its siblings still tell of it."""
    path = copy()
    whole.remove(path, "vertex_attributes/mass")
    if whole.kind.layout == "grid":
        with pytest.raises(dzv.StoreError) as caught:
            dzv.open(path, mode="r+").refresh()
        assert caught.value.chunk in whole.neighbours
    else:
        dzv.open(path, mode="r+").refresh()
    assert whole.check(path)["all"].chunk in whole.neighbours


# -------------------------------------------------------------------------------------------------- documents

GZIP = [{"name": "vlen-bytes", "configuration": {}}, {"name": "gzip", "configuration": {"level": 1}}]
DOCUMENTS = {  # (node, attributes), or (node, {}, other keys of the document)
    "both": [
        ("vertices", {"dtype": "float32"}),
        ("vertices", {"dtype": "nonsense"}),
        ("vertices", {"dtype": "|V8"}),
        ("vertices", {"encoding": "draco"}),
        ("vertex_attributes/mass", {"dtype": "float32"}),
        ("vertex_attributes/mass", {"dtype": ["f8"]}),
        ("vertex_attributes/kind", {"categories": ["axon"]}),
        ("vertex_attributes/kind", {"categories": None}),
        ("vertex_attributes/kind", {"_FillValue": 0}),
        ("vertex_attributes/kind", {"dtype": "int32"}),
        ("object_index", {"num_objects": 5}),
        ("object_index", {"num_objects": -1}),
        ("object_index", {"sid_ndim": 2}),
        ("groups", {"num_groups": 7}),
    ],
    "per_chunk": [
        ("vertex_attributes/rgb", {"channel_names": ["a", "b"]}),
        ("vertex_attributes/rgb", {"channel_names": "abc"}),
        ("object_attributes/score", {"shape": [4]}),
        ("object_attributes/score", {"dtype": "float32"}),
    ],
    "grid": [
        ("vertices", {"chunk_grid_origin": [1, -1, 0]}),
        ("vertices", {"nonempty_chunks": ["0.0.0"]}),
        ("vertices", {"nonempty_chunks": "0.0.0"}),
        ("vertices", {}, {"shape": [1, 2, 1]}),
        ("vertices", {}, {"data_type": "uint8"}),
        ("vertices", {}, {"codecs": GZIP}),
        ("vertex_attributes/mass", {"row_shape": [2]}),
        ("vertex_attributes/mass", {"chunk_grid_origin": [0, 0, 5]}),
        ("vertex_attributes/mass", {"nonempty_chunks": []}),
        ("vertex_attributes/rgb", {"row_shape": [4]}),
        ("vertex_fragments", {"nonempty_chunks": ["0.0.0"]}),
        ("object_index", {"layout": "nonsense"}),
    ],
}


@with_and_without_catalog
def test_documents_at_odds_with_the_cells(catalog, whole, copy):
    """Documents that are sound JSON and say something else."""
    if not whole.kind.shared:
        return
    store = Breakable(copy(catalog=catalog))
    for node, attributes, *change in DOCUMENTS["both"] + DOCUMENTS[whole.kind.layout]:
        name = f"0/{node}/zarr.json"
        if name not in whole.names:
            continue
        with store.broken(name, (whole.path / name).read_bytes()) as path:
            edit_document(path, f"0/{node}", *change or [{}], **attributes)
            assert whole.check(path, ["table", "bytes", "lists"]), (node, change, attributes)


def test_root_metadata_at_odds(whole, copy):
    for key, value in (
        ("chunk_shape", [20.0, 20.0]),
        ("chunk_shape", [0, 1, 1]),
        ("zv_version", "9.9"),
        ("bounds", [[0], [1]]),
        ("zv_version", None),
        ("axes", None),
    ):
        path = copy()
        document = json.loads((path / "zarr.json").read_bytes())
        if key == "axes":
            document["attributes"]["multiscales"][0]["axes"].pop()
        else:
            document["attributes"]["zarr_vectors"][key] = value
        put(path / "zarr.json", json.dumps(document).encode())
        assert set(whole.check(path)) == set(whole.answers), (key, value)


def test_tables_about_objects_of_per_chunk_that_rot(tmp_path):
    """Raw bytes that no catalog knows: their documents have the checksum. A younger file is another tool's edit."""
    path = tmp_path / "s.zv"
    store = dzv.create(path, geometry="polyline", chunk_shape=(9.0,) * 3, layout="per_chunk")
    table = pd.DataFrame({"age": [1.0, 2.0]}, index=[0, 2])  # object 1 has none: a mask
    about = {"object_attributes": table, "groups": {0: [0, 1], 1: [2]}, "group_attributes": {"size": [2, 1]}}
    dzv.write_polylines(store, np.arange(18.0).reshape(6, 3), lengths=[2, 2, 2], **about)
    tops = ("object_attributes", "groups", "group_attributes")
    raw = [p for top in tops for p in sorted((path / "0" / top).glob("**/c/0"))]
    assert [p.relative_to(path).parts[-3] for p in raw] == ["data", "present_mask", "data", "offsets", "data"]
    before = level_of(path).read().object_attributes["age"]
    for file in raw:
        whole, times = file.read_bytes(), file.stat()
        for other in {bytes(len(whole)), whole[:1] + bytes([whole[-1] ^ 1]) * (len(whole) - 1), whole}:
            file.write_bytes(other)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
            if other != whole:
                with pytest.raises(dzv.FormatError, match="checksum"):
                    level_of(path).read()
        file.write_bytes(whole)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert level_of(path).read().object_attributes["age"].tolist() == before.tolist()
    (path / "0/object_attributes/age/data/c/0").write_bytes(np.array([5.0, 6.0, 7.0]).tobytes())
    assert level_of(path).read().object_attributes["age"].tolist() == [5.0, None, 7.0]
