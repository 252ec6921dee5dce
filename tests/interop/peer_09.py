"""What the ZV 0.9 package (zarr-vectors 0.9.2) makes of stores; runs in an environment that has it, and not this project.

    python peer_09.py VERSION

Answers requests, one JSON object a line: {"do": "read", ...} on standard input, {"told": ...} or {"failed": ...} on standard
output. Arrays go through the file that a request names as "out".
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib.metadata import version

import numpy as np
import peer_09_geometries
import zarr_vectors as zv
from peer_09_geometry_recipes import GEOMETRY_RECIPES
from peer_09_recipes import RECIPES
from zarr_vectors import building
from zarr_vectors.core import arrays
from zarr_vectors.core.store import get_resolution_level, list_resolution_levels, open_store, read_root_metadata
from zarr_vectors.multiresolution.coarsen import build_pyramid
from zarr_vectors.ops.refs import AttributeRef, ObjectRef
from zarr_vectors.sharding.io import get_shard_info, shard_store, unshard_store
from zarr_vectors.types.points import read_points
from zarr_vectors.validate import validate as validate_store


def plain(values):
    """Return values that np.savez takes without pickling, and which of them are missing."""
    if values.dtype != object:
        return values, None
    missing = np.array([v is None for v in values])
    return np.array(["" if v is None else v for v in values]), missing


def keep(found, key, values):
    values, missing = plain(np.asarray(values))
    found[key] = values
    if missing is not None:
        found[f"missing__{key}"] = missing


def read(path, out, attributes=(), boxes=(), objects=(), object_attributes=(), level=0):
    """Dump everything that the package reads of one level, through its reader and through its facade."""
    attributes = list(attributes)
    found, told = {}, {}
    everything = read_points(path, level=level, attribute_names=attributes)
    keep(found, "positions", everything["positions"])
    for name in attributes:
        keep(found, f"attr__{name}", everything["vertex_attributes"][name])
    numeric = [n for n in attributes if found[f"attr__{n}"].dtype.kind != "U"]
    for i, box in enumerate(boxes):
        inside = read_points(path, level=level, bbox=(np.array(box[0]), np.array(box[1])), attribute_names=numeric)
        keep(found, f"box{i}", inside["positions"])
        for name, values in inside["vertex_attributes"].items():  # none where no point is inside
            keep(found, f"box{i}__{name}", values)
    facade = zv.open(path).level(level)
    result = facade.read(attributes="all")
    told["facade"] = {
        "same_positions": bool(np.array_equal(result.positions, found["positions"])),
        "attributes": sorted(result.attributes),
        "kind": facade.kind,
        "count": facade.select().count(),
        "object_attributes": sorted(facade.attribute_names("object")),
    }
    root = open_store(path)
    group = get_resolution_level(root, level)
    meta = read_root_metadata(root)
    told["levels"] = list_resolution_levels(root)
    told["vertex_count"] = facade.vertex_count
    told["axes"] = meta.spatial_index_dims
    told["crs"] = meta.crs
    told["bounds"] = [list(b) for b in meta.bounds]
    told["chunk_shape"] = list(meta.chunk_shape)
    told["bins_per_chunk"] = list(meta.bins_per_chunk)
    told["chunks"] = [list(c) for c in arrays.list_chunk_keys(group)]
    told["children"] = sorted(group.children())
    told["shards"] = {a["name"]: a["shard_shape"] for a in get_shard_info(path)["arrays"]}
    told["meta"] = {a: group.read_array_meta(f"vertex_attributes/{a}") for a in attributes}
    if objects:
        read_objects(path, group, facade, objects, object_attributes, attributes, found, told, level)
    np.savez(out, **found)
    return told


def read_objects(path, group, facade, objects, object_attributes, attributes, found, told, level):
    told["ids"] = [int(i) for i in facade.objects.ids()]
    told["manifests"] = {
        int(o): [[*map(int, c), int(f)] for c, f in m] for o, m in building.read_object_manifests(group).items()
    }
    by_object = read_points(path, level=level, object_ids=list(objects), attribute_names=list(attributes))
    keep(found, "by_object", by_object["positions"])
    if len(by_object["positions"]):  # else it tells nothing more
        keep(found, "by_object_ids", by_object["object_ids"])
        for name in attributes:
            keep(found, f"by_object__{name}", by_object["vertex_attributes"][name])
        how = {"dtype": found["positions"].dtype, "ndim": found["positions"].shape[1]}
        keep(found, "one_object", np.concatenate(building.read_object_vertices(group, int(objects[-1]), **how)))
    for name in object_attributes:
        keep(found, f"oattr__{name}", arrays.read_object_attributes(group, name))
        present = arrays.read_object_attribute_present_mask(group, name)
        rows = len(found[f"oattr__{name}"])
        found[f"present__{name}"] = np.ones(rows, bool) if present is None else np.asarray(present, bool)
    if group.array_exists("groups"):
        told["groups"] = [[int(m) for m in members] for members in building.read_all_groupings(group)]
        told["group_points"] = len(read_points(path, level=level, group_ids=[0])["positions"])


def validate(path):
    result = validate_store(path, level=5)
    return {"errors": result.errors, "warnings": result.warnings}


def cells(path, arrays, out, level=0):
    """Dump the cells of arrays through the package's own group, alone and in its batch of reads."""
    group = get_resolution_level(open_store(path), level)
    found, told = {}, {}
    for array in arrays:
        told[array] = group.list_chunks(array)
        with group.batched_reads([(array, told[array])]):
            batched = {key: group.read_bytes(array, key) for key in told[array]}
        for key in told[array]:
            data = group.read_bytes(array, key)
            assert data == batched[key]
            found[f"{array}|{key}"] = np.frombuffer(data, "u1")
    np.savez(out, **found)
    return told


