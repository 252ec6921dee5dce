"""The golden stores of ZV 0.9 at the Group level: every cell of every array, against plain Zarr and against the truth."""

from __future__ import annotations

import itertools
import json
import struct
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import zarr
from refusals import fails
from zarr.storage import LocalStore, ZipStore

import dask_zv as dzv
from dask_zv.format.fragments import decode_fragments
from dask_zv.format.manifests import decode_manifests

GOLDEN = Path(__file__).parents[1] / "data" / "golden_0.9"
STORES = {p.name.partition(".")[0]: p for p in sorted([*GOLDEN.glob("*.zarrvectors"), *GOLDEN.glob("*.zarrvectors.zip")])}
LEVEL_ARRAYS = {"vertices", "vertex_fragments", "link_fragments"}


class Truth:
    """What plain Zarr finds in a store, node by node, without any code of ours."""

    def __init__(self, name):
        path = STORES[name]
        if path.suffix == ".zip":
            store = ZipStore(path, mode="r")
            with zipfile.ZipFile(path) as archive:
                documents = {n: archive.read(n) for n in archive.namelist() if n.endswith("zarr.json")}
        else:
            store = LocalStore(path, read_only=True)
            documents = {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("zarr.json")}
        self.documents = {n.removesuffix("zarr.json").rstrip("/"): json.loads(d) for n, d in documents.items()}
        self.groups = {n: d["attributes"] for n, d in self.documents.items() if d["node_type"] == "group"}
        self.cells = {}  # path of a chunk array -> chunk key -> payload
        self.empty = {}  # the same -> chunk keys of cells that hold nothing
        self.others = {}  # path of any other array -> its values
        for node, document in self.documents.items():
            if document["node_type"] != "array":
                continue
            array = zarr.open_array(store, path=node, mode="r", zarr_format=3)
            if not self.is_chunk_array(node):
                self.others[node] = array[...]
                continue
            origin = document["attributes"].get("chunk_grid_origin", [0] * array.ndim)
            named = document["attributes"]["nonempty_chunks"]
            self.cells[node] = {}
            values = array[...]  # whole: NumPy takes the NULs off the end of a single item
            for key in named:
                cell = tuple(int(c) - o for c, o in zip(key.split("."), origin, strict=True))
                self.cells[node][key] = values[cell]
            every = itertools.product(*(range(o, o + n) for o, n in zip(origin, array.shape, strict=True)))
            self.empty[node] = [key for cell in every if (key := ".".join(map(str, cell))) not in named]
        store.close()

    @staticmethod
    def is_chunk_array(node):
        level, _, array = node.partition("/")
        family = array.partition("/")[0]
        families = {"vertex_attributes", "fragment_attributes", "links", "link_attributes"}
        return level.isdigit() and (array in LEVEL_ARRAYS or family in families)

    @property
    def levels(self):
        return sorted(name for name in self.groups if name.isdigit())


@cache
def truth_of(name):
    return Truth(name)


@pytest.fixture(params=STORES)
def golden(request):
    return dzv.open_group(STORES[request.param], "r"), truth_of(request.param)


def numeric(keys):
    return sorted(keys, key=lambda key: tuple(int(c) for c in key.split(".")))


def test_there_are_golden_stores():
    assert len(STORES) >= 32
    assert {p.name.partition(".")[0] for p in GOLDEN.glob("*.expected.json")} == set(STORES)


def test_every_cell_alone_and_in_one_batch_of_reads(golden):
    group, truth = golden
    for level in truth.levels:
        here = group[level]
        arrays = {a.partition("/")[2]: cells for a, cells in truth.cells.items() if a.startswith(f"{level}/")}
        assert "vertices" in arrays
        for array, cells in arrays.items():
            for key, payload in cells.items():
                found = here.read_bytes(array, key)
                assert type(found) is bytes
                assert found == payload, (level, array, key)
                assert here.chunk_exists(array, key)
        with here.batched_reads([(array, list(cells)) for array, cells in arrays.items()]):
            for array, cells in arrays.items():
                assert {key: here.read_bytes(array, key) for key in cells} == cells, array


