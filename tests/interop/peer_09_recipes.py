"""Stores by every writer of points that the ZV 0.9 package has; each returns what it was given, in the order of the input.

Imported by peer.py, where the package is.
"""

from __future__ import annotations

import asyncio
import warnings
from contextlib import nullcontext

import numpy as np
import zarr_vectors as zv
from geometry_inputs import CHUNK
from zarr_vectors import building
from zarr_vectors.core.store import create_store, get_resolution_level, open_store
from zarr_vectors.core.streaming import ObjectIndexAppender
from zarr_vectors.multiresolution.coarsen import build_pyramid
from zarr_vectors.sharding.io import reshard, shard_store, unshard_store
from zarr_vectors.types.points import write_points

N = 200
IDS = [3, 7, 19, 41, 100]


def cloud(seed, ndim=3, n=N, dtype="f4"):
    return np.random.default_rng(seed).uniform(-60, 60, (n, ndim)).astype(dtype)


def columns(seed, n=N):
    rng = np.random.default_rng(seed)
    return {
        "mass": rng.normal(size=n),
        "count": rng.integers(-(2**60), 2**60, n),
        "rgb": rng.integers(0, 255, (n, 3), dtype="u1"),
        "vec": rng.normal(size=(n, 2)),
        "flag": rng.random(n) > 0.5,
        "kind": np.array(["a", "bb", "µ"])[rng.integers(0, 3, n)],
        "maybe": np.array(["b", None, "a"], object)[rng.integers(0, 3, n)],
        "when": np.datetime64("2026-01-01", "s") + rng.integers(0, 10**6, n).astype("m8[s]"),
    }


def truth(positions, attributes=None, **more):
    out = {"positions": positions, **more}
    for name, values in (attributes or {}).items():
        if values.dtype == object:
            out[f"missing__attr__{name}"] = np.array([v is None for v in values])
            values = np.array(["" if v is None else v for v in values])
        out[f"attr__{name}"] = values
    return out


def simple(seed, names=("mass", "rgb", "kind", "maybe"), **options):
    """Points with attributes, by the package's function."""

    def recipe(path):
        positions, attributes = cloud(seed), columns(seed)
        attributes = {name: attributes[name] for name in names or attributes}
        write_points(path, positions, chunk_shape=CHUNK, vertex_attributes=attributes, **options)
        return truth(positions, attributes)

    return recipe


def objects(seed, **options):
    """Sparse ids, object attributes of which some are absent, groups of which one is a range."""

    def recipe(path):
        positions, attributes = cloud(seed), {k: v for k, v in columns(seed).items() if k in ("mass", "rgb", "maybe")}
        ids = np.random.default_rng(seed).permutation(np.resize(IDS, N))
        table = {
            "score": np.array([0.5, np.nan, 2.5, np.nan, 4.5], "f4"),
            "vec": np.array([[0, 1], [np.nan, 3], [np.nan, np.nan], [6, 7], [8, 9.0]]),
            "rank": np.array([5, 6, np.iinfo("i4").min, 8, 9], "i4"),
            "small": np.array([1, 255, 3, 254, 0], "u1"),
        }
        write_points(
            path, positions, chunk_shape=CHUNK, vertex_attributes=attributes, object_ids=ids, object_attributes=table,
            groups={0: [3, 100], 1: range(7, 20), 3: [41]}, group_attributes={"w": np.array([0.5, 1.5, 2.5, 3.5])}, **options,
        )  # fmt: skip
        without = {"score": absent(1, 3), "vec": absent(2), "rank": absent(2), "small": absent(1)}
        more = {f"absent__{k}": v for k, v in without.items()} | {f"oattr__{k}": v for k, v in table.items()}
        return truth(positions, attributes, object_ids=ids, oattr_ids=np.array(IDS), **more)

    return recipe


def absent(*rows):
    return np.isin(np.arange(len(IDS)), rows)


def then(recipe, change):
    def both(path):
        out = recipe(path)
        change(path)
        return out

    return both


