"""No name that a store holds leads out of it: nothing beside the store is read, listed, written or removed, whatever is done.

Every place where a document holds a string (or a key) gets a hostile one, and the catalog and the shards get them with checksums
that fit. What Python opens, lists, makes, moves and removes is watched, and what lies beside the store is compared afterwards.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from fuzz_base import join_payload, split_payload
from fuzz_corpus import HOSTILE_NAMES
from fuzz_stores import files_of, write_small_store
from refusals import fails
from zarr.buffer import cpu

import dask_zv as dzv
from dask_zv.config import override
from dask_zv.errors import InvalidNameError, ZVError
from dask_zv.format.keys import check_name
from dask_zv.storage.handles import open_objects
from dask_zv.storage.targets import resolve_target

_EVENTS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink",
           "os.utime", "os.truncate", "os.chmod", "shutil.rmtree", "shutil.copyfile", "shutil.move"}  # fmt: skip
_watching: list[list[str]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in _EVENTS:
        _watching[-1].extend(os.fsdecode(a) for a in arguments[:2] if isinstance(a, str | bytes | os.PathLike))


sys.addaudithook(_hook)


class Site:
    """A store in a directory, with things beside it that nobody is to touch."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root = base / "deep" / "er" / "store.zv"
        self.target = base / "deep" / "er" / "target.zv"
        for folder in (base, base / "deep", base / "deep" / "er"):
            for name in (
                "sentinel",
                "zarr.json",
                "outside/zarr.json",
                "outside/c/0",
                "outside/c/0/0/0",
                "outside/vertices/zarr.json",
            ):
                path = folder / name
                if not path.parent.is_file() and not path.parent.parent.is_file():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if not path.is_dir():
                        path.write_bytes(b'{"zarr_format":3,"node_type":"group","attributes":{"dtype":"do not read"}}')
        self.before = self.beside()

    def beside(self) -> dict[str, tuple[bytes, int]]:
        """Return content and time of change of every file beside the store and the target."""
        out: dict[str, tuple[bytes, int]] = {}
        for folder, folders, names in os.walk(self.base):
            folders[:] = [f for f in folders if f not in (self.root.name, self.target.name)]
            for path in (Path(folder, n) for n in names):
                out[str(path)] = path.read_bytes(), path.stat().st_mtime_ns
        return out

    def put(self, files: dict[str, bytes]) -> None:
        """Make the store anew."""
        for root in (self.root, self.target):
            _remove(root)
        for path, data in files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(data)

    def watch(self, action: Callable[[], object]) -> bool:
        """Do something; raise where it strays, or fails otherwise than by a ZVError. Tell whether it succeeded."""
        seen: list[str] = []
        told = ""
        _watching.append(seen)
        try:
            action()
            done = True
        except ZVError as error:
            done, told = False, str(error)
        finally:
            _watching.pop()
        assert "do not read" not in told
        own = [os.path.normpath(self.root), os.path.normpath(self.target)]
        for path in seen:
            where = os.path.normpath(path)
            stray = where.startswith(str(self.base)) and not any(where == o or where.startswith(o + "/") for o in own)
            # the groups that the store may lie in may have consolidated metadata that a change makes untrue
            above = [str(self.root.parent), *(str(p / "zarr.json") for p in self.root.parents)]
            assert not stray or where in above, f"{path!r} was touched"
            assert not where.startswith("/etc"), f"{path!r} was touched"
        assert self.beside() == self.before, "something beside the store was changed"
        return done


def _remove(root: Path) -> None:
    if root.is_dir():
        for path in sorted(root.rglob("*"), key=lambda p: -len(p.parts)):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        root.rmdir()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    out = {}
    for kind, layout, shards in (("graph", "grid", 8), ("skeleton", "grid", 1), ("polyline", "per_chunk", 8)):
        root = tmp_path_factory.mktemp("whole") / "s.zv"
        write_small_store(root, kind, layout, shards)
        out[f"{kind}-{layout}"] = files_of(root)
    return out


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with dask.config.set(scheduler="sync"), override(reread_wait=0):
        yield Site(tmp_path)


def read(site: Site) -> None:
    store = dzv.open(site.root)
    level = store.level(0)
    level.read()
    if level._contents.source.schema.has_objects:
        level.read(objects=level._contents.index.ids[:1].tolist())
    repr(store)
    store._repr_html_()
    with xr.open_dataset(site.root, engine="zv") as ds:
        ds.load()


