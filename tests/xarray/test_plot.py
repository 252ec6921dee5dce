"""``ds.zv.plot``: what is drawn is what the store holds, no more than a screen shows, and it says what it leaves out."""

from __future__ import annotations

import sys

import dask
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from comparing import cloud, opened
from counting_store import CountingStore
from refusals import fails
from test_views import KINDS, Golden, random_store
from zarr.storage import MemoryStore

import dask_zv as dzv
from dask_zv.errors import InputError
from dask_zv.viz import Plot, choose_level, plot_tree

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.colors import to_rgba


@pytest.fixture(autouse=True)
def _clean():
    with dask.config.set(scheduler="sync"), mpl.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


@pytest.fixture(scope="module")
def stores():
    return {kind: random_store(kind) for kind in KINDS}


def view(store, name="spatial", **options):
    return opened(store, name, **options)


def places(ds, dims="xy"):
    return np.stack([ds[d].values for d in dims], axis=1)


def drawn(ax):
    """Draw, as a window would, so that what only fails then fails here."""
    ax.figure.canvas.draw()
    return ax


def test_the_accessor_leads_here_and_current_axes_are_the_default(stores, ax, written):
    assert view(stores["point_cloud"]).zv.plot(ax).axes is ax
    assert view(stores["point_cloud"]).zv.plot.chunks(ax).axes is ax
    ax = plt.figure().add_subplot()
    assert Plot(written.open())().axes is ax


@pytest.mark.parametrize("name", ["spatial", "objects"])
@pytest.mark.parametrize("dims", [None, ("x", "z"), "zy"])
def test_points_are_where_the_vertices_are(stores, ax, name, dims):
    ds = view(stores["point_cloud"], name)
    found = Plot(ds)(ax, dims=dims)
    assert found.axes is ax
    np.testing.assert_array_equal(found.get_offsets(), places(ds, dims or "xy"))
    drawn(ax)


def test_numbers_get_a_scale_and_a_colour_bar(stores, ax):
    ds = view(stores["point_cloud"])
    found = Plot(ds).points(ax, color="mass", vmin=-1)
    np.testing.assert_array_equal(found.get_array(), ds.mass)
    assert found.get_clim() == (-1, ds.mass.values.max())
    assert [a.get_ylabel() for a in ax.figure.axes if a is not ax] == ["mass"]
    drawn(ax)
    Plot(ds).points(plt.figure().gca(), color="mass", add_colorbar=False)
    assert len(plt.gcf().axes) == 1


def test_text_gets_a_legend(stores, ax):
    ds = view(stores["point_cloud"])
    found = Plot(ds).points(ax, color="kind")
    entries = {t.get_text(): h.get_color() for t, h in zip(ax.get_legend().texts, ax.get_legend().legend_handles, strict=True)}
    assert set(entries) == {"a", "b", "c"}
    assert len({tuple(to_rgba(c)) for c in entries.values()}) == 3
    for text, colour in entries.items():
        np.testing.assert_allclose(
            found.get_facecolors()[ds.kind.values == text], [to_rgba(colour)] * int((ds.kind == text).sum())
        )
    drawn(ax)


@pytest.mark.parametrize("name", ["spatial", "objects"])
def test_objects_colour_their_points(stores, ax, name):
    ds = view(stores["point_cloud"], name)
    owners = ds.object_id.values if name == "spatial" else np.repeat(ds.object.values, ds.node_count.values)
    score = dict(zip(ds.object.values.tolist(), ds.score.values.tolist(), strict=True))
    found = Plot(ds).points(ax, color="score")
    np.testing.assert_array_equal(found.get_array(), [score[o] for o in owners.tolist()])


