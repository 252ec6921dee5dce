"""Opening what is no store, or can't be reached: every error says what to do, and none shows a secret."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import logging
import os
import pickle
import shutil
import sys
import threading
import traceback
import unicodedata
import uuid
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from refusals import fails
from s3_account import BUCKET
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, StorePath, ZipStore

import dask_zv as dzv
from dask_zv.storage.handles import open_objects
from dask_zv.storage.targets import resolve_target
from dask_zv.storage.zarr_objects import ZarrObjects

SECRET = "wJalrXUtnFEMI-do-not-print"


def test_targets(tmp_path, make_store):
    path = tmp_path / "a dir" / "s%20 #1.zv"
    group = dzv.open_group(path)
    group.write_bytes("0/vertices", "0.0.0", b"12")
    assert group.url == path.as_uri()
    assert group["0"].url == (path / "0").as_uri()
    texts = [str(path), path.as_uri(), group.url, group.backend.url]
    targets = [
        *texts,
        LocalStore(path),
        StorePath(LocalStore(path)),
        fsspec.get_mapper(str(path)),
        FsspecStore.from_url(f"local://{path}"),
    ]
    for target, mode in [*((t, m) for t in targets for m in ("r", "r+")), (zarr.open_group(path, mode="r"), "r")]:
        assert dzv.open_group(target, mode).read_bytes("0/vertices", "0.0.0") == b"12", target
    below = dzv.open_group(StorePath(LocalStore(path), "0"))
    assert below.prefix == "0"
    assert below.read_bytes("vertices", "0.0.0") == b"12"
    assert dzv.open_group(group["0"].url).read_bytes("vertices", "0.0.0") == b"12"


def test_targets_in_memory_and_what_is_none():
    name = uuid.uuid4().hex
    for i, url in enumerate((f"memory://{name}", f"memory://{name}/")):
        dzv.open_group(url).write_bytes("v", str(i), b"12")
    assert dzv.open_group(f"memory://{name}", "r").list_chunks("v") == ["0", "1"]
    mapping = {}
    fsspec.filesystem("memory").rm("/", recursive=True)
    for target in (fsspec.get_mapper(f"memory://{uuid.uuid4().hex}"), mapping, "memory://"):
        dzv.open_group(target).write_bytes("v", "0", b"12")
        assert dzv.open_group(target, "r").read_bytes("v", "0") == b"12"
    assert dzv.open_group(MemoryStore(mapping), "r").read_bytes("v", "0") == b"12"
    fsspec.filesystem("memory").rm("/", recursive=True)
    for target in (None, 3, [], b"path", object(), ""):
        fails(ValueError, "target", dzv.open_group, target)
    fails(dzv.StoreError, r"unknown scheme 'gopher'.*s3", dzv.open_group, "gopher://host/store")
    fails(dzv.StoreError, "host", dzv.open_group, "file://host/store")


def test_modes(tmp_path):
    path = tmp_path / "s.zv"
    fails(ValueError, "mode", dzv.open_group, path, "rw")
    fails(ValueError, "layout", dzv.open_group, path, layout="flat")
    fails(FileNotFoundError, "nothing is here", dzv.open_group, path, "r")
    assert not path.exists()
    dzv.open_group(path, "w-").write_bytes("v", "0", b"12")
    fails(dzv.StoreError, r"r\+", dzv.open_group, path, "w-")
    for mode in ("r", "r+", "a"):
        assert dzv.open_group(path, mode).read_bytes("v", "0") == b"12"
    assert dzv.open_group(path, "w").list_chunks("v") == []
    assert [p.name for p in path.iterdir()] == ["zarr.json"]


@pytest.fixture
def without_obstore(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "obstore" else find(name, *a))


def test_missing_packages(monkeypatch, without_obstore):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for name in ("s3", "s3a"):  # what fsspec imported before
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, name, raising=False)
    fails(dzv.StoreError, r"dask-zv\[cloud\]", dzv.open_group, "s3://bucket/store")


def test_fsspec_serves_where_obstore_is_missing(monkeypatch, without_obstore, s3_options):
    url = f"s3://contract/{uuid.uuid4().hex}"
    group = dzv.open_group(url, storage_options=s3_options)
    group.write_bytes("v", "0.0", b"12")
    assert type(group.zarr_group.store) is FsspecStore
    monkeypatch.undo()
    again = dzv.open_group(url, "r", storage_options=s3_options)
    assert type(again.zarr_group.store) is ObjectStore
    assert again.read_bytes("v", "0.0") == b"12"


@pytest.mark.parametrize("mode", ["r", "r+", "w"])
def test_missing_bucket(s3_options, mode):
    url = f"s3://no-such-bucket-{uuid.uuid4().hex}/store"
    fails(dzv.StoreError, "bucket", dzv.open_group, url, mode, storage_options=s3_options)
    store = FsspecStore.from_url(url, storage_options={**s3_options, "use_listings_cache": False})
    fails(dzv.StoreError, r"bucket" if mode != "r" else r"bucket|nothing is here", dzv.open_group, store, mode)


def test_no_server():
    """Port 9 of loopback has none; options of obstore's own (`retry_config`) pass through."""
    options = {"key": "k", "secret": SECRET, "endpoint_url": "http://127.0.0.1:9", "retry_config": {"max_retries": 0}}
    with pytest.raises(dzv.StoreError, match="s3://contract/s") as caught:
        dzv.open_group("s3://contract/s", storage_options=options)
    assert_silent(caught.value)


