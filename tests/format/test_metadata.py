"""Root and level metadata, axes and generations: what is written, what is kept, and what is refused."""

import copy
import json
import pickle
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import fails

from dask_zv.errors import InputError, MetadataError, ZVError
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.metadata import Axis, Generation, RootMetadata, detect_generation, parse_axes


def dataset(path, scale, translation):
    transforms = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]
    return {"path": path, "coordinateTransformations": transforms}


def multiscale(axes, *datasets):
    return [
        {"version": "0.4", "name": "default", "axes": axes, "datasets": [*datasets], "metadata": {"format": "zarr_vectors"}}
    ]


ROOT = {
    "zarr_vectors": {
        "zv_version": "0.7.0",
        "format_capabilities": [],
        "chunk_shape": [50.0, 100.0, 50.0],
        "bounds": [[0.0, -5.0, 0.0], [99.0, 98.0, 0.0]],
        "geometry_types": ["point_cloud"],
        "crs": {"epsg": 25832},
        "base_bin_shape": [25.0, 25.0, 50.0],
        "links_convention": "implicit_sequential",
        "object_index_convention": "standard",
        "cross_chunk_strategy": "explicit_links",
        "cross_level_depth": -1,
        "cross_level_storage": "explicit",
        "reduction_factor": 4,
    },
    "multiscales": multiscale(
        [
            {"name": "t", "type": "time", "unit": "second"},
            {"name": "y", "type": "space", "unit": "micrometer"},
            {"name": "x", "type": "space"},
        ],
        dataset("0", [1.0, 1.0, 1.0], [12.5, 12.5, 25.0]),
        dataset("1", [2.0, 2.0, 2.0], [25.0, 25.0, 50.0]),
    ),
}

LEVEL = {
    "level": 2,
    "object_sparsity": 0.5,
    "vertex_count": 15,
    "coarsening_method": "per_object",
    "parent_level": 1,
    "arrays_present": ["vertices", "object_index"],
    "chunk_shape": [100.0, 100.0, 100.0],
    "chunk_dims": ["cls", "x", "y", "z"],
    "chunk_attribute_name": "cls",
    "chunk_attribute_values": ["a", 2, True],
    "preserves_object_ids": True,
    "inherited_num_objects": 10,
    "shared_fragments": True,
    "fragments_tile": True,
}


def changed(path, value):
    """Return ROOT with one entry replaced; a value of ... removes it."""
    root = copy.deepcopy(ROOT)
    place = root
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return root


# ---- generations


@pytest.mark.parametrize(
    ("generation", "versions"),
    [
        (Generation.PER_CHUNK, ["0.7", "0.7.0", "0.7.9", "0.7.0.1"]),
        (Generation.GRID, ["0.9", "0.9.0", "0.9.2", "0.9.10", "00.9"]),
    ],
)
def test_generations_of_versions(generation, versions):
    assert {detect_generation({"zv_version": v}) for v in versions} == {generation}


@pytest.mark.parametrize(
    "version", ["0.6.9", "0.8.0", "0.8", "0.10", "0.10.1", "1.0", "0.07.0a", "", "v0.7", "0.7.", "0..7", "9" * 5000, "0.٧"]
)
def test_other_versions_are_refused_by_name(version):
    with pytest.raises(MetadataError) as caught:
        detect_generation({"zv_version": version})
    assert version[:40] in str(caught.value)
    for document in ({}, {"zv_version": 0.7}, {"zv_version": None}):
        fails(MetadataError, "zv_version", detect_generation, document)


# ---- axes


def test_default_axes():
    assert [axis.name for axis in parse_axes(None, 4)] == ["x", "y", "z", "w"]
    assert parse_axes(None, 2) == (Axis("x"), Axis("y"))