def test_listing_is_the_nonempty_chunks_in_numeric_order(golden):
    group, truth = golden
    for node, cells in truth.cells.items():
        level, _, array = node.partition("/")
        assert group[level].list_chunks(array) == numeric(cells), node
        assert group[level].array_exists(array)
    assert group[truth.levels[0]].list_chunks("vertex_attributes/no_such_attribute") == []
    for node, empty in truth.empty.items():
        level, _, array = node.partition("/")
        for key in empty[:5]:
            assert not group[level].chunk_exists(array, key), (node, key)
            with pytest.raises(dzv.NotFoundError):
                group[level].read_bytes(array, key)


@pytest.mark.parametrize("key", ["-3.0.0", "2.0.0", "0.0.99", "0.-4.0"])
def test_chunks_beyond_the_grid_are_absent(key):
    level = dzv.open_group(STORES["points_bins_negative"], "r")["0"]  # its grid is -2 … 1 on every axis
    assert not level.chunk_exists("vertices", key)
    fails(dzv.NotFoundError, "vertices", level.read_bytes, "vertices", key)


def test_attributes_groups_and_arrays_are_as_stored(golden):
    group, truth = golden
    assert group.attrs.to_dict() == truth.groups[""]
    for path, document in truth.documents.items():
        if path:
            assert group.read_array_meta(path) == document["attributes"], path
    for path, attributes in truth.groups.items():
        if path:
            assert group[path].attrs.to_dict() == attributes
    assert [name for name in group if name.isdigit()] == truth.levels
    for path in truth.groups:
        start = f"{path}/" if path else ""
        children = {p.removeprefix(start).partition("/")[0] for p in truth.groups if p.startswith(start) and p != path}
        assert set(group[path] if path else group) == children, path
    for path in [*truth.cells, *truth.others]:
        assert group.array_exists(path)
        with pytest.raises(dzv.NotFoundError, match="Array"):
            group[path]


def test_some_golden_store_has_each_peculiarity():
    truths = [truth_of(name) for name in STORES]
    documents = [d for t in truths for n, d in t.documents.items() if n in t.cells]
    codecs = {"+".join(c["name"] for c in d["codecs"]) for d in documents}
    assert {"vlen-bytes", "vlen-bytes+zstd", "vlen-bytes+blosc", "sharding_indexed"} <= codecs
    sharded = [d["codecs"][0]["configuration"]["codecs"] for d in documents if d["codecs"][0]["name"] == "sharding_indexed"]
    assert {"+".join(c["name"] for c in inner) for inner in sharded} == {"vlen-bytes", "vlen-bytes+zstd"}
    assert {len(d["shape"]) for d in documents} == {2, 3, 4}
    assert any(min(d["attributes"].get("chunk_grid_origin", [0])) < 0 for d in documents)
    assert any(n.endswith("/self") for t in truths for n in t.cells)
    assert any(n.startswith("1/links/-1/") for t in truths for n in t.cells)
    assert any(list(cells) != numeric(cells) for t in truths for cells in t.cells.values())
    assert any(empty for t in truths for empty in t.empty.values())
    assert any(d["shape"][0] % d["chunk_grid"]["configuration"]["chunk_shape"][0] for d in documents)


def fragments_of(blob):
    """Decode a fragment index as FORMAT.md D.2 says, with none of our code."""
    magic, version, flags, n, ranges = struct.unpack_from("<IHHII", blob)
    assert (magic, version, flags) == (0x5A564647, 1, 0)
    if n == 0:
        return []
    size = (n + 63) // 64 * 8
    bits = np.unpackbits(np.frombuffer(blob, "u1", size, 16), bitorder="little")[:n]
    table = np.frombuffer(blob, "<i8", 2 * ranges, 16 + size).reshape(-1, 2)
    ends = np.frombuffer(blob, "<u4", n - ranges + 1, 16 + size + 16 * ranges)
    rows = np.frombuffer(blob, "<i8", int(ends[-1]), 16 + size + 16 * ranges + 4 * len(ends))
    out, r, e = [], 0, 0
    for is_range in bits:
        if is_range:
            out.append(np.arange(table[r, 0], table[r].sum()))
            r += 1
        else:
            out.append(rows[ends[e] : ends[e + 1]])
            e += 1
    return out