@pytest.fixture
def metadata_service(monkeypatch):
    """Stands in for the service that tells a cloud's machine its role; yields what it was asked for."""
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_PUT = do_HEAD = do_GET  # noqa: N815 - the base class calls them so

        def log_message(self, *args): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    for name in ("AWS_METADATA_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT"):
        monkeypatch.setenv(name, url)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    yield asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("library", ["obstore", "s3fs"])
def test_no_key_at_a_server_of_ones_own(library, metadata_service, s3_options, request, monkeypatch):
    if library == "s3fs":
        request.getfixturevalue("without_obstore")
    server, url = {"endpoint_url": s3_options["endpoint_url"]}, f"s3://{BUCKET}/{uuid.uuid4().hex}"
    for options in (server, {"client_kwargs": server}, {**server, "anon": False}):
        for call in (dzv.open, dzv.open_group, partial(dzv.create, chunk_shape=(1, 1))):
            fails(dzv.InputError, r"no key given.*key= and secret=.*anon=True", call, url, storage_options=options)
    assert metadata_service == []
    fails(dzv.NotFoundError, "nothing is here", dzv.open, url, storage_options={**server, "anon": True})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_options["secret"])
    assert dzv.create(url, chunk_shape=(1, 1), storage_options=server).axes == ("x", "y")
    assert metadata_service == []


