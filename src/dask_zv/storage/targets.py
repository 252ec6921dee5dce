"""From what a user passes as `target` to a store handle.

A target is a path, a URL, a ``pathlib.Path``, a zarr ``Store`` or ``StorePath``, an fsspec mapper, a dict, or an Icechunk
session. URLs are served by obstore where it is installed and speaks the scheme, else by fsspec. Options are in fsspec's
dialect (``key``, ``secret``, ``token``, ``endpoint_url``, ``anon``, ``client_kwargs``); obstore's own names pass through.
"""

from __future__ import annotations

import importlib.util
import os
import weakref
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, StorePath, WrapperStore, ZipStore

from dask_zv.errors import InputError, StoreError, has_control
from dask_zv.format.keys import join
from dask_zv.storage.handles import ICECHUNK_SESSION, StoreHandle, handle_for_store, handle_for_url, public_url, secrets_in
from dask_zv.storage.local import LocalObjects
from dask_zv.storage.objects import Objects
from dask_zv.storage.signing import check_signed
from dask_zv.storage.zarr_objects import ZarrObjects
from dask_zv.storage.zarr_reads import ZarrReads, ZipReads

_OBSTORE_SCHEMES = {"s3", "s3a", "gs", "az", "abfs", "abfss", "http", "https"}
_S3_NAMES = {
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
    "endpoint_url": "endpoint",
    "region_name": "region",
}
_CLIENT_OPTIONS = {"connect_timeout": "10s", "timeout": "120s"}
_RETRIES = {"max_retries": 10, "retry_timeout": timedelta(seconds=180)}
"""What requests through obstore may take where the caller says nothing: a server that never answers is given up after four
minutes, and one stuck request of a healthy server is made again after two. ``timeout`` counts from the connection to the
last byte of one request, so it must leave time for a whole shard on a slow link."""
_CLIENT_NAMES = {
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "timeout",
    "read_timeout",
    "proxy_url",
    "user_agent",
}
_NO_OPTIONS: Mapping[str, Any] = {}
_MEMORY: dict[str, FsspecStore] = {}
"""The stores of memory:// URLs: fsspec keeps their objects for the life of the process, so they are kept too."""


def resolve_target(
    target: object, storage_options: Mapping[str, Any] | None = None, *, read_only: bool = False
) -> tuple[StoreHandle, str]:
    """Return the handle of a target's store and the path inside that store.

    `storage_options`: options of a URL, beside those of a UPath; `read_only`: never write through this handle.
    """
    options = dict(storage_options or _NO_OPTIONS)
    if all(hasattr(target, name) for name in ("protocol", "storage_options", "path", "joinpath")):  # a UPath
        path: Any = target
        return _resolve_upath(path, {**path.storage_options, **options}, read_only), ""
    if isinstance(target, str | Path):
        return _resolve_path(str(target), options, read_only), ""
    if options:
        raise InputError(f"storage_options belong to a URL; a {type(target).__name__} has its own")
    if isinstance(target, StorePath):
        return _resolve_store(target.store, read_only), target.path
    if isinstance(target, zarr.Group):
        return _resolve_store(target.store_path.store, read_only), target.store_path.path
    if isinstance(target, Store):
        return _resolve_store(target, read_only), ""
    if isinstance(target, dict):
        return _resolve_store(_dict_store(target), read_only), ""
    if _is_mapper(target):
        return _resolve_mapper(target, read_only)
    if hasattr(target, "store") and isinstance(target.store, Store):  # an Icechunk session
        return _resolve_store(target.store, read_only), ""
    raise InputError(
        f"a {type(target).__name__} is not a supported target: pass a path, a URL, a zarr Store or StorePath, an fsspec "
        "mapper, a dict, or an Icechunk session"
    )


# ---------------------------------------------------------------------------------------------- paths and URLs


def _resolve_path(text: str, options: dict[str, Any], read_only: bool) -> StoreHandle:
    if not text:
        raise InputError("the target is an empty string")
    scheme, found, _ = text.partition("://")
    if not found:
        return _resolve_local(Path(text).expanduser(), options, read_only)
    if scheme == "file":
        host, _, rest = text.partition("://")[2].partition("/")  # "#" and "?" are characters as any, to fsspec as well
        if host not in ("", "localhost"):
            host = host.rpartition("@")[2]
            raise StoreError(f"'file://{host}/…' names the host {host!r}: a local URL is file:///absolute/path")
        return _resolve_local(_path_of_url(f"/{rest}"), options, read_only)
    _check_key(scheme, text)
    url = f"{scheme}://{text.partition('://')[2].rstrip('/')}"
    if scheme == "memory":
        if url not in _MEMORY:
            _MEMORY[url] = _open_fsspec_store(url, options, False)
        return _resolve_store(_MEMORY[url], read_only)
    import fsspec

    known = {*fsspec.available_protocols(), *fsspec.registry}
    if scheme in _OBSTORE_SCHEMES and importlib.util.find_spec("obstore") is not None:
        return handle_for_url(url, options, _open_obstore, read_only=read_only or scheme in ("http", "https"))
    if scheme not in known:
        raise StoreError(
            f"unknown scheme {scheme!r} in '{public_url(text)}': file, memory, s3, gs, az, http(s) and fsspec's protocols work"
        )
    _require_fsspec(scheme, text)
    return handle_for_url(url, options, _open_fsspec, read_only=read_only)