@pytest.mark.parametrize("kind", ["point_cloud", "skeleton", "mesh"])
@pytest.mark.parametrize("name", ["score", "label", "object"])
def test_vertices_of_objects_that_are_not_there_are_grey(stores, ax, kind, name):
    ds = view(stores[kind])
    ds["label"] = ("object", np.where(ds.score > 0, "up", "down"))
    some = ds.drop_vars("object_table").isel(object=slice(5, 12))
    found = Plot(some)(ax, color=name, cmap="plasma", **({"shade": None} if kind == "mesh" else {}))
    drawn(ax)
    first = {
        "point_cloud": np.arange(len(ds.x)),
        "skeleton": lambda: ds.edges.values[:, 0],
        "mesh": lambda: faces_back_to_front(ds),
    }[kind]
    owners = ds.object_id.values[first if kind == "point_cloud" else first()]
    grey = (found.get_facecolors() if kind != "skeleton" else found.get_colors()) == to_rgba("lightgrey")
    np.testing.assert_array_equal(grey.all(axis=1), ~np.isin(owners, some.object.values))


def faces_back_to_front(ds):
    return ds.faces.values[np.argsort(ds.z.values.astype(float)[ds.faces.values].mean(axis=1), kind="stable")][:, 0]


def test_attributes_of_every_type_colour_points(written, ax):
    ds = written.open()
    for name in ("mass", "flag", "colour", "kind", "maybe", "when", "object_id", "z"):
        Plot(ds).points(plt.figure().gca(), color=name)
        drawn(plt.gca())
    rgb = Plot(ds).points(ax, color="colour").get_facecolors()
    np.testing.assert_allclose(rgb[:, :3], ds.colour.values / 255)
    grey = Plot(ds).points(ax, color="maybe").get_facecolors()[[not isinstance(v, str) for v in ds.maybe.values]]
    np.testing.assert_allclose(grey, [to_rgba("lightgrey")] * len(grey))
    assert len(grey)
    np.testing.assert_allclose(Plot(ds).points(ax, color="tab:red").get_facecolors(), [to_rgba("tab:red")])


def test_options_reach_the_artist_and_later_points_lie_on_lines(stores, ax):
    found = Plot(view(stores["point_cloud"])).points(ax, s=7, alpha=0.5, zorder=9)
    assert (found.get_sizes().tolist(), found.get_alpha(), found.get_zorder()) == ([7], 0.5, 9)
    lines, points = Plot(view(stores["skeleton"]))(ax), Plot(view(stores["point_cloud"]))(ax)
    assert lines.get_zorder() <= points.get_zorder()  # equal ones are drawn in the order in which they came


def histogram(image, points):
    """Return numpy's own counts in the cells of an image."""
    x0, x1, y0, y1 = image.get_extent()
    ny, nx = image.get_array().shape
    return np.histogram2d(points[:, 0], points[:, 1], [nx, ny], [[x0, x1], [y0, y1]])[0].T


@pytest.mark.parametrize("chunks", [None, {}, 100])
@pytest.mark.parametrize("dims", ["xy", "zy"])
def test_many_points_are_counted(written, ax, override, chunks, dims):
    override(plot_rows=170)
    ds = written.open().chunk(vertex=100) if chunks == 100 else written.open(chunks=chunks)
    found = Plot(ds).points(ax, dims=dims, max_vertices=100)
    counts = found.get_array().filled(0)
    assert counts.sum() == len(written.positions)
    assert counts.size > 1000
    expected = histogram(found, places(ds, dims).astype(float))
    assert abs(counts - expected).sum() <= 4  # a point on an edge may be on either side of it
    drawn(ax)


def test_a_raster_fits_its_vertices(written, ax):
    for ds in (written.open(), written.open().load().drop_indexes(["x", "y", "z", "vertex"])):
        part = ds.isel(vertex=np.flatnonzero((ds.x > 11) & (ds.x < 14) & (ds.y > 1) & (ds.y < 4)))
        assert len(part.x) > 5
        found = Plot(part).density(ax)
        x0, x1, y0, y1 = found.get_extent()
        assert 10.9 < x0 < x1 < 14.1
        assert 0.9 < y0 < y1 < 4.1
        assert found.get_array().sum() == part.sizes["vertex"]


def test_a_raster_reads_positions_once_and_keeps_nothing(counted, ax):
    ds = counted.open()
    counted.target.forget()
    Plot(ds).density(ax)
    assert {array for array, _ in counted.target.blobs} <= {"vertices", "vertex_fragments"}
    assert set(counted.target.blobs.values()) == {1}
    assert not ds.variables["x"]._in_memory


