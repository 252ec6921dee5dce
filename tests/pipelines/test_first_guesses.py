"""What is tried first by who has not read the documentation works, or is refused with the line that does."""

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from small import always

import dask_zv as dzv

N = 60
CHUNK = (10, 10, 10)
RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(RNG.uniform(0, 30, (N, 3)), columns=list("zyx")).assign(
    row=np.arange(N), kind=np.array(["a", "b"])[np.arange(N) % 2]
)

_small = always(scheduler="sync")


def new(geometry="points", **options):
    return dzv.create({}, geometry=geometry, chunk_shape=CHUNK, **options)


def by_row(store):
    """Return the table that a store of points holds, in the order of its column "row"."""
    found = store.level(0).read()
    columns = {**dict(zip(store.axes, found.positions.T, strict=True)), **found.attributes}
    return pd.DataFrame(columns).sort_values("row", ignore_index=True)


SYNONYMS = {
    "point_cloud": "point points point_cloud point_clouds",
    "line": "line lines",
    "polyline": "polyline polylines track tracks",
    "streamline": "streamline streamlines",
    "skeleton": "skeleton skeletons neuron neurons",
    "graph": "graph graphs network networks",
    "mesh": "mesh meshes surface surfaces",
}


@pytest.mark.parametrize("geometry", SYNONYMS)
def test_geometries_have_synonyms_and_plurals(geometry, tmp_path):
    for name in SYNONYMS[geometry].split():
        assert new(name).metadata.geometry_types == (geometry,)
    for near in (SYNONYMS[geometry].split()[-1][:-1] + "z", geometry.title()):
        with pytest.raises(dzv.InputError, match=f"geometry '{near}': one of point_cloud, line.*did you mean '"):
            new(near)
    if geometry == "point_cloud":
        dzv.write_points(dzv.create(tmp_path / "points.zv", chunk_shape=CHUNK), TABLE)
        ds = xr.open_dataset(tmp_path / "points.zv", engine="zv")
        ds.zv.to_store(tmp_path / "copy.zv", geometry="points")
        assert dzv.open(tmp_path / "copy.zv").metadata.geometry_types == ("point_cloud",)


NEAR = {
    "a keyword": (
        lambda: dzv.write_points(new(), TABLE, atributes="row"),
        TypeError,
        "unexpected keyword.*did you mean 'attributes'",
    ),
    "a keyword of create": (
        lambda: dzv.write_points(new(), TABLE, overwrite=True),
        TypeError,
        "'overwrite'; here it is mode='overwrite'",
    ),
    "a file": (lambda: dzv.write_points(new(), "points.csv"), dzv.InputError, "not a str: a file is read first"),
    "a dict": (lambda: dzv.write_points(new(), {"x": [1.0]}), dzv.InputError, r"not a dict: pandas.DataFrame\(...\)"),
    "dates as an axis": (
        lambda: dzv.write_points(new(), TABLE.assign(z=pd.Timestamp("2026"))),
        dzv.InputError,
        "'z' is an axis.*dates are numbers first.*total_seconds",
    ),
    "columns of other names": (
        lambda: dzv.write_points(new(), TABLE.rename(columns={"x": "lon"})),
        dzv.InputError,
        r"unknown column 'x' for an axis.*axes=\[...\] names others",
    ),
    "an array for each axis": (
        lambda: dzv.write_points(new(), np.zeros((3, 60))),
        dzv.InputError,
        r"shape \(N, 3\).*not \(3, 60\); transposed",
    ),
    "options by place": (
        lambda: dzv.write_meshes(new("mesh"), np.zeros((3, 3)), [[0, 1, 2]]),
        TypeError,
        r"all but store, positions are given by name",
    ),
    "lists in a column": (
        lambda: dzv.write_points(new(), TABLE.assign(row=[[1]] * N)),
        dzv.InputError,
        "Python objects must be strings; give numbers",
    ),
    "a long name": (
        lambda: dzv.write_points(new(), TABLE.assign(**{"a" * 300: 1})),
        dzv.InputError,
        "at most 255 bytes",
    ),
    "a function": (lambda: dzv.write_point, AttributeError, "did you mean 'write_points'"),
    "a layout": (lambda: new(layout="gird"), dzv.InputError, "did you mean 'grid'"),
    "an order": (lambda: written().read(order="chunks"), dzv.InputError, "did you mean 'chunk'"),
    "an attribute": (lambda: written().read(attributes=["kinds"]), dzv.InputError, "did you mean 'kind'"),
}