def _path_of_url(text: str) -> Path:
    """Return the path in a ``file`` URL; bytes that are no UTF-8 are those of the file's name, as :mod:`os` holds them."""
    return Path(unquote(text, errors="surrogateescape"))


def _check_key(scheme: str, text: str) -> None:
    """Raise :class:`InputError` where libraries would take a URL for another key than the one that is meant."""
    key = text.partition("://")[2]
    start, mark, _ = key.partition("?")
    shown = public_url(f"{scheme}://{start}")
    if has_control(key):
        raise InputError(f"'{shown}' has control characters, which keys of a store must not have")
    if scheme in ("http", "https"):
        if "#" in key:
            raise InputError(f"'{shown}' has a '#', which is not sent to a server: write it as %23 if the name contains it")
        if mark and importlib.util.find_spec("obstore") is None:
            raise InputError(f"'{shown}?…' has a query, which fsspec would put before the names of objects: install obstore")
    elif mark and scheme in _OBSTORE_SCHEMES:
        raise InputError(
            f"'{shown}?…' has a '?', which some libraries take as part of the key and others as the start of a query: pass "
            "credentials in storage_options, and use a key without '?'"
        )


def _resolve_upath(path: Any, options: dict[str, Any], read_only: bool) -> StoreHandle:
    if path.protocol in ("", "file", "local"):
        options.pop("auto_mkdir", None)  # of fsspec's own; folders are made here, too
        return _resolve_local(Path(path.path), options, read_only)
    return _resolve_path(str(path), options, read_only)


def _require_fsspec(scheme: str, text: str) -> None:
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise StoreError(
            f"'{public_url(text)}' needs a package that is not installed ({error}): pip install 'dask-zv[cloud]', or the "
            f"fsspec implementation of {scheme!r}"
        ) from error


def _resolve_local(path: Path, options: dict[str, Any], read_only: bool) -> StoreHandle:
    unknown = set(options) - {"fsync"}
    if unknown:
        raise InputError(f"a local path takes only the option 'fsync', not {sorted(unknown)}")
    path = path.absolute()
    try:
        if b"\0" in os.fsencode(path):
            raise ValueError("it has a NUL")
        is_file = path.is_file()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{str(path)!r:.200} is no path: {why}") from None
    if is_file:
        if path.suffix != ".zip":
            table = "a table is read by pandas or dask.dataframe, and written by dzv.write_points"
            raise StoreError(f"'{path}' is a file, not a store: give the store's directory (or a .zip of one); {table}")
        return handle_for_url(path.as_uri(), {}, _open_zip, read_only=True)
    if not read_only and path.suffix == ".zip" and not path.exists():
        raise InputError(f"'{path}': a zip file is opened for reading only; write to a directory, and zip that")
    return handle_for_url(path.as_uri(), options, _open_local, read_only=read_only)


def _open_local(url: str, options: Mapping[str, Any], read_only: bool) -> Objects:
    return LocalObjects(_path_of_url(urlsplit(url).path), read_only=read_only, **options)


