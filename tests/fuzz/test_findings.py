"""What the fuzzing found, one by one: inputs that ended in another exception than a ZVError, or in memory that they only claimed."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import xarray as xr
import zstandard
from fuzz_base import join_payload, split_payload
from fuzz_run import data_bytes
from fuzz_stores import files_of, golden, write_small_store
from refusals import fails
from small import always
from zarr.buffer import cpu

import dask_zv as dzv
from dask_zv.errors import FormatError, MetadataError, ZVError
from dask_zv.format.documents import parse_shard_index
from dask_zv.format.fragments import encode_tiling
from dask_zv.format.grids import frame, parse_grid_document
from dask_zv.format.links import parse_delta, parse_segment
from dask_zv.format.manifests import decode_manifest, decode_manifests
from dask_zv.format.objects import decode_group_elements
from dask_zv.geometry.schema import parse_dtype
from dask_zv.storage.catalog import Catalog, decode_catalog, encode_catalog
from dask_zv.storage.codecs import _local, cell_codec, unpack_zstd
from dask_zv.storage.local import LocalObjects
from dask_zv.storage.receipts import COLUMNS, Columns

ZSTD = [{"name": "zstd", "configuration": {"level": 1, "checksum": True}}]

_sync = always(scope="function", scheduler="sync", reread_wait=0)


def peak_of(action: Callable[[], object], *, fails: bool | None = True) -> float:
    """Return the megabytes that an action took at most; it fails with a ZVError, or does not, or (None) may."""
    tracemalloc.start()
    try:
        with pytest.raises(ZVError) if fails else suppress(ZVError) if fails is None else nullcontext():
            action()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def put(root: Path, files: Any) -> Path:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("small") / "s.zv"
    write_small_store(root, "skeleton", "grid", 1)
    return files_of(root)


@pytest.fixture
def skeleton(small: dict[str, bytes], tmp_path: Path) -> Path:
    return put(tmp_path / "s.zv", small)


def everything(root: Path) -> None:
    """Read a level in every way that there is."""
    level = dzv.open(root).level(0)
    level.read()
    level.read(objects=level._contents.index.ids[:1].tolist(), order="object")
    level._contents.index.attributes()
    for view in ("spatial", "objects"):
        with xr.open_dataset(root, engine="zv", view=view) as ds:
            ds.load()


@pytest.mark.parametrize(
    "codec",
    [
        {"name": "zstd", "configuration": {"level": ".."}},
        {"name": "zstd", "configuration": {"level": {}}},
        {"name": "zstd", "configuration": {"level": float("inf")}},
        {"name": "zstd", "configuration": {"level": 10**40}},
        {"name": "zstd", "configuration": {"level": 1, "checksum": "no"}},
        {"name": "blosc", "configuration": {"shuffle": {}}},
        {"name": "blosc", "configuration": {"shuffle": "shuffle", "cname": 7}},
        {"name": "blosc", "configuration": {"shuffle": "shuffle", "clevel": 10**30}},
        {"name": "blosc", "configuration": {"shuffle": "shuffle", "cname": "\u2025"}},
        {"name": "blosc", "configuration": {"shuffle": "shuffle", "typesize": 0}},
        {"name": "gzip", "configuration": {"level": [[]]}},
        {"name": "../../x"},
    ],
)
def test_codecs_with_odd_configurations(codec):
    fails(MetadataError, None, cell_codec, [codec])


def test_a_frame_without_the_checksum_that_its_codec_promises_is_damaged():
    """One bit of its head says that there is none: a damaged frame would be another payload then."""
    cell = frame(b"payload" * 9)
    bare = zstandard.ZstdCompressor(level=1, write_checksum=False).compress(cell)
    fails(FormatError, "checksum", lambda: cell_codec(ZSTD).decode(bare))
    assert cell_codec([{"name": "zstd", "configuration": {"level": 1, "checksum": False}}]).decode(bare) == cell


def test_a_frame_that_claims_a_large_window_leaves_nothing_behind():
    """A decompressor keeps what it took for a frame: 24 bytes made every process 128 MB larger for good."""
    packer = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=27)).compressobj()
    data = packer.compress(b"x" * 10) + packer.flush()
    assert zstandard.frame_content_size(data) < 0
    assert unpack_zstd(data) == b"x" * 10
    before = data_bytes()
    for _ in range(3):
        unpack_zstd(data)
    assert data_bytes() - before < 8 << 20
    unpack_zstd(zstandard.compress(b"y" * 100))
    assert _local.unpacker.memory_size() < 8 << 20


@pytest.mark.parametrize("place", ["root", "level", "catalog"])
@pytest.mark.parametrize("depth", [300, 100_000])
def test_documents_that_are_nested_deeply(skeleton, place, depth):
    """They were parsed, and what copied them later ended in a RecursionError."""
    path = skeleton / {"root": "zarr.json", "level": "0/zarr.json", "catalog": "0/dask_zv_catalog/c/0"}[place]
    deep = b"[" * depth + b"]" * depth
    if place == "catalog":
        parts = split_payload(path.read_bytes())
        path.write_bytes(join_payload((parts[0], parts[1].replace(b'"nodes":{', b'"nodes":{"x":' + deep + b",", 1), parts[2])))
    else:
        path.write_bytes(path.read_bytes().replace(b'"attributes":{', b'"attributes":{"x":' + deep + b","))
    fails(ZVError, "deep", everything, skeleton)


@pytest.mark.parametrize(
    "name", [",", "f4,", "(2,)f4,i4", "f4:", "[", "i4 ", "\u0661", "f4\n", "O", "V8", "S", "M8[", 7, None, []]
)
def test_dtypes_that_numpy_evaluates_or_stumbles_over(name):
    fails(MetadataError, None, parse_dtype, name, "it")


@pytest.mark.parametrize("name", ["float32", "<f8", ">i2", "|b1", "uint8", "datetime64[ns]", "<m8[25us]", "complex64"])
def test_dtypes_that_stores_have(name):
    assert parse_dtype(name, "it") == np.dtype(name)


def test_shards_that_nothing_can_hold():
    cells = {"name": "sharding_indexed", "configuration": {"chunk_shape": [1, 1], "codecs": ["vlen-bytes"], "index_codecs": []}}
    document = {
        "node_type": "array", "data_type": "variable_length_bytes", "shape": [2, 2], "codecs": [cells],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2**52, 2**52]}},
        "chunk_key_encoding": {"name": "default"},
    }  # fmt: skip
    fails(MetadataError, "shards", parse_grid_document, document, "0/v")


def test_a_ranged_read_takes_no_more_than_the_file_has(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    objects = LocalObjects(tmp_path)
    assert peak_of(lambda: objects.get("a", (-(1 << 30), 1 << 30)), fails=False) < 1
    assert objects.get("a", (-(1 << 40), 1 << 40)) == b"0123456789"
    assert objects.get("a", (4, 1 << 29)) == b"456789"
    assert objects.get("a", (40, 1 << 29)) == b""


@pytest.mark.parametrize("digits", [19, 5000])
def test_numbers_in_names_that_python_does_not_convert(digits):
    number = "+" + "9" * digits
    fails(FormatError, None, parse_delta, number)
    fails(FormatError, None, parse_segment, f"{number}.0.0", 3)
    fails(FormatError, None, lambda: decode_group_elements([b""], {number[1:]: [0, 1]}))


@pytest.mark.parametrize("key", ["../../x", "/x", "a/b", "", "x\0", "__shard_000001", "\ud800"])
def test_keys_in_the_index_of_a_shard_are_names(key):
    fails(FormatError, None, parse_shard_index, {"shard_index": {key: [0, 1]}}, 10, "0/v/__shard_000000")


def test_ranges_of_manifests_take_memory_by_the_length_of_the_manifests():
    block = np.int64([0, 0, 0]).tobytes() + b"\1" + np.int64([0, 2**24 - 1]).tobytes()
    blob = np.uint32(1).tobytes() + block
    assert peak_of(lambda: decode_manifest(blob, 3)) < 1
    some = np.uint32(1).tobytes() + block[:-8] + np.int64(2**18).tobytes()
    assert peak_of(lambda: decode_manifests([some] * 100, 3)) < 150
    assert len(decode_manifest(some, 3)[1]) == 2**18


def test_ranges_of_groups_take_memory_by_the_number_of_objects():
    ranges = {str(i): [0, 2**27] for i in range(100)}
    assert peak_of(lambda: decode_group_elements([b""] * 100, ranges)) < 1
    found = decode_group_elements([b"", b""], {"0": [5, 2**22], "1": [0, 5]})
    assert [len(g) for g in found] == [2**22 - 5, 5]
    many = decode_group_elements([b""] * 3, {str(i): [0, 2**21] for i in range(3)}, objects=2**21)
    assert [len(g) for g in many] == [2**21] * 3
    fails(FormatError, None, lambda: decode_group_elements([b""] * 3, {str(i): [0, 2**21] for i in range(3)}, objects=100))


def _catalog(coords: Any) -> bytes:
    n = len(coords)
    return encode_catalog(Catalog(np.asarray(coords, np.int64), np.ones(n, np.int64), {"vertices": Columns.empty(n)}))


@pytest.mark.parametrize(
    "coords", [[[1, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 1], [0, 0]], [[0, 0], [0, 2**62 + 1]], [[-(2**63), 0], [0, 0]]]
)
def test_catalogs_whose_chunks_are_out_of_order_or_out_of_reach(coords):
    fails(FormatError, "damaged", lambda: decode_catalog(_catalog(coords)))
    assert len(decode_catalog(_catalog([[-1, 5], [0, 0], [0, 2**62]]))) == 3


def test_a_catalog_of_few_bytes_tells_of_few_chunks():
    parts = split_payload(_catalog([[0, 0, 0], [0, 0, 1]]))
    header = json.loads(parts[1])
    n = 2**24
    packed = zstandard.ZstdCompressor(level=1).compress(bytes(3 * n))
    for column in header["columns"]:
        column["shape"][0] = n
        if column["name"] == "coords":
            column.update(dtype="|i1", nbytes=len(packed))
        else:
            column.pop("nbytes", None)
            column.update(value=0)
    payload = join_payload((parts[0], json.dumps(header).encode(), packed))
    assert peak_of(lambda: decode_catalog(payload)) < 1


@pytest.mark.parametrize("name", ["../x", "/x", "vertices/../../x", "", "x\0y"])
def test_names_in_a_catalog_are_paths_below_it(name):
    empty = Columns.empty(1)
    one = np.zeros((1, 3), np.int64)
    fails(FormatError, "damaged", lambda: decode_catalog(encode_catalog(Catalog(one, one[:, 0], {name: empty}))))


@pytest.mark.parametrize("rows", [2**33])
def test_rows_that_the_catalog_and_the_fragments_claim_together(skeleton, rows):
    """All of it with checksums that fit; only the positions, which are short, tell."""
    path = skeleton / "0/dask_zv_catalog/c/0"
    catalog = decode_catalog(path.read_bytes())
    blob = encode_tiling([rows])
    cell = cell_codec(ZSTD).encode(frame(blob))
    grid = parse_grid_document(json.loads((skeleton / "0/vertex_fragments/zarr.json").read_text()), "")
    assert grid is not None
    where = catalog.coords[0] - np.asarray(grid.spec.origin)
    (skeleton / "0/vertex_fragments/c" / "/".join(map(str, where))).write_bytes(cell)
    claimed: dict[str, Any] = {name: catalog.arrays[name] for name in catalog.arrays}
    crc = int(google_crc32c.value(cell))
    lies = {"vertices": {"nbytes": 12 * rows}, "vertex_attributes/mass": {"nbytes": 8 * rows},
            "vertex_fragments": {"nbytes": len(blob), "stored": len(cell), "crc": crc}}  # fmt: skip
    for name, lie in lies.items():
        values = {kind: np.array(claimed[name][kind]) for kind in COLUMNS}
        for kind, value in lie.items():
            values[kind][0] = value
        claimed[name] = Columns(values)
    n = catalog.rows.copy()
    n[0] = rows
    path.write_bytes(encode_catalog(dataclasses.replace(catalog, rows=n, arrays=claimed)))
    assert peak_of(lambda: dzv.open(skeleton).level(0).read()) < 100
    with xr.open_dataset(skeleton, engine="zv") as ds:
        for variable in ("x", "object_id", "parent"):
            assert peak_of(lambda variable=variable: ds[variable].load()) < 100
        for id_ in (0, 3):  # one of both may have nothing in that chunk
            assert peak_of(lambda id_=id_: ds.zv.sel(objects=[id_]).load(), fails=None) < 100


@pytest.mark.parametrize("nbytes", [2**63, 2**31 - 1, True, 1.5])
def test_documents_of_blobs_that_claim_what_is_not_stored(tmp_path, nbytes):
    """The package's own pipeline leaves out chunks of zeros; nobody stores gigabytes of them."""
    root = put(tmp_path / "s.zv", golden("0.7/points_negative"))
    path = next(root.glob("0/vertices/*/zarr.json"))
    document = json.loads(path.read_text())
    document["shape"] = document["chunk_grid"]["configuration"]["chunk_shape"] = [nbytes]
    document["codecs"] = [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 0, "checksum": False}}]
    path.write_text(json.dumps(document))
    for child in path.parent.glob("c/*"):
        child.unlink()
    assert peak_of(lambda: everything(root)) < 50


