"""The demo: real synapses and two million points, from a Dask cluster to Zarr Vectors stores to xarray to a picture.

Run it with ``ci/demo``. It writes into ``demo-output/`` of the working directory and ends all that it starts.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr
from distributed import Client, LocalCluster
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

import dask_zv as dzv

DATA = Path(__file__).resolve().parent / "data" / "hemibrain"
OUT = Path("demo-output")
UNIT = "8 nanometer"  # a voxel of the data is a cube of 8 nm
MICROMETRES = 0.008  # per voxel
AXES = [{"name": name, "type": "space", "unit": UNIT} for name in "xyz"]
BOX = ((4000, 12000, 10500), (15500, 23500, 17000))  # voxels: calyx to lateral horn
BLOCKS, BLOCK_POINTS = 20, 100_000
SEED = 2026


def main() -> int:
    started = time.perf_counter()
    OUT.mkdir(exist_ok=True)
    say("Start a cluster: 2 worker processes of 1 thread.")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        synapses, cloud = synapse_frame(), point_cloud()
        say(f"Synapses: {synapses.npartitions} CSV files as one Dask DataFrame. Axes x, y, z in units of '{UNIT}'.")
        say(f"Cloud: {len(cloud):,} points around the skeletons, seed {SEED}, built on the workers in {BLOCKS} blocks.")
        write_synapses(synapses)
        write_cloud(cloud)

        points = xr.open_dataset(OUT / "synapses.zv", engine="zv", chunks={})
        density = xr.open_dataset(OUT / "cloud.zv", engine="zv", chunks={})
        say("Opened both with xarray; nothing is read yet. The synapses:")
        print(indent(points), flush=True)

        inside = points.zv.sel(bbox=BOX)
        say(f"Box {BOX[0]} to {BOX[1]} in units of '{points.x.attrs['units']}': {inside.sizes['vertex']:,} synapses.")
        passed = check_regions(inside)
        passed &= check_cloud(density, cloud)

        picture = draw(points, density, inside.sizes["vertex"])
    say(f"Stores: {OUT}/synapses.zv and {OUT}/cloud.zv")
    say(f"Picture: {picture}")
    say(f"Cluster ended. {time.perf_counter() - started:.0f} s in all.")
    return 0 if passed else 1


def say(text: str) -> None:
    print(f"* {text}", flush=True)


def indent(value: object) -> str:
    return "\n".join(f"    {line}" for line in str(value).splitlines())


# ------------------------------------------------------------------------------------------------ data


def body_id(path: str) -> int:
    return int(Path(path).name.split(".")[0])


def synapse_frame() -> dd.DataFrame:
    """Return the synapses of all neurons, a partition per file; the file's name says which neuron."""
    frame = dd.read_csv(
        str(DATA / "*.synapses.csv"), blocksize=None, include_path_column="neuron", converters={"neuron": body_id}
    )
    return frame.astype({"neuron": "int64"})


def read_segments() -> np.ndarray:
    """Return the skeletons' segments, shape (n, 2, 4): both ends with x, y, z and radius."""
    segments = []
    for path in sorted(DATA.glob("*.swc")):
        nodes = np.loadtxt(path)
        row = {int(number): i for i, number in enumerate(nodes[:, 0])}
        child = np.flatnonzero(nodes[:, 6] >= 0)
        parent = [row[int(number)] for number in nodes[child, 6]]
        segments.append(np.stack([nodes[child, 2:6], nodes[parent, 2:6]], axis=1))
    return np.concatenate(segments)


def cloud_block(block_info: dict) -> np.ndarray:
    """Return one block of the cloud, columns x, y, z and distance from the centre line; a task's body."""
    (low, high), _ = block_info[None]["array-location"]
    rng = np.random.default_rng((SEED, low))
    segments = read_segments()
    lengths = np.linalg.norm(segments[:, 0, :3] - segments[:, 1, :3], axis=1)
    ends = segments[rng.choice(len(segments), high - low, p=lengths / lengths.sum())]
    at = rng.random((high - low, 1))
    centre = ends[:, 0] * at + ends[:, 1] * (1 - at)
    scatter = rng.normal(size=(high - low, 3)) * (0.5 * centre[:, 3:] + 25)
    return np.c_[centre[:, :3] + scatter, np.linalg.norm(scatter, axis=1)].astype(np.float32)


