"""Every fragment index, manifest, group and document of the golden stores of ZV 0.7 is decoded."""

import json
import zipfile

import numpy as np
import pytest
import zarr
from golden_reference import STORES

from dask_zv.format.dictionary import DictionaryEncoding
from dask_zv.format.fragments import decode_fragments, encode_tiling
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.manifests import decode_manifests, encode_manifests
from dask_zv.format.metadata import RootMetadata
from dask_zv.format.objects import decode_groups, encode_groups

OLD = [path for path in STORES if path.parent.name == "golden_0.7"]


class Golden:
    """A golden store: its documents by node path, and its payloads."""

    def __init__(self, path):
        if path.suffix == ".zip":
            self.store = zarr.storage.ZipStore(path, mode="r")
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith("zarr.json")]
                texts = {name: archive.read(name) for name in names}
        else:
            self.store = zarr.storage.LocalStore(path, read_only=True)
            texts = {found.relative_to(path).as_posix(): found.read_text() for found in path.rglob("zarr.json")}
        self.attrs = {n.removesuffix("zarr.json").strip("/"): json.loads(t)["attributes"] for n, t in texts.items()}
        self.root = zarr.open_group(self.store, mode="r")
        self.levels = sorted(name for name in self.attrs if name.isdigit())

    def blob(self, path):
        return self.root[path][...].tobytes()

    def blobs(self, path):
        """Payloads of an array by chunk key, from children and from shards."""
        found = {}
        for node in self.attrs:
            if node.rpartition("/")[0] != path:
                continue
            data, name = self.blob(node), node.rpartition("/")[2]
            index = self.attrs[node].get("shard_index")
            found |= {name: data} if index is None else {k: data[at : at + n] for k, (at, n) in index.items()}
        return found


@pytest.fixture(params=OLD, ids=lambda path: path.name.partition(".")[0])
def golden(request):
    found = Golden(request.param)
    yield found
    found.store.close()


def test_stores_are_there():
    assert len(OLD) >= 20


def test_golden_store_is_decoded(golden):
    attrs = golden.attrs[""]
    root = RootMetadata.from_attributes(attrs)
    assert root.to_attributes() == {key: attrs[key] for key in ("zarr_vectors", "multiscales")}
    assert json.dumps(root.to_attributes()["multiscales"]) == json.dumps(attrs["multiscales"])
    for level in golden.levels:
        metadata = LevelMetadata.from_attributes(golden.attrs[level])
        document = metadata.to_attributes()
        assert json.dumps(document) == json.dumps({"zarr_vectors_level": golden.attrs[level]["zarr_vectors_level"]})
        assert metadata.chunk_shape_in(root.chunk_shape)
        counts = check_fragments(golden, level, root.ndim)
        check_links(golden, level)
        check_manifests(golden, level, counts)
    for path in golden.attrs:
        check_groups(golden, path)
        check_dictionary(golden, path)


def check_fragments(golden, level, ndim):
    """Decode the fragments of all chunks of vertices; return their number by chunk key."""
    itemsize = np.dtype(golden.attrs[f"{level}/vertices"]["dtype"]).itemsize
    vertices = golden.blobs(f"{level}/vertices")
    fragments = golden.blobs(f"{level}/vertex_fragments")
    assert vertices.keys() == fragments.keys()
    for key, blob in fragments.items():
        n_rows = len(vertices[key]) // (ndim * itemsize)
        index = decode_fragments(blob, n_rows=n_rows)
        assert index.tiles(n_rows)
        assert encode_tiling(index.counts) == blob
        assert np.array_equal(index.all_rows(), np.arange(n_rows))
    return {key: len(decode_fragments(blob)) for key, blob in fragments.items()}


def check_links(golden, level):
    indexes = golden.blobs(f"{level}/link_fragments")
    if indexes:
        width = golden.attrs[f"{level}/links/0"]["link_width"]
        links = golden.blobs(f"{level}/links/0")
        for key, blob in indexes.items():
            n_rows = len(links[key]) // (8 * width)
            assert decode_fragments(blob, n_rows=n_rows).tiles(n_rows)


def check_manifests(golden, level, counts):
    path = f"{level}/object_index"
    if f"{path}/manifests" not in golden.attrs:
        return
    blobs = [bytes(blob) for blob in golden.root[f"{path}/manifests"][...]]
    rows, chunks, fragments = decode_manifests(blobs, golden.attrs[path]["sid_ndim"])
    assert encode_manifests(rows, chunks, fragments, first=0, count=len(blobs)) == [blob or bytes(4) for blob in blobs]
    keys = [".".join(map(str, chunk)) for chunk in chunks.tolist()]
    assert all(fragment < counts[key] for key, fragment in zip(keys, fragments.tolist(), strict=True))


def check_groups(golden, path):
    if golden.attrs[path].get("zv_array") == "groups" and f"{path}/offsets" in golden.attrs:
        blobs = golden.blob(f"{path}/data"), golden.blob(f"{path}/offsets")
        groups = decode_groups(*blobs)
        assert len(groups) == golden.attrs[path]["num_groups"]
        assert encode_groups(groups) == blobs


def check_dictionary(golden, path):
    attrs = golden.attrs[path]
    encoding = DictionaryEncoding.from_attributes(attrs) if attrs.get("zv_array") == "attribute" else None
    if encoding is not None:
        assert encoding.to_attributes().items() <= attrs.items()
        assert attrs["dtype"] == encoding.dtype
        for blob in golden.blobs(path).values():
            codes = np.frombuffer(blob, attrs["dtype"])
            assert np.array_equal(encoding.encode(encoding.decode(codes)), codes)