def test_no_key_at_a_server_of_the_environment(metadata_service, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fails(dzv.InputError, "no key given", dzv.open, "s3://bucket/s.zv")
    assert metadata_service == []
    azure = {"endpoint": "http://127.0.0.1:9/account", "account_name": "account"}
    fails(dzv.InputError, r"no key given.*account_key=.*anon=True", dzv.open, "az://container/s.zv", storage_options=azure)


def test_path_of_another_file(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("x,y,z\n")
    for mode in ("r", "r+", "w"):
        fails(dzv.StoreError, "file", dzv.open_group, path, mode)
    assert path.read_text() == "x,y,z\n"
    fails(dzv.StoreError, r"cells\.csv", lambda: dzv.open_group(path / "below"))


def test_directory_of_something_else(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    for mode in ("r", "r+", "w", "w-"):
        fails(dzv.StoreError, r"a\.txt", dzv.open_group, tmp_path, mode)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    (tmp_path / "empty").mkdir()
    dzv.open_group(tmp_path / "empty").write_bytes("v", "0", b"1")


def test_what_is_no_store_is_told(tmp_path):
    """Each error says what is there, and what opens it."""
    for name in ("cells.zv", "many/a.zv", "many/b.zv", "group/c.zv"):
        dzv.create(tmp_path / name, chunk_shape=(1, 1), bounds=((0, 0), (2, 2)))
    zarr.open_group(tmp_path / "group", mode="a")
    xr.Dataset({"t": (("lat", "lon"), np.zeros((3, 3)))}).to_zarr(tmp_path / "ds.zarr", zarr_format=3, consolidated=False)
    zarr.open_group(tmp_path / "geo.zarr", mode="w", attributes={"proj:code": "EPSG:4326"})
    zarr.open_group(tmp_path / "ome.zarr", mode="w", attributes={"ome": {"version": "0.5"}})
    zarr.open_group(tmp_path / "plain.zarr", mode="w").create_array("a", shape=(3,), dtype="i4")
    shutil.copytree(tmp_path / "cells.zv", tmp_path / "cut.zv")
    (tmp_path / "cut.zv" / "zarr.json").unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "ice" / "snapshots").mkdir(parents=True)
    (tmp_path / "ice" / "repo").write_bytes(b"x")
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    cases = {
        "cells.zv/0": (dzv.MetadataError, r"level 0 of one; dzv\.open the folder above"),
        "many": (dzv.StoreError, r"holds the stores 'a\.zv', 'b\.zv': give one of them"),
        "group": (dzv.MetadataError, r"no Zarr Vectors store: it holds the store 'c\.zv': give that"),
        "ds.zarr": (dzv.MetadataError, r"a Dataset of the arrays 't'; xarray\.open_zarr opens it"),
        "geo.zarr": (dzv.MetadataError, r"GeoZarr.*xarray\.open_zarr"),
        "ome.zarr": (dzv.MetadataError, r"OME-Zarr.*zarr\.open_group"),
        "plain.zarr": (dzv.MetadataError, r"it has 'a', and no attributes; zarr\.open_group opens it"),
        "plain.zarr/a": (dzv.StoreError, r"is an Array.*zarr\.open_array"),
        "cut.zv": (dzv.StoreError, r"levels of a store.*under way.*overwrite=True"),
        "empty": (dzv.NotFoundError, r"the folder is empty: dzv\.create makes a store in it"),
        "ice": (dzv.StoreError, r"an Icechunk repository: open a session"),
        "table.parquet": (dzv.StoreError, r"a file, not a store.*pandas"),
    }
    for name, (error, match) in cases.items():
        for mode in ("r", "r+"):
            fails(error, match, dzv.open, tmp_path / name, mode)
        fails(error, match, xr.open_dataset, tmp_path / name, engine="zv")
    for name in ("cell.zv", "Cells.zv", "cells", "cells.zarr"):
        fails(dzv.NotFoundError, r"nothing is here: did you mean 'cells\.zv'\?", dzv.open, tmp_path / name)
    fails(dzv.NotFoundError, "nothing is here: check the path", dzv.open, tmp_path / "quite-another")
    memory = MemoryStore()
    dzv.create(StorePath(memory, "in/cells.zv"), chunk_shape=(1, 1))
    fails(dzv.NotFoundError, r"did you mean 'cells\.zv'", dzv.open, StorePath(memory, "in/cell.zv"))


def test_urls_that_lost_a_slash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for target in (Path("s3://bucket/s.zv"), "s3:/bucket/s.zv"):
        for call in (dzv.open, partial(dzv.create, chunk_shape=(1, 1)), dzv.open_group):
            fails(dzv.InputError, r"did you mean 's3://bucket/s\.zv', as a string\?", call, target)
    fails(dzv.InputError, "did you mean 'file:///a/s.zv'", dzv.open, "file:/a/s.zv")
    assert list(tmp_path.iterdir()) == []
    os.mkfifo(tmp_path / "pipe")
    fails(dzv.NotFoundError, "neither a folder nor a file", dzv.open, tmp_path / "pipe")


def test_zarr_v2_and_an_array_instead_of_a_group(tmp_path):
    group, array, newer = (tmp_path / name for name in ("group", "array", "newer"))
    zarr.open_group(group, mode="w", zarr_format=2).create_group("g")
    zarr.create_array(array, shape=(2,), dtype="i4", zarr_format=2)
    zarr.create_array(newer, shape=(2,), dtype="i4")
    for path, match in ((group, "a Zarr v2 hierarchy"), (array, "a Zarr v2 hierarchy"), (newer, "Array")):
        for mode in ("r", "r+", "w") if path != newer else ("r", "r+"):
            with pytest.raises(dzv.StoreError, match=match):
                dzv.open_group(path, mode)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"zarr_format": 4, "node_type": "group"}'])
def test_damaged_root_document(tmp_path, text):
    (tmp_path / "zarr.json").write_text(text)
    for mode in ("r", "r+"):
        fails(dzv.MetadataError, r"zarr\.json", dzv.open_group, tmp_path, mode)
    assert (tmp_path / "zarr.json").read_text() == text


@pytest.mark.parametrize("version", ["0.8.5", "0.6.0", "0.0", "0", 7, None, "seven"])
def test_other_generations(tmp_path, version):
    root = zarr.open_group(tmp_path / "s", mode="w")
    root.attrs["zarr_vectors"] = {"zv_version": version}
    for mode in ("r", "r+"):
        with pytest.raises(dzv.MetadataError, match=r"version"):
            dzv.open_group(tmp_path / "s", mode)


def test_read_only_stores(tmp_path):
    dzv.open_group(tmp_path / "s").write_bytes("v", "0", b"12")
    mapping = {}
    dzv.open_group(mapping).write_bytes("v", "0", b"12")
    for store in (LocalStore(tmp_path / "s", read_only=True), MemoryStore(mapping, read_only=True)):
        for mode in ("r+", "a", "w", "w-"):
            fails(PermissionError, "'r'", dzv.open_group, store, mode)
        assert dzv.open_group(store, "r").read_bytes("v", "0") == b"12"
    group = dzv.Group(zarr.open_group(tmp_path / "s", mode="r"))
    fails(PermissionError, r"r\+", group.write_bytes, "v", "0", b"34")
    assert group.read_bytes("v", "0") == b"12"


def test_bad_zip(tmp_path):
    path = tmp_path / "s.zip"
    path.write_bytes(b"PK\x03\x04 no zip")
    fails(dzv.StoreError, r"zip", dzv.open_group, path, "r")
    fails(FileNotFoundError, None, lambda: dzv.open_group(tmp_path / "absent.zip", "r"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "mine")
    fails(dzv.StoreError, r"notes\.txt", dzv.open_group, path, "r")


def test_zip_files_are_for_reading(tmp_path):
    path = tmp_path / "s.zip"
    with ZipStore(path, mode="w") as store:
        zarr.create_group(store, attributes={"a": 1})
        fails(dzv.StoreError, "zip", dzv.open_group, store)
    assert dzv.open_group(path, "r").attrs["a"] == 1
    for mode in ("r+", "w"):
        fails(dzv.ReadOnlyError, None, dzv.open_group, path, mode)


def test_options_misused(tmp_path, s3_options):
    fails(ValueError, "fsync", lambda: dzv.open_group(tmp_path / "s", storage_options={"anon": True}))
    dzv.open_group(tmp_path / "s", storage_options={"fsync": True}).write_bytes("v", "0", b"12")
    for target in ({}, MemoryStore(), LocalStore(tmp_path / "t")):
        fails(ValueError, "URL", dzv.open_group, target, storage_options={"anon": True})
    with pytest.raises(dzv.StoreError, match="no_such_option") as caught:
        dzv.open_group("s3://contract/s", storage_options={**s3_options, "no_such_option": SECRET, "secret": SECRET})
    assert SECRET not in str(caught.value)


def assert_silent(error, *secrets):
    """No secret in the error, in what caused it, in its traceback or in its pickle."""
    text = "".join(traceback.format_exception(error)) + repr(error) + str(error) + repr(vars(error))
    assert SECRET not in text
    assert not [s for s in secrets if s in text]
    if isinstance(error, dzv.ZVError):
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == str(error)
        assert SECRET.encode() not in pickle.dumps(error)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("s3://contract/s", {"key": f"id-{SECRET}", "secret": SECRET, "token": f"t-{SECRET}"}),
        ("s3://contract/s", {"client_kwargs": {"aws_secret_access_key": SECRET}}),
        ("s3://contract/s", {"access_key_id": "id", "secret_access_key": SECRET}),
        (f"https://user:{SECRET}@127.0.0.1:9/s", {}),
        (f"https://127.0.0.1:9/s?X-Amz-Signature={SECRET}", {}),
        ("https://127.0.0.1:9/s", {"client_options": {"default_headers": {"authorization": SECRET}}}),
    ],
)
def test_secrets_never_show(target, options, caplog):
    caplog.set_level(logging.DEBUG)
    handle, prefix = resolve_target(target, options)
    for shown in (repr(handle), str(handle), handle.url, repr(handle.__dask_tokenize__()), repr(copy.copy(handle))):
        assert SECRET not in shown
    assert SECRET not in repr(pickle.loads(pickle.dumps(handle)))
    if "client_kwargs" not in options:
        try:
            group = dzv.Group._from_handle(handle, prefix)
        except dzv.ZVError as error:
            assert_silent(error)
        else:
            for shown in (repr(group), group.url, repr(group.backend), group.backend.url, repr(group.attrs._objects)):
                assert SECRET not in shown
            assert SECRET not in repr(vars(group))
    assert not [r for r in caplog.records if SECRET in r.getMessage()]