def point_cloud() -> da.Array:
    """Return two million points (x, y, z, distance) that no process holds as a whole."""
    chunks = ((BLOCK_POINTS,) * BLOCKS, (4,))
    return da.map_blocks(cloud_block, chunks=chunks, dtype=np.float32, meta=np.empty((0, 4), np.float32))


# ------------------------------------------------------------------------------------------------ stores


def write_synapses(frame: dd.DataFrame) -> None:
    store = dzv.create(OUT / "synapses.zv", chunk_shape=(4096, 4096, 4096), axes=AXES, overwrite=True)
    columns = ["type", "roi", "confidence", "neuron"]
    say("Write the synapses, one graph:")
    report = dzv.write_points(store, frame, attributes=columns, progress=True)
    print(f"\n{indent(report)}", flush=True)


def write_cloud(cloud: da.Array) -> None:
    store = dzv.create(OUT / "cloud.zv", chunk_shape=(2048, 2048, 2048), axes=AXES, overwrite=True)
    say("Write the cloud, one graph:")
    report = dzv.write_points(store, cloud[:, :3], attributes={"distance": cloud[:, 3]}, progress=True)
    print(f"\n{indent(report)}", flush=True)


# ------------------------------------------------------------------------------------------------ checks


def check_regions(inside: xr.Dataset) -> bool:
    """Print the synapses per region of interest beside those that pandas finds in the CSV files."""
    csv = pd.concat([pd.read_csv(path) for path in sorted(DATA.glob("*.synapses.csv"))])
    in_box = np.all([csv[axis].between(BOX[0][i], BOX[1][i]) for i, axis in enumerate("xyz")], axis=0)
    expected = csv[in_box].groupby(["roi", "type"], dropna=False).size().unstack(fill_value=0)
    found = inside[["roi", "type"]].to_dataframe().groupby(["roi", "type"], dropna=False).size().unstack(fill_value=0)
    table = pd.concat({"zv": found, "csv": expected}, axis=1).fillna(0).astype(int)
    table.index = table.index.fillna("(missing)")
    print(f"    {'region':<12}{'pre':>8}{'post':>8}{'in CSV: pre':>16}{'post':>8}")
    for region, row in table.iterrows():
        ours, theirs = row["zv"], row["csv"]
        print(f"    {region:<12}{ours['pre']:>8,}{ours['post']:>8,}{theirs['pre']:>16,}{theirs['post']:>8,}")
    same = bool((table["zv"] == table["csv"]).all(axis=None)) and int(in_box.sum()) == inside.sizes["vertex"]
    say(f"Counts per region {'equal' if same else 'DIFFER from'} those of the CSV files.")
    return same


def check_cloud(opened: xr.Dataset, cloud: da.Array) -> bool:
    """Compare the cloud's points in the box with those of the same seeds, counted on the workers."""
    low, high = np.array(BOX, np.float32)
    expected = int(((cloud[:, :3] >= low) & (cloud[:, :3] <= high)).all(axis=1).sum())
    found = opened.zv.sel(bbox=BOX).sizes["vertex"]
    same = found == expected and opened.sizes["vertex"] == len(cloud)
    verb = "equal" if same else f"DIFFER from the {expected:,} of"
    say(f"Cloud: {found:,} of {opened.sizes['vertex']:,} points lie in the box; they {verb} the seeds'.")
    return same


# ------------------------------------------------------------------------------------------------ picture

INK, FAINT, FRAME, GROUND = "#e8ecf4", "#8a96ae", "#27304a", "#080b14"
TYPES = {"post": ("#35c9ff", "inputs (post)"), "pre": ("#ff9d3b", "outputs (pre)")}
GLOW = LinearSegmentedColormap.from_list("glow", [GROUND, "#202c52", "#455a99", "#8c9dd6", "#dfe5fa"])
DASHES = (0, (4, 4))
VIEWS = {"xy": ("x", "y"), "zy": ("z", "y"), "xz": ("x", "z")}
MARGIN, GAP, PIXEL = 6.0, 7.0, 0.25  # micrometres
LOBE, LOBE_PLACE = ((112, 142), (269, 299)), ((24, 98), (212, 286))  # the part of x, y shown larger, and where