def test_means_of_numbers_on_a_raster(stores, ax):
    ds = view(stores["point_cloud"]).chunk(vertex=300)
    found = Plot(ds).points(ax, color="mass", max_vertices=10)
    counts = histogram(found, places(ds))
    x0, x1, y0, y1 = found.get_extent()
    sums = np.histogram2d(ds.x, ds.y, counts.shape[::-1], [[x0, x1], [y0, y1]], weights=ds.mass)[0].T
    one = counts > 0
    np.testing.assert_allclose(found.get_array().filled(np.nan)[one], (sums[one] / counts[one]), rtol=1e-9)
    assert found.get_array().mask[~one].all()


def test_a_sample_of_every_kth_point(written, ax, override):
    override(plot_rows=333)
    ds = written.open()
    found = Plot(ds).points(ax, color="kind", max_vertices=300)
    np.testing.assert_array_equal(found.get_offsets(), written.positions[::7, :2])
    assert "286 of 2,000 vertices" in ax.get_title()
    lazy = Plot(written.open(chunks={})).points(ax, color="kind", max_vertices=300)
    np.testing.assert_array_equal(lazy.get_offsets(), found.get_offsets())
    np.testing.assert_array_equal(lazy.get_facecolors(), found.get_facecolors())
    every = Plot(ds).points(ax, how="scatter", max_vertices=300)
    assert len(every.get_offsets()) == 2000
    assert isinstance(Plot(ds).points(ax, how="raster"), mpl.image.AxesImage)


@pytest.mark.parametrize("dims", ["xy", "xz"])
def test_paths_are_lines(stores, ax, dims):
    ds = view(stores["polyline"], "objects")
    found = Plot(ds)(ax, dims=dims)
    expected = np.split(places(ds, dims), np.cumsum(ds.node_count.values)[:-1])
    for segment, path in zip(found.get_segments(), expected, strict=True):
        np.testing.assert_array_equal(segment, path)
    assert "1,384 vertices, 40 objects" in ax.get_title()
    drawn(ax)


def test_paths_coloured_by_objects_and_by_vertices(stores, ax):
    ds = view(stores["polyline"], "objects")
    np.testing.assert_array_equal(Plot(ds)(ax, color="score").get_array(), ds.score)
    found = Plot(ds).lines(ax, color="mass")
    steps = np.concatenate([np.stack([p[:-1], p[1:]], 1) for p in np.split(places(ds), np.cumsum(ds.node_count.values)[:-1])])
    np.testing.assert_array_equal(found.get_segments(), steps)
    means = np.concatenate([(m[:-1] + m[1:]) / 2 for m in np.split(ds.mass.values, np.cumsum(ds.node_count.values)[:-1])])
    np.testing.assert_allclose(found.get_array(), means)


@pytest.mark.parametrize("kind", ["skeleton", "graph"])
def test_edges_are_lines(stores, ax, kind):
    ds = view(stores[kind])
    found = Plot(ds)(ax)
    np.testing.assert_array_equal(found.get_segments(), places(ds)[ds.edges.values])
    owners = ds.object_id.values[ds.edges.values[:, 0]]
    colours = found.get_colors()
    assert all(len(np.unique(colours[owners == o], axis=0)) == 1 for o in np.unique(owners))
    drawn(ax)


def test_skeletons_and_attributes_of_edges(stores, ax):
    ds = view(stores["skeleton"], "objects")
    found = Plot(ds)(ax)
    child = np.flatnonzero(ds.parent.values >= 0)
    np.testing.assert_array_equal(found.get_segments(), places(ds)[np.stack([child, ds.parent.values[child]], 1)])
    ds = view(stores["graph"])
    np.testing.assert_array_equal(Plot(ds).lines(ax, color="weight").get_array(), ds.weight)


def test_selections_draw_the_links_inside(stores, ax):
    ds = view(stores["graph"])
    inside = (ds.x.values > 30) & (ds.y.values < 50)
    kept = inside[ds.edges.values].all(axis=1)
    found = Plot(ds.isel(vertex=np.flatnonzero(inside))).lines(ax, color="weight")
    np.testing.assert_array_equal(found.get_segments(), places(ds)[ds.edges.values[kept]])
    np.testing.assert_array_equal(found.get_array(), ds.weight.values[kept])


