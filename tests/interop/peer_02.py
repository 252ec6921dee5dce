"""What the ZV 0.7 package (zarr-vectors 0.2.0) makes of stores; runs in an environment that has it, and not this project.

    python peer_02.py JOBS.json

Reads the stores under "read" with the package's own functions and puts what it found beside them (NAME.npz, NAME.json),
then writes the stores under "write", and edits those under "edit" in place.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from zarr_vectors.core import arrays
from zarr_vectors.core.store import get_resolution_level, open_store, read_root_metadata
from zarr_vectors.sharding.io import shard_store
from zarr_vectors.sharding.layout import ShardLayout
from zarr_vectors.types.points import read_points, write_points
from zarr_vectors.validate import validate


def read(job, out):
    """Dump everything that the package reads of one store."""
    path = job["path"]
    found = {}
    told = {}
    everything = read_points(path, attribute_names=job["attributes"])
    found["positions"] = everything["positions"]
    for name in job["attributes"]:
        values = everything["vertex_attributes"][name]
        if values.dtype == object:
            found[f"missing__{name}"] = np.array([v is None for v in values])
            values = np.array(["" if v is None else v for v in values])
        found[f"attr__{name}"] = values
    for i, box in enumerate(job["boxes"]):
        some = [a for a in job["attributes"] if a in ("mass", "count")]
        inside = read_points(path, bbox=(np.array(box[0]), np.array(box[1])), attribute_names=some)
        found[f"box{i}"] = inside["positions"]
        for name, values in inside["vertex_attributes"].items():
            found[f"box{i}__{name}"] = values
    root = open_store(path)
    level = get_resolution_level(root, 0)
    meta = read_root_metadata(root)
    told["axes"] = meta.spatial_index_dims
    told["crs"] = meta.crs
    told["bounds"] = [list(b) for b in meta.bounds]
    told["chunk_shape"] = list(meta.chunk_shape)
    told["bins_per_chunk"] = list(meta.bins_per_chunk)
    told["chunks"] = [list(c) for c in arrays.list_chunk_keys(level)]
    told["children"] = sorted(level)
    for name in job["attributes"]:
        told[f"meta__{name}"] = level.read_array_meta(f"vertex_attributes/{name}")
    if job["objects"]:
        manifests = arrays.read_all_object_manifests(level)
        told["objects"] = len(manifests)
        by_object = read_points(path, object_ids=job["objects"])
        found["by_object"] = by_object["positions"]
        found["by_object_ids"] = by_object["object_ids"]
        one = job["objects"][-1]
        single = arrays.read_object_vertices(level, one, dtype=everything["positions"].dtype, ndim=meta.sid_ndim)
        found["one_object"] = np.concatenate(single) if isinstance(single, list) else single
        for name in job["object_attributes"]:
            found[f"oattr__{name}"] = arrays.read_object_attributes(level, name)
            present = arrays.read_object_attribute_present_mask(level, name)
            found[f"present__{name}"] = np.ones(len(manifests), bool) if present is None else present
        if job["groups"]:
            told["groups"] = [[int(m) for m in members] for members in arrays.read_all_groupings(level)]
            told["group_points"] = len(read_points(path, group_ids=[0])["positions"])
    result = validate(path, level=5)
    told["errors"], told["warnings"] = result.errors, result.warnings
    np.savez(f"{out}.npz", **found)
    Path(f"{out}.json").write_text(json.dumps(told))


def write(path):
    """Write stores by every path of the package's writer; what went in is beside them."""
    rng = np.random.default_rng(3)
    n = 300
    path = Path(path)

    def dump(name, **truth):
        np.savez(path / f"{name}.npz", **truth)

    points = rng.uniform(-40, 40, (n, 3)).astype("f4")
    attributes = {
        "mass": rng.normal(size=n),
        "rgb": rng.integers(0, 255, (n, 3), dtype="u1"),
        "flag": rng.random(n) > 0.5,
        "name": np.array(["a", "bb", "ccc"])[rng.integers(0, 3, n)],
        "when": np.datetime64("2026-01-01", "s") + rng.integers(0, 10**6, n).astype("m8[s]"),
    }
    for name, more in {
        "batched": {},
        "batched_bins": {"bin_shape": (20.0, 40.0, 10.0)},
        "batched_objects": {
            "object_ids": rng.permutation(np.arange(n) % 21),
            "object_attributes": {"score": np.arange(21.0), "vec": np.arange(42).reshape(21, 2)},
            "groups": {0: [1, 2], 1: [20]},
            "group_attributes": {"w": np.array([0.5, 1.5])},
        },
    }.items():
        write_points(str(path / name), points, chunk_shape=(40.0, 40.0, 40.0), vertex_attributes=attributes, **more)
        ids = {"object_ids": more["object_ids"]} if "object_ids" in more else {}
        dump(name, positions=points, **{f"attr__{k}": v for k, v in attributes.items()}, **ids)

    # the un-batched path: one Zstandard frame, and no data object at all where every byte is zero
    name = "unbatched"
    write_points(str(path / name), points, chunk_shape=(40.0, 40.0, 40.0), vertex_attributes={"mass": attributes["mass"]})
    level = get_resolution_level(open_store(str(path / name), mode="r+"), 0)
    zeros = np.zeros((7, 3), "f4")
    chunks = arrays.list_chunk_keys(level)
    mass = {}
    kept = {}
    for coords in chunks:
        kept[coords] = np.concatenate(arrays.read_chunk_vertices(level, coords, dtype="f4", ndim=3))
        mass[coords] = np.concatenate(arrays.read_chunk_attributes(level, "mass", coords, dtype="f8", ncols=1))
    kept[0, 0, 0], mass[0, 0, 0] = zeros, np.arange(7.0)  # all at the origin
    other = next(c for c in chunks if c != (0, 0, 0))
    mass[other] = np.zeros(len(kept[other]))  # an attribute of nothing but zeros
    for coords in kept:
        arrays.write_chunk_vertices(level, coords, [kept[coords]], dtype="f4")
        arrays.write_chunk_attributes(level, "mass", coords, [mass[coords]], dtype="f8")
    total = sum(map(len, kept.values()))
    count(level, total)
    missing = ["vertices/0.0.0", f"vertex_attributes/mass/{'.'.join(map(str, other))}"]
    assert not any((path / name / "0" / p / "c" / "0").exists() for p in missing), "Zarr stored a chunk of zeros"
    order = sorted(kept)
    dump(name, positions=np.concatenate([kept[c] for c in order]), attr__mass=np.concatenate([mass[c] for c in order]))
    for layout in ("octree", "snake"):
        sharded = f"unbatched_{layout}"
        write_points(
            str(path / sharded), points, chunk_shape=(40.0, 40.0, 40.0), vertex_attributes={"mass": attributes["mass"]}
        )
        level = get_resolution_level(open_store(str(path / sharded), mode="r+"), 0)
        for coords in kept:
            arrays.write_chunk_vertices(level, coords, [kept[coords]], dtype="f4")
            arrays.write_chunk_attributes(level, "mass", coords, [mass[coords]], dtype="f8")
        count(level, total)
        shard_store(
            str(path / sharded), ShardLayout(layout), 4, arrays=["vertices", "vertex_fragments", "vertex_attributes/mass"]
        )
        dump(sharded, positions=np.concatenate([kept[c] for c in order]), attr__mass=np.concatenate([mass[c] for c in order]))
    # everything zero, in one shard of zeros
    name = "zeros_shard"
    write_points(str(path / name), zeros, chunk_shape=(40.0, 40.0, 40.0), vertex_attributes={"mass": np.zeros(7)})
    shard_store(str(path / name), ShardLayout("octree"), 4, arrays=["vertices", "vertex_attributes/mass"])
    dump(name, positions=zeros, attr__mass=np.zeros(7))