def test_axes_of_every_form():
    axes = parse_axes([{"name": "t", "type": "time", "unit": "s"}, Axis("c", "gene"), "y", {"name": "x", "unit": ""}], 4)
    assert axes == (Axis("t", "time", "s"), Axis("c", "gene"), Axis("y"), Axis("x"))
    assert [axis.to_json() for axis in axes][:3] == [
        {"name": "t", "type": "time", "unit": "s"},
        {"name": "c", "type": "gene"},
        {"name": "y", "type": "space"},
    ]
    assert parse_axes([axis.to_json() for axis in axes]) == axes


@pytest.mark.parametrize(
    "axes",
    [
        ["x"],
        ["a", "b", "c", "d", "e"],
        ["x", "x"],
        ["x", ""],
        ["x", "a/b"],
        ["x", {"type": "space"}],
        ["x", {"name": "y", "type": ""}],
        ["x", {"name": "y", "type": 3}],
        ["x", {"name": "y", "unit": 3}],
        ["x", 3],
        [{"name": "t", "type": "time"}, "x"],
        ["x", "y", {"name": "t", "type": "time"}],
        [{"name": "c", "type": "channel"}, {"name": "t", "type": "time"}, "y", "x"],
        {"x": 1, "y": 2},
        3,
    ],
    ids=repr,
)
def test_axes_that_no_store_has_are_refused(axes):
    fails(InputError, None, parse_axes, axes)
    with pytest.raises(MetadataError, match="axes"):
        RootMetadata.from_attributes(changed(("multiscales", 0, "axes"), axes))


@pytest.mark.parametrize(("axes", "ndim"), [(["x", "y"], 3), (None, 1), (None, 5), (None, None)])
def test_axes_must_fit_the_positions(axes, ndim):
    fails(InputError, None, parse_axes, axes, ndim)


# ---- root


def test_root_comes_back_as_it_was():
    root = RootMetadata.from_attributes(ROOT)
    assert root.to_attributes() == ROOT
    assert RootMetadata.from_attributes(json.loads(json.dumps(root.to_attributes()))) == root
    assert pickle.loads(pickle.dumps(root)) == root
    assert list(root.to_attributes()["zarr_vectors"]) == list(ROOT["zarr_vectors"])
    assert list(root.to_attributes()["multiscales"][0]) == list(ROOT["multiscales"][0])


def test_root_properties():
    root = RootMetadata.from_attributes(ROOT)
    assert root.generation is Generation.PER_CHUNK
    assert root.ndim == 3
    assert root.bin_shape == (25.0, 25.0, 50.0)
    assert root.bins_per_chunk == (2, 4, 1)
    assert root.bounds == ((0.0, -5.0, 0.0), (99.0, 98.0, 0.0))
    assert root.axes[1] == Axis("y", "space", "micrometer")


def test_a_new_root_is_what_writers_of_0_7_store():
    root = RootMetadata(
        generation=Generation.PER_CHUNK,
        chunk_shape=(16.0, 32.0),
        bounds=((0.0, 0.0), (1.0, 1.0)),
        axes=parse_axes(None, 2),
    )
    assert root.bins_per_chunk == (1, 1)
    assert root.to_attributes() == {
        "zarr_vectors": {
            "zv_version": "0.7.0",
            "format_capabilities": [],
            "chunk_shape": [16.0, 32.0],
            "bounds": [[0.0, 0.0], [1.0, 1.0]],
            "geometry_types": [],
        },
        "multiscales": multiscale(
            [{"name": "x", "type": "space"}, {"name": "y", "type": "space"}], dataset("0", [1.0, 1.0], [8.0, 16.0])
        ),
    }
    assert replace(root, generation=Generation.GRID, zv_version="").to_attributes()["zarr_vectors"]["zv_version"] == "0.9.2"