def written(**options):
    store = new()
    dzv.write_points(store, TABLE, **options)
    return store.level(0)


@pytest.mark.parametrize("what", NEAR)
def test_near_misses_are_told(what):
    call, error, said = NEAR[what]
    with pytest.raises(error, match=said):
        call()


def test_nothing_is_guessed_for_what_is_near_to_nothing():
    with pytest.raises(dzv.InputError, match="one of point_cloud, line, polyline, streamline, skeleton, graph, mesh$"):
        new("raster")


def test_columns_are_found_by_the_names_of_the_axes():
    """The columns of a table, and the labelled columns of a DataArray, may be in any order; those of an array are in the store's."""
    wanted = TABLE[["x", "y", "z", "row"]].rename_axis(columns=None)
    labelled = xr.DataArray(TABLE[["z", "y", "x"]], dims=("row", "axis"), coords={"axis": ["z", "y", "x"]})
    forms = {
        "pandas": TABLE,
        "dask": dd.from_pandas(TABLE, npartitions=3),
        "labelled": labelled,
        "labelled, lazily": labelled.chunk(row=20),
        "array": TABLE[["x", "y", "z"]].to_numpy(),
    }
    for form, positions in forms.items():
        store = new()
        dzv.write_points(store, positions, attributes="row" if form in ("pandas", "dask") else {"row": TABLE["row"].to_numpy()})
        pd.testing.assert_frame_equal(by_row(store), wanted), form


def test_one_attribute_by_its_name():
    assert list(written(attributes="kind").read().attributes) == ["kind"]


def test_a_mapping_names_columns_and_holds_others():
    lazy = dd.from_pandas(TABLE, npartitions=3)
    for positions in (TABLE, lazy):
        for column in (lazy["row"] * 2, *([TABLE["row"] * 2] if positions is TABLE else [(lazy["row"] * 2).to_dask_array()])):
            store = new()
            dzv.write_points(store, positions, attributes={"twice": column, "row": "row", "sort": "kind"})
            found = by_row(store)
            assert (found["twice"] == 2 * TABLE["row"]).all()
            assert (found["sort"] == TABLE["kind"]).all()


def test_lazy_columns_beside_what_is_in_memory():
    lazy = dd.from_pandas(TABLE, npartitions=3)
    points, chain = TABLE[["x", "y", "z"]].to_numpy(), lazy["row"] - 1
    assert (
        dzv.write_points(new(), points, attributes={"row": lazy["row"]}, object_ids=lazy["row"].to_dask_array() % 3).objects
        == 3
    )
    store = new("skeleton")
    dzv.write_skeletons(store, points, parents=chain)
    assert len(store.level(0).read().edges) == N - 1
    with pytest.raises(dzv.InputError, match="positions and of 'row' have different indexes"):
        dzv.write_points(new(), TABLE[::-1], attributes={"row": lazy["row"]})


def test_names_for_ids_by_the_line_that_the_error_tells():
    with pytest.raises(dzv.InputError, match="codes, names = pandas.factorize") as told:
        written(object_ids="kind")
    assert "object_attributes={'name': names}" in str(told.value)
    codes, names = pd.factorize(TABLE["kind"])
    store = written(object_ids=codes, object_attributes={"name": names}).store
    found = store.level(0).read(objects=1)
    assert set(found.attributes["kind"]) == {"b"} == set(found.object_attributes["name"])


@pytest.mark.parametrize(("ids", "gaps"), [([3, 5], True), ([3, 4], False)])
def test_gaps_are_told_where_there_are_any(ids, gaps):
    level = written(object_ids=np.array(ids)[np.arange(N) % 2])
    with pytest.raises(dzv.NotFoundError, match=f"no object 7: the 2 ids are 3 to {ids[1]}(, with gaps)? ") as told:
        level.read(objects=7)
    assert ("with gaps" in str(told.value)) == gaps


# ---------------------------------------------------------------------------------------------- stores by their path


