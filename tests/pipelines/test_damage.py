"""A store of layout per_chunk that lost or broke something says so, or reads as if nothing were: never fewer points or zeros."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
from points_reference import CATALOG, files

import dask_zv as dzv
from dask_zv.storage import per_chunk

N = 240
CHUNK = (20.0, 20.0, 20.0)
VICTIM = "0.-1.0"


@pytest.fixture(autouse=True, scope="module")
def _sync():
    """Readers wait for a writer that may be replacing what they found broken; here there is none."""
    with dask.config.set(scheduler="sync"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(per_chunk, "wait_before_retry", lambda attempt: None)
        yield


def write(target, *, shards, objects):
    rng = np.random.default_rng(0)
    attributes = {
        "mass": rng.normal(size=N) + 10,
        "rgb": rng.integers(1, 255, (N, 3), dtype=np.uint8),
        "kind": np.array(["soma", None, "axon"], object)[rng.integers(0, 3, N)],
    }
    more = {}
    if objects:
        ids = rng.permutation(np.arange(N) % 13)
        scores = pd.DataFrame({"score": [0.5, 1.5, 2.5]}, index=[1, 5, 9])
        more = {"object_ids": ids, "object_attributes": scores, "groups": {0: [1, 2], 1: [12]}}
    store = dzv.create(target, chunk_shape=CHUNK, shard_chunks=shards, layout="per_chunk")
    dzv.write_points(store, rng.uniform(-20, 20, (N, 3)), attributes=attributes, **more)


@dataclass
class Whole:
    """A store, and all that reading it gives."""

    path: Path
    answers: dict = field(default_factory=dict)

    def __post_init__(self):
        self.names = sorted(files(self.path))
        self.answers = {q: ask() for q, ask in questions(self.path).items()}


def answer(geometry):
    """Return everything of a geometry as comparable values."""
    out = {
        "positions": geometry.positions.tobytes(),
        "ids": None if geometry.object_ids is None else geometry.object_ids.tolist(),
    }
    out |= {k: (str(v.dtype), v.tolist()) for k, v in geometry.attributes.items()}
    out |= {f"object {k}": (v.tolist(), np.ma.getmaskarray(v).tolist()) for k, v in geometry.object_attributes.items()}
    out["groups"] = {g: m.tolist() for g, m in geometry.groups.items()}
    return out


def questions(path):
    """Return ways to read a store, each from its opening on."""

    def level():
        return dzv.open(path).level(0)

    def boxed():
        return answer(level().read(bbox=([-5, -15, -18], [12, 3, 11])))

    def column():
        return answer(level().read(attributes=["mass"]))

    def by_object():
        return answer(level().read(order="object")) if level().source.schema.has_objects else "no objects"

    def some():
        return answer(level().read(objects=[1, 5])) if level().source.schema.has_objects else "no objects"

    def table():
        return dict(zip(level().chunks.keys, level().chunks.rows.tolist(), strict=True))

    return {
        "all": lambda: answer(level().read()),
        "box": boxed,
        "column": column,
        "by object": by_object,
        "some objects": some,
        "table": table,
    }


@pytest.fixture(scope="module", params=["chunks", "chunks and objects", "shards", "shards and objects"])
def whole(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "s.zv"
    write(path, shards=3 if "shards" in request.param else 1, objects="objects" in request.param)
    return Whole(path)


@pytest.fixture
def copy(whole, tmp_path):
    """Return a function that makes a fresh copy of the store."""
    number = iter(range(10**6))

    def make(*, catalog=True):
        target = tmp_path / f"{next(number)}.zv"
        shutil.copytree(whole.path, target)
        if not catalog:
            shutil.rmtree(target / "0" / CATALOG)
        return target

    return make


def check(path, whole, *, allowed=()):
    """Ask everything: the answer is right, or an error of ours that names a place; return how many errors there were."""
    errors = {}
    for question, ask in questions(path).items():
        try:
            found = ask()
        except dzv.ZVError as error:
            errors[question] = error
            continue
        if found != whole.answers[question] and question not in allowed:
            wrong = [k for k in whole.answers[question] if found.get(k) != whole.answers[question][k]]
            pytest.fail(f"{question!r} gave a wrong answer without an error: {wrong}")
    return errors


def objects_of(whole, catalog):
    """Return one object of each kind: of three chunks or shards, and all documents and objects that are shared."""
    chunk_names = ("0.-1.0", "-1.0.0", "__shard_")
    out = []
    seen = set()
    for name in whole.names:
        if not catalog and CATALOG in name:
            continue
        parts = name.split("/")
        chunk = next((p for p in parts if p.startswith(("-", "__shard_")) or (p[:1].isdigit() and "." in p)), None)
        if chunk is not None:
            if not chunk.startswith(chunk_names):
                continue
            if chunk.startswith("__shard_"):
                kind = name.replace(chunk, "shard")
                if kind in seen:
                    continue
                seen.add(kind)
        out.append(name)
    return out


def damages(data):
    """Yield (what, bytes): None where the object is gone."""
    yield "deleted", None
    yield "emptied", b""
    yield "cut in half", data[: len(data) // 2]
    yield "one byte short", data[:-1]
    yield "one byte long", data + b"\0"
    yield "zeroed", bytes(len(data))


@pytest.mark.parametrize("catalog", [True, False], ids=["catalog", "no catalog"])
def test_every_object(catalog, whole, copy):
    """Each kind of object deleted, cut, lengthened or zeroed, one after the other."""
    path = copy(catalog=catalog)
    tried = noticed = 0
    for name in objects_of(whole, catalog):
        place = path / name
        data = place.read_bytes()
        document = name.endswith("zarr.json")
        for what, broken in damages(data):
            if broken == data:
                continue
            if what == "zeroed" and not document and undetectable(name, catalog=catalog):
                continue
            if what == "one byte long" and document:
                broken = data + b"}"
            if what == "deleted" and not catalog and forgotten(name, whole):
                continue
            if broken is None:
                place.unlink()
            else:
                place.write_bytes(broken)
            try:
                errors = check(path, whole)
            except pytest.fail.Exception as failure:
                pytest.fail(f"{name} {what}: {failure}")
            finally:
                place.write_bytes(data)
            tried += 1
            noticed += bool(errors)
            if VICTIM in name and not document and what in ("deleted", "emptied", "cut in half") and "mass" in name:
                assert errors["all"].chunk == VICTIM
                assert VICTIM in str(errors["all"])
                assert "mass" in str(errors["all"])
    assert tried > 50
    assert noticed > tried // 2
    assert check(path, whole) == {}


def undetectable(name, *, catalog):
    """Tell where other bytes of the same length are another tool's edit for all that the format says.

    A blob of its own has no checksum beside it; the catalog's tells that it changed, not by whom.
    """
    parts = name.split("/")
    return parts[1] in ("vertices", "vertex_attributes", "object_attributes", "groups") and not any(
        p.startswith("__shard_") for p in parts
    )


def forgotten(name, whole):
    """Tell what only a catalog knows to have existed: a chunk that is gone from every array, or a whole array's document."""
    return name in (
        "0/object_index/zarr.json",  # without it, the level is one without objects
    )


