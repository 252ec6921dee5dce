"""Three real neurons: skeletons, meshes and synapses in three stores, written by a cluster, read back, checked and drawn.

``python examples/neurons.py [picture.png]`` writes the stores into ``neurons/`` of the working directory.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
from distributed import Client, LocalCluster
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import dask_zv as dzv

DATA = Path(__file__).resolve().parent / "data" / "hemibrain"
OUT = Path("neurons")
AXES = [{"name": name, "type": "space", "unit": "8 nanometer"} for name in "xyz"]  # a voxel is a cube of 8 nm
MICROMETRES = 0.008  # per voxel
CHUNK = (2000, 2000, 2000)
BOX = ((3500, 20000, 12000), (7500, 24000, 18000))  # voxels: the lateral horn
CELL_TYPES = {"DA1_lPN": [722817260, 754534424, 754538881]}
PER_NEURON = 100_000  # every file numbers from 1: neuron * PER_NEURON + number is a number of its own


def main(picture: str = "neurons.png") -> None:
    started = time.perf_counter()
    sources = measure_sources()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
        write_skeletons(sources)
        write_meshes(sources)
        write_synapses(sources)
        levels = {name: dzv.open(OUT / f"{name}.zv").level(0) for name in ("skeletons", "meshes", "synapses")}
        skeletons, meshes, synapses = (level.read() for level in levels.values())
        check(skeletons, meshes, synapses, sources)
        read_parts(levels, sources)
        inside = [level.read(bbox=BOX) for level in levels.values()]
    draw([skeletons, meshes, synapses], inside, picture)
    print(f"Picture: {picture}. {time.perf_counter() - started:.0f} s in all.")


# ------------------------------------------------------------------------------------------------ files to DataFrames


def files(ending: str) -> list[Path]:
    """Return the three files of one kind."""
    found = sorted(DATA.glob(f"*{ending}"))
    if len(found) != 3:
        sys.exit(
            f"{DATA} has {len(found)} files *{ending}, not 3. They come with a clone of the repository; or copy "
            "<id>.swc, <id>.obj.gz (gzip <id>.obj) and <id>.synapses.csv of the three neurons from the example data of navis, "
            "https://github.com/navis-org/navis."
        )
    return found


def neuron_of(path: Path) -> int:
    return int(path.name.partition(".")[0])


def read_nodes(path: Path) -> pd.DataFrame:
    """Return an SWC skeleton: a row to a node, which names its parent."""
    columns = ["number", "label", "x", "y", "z", "radius", "parent"]
    nodes = pd.read_csv(path, sep=" ", comment="#", header=None, names=columns)
    first = neuron_of(path) * PER_NEURON
    nodes["node"] = first + nodes.pop("number")
    nodes["parent"] = (first + nodes["parent"]).where(nodes["parent"] >= 0, -1)
    return nodes.assign(neuron=neuron_of(path))


def read_obj(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the lines ``v x y z`` and ``f i j k`` of an OBJ mesh as two tables."""
    lines = pd.read_csv(path, sep=" ", comment="#", header=None, names=["kind", "x", "y", "z"])
    first = neuron_of(path) * PER_NEURON
    vertices = lines[lines["kind"] == "v"].drop(columns="kind").reset_index(drop=True)
    vertices["vertex"] = first + 1 + vertices.index
    faces = lines[lines["kind"] == "f"].drop(columns="kind").set_axis(["v0", "v1", "v2"], axis=1)
    return vertices.assign(neuron=neuron_of(path)), faces.astype("int64") + first


def read_vertices(path: Path) -> pd.DataFrame:
    return read_obj(path)[0]


def read_faces(path: Path) -> pd.DataFrame:
    return read_obj(path)[1]


def read_synapses(path: Path) -> pd.DataFrame:
    columns = ["x", "y", "z", "type", "roi", "confidence"]
    return pd.read_csv(path, usecols=columns).assign(neuron=neuron_of(path))


def measure_sources() -> pd.DataFrame:
    """Return what the files say about each neuron, by plain pandas and numpy: the truth that reading must give again."""
    rows = []
    for swc, obj, csv in zip(files(".swc"), files(".obj.gz"), files(".synapses.csv"), strict=True):
        nodes, synapses = read_nodes(swc), read_synapses(csv)
        vertices, faces = read_obj(obj)
        places = nodes.set_index("node")[["x", "y", "z"]]
        children = nodes[nodes["parent"] >= 0]
        ends = places.loc[children["node"]].to_numpy(), places.loc[children["parent"]].to_numpy()
        corners = vertices.set_index("vertex").loc[faces.to_numpy().ravel(), ["x", "y", "z"]].to_numpy().reshape(-1, 3, 3)
        row = {"neuron": neuron_of(swc), "nodes": len(nodes), "trees": len(nodes) - len(children), "vertices": len(vertices)}
        row |= {"faces": len(faces), "synapses": len(synapses)}
        row |= {"cable": lengths(*ends).sum(), "area": areas(corners).sum()}
        rows.append(row)
    return pd.DataFrame(rows).set_index("neuron")


