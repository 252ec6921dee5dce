"""No secret of a store is told: not by errors and what they were raised from, reprs, HTML, task keys and graphs, reports, logs.

The failures are real: a port where nobody listens, a server that refuses everything and repeats in its answer what it was sent,
a server that answers. All have credentials and signed URLs of which any trace is found by its marker.
"""

from __future__ import annotations

import http.server
import logging
import pickle
import socket
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import dask
import numpy as np
import obstore.store
import pytest
import xarray as xr
from zarr.storage import FsspecStore, ObjectStore

import dask_zv as dzv
from dask_zv.errors import ZVError
from dask_zv.storage.handles import open_objects

MARK = "TOPSECRET"
KEY, SECRET, TOKEN = f"AKIA{MARK}KEYID", f"wJalr{MARK}+secret/key", f"tok{MARK}session=="
PASSWORD, SIGNATURE = f"pass{MARK}word", f"sig{MARK}nature"
POSITIONS = np.random.default_rng(0).uniform(-30, 30, (50, 3)).astype(np.float32)


class _Refusing(http.server.BaseHTTPRequestHandler):
    """Answers 403 to everything, and repeats the request: its query, and headers with credentials in them."""

    def _refuse(self) -> None:
        told = " ".join(f"{k}={v}" for k, v in self.headers.items())
        if "AWS4-HMAC" in told:  # of a client that has the secret, which no request carries
            told += f" {SECRET}"
        body = f"<Error><Code>AccessDenied</Code><Message>refused {self.path} {told}</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _refuse  # noqa: N815 - the names that the server asks for

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def refusing() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def closed() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, override: Callable[..., None]) -> None:
    override(request_backoff=0.001, request_attempts=2)
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)


def _options(host: str, **more: Any) -> dict[str, Any]:
    return {"key": KEY, "secret": SECRET, "token": TOKEN, "endpoint_url": f"http://{host}", **more}