def vertices_in_reading_order(level, ndim):
    """Return all positions: chunks ascending, fragments in order, rows in order."""
    dtype = level.read_array_meta("vertices")["dtype"]
    out = []
    for key in level.list_chunks("vertices"):
        rows = np.frombuffer(level.read_bytes("vertices", key), dtype).reshape(-1, ndim)
        out.append(rows[np.concatenate(fragments_of(level.read_bytes("vertex_fragments", key)))])
    return np.concatenate(out)


def attribute_in_reading_order(level, name, ndim):
    """The same of a vertex attribute, as stored; of any width."""
    dtype = level.read_array_meta(f"vertex_attributes/{name}")["dtype"]
    itemsize = np.dtype(level.read_array_meta("vertices")["dtype"]).itemsize
    out = []
    for key in level.list_chunks("vertices"):
        n = len(level.read_bytes("vertices", key)) // (ndim * itemsize)
        rows = np.frombuffer(level.read_bytes(f"vertex_attributes/{name}", key), dtype).reshape(n, -1)
        out.append(rows[np.concatenate(fragments_of(level.read_bytes("vertex_fragments", key)))])
    return np.concatenate(out)


WITH_TRUTH = sorted(p.name.partition(".")[0] for p in GOLDEN.glob("*.expected.npz"))


@pytest.mark.parametrize("name", WITH_TRUTH)
def test_positions_and_attributes_are_the_input(name):
    """Of every kind of geometry, level by level: the payloads, in reading order, are what its writer was given."""
    root = dzv.open_group(STORES[name], "r")
    with np.load(GOLDEN / f"{name}.expected.npz") as npz:
        truth = dict(npz)
    positions = truth["positions"] if "positions" in truth else truth["endpoints"].reshape(-1, truth["endpoints"].shape[-1])
    order, ndim = truth["reading_order"], positions.shape[1]
    assert len(order) == len(positions)
    found = vertices_in_reading_order(root["0"], ndim)
    assert found.dtype == positions.dtype
    np.testing.assert_array_equal(found, positions[order])
    for key, values in truth.items():
        if not key.startswith("attr__") or key.endswith("__missing") or values.dtype.kind == "U":
            continue
        found = attribute_in_reading_order(root["0"], key.removeprefix("attr__"), ndim)
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values[order].reshape(len(order), -1), err_msg=key)
    coarse = [key for key in truth if key.startswith("L") and key.endswith("_positions")]
    assert bool(coarse) == name.endswith("_pyramid")
    for key in coarse:
        level = root[key[1:].partition("_")[0]]
        np.testing.assert_array_equal(vertices_in_reading_order(level, ndim), truth[key], err_msg=key)


@pytest.fixture(scope="module")
def low_level():
    expected = json.loads((GOLDEN / "low_level.expected.json").read_text())
    return dzv.open_group(STORES["low_level"], "r")["0"], expected


def test_explicit_fragments(low_level):
    """Rows out of order, twice, or in no fragment; fragments without rows; chunk keys of mixed width."""
    level, expected = low_level
    assert level.list_chunks("vertices") == ["-1.2.10", "0.0.0", "1.0.0"]
    for key, positions in expected["positions"].items():
        rows = np.frombuffer(level.read_bytes("vertices", key), "<f4").reshape(-1, 3)
        np.testing.assert_array_equal(rows, np.array(positions, "f4"))
        blob = level.read_bytes("vertex_fragments", key)
        assert [f.tolist() for f in fragments_of(blob)] == expected["fragments"][key]
        index = decode_fragments(blob, n_rows=len(rows))
        assert [part.tolist() for part in np.split(index.all_rows(), np.cumsum(index.counts)[:-1])] == expected["fragments"][
            key
        ]
        tags = np.frombuffer(level.read_bytes("fragment_attributes/tag", key), "<i2").reshape(-1, 2)
        assert tags.tolist() == [[f, -f] for f in range(len(index))]


def test_every_mode_of_manifests(low_level):
    _, expected = low_level
    blobs = [bytes(b) for b in truth_of("low_level").others["0/object_index/manifests"]]
    rows, chunks, fragments = decode_manifests(blobs, 3)
    assert sorted(expected["manifests"]) == [str(row) for row in range(len(blobs))]
    for row, manifest in expected["manifests"].items():
        mine = rows == int(row)
        assert [list(block) for block in zip(chunks[mine].tolist(), fragments[mine].tolist(), strict=True)] == manifest, row