@pytest.mark.parametrize("catalog", [True, False], ids=["catalog", "no catalog"])
def test_a_chunk_without_a_sibling(catalog, whole, copy):
    """The whole array of one blob, or of all blobs, is gone."""
    shards = any("__shard_" in n for n in whole.names)
    for array in ("vertices", "vertex_fragments", "vertex_attributes/mass", "vertex_attributes/kind"):
        path = copy(catalog=catalog)
        below = path / "0" / array
        shutil.rmtree(below / VICTIM if not shards else next(below.glob("__shard_*")))
        errors = check(path, whole)
        assert "all" in errors
        if not shards:
            assert errors["all"].chunk == VICTIM
        path = copy(catalog=catalog)
        shutil.rmtree(path / "0" / array)
        if catalog or array == "vertices":
            assert "all" in check(path, whole)


def test_a_chunk_that_is_gone_from_all_arrays(whole, copy):
    """Nothing in the format says that it ever was; the catalog does."""
    shards = any("__shard_" in n for n in whole.names)
    path = copy()
    for array in ("vertices", "vertex_fragments", "vertex_attributes/mass", "vertex_attributes/rgb", "vertex_attributes/kind"):
        below = path / "0" / array
        shutil.rmtree(below / VICTIM if not shards else sorted(below.glob("__shard_*"))[0])
    errors = check(path, whole)
    assert "all" in errors
    assert errors["all"].chunk is not None
    # and where a box does not touch it, reading goes on
    lost = [int(c) for c in errors["all"].chunk.split(".")]
    if not shards:
        low = np.array([-1 - c for c in lost]) * 20.0 + 0.1
        assert len(dzv.open(path).level(0).read(bbox=(low, low + 19.8))) > 0