def test_links_are_looked_through_in_blocks(stores, ax, override):
    override(plot_rows=100)
    override(plot_least_rows=1)
    for kind, draw, values in (("graph", "lines", "get_segments"), ("mesh", "mesh", "get_paths")):
        ds = view(stores[kind]).isel(vertex=slice(200, 290))
        found = len(getattr(getattr(Plot(ds), draw)(ax, color="grey"), values)())
        name = "edges" if kind == "graph" else "faces"
        assert found == ((ds[name].values >= 200) & (ds[name].values < 290)).all(axis=1).sum() > 0


def corners(collection):
    return np.stack([p.vertices[:-1] for p in collection.get_paths()])


def ordered(faces):
    return faces[np.lexsort(faces.reshape(len(faces), -1).T)]


@pytest.mark.parametrize("shade", ["normal", "depth", None])
@pytest.mark.parametrize("dims", ["xy", "zx"])
def test_faces_are_polygons(stores, ax, dims, shade):
    ds = view(stores["mesh"])
    found = Plot(ds).mesh(ax, dims=dims, shade=shade)
    np.testing.assert_array_equal(ordered(corners(found)), ordered(places(ds, dims).astype(float)[ds.faces.values]))
    drawn(ax)


@pytest.mark.parametrize(("dims", "sign"), [("xy", 1), ("yx", -1), ("xz", -1), ("zy", -1), ("yz", 1)])
@pytest.mark.parametrize("inverted", [False, True])
def test_far_faces_come_first(stores, ax, dims, sign, inverted):
    ds = view(stores["mesh"])
    depth = next(a for a in "xyz" if a not in dims)
    if inverted:
        ax.invert_yaxis()
    found = corners(Plot(ds).mesh(ax, dims=dims))
    towards_eye = ds[depth].values.astype(float)[ds.faces.values].mean(axis=1) * (-sign if inverted else sign)
    np.testing.assert_array_equal(
        found, places(ds, dims).astype(float)[ds.faces.values][np.argsort(towards_eye, kind="stable")]
    )


def test_faces_coloured_by_an_attribute_without_light(stores, ax):
    ds = view(stores["mesh"])
    found = Plot(ds)(ax, color="area", shade=None, cmap="plasma")
    order = np.argsort(ds.z.values.astype(float)[ds.faces.values].mean(axis=1), kind="stable")
    area = ds.area.values
    expected = mpl.colormaps["plasma"]((area - area.min()) / (area.max() - area.min()))[order]
    np.testing.assert_allclose(found.get_facecolors(), expected)


def test_light_comes_from_above(ax):
    corner = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 1], [5, 1, 1], [5.1, 0, 0]], np.float32)
    store = dzv.create({}, geometry="mesh", chunk_shape=(10, 10, 10))
    dzv.write_meshes(store, corner, faces=np.array([[0, 1, 2], [3, 4, 5]]))
    found = Plot(view(store)).mesh(ax, color="red")
    flat, steep = (found.get_facecolors()[i, 0] for i in np.argsort(corners(found)[:, 0, 0]))
    assert flat > steep + 0.2


@pytest.mark.parametrize("name", ["spatial", "objects"])
def test_the_chunk_map_reads_nothing(counted, ax, name):
    ds = counted.open(view=name)
    counted.target.forget()
    found = Plot(ds).chunks(ax, dims="xz")
    drawn(ax)
    assert counted.target.blobs == {}
    assert counted.target.log == []
    counts = np.histogram2d(counted.positions[:, 0], counted.positions[:, 2], [range(-20, 31, 10), range(-20, 41, 20)])[0].T
    shown = found.get_array().filled(0)
    np.testing.assert_array_equal(shown, counts[-shown.shape[0] :, -shown.shape[1] :])
    edges = found.get_coordinates()
    assert (edges[0, 0].tolist(), edges[-1, -1].tolist()) == ([-20, -20], [30, 40])
    assert f"2,000 vertices in {len(dzv.open(counted.target).level(0).chunks)} chunks" in ax.get_title()