def arrays_below(name, family):
    """Return the paths, in level 0, of a store's chunk arrays below one of its groups."""
    return sorted(n.removeprefix("0/") for n in truth_of(name).cells if n.startswith(f"0/{family}/"))


def records_of(level, arrays):
    """Decode links (FORMAT.md E.3) in their order of enumeration; endpoints in the order of the input."""
    width = level.read_array_meta("links/0")["link_width"]
    for array in arrays:
        meta = level.read_array_meta(array)
        for key in sorted(level.list_chunks(array)):
            blob = level.read_bytes(array, key)
            source = np.array([int(c) for c in key.split(".")])
            if any(c for offset in meta["offsets"] for c in offset):
                n = int(np.frombuffer(blob, "<i8", 1)[0])
                blob = blob[8 + 8 * n :]
            rows = np.frombuffer(blob, "<i8").reshape(-1, width + meta["has_perm"])
            chunks = [source, *(source + offset for offset in np.array(meta["offsets"], int).reshape(width - 1, len(source)))]
            for row in rows.tolist():
                code = row.pop(0) if meta["has_perm"] else 0
                yield in_input_order([[c.tolist(), v] for c, v in zip(chunks, row, strict=True)], code)


def in_input_order(stored, code):
    left = list(range(len(stored)))
    out = [None] * len(stored)
    for i, endpoint in enumerate(stored):
        factorial = int(np.prod(range(1, len(stored) - i)))
        out[left.pop(code // factorial)] = endpoint
        code %= factorial
    return out


@pytest.mark.parametrize("name", [n for n in STORES if n.startswith("links_")])
def test_link_records_are_the_input(name):
    """One to four endpoints, directed or not, stored once or for each chunk; their attributes keep to the same order."""
    expected = json.loads((GOLDEN / f"{name}.expected.json").read_text())
    level = dzv.open_group(STORES[name], "r")["0"]
    assert list(records_of(level, arrays_below(name, "links/0"))) == expected["read_back_by_upstream"]
    values = []
    for array in arrays_below(name, "link_attributes/n/0"):
        for key in sorted(level.list_chunks(array)):
            values += np.frombuffer(level.read_bytes(array, key), "<i4").tolist()
    assert values == expected["attribute_read_back"]


@pytest.mark.parametrize("name", [n for n in WITH_TRUTH if n.startswith(("graph", "mesh"))])
def test_edges_and_faces_are_the_input(name):
    level = dzv.open_group(STORES[name], "r")["0"]
    with np.load(GOLDEN / f"{name}.expected.npz") as npz:
        truth = dict(npz)
    row_of = {p.tobytes(): row for row, p in enumerate(truth["positions"])}
    vertices = {}
    for key in level.list_chunks("vertices"):
        vertices[key] = np.frombuffer(level.read_bytes("vertices", key), "<f4").reshape(-1, 3)
    records = records_of(level, arrays_below(name, "links/0"))
    rows = [[row_of[vertices[".".join(map(str, c))][v].tobytes()] for c, v in record] for record in records]
    assert sorted(rows) == truth["faces" if "faces" in truth else "edges"].tolist()


def test_what_lies_beside_the_levels():
    """Parametric objects and headers: whole nodes, with their attributes."""
    root = dzv.open_group(STORES["parametric_headers"], "r")
    expected = json.loads((GOLDEN / "parametric_headers.expected.json").read_text())
    assert root["headers"]["trk"].attrs.to_dict() == {"voxel_size": [1.0, 2.0, 2.0], "id": "TRACK", "n": 3}
    kinds = root["parametric"].attrs["parametric_types"]
    assert [k["name"] for k in kinds.values()] == ["plane", "line", "sphere"]
    matrix = root["parametric"].zarr_group["objects"][...]
    number = {k["name"]: int(n) for n, k in kinds.items()}
    for row, wanted in zip(matrix, expected["parametric"], strict=True):
        assert row[0] == number[wanted["type"]]
        assert row[1 : 1 + len(wanted["coefficients"])].tolist() == wanted["coefficients"]
        assert np.isnan(row[1 + len(wanted["coefficients"]) :]).all()
    assert dzv.open(STORES["parametric_headers"]).levels == (0,)