@pytest.mark.parametrize("chunks", [3 * 2**40, 3 * 2**18])
def test_blobs_of_more_chunks_than_there_are_objects(tmp_path, chunks):
    """Three quarters of a million chunks took zarr eight seconds to look for."""
    root = put(tmp_path / "s.zv", golden("0.7/points_negative"))
    path = next(root.glob("0/vertices/*/zarr.json"))
    edit(path, lambda d: d.update(shape=[chunks], chunk_grid={"name": "regular", "configuration": {"chunk_shape": [1]}}))
    assert peak_of(lambda: dzv.open(root).level(0).read()) < 50
    fails(FormatError, "claims the shape", lambda: dzv.open(root).level(0).read())


@pytest.mark.parametrize("array", ["object_index/object_ids", "object_index/manifests", "object_attributes/score", "groups"])
@pytest.mark.parametrize("shape", [[2**31], [2**62, 2**62], [], ["x"]])
def test_tables_that_claim_to_be_large(skeleton, array, shape):
    if array.startswith("object_index"):
        edit(skeleton / "0/object_index/zarr.json", lambda d: d["attributes"].update(num_objects=(shape or [3])[0]))
    edit(skeleton / f"0/{array}/zarr.json", lambda d: d.update(shape=shape))

    def read() -> None:
        everything(skeleton)
        level = dzv.open(skeleton).level(0)
        _ = level._contents.index.tables.groups

    assert peak_of(read) < 120