def facade(path):
    """The package's own front door, with what only it records: declared attributes, notes of applications."""
    positions, attributes = cloud(5), columns(5)
    attributes = {k: attributes[k] for k in ("mass", "rgb", "kind")}
    spec = {
        "mass": zv.AttributeSpec(dtype="float64", unit="kilogram", description="how heavy"),
        "rgb": zv.AttributeSpec(dtype="uint8", channels=3),
    }
    schema = zv.Schema(
        bounds=([-60.0] * 3, [60.0] * 3),
        axes=tuple(zv.Axis(name=a, unit="micrometer") for a in "xyz"),
        vertex_attributes=spec,
        layout=zv.Layout(cell_size=CHUNK),
    )
    dataset = zv.create(path, schema=schema)
    dataset.add_points(positions, attributes=attributes)
    dataset.metadata["app"].update({"view": [1, 2], "who": {"name": "µ"}})
    dataset.level(0).metadata["app"].update({"seen": True})
    return truth(positions, attributes)


def flat(path):
    positions = cloud(6, ndim=2, dtype="f8")
    write_points(path, positions, chunk_shape=(40.0, 20.0), vertex_attributes={"z": positions.sum(1)}, dtype="float64")
    return truth(positions, {"z": positions.sum(1)})


def integers(path):
    positions = np.unique(cloud(7).astype("i4"), axis=0)
    write_points(path, positions, chunk_shape=CHUNK, dtype="int32", vertex_attributes={"n": np.arange(len(positions))})
    return truth(positions, {"n": np.arange(len(positions))})


def four(path):
    positions = cloud(8, ndim=4)
    write_points(path, positions, chunk_shape=(40.0, 60.0, 120.0, 40.0), shard_shape=(2, 1, 2, 3), compressor="blosc")
    return truth(positions)


def lone(path):
    positions = np.array([[1.5, -2.5, 3.5]], "f4")
    write_points(path, positions)  # its own choice of chunks
    return truth(positions)


def ignored(path):
    """Points out of the bounds are dropped; the grid comes from the bounds."""
    positions = cloud(9)
    inside = ((positions >= -30) & (positions <= 50)).all(axis=1)
    bounds = ([-30.0] * 3, [50.0] * 3)
    numbers = {"n": np.arange(N)}
    write_points(path, positions, chunk_shape=CHUNK, vertex_attributes=numbers, bounds=bounds, out_of_bounds="ignore")
    return truth(positions[inside], {"n": numbers["n"][inside]})


def by_attribute(path):
    positions, attributes = cloud(10), columns(10)
    attributes = {k: attributes[k] for k in ("mass", "kind")}
    write_points(path, positions, chunk_shape=CHUNK, vertex_attributes=attributes, chunk_by_attribute="kind", shard_shape=2)
    return truth(positions, attributes, object_ids=np.arange(N))


def chunk_rows(positions):
    chunks = np.floor(positions / np.array(CHUNK)).astype(int)
    for chunk in np.unique(chunks, axis=0):
        yield tuple(chunk.tolist()), np.flatnonzero((chunks == chunk).all(axis=1))


BOUNDS = ([-60.0] * 3, [60.0] * 3)


def empty_level(path):
    return get_resolution_level(create_store(path, bounds=BOUNDS, chunk_shape=CHUNK, geometry_types=["point_cloud"]), 0)


def by_verbs(seed, in_session):
    """By the verbs for tools that build stores: in a write session, which states presence at its end, with fragments of rows in any
    order; or without one, where each write states its own presence."""

    def recipe(path):
        positions, mass = cloud(seed), columns(seed)["mass"]
        level = empty_level(path)
        how = {"bounds": BOUNDS, "chunk_shape": CHUNK, "compressor": "zstd"}
        with building.open_write_session(level, **how) if in_session else nullcontext():
            building.create_vertices_array(level)
            building.create_attribute_array(level, "mass", dtype="float64")
            for chunk, rows in chunk_rows(positions):
                building.write_chunk_vertices(level, chunk, [positions[rows]])
                building.write_chunk_attributes(level, "mass", chunk, [mass[rows]], dtype=np.float64)
                if in_session:
                    backwards, half = np.arange(len(rows))[::-1], len(rows) // 2
                    building.write_chunk_fragments(level, chunk, [backwards[:half].copy(), backwards[half:].copy()])
        return truth(positions, {"mass": mass})

    return recipe