def test_a_path_makes_the_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    axes = [{"name": a, "unit": "micrometer"} for a in "xyz"]
    report = dzv.write_points("a.zv", TABLE, chunk_shape=CHUNK, axes=axes, dtype="f4", shard_chunks=8, layout="grid")
    store = dzv.open("a.zv")
    assert (report.rows, store.metadata.axes[0].unit, store.level(0).read().positions.dtype) == (N, "micrometer", np.float32)
    assert np.allclose(store.metadata.bounds, [TABLE[list("xyz")].min(), TABLE[list("xyz")].max()], atol=1e-5)
    assert "written before" in repr(dzv.write_points("a.zv", TABLE))
    with pytest.raises(dzv.StoreError, match="60 vertices already: pass mode='overwrite'"):
        dzv.write_points("a.zv", TABLE[:30])
    assert dzv.write_points("a.zv", TABLE[:30], mode="overwrite", chunk_shape=CHUNK).rows == 30
    with pytest.raises(dzv.InputError, match=r"chunk_shape: \[10.0, 10.0, 10.0\] there, \[5.0, 5.0, 5.0\] asked for"):
        dzv.write_points("a.zv", TABLE, chunk_shape=(5, 5, 5), mode="overwrite")
    with pytest.raises(dzv.InputError, match="no store is here: pass chunk_shape="):
        dzv.write_points("b.zv", TABLE)
    for wrong in (TABLE.assign(x="a"), TABLE.assign(x=np.nan), TABLE.drop(columns="z")):
        with pytest.raises(dzv.InputError):
            dzv.write_points("b.zv", wrong, chunk_shape=CHUNK)
    with pytest.raises(dzv.BoundsError):
        dzv.write_points("b.zv", TABLE, chunk_shape=CHUNK, bounds=((0, 0, 0), (1, 1, 1)))
    with pytest.raises(dzv.InputError, match="a DataFrame is not a supported target"):
        dzv.write_points(TABLE, "a.zv")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zv"]  # a call that is refused leaves nothing


def test_every_function_takes_a_path(tmp_path):
    points = TABLE[["x", "y", "z"]].to_numpy()
    calls = {
        "line": (dzv.write_lines, points.reshape(-1, 2, 3), {}),
        "polyline": (dzv.write_polylines, points, {"lengths": [20, 40]}),
        "streamline": (dzv.write_polylines, points, {"lengths": [20, 40], "geometry": "streamlines"}),
        "skeleton": (dzv.write_skeletons, points, {"parents": np.arange(N) - 1}),
        "graph": (dzv.write_graph, points, {"edges": [[0, 1], [1, 2]]}),
        "mesh": (dzv.write_meshes, points, {"faces": [[0, 1, 2]]}),
    }
    for geometry, (write, positions, more) in calls.items():
        target = tmp_path / f"{geometry}.zv"
        assert write(target, positions, chunk_shape=CHUNK, **more).rows == N
        assert dzv.open(target).metadata.geometry_types == (geometry,)
        assert write(target, positions, **more).blocks == 0
    with pytest.raises(dzv.InputError, match="geometry: polyline there, streamline asked for"):
        dzv.write_polylines(tmp_path / "polyline.zv", points, lengths=[20, 40], geometry="streamline")
    with pytest.raises(dzv.InputError, match="geometry 'mesh': one of polyline, streamline"):
        dzv.write_polylines(tmp_path / "m.zv", points, lengths=[20, 40], geometry="mesh", chunk_shape=CHUNK)
    plan = dzv.write_points(tmp_path / "lazy.zv", points, chunk_shape=CHUNK, compute=False)
    assert dzv.open(tmp_path / "lazy.zv").level(0).metadata.vertex_count == 0
    assert plan.compute().rows == N


def test_what_is_said_of_a_store_that_is_open_is_compared():
    assert dzv.write_points(new(), TABLE, chunk_shape=CHUNK, axes=["x", "y", "z"]).rows == N
    with pytest.raises(dzv.InputError, match="chunk_shape: .* asked for"):
        dzv.write_points(new(), TABLE, chunk_shape=(5, 5, 5))
    with pytest.raises(dzv.InputError, match="storage_options open a target"):
        dzv.write_points(new(), TABLE, storage_options={"key": "k"})