_NO_RETRY = {"retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}}


def _s3_url(host: str) -> tuple[Any, dict[str, Any]]:
    return "s3://bucket/x.zv", {**_options(host), **_NO_RETRY}


def _s3_url_nested(host: str) -> tuple[Any, dict[str, Any]]:
    client = {"endpoint_url": f"http://{host}", "access_key_id": KEY, "secret_access_key": SECRET, "session_token": TOKEN}
    return "s3://bucket/y.zv", {"client_kwargs": client, **_NO_RETRY}


def _s3_store(bucket: str, prefix: str, host: str, **more: Any) -> ObjectStore[Any]:
    return ObjectStore(obstore.store.S3Store(
        bucket, prefix=prefix, endpoint=f"http://{host}", access_key_id=KEY, secret_access_key=SECRET, session_token=TOKEN,
        region="us-east-1", client_options={"allow_http": True}, **more,
    ))  # fmt: skip


def _obstore(host: str) -> tuple[Any, dict[str, Any]]:
    return _s3_store("bucket", "x", host, **_NO_RETRY), {}


def _fsspec(host: str) -> tuple[Any, dict[str, Any]]:
    options = _options(host, config_kwargs={"retries": {"max_attempts": 1}}, use_listings_cache=False)
    return FsspecStore.from_url("s3://bucket/x", storage_options=options), {}


def _signed(host: str) -> tuple[Any, dict[str, Any]]:
    return f"http://{host}/x.zv?X-Amz-Signature={SIGNATURE}&X-Amz-Security-Token={TOKEN}", {**_NO_RETRY}


def _user(host: str) -> tuple[Any, dict[str, Any]]:
    return f"http://me:{PASSWORD}@{host}/x.zv", {**_NO_RETRY}


def _headers(host: str) -> tuple[Any, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {TOKEN}", "Cookie": f"a={SECRET}"}
    return f"http://{host}/h.zv", {"client_options": {"default_headers": headers}, **_NO_RETRY}


TARGETS: tuple[Callable[[str], tuple[Any, dict[str, Any]]], ...] = (
    _s3_url, _s3_url_nested, _obstore, _fsspec, _signed, _user, _headers
)  # fmt: skip

BAD: tuple[tuple[Any, dict[str, Any]], ...] = (
    (f"nowhere://me:{PASSWORD}@host/x?sig={SIGNATURE}", {}),
    (f"s3://bucket/x?X-Amz-Signature={SIGNATURE}", {"key": KEY, "secret": SECRET, "no_such_option": SECRET}),
    ("s3://bucket/x", {"key": [KEY], "secret": {"a": SECRET}}),
    (f"gs://bucket/x?sig={SIGNATURE}", {"service_account_key": f'{{"private_key": "{SECRET}"}}'}),
    (f"az://container/x?sig={SIGNATURE}", {"account_key": SECRET, "account_name": "me"}),
    (f"file://me:{PASSWORD}@host/x?sig={SIGNATURE}", {}),
    ("some/path", {"secret": SECRET}),
    ({}, {"key": KEY, "secret": SECRET}),
    (f"ftp://me:{PASSWORD}@127.0.0.1:9/x", {"password": PASSWORD}),
)
"""Targets that can't even be opened."""


def _texts(error: BaseException | None) -> Iterator[str]:
    """Yield all that an exception may show, and those that it was raised from or during."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        found = todo.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield from (str(found), repr(found), repr(found.args), repr(getattr(found, "__notes__", "")))
        yield repr(vars(found))
        todo += [found.__cause__, found.__context__]
        todo += getattr(found, "exceptions", [])
    if error is not None:
        yield "".join(traceback.format_exception(error))


def _check(*texts: str) -> None:
    for text in texts:
        at = text.find(MARK)
        assert at < 0, f"a secret is shown: …{text[max(0, at - 300) : at + 60]}…"


def _fail(action: Callable[[], object]) -> None:
    with pytest.raises(Exception) as caught:
        action()
    assert isinstance(caught.value, ZVError), repr(caught.value)[:500]
    _check(*_texts(caught.value))
    _check(*_texts(pickle.loads(pickle.dumps(caught.value))))


def _actions(target: Any, options: dict[str, Any]) -> list[Callable[[], object]]:
    more = {"storage_options": options} if options else {}
    return [
        lambda: dzv.open(target, **more),
        lambda: dzv.create(target, chunk_shape=(10.0,) * 3, **more),
        lambda: dzv.open_group(target, "r", **more).list_chunks("0/vertices"),
        lambda: xr.open_dataset(target, engine="zv", **more),
        lambda: dzv.convert({}, target, **more) if not options else dzv.open(target, "r+", **more),
    ]


@pytest.mark.parametrize("made", TARGETS, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("host", ["refusing", "closed"])
def test_failures_tell_no_secret(made, host, request, caplog, capfd):
    caplog.set_level(logging.DEBUG, "dask_zv")
    target, options = made(request.getfixturevalue(host))
    for action in _actions(target, options):
        _fail(action)
    _check(caplog.text, *capfd.readouterr())


@pytest.mark.parametrize(("target", "options"), BAD, ids=lambda v: v.partition(":")[0] if isinstance(v, str) else None)
def test_targets_that_cannot_be_opened_tell_no_secret(target, options, caplog):
    caplog.set_level(logging.DEBUG, "dask_zv")
    _fail(lambda: dzv.open(target, storage_options=options))
    _fail(lambda: dzv.open_group(target, "r", storage_options=options))
    _fail(lambda: xr.open_dataset(target, engine="zv", storage_options=options))
    _check(caplog.text)


@pytest.fixture(scope="module")
def bucket(s3_endpoint: str, s3_client: Any) -> str:
    s3_client.create_bucket(Bucket="secrets")
    return s3_endpoint.removeprefix("http://")


def _working(kind: str, host: str) -> tuple[Any, dict[str, Any]]:
    prefix = uuid.uuid4().hex
    if kind == "url":
        return f"s3://secrets/{prefix}", _options(host)
    if kind == "obstore":
        return _s3_store("secrets", prefix, host), {}
    return FsspecStore.from_url(f"s3://secrets/{prefix}", storage_options=_options(host, use_listings_cache=False)), {}


def _graph_texts(collection: Any) -> Iterator[str]:
    """Yield what a graph may show: keys, tasks, layers."""
    graph = collection.__dask_graph__()
    yield repr(graph)
    for key, task in dict(graph).items():
        yield from (str(key), repr(key), repr(task), str(task))
        yield repr(getattr(task, "args", "")) + repr(getattr(task, "kwargs", ""))
    html = getattr(graph, "_repr_html_", None)
    if html is not None:
        yield html()
    yield from (repr(collection), str(collection.__dask_keys__()))


@pytest.mark.parametrize("kind", ["url", "obstore", "fsspec"])
def test_nothing_that_is_shown_or_stored_has_a_secret(kind, bucket, caplog, tmp_path):
    caplog.set_level(logging.DEBUG, "dask_zv")
    target, options = _working(kind, bucket)
    more = {"storage_options": options} if options else {}
    with dask.config.set(scheduler="sync"):
        store = dzv.create(target, chunk_shape=(20.0,) * 3, **more)
        delayed = dzv.write_points(store, POSITIONS, object_ids=np.arange(50) // 5, compute=False)
        _check(*_graph_texts(delayed))
        report = delayed.compute()
        _check(repr(report), str(report), report._repr_html_(), report.log().to_string())
        level = dzv.open(target, **more).level(0)
        of_level = (
            level.store,
            level,
            level.group,
            level._contents.source,
            level._contents.place,
            level.store._contents.handle,
            level.group.backend,
        )
        for shown in (store, *of_level):
            _check(repr(shown), str(shown))
            if hasattr(shown, "_repr_html_"):
                _check(shown._repr_html_())
        _check(level.url, level.group.url, repr(level.group.attrs), repr(level._contents.index), repr(level.chunks))
        _check(repr(vars(open_objects(level.store._contents.handle)).get("url")))
        _check(dask.base.tokenize(level.store._contents.handle), level._contents.source.token)
        _check(*_graph_texts(level.read(compute=False)))
        ds = xr.open_dataset(target, engine="zv", chunks={}, **more)
        _check(repr(ds), ds._repr_html_(), repr(ds.attrs), repr(ds.encoding))
        for variable in ds.variables.values():
            _check(repr(variable.encoding), repr(variable.attrs))
            if variable.chunks is not None:
                _check(*_graph_texts(variable.data))
        lazy = xr.open_dataset(target, engine="zv", **more)
        _check(*(repr(v._data) for v in lazy.variables.values()))
        if kind == "url":
            plan = dzv.plan_points(dzv.create(f"{target}-plan", chunk_shape=(20.0,) * 3, **more), POSITIONS)
            receipt = plan.run(0)
            receipt.save(tmp_path / "receipt")
            _check(repr(plan), repr(receipt), (tmp_path / "receipt").read_bytes().decode("latin-1"), plan.digest)
    stored = open_objects(level.store._contents.handle)
    for key in stored.list_prefix(""):
        _check(key, (stored.get(key) or b"").decode("latin-1"))
    _check(caplog.text)


@pytest.mark.parametrize("kind", ["url", "fsspec"])
def test_failing_tasks_of_a_cluster_tell_no_secret(kind, bucket, refusing, thread_cluster, caplog):
    """Workers log failed tasks with their arguments, clients show keys."""
    from distributed import Client

    target, options = _working(kind, bucket)
    more = {"storage_options": options} if options else {}
    with dask.config.set(scheduler="sync"):
        store = dzv.create(target, chunk_shape=(20.0,) * 3, **more)
        dzv.write_points(store, POSITIONS)
    loggers = [
        logging.getLogger(n) for n in ("dask_zv", *(f"distributed{n}" for n in ("", ".worker", ".scheduler", ".client")))
    ]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    caplog.set_level(logging.DEBUG, "distributed")
    caplog.set_level(logging.DEBUG, "dask_zv")
    try:
        with Client(thread_cluster) as client:
            level = dzv.open(target, **more).level(0)
            vertices = [k for k in open_objects(level.store._contents.handle).list_prefix("0/vertices") if "/c/" in k]
            open_objects(dzv.open(target, "r+", **more)._contents.handle).delete_many(vertices)
            _fail(level.read)
            ds = xr.open_dataset(target, engine="zv", chunks={}, **more)
            _fail(lambda: ds["x"].compute())
            future = client.compute(level.read(compute=False))
            assert future.exception(timeout=60) is not None
            _check(future.key, repr(future), *_texts(future.exception()), *traceback.format_tb(future.traceback()))
            _check(repr(client.get_worker_logs()), repr(client.get_scheduler_logs()), repr(client.who_has()))
            broken = dzv.write_points(dzv.open(target, "r+", **more), POSITIONS, mode="overwrite", compute=False)
            _check(*_graph_texts(broken))
    finally:
        for logger in loggers:
            logger.removeHandler(caplog.handler)
    assert "Compute Failed" in caplog.text, "distributed's log was not seen"
    _check(caplog.text)