def refresh(site: Site) -> None:
    dzv.open(site.root, "r+").refresh()


def overwrite(site: Site, **more: Any) -> None:
    store = dzv.open(site.root, "r+")
    positions = np.array([[1.0, 2, 3], [4, 5, 6], [30, 31, 32]], np.float32)
    if store.level(0).kind == "graph":
        dzv.write_graph(store, positions, edges=[[0, 1], [1, 2]], mode="overwrite", out_of_bounds="expand", **more)
    elif store.level(0).kind == "skeleton":
        dzv.write_skeletons(store, positions, parents=[-1, 0, 1], mode="overwrite", out_of_bounds="expand", **more)
    else:
        dzv.write_polylines(store, positions, lengths=[3], mode="overwrite", out_of_bounds="expand", **more)


def resume(site: Site) -> None:
    overwrite(site, resume=True)


def convert(site: Site) -> None:
    dzv.convert(site.root, site.target)


def expand(site: Site) -> None:
    dzv.open(site.root, "r+").expand(([-500.0] * 3, [500.0] * 3))


def remove_all(site: Site) -> None:
    dzv.create(site.root, chunk_shape=(10.0,) * 3, overwrite=True)


WRITES = (refresh, overwrite, resume, convert, expand, remove_all)


def _names(site: Site) -> list[str]:
    """Return hostile names, those first that would meet a sentinel."""
    near = ["../outside", "../../outside", "../../../outside", str(site.base / "outside"), "vertices/../../../outside"]
    return [*near, *HOSTILE_NAMES]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], bool]]:
    """Yield (path, whether its key is meant) of all strings and keys in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if isinstance(key, str) and key not in ("zarr_format", "node_type"):
            yield (*path, key), True
        if isinstance(item, str):
            yield (*path, key), False
        yield from _places(item, (*path, key))


def _renamed(document: Any, path: tuple[Any, ...], is_key: bool, name: str) -> Any:
    out = copy.deepcopy(document)
    holder = out
    for key in path[:-1]:
        holder = holder[key]
    if is_key:
        holder[name] = holder.pop(path[-1])
    else:
        holder[path[-1]] = name
    return out


def _documents(files: dict[str, bytes], site: Site, *, each: bool) -> list[dict[str, bytes]]:
    """Return the changes of a store that put a hostile name into one place of a document.

    One array of links is like the next, and what Zarr says of an array (its codecs, its grid) is read by the same code for all. With
    `each`, our attributes are tried in the document of each kind of array, else at each depth of the store.
    """
    out: list[dict[str, bytes]] = []
    names = _names(site)
    seen: set[Any] = set()
    for path, data in files.items():
        if not path.endswith("zarr.json"):
            continue
        document = json.loads(data)
        for place, is_key in _places(document):
            of = (
                path.split("/")[1:2]
                if each and place[0] == "attributes"
                else path.count("/")
                if place[0] == "attributes"
                else None
            )
            kind = (of, [k for k in place if isinstance(k, str)][-2:], is_key)
            if str(kind) in seen:
                continue
            seen.add(str(kind))
            changed = _renamed(document, place, is_key, names[len(out) % len(names)])
            out.append({path: json.dumps(changed).encode()})
    return out


@pytest.mark.parametrize("name", ["graph-grid", "skeleton-grid", "polyline-per_chunk"])
def test_what_is_done_succeeds_where_nothing_is_hostile(stores, site, name):
    for action in (read, *WRITES):
        site.put(stores[name])
        assert site.watch(lambda action=action: action(site)), action


@pytest.mark.parametrize("name", ["graph-grid", "polyline-per_chunk"])
def test_reading_stays_inside_whatever_documents_say(stores, site, name):
    files = stores[name]
    site.put(files)
    assert site.watch(lambda: read(site))
    changes = _documents(files, site, each=True)
    assert len(changes) > 60
    for change in changes:
        for path, data in change.items():
            (site.root / path).write_bytes(data)
        site.watch(lambda: read(site))
        for path in change:
            (site.root / path).write_bytes(files[path])


@pytest.mark.parametrize("name", ["graph-grid", "polyline-per_chunk"])
def test_writing_stays_inside_whatever_documents_say(stores, site, name):
    files = stores[name]
    changes = _documents(files, site, each=False)  # a write is costly, and takes the documents of all arrays for alike
    assert len(changes) > 40
    for i, change in enumerate(changes):
        action = WRITES[i % len(WRITES)]
        site.put({**files, **change})
        site.watch(lambda action=action: action(site))


def _catalogs(payload: bytes, names: list[str]) -> list[bytes]:
    """Return catalogs with a hostile name in the place of an array's, and beside all others; checksums fit."""
    magic, header, columns = split_payload(payload)
    out = []
    for i, name in enumerate(names):
        changed = json.loads(header)
        arrays = ("vertices", "vertex_attributes/mass", "vertex_fragments", name)
        was = arrays[i % len(arrays)]
        place = ("{}", "vertex_attributes/{}", "links/0/{}", "link_attributes/{}/0/self", "{}/vertices")[i % 5].format(name)
        more = [{**c, "name": c["name"].replace(f":{was}", f":{place}")} for c in changed["columns"]]
        changed["columns"] = more
        nodes = changed["nodes"]
        if was in nodes:
            nodes[place] = nodes.pop(was)
        else:
            nodes[place] = nodes["vertices"]
        out.append(join_payload((magic, json.dumps(changed).encode("utf-8", "surrogatepass"), columns)))
    return out