def test_secrets_never_show_in_failures(s3_endpoint, s3_options, caplog):
    caplog.set_level(logging.DEBUG, "dask_zv")
    bad = {"key": f"id-{SECRET}", "secret": SECRET, "endpoint_url": s3_endpoint}
    with pytest.raises(dzv.StoreError) as caught:
        dzv.open_group(f"s3://absent-{uuid.uuid4().hex}/s", storage_options=bad)
    assert_silent(caught.value)
    group = dzv.open_group(f"s3://contract/{uuid.uuid4().hex}", storage_options=bad)
    group.write_bytes("v", "0", b"12")
    for array in ("absent", "v"):
        with pytest.raises(dzv.StoreError) as caught:
            group.read_bytes(array, "9")
        assert_silent(caught.value)
    with pytest.raises(dzv.StoreError) as caught:
        group["absent"]
    assert_silent(caught.value)
    with group.batched_writes(compute=False) as batch:
        group.write_bytes("v", "1", b"34")
    lazy = batch.to_delayed()
    assert SECRET not in repr(lazy) + repr(dict(lazy.__dask_graph__())) + repr(batch)
    assert not [r for r in caplog.records if SECRET in r.getMessage()]


def test_failures_that_quote_secrets_are_blanked(monkeypatch):
    """Stores may put what they were given into their errors."""
    import obstore.store

    def from_url(url, **options):
        raise ValueError(f"bad config {options} for {url}")

    monkeypatch.setattr(obstore.store, "from_url", from_url)
    with pytest.raises(dzv.StoreError, match="bad config") as caught:
        dzv.open_group(f"s3://id:{SECRET}-too@contract/s", storage_options={"secret": SECRET})
    assert_silent(caught.value)

    class Quoting(MemoryStore):
        async def get(self, *args, **kwargs):
            raise RuntimeError(f"signed with {SECRET}")

    objects = ZarrObjects(Quoting(), "memory", secrets=[SECRET])
    with pytest.raises(dzv.StoreError, match="signed with") as caught:
        objects.get("v")
    assert_silent(caught.value)


