"""Kinds of stores that the ZV packages' own suites and edits make, each by a small store of both: tests/data/kinds."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

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
    with pytest.warns(UserWarning, match="outside of its box"):
        found = store.level(0).read()
    np.testing.assert_array_equal(found.positions, truth["positions"])
    with pytest.warns(UserWarning, match="outside of its box"):
        in_xarray(store)
    box = ((90, 90, 90), (95, 99, 99))
    with pytest.raises(dzv.FormatError, match="outside of its box"):
        store.level(0).read(bbox=box)
    ds = xr.open_dataset(store, engine="zv")
    with pytest.raises(dzv.FormatError, match="outside of its box"):
        ds.zv.sel(bbox=box)
    with pytest.raises(dzv.FormatError, match="outside of its box"):
        ds.sel(x=slice(90, 95)).load()
    with pytest.raises(dzv.FormatError, match="outside of its box"):
        dzv.open(store.url, mode="r+").refresh()
    assert not store.level(0).source.catalogued
    assert not dzv.open(store.url).level(0).source.catalogued