def streamed(path):
    """Objects by the streaming appender, which numbers them by row and has no table of ids."""
    positions = cloud(13)
    level = empty_level(path)
    ids = np.random.default_rng(13).permutation(np.arange(N) % 11)
    manifests = {}
    with building.open_write_session(level, bounds=BOUNDS, chunk_shape=CHUNK):
        building.create_vertices_array(level)
        for chunk, rows in chunk_rows(positions):
            present = np.unique(ids[rows])
            building.write_chunk_vertices(level, chunk, [positions[rows[ids[rows] == o]] for o in present])
            for fragment, oid in enumerate(present.tolist()):
                manifests.setdefault(oid, []).append((chunk, fragment))
    lengths = np.bincount(ids).tolist()
    with ObjectIndexAppender(level, 0, 3, fragment_group_oids=[0, 4]) as appender:
        appender.append([manifests[o] for o in range(6)], lengths[:6])
        appender.append([manifests[o] for o in range(6, 11)], lengths[6:])
    return truth(positions, object_ids=ids, oattr_ids=np.arange(11), oattr__length=np.array(lengths, "i4"))


def streamed_onto(path):
    """The appender onto a table of ids, which it leaves behind, too short: 5 objects, then 3 more of their fragments."""
    positions = cloud(14)
    write_points(path, positions, chunk_shape=CHUNK, object_ids=np.arange(N) % 5)
    level = get_resolution_level(open_store(path, "r+"), 0)
    manifests = building.read_object_manifests(level)
    more = [[manifests[0][0]], [manifests[1][1], manifests[1][0]], []]
    with ObjectIndexAppender(level, 5, 3, fragment_group_oids=[0, 1]) as appender:
        appender.append(more, [1, 2, 0])
    table = level.zarr_group["object_index/object_ids"]
    assert table.shape == (5,)  # what no reader may trust
    return truth(positions, owners=np.arange(N) % 5)


async def append(level, positions, ids):
    """Add points; its synchronous mirror of this waits for itself, forever."""
    async with level.writer() as writer:
        await writer.append_vertices(positions, object_ids=ids)


def appended(path):
    """Points with objects, then more of each through the lazy writer, and an attribute after that."""
    first, second = cloud(15), cloud(16, n=40)
    write_points(path, first, chunk_shape=CHUNK, object_ids=np.arange(N) % 7, bounds=BOUNDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from zarr_vectors.lazy import open_zv

        asyncio.run(append(open_zv(path)[0], second, 7 + np.arange(40) % 3))
    return truth(np.concatenate([first, second]), object_ids=np.concatenate([np.arange(N) % 7, 7 + np.arange(40) % 3]))


RECIPES = {
    "plain": simple(1, names=()),
    "bins": simple(2, bin_shape=(20.0, 60.0, 40.0), compressor="zstd"),
    "blosc": simple(3, compressor="blosc", shard_shape=3),
    "sharded": simple(4, compressor="zstd", shard_shape=(2, 3, 1), names=()),
    "sharded_bins": simple(2, bin_shape=(20.0, 20.0, 40.0), shard_shape=8),
    "objects": objects(21),
    "sharded_objects": objects(22, compressor="zstd", shard_shape=(2, 2, 2)),
    "binned_objects": objects(23, compressor="zstd", bin_shape=(20.0, 20.0, 40.0)),
    "sharded_later": then(simple(24, compressor="zstd"), lambda path: shard_store(path, shard_shape=2)),
    "objects_sharded_later": then(objects(25), lambda path: shard_store(path, shard_shape=(1, 2, 3))),
    "unsharded": then(simple(26, shard_shape=2), unshard_store),
    "resharded": then(simple(27, shard_shape=2), lambda path: reshard(path, 3)),
    "pyramid": then(
        simple(28, bin_shape=(20.0, 20.0, 40.0)), lambda path: build_pyramid(path, factors=[(2.0, 1.0), (2.0, 1.0)])
    ),
    "objects_pyramid": then(
        objects(29, bin_shape=(20.0, 20.0, 40.0)),
        lambda path: build_pyramid(path, factors=[(2.0, 2.0)], chunk_scale_factors=[2], sparsity_seed=1),
    ),
    "facade": facade,
    "flat": flat,
    "integers": integers,
    "four": four,
    "lone": lone,
    "ignored": ignored,
    "by_attribute": by_attribute,
    "built": by_verbs(11, in_session=True),
    "one_by_one": by_verbs(12, in_session=False),
    "streamed": streamed,
    "streamed_onto": streamed_onto,
    "appended": appended,
}