def test_the_chunk_map_of_a_selection(written, ax):
    ds = written.open()
    for part in (ds.isel(vertex=slice(700, 1500)), ds.isel(vertex=[5, 900, 3])):
        found = Plot(part).chunks(ax)
        assert found.get_array().sum() == part.sizes["vertex"]
    ends = np.flatnonzero(np.diff(np.floor(written.positions / [10, 10, 20]), axis=0).any(axis=1))  # last rows of chunks
    for rows in (ends, ends + 1):
        found = Plot(ds.isel(vertex=rows)).chunks(ax)
        np.testing.assert_array_equal(found.get_array().filled(0), histogram_of(found, written.positions[rows]))
    fails(InputError, "alone would keep", lambda: Plot(written.open(view="objects").isel(object=[0])).chunks(ax))


def test_wide_grids_are_put_together(ax):
    rng = np.random.default_rng(0)
    positions = rng.uniform([3001, -9000], [8000, -4000], (3000, 2)).astype(np.float32)
    store = cloud(positions, (1, 1), axes=["x", "y"])
    found = Plot(view(store)).chunks(ax)
    assert max(found.get_array().shape) <= 1024
    assert found.get_array().sum() == 3000
    np.testing.assert_allclose(found.get_array().filled(0), histogram_of(found, positions))


def histogram_of(mesh, points):
    c = mesh.get_coordinates()
    return np.histogram2d(points[:, 0], points[:, 1], [c[0, :, 0], c[:, 0, 1]])[0].T


@pytest.mark.parametrize(
    ("kind", "name"), [("polyline", "objects"), ("skeleton", "objects"), ("skeleton", "spatial"), ("graph", "spatial")]
)
@pytest.mark.parametrize("loaded", [False, True])
def test_of_too_many_objects_some_whole_ones(stores, ax, kind, name, loaded):
    ds = view(stores[kind], name)
    if loaded:
        ds = ds.load().drop_indexes("vertex") if name == "spatial" else ds.load()
    found = Plot(ds)(ax, max_vertices=500)
    whole = dict(zip(*np.unique(owners_of(ds), return_counts=True), strict=True))
    shown = int(ax.get_title().rpartition("\n")[2].split()[0])
    assert f"{shown} of 40 objects" in ax.get_title()
    assert 5 < shown < 25
    key = {tuple(p): o for p, o in zip(places(ds).tolist(), owners_of(ds).tolist(), strict=True)}
    vertices = {tuple(p) for s in found.get_segments() for p in np.asarray(s).tolist()}
    owners = {key[p] for p in vertices}
    assert len(owners) == shown
    assert len(vertices) == sum(whole[o] for o in owners) <= 500  # no object of these is one vertex
    np.testing.assert_array_equal(
        np.concatenate(found.get_segments()), np.concatenate(Plot(ds)(ax, max_vertices=500).get_segments())
    )
    more = {tuple(p) for s in Plot(ds)(ax, max_vertices=900).get_segments() for p in np.asarray(s).tolist()}
    assert vertices < more


def owners_of(ds):
    return ds.object_id.values if "object_id" in ds else np.repeat(ds.object.values, ds.node_count.values)


def test_of_a_large_mesh_some_whole_objects(stores, ax):
    ds = view(stores["mesh"])
    found = corners(Plot(ds).mesh(ax, max_vertices=500))
    everything = places(ds).astype(float)[ds.faces.values]
    owner = ds.object_id.values[ds.faces.values[:, 0]]
    known = {face.tobytes(): o for face, o in zip(everything, owner, strict=True)}
    owners = {known[f.tobytes()] for f in found}
    assert len(found) == np.isin(owner, list(owners)).sum() < len(everything)
    assert "of 40 objects" in ax.get_title()


def test_some_objects_of_many_read_their_chunks_alone(ax):
    counter = CountingStore(MemoryStore())
    ends = np.arange(2000)[:, None] * [1.0, 1, 1] + np.random.default_rng(0).random((2000, 3))
    positions = np.repeat(ends, 4, axis=0).astype(np.float32)
    store = dzv.create(counter, geometry="polyline", chunk_shape=(5, 5, 5))
    dzv.write_polylines(store, positions, lengths=np.full(2000, 4))
    ds = view(dzv.open(counter), "objects")
    counter.forget()
    Plot(ds).lines(ax, max_vertices=400)
    assert "100 of 2,000 objects" in ax.get_title()
    assert 0 < len(counter.chunks()) <= 200