def test_blobs_of_two_chunks_exchanged(whole, copy):
    """A blob of another chunk: other rows are an error; the fragments must fit, too."""
    if any("__shard_" in n for n in whole.names):
        return
    rows = whole.answers["table"]
    other = next(k for k in rows if rows[k] != rows[VICTIM])
    for catalog in (True, False):
        for array in ("vertices", "vertex_fragments", "vertex_attributes/mass", "vertex_attributes/kind"):
            path = copy(catalog=catalog)
            below = path / "0" / array
            (below / VICTIM).rename(below / "x")
            (below / other).rename(below / VICTIM)
            (below / "x").rename(below / other)
            errors = check(path, whole, allowed=["table"])  # which counts what is there
            assert "all" in errors
            assert errors["all"].chunk in (VICTIM, other)


def test_bits_of_what_has_a_checksum(whole, copy):
    """Single bits of the catalog, of shards, of fragment indexes and of compressed manifests."""
    path = copy()
    rng = np.random.default_rng(0)
    noticed = tried = 0
    for name in objects_of(whole, True):
        parts = name.split("/")
        shard = any(p.startswith("__shard_") for p in parts)
        if name.endswith("zarr.json") or not (
            CATALOG in parts or shard or "manifests" in parts or parts[1] == "vertex_fragments"
        ):
            continue
        data = (path / name).read_bytes()
        for at in rng.choice(len(data) * 8, size=min(12, len(data) * 8), replace=False).tolist():
            flipped = bytearray(data)
            flipped[at // 8] ^= 1 << (at % 8)
            (path / name).write_bytes(flipped)
            try:
                noticed += bool(check(path, whole))
            except pytest.fail.Exception as failure:
                pytest.fail(f"bit {at} of {name}: {failure}")
            finally:
                (path / name).write_bytes(data)
            tried += 1
    assert tried > 20
    assert noticed > tried * 0.9


def test_a_damaged_catalog_is_rebuilt(whole, copy):
    for broken in (b"", b"garbage", None):
        path = copy()
        place = path / "0" / CATALOG / "c" / "0"
        if broken is None:
            place.unlink()
        else:
            place.write_bytes(broken)
        dzv.open(path, mode="r+").refresh()
        assert check(path, whole) == {}
        assert dzv.open(path).level(0).source.catalogued


def test_metadata_at_odds_with_the_data(whole, copy):
    """Documents that are sound JSON and say something else."""
    edits = [
        ("0/vertices", "dtype", "float32"),
        ("0/vertices", "dtype", "nonsense"),
        ("0/vertices", "dtype", "|V8"),
        ("0/vertices", "encoding", "draco"),
        ("0/vertex_attributes/mass", "dtype", "float32"),
        ("0/vertex_attributes/mass", "dtype", ["f8"]),
        ("0/vertex_attributes/rgb", "channel_names", ["a", "b"]),
        ("0/vertex_attributes/rgb", "channel_names", "abc"),
        ("0/vertex_attributes/kind", "categories", ["axon"]),
        ("0/vertex_attributes/kind", "categories", None),
        ("0/vertex_attributes/kind", "_FillValue", 0),
        ("0/vertex_attributes/kind", "dtype", "int32"),
        ("0/object_index", "num_objects", 5),
        ("0/object_index", "num_objects", -1),
        ("0/object_index", "sid_ndim", 2),
        ("0/object_attributes/score", "shape", [4]),
        ("0/object_attributes/score", "dtype", "float32"),
        ("0/groups", "num_groups", 7),
    ]
    for catalog in (True, False):
        path = copy(catalog=catalog)
        for node, key, value in edits:
            place = path / node / "zarr.json"
            if not place.exists():
                continue
            before = place.read_bytes()
            document = json.loads(before)
            document["attributes"][key] = value
            place.write_text(json.dumps(document))
            try:
                errors = check(path, whole, allowed=["table"])
            except pytest.fail.Exception as failure:
                pytest.fail(f"{node} with {key} = {value!r}: {failure}")
            finally:
                place.write_bytes(before)
            assert errors, (node, key, value)


def test_root_metadata_at_odds(whole, copy):
    for key, value in (
        ("chunk_shape", [20.0, 20.0]),
        ("chunk_shape", [0, 1, 1]),
        ("zv_version", "9.9"),
        ("bounds", [[0], [1]]),
        ("zv_version", None),
    ):
        path = copy()
        place = path / "zarr.json"
        document = json.loads(place.read_text())
        document["attributes"]["zarr_vectors"][key] = value
        place.write_text(json.dumps(document))
        assert set(check(path, whole)) == set(whole.answers), (key, value)
    path = copy()
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["multiscales"][0]["axes"].pop()
    (path / "zarr.json").write_text(json.dumps(document))
    assert set(check(path, whole)) == set(whole.answers)