BOX = ((0, 0, 0), (30, 30, 30))
MADE = {
    "axes": [{"name": "a", "unit": "m"}, "b", "c"],
    "bounds": BOX,
    "bin_shape": (5, 5, 5),
    "crs": {"type": "EPSG", "code": 4978},
    "dtype": "f4",
    "shard_chunks": 8,
    "compressor": "blosc",
}
OTHERS = {
    "geometry": "tracks",
    "chunk_shape": (5, 5, 5),
    "axes": [{"name": "a", "unit": "km"}, "b", "c"],
    "bounds": ((-1, 0, 0), (30, 30, 30)),
    "bin_shape": (2, 5, 5),
    "crs": {"type": "EPSG", "code": 4326},
    "dtype": "f8",
    "shard_chunks": 16,
    "compressor": None,
    "layout": "per_chunk",
}


def test_a_store_that_is_there_is_opened_where_it_is_as_asked_for(tmp_path):
    target = tmp_path / "s.zv"
    made = dzv.create(target, chunk_shape=CHUNK, exist_ok=True, **MADE)
    for same in (MADE, {}, {"axes": ["a", "b", "c"]}, {"bounds": ((1, 1, 1), (2, 2, 2))}):
        again = dzv.create(target, chunk_shape=np.array(CHUNK), exist_ok=True, **same)
        assert (again.url, again.read_only) == (made.url, False)
    for name, value in OTHERS.items():
        asked = {"chunk_shape": CHUNK, **MADE, name: value}
        if name == "layout":
            asked |= {"shard_chunks": 8, "compressor": "auto"}
        with pytest.raises(dzv.InputError, match=f"with other settings: {name}: .* there, .* asked for[^;]*overwrite=True"):
            dzv.create(target, exist_ok=True, **asked)
    with pytest.raises(dzv.InputError, match="pass one of them"):
        dzv.create(target, chunk_shape=CHUNK, exist_ok=True, overwrite=True)
    with pytest.raises(dzv.StoreError, match="holds a store already.*exist_ok=True"):
        dzv.create(target, chunk_shape=CHUNK)


def test_what_writing_changes_of_a_store_is_no_difference(tmp_path):
    """Bounds that are those of the data, or were expanded; units that the positions brought."""
    target, far = tmp_path / "s.zv", xr.DataArray(TABLE[["x", "y", "z"]] * 2, attrs={"units": "m"})
    ask = {"chunk_shape": CHUNK, "bounds": BOX, "axes": ["x", "y", "z"], "exist_ok": True}
    for _ in range(2):
        report = dzv.write_points(dzv.create(target, **ask), far, out_of_bounds="expand")
    assert report.blocks == 0
    assert dzv.open(target).metadata.axes[0].unit == "m"
    other = tmp_path / "data.zv"
    for _ in range(2):
        dzv.write_points(dzv.create(other, chunk_shape=CHUNK, exist_ok=True), far)
    with pytest.raises(dzv.InputError, match="bounds: those of the data there"):
        dzv.create(other, chunk_shape=CHUNK, bounds=BOX, exist_ok=True)


def test_other_hierarchies_are_refused(tmp_path):
    dzv.open_group(tmp_path / "g.zarr", "w").attrs["mine"] = 1
    for call in (dzv.create, lambda t, **k: dzv.write_points(t, TABLE, chunk_shape=CHUNK)):
        with pytest.raises(dzv.StoreError, match="a Zarr group of something else is here: choose another path"):
            call(tmp_path / "g.zarr", chunk_shape=CHUNK, exist_ok=True)
        with pytest.raises(dzv.InputError, match="a zip file is opened for reading only; write to a directory"):
            call(tmp_path / "g.zip", chunk_shape=CHUNK)


def test_a_level_without_its_document_is_told(tmp_path):
    dzv.write_points(tmp_path / "s.zv", TABLE, chunk_shape=CHUNK)
    (tmp_path / "s.zv" / "0" / "zarr.json").unlink()
    with pytest.raises(dzv.MetadataError, match="document zarr.json is missing.*copy it back"):
        xr.open_dataset(tmp_path / "s.zv", engine="zv")
    assert "document zarr.json is missing" in repr(dzv.open(tmp_path / "s.zv"))