def test_what_is_unknown_is_kept():
    root = copy.deepcopy(ROOT)
    root["zarr_vectors"]["attribute_specs"] = {"vertex": {"i": {"dtype": "float32"}}}
    root["multiscales"][0]["coordinateTransformations"] = [{"type": "scale", "scale": [2.0, 2.0, 2.0]}]
    root["multiscales"][0]["datasets"].append({"path": "elsewhere", "note": 1})
    root["multiscales"].append({"name": "other"})
    again = RootMetadata.from_attributes(root)
    assert again.extra == {"attribute_specs": {"vertex": {"i": {"dtype": "float32"}}}}
    assert again.to_attributes() == root
    again.to_attributes()["zarr_vectors"]["attribute_specs"]["vertex"].clear()
    assert again.to_attributes() == root


def test_absent_conventions_stay_absent():
    root = copy.deepcopy(ROOT)
    for key in ("crs", "base_bin_shape", "links_convention", "object_index_convention", "cross_chunk_strategy"):
        del root["zarr_vectors"][key]
    found = RootMetadata.from_attributes(root)
    assert found.links_convention is None
    assert found.to_attributes() == root


def test_another_store_is_named_as_such():
    with pytest.raises(MetadataError, match=r"not a Zarr Vectors store.*multiscales, omero"):
        RootMetadata.from_attributes({"omero": {}, "multiscales": []})
    fails(MetadataError, "none", RootMetadata.from_attributes, {})


ZV = "zarr_vectors"
WRONG = {
    (ZV,): [3],
    (ZV, "zv_version"): ["0.8.0", ...],
    (ZV, "chunk_shape"): [
        ..., [50.0, 50.0], 50.0, *([50.0, 50.0, wrong] for wrong in (0.0, -1, "50", True, float("nan"), 10**400, 10**5000)),
    ],
    (ZV, "bounds"): [
        ..., [[0.0] * 3], [[0.0] * 3, [1.0] * 2], [[0.0] * 3, [1.0, 1.0, float("inf")]], [[0.0, 0.0, 2.0], [1.0, 1.0, 1.0]],
    ],
    (ZV, "geometry_types"): [..., "mesh", ["blob"]],
    (ZV, "base_bin_shape"): [
        [25.0, 25.0], [25.0, 30.0, 50.0], [25.0, 25.0, 100.0], [25.0, 25.0, 1e-320], [25.0, 25.0, 0],
    ],
    (ZV, "links_convention"): ["implied", 1],
    (ZV, "object_index_convention"): ["own"],
    (ZV, "cross_chunk_strategy"): ["none"],
    (ZV, "cross_level_storage"): ["all"],
    (ZV, "cross_level_depth"): [-2],
    (ZV, "reduction_factor"): [1, 2.5],
    (ZV, "crs"): ["EPSG:4326"],
    (ZV, "format_capabilities"): [[1]],
    ("multiscales",): [..., [], [3]],
    ("multiscales", 0, "axes"): [...],
    ("multiscales", 0, "datasets"): [3, [3]],
    ("multiscales", 0, "datasets", 0, "path"): [0, ...],
}  # fmt: skip


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path[-1])
def test_wrong_root_documents_are_refused_by_key(path):
    for value in WRONG[path]:
        with pytest.raises(MetadataError) as caught:
            RootMetadata.from_attributes(changed(path, value))
        assert value == "0.8.0" in str(caught.value) or path[-1] in str(caught.value)


@pytest.mark.parametrize("chunk", [0.3, 1e-3, 7e8])
def test_bins_may_be_inexact(chunk):
    root = changed((ZV, "base_bin_shape"), [chunk / 3] * 3)
    root[ZV]["chunk_shape"] = [chunk] * 3
    assert RootMetadata.from_attributes(root).bins_per_chunk == (3, 3, 3)


def test_bounds_of_one_point_are_bounds():
    assert RootMetadata.from_attributes(changed((ZV, "bounds"), [[1, 2, 3], [1, 2, 3]])).bounds[0] == (1.0, 2.0, 3.0)