def lengths(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the distances between points, in µm."""
    return np.linalg.norm(a - b, axis=1) * MICROMETRES


def areas(corners: np.ndarray) -> np.ndarray:
    """Return the areas of triangles (F, 3, 3), in µm²."""
    sides = corners[:, 1:] - corners[:, :1]
    return np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1) / 2 * MICROMETRES**2


# ------------------------------------------------------------------------------------------------ DataFrames to stores


def about(table: pd.DataFrame) -> dict[str, object]:
    """Return what is said of the neurons in each store: attributes of each, and a group for each cell type."""
    return {
        "object_attributes": table,
        "groups": dict(enumerate(CELL_TYPES.values())),
        "group_attributes": {"cell_type": list(CELL_TYPES)},
    }


def write_skeletons(sources: pd.DataFrame) -> None:
    nodes = dd.from_map(read_nodes, files(".swc"))  # a file to a partition, read on the workers
    store = dzv.create(OUT / "skeletons.zv", geometry="skeleton", chunk_shape=CHUNK, axes=AXES, dtype="float32", overwrite=True)
    report = dzv.write_skeletons(
        store,
        nodes,
        parents="parent",
        vertex_ids="node",
        object_ids="neuron",
        attributes=["radius", "label"],
        **about(sources[["nodes", "trees", "cable"]]),
    )
    print(f"Skeletons: {report.rows:,} nodes of {report.objects} neurons in {report.chunks} chunks, {report.seconds:.1f} s")


def write_meshes(sources: pd.DataFrame) -> None:
    vertices, faces = dd.from_map(read_vertices, files(".obj.gz")), dd.from_map(read_faces, files(".obj.gz"))
    store = dzv.create(OUT / "meshes.zv", geometry="mesh", chunk_shape=CHUNK, axes=AXES, dtype="float32", overwrite=True)
    report = dzv.write_meshes(
        store,
        vertices,
        faces=faces,
        vertex_ids="vertex",
        object_ids="neuron",
        **about(sources[["faces", "area"]]),
    )
    print(f"Meshes:    {report.rows:,} vertices of {report.objects} neurons in {report.chunks} chunks, {report.seconds:.1f} s")


def write_synapses(sources: pd.DataFrame) -> None:
    synapses = dd.from_map(read_synapses, files(".synapses.csv"))
    store = dzv.create(OUT / "synapses.zv", chunk_shape=CHUNK, axes=AXES, overwrite=True)
    report = dzv.write_points(
        store, synapses, attributes=["type", "roi", "confidence"], object_ids="neuron", **about(sources[["synapses"]])
    )
    print(f"Synapses:  {report.rows:,} points of {report.objects} neurons in {report.chunks} chunks, {report.seconds:.1f} s")


# ------------------------------------------------------------------------------------------------ stores to numbers


def edge_lengths(skeletons: dzv.Geometry) -> np.ndarray:
    places = skeletons.positions.astype("float64")
    return lengths(places[skeletons.edges[:, 0]], places[skeletons.edges[:, 1]])


def face_areas(meshes: dzv.Geometry) -> np.ndarray:
    return areas(meshes.positions.astype("float64")[meshes.faces])


def check(skeletons: dzv.Geometry, meshes: dzv.Geometry, synapses: dzv.Geometry, sources: pd.DataFrame) -> None:
    """Compare what was read with the files, neuron by neuron, and print it."""
    owner_of_edge = skeletons.object_ids[skeletons.edges[:, 0]]
    owner_of_face = meshes.object_ids[meshes.faces[:, 0]]
    found = pd.DataFrame(
        {
            "nodes": pd.Series(skeletons.object_ids).value_counts(),
            "trees": pd.Series(skeletons.object_ids[skeletons.parents < 0]).value_counts(),
            "vertices": pd.Series(meshes.object_ids).value_counts(),
            "faces": pd.Series(owner_of_face).value_counts(),
            "synapses": pd.Series(synapses.object_ids).value_counts(),
            "cable": pd.Series(edge_lengths(skeletons)).groupby(owner_of_edge).sum(),
            "area": pd.Series(face_areas(meshes)).groupby(owner_of_face).sum(),
        }
    ).sort_index()
    found.index.name = "neuron"
    pd.testing.assert_frame_equal(found, sources, check_dtype=False, rtol=1e-6)  # positions are stored as float32
    print(found.rename(columns={"cable": "cable (µm)", "area": "area (µm²)"}).round(1).to_string())
    print(f"Total cable length {found['cable'].sum():,.1f} µm, surface area {found['area'].sum():,.1f} µm², as in the files.")

    csv = pd.concat(map(read_synapses, files(".synapses.csv")))
    table = region_table(csv["roi"], csv["type"])
    pd.testing.assert_frame_equal(region_table(synapses.attributes["roi"], synapses.attributes["type"]), table)
    print(f"Synapses per region and type, as in the files:\n{table.T.to_string()}")


def region_table(regions: object, types: object) -> pd.DataFrame:
    columns = {"region": pd.Series(regions, dtype=object).fillna("(none)"), "type": pd.Series(types, dtype=object)}
    frame = pd.DataFrame({name: column.to_numpy() for name, column in columns.items()})
    return pd.crosstab(frame["region"], frame["type"])


def read_parts(levels: dict[str, dzv.Level], sources: pd.DataFrame) -> None:
    """Read one neuron alone, then what is in a box: clipped, and every neuron that it touches as a whole."""
    neuron = CELL_TYPES["DA1_lPN"][0]
    one = levels["skeletons"].read(objects=neuron)
    assert len(one.positions) == sources.loc[neuron, "nodes"]
    assert np.isclose(edge_lengths(one).sum(), one.object_attributes["cable"][0], rtol=1e-6)
    kind = one.group_attributes["cell_type"][0]
    print(f"Neuron {neuron} alone: {len(one.positions):,} nodes, {len(one.edges):,} edges, of type {kind}")
    for name in ("skeletons", "meshes"):
        inside = levels[name].read(bbox=BOX)
        whole = levels[name].read(bbox=BOX, clip=False)
        assert ((inside.positions >= BOX[0]) & (inside.positions <= BOX[1])).all()
        assert set(whole.object_ids) == set(inside.object_ids)
        links = "edges" if name == "skeletons" else "faces"
        counts = [f"{len(part.positions):,} vertices and {len(getattr(part, links)):,} {links}" for part in (inside, whole)]
        print(f"Box, {name}: {counts[0]} inside; {counts[1]} of the {len(whole.object_index)} neurons that it touches")


# ------------------------------------------------------------------------------------------------ numbers to a picture

INK, FAINT, GROUND = "#e8ecf4", "#8a96ae", "#080b14"
COLOURS = ["#4fd1c5", "#f4b13e", "#c792ea"]  # of the neurons
TYPES = {"post": ("#35c9ff", "inputs (post)"), "pre": ("#ff7a59", "outputs (pre)")}
MARGIN = 5.0  # micrometres
LENS = ((62, 148), (159, 245))  # where the box is drawn larger, in µm


def draw(whole: list[dzv.Geometry], inside: list[dzv.Geometry], path: str) -> None:
    """Draw the three stores side by side, seen along z, and the box of each larger."""
    skeletons, meshes, synapses = whole
    low, high = (f(meshes.positions[:, :2], axis=0) * MICROMETRES for f in (np.min, np.max))
    width, height = high - low + 2 * MARGIN
    panel = 4.9  # inches
    figure = Figure(figsize=(3 * panel, panel * height / width + 0.9), facecolor=GROUND)
    bottom, top = (inches / figure.get_figheight() for inches in (0.3, figure.get_figheight() - 0.6))
    scale = 72 * panel / width  # points per micrometre
    colour = dict(zip(np.unique(skeletons.object_ids), COLOURS, strict=True))
    (x0, y0, _), (x1, y1, _) = np.array(BOX) * MICROMETRES
    (u0, u1), (v0, v1) = LENS
    zoom = (u1 - u0) / (x1 - x0)

    cable, area = edge_lengths(skeletons).sum() / 1000, face_areas(meshes).sum()
    titles = [
        ("Skeletons", f"{len(skeletons):,} nodes, {cable:.2f} mm of cable"),
        ("Meshes", f"{len(meshes.faces):,} faces, {area:,.0f} µm²"),
        ("Synapses", f"{len(synapses):,} points, inputs and outputs"),
    ]
    panels = []
    for i, (title, text) in enumerate(titles):
        axes = figure.add_axes((i / 3, bottom, 1 / 3, top - bottom))
        axes.set(xlim=(low[0] - MARGIN, high[0] + MARGIN), ylim=(high[1] + MARGIN, low[1] - MARGIN))
        axes.axis("off")
        axes.text(0.03, 1.06, title, color=INK, fontsize=18, transform=axes.transAxes, va="top")
        axes.text(0.03, 1.0, text, color=FAINT, fontsize=11.5, transform=axes.transAxes, va="top")
        lens = axes.inset_axes((u0, v0, u1 - u0, v1 - v0), transform=axes.transData, facecolor="#0d1220")
        lens.set(xlim=(x0, x1), ylim=(y1, y0), xticks=[], yticks=[])
        for spine in lens.spines.values():
            spine.set(color=FAINT, lw=0.8)
        axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=FAINT, lw=0.8)
        for here, there in ((y0, v0), (y1, v1)):
            axes.plot([x1, u0], [here, there], color=FAINT, lw=0.6, alpha=0.7)
        for where, parts, larger in ((axes, whole, 1.0), (lens, inside, zoom)):
            if title == "Skeletons":
                draw_skeletons(where, parts[0], [colour[n] for n in parts[0].object_ids], 0.6 * scale * larger)
            elif title == "Meshes":
                draw_meshes(where, parts[1], [colour[n] for n in parts[1].object_ids])
            else:
                draw_skeletons(where, parts[0], ["#3a4560"] * len(parts[0]), 0.3 * scale * larger)
                draw_synapses(where, parts[2], 2.2 * larger)
        panels.append(axes)

    for i, (neuron, its) in enumerate(colour.items()):
        panels[0].text(0.03, 0.085 - 0.033 * i, f"● {neuron}", color=its, fontsize=11, transform=panels[0].transAxes)
    for i, (its, label) in enumerate(TYPES.values()):
        panels[2].text(0.03, 0.052 - 0.033 * i, f"● {label}", color=its, fontsize=11, transform=panels[2].transAxes)
    panels[1].plot([high[0] - 25, high[0]], [high[1], high[1]], color=INK, lw=2.5, solid_capstyle="butt")
    panels[1].text(high[0] - 12.5, high[1] - 2, "25 µm", color=INK, fontsize=11, ha="center", va="bottom")
    credit = "hemibrain, Scheffer et al. 2020 (CC BY 4.0). Written and read with dask-zv; the lenses are reads of a box."
    figure.text(0.01, 0.012, credit, color=FAINT, fontsize=9)
    figure.savefig(path, dpi=110, facecolor=GROUND)


def draw_skeletons(axes: Axes, skeletons: dzv.Geometry, colours: list[str], scale: float) -> None:
    """Draw every edge as a line of its child's width, the far ones first."""
    order = np.argsort(-skeletons.positions[skeletons.edges[:, 0], 2])
    edges = skeletons.edges[order]
    widths = np.maximum(2 * skeletons.attributes["radius"][edges[:, 0]] * MICROMETRES * scale, 0.5)
    lines = skeletons.positions[edges][:, :, :2] * MICROMETRES
    axes.add_collection(LineCollection(lines, colors=[colours[i] for i in edges[:, 0]], linewidths=widths, capstyle="round"))


def draw_meshes(axes: Axes, meshes: dzv.Geometry, colours: list[str]) -> None:
    """Draw every face, lit from the upper left, the far ones first."""
    corners = meshes.positions.astype("float64")[meshes.faces] * MICROMETRES
    order = np.argsort(-corners[:, :, 2].mean(axis=1))
    corners, first = corners[order], meshes.faces[order, 0]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    normals *= -np.sign(normals[:, 2:] + 1e-12)  # towards the eye, which looks along z
    light = np.array([-0.45, -0.55, -0.7])
    shade = np.clip(normals @ (light / np.linalg.norm(light)), 0, 1)
    base = np.array([to_rgb(colours[i]) for i in first])
    shaded = np.clip(base * (0.32 + 0.75 * shade[:, None]) + 0.2 * shade[:, None] ** 12, 0, 1)
    axes.add_collection(PolyCollection(corners[:, :, :2], facecolors=shaded, edgecolors=shaded, linewidths=0.15))


def draw_synapses(axes: Axes, synapses: dzv.Geometry, size: float) -> None:
    """Draw every synapse in the colour of its type, in random order so that no type always lies on top."""
    order = np.random.default_rng(0).permutation(len(synapses))
    colours = [TYPES[kind][0] for kind in synapses.attributes["type"][order]]
    x, y = synapses.positions[order, :2].T * MICROMETRES
    axes.scatter(x, y, s=size, c=colours, alpha=0.8, lw=0, zorder=3)  # above the lines


if __name__ == "__main__":
    main(*sys.argv[1:])