def draw(points: xr.Dataset, density: xr.Dataset, selected: int) -> Path:
    """Draw three projections: the cloud as a density, synapses above it, coloured by type."""
    low = np.array(density.attrs["bounds_min"]) * MICROMETRES - MARGIN
    high = np.array(density.attrs["bounds_max"]) * MICROMETRES + MARGIN
    limits = {axis: (low[i], high[i]) for i, axis in enumerate("xyz")}
    say(f"Count the cloud into pixels of {PIXEL} µm, three projections, on the workers.")
    edges = {axis: np.arange(a, b + PIXEL, PIXEL) for axis, (a, b) in limits.items()}
    images = count_pixels(density, edges)
    synapses = points.zv.to_dataframe()[["x", "y", "z", "type"]]
    synapses[["x", "y", "z"]] *= MICROMETRES
    synapses = synapses.sample(frac=1, random_state=0)  # so that no type always lies on top

    figure, panels, note = lay_out(*(high - low))
    for name, (a, b) in VIEWS.items():
        panel = panels[name]
        project(panel, images[name], edges[a], edges[b], synapses[a], synapses[b], synapses["type"], 1.3)
        panel.set(xlim=limits[a], ylim=limits[b][::-1])
        panel.xaxis.set_major_locator(MultipleLocator(25))
        panel.yaxis.set_major_locator(MultipleLocator(25))
        box = {axis: (BOX[0][i] * MICROMETRES, BOX[1][i] * MICROMETRES) for i, axis in enumerate("xyz")}
        (x0, x1), (y0, y1) = box[a], box[b]
        panel.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=INK, lw=0.8, ls=DASHES, alpha=0.6)
    panels["xy"].tick_params(labelbottom=False)
    panels["zy"].tick_params(labelleft=False)
    panels["xy"].set_ylabel("y (µm)")
    panels["zy"].set_xlabel("z (µm)")
    panels["xz"].set(xlabel="x (µm)", ylabel="z (µm)")
    annotate(panels["xy"], box["x"][0], box["y"][0], limits)

    (x0, x1), (y0, y1) = limits["x"], limits["y"]
    (u0, u1), (v0, v1) = LOBE_PLACE
    inset = panels["xy"].inset_axes(
        ((u0 - x0) / (x1 - x0), (y1 - v1) / (y1 - y0), (u1 - u0) / (x1 - x0), (v1 - v0) / (y1 - y0)), facecolor=GROUND
    )
    project(inset, images["xy"], edges["x"], edges["y"], synapses["x"], synapses["y"], synapses["type"], 2.4)
    inset.images[0].norm.vmax *= 40  # darker, so that single synapses show
    inset.set(xticks=[], yticks=[], xlim=LOBE[0], ylim=LOBE[1][::-1])
    (x0, x1), (y0, y1) = LOBE
    panels["xy"].plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=FAINT, lw=0.7, alpha=0.7)
    for here, there in ((v0, y0), (v1, y1)):
        panels["xy"].plot([u1, x0], [here, there], color=FAINT, lw=0.7, alpha=0.7)

    legend(note, synapses["type"].value_counts(), density.sizes["vertex"], selected)
    path = OUT / "synapses.png"
    figure.savefig(path, dpi=150, facecolor=GROUND)
    return path


