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
    "skeleton": "skeleton skeletons",
    "graph": "graph graphs",
    "mesh": "mesh meshes",
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