@pytest.mark.parametrize("count", [2**31, 2**63, -1, True])
def test_numbers_of_objects_are_claims(skeleton, count, tmp_path):
    edit(skeleton / "0/object_index/zarr.json", lambda d: d["attributes"].update(num_objects=count))
    assert peak_of(lambda: everything(skeleton)) < 100
    other = put(tmp_path / "7.zv", golden("0.7/polylines"))
    edit(other / "0/object_index/zarr.json", lambda d: d["attributes"].update(num_objects=count))
    assert peak_of(lambda: everything(other)) < 100


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[0]),
        lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[2**62]),
        lambda d: d.update(data_type="uint8", fill_value=16_777_217),
        lambda d: d.update(codecs=[{"name": "bytes", "configuration": {"endian": {}}}]),
        lambda d: d.update(codecs=[]),
        lambda d: d.update(chunk_key_encoding={"name": "default", "configuration": {"separator": 7}}),
        lambda d: d.update(storage_transformers=[{}]),
    ],
)
def test_documents_that_zarr_stumbles_over(skeleton, change):
    edit(skeleton / "0/object_attributes/score/zarr.json", change)
    fails(ZVError, None, everything, skeleton)


def test_counts_of_elements_that_zarr_believes(skeleton):
    cell = skeleton / "0/object_index/manifests/c/0"
    inside = bytearray(zstandard.ZstdDecompressor().decompress(cell.read_bytes()))
    inside[:4] = (2**32 - 1).to_bytes(4, "little")
    cell.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(bytes(inside)))
    fails(ZVError, None, everything, skeleton)