@pytest.mark.parametrize("name", ["spatial", "objects"])
def test_an_object_beyond_the_budget_is_left_out_alone(ax, name):
    sizes = np.array([500, *[10] * 30, 500])
    ids = np.repeat(np.arange(32), sizes)
    parents = np.arange(len(ids)) - 1
    parents[np.cumsum(sizes) - sizes] = -1
    store = dzv.create({}, geometry="skeleton", chunk_shape=(50, 50, 50))
    positions = np.random.default_rng(0).uniform(0, 100, (len(ids), 3)).astype(np.float32)
    dzv.write_skeletons(store, positions, parents=parents, object_ids=ids)
    found = Plot(view(store, name)).lines(ax, max_vertices=300)
    assert len(found.get_segments()) == 30 * 9
    assert "30 of 32 objects" in ax.get_title()


def test_objects_too_large_to_draw_are_counted_as_pixels_show(stores, ax):
    ds = view(stores["skeleton"])
    found = Plot(ds)(ax, max_vertices=1)
    assert found.get_array().sum() == 1384
    assert "1,384 vertices, counted" in ax.get_title()
    bare = ds.drop_vars(["object_id", "object_index", "object"])
    assert Plot(bare)(ax, max_vertices=1000).get_array().sum() == 1384
    n = 120_000
    store = cloud(np.random.default_rng(0).uniform(0, 100, (n, 2)).astype(np.float32), (50, 50))
    ds = view(store)
    assert len(Plot(ds)(ax).get_offsets()) == n  # 180,000 pixels
    small = plt.figure(figsize=(1, 1)).add_subplot()
    assert Plot(ds)(small).get_array().sum() == n


def test_labels_scales_and_title(written, ax):
    Plot(written.open())(ax, dims="xz")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x [micrometer]", "z [micrometer]")
    assert ax.get_aspect() == 1
    assert ax.get_title() == "points.zv, level 0\n2,000 vertices"
    assert ax.get_xlim()[0] < -11.5
    assert ax.get_ylim()[1] > 27.5


def test_what_is_there_stays(written, stores):
    figure, (ax, other) = plt.subplots(1, 2)
    plt.sca(other)
    ax.set(title="mine", xlabel="east")
    ax.plot([-100, 100], [0, 0])
    Plot(written.open())(ax, max_vertices=500)
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("mine", "east", "y [micrometer]")
    assert ax.get_xlim()[0] <= -100  # a raster does not take the limits for itself
    Plot(view(stores["polyline"], "objects"))(ax, max_vertices=500)
    assert ax.get_title().startswith("mine\n")
    assert "of 40 objects" in ax.get_title()
    assert plt.gca() is other
    assert plt.get_fignums() == [figure.number]


def test_units_that_differ_have_no_common_scale(ax):
    axes = [{"name": "t", "type": "time", "unit": "second"}, *({"name": a, "type": "space", "unit": "meter"} for a in "zyx")]
    store = cloud(np.random.default_rng(0).uniform(0, 100, (500, 4)).astype(np.float32), (10, 20, 30, 40), axes=axes)
    found = Plot(view(store)).density(ax, dims="xt")
    assert ax.get_aspect() == "auto"
    assert found.get_array().sum() == 500
    assert ax.get_ylabel() == "t [second]"
    ds = view(store)
    np.testing.assert_array_equal(Plot(ds)(plt.figure().gca()).get_offsets(), places(ds))  # x and y, not the first two
    found = Plot(ds).projections(kind="points")
    assert list(found) == [("x", "y"), ("x", "z"), ("z", "y")]
    np.testing.assert_array_equal(found["z", "y"].get_offsets(), places(ds, "zy"))
    ds["z"].attrs["units"] = "second"
    fails(InputError, "one scale", lambda: Plot(ds).projections())