def count_pixels(cloud: xr.Dataset, edges: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the points in each pixel of each projection; positions stay on the workers."""
    lazy = {}
    for name, (a, b) in VIEWS.items():
        columns = [cloud[a].data * MICROMETRES, cloud[b].data * MICROMETRES]
        lazy[name] = da.histogramdd(columns, [edges[a], edges[b]])[0]
    return dask.compute(lazy)[0]


def lay_out(x: float, y: float, z: float) -> tuple[Figure, dict[str, Axes], Axes]:
    """Return a figure with the projections to one scale, and a corner for the legend."""
    left, right, bottom, top = 24.0, 8.0, 20.0, 8.0
    width, height = left + x + GAP + z + right, bottom + z + GAP + y + top
    figure = Figure(figsize=(11.5 * width / height, 11.5), facecolor=GROUND)

    def add(x0: float, y0: float, w: float, h: float) -> Axes:
        axes = figure.add_axes((x0 / width, y0 / height, w / width, h / height), facecolor=GROUND)
        axes.tick_params(colors=FAINT, labelsize=8, length=3, width=0.6)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=FAINT, fontsize=9)
        return axes

    panels = {
        "xy": add(left, bottom + z + GAP, x, y),
        "zy": add(left + x + GAP, bottom + z + GAP, z, y),
        "xz": add(left, bottom, x, z),
    }
    note = add(left + x + GAP, bottom, z, z)
    note.axis("off")
    return figure, panels, note


def project(
    axes: Axes, image: np.ndarray, u_edges: np.ndarray, v_edges: np.ndarray,
    u: pd.Series, v: pd.Series, kinds: pd.Series, size: float,
) -> None:  # fmt: skip
    """Draw one projection."""
    norm = LogNorm(0.5, np.quantile(image[image > 0], 0.995) * 3)
    extent = (u_edges[0], u_edges[-1], v_edges[0], v_edges[-1])
    axes.imshow(
        np.maximum(image.T, 0.5), norm=norm, cmap=GLOW, origin="lower", interpolation="bilinear", extent=extent, aspect="auto"
    )
    colours = kinds.map({kind: colour for kind, (colour, _) in TYPES.items()})
    axes.scatter(u, v, s=size, c=colours, alpha=0.6, lw=0)
    for spine in axes.spines.values():
        spine.set(color=FRAME, lw=0.8)


def annotate(axes: Axes, box_x: float, box_y: float, limits: dict[str, tuple[float, float]]) -> None:
    """Name what the first projection shows, and draw its scale."""
    axes.text(box_x, box_y - 2, "selected box", color=INK, alpha=0.8, fontsize=8, va="bottom")
    places = {"calyx": (137, 104, "left"), "lateral horn": (55, 184, "left"), "antennal lobe": (24, 290, "left")}
    for name, (x, y, side) in places.items():
        axes.text(x, y, name, color=FAINT, fontsize=9, style="italic", ha=side, va="center")
    end, y = limits["x"][1] - 8, limits["y"][1] - 8
    axes.plot([end - 25, end], [y, y], color=INK, lw=2, solid_capstyle="butt")
    axes.text(end - 12.5, y - 2, "25 µm", color=INK, fontsize=8, ha="center", va="bottom")


def legend(note: Axes, counts: pd.Series, cloud_points: int, selected: int) -> None:
    """Write the title, what the marks mean, and where the data comes from."""
    note.text(0.06, 0.86, "Three olfactory\nprojection neurons", color=INK, fontsize=19, va="top", linespacing=1.25)
    lines = [f"{counts[kind]:,} {label}" for kind, (_, label) in TYPES.items()]
    lines += [f"{cloud_points:,} points of a synthetic cloud", f"{selected:,} synapses in the selected box"]
    heights = 0.56 - 0.075 * np.arange(len(lines))
    for text, y in zip(lines, heights, strict=True):
        note.text(0.12, y, text, color=INK, fontsize=11, va="center")
    for (colour, _), y in zip(TYPES.values(), heights, strict=False):
        note.plot(0.077, y, "o", color=colour, ms=6, mec="none")
    swatch = (0.055, 0.1, heights[2] - 0.014, heights[2] + 0.014)
    note.imshow(np.linspace(0.1, 1, 64)[None], cmap=GLOW, extent=swatch, aspect="auto", vmin=0, vmax=1)
    note.plot([0.055, 0.1], [heights[3], heights[3]], color=INK, lw=0.8, ls=DASHES, alpha=0.8)
    note.set(xlim=(0, 1), ylim=(0, 1))
    credit = (
        "Synapses and skeletons: hemibrain, Scheffer et al. 2020 (CC BY 4.0)\n"
        "Written and read as Zarr Vectors stores with dask-zv"
    )
    note.text(0.06, 0.06, credit, color=FAINT, fontsize=8, va="bottom", linespacing=1.5)


if __name__ == "__main__":
    sys.exit(main())