@pytest.mark.parametrize("action", [read, *WRITES])
def test_names_in_the_catalog_stay_inside(stores, site, action):
    files = stores["skeleton-grid"]
    key = "0/dask_zv_catalog/c/0"
    names = _names(site)
    for name, payload in zip(names, _catalogs(files[key], names), strict=True):
        site.put({**files, key: payload})
        done = site.watch(lambda: action(site))
        assert action is not read or not done or _is_name(name), "a catalog that names what is no array was believed"


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except InvalidNameError:
        return False
    return True


@pytest.mark.parametrize("action", [read, refresh, overwrite, convert])
def test_names_in_shards_stay_inside(stores, site, action):
    files = stores["polyline-per_chunk"]
    path = next(p for p in files if "/vertices/__shard" in p and p.endswith("zarr.json"))
    document = json.loads(files[path])
    names = _names(site)
    for name in names:
        changed = copy.deepcopy(document)
        for attribute in ("shard_index", "shard_crc32c"):
            entries = changed["attributes"][attribute]
            entries[name] = entries.pop(min(entries))
        site.put({**files, path: json.dumps(changed).encode()})
        site.watch(lambda: action(site))


def test_a_store_in_memory_with_hostile_keys_is_not_unpacked_beside_its_copy(stores, site):
    for name in _names(site):
        files = dict(stores["polyline-per_chunk"])
        attribute = "0/vertex_attributes/mass/"
        files |= {k.replace("/mass/", f"/{name}/"): v for k, v in files.items() if k.startswith(attribute)}
        files |= {f"{name}/zarr.json": files["0/object_index/zarr.json"], f"0/{name}/zarr.json": files["0/groups/zarr.json"]}
        files |= {f"0/{name}/data/c/0": b"x", f"{name}/c/0": b"y"}
        target = {k: cpu.Buffer.from_bytes(v) for k, v in files.items()}
        site.put({})
        site.watch(lambda target=target: dzv.convert(target, site.target))
        site.watch(lambda target=target: dzv.open(target).level(0).read())


def test_receipts_stay_inside(stores, site):
    """A journal is believed by who resumes: what its receipts name is looked up in the store."""
    positions = np.random.default_rng(0).uniform(-30, 30, (40, 3)).astype(np.float32)
    store = dzv.create(site.root, chunk_shape=(10.0,) * 3)
    plan = dzv.plan_points(store, positions)
    receipt = plan.run(0)
    saved = site.root / "receipt"
    receipt.save(saved)
    parts = split_payload(saved.read_bytes())
    for name in _names(site):
        header = parts[1].replace(b'"vertices"', json.dumps(name).encode())
        assert header != parts[1]
        saved.write_bytes(join_payload((parts[0], header, parts[2])))
        done = site.watch(lambda: plan.commit([saved]))
        assert not done, "what the receipt tells of is not in the store"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "..", "/x", "a\0b", "\ud800", "..\\x"])