@pytest.mark.parametrize("kind", [None, "points", "density", "chunks"])
@pytest.mark.parametrize("geometry", ["point_cloud", "skeleton", "mesh"])
def test_projections_share_scales(stores, geometry, kind):
    figure = plt.figure(figsize=(7, 6))
    ds = view(stores[geometry])
    found = Plot(ds).projections(figure, kind=kind)
    figure.canvas.draw()
    assert list(found) == [("x", "y"), ("x", "z"), ("z", "y")]
    assert {a.axes.figure for a in found.values()} == {figure}
    assert found["x", "z"].axes.get_xlim() == found["x", "y"].axes.get_xlim()
    assert found["z", "y"].axes.get_ylim() == found["x", "y"].axes.get_ylim()
    assert found["z", "y"].axes.get_xlim() == found["x", "z"].axes.get_ylim()
    scales = []
    for (a, b), artist in found.items():
        box = artist.axes.get_window_extent()
        x, y = artist.axes.get_xlim(), artist.axes.get_ylim()
        scales += [box.width / (x[1] - x[0]), box.height / (y[1] - y[0])]
        assert x[0] <= ds[a].values.min() <= ds[a].values.max() <= x[1]
        assert y[0] <= ds[b].values.min() <= ds[b].values.max() <= y[1]
        if kind in ("density", "chunks"):
            assert artist.get_array().sum() == 1384
        elif kind == "points":
            np.testing.assert_array_equal(artist.get_offsets(), places(ds, (a, b)))
    np.testing.assert_allclose(scales, scales[0])
    if kind in ("density", "chunks"):
        assert len({a.get_clim() for a in found.values()}) == 1
    assert "1,384 vertices" in figure.get_suptitle()