def _open_zip(url: str, options: Mapping[str, Any], read_only: bool) -> Objects:
    import zipfile

    path = _path_of_url(urlsplit(url).path)
    try:
        store = sync(ZipStore.open(path, mode="r", read_only=True))
        read = ZipReads(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise StoreError(f"'{path}' is not a readable zip file: {error}") from error
    return ZarrObjects(ZarrReads(store, read), url)


def _open_fsspec(url: str, options: Mapping[str, Any], read_only: bool) -> Objects:
    return ZarrObjects(_open_fsspec_store(url, options, read_only), public_url(url), secrets=_secrets(url, options))


def _open_fsspec_store(url: str, options: Mapping[str, Any], read_only: bool) -> FsspecStore:
    check_signed(url, options, files=True)
    settings = {"use_listings_cache": False, **options}  # it would hide what other processes wrote
    try:
        return FsspecStore.from_url(url, storage_options=settings, read_only=read_only)
    except (TypeError, ValueError, ImportError, OSError) as error:
        failure = _not_opened(url, options, error)
    raise failure  # out here: the error there may quote secrets, and would travel along as the context of this one


def _open_obstore(url: str, options: Mapping[str, Any], read_only: bool) -> Objects:
    check_signed(url, options)
    store = ObjectStore(_obstore_from_url(url, options), read_only=read_only)
    return ZarrObjects(store, public_url(url), secrets=_secrets(url, options))


def _obstore_from_url(url: str, options: Mapping[str, Any]) -> Any:
    import obstore.store
    from obstore.exceptions import BaseError

    scheme, _, place = url.partition("://")
    if scheme not in ("http", "https"):
        host, slash, key = place.partition("/")
        url = f"{scheme}://{host}{slash}{quote(key)}"  # it unquotes keys, and ends them at "#"; to fsspec they are plain text
    try:
        return obstore.store.from_url(url, **_translate(scheme, options))
    except (BaseError, TypeError, ValueError, OSError) as error:
        failure = _not_opened(url, options, error)
    raise failure  # as in _open_fsspec_store


def _secrets(url: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    user, _, password = urlsplit(url).netloc.rpartition("@")[0].partition(":")
    return (*secrets_in(options), *(s for s in (user, password, urlsplit(url).query) if s))


def _not_opened(url: str, options: Mapping[str, Any], error: Exception) -> StoreError:
    text = f"'{public_url(url)}' can't be opened with the options {sorted(options)}: {type(error).__name__}: {error}"
    for secret in _secrets(url, options):
        text = text.replace(secret, "***")
    return StoreError(" ".join(text.split())[:600])


def _translate(scheme: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return fsspec's options by obstore's names; names that are not fsspec's pass through."""
    flat = {k: v for k, v in options.items() if k != "client_kwargs"} | dict(options.get("client_kwargs") or {})
    # as client options: the same as plain keywords make a store that does not pickle
    client = {k: flat.pop(k) for k in _CLIENT_NAMES & flat.keys()}
    client = {**_CLIENT_OPTIONS, **client, **dict(flat.pop("client_options", None) or {})}
    out = {"retry_config": _RETRIES, **flat}
    if scheme == "http":
        client.setdefault("allow_http", True)
    if scheme not in ("http", "https") and "anon" in out:
        out["skip_signature"] = out.pop("anon")
    if scheme in ("s3", "s3a"):
        out = {_S3_NAMES.get(k, k): v for k, v in out.items()}
        if str(out.get("endpoint", "")).startswith("http://"):
            client.setdefault("allow_http", True)
        if "endpoint" in out:
            out.setdefault("region", "us-east-1")
    return {**out, "client_options": client}


# ---------------------------------------------------------------------------------------------- stores


_DICTS: weakref.WeakValueDictionary[int, MemoryStore] = weakref.WeakValueDictionary()
"""The stores of dicts by the dict's id: a store holds its dict, so an id can't be another dict's while its store lives."""


def _dict_store(mapping: dict[Any, Any]) -> MemoryStore:
    """Return one MemoryStore per dict, so that two opens of the dict are one store."""
    store = _DICTS.get(id(mapping))
    if store is None:
        store = _DICTS[id(mapping)] = MemoryStore(mapping)
    return store


def _resolve_store(store: Store, read_only: bool) -> StoreHandle:
    read_only = read_only or store.read_only
    if type(store) is LocalStore:
        return _resolve_local(Path(store.root), {}, read_only)
    if isinstance(store, ZipStore):
        if not store.read_only:
            raise StoreError("a writable ZipStore is not supported: write to a directory and zip that")
        if store.path is None:
            raise StoreError("a ZipStore over an open file is not supported: pass the path of the archive")
        return handle_for_url(Path(store.path).absolute().as_uri(), {}, _open_zip, read_only=True)
    return handle_for_store(store, _describe(store), one_process=_one_process(store), read_only=read_only)


def _one_process(store: Store) -> str | None:
    """Return why only this process may use `store`, or None if its pickle opens the same store."""
    if isinstance(store, WrapperStore):
        return _one_process(store._store)
    if isinstance(store, MemoryStore):
        return "a MemoryStore"
    if isinstance(store, FsspecStore):
        return "memory://" if "memory" in _protocols(store.fs) else None
    if isinstance(store, ObjectStore):
        return "obstore's MemoryStore" if type(store.store).__name__ == "MemoryStore" else None
    if type(store).__name__ == "IcechunkStore":
        return None if store.read_only else ICECHUNK_SESSION
    return None


def _protocols(fs: Any) -> tuple[str, ...]:
    """Return the names of an fsspec file system, those of the one that an asynchronous wrapper serves."""
    names = getattr(fs, "sync_fs", fs).protocol
    return (names,) if isinstance(names, str) else tuple(names)


def _describe(store: Store) -> str:
    if isinstance(store, WrapperStore):
        return _describe(store._store)
    if isinstance(store, FsspecStore):
        return f"{_protocols(store.fs)[0]}://{store.path.lstrip('/')}"
    if isinstance(store, MemoryStore):
        return f"memory:{id(store._store_dict):x}"
    if isinstance(store, ObjectStore):
        inner_store = store.store
        name = type(inner_store).__name__
        bucket = dict(getattr(inner_store, "config", None) or {}).get("bucket")
        prefix = getattr(inner_store, "prefix", None)
        return f"{name}({join(str(bucket or ''), str(prefix or ''))})"
    return f"{type(store).__name__}"


def _is_mapper(target: object) -> bool:
    """Return True for a mapper of fsspec's."""
    import fsspec

    return isinstance(target, fsspec.FSMap)


def _resolve_mapper(mapper: Any, read_only: bool) -> tuple[StoreHandle, str]:
    if "file" in _protocols(mapper.fs):
        return _resolve_local(Path(mapper.root), {}, read_only), ""
    return _resolve_store(FsspecStore.from_mapper(mapper, read_only=read_only), read_only), ""