def test_secrets_of_stores_that_the_user_opened(s3_endpoint):
    import obstore.store

    inner = obstore.store.S3Store(
        "absent", prefix="s", endpoint=s3_endpoint, access_key_id="id", secret_access_key=SECRET, region="us-east-1",
        client_options={"allow_http": True},
    )  # fmt: skip
    s3 = {"key": "id", "secret": SECRET, "endpoint_url": s3_endpoint}
    for store in (ObjectStore(inner), FsspecStore.from_url("s3://absent/s", storage_options=s3)):
        handle, _ = resolve_target(store)
        assert SECRET not in repr(handle)
        assert "absent" in handle.url
        with pytest.raises(dzv.StoreError) as caught:
            dzv.open_group(store)
        assert_silent(caught.value)


def test_one_open_store_per_handle(s3_options):
    url = f"s3://contract/{uuid.uuid4().hex}"
    one, two = (resolve_target(url, dict(s3_options))[0] for _ in range(2))
    assert one == two
    assert open_objects(one) is open_objects(pickle.loads(pickle.dumps(two)))
    other = resolve_target(url, {**s3_options, "key": "another-key"})[0]
    assert open_objects(other) is not open_objects(one)


def test_a_store_that_does_not_pickle_works_in_its_process(tmp_path):
    class Local(LocalStore):
        def __reduce_ex__(self, protocol):
            raise TypeError("no pickling")

    group = dzv.open_group(Local(tmp_path / "s"))
    group.write_bytes("v", "0", b"12")
    assert group.read_bytes("v", "0") == b"12"
    handle, _ = resolve_target(Local(tmp_path / "s"))
    assert handle.one_process