def test_strings_of_characters_that_are_none(tmp_path):
    root = tmp_path / "s.zv"
    write_small_store(root, "point_cloud", "grid", 1)
    cell = root / "0/object_attributes/label/c/0"
    inside = zstandard.ZstdDecompressor().decompress(cell.read_bytes())
    damaged = b"\xff\xff\xff\xff" + inside[4:]
    cell.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(damaged))
    fails(FormatError, "character", everything, root)


@pytest.mark.parametrize("checksums", [7, {}, "x", [None]])
def test_checksums_of_manifests_that_are_no_list(tmp_path, checksums):
    root = tmp_path / "s.zv"
    write_small_store(root, "polyline", "per_chunk", 1)
    edit(root / "0/object_index/manifests/zarr.json", lambda d: d["attributes"].update(dask_zv_crc32c=checksums))
    fails(FormatError, "checksum", everything, root)


@pytest.mark.parametrize("shape", [7, 1.5, None, "x", [], [5, 0], [5, "x"], [2**60], [True]])
def test_shapes_of_tables_of_layout_per_chunk(tmp_path, shape):
    root = tmp_path / "s.zv"
    write_small_store(root, "polyline", "per_chunk", 1)
    edit(root / "0/object_attributes/score/zarr.json", lambda d: d["attributes"].update(shape=shape))
    fails(ZVError, None, everything, root)
    fails(ZVError, None, lambda: xr.open_dataset(root, engine="zv")["object_score"].load())