def test_a_version_of_another_generation_is_refused():
    root = RootMetadata.from_attributes(ROOT)
    fails(MetadataError, "GRID", replace, root, generation=Generation.GRID)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10) | st.floats() | st.sampled_from(["", "0", "x", "0.7.0", "mesh"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "path", "type"]), inner),
    max_leaves=6,
)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_mutated_documents_end_in_metadata_or_an_error(data):
    root = copy.deepcopy(ROOT)
    place = root
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not (isinstance(place[key], dict | list) and place[key] and data.draw(st.integers(0, 3))):
            place[key] = data.draw(json_values)
            break
        place = place[key]
    try:
        found = RootMetadata.from_attributes(root)
    except ZVError:
        return
    assert RootMetadata.from_attributes(found.to_attributes()).to_attributes().keys() == ROOT.keys()


# ---- levels


def test_level_comes_back_as_it_was():
    attrs = {"zarr_vectors_level": LEVEL}
    level = LevelMetadata.from_attributes(attrs)
    assert level.to_attributes() == attrs
    assert list(level.to_attributes()["zarr_vectors_level"]) == list(LEVEL)
    assert level.chunk_attribute_values == ("a", 2, True)
    assert pickle.loads(pickle.dumps(level)) == level


def test_a_new_level_is_what_writers_of_0_7_store():
    level = LevelMetadata(level=0, vertex_count=7, arrays_present=("vertices",))
    assert level.to_attributes() == {
        "zarr_vectors_level": {
            "level": 0,
            "object_sparsity": 1.0,
            "vertex_count": 7,
            "coarsening_method": "none",
            "parent_level": None,
            "arrays_present": ["vertices"],
        }
    }


def test_unknown_keys_of_a_level_are_kept():
    attrs = {"zarr_vectors_level": LEVEL | {"bin_shape": [2.0, 2.0, 2.0]}}
    level = LevelMetadata.from_attributes(attrs)
    assert level.extra == {"bin_shape": [2.0, 2.0, 2.0]}
    assert level.to_attributes() == attrs


def test_chunks_of_a_level_are_multiples_of_the_roots():
    level = LevelMetadata.from_attributes({"zarr_vectors_level": LEVEL})
    assert level.chunk_shape_in((50.0, 25.0, 100.0)) == (100.0, 100.0, 100.0)
    assert replace(level, chunk_shape=None).chunk_shape_in((50.0, 25.0)) == (50.0, 25.0)
    for root in ((50.0, 50.0), (30.0, 50.0, 50.0), (200.0, 50.0, 50.0)):
        fails(MetadataError, "chunk_shape", level.chunk_shape_in, root)


WRONG_LEVELS = {
    "level": [..., -1, "2", True],
    "vertex_count": [..., 1.5, -1],
    "arrays_present": [..., [1]],
    "object_sparsity": [0, 1.5, float("nan")],
    "coarsening_method": [None],
    "parent_level": [2, -1],
    "chunk_shape": [[], [1.0, 0.0], 3],
    "chunk_dims": ["xyz"],
    "chunk_attribute_name": [..., 3],
    "chunk_attribute_values": [..., 3, [[1]]],
    "preserves_object_ids": [1],
    "inherited_num_objects": [-1, "3"],
    "shared_fragments": [None],
    "fragments_tile": ["yes"],
}


@pytest.mark.parametrize("key", WRONG_LEVELS)
def test_wrong_level_documents_are_refused_by_key(key):
    for value in WRONG_LEVELS[key]:
        document = {k: v for k, v in (LEVEL | {key: value}).items() if v is not ...}
        fails(MetadataError, key, LevelMetadata.from_attributes, {"zarr_vectors_level": document})


@pytest.mark.parametrize("attrs", [{}, {"zarr_vectors_level": 3}, {"zarr_vectors_level": {}}])
def test_a_group_that_is_no_level_is_refused(attrs):
    fails(MetadataError, "zarr_vectors_level", LevelMetadata.from_attributes, attrs)