def test_wrapped_icechunk_wants_nodes_first(make_store):
    from zarr.storage import LoggingStore

    store = make_store("icechunk")
    group = dzv.open_group(LoggingStore(store.plain))
    group.write_bytes("0/v", "0", b"12")
    with group.batched_writes(shards=4):
        group.write_bytes("0/w", "0", b"34")
    assert group.read_bytes("0/v", "0") == b"12"
    assert group.read_bytes("0/w", "0") == b"34"


def test_characters_of_urls_in_keys(s3_options, s3_client):
    base = f"chars-{uuid.uuid4().hex}"
    names = ["a", "a#b", "a#c", "a%20b", "a b", "a%23b", "100%", "ä+&=;@:~", "a#b/c#d"]
    for i, name in enumerate(names):
        url = f"s3://{BUCKET}/{base}/{name}"
        store = dzv.create(url, chunk_shape=(1, 1), crs={"number": i}, storage_options=s3_options)
        assert store.url == url
    for i, name in enumerate(names):
        url = f"s3://{BUCKET}/{base}/{name}"
        assert dzv.open(url, storage_options=s3_options).metadata.crs == {"number": i}, name
        # the keys are those that fsspec has for the URL
        key = fsspec.core.url_to_fs(url, anon=True)[1].partition("/")[2] + "/zarr.json"
        assert s3_client.head_object(Bucket=BUCKET, Key=key)


def test_keys_that_libraries_disagree_on_are_refused(monkeypatch):
    for url in ("s3://bucket/a?b", "gs://bucket/a?x=1", "az://c/a?sig=s3cr3t", "abfs://c/x/a?b"):
        with pytest.raises(dzv.InputError, match=r"/a\?…' has a '\?'") as caught:
            dzv.create(url, chunk_shape=(1, 1))
        assert "s3cr3t" not in str(caught.value)
    with pytest.raises(dzv.InputError, match="has a '#'"):
        dzv.open("https://host/a#b")
    fails(dzv.InputError, "control characters", dzv.create, "memory://a\nb", chunk_shape=(1, 1))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    fails(dzv.InputError, "has a query", dzv.open, "https://host/a?x=1")