def _receipt(tmp_path: Path) -> tuple[bytes, bytes, bytes]:
    store = dzv.create(tmp_path / "s.zv", chunk_shape=(10.0,) * 3)
    dzv.plan_points(store, np.zeros((3, 3), np.float32), object_ids=[0, 0, 1]).run(0).save(tmp_path / "r")
    parts = split_payload((tmp_path / "r").read_bytes())
    return parts[0], parts[1], parts[2]


@pytest.mark.parametrize("part", ["coords", "rows", "arrays", "ranks", "kept", "emptied"])
@pytest.mark.parametrize("value", [7, None, {"map": {"a": 1}}, {"map": 7}, {"is": "Receipt", "fields": 7}])
def test_receipts_whose_parts_are_something_else(tmp_path, part, value):
    magic, header, arrays = _receipt(tmp_path)
    changed = json.loads(header)
    changed["result"]["fields"]["receipt"]["fields"][part] = value
    (tmp_path / "r").write_bytes(join_payload((magic, json.dumps(changed).encode(), arrays)))
    try:
        dzv.load_receipt(tmp_path / "r")
    except FormatError:
        return
    assert part in ("ranks", "kept", "emptied"), "a receipt without the rest of it was believed"


@pytest.mark.parametrize("dtype", [",", "f4,", "O", "[", 7])
def test_receipts_with_dtypes_that_numpy_evaluates(tmp_path, dtype):
    magic, header, arrays = _receipt(tmp_path)
    changed = json.loads(header)
    changed["arrays"][0][0] = dtype
    (tmp_path / "r").write_bytes(join_payload((magic, json.dumps(changed).encode(), arrays)))
    fails(FormatError, None, lambda: dzv.load_receipt(tmp_path / "r"))


@pytest.mark.parametrize(
    "grid",
    [
        7,
        {},
        {"shape": ["x", 1, 1]},
        {"shape": [2, 2]},
        {"shape": [[2], 2, 2]},
        {"origin": None},
        {"origin": [0, 0, 1.5]},
        {"shard_shape": [0, 1, 1]},
        {"shard_shape": [2**40] * 3},
        {"codecs": 7},
    ],
)
def test_settings_of_a_grid_that_are_damaged(skeleton, grid):
    def change(document: dict[str, Any]) -> None:
        settings = document["attributes"]["dask_zv"]
        settings["grid"] = {**settings["grid"], **grid} if isinstance(grid, dict) and grid else grid

    edit(skeleton / "0/zarr.json", change)
    fails(MetadataError, "damaged", lambda: dzv.open(skeleton, "r+").expand(([-500.0] * 3, [500.0] * 3)))


def test_attributes_that_no_document_of_ours_may_have(skeleton, tmp_path):
    edit(skeleton / "zarr.json", lambda d: d["attributes"].update(mean=float("nan")))
    fails(MetadataError, "JSON", lambda: dzv.convert(skeleton, tmp_path / "copy.zv"))


def test_a_level_of_more_digits_than_python_converts(skeleton):
    files = {**files_of(skeleton), f"{'9' * 5000}/zarr.json": b"{}"}
    store = dzv.open({k: cpu.Buffer.from_bytes(v) for k, v in files.items()})
    assert store.levels == (0,)


def in_memory(files: dict[str, bytes]) -> dict[str, Any]:
    return {key: cpu.Buffer.from_bytes(data) for key, data in files.items()}


FRAGMENTS, RADIUS = "0/vertex_fragments/c/1/1/", "0/vertex_attributes/radius/c/1/0/0"


@pytest.mark.parametrize(
    ("store", "source", "target"),
    [("0.9/lines", f"{FRAGMENTS}1", f"{FRAGMENTS}0"), ("0.9/polylines", "0/vertices/c/0/0/1", RADIUS)],
)
def test_cells_that_are_those_of_others(store, source, target):
    """A lazy column is as long as its cells say: what is in them may be longer, or wider."""
    files = dict(golden(store))
    assert files[source] != files[target]
    files[target] = files[source]
    with pytest.raises(FormatError):  # at the latest
        xr.open_dataset(in_memory(files), engine="zv", view="spatial").load()


def test_a_blob_that_claims_more_rows_than_memory_has():
    files = dict(golden("0.7/points_categorical"))
    key = "0/vertices/0.0.1/zarr.json"
    document = json.loads(files[key])
    document["shape"] = [48_000_000_000]
    document["chunk_grid"]["configuration"]["chunk_shape"] = [48_000_000_000]
    files[key] = json.dumps(document).encode()
    found = xr.open_dataset(in_memory(files), engine="zv", view="spatial")
    fails(ZVError, None, found.load)
