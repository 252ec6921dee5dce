"""Kinds of stores that the ZV packages' own suites and edits make, each by a small store of both: tests/data/kinds."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from refusals import fails

import dask_zv as dzv

FOLDER = Path(__file__).parents[1] / "data" / "kinds"
BOTH = ["0.9.2", "0.2.0"]


@pytest.fixture
def open_kind(tmp_path):
    """Unpack a store and open it; what the package itself reads of it is the truth."""

    def opened(name, release="0.9.2", **options):
        path = tmp_path / f"{name}-{release}"
        with zipfile.ZipFile(FOLDER / f"{name}-{release}.zip") as archive:
            archive.extractall(path)
        with np.load(FOLDER / f"{name}-{release}.npz") as truth:
            return dzv.open(path, **options), dict(truth)

    return opened


def ordered(rows):
    return rows[np.lexsort(rows.T[::-1])]


def in_xarray(store, view="spatial"):
    return xr.open_dataset(store, engine="zv", view=view).load()


def path_of(store):
    return Path(store.url.removeprefix("file://"))


def attributes_of(node):
    return json.loads((node / "zarr.json").read_text())["attributes"]


def edit(node, **values):
    change(node, lambda d: d["attributes"].update(values))


def line(n, high=29.0):
    """Return vertices along a diagonal, and the edges between neighbours."""
    return np.stack([np.linspace(0, high, n)] * 3, axis=1), np.stack([np.arange(n - 1), np.arange(1, n)], axis=1)


def test_a_skeleton_with_the_convention_of_paths_is_refused(open_kind):
    """It says nothing of trees: the package gives no edges then, and others may be meant."""
    store, _ = open_kind("skeleton_explicit", mode="r+")
    metadata = attributes_of(path_of(store))["zarr_vectors"]
    edit(path_of(store), zarr_vectors={**metadata, "links_convention": "implicit_sequential"})
    changed = dzv.open(store.url)
    fails(dzv.MetadataError, "set it to 'implicit_sequential_with_branches'", changed.level(0).read)
    fails(dzv.MetadataError, "links_convention", in_xarray, changed)


@pytest.mark.parametrize("name", ["graph_implicit", "skeleton_explicit"])
def test_the_convention_tells_which_links_are_implied(name, open_kind):
    """Not the kind of geometry: a graph that was made implicit keeps its edges, and removed links of a skeleton stay away."""
    store, truth = open_kind(name)
    for refreshed in (False, True):
        level = store.level(0)
        found = level.read()
        np.testing.assert_array_equal(found.positions, truth["positions"])
        np.testing.assert_array_equal(ordered(found.edges), ordered(truth["edges"]))
        expected = np.full(len(found), -1)
        expected[truth["edges"][:, 0]] = truth["edges"][:, 1]
        np.testing.assert_array_equal(found.parents, expected)
        ds = in_xarray(store)
        np.testing.assert_array_equal(ordered(ds["edges"].to_numpy()), ordered(truth["edges"]))
        np.testing.assert_array_equal(ds["parent"], expected)
        if name == "skeleton_explicit":
            assert (expected < 0).sum() == 3
            objects = in_xarray(store, "objects")
            assert (objects["parent"] < 0).sum() == 3
        if not refreshed:
            dzv.open(store.url, mode="r+").refresh()
            store = dzv.open(store.url)


def test_a_tree_that_is_written_over_an_explicit_one_is_a_tree(open_kind):
    """What the root said of the links before does not hold for ours."""
    store, _ = open_kind("skeleton_explicit", mode="r+")
    positions = np.stack([np.linspace(1, 99, 50)] * 3, axis=1).astype("f4")
    dzv.write_skeletons(store, positions, parents=np.arange(-1, 49), mode="overwrite", out_of_bounds="expand")
    found = dzv.open(store.url).level(0).read()
    assert (found.parents < 0).sum() == 1
    assert len(found.edges) == 49


@pytest.mark.parametrize("release", BOTH)
def test_a_mesh_without_a_face_across_chunks_is_read(release, open_kind):
    store, truth = open_kind("mesh_inside", release)
    np.testing.assert_array_equal(ordered(store.level(0).read().faces), ordered(truth["faces"]))
    np.testing.assert_array_equal(ordered(in_xarray(store)["faces"].to_numpy()), ordered(truth["faces"]))


@pytest.mark.parametrize("release", BOTH)
def test_what_leads_the_chunk_keys_is_shown_where_it_is_exact(release, open_kind):
    for name in ("rechunked_bins", "rechunked_group", "rechunked_object_id", "rechunked_category"):
        store, truth = open_kind(name, release)
        level = store.level(0)
        np.testing.assert_array_equal(level.read().positions, truth["positions"])
        assert len(level.chunks.coords[0]) == 4
        ds = in_xarray(store)
        if name == "rechunked_category":
            assert level.attributes == ("cluster",)
            np.testing.assert_array_equal(ds["cluster"], np.repeat(level.chunks.coords[:, 0], level.chunks.rows))
        else:  # "length" would be that of the first object in the bin
            assert level.attributes == ()
            assert not {"length", "group"} & {*ds.variables}
        box = (truth["positions"].min(axis=0), np.full(3, 50.0))
        inside = (truth["positions"] <= 50).all(axis=1)
        np.testing.assert_array_equal(level.read(bbox=box).positions, truth["positions"][inside])
        table = xr.open_dataset(store, engine="zv", chunk_table=True)
        names = {"rechunked_bins": "attribute", "rechunked_category": "cluster"}
        assert f"chunk_{names.get(name, name.removeprefix('rechunked_'))}" in table.variables


def test_a_chunk_that_an_edit_emptied_is_empty(open_kind):
    store, truth = open_kind("emptied_chunk")
    for _ in range(2):
        found = store.level(0).read(order="chunk")
        np.testing.assert_array_equal(found.positions, truth["positions"])
        np.testing.assert_array_equal(found.attributes["mass"], truth["attr__mass"])
        np.testing.assert_array_equal(in_xarray(store)["mass"], truth["attr__mass"])
        dzv.open(store.url, mode="r+").refresh()
        store = dzv.open(store.url)


@pytest.mark.parametrize("release", BOTH)
def test_strings_of_one_length_are_read(release, open_kind):
    for name in ("strings", "polyline_strings"):
        store, truth = open_kind(name, release)
        found = store.level(0).read(order="chunk")
        assert found.attributes["name"].tolist() == truth["attr__name"].tolist()
        assert in_xarray(store)["name"].to_numpy().tolist() == truth["attr__name"].tolist()
        if name == "strings" and release == "0.2.0":
            assert found.object_attributes["label"].tolist() == ["a", "bcd"]
            assert in_xarray(store, "objects")["label"].to_numpy().tolist() == ["a", "bcd"]


@pytest.mark.parametrize("release", BOTH)
def test_channels_that_no_document_names_are_read(release, open_kind):
    store, truth = open_kind("lazy_channels", release)
    normals = truth["attr__normal"].reshape(-1, 3)
    np.testing.assert_array_equal(store.level(0).read(order="chunk").attributes["normal"], normals)
    np.testing.assert_array_equal(in_xarray(store)["normal"], normals)


@pytest.mark.parametrize("release", BOTH)
def test_vertices_outside_of_the_boxes_of_their_chunks_are_found(release, open_kind):
    """Boxes would come back short: they are refused, and so is a catalog; what is read whole is right, with a warning."""
    store, truth = open_kind("strays", release)
    strays, box = "outside of its box", ((90, 90, 90), (95, 99, 99))
    with pytest.warns(dzv.ZVWarning, match=strays):
        found = store.level(0).read()
    np.testing.assert_array_equal(found.positions, truth["positions"])
    with pytest.warns(dzv.ZVWarning, match=strays):
        in_xarray(store)
    ds = xr.open_dataset(store, engine="zv")
    fails(dzv.FormatError, strays, lambda: store.level(0).read(bbox=box))
    fails(dzv.FormatError, strays, ds.zv.sel, bbox=box)
    fails(dzv.FormatError, strays, lambda: ds.sel(x=slice(90, 95)).load())
    fails(dzv.FormatError, strays, lambda: dzv.open(store.url, mode="r+").refresh())
    assert not store.level(0)._contents.source.catalogued
    assert not dzv.open(store.url).level(0)._contents.source.catalogued


@pytest.fixture(params=[("grid", 1), ("grid", 8), ("per_chunk", 1)], ids=["grid", "packed", "per_chunk"])
def ours(request, tmp_path):
    layout, shards = request.param
    path = tmp_path / "ours.zv"
    store = dzv.create(
        path, chunk_shape=(10, 10, 10), shard_chunks=shards, layout=layout, compressor=None if layout == "grid" else "auto"
    )
    rng = np.random.default_rng(0)
    dzv.write_points(store, rng.uniform(0, 30, (500, 3)).astype("f4"), attributes={"mass": np.arange(500)})
    return path


def rot(path):
    """Zero bytes inside of a stored object of positions, which keeps its length and time; return the object."""
    files = sorted(p for p in (path / "0" / "vertices").rglob("*") if p.is_file() and "c" in p.parts and p.stat().st_size > 60)
    times = files[0].stat()
    data = bytearray(files[0].read_bytes())
    data[20:32] = bytes(12)
    files[0].write_bytes(data)
    os.utime(files[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    return files[0]


def test_a_blob_that_rotted_is_damage(ours):
    """Nobody has stored it since: length and time are those of the commit."""
    rot(ours)
    fails(dzv.FormatError, "damaged", lambda: dzv.open(ours).level(0).read())
    fails(dzv.FormatError, "damaged", lambda: xr.open_dataset(ours, engine="zv").x.load())


def test_check_objects_says_so_where_times_can_not_tell(ours, tmp_path):
    copy = shutil.copytree(ours, tmp_path / "copy.zv", copy_function=shutil.copyfile)
    assert len(dzv.open(copy, check_objects=True).level(0).read()) == 500
    os.utime(rot(copy))
    with pytest.warns(dzv.ZVWarning, match="other bytes than at the last commit"):
        dzv.open(copy, check_objects=True)


def test_check_objects_tells_at_opening_what_is_missing_or_short(ours):
    lost = rot(ours)
    data = lost.read_bytes()
    lost.write_bytes(data[: len(data) - 8])
    fails(dzv.ZVError, None, dzv.open, ours, check_objects=True)
    lost.unlink()
    fails(dzv.ZVError, None, dzv.open, ours, check_objects=True)
    fails(dzv.ZVError, None, xr.open_dataset, ours, engine="zv", check_objects=True)


@pytest.mark.parametrize(("layout", "shards"), [("grid", 1), ("grid", 8), ("per_chunk", 1)])
def test_check_objects_looks_at_all_that_a_level_has(layout, shards, tmp_path):
    """Links, manifests, and tables about objects and groups, too: what is missing or short is an error at opening."""
    path = tmp_path / "s.zv"
    positions, edges = line(60)
    positions = positions.astype("f4")
    kind = "graph" if layout == "grid" else "polyline"
    store = dzv.create(path, geometry=kind, chunk_shape=(10, 10, 10), shard_chunks=shards, layout=layout)
    about = {"object_attributes": {"v": np.arange(1.0, 5.0)}, "groups": {0: [0, 1]}, "group_attributes": {"g": np.array([7])}}
    if kind == "graph":
        weights = {"weight": np.arange(59.0)}
        dzv.write_graph(store, positions, edges=edges, edge_attributes=weights, object_ids=np.arange(60) // 15, **about)
    else:
        dzv.write_polylines(store, positions, lengths=[15] * 4, **about)
    stored: dict[str, Path] = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name != "zarr.json" and "dask_zv" not in str(file):
            stored[str(file.relative_to(path)).rpartition("/c/")[0].rstrip("0123456789.")] = file  # the last of each array
    assert len(stored) > 7
    for file in stored.values():
        content, times = file.read_bytes(), file.stat()
        for damaged in (content[:-8], None):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            with pytest.raises(dzv.ZVError):
                dzv.open(path, check_objects=True)
            file.write_bytes(content)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    dzv.open(path, check_objects=True)


def test_an_attribute_that_is_gone_is_an_error(ours):
    shutil.rmtree(ours / "0" / "vertex_attributes" / "mass")
    fails(dzv.MetadataError, "mass", xr.open_dataset, ours, engine="zv")
    fails(dzv.MetadataError, "mass", lambda: dzv.open(ours).level(0).read())


def change(path, function):
    document = json.loads((path / "zarr.json").read_text())
    function(document)
    (path / "zarr.json").write_text(json.dumps(document))


@pytest.mark.parametrize("release", BOTH)
def test_what_a_newer_version_requires_is_refused_by_name(release, open_kind):
    store, _ = open_kind("strings", release)
    path = path_of(store)
    original = attributes_of(path)["zarr_vectors"]
    wrong = [("required_capabilities", ["sparse_levels"], "sparse_levels")]
    for key, value, words in [*wrong, ("zv_version", "0.10.0", "0.10.0"), ("zv_version", "1.0", "1.0")]:
        edit(path, zarr_vectors={**original, key: value})
        fails(dzv.MetadataError, words, dzv.open, path)
    edit(path, zarr_vectors={**original, "required_capabilities": ["shared_fragments"]})
    dzv.open(path)
    change(path / "0", lambda d: d["attributes"]["zarr_vectors_level"].update(refinement="add"))
    fails(dzv.MetadataError, "refinement", lambda: dzv.open(path).level(0))


def test_claims_about_a_level_go_with_its_content(open_kind, tmp_path):
    """Overwriting makes them untrue, a copy keeps them."""
    store, _ = open_kind("strays", mode="r+")
    path = path_of(store)
    change(path / "0", lambda d: d["attributes"]["zarr_vectors_level"].update(fragment_link_groups=True))
    dzv.convert(path, tmp_path / "copy.zv")
    assert dzv.open(tmp_path / "copy.zv").level(0).metadata.extra == {"fragment_link_groups": True}
    dzv.write_points(dzv.open(path, mode="r+"), np.full((5, 3), 7.0), mode="overwrite", out_of_bounds="expand")
    assert dzv.open(path).level(0).metadata.extra == {}


def test_a_store_that_has_less_than_it_counts_is_an_error(open_kind):
    store, truth = open_kind("graph_implicit")
    path = path_of(store)
    originals = {p: p.read_text() for p in path.rglob("zarr.json")}

    for node, key, value, read in (
        ("0", "vertex_count", 99, lambda level: level.read()),
        ("0/links/0", "num_physical_records", 99, lambda level: level.read()),
        ("0/links/0", "num_physical_records", 99, lambda level: level.links()),
        ("0/object_index", "num_present", 9, lambda level: level.read(order="object")),
    ):
        of_level = attributes_of(path / node).get("zarr_vectors_level", {})
        edit(path / node, **({"zarr_vectors_level": {**of_level, key: value}} if node == "0" else {key: value}))
        fails(dzv.FormatError, f"counts {value}", read, dzv.open(path).level(0))
        for file, text in originals.items():
            file.write_text(text)
    assert len(dzv.open(path).level(0).read()) == len(truth["positions"])


def test_integers_become_floats_unless_integers_are_asked_for(tmp_path):
    """Other tools take positions for floats."""
    dtypes = ("i2", None, "f4"), ("i8", None, "f8"), ("u4", None, "f8"), ("i8", "i8", "i8"), ("f4", None, "f4")
    for given, asked, stored in dtypes:
        positions = np.arange(30).reshape(10, 3).astype(given)
        store = dzv.create(tmp_path / f"{given}-{asked}.zv", chunk_shape=(10, 10, 10), dtype=asked)
        dzv.write_points(store, positions)
        found = dzv.open(store.url).level(0).read().positions
        assert found.dtype == stored
        np.testing.assert_array_equal(np.sort(found, axis=0), positions)
    with pytest.raises(dzv.InputError, match="dtype"):
        dzv.write_points(dzv.create({}, chunk_shape=(1e18, 1e18)), np.array([[2**60 + 1, 5]]), position_tolerance=0)


def _batch(store):
    with store.group.batched_writes():
        store.group.write_bytes("0/vertices", "0.0.0", np.full((2, 3), 5.0).tobytes())


CHANGES = {
    "overwrite": lambda s: dzv.write_points(s, np.random.default_rng(0).uniform(0, 30, (80, 3)), mode="overwrite"),
    "a blob": lambda s: s.level(0).group.write_bytes("vertices", "0.0.0", np.full((2, 3), 5.0).tobytes()),
    "a batch": _batch,
    "attributes": lambda s: s.level(0).group.attrs.update({"a": 1}),
    "of an array": lambda s: s.level(0).group.write_array_meta("vertices", {"a": 1}),
    "from above": lambda s: s.group["0"].attrs.update({"a": 1}),
    "a group": lambda s: s.level(0).group.require_group("more"),
    "removal": lambda s: s.level(0).group.delete_subtree("vertex_fragments"),
    "larger bounds": lambda s: s.expand(((-20, -20, -20), (60, 60, 60))),
    "refresh": lambda s: s.refresh(),
    "another store": lambda s: dzv.create(s.url, chunk_shape=(5, 5, 5), overwrite=True),
}


@pytest.mark.parametrize("layout", ["grid", "per_chunk"])
def test_consolidated_metadata_goes_when_what_it_copies_changes(layout, tmp_path):
    """Other tools read the copies, also those in groups that the store itself lies in."""
    path = tmp_path / "all" / "s.zv"
    above = [tmp_path, tmp_path / "all", path]
    for name, change_it in CHANGES.items():
        for group in above[:2]:
            zarr.open_group(group, mode="w")
        store = dzv.create(path, chunk_shape=(10, 10, 10), bounds=((0, 0, 0), (30, 30, 30)), layout=layout)
        dzv.write_points(store, np.full((1, 3), 5.0))
        for group in above:
            zarr.consolidate_metadata(group)
        change_it(dzv.open(path, mode="r+"))
        for group in above:
            assert not json.loads((group / "zarr.json").read_text()).get("consolidated_metadata"), (name, group)


@pytest.mark.parametrize("release", BOTH)
def test_a_composite_level_says_what_is_not_shown(release, open_kind):
    store, truth = open_kind("composite", release)
    with pytest.warns(dzv.ZVWarning, match="not shown: graph"):
        found = store.level(0).read()
    np.testing.assert_array_equal(found.positions, truth["positions"])


def test_a_copy_of_a_store_with_wrong_boxes_has_no_catalog_that_vouches_for_them(open_kind, tmp_path):
    store, _ = open_kind("strays")
    dzv.convert(store, tmp_path / "copy.zv")
    level = dzv.open(tmp_path / "copy.zv").level(0)
    fails(dzv.FormatError, "outside of its box", level.read, bbox=((90, 90, 90), (95, 99, 99)))


def test_positions_in_voxel_millimetres_are_told_of(tmp_path):
    dzv.create(tmp_path / "s.zv", chunk_shape=(10, 10), crs={"input_space": "voxmm"})
    with pytest.warns(dzv.ZVWarning, match="voxmm"):
        dzv.open(tmp_path / "s.zv")


LAYOUTS = ["grid", "per_chunk"]


@pytest.fixture
def told(tmp_path):
    """Make a store with objects and groups, and things that other tools say of them."""

    def made(layout):
        path = tmp_path / f"told-{layout}.zv"
        store = dzv.create(path, chunk_shape=(10, 10, 10), layout=layout)
        dzv.write_points(
            store, np.random.default_rng(0).uniform(0, 30, (60, 3)).astype("f4"), object_ids=np.arange(60) % 4,
            attributes={"mass": np.arange(60), "odd": np.arange(60)},
            object_attributes={"volume": np.arange(4.0), "odd": np.arange(4.0)},
            groups={0: [0, 1], 1: [2, 3]}, group_attributes={"size": np.array([2, 2]), "odd": np.arange(2.0)},
        )  # fmt: skip
        return path

    return made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dtype_that_can_not_be_read_fails_those_alone_who_ask_for_it(layout, told, tmp_path):
    path = told(layout)
    about = [path / "0" / f"{scope}_attributes" / "odd" for scope in ("vertex", "object", "group")]
    for dtype in ("object", "bfloat16", "|V8"):
        for node in about if layout == "per_chunk" else about[:1]:
            edit(node, dtype=dtype)
        with pytest.warns(dzv.ZVWarning, match="odd"):
            found = dzv.open(path).level(0).read()
        assert found.attributes.keys() == {"mass"}
        assert "volume" in found.object_attributes
        for view in ("spatial", "objects"):
            with pytest.warns(dzv.ZVWarning, match="odd"):
                ds = xr.open_dataset(path, engine="zv", view=view).load()
            assert len(ds["mass"]) == 60
        with pytest.warns(dzv.ZVWarning), pytest.raises(dzv.MetadataError, match="odd.*dtype"):
            dzv.open(path).level(0).read(attributes=["odd"])
    with pytest.warns(dzv.ZVWarning):
        dzv.convert(path, tmp_path / "copy.zv")  # as it is
    with pytest.warns(dzv.ZVWarning), pytest.raises(dzv.InputError, match="odd"):
        dzv.convert(path, tmp_path / "other.zv", layout="grid" if layout == "per_chunk" else "per_chunk")
    edit(about[0], dtype=7)  # that is damage
    fails(dzv.MetadataError, "odd", lambda: dzv.open(path).level(0).read())


def test_tables_of_objects_that_can_not_be_read_are_left_out(told):
    path = told("grid")
    for scope, rows in (("object", 4), ("group", 2)):
        shutil.rmtree(path / "0" / f"{scope}_attributes" / "odd")
        array = zarr.open_group(path / "0" / f"{scope}_attributes").create_array("odd", shape=rows, dtype="V4")
        array[:] = np.arange(rows, dtype="<i4").view("V4")
    with pytest.warns(dzv.ZVWarning, match="odd"):
        found = dzv.open(path).level(0).read()
    assert found.object_attributes.keys() == {"volume"}
    assert found.group_attributes.keys() == {"size"}
    with pytest.warns(dzv.ZVWarning, match="odd"):
        assert "object_odd" not in in_xarray(path, "objects").variables


def test_links_of_an_attribute_that_can_not_be_read_are_read(tmp_path):
    store = dzv.create(tmp_path / "g.zv", geometry="graph", chunk_shape=(10, 10, 10))
    positions, edges = line(20, 30)
    dzv.write_graph(store, positions, edges=edges, edge_attributes={"odd": np.arange(19), "weight": np.arange(19)})
    for document in (tmp_path / "g.zv/0/link_attributes/odd").rglob("zarr.json"):
        if "dtype" in json.loads(document.read_text()).get("attributes", {}):
            edit(document.parent, dtype="object")
    with pytest.warns(dzv.ZVWarning, match="odd"):
        found = dzv.open(store.url).level(0).read()
    assert len(found.edges) == 19
    assert found.edge_attributes.keys() == {"weight"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_headers_and_declarations_of_others_are_shown_and_kept(layout, told, tmp_path):
    path = told(layout)
    names, header = ["left", "right"], {"voxel_size": [1, 2, 3], "space": "MNI", "deep": {"a": [1, {"b": None}]}}
    edit(path / "0" / "groups", group_names=names)
    group = zarr.open_group(path).require_group("headers/trk")
    group.attrs.update(header)
    specs = {
        "vertex": {"mass": {"dtype": "int64", "unit": "kg", "description": "how heavy", "range": [0, 60]}},
        "object": {"volume": {"dtype": "float64", "unit": "um3"}},
    }
    change(path, lambda d: d["attributes"]["zarr_vectors"].update(attribute_specs=specs, coordinate_offset=[1, 2, 3]))
    kept = [path]
    for other in LAYOUTS:
        dzv.convert(path, tmp_path / f"{other}.zv", layout=other)
        assert dzv.open(tmp_path / f"{other}.zv").metadata.extra["coordinate_offset"] == [1, 2, 3]
        for view in ("spatial", "objects"):
            kept += [tmp_path / f"{other}.zv", tmp_path / f"{other}-{view}.zv"]
            xr.open_dataset(path, engine="zv", view=view).zv.to_store(kept[-1], layout=other)
    for where in kept:
        store = dzv.open(where)
        assert store.headers == {"trk": header}, where
        assert store.attribute_specs["vertex"]["mass"]["unit"] == "kg"
        assert store.level(0).read().group_attributes["group_names"].tolist() == names
        assert store.level(0).group.read_array_meta("groups")["group_names"] == names
        for view in ("spatial", "objects"):
            ds = xr.open_dataset(where, engine="zv", view=view)
            assert ds.zv.headers == {"trk": header}
            assert ds["mass"].attrs["units"] == "kg"
            assert ds["mass"].attrs["long_name"] == "how heavy"
            assert json.loads(ds["mass"].attrs["range"]) == [0, 60]
            assert ds["volume"].attrs["units"] == "um3"
            assert np.unique(ds.zv.sel(groups="right").load()["mass"] % 4).tolist() == [2, 3]
            fails(dzv.NotFoundError, r"'middle'.*'left', 'right'", ds.zv.sel, groups=["middle"])
        assert in_xarray(where, "objects")["group_names"].to_numpy().tolist() == names


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_count_of_links_that_is_wrong_is_mended_by_refresh(layout, tmp_path):
    path = tmp_path / "g.zv"
    positions, edges = line(20)
    if layout == "grid":
        dzv.write_graph(dzv.create(path, geometry="graph", chunk_shape=(10, 10, 10)), positions, edges=edges)
    else:  # of no other geometry are links written
        store = dzv.create(path, geometry="polyline", chunk_shape=(10, 10, 10), layout=layout)
        dzv.write_polylines(store, positions, lengths=[20])
    number = len(dzv.open(path).level(0).links())
    node = path / "0" / ("links" if layout == "grid" else "cross_chunk_links") / "0"
    right = attributes_of(node)
    for more in (3, -1):
        wrong = {k: right[k] + more for k in ("num_links", "num_physical_records") if k in right}
        edit(node, **wrong)
        if more > 0:
            for read in ("links", "read") if layout == "grid" else ("links",):
                fails(dzv.FormatError, "links are stored, the metadata counts", getattr(dzv.open(path).level(0), read))
        dzv.open(path, mode="r+").refresh()
        assert attributes_of(node) == right
        assert len(dzv.open(path).level(0).links()) == number
        if layout == "grid":
            assert len(dzv.open(path).level(0).read().edges) == len(in_xarray(path)["edges"]) == 19