def test_file_urls_and_names_that_are_no_path(tmp_path):
    for name in ("a", "a#b", "a?b"):
        dzv.create(tmp_path / name, chunk_shape=(1, 1), crs={"name": name})
    for name in ("a", "a#b", "a?b"):
        assert dzv.open(f"file://{tmp_path}/{name}").metadata.crs == {"name": name}
        assert dzv.open((tmp_path / name).as_uri()).metadata.crs == {"name": name}
    for name in ("a\0b", "x" * 300, "y/" * 3000, "a\ud800b"):
        for target in (f"{tmp_path}/{name}", tmp_path / name):
            fails(dzv.InputError, "is no path", dzv.create, target, chunk_shape=(1, 1))
            fails(dzv.InputError, "is no path", dzv.open, target)


def test_names_that_are_no_utf8(tmp_path):
    names = [os.fsdecode(b"s\xff.zv"), os.fsdecode(b"s\xfe.zv"), "s\ufffd.zv"]
    for i, name in enumerate(names):
        dzv.create(tmp_path / name, chunk_shape=(1, 1), crs={"number": i})
    dzv.create(tmp_path / names[0], chunk_shape=(1, 1), crs={"number": 7}, overwrite=True)
    dzv.write_points(dzv.open(tmp_path / names[0], "r+"), np.zeros((3, 2)))
    for name, number in zip(names, (7, 1, 2), strict=True):
        store = dzv.open(tmp_path / name)
        assert store.metadata.crs == {"number": number}
        assert dzv.open(store.url).metadata.crs == {"number": number}
        repr(store).encode()
    assert len(dzv.open(str(tmp_path / names[0])).level(0).read().positions) == 3
    with pytest.raises(dzv.NotFoundError) as caught:
        dzv.open(tmp_path / os.fsdecode(b"\xff"))
    str(caught.value).encode()


class Upath:
    """What dask-zv looks at in a UPath."""

    def __init__(self, protocol, path, **options):
        self.protocol, self.path, self.storage_options = protocol, path, options
        self.fs, self.root, self.parts = None, "/", ()

    def joinpath(self, *_):
        raise NotImplementedError

    def __str__(self):
        return f"{self.protocol}://{self.path}" if self.protocol else self.path


def test_upaths(tmp_path, s3_options):
    try:
        from upath import UPath
    except ImportError:
        makers = {"local": lambda p: Upath("", str(p)), "file": lambda p: Upath("file", str(p))}
        remote = Upath("s3", f"{BUCKET}/upath.zv", **s3_options)
        memory = Upath("memory", "/upath.zv")
    else:
        makers = {"local": UPath, "file": lambda p: UPath(f"file://{p}")}
        remote, memory = UPath(f"s3://{BUCKET}/upath.zv", **s3_options), UPath("memory:///upath.zv")
    for kind, make in makers.items():
        path = tmp_path / f"{kind} #1.zv"
        dzv.create(make(path), chunk_shape=(1, 1))
        assert dzv.open(path).url == path.as_uri()
    dzv.create(remote, chunk_shape=(1, 1), overwrite=True)
    assert dzv.open(f"s3://{BUCKET}/upath.zv", storage_options=s3_options).axes == ("x", "y")
    dzv.create(memory, chunk_shape=(1, 1), overwrite=True)
    assert dzv.open(memory).axes == ("x", "y")
    assert not list(tmp_path.glob("zarr.json"))


def test_mappers_are_told_by_their_type(tmp_path):
    class Looks:
        fs, root = fsspec.filesystem("file"), str(tmp_path)

    fails(dzv.InputError, "a Looks is not a supported target", lambda: dzv.create(Looks(), chunk_shape=(1, 1)))