def test_projections_of_flat_data_make_room_for_their_bar(ax):
    positions = np.random.default_rng(0).uniform(0, [100, 100, 0.01], (300, 3)).astype(np.float32)
    store = cloud(positions, (50, 50, 50))
    found = Plot(view(store)).projections(kind="density")
    plt.gcf().canvas.draw()
    bar = plt.gcf().axes[3]
    assert bar.get_window_extent().height > 100
    assert all(not bar.get_window_extent().overlaps(a.axes.get_window_extent()) for a in found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_draw_is_an_empty_picture(stores, kind):
    for name in ("spatial", "objects"):
        ds = view(stores[kind], name)
        none = ds.zv.sel(objects=[]) if name == "objects" else ds.isel(vertex=slice(0, 0))
        Plot(none)(plt.figure().gca())
        assert "0 vertices" in drawn(plt.gca()).get_title()
        Plot(none).density(plt.figure().gca())
        drawn(plt.gca())


@pytest.fixture(scope="module")
def tree():
    positions = np.random.default_rng(3).uniform(0, 100, (4000, 3)).astype(np.float32)
    levels = {}
    for number, step in enumerate((1, 4, 16)):
        store = cloud(positions[::step], (20, 20, 20))
        levels[f"/{number}"] = view(store)
    return xr.DataTree.from_dict(levels)


def test_the_finest_level_that_fits(tree, ax):
    sizes = [tree[f"/{n}"].sizes["vertex"] for n in range(3)]
    assert sizes[0] > sizes[1] > sizes[2]
    for n, size in enumerate(sizes):
        assert tree.zv.level_for(max_vertices=size) == n
        assert choose_level(tree, None, size) == n
        assert choose_level(tree, None, size - 1) == min(n + 1, 2)
        found = plot_tree(tree, ax, max_vertices=size, kind="points")
        assert len(found.get_offsets()) == size
    box = ((10, 10, 0), (50, 50, 100))  # 16% of it, which cuts chunks
    assert choose_level(tree, box, 800) == 0
    assert choose_level(tree, box, 500) == 1
    whole = tree["/0"].to_dataset()
    found = plot_tree(tree, ax, bbox=box, max_vertices=900)
    inside = (whole.x >= 10) & (whole.x <= 50) & (whole.y >= 10) & (whole.y <= 50)
    np.testing.assert_array_equal(found.get_offsets(), places(whole)[inside.values])


def test_a_pyramid_of_paths(ax):
    store = Golden("golden_0.9/streamlines_pyramid").store
    tree = xr.open_datatree(store, engine="zv", view="objects")
    found = tree.zv.plot(ax, max_vertices=60)
    read = store.level(1).read(order="object")
    for segment, path in zip(found.get_segments(), np.split(read.positions[:, :2], np.cumsum(read.lengths)[:-1]), strict=True):
        np.testing.assert_array_equal(np.reshape(segment, (-1, 2)), path)
    assert "level 1" in ax.get_title()


def test_a_level_by_number_or_function(tree, ax):
    asked = []

    def second(*args):
        asked.append(args)
        return 1

    for level in (1, second):
        found = plot_tree(tree, ax, level=level, max_vertices=5000)
        assert len(found.get_offsets()) == tree["/1"].sizes["vertex"]
    assert asked[0][0] is tree
    assert asked[0][1:] == (None, 5000)
    fails(InputError, r"no level 7.*\[0, 1, 2\]", plot_tree, tree, ax, level=7)
    assert len(plot_tree(tree, kind="projections", level=2)) == 3
    assert plot_tree(tree, ax, kind="chunks").get_array().sum() == 4000
    fails(InputError, "no levels", lambda: plot_tree(xr.DataTree(), ax))
    fails(InputError, "kind is one of", plot_tree, tree, ax, kind="volume")
    fails(InputError, "axes of their own", plot_tree, tree, ax, kind="projections")


def test_what_cannot_be_drawn(stores, written, ax):
    points, paths = Plot(view(stores["point_cloud"])), Plot(view(stores["polyline"]))
    fails(InputError, "view='objects'", paths.lines, ax)
    fails(InputError, "no lines.*point_cloud", points.lines, ax)
    fails(InputError, "no faces.*point_cloud", points.mesh, ax)
    fails(InputError, "faces are in view='spatial'", lambda: Plot(view(stores["mesh"], "objects")).mesh(ax))
    fails(InputError, "edges are in view='spatial'", lambda: Plot(view(stores["graph"], "objects")).lines(ax))
    fails(InputError, "two of the axes", points, ax, dims=("x", "w"))
    fails(InputError, "two of the axes", points, ax, dims="xx")
    fails(InputError, "neither an attribute.*mass", points, ax, color="weigth")
    fails(InputError, "max_vertices", points, ax, max_vertices=0)
    fails(InputError, "how is one of", points.points, ax, how="cloud")
    fails(InputError, "how='sample'", points.points, ax, how="raster", color="kind")
    fails(InputError, "shade is one of", lambda: Plot(view(stores["mesh"])).mesh(ax, shade="phong"))
    fails(InputError, "kind is one of", points.projections, kind="volume")
    fails(InputError, "axes of two dimensions", lambda: points(plt.figure().add_subplot(projection="3d")))
    fails(InputError, "axes of two dimensions", points, ("x", "y"))
    fails(InputError, "vertex", lambda: Plot(xr.Dataset())(ax))
    wide = written.open().rename(colour="wide")
    wide["wide"] = wide["mass"].expand_dims(channel=2, axis=1)
    fails(InputError, r"channels.*isel\(channel=0\)", lambda: Plot(wide)(ax, color="wide"))
    flat = dzv.create({}, chunk_shape=(50, 50))
    dzv.write_points(flat, np.ones((5, 2), np.float32))
    fails(InputError, "three axes", lambda: Plot(view(flat)).projections())
    ds = view(stores["polyline"], "objects").isel(vertex=slice(0, 700))
    for budget in (100, None):
        with pytest.raises(InputError, match="keep both in step"):
            Plot(ds).lines(ax, max_vertices=budget)


def test_without_matplotlib(stores, tree, monkeypatch):
    ds = view(stores["point_cloud"])
    for name in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    for draw in (Plot(ds), Plot(ds).chunks, Plot(ds).projections, lambda: plot_tree(tree)):
        fails(ImportError, r'pip install "dask-zv\[viz\]"', draw)


def test_options_of_other_plots_are_told_what_does_the_same(written):
    plot = written.open().zv.plot
    fails(dzv.InputError, r"no option projection='polar': dims=", plot, projection="polar")
    fails(dzv.InputError, "no option projection='3d'.*projections", plot.projections, projection="3d")
    fails(dzv.InputError, "no option hue='kind': color=", plot.points, hue="kind")
    fails(dzv.InputError, "takes ax, dims, color.*'nonsense'", plot, nonsense=1)
