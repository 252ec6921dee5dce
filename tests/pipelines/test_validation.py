"""``dzv.validate``: damage of every kind is named by its rule, and whole stores of all writers have no findings."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from broken_stores import ALL, CASES, DAMAGE, MASS, first, flip, halve, rows_of, same_corners, shift, table, turn, twice
from whole_stores import GRID_KINDS, PER_CHUNK_KINDS, attributes, cells, copy_of, make, remove, without_our_own

import dask_zv as dzv

DATA = Path(__file__).parents[1] / "data"
CLEAN = [
    (layout, kind, options)
    for layout, kinds in (("grid", GRID_KINDS), ("per_chunk", PER_CHUNK_KINDS))
    for kind in kinds
    for options in ({}, {"shard_chunks": 4}, {"ndim": 3, "dtype": "float64"})
]


@pytest.mark.parametrize(("layout", "kind", "options"), CLEAN, ids=str)
def test_a_whole_store_has_no_findings(tmp_path: Path, layout: str, kind: str, options: dict[str, Any]) -> None:
    found = dzv.validate(make(tmp_path / "s.zv", kind, layout, **options))
    assert found.findings == ()
    assert found.ok
    assert found.vertices == 300
    assert found.objects
    assert found.deep


TRUE = {
    "strays": {"documents"},
    "links_": {"inside", "counts"},
    "low_level": {"inside", "counts", "manifests"},
    "skeleton_chunked": {"counts"},
    "golden_0.7/mesh.": {"manifests"},
    "rechunked": {"counts", "manifests"},
    "composite": {"documents"},
    "lazy_channels": {"siblings"},
}
"""What is true of stores of the package: vertices outside of their chunks, nothing counted, fragments shared unsaid."""
NOT_WHOLE = ("strays", "links_", "low_level")
PEER = sorted(p for p in (*DATA.glob("golden_*/*.zarrvectors*"), *DATA.glob("kinds/*.zip")))


@pytest.mark.parametrize("path", PEER, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_stores_of_the_package_raise_no_false_alarm(tmp_path: Path, path: Path) -> None:
    if path.suffix == ".zip":
        zipfile.ZipFile(path).extractall(tmp_path)
    root = path if path.is_dir() else min((p for p in tmp_path.rglob("zarr.json")), key=lambda p: len(p.parts)).parent
    name = f"{path.parent.name}/{path.name}"
    found = dzv.validate(root)
    expected = set().union(*(rules for part, rules in TRUE.items() if part in name))
    assert {f.rule for f in found.findings} <= expected, found
    assert found.ok == (not any(part in name for part in NOT_WHOLE)), found
    assert found.vertices


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_damage_is_named_by_its_rule(tmp_path: Path, name: str, layout: str) -> None:
    rule, kind, _, damage = DAMAGE[name]
    path = tmp_path / "s.zv"
    copy_of(path, kind, layout)
    damage(path)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    found = dzv.validate(path)
    assert not found.ok
    assert rule in {f.rule for f in found.errors}, found
    assert all(f.rule in found.rules and f.message and f.advice for f in found.findings)
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before  # it only looks


NOT_OURS = [
    "attribute object deleted", "attribute with half of the rows", "vertices out of their chunk", "NaN", "vertices chunk not listed",
    "chunk nowhere listed", "fragments of more rows", "manifests removed", "manifest of an absent fragment", "object index removed",
    "object ids twice", "object attributes removed", "group of an absent object", "vertex_count too large", "bounds too small",
    "all links removed", "link to an absent row", "second parent", "cycle", "level that is not listed",
]  # fmt: skip


@pytest.mark.parametrize("name", NOT_OURS)
def test_damage_to_a_store_of_another_writer(tmp_path: Path, name: str) -> None:
    """Without a catalog and all else that dask-zv leaves."""
    rule, kind, _, damage = DAMAGE[name]
    path = without_our_own(copy_of(tmp_path / "s.zv", kind, "grid"))
    assert dzv.validate(path).findings == ()
    damage(path)
    found = dzv.validate(path)
    assert rule in {f.rule for f in found.errors}, found


WARNED = {
    "face turned around": ("winding", "mesh", turn, "run the same way"),
    "face with a corner twice": ("winding", "mesh", same_corners, "corner twice"),
    "catalog removed": ("catalog", "graph", lambda level: remove(level / "dask_zv_catalog"), "no catalog"),
    "another tool's edit": ("catalog", "point_cloud", lambda level: rows_of(level / "vertices", np.copy), "at the last commit"),
    "table of lengths outdated": (
        "object-tables", "polyline", lambda level: table(level / "dask_zv_objects", twice), "it is not used",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in WARNED if n != "another tool's edit"])
def test_what_is_doubtful_is_a_warning(tmp_path: Path, name: str) -> None:
    rule, kind, change, text = WARNED[name]
    make(tmp_path / "s.zv", kind)
    change(tmp_path / "s.zv/0")
    found = dzv.validate(tmp_path / "s.zv")
    told_of = [f for f in found.findings if f.rule == rule]
    assert told_of, found
    assert all(f.severity == "warning" for f in told_of)
    assert any(text in f.message for f in told_of)


def test_an_edit_is_a_warning_and_a_flipped_bit_an_error(tmp_path: Path) -> None:
    """Where nothing else tells, the time of change does: another tool's edit has its own."""
    store = make(tmp_path / "s.zv", compressor=None)
    flip(first(tmp_path / "s.zv" / MASS), -1)
    found = dzv.validate(store)
    assert [(f.rule, f.severity, f.array) for f in found.findings] == [("blobs", "error", "vertex_attributes/mass")]
    os.utime(first(tmp_path / "s.zv" / MASS))
    found = dzv.validate(store)
    assert [(f.rule, f.severity, f.array) for f in found.findings] == [("catalog", "warning", "vertex_attributes/mass")]
    assert found.ok