def write(recipe, path, out):
    """Write a store by one of the package's writers; what went in is in `out`."""
    assert not RECIPES.keys() & GEOMETRY_RECIPES.keys()
    np.savez(out, **(RECIPES | GEOMETRY_RECIPES)[recipe](path))
    return {"shards": {a["name"]: a["shard_shape"] for a in get_shard_info(path)["arrays"]}}


def edit(path, moves=(), values=(), object_values=(), atomic=False):
    """Edit vertices in place: [position, new position], [name, position, value], [name, object, value]."""
    with zv.open(path, mode="r+").editing(atomic=atomic) as session:
        for name, at, value in values:
            session.set_attribute(name, value, at=at)
        for name, oid, value in object_values:
            target = ObjectRef(level=0, object_id=oid)
            session.session.edit_attribute(AttributeRef(scope="object", name=name, target=target), value)
        for at, to in moves:
            session.move_vertex(at=at, to=to)
    return {"renamed": {str(k): int(v) for k, v in session.renamed().items()}}


def pyramid(path, **options):
    options["factors"] = [tuple(f) for f in options["factors"]]
    build_pyramid(path, **options)
    return {"levels": list_resolution_levels(open_store(path))}


def shard(path, shape):
    """Pack the chunks of a store, or put each into an object of its own."""
    if shape is None:
        return unshard_store(path)
    return shard_store(path, shard_shape=shape if isinstance(shape, int) else tuple(shape))


def user_metadata(path, namespace, values):
    """Set and return what applications keep in a store."""
    dataset = zv.open(path, mode="r+")
    for owner in (dataset, dataset.level(0)):
        owner.metadata[namespace].update(values)
    return {"root": dataset.metadata[namespace].to_dict(), "level": dataset.level(0).metadata[namespace].to_dict()}


def write_cells(path, array, blobs, level=0):
    """Store blobs through the package's own batch."""
    group = get_resolution_level(open_store(path, "r+"), level)
    with group.batched_writes():
        for key, data in blobs.items():
            group.write_bytes(array, key, bytes.fromhex(data))
    return group.list_chunks(array)


COMMANDS = {f.__name__: f for f in (read, validate, cells, write, edit, pyramid, shard, user_metadata, write_cells)}
COMMANDS |= peer_09_geometries.COMMANDS


def main(expected):
    assert version("zarr-vectors") == expected
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the package prints is no answer
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"told": COMMANDS[request.pop("do")](**request)}
        except Exception:  # noqa: BLE001 - whatever the package raises is for the other side to judge
            answer = {"failed": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