def count(level, vertices):
    """Correct the number of a level's vertices, which the writers of single chunks leave as it was."""
    level.attrs["zarr_vectors_level"] = {**level.attrs["zarr_vectors_level"], "vertex_count": vertices}


def edit(job):
    """Change one chunk of a store in place, through the package's un-batched writer."""
    level = get_resolution_level(open_store(job["path"], mode="r+"), 0)
    coords = tuple(job["chunk"])
    points = np.array(job["positions"], "f4").reshape(-1, 3) if job["positions"] is not None else None
    if points is not None:
        arrays.write_chunk_vertices(level, coords, [points], dtype="f4")
    if job["mass"] is not None:
        arrays.write_chunk_attributes(level, "mass", coords, [np.array(job["mass"], "f8")], dtype="f8")


def main(jobs):
    assert version("zarr-vectors") == jobs["version"]
    for name, job in jobs["read"].items():
        start = time.perf_counter()
        read(job, Path(jobs["out"]) / name)
        print(f"{name}: {time.perf_counter() - start:.2f} s", flush=True)
    write(jobs["write"])
    own = validate(str(Path(jobs["write"]) / "batched"), level=5)
    (Path(jobs["out"]) / "batched.json").write_text(json.dumps({"errors": own.errors, "warnings": own.warnings}))
    for job in jobs["edit"]:
        edit(job)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