def test_no_key_of_the_objects_leads_out(tmp_path, name):
    """The last check, for names that nobody thought of."""
    for target in (tmp_path / "s", {}):
        objects = open_objects(resolve_target(target)[0])
        for call in (
            lambda objects=objects: objects.get(name),
            lambda objects=objects: objects.get_many([(name, None)]),
            lambda objects=objects: objects.put(name, b"x"),
            lambda objects=objects: objects.put_many([[(name, b"x")]]),
            lambda objects=objects: objects.put_all([(name, b"x")]),
            lambda objects=objects: objects.put_if_absent(name, b"x"),
            lambda objects=objects: objects.delete(name),
            lambda objects=objects: objects.delete_many([name]),
            lambda objects=objects: objects.delete_prefix(name),
            lambda objects=objects: objects.exists(name),
            lambda objects=objects: objects.list_dir(name),
            lambda objects=objects: list(objects.list_prefix(name)),
            lambda objects=objects: objects.stamps([name]),
            lambda objects=objects: objects.identities([name]),
        ):
            fails(InvalidNameError, None, call)
    assert not (tmp_path / "x").exists()


def test_links_of_the_file_system_are_not_followed_by_what_removes(stores, site):
    """A link to a directory beside the store is removed with the store; what it leads to stays."""
    site.put(stores["skeleton-grid"])
    (site.root / "0" / "linked").symlink_to(site.base / "outside")
    (site.root / "more").symlink_to(site.base / "outside")
    dzv.create(site.root, chunk_shape=(10.0,) * 3, overwrite=True)
    assert site.beside() == site.before
    assert not list(site.root.rglob("linked")) + list(site.root.rglob("more"))


@pytest.mark.parametrize("what", ["0", "0/vertices", "0/dask_zv_catalog", "0/vertices/c"])
@pytest.mark.parametrize("action", WRITES)
def test_nothing_is_written_or_removed_through_links_that_lead_out(stores, site, what, action):
    """Whoever packed the store has put a link to a folder of ours in the place of one of its own."""
    site.put(stores["skeleton-grid"])
    elsewhere = site.base / "outside" / "moved"
    (site.root / what).rename(elsewhere)
    (site.root / what).symlink_to(elsewhere)
    site.before = site.beside()
    _removes_or_tells(site, action)
    assert site.beside() == site.before
    assert elsewhere.is_dir()


def _removes_or_tells(site: Site, action: Callable[[Site], object]) -> None:
    """Reading follows links, so what is opened is not watched; an action may end well where it doesn't write there."""
    told = "link"
    try:
        action(site)
    except ZVError as error:
        told = str(error)
    assert "link" in told


def test_links_within_a_store_and_to_it_are_written_through(stores, site):
    site.put(stores["skeleton-grid"])
    (site.root / "real").mkdir()
    (site.root / "0/vertices").rename(site.root / "real/vertices")
    (site.root / "0/vertices").symlink_to(site.root / "real/vertices")
    link = site.root.with_name("linked.zv")
    link.symlink_to(site.root)
    positions = np.array([[1.0, 2, 3], [4, 5, 6], [30, 31, 32]], np.float32)
    dzv.write_skeletons(dzv.open(link, "r+"), positions, parents=[-1, 0, 1], mode="overwrite", out_of_bounds="expand")
    assert (site.root / "0/vertices").is_symlink()
    assert np.array_equal(np.sort(dzv.open(site.root).level(0).read().positions, axis=0), positions)


def _zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.encode("utf-8", "replace").decode(), data)
    return path


def test_members_of_a_zip_file_stay_inside(stores, site):
    """Members are read where they lie: names that lead out of the archive name nothing, here and in a copy of it."""
    whole = stores["polyline-per_chunk"]
    place = site.root.with_name(site.target.name)  # a folder of ours, so that the archive itself is not beside the store
    for name in (n for n in _names(site) if n and len(n) < 300 and "\0" not in n):
        site.put({})
        archive = _zipped(site.base / "deep" / "er" / "store.zip", {
            **whole, f"../{name}": b"x", f"{name}/zarr.json": whole["0/groups/zarr.json"], f"0/{name}/c/0": b"y",
            f"0/{name}/zarr.json": whole["0/groups/zarr.json"], "/outside/c/0": b"z", f"0/vertices/{name}": b"w",
        })  # fmt: skip
        site.before = site.beside()
        for action in (lambda a=archive: dzv.open(a).level(0).read(), lambda a=archive: dzv.convert(a, place)):
            _only_inside(site, action)
        archive.unlink()


def _only_inside(site: Site, action: Callable[[], object]) -> None:
    told = ""
    try:
        action()
    except ZVError as error:
        told = str(error)
    assert "do not read" not in told
    assert site.beside() == site.before, "something beside the store was changed"