def test_each_damaged_chunk_is_found_and_the_others_are_read(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zv")
    for path in cells(tmp_path / "s.zv" / MASS)[:5]:
        path.unlink()
    rows_of(tmp_path / "s.zv/0/vertices", shift)
    found = dzv.validate(store)
    assert len([f for f in found.errors if f.rule == "blobs"]) == 5
    assert len([f for f in found.errors if f.rule == "inside"]) == 1
    assert found.vertices == 300
    assert found.chunks == len(store.level(0).chunks)


@pytest.mark.parametrize("layout", ALL)
def test_shards(tmp_path: Path, layout: str) -> None:
    make(tmp_path / "s.zv", layout=layout, shard_chunks=4)
    array = tmp_path / "s.zv/0/vertices"
    path = first(array) if layout == "grid" else next(array.glob("__shard_*/c/0"))
    halve(path)
    found = dzv.validate(tmp_path / "s.zv")
    assert {f.rule for f in found.errors} & {"shards", "blobs"}, found
    assert any(f.chunk for f in found.errors if f.rule in ("shards", "blobs"))


def test_an_edit_in_the_same_process(tmp_path: Path) -> None:
    """Indexes of shards that were read before the edit are not those of the store any more."""
    store = make(tmp_path / "s.zv", shard_chunks=8)
    assert dzv.validate(tmp_path / "s.zv").findings == ()
    dzv.open(tmp_path / "s.zv", mode="r+").delete(bbox=((-12.0, -12.0), (12.0, 12.0)))
    assert dzv.validate(tmp_path / "s.zv").findings == ()
    dzv.write_points(tmp_path / "s.zv", [[1.0, 2.0], [15.0, 15.0]], mode="overwrite")
    assert dzv.validate(store).findings == ()


def test_levels_and_their_links(tmp_path: Path) -> None:
    """A pyramid of the package is whole; a level without the one that its links lead to is not."""
    zipfile.ZipFile(DATA / "golden_0.9/points_pyramid.zarrvectors.zip").extractall(tmp_path)
    path = next(p.parent for p in tmp_path.rglob("zarr.json") if "multiscales" in attributes(p.parent))
    assert dzv.validate(path).levels == (0, 1)
    assert dzv.validate(path, 1).ok
    assert dzv.validate(path, level=[0, 1]).levels == (0, 1)
    remove(path / "1")
    found = dzv.validate(path)
    assert {f.rule for f in found.errors} == {"links", "multiscales"}
    with pytest.raises(dzv.NotFoundError, match="no level 1"):
        dzv.validate(path, level=1)


def test_the_result_is_shown_told_and_counted(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zv")
    whole = dzv.validate(store)
    assert repr(whole) == f"<dask_zv.Validation ok: no findings; {whole.chunks} chunks, 300 vertices, 12 objects>"
    assert bool(whole)
    first(tmp_path / "s.zv" / MASS).unlink()
    damaged = store.validate()
    assert not damaged
    assert repr(damaged).startswith("<dask_zv.Validation NOT OK: 1 error; ")
    assert "vertex_attributes/mass" in repr(damaged)
    assert "<table>" in damaged._repr_html_()
    assert "dzv.repair" in damaged._repr_html_()
    table = damaged.to_dataframe()
    assert list(table.columns) == ["rule", "severity", "level", "array", "chunk", "message", "advice"]
    assert table.iloc[0][["rule", "severity", "level", "array"]].tolist() == ["blobs", "error", 0, "vertex_attributes/mass"]
    assert whole.to_dataframe().empty
    assert pickle.loads(pickle.dumps(damaged)) == damaged
    assert store.level(0).validate() == damaged


def test_without_blobs_documents_and_lists_are_compared(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zv")
    first(tmp_path / "s.zv" / MASS).unlink()
    found = dzv.validate(store, deep=False)
    assert found.ok
    assert repr(found) == "<dask_zv.Validation ok: no findings; 1 level, documents and lists only>"
    remove(tmp_path / "s.zv" / MASS)
    assert not dzv.validate(store, deep=False)


def test_later_and_on_any_scheduler(tmp_path: Path, scheduler: str, override: Any) -> None:
    override(read_block_chunks=7)
    store = make(tmp_path / "s.zv", "skeleton")
    first(tmp_path / "s.zv" / MASS).unlink()
    later = dzv.validate(store, compute=False)
    found = later.compute() if scheduler != "distributed" else dask.compute(later)[0]
    assert [f.rule for f in found.errors] == ["blobs"]
    assert found == dzv.validate(store)


def test_stores_in_memory_and_in_a_session(tmp_path: Path) -> None:
    target: dict[str, Any] = {}
    make(target, "graph")  # type: ignore[arg-type]
    assert dzv.validate(target).ok
    icechunk = pytest.importorskip("icechunk")
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    session = repo.writable_session("main")
    store = dzv.create(session, chunk_shape=(10.0, 10.0))
    dzv.write_points(store, np.random.default_rng(0).uniform(0, 50, (200, 2)), attributes={"mass": np.arange(200.0)})
    assert dzv.validate(store).findings == ()
    store.commit("points")
    assert dzv.validate(repo.readonly_session("main")).findings == ()


def test_empty_and_unfinished(tmp_path: Path) -> None:
    assert dzv.validate(dzv.create(tmp_path / "e.zv", chunk_shape=(1.0, 1.0))).ok
    with pytest.raises(dzv.NotFoundError):
        dzv.validate(tmp_path / "nothing.zv")
    (tmp_path / "group").mkdir()
    (tmp_path / "group/zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}))
    assert [f.rule for f in dzv.validate(tmp_path / "group").errors] == ["documents"]


def test_a_write_that_has_not_ended_is_no_damage(tmp_path: Path) -> None:
    """Its chunks are stored, and not listed yet: they are neither an error, nor listed by a repair."""
    store = dzv.create(tmp_path / "s.zv", chunk_shape=(10.0, 10.0))
    plan = dzv.write_points(store, np.random.default_rng(0).uniform(0, 50, (500, 2)), compute=False)
    receipts = [plan.run(i) for i in range(len(plan))]
    before = {p: p.read_bytes() for p in store.group.path.rglob("*") if p.is_file()}
    found = dzv.validate(store)
    assert found.ok, found
    assert any("has not ended" in f.message or "under way" in f.message for f in found.findings)
    assert dzv.repair(dzv.open(tmp_path / "s.zv", mode="r+")).done == ()
    assert {p: p.read_bytes() for p in store.group.path.rglob("*") if p.is_file()} == before
    plan.commit(receipts)
    assert dzv.validate(store).findings == ()