def test_overwriting_a_link_replaces_what_it_points_to(tmp_path):
    (tmp_path / "disk").mkdir()
    there, link = tmp_path / "disk" / "s.zv", tmp_path / "link.zv"
    link.symlink_to(there)
    for overwrite in (False, True, True):  # the first finds nothing where the link leads
        store = dzv.create(link, chunk_shape=(1, 1), overwrite=overwrite)
        dzv.write_points(store, np.zeros((3, 2)))
        assert link.is_symlink()
        assert len(dzv.open(there).level(0).read().positions) == 3
    dzv.open_group(link, "w").write_bytes("a", "0.0", b"1")
    assert link.is_symlink()
    assert sorted(p.name for p in there.iterdir()) == ["a", "zarr.json"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder in ("/proc/nothing", "/proc/nothing/below/it", tmp_path / "file" / "below"):
        fails(dzv.StoreError, "failed", dzv.create, f"{folder}/s.zv", chunk_shape=(1, 1))


ODD = ["a\nb", "a\x1b[2J", "a\x07", "a\x7f", "a\x9b", "a\u2028b", "a\u202eb", "a\ud800"]


def test_control_characters_are_refused_where_names_are_given(tmp_path):
    points, objects = np.zeros((2, 2)), {"object_ids": [0, 0]}
    for layout, odd in itertools.product(("grid", "per_chunk"), ODD):
        options = {"chunk_shape": (1, 1), "layout": layout}
        calls = [
            (dzv.create, {}, {"axes": [axis, "x", "y"], "layout": layout, "chunk_shape": (1, 1, 1)})
            for axis in ({"name": odd}, {"name": "c", "unit": odd}, {"name": "c", "type": odd})
        ]
        groups = {"groups": {0: [0]}, "group_attributes": {odd: [1]}}
        given = ({"attributes": {odd: [1, 2]}}, {**objects, "object_attributes": {odd: [1]}}, {**objects, **groups})
        calls += [(dzv.write_points, dzv.create({}, **options), {"positions": points, **g}) for g in given]
        if layout == "grid":
            edges = {"positions": points, "edges": [[0, 1]], "edge_attributes": {odd: [1]}}
            calls.append((dzv.write_graph, dzv.create({}, geometry="graph", **options), edges))
        for call, target, given in calls:
            with pytest.raises(dzv.InputError, match=r"control characters") as caught:
                call(target, **given)
            assert odd not in str(caught.value)


def test_control_characters_of_others_are_escaped(tmp_path):
    path = tmp_path / "s.zv"
    store = dzv.create(path, chunk_shape=(1, 1), axes=[{"name": "qqq", "unit": "uuu"}, "y"])
    dzv.write_points(store, np.zeros((2, 2)), attributes={"www": [1, 2]})
    text = (path / "zarr.json").read_text()
    for odd in ODD:
        code = json.dumps(odd)[1:-1]
        (path / "zarr.json").write_text(text.replace("qqq", code).replace("uuu", f"{code}u"))
        found = dzv.open(path)
        level = found.level(0)
        ds = xr.open_dataset(path, engine="zv")
        shown = [found, level, level.read(), ds.zv, ds.zv.density(spacing=1).attrs, dzv.InputError(odd, store=odd)]
        texts = [*map(repr, shown), found._repr_html_(), level._repr_html_(), ds.zv._repr_html_(), str(shown[-1])]
        for each in texts:
            assert odd not in each
            assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl") for c in each if c != "\n"), each


def test_control_characters_of_paths_are_escaped(tmp_path):
    for odd in ("a\nb", "a\x9b"):
        name = f"7{odd}b"
        for target in (tmp_path / name, StorePath(MemoryStore(), name), StorePath(LocalStore(tmp_path / "s"), name)):
            store = dzv.create(target, chunk_shape=(1, 1))
            plan = dzv.plan_points(store, np.zeros((2, 2)))
            report = plan.commit([plan.run(block) for block in range(len(plan))])
            ds = xr.open_dataset(target, engine="zv")
            with pytest.raises(dzv.StoreError) as caught:
                dzv.write_points(store, np.zeros((2, 2)))
            group = dzv.open_group(target)
            shown = [store, store.level(0), plan, report, group, group["0"], group.batched_writes(), ds, ds.zv, caught.value]
            for each in (*map(repr, shown), store.url, store.level(0).url, group.url, ds._repr_html_(), str(caught.value)):
                assert name not in each, each
            if "file:" in store.url:
                assert dzv.open(store.url).level(0).metadata.vertex_count == 2
        assert name not in str(dzv.ZVWarning(name))
