"""What a ZV package makes of stores; runs in an environment that has zarr-vectors 0.9.2 or 0.2.0, and not this project.

    python peer.py VERSION

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
from zarr_vectors.core import arrays
from zarr_vectors.core.store import get_resolution_level, list_resolution_levels, open_store, read_root_metadata
from zarr_vectors.multiresolution.coarsen import build_pyramid
from zarr_vectors.types.graphs import read_graph
from zarr_vectors.types.lines import read_lines
from zarr_vectors.types.meshes import read_mesh
from zarr_vectors.types.points import read_points
from zarr_vectors.types.polylines import read_polylines
from zarr_vectors.validate import validate as validate_store

GRID = hasattr(arrays, "read_link_arrays")
"""The package is of generation 0.9."""

if GRID:
    import zarr_vectors as zv
    from peer_09_edits import COMMANDS as MORE
    from peer_09_geometry_recipes import GEOMETRY_RECIPES
    from peer_09_recipes import RECIPES
    from zarr_vectors import building
    from zarr_vectors.sharding.io import get_shard_info
else:
    from peer_02_recipes import COMMANDS as MORE
    from peer_02_recipes import GEOMETRY_RECIPES, RECIPES


def keep(found, key, values):
    """Keep values as np.savez takes them without pickling, and which of them are missing."""
    values = np.asarray(values)
    if values.dtype == object:
        found[f"missing__{key}"] = np.array([v is None for v in values])
        values = np.array(["" if v is None else v for v in values])
    found[key] = values


def describe(path, level):
    """Return a level's group, the root's metadata, and what every reading tells of both."""
    root = open_store(path)
    group, meta = get_resolution_level(root, level), read_root_metadata(root)
    told = {
        "levels": list_resolution_levels(root),
        "axes": meta.spatial_index_dims,
        "crs": meta.crs,
        "bounds": [list(b) for b in meta.bounds],
        "chunk_shape": list(meta.chunk_shape),
        "bins_per_chunk": list(meta.bins_per_chunk),
        "chunks": [list(c) for c in arrays.list_chunk_keys(group)],
        "children": sorted(group.children() if GRID else group),
    }
    return group, meta, told


def read(path, out, attributes=(), boxes=(), objects=(), object_attributes=(), level=0):
    """Dump everything that the package reads of one level of points, through its reader and through its facade."""
    attributes, found = list(attributes), {}
    group, meta, told = describe(path, level)
    everything = read_points(path, level=level, attribute_names=attributes)
    keep(found, "positions", everything["positions"])
    for name in attributes:
        keep(found, f"attr__{name}", everything["vertex_attributes"][name])
    some = [n for n in attributes if found[f"attr__{n}"].dtype.kind != "U" and (GRID or n in ("mass", "count"))]
    for i, box in enumerate(boxes):
        inside = read_points(path, level=level, bbox=(np.array(box[0]), np.array(box[1])), attribute_names=some)
        keep(found, f"box{i}", inside["positions"])
        for name, values in inside["vertex_attributes"].items():  # none where no point is inside
            keep(found, f"box{i}__{name}", values)
    told["meta"] = {a: group.read_array_meta(f"vertex_attributes/{a}") for a in attributes}
    if GRID:
        facade = zv.open(path).level(level)
        result = facade.read(attributes="all")
        told["facade"] = {
            "same_positions": bool(np.array_equal(result.positions, found["positions"])),
            "attributes": sorted(result.attributes),
            "kind": facade.kind,
            "count": facade.select().count(),
            "object_attributes": sorted(facade.attribute_names("object")),
        }
        told["vertex_count"] = facade.vertex_count
        told["shards"] = {a["name"]: a["shard_shape"] for a in get_shard_info(path)["arrays"]}
    if objects:
        about_objects(path, group, level, object_attributes, found, told)
        more = {"attribute_names": attributes} if GRID else {}
        by_object = read_points(path, level=level, object_ids=list(objects), **more)
        keep(found, "by_object", by_object["positions"])
        if len(by_object["positions"]):  # else it tells nothing more
            keep(found, "by_object_ids", by_object["object_ids"])
            for name in attributes if GRID else []:
                keep(found, f"by_object__{name}", by_object["vertex_attributes"][name])
            one = vertices_of(group, objects[-1], found["positions"].dtype, meta)
            found["one_object"] = np.concatenate(one) if isinstance(one, list) else one
        if told["groups"]:
            told["group_points"] = len(read_points(path, level=level, group_ids=[0])["positions"])
    np.savez(out, **found)
    return told


def vertices_of(group, oid, dtype, meta):
    how = {"dtype": dtype, "ndim": meta.sid_ndim}
    return building.read_object_vertices(group, int(oid), **how) if GRID else arrays.read_object_vertices(group, oid, **how)


def about_objects(path, group, level, names, found, told):
    """Note ids, manifests, attributes and groups of objects; `names` are those of attributes."""
    if GRID:
        manifests = building.read_object_manifests(group)
        told["ids"] = [int(i) for i in zv.open(path).level(level).objects.ids()]
    else:
        manifests = dict(enumerate(arrays.read_all_object_manifests(group)))
        told["ids"] = [i for i, m in manifests.items() if m]
    told["manifests"] = {int(o): [[*map(int, c), int(f)] for c, f in m] for o, m in manifests.items()}
    for name in names:
        keep(found, f"oattr__{name}", arrays.read_object_attributes(group, name))
        present = arrays.read_object_attribute_present_mask(group, name)
        rows = len(found[f"oattr__{name}"])
        found[f"present__{name}"] = np.ones(rows, bool) if present is None else np.asarray(present, bool)
    told["groups"] = []
    if "groups" in told["children"]:
        told["groups"] = [[int(m) for m in members] for members in arrays.read_all_groupings(group)]


def read_geometry(path, out, level=0, whole=True, attributes=None, object_attributes=(), group_attributes=()):
    """Dump everything that the package reads of one level, each thing by the function that it has for it.

    0.2.0 lists no attributes: it is told them, and how many columns each has. Without `whole` only its readers of geometries.
    """
    group, meta, told = describe(path, level)
    found, kind = {}, meta.geometry_types[0]
    told["kind"] = kind
    dtype = np.dtype(group.read_array_meta("vertices")["dtype"])
    if whole and "object_index" in told["children"]:
        if GRID:
            object_attributes = told["object_attributes"] = sorted(zv.open(path).level(level).attribute_names("object"))
            in_groups = "group_attributes" in told["children"]
            group_attributes = sorted(group["group_attributes"].children()) if in_groups else []
        about_objects(path, group, level, object_attributes, found, told)
        vertices = [vertices_of(group, o, dtype, meta) for o in told["ids"]]
        found["by_object"] = np.concatenate([p for v in vertices for p in v])
        found["by_object_ids"] = np.repeat(told["ids"], [sum(map(len, v)) for v in vertices])
        for name in group_attributes:
            found[f"gattr__{name}"] = arrays.read_groupings_attributes(group, name)
    (geometry_09 if GRID else geometry_02)(path, group, level, kind, found, told)
    if not GRID:
        # attributes of paths have no reader but that of chunks: they are in the order of the chunks
        chunks = [tuple(c) for c in told["chunks"]]
        ndim = len(meta.chunk_shape)
        found["by_chunk"] = np.concatenate([p for c in chunks for p in arrays.read_chunk_vertices(group, c, dtype, ndim)])
        for name, columns in (attributes or {}).items():
            of = np.dtype(group.read_array_meta(f"vertex_attributes/{name}")["dtype"])
            rows = [np.concatenate(arrays.read_chunk_attributes(group, name, c, dtype=of, ncols=columns)) for c in chunks]
            found[f"attr__{name}"] = np.concatenate(rows)
        links = arrays.read_cross_chunk_links(group, delta=0) if whole else []
        if links:
            found["link_chunks"] = np.array([[c for c, _ in record] for record in links])
            found["link_rows"] = np.array([[v for _, v in record] for record in links])
    np.savez(out, **found)
    return told


def geometry_02(path, group, level, kind, found, told):
    if kind == "line":
        ends = read_lines(path, level=level)["endpoints"]
        found["positions"], found["lengths"] = ends.reshape(-1, ends.shape[2]), np.full(len(ends), 2)
    elif kind in ("polyline", "streamline"):
        walks = read_polylines(path, level=level)["polylines"]
        found["positions"] = np.concatenate([p for walk in walks for p in walk])
        found["lengths"] = np.array([sum(map(len, w)) for w in walks])
        if told.get("groups"):
            some = read_polylines(path, group_ids=[0])["polylines"]
            found["of_group"] = np.concatenate([p for walk in some for p in walk])
    elif kind == "mesh":
        mesh = read_mesh(path, level=level)
        found["positions"], found["links"] = mesh["vertices"], mesh["faces"]
    elif kind == "point_cloud":
        found["positions"] = read_points(path, level=level)["positions"]
    else:
        made = read_graph(path, level=level)
        found["positions"], found["links"] = made["positions"], made["edges"]


def geometry_09(path, group, level, kind, found, told):
    facade = zv.open(path).level(level)
    told["kind"], told["vertex_count"] = facade.kind, facade.vertex_count
    result = facade.read(attributes="all")  # by its readers of each geometry
    attributes = result.attributes
    if kind in ("line", "polyline", "streamline"):
        read_paths = read_lines if kind == "line" else read_polylines
        made = read_paths(path, level=level, object_ids=told["ids"])
        attributes, found["without_ids"] = made["vertex_attributes"], result.positions
        if kind == "line":
            ends = made["endpoints"]
            found["positions"], found["lengths"] = ends.reshape(-1, ends.shape[2]), np.full(len(ends), 2)
        else:
            found["positions"] = np.concatenate([p for walk in made["polylines"] for p in walk])
            found["lengths"] = np.array([sum(map(len, walk)) for walk in made["polylines"]])
            found["path_ids"] = np.array(made["object_ids"])
            if told["groups"]:
                some = read_polylines(path, level=level, group_ids=[len(told["groups"]) - 1])
                told["of_group"] = sorted(int(i) for i in some["object_ids"])
    else:
        found["positions"], found["links"] = result.positions, result.faces if kind == "mesh" else result.edges
    found |= {f"attr__{name}": np.asarray(values) for name, values in attributes.items()}
    policy = arrays.link_family_policy(group, 0)
    if policy is not None:
        told["width"], _, told["directed"], told["store"] = policy
        told["counts"] = {k: v for k, v in group.read_array_meta("links/0").items() if k.startswith("num_")}
        if kind not in ("graph", "mesh"):  # whose reader gives every record
            found["link_chunks"], found["link_rows"] = building.read_link_arrays(group)
    for name in sorted(group["link_attributes"].children()) if "link_attributes" in told["children"] else []:
        found[f"eattr__{name}"] = building.read_link_attributes(group, name)


def validate(path):
    result = validate_store(path, level=5)
    return {"errors": result.errors, "warnings": result.warnings}


def write(recipe, path, out):
    """Write a store by one of the package's writers; what went in is in `out`."""
    assert not RECIPES.keys() & GEOMETRY_RECIPES.keys()
    np.savez(out, **(RECIPES | GEOMETRY_RECIPES)[recipe](path))
    return {"shards": {a["name"]: a["shard_shape"] for a in get_shard_info(path)["arrays"]} if GRID else {}}


def pyramid(path, **options):
    options["factors"] = [tuple(f) for f in options["factors"]]
    build_pyramid(path, **options)
    return {"levels": list_resolution_levels(open_store(path))}


COMMANDS = {f.__name__: f for f in (read, read_geometry, validate, write, pyramid)} | MORE


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
