"""What the ZV 0.9 package makes of stores of lines, polylines, graphs, skeletons and meshes, and how it edits their links.

Imported by peer_09.py, where the package is.
"""

from __future__ import annotations

import numpy as np
import zarr_vectors as zv
from zarr_vectors import building
from zarr_vectors.core import arrays
from zarr_vectors.core.store import get_resolution_level, list_resolution_levels, open_store, read_root_metadata
from zarr_vectors.ops.refs import LinkRef
from zarr_vectors.types.graphs import read_graph
from zarr_vectors.types.lines import read_lines
from zarr_vectors.types.meshes import read_mesh
from zarr_vectors.types.polylines import read_polylines
from zarr_vectors.types.skeletons import read_skeleton_by_segment_id


def read_geometry(path, out, level=0, linked=True):
    """Dump everything that the package reads of one level, each thing by the function that it has for it."""
    root = open_store(path)
    group = get_resolution_level(root, level)
    facade = zv.open(path).level(level)
    found, told = {}, {"kind": facade.kind, "levels": list_resolution_levels(root), "vertex_count": facade.vertex_count}
    told["bounds"] = [list(b) for b in read_root_metadata(root).bounds]
    told["children"] = sorted(group.children())
    told["chunks"] = [list(c) for c in arrays.list_chunk_keys(group)]
    if "object_index" in told["children"]:
        _objects(path, group, facade, found, told)
    result = facade.read(attributes="all")  # by its readers of each geometry
    if facade.kind == "line":
        _lines(path, level, told["ids"], result, found)
    elif facade.kind in ("polyline", "streamline"):
        _paths(path, level, told["ids"], told.get("groups"), result, found, told)
    else:
        found["positions"] = result.positions
        found |= {f"attr__{name}": np.asarray(values) for name, values in result.attributes.items()}
        if facade.kind == "mesh":
            found["links"] = result.faces
        else:
            found["links"] = result.edges
    policy = arrays.link_family_policy(group, 0)
    if policy is not None:
        told["width"], _, told["directed"], told["store"] = policy
        told["counts"] = {k: v for k, v in group.read_array_meta("links/0").items() if k.startswith("num_")}
        told["segments"] = building.list_link_offsets(group, 0)
        if facade.kind not in ("graph", "mesh"):  # whose reader gives every record
            found["link_chunks"], found["link_rows"] = building.read_link_arrays(group)
    for name in sorted(group["link_attributes"].children()) if "link_attributes" in told["children"] else []:
        found[f"eattr__{name}"] = building.read_link_attributes(group, name)
    np.savez(out, **found)
    return told


def _objects(path, group, facade, found, told):
    told["ids"] = [int(i) for i in facade.objects.ids()]
    manifests = building.read_object_manifests(group)
    told["manifests"] = {int(o): [[*map(int, c), int(f)] for c, f in m] for o, m in manifests.items()}
    how = {"dtype": arrays.vertices_dtype(group), "ndim": read_root_metadata(open_store(path)).sid_ndim}
    vertices = [building.read_object_vertices(group, o, **how) for o in told["ids"]]
    found["by_object"] = np.concatenate([np.concatenate(v) for v in vertices if v])
    found["by_object_ids"] = np.repeat(told["ids"], [sum(map(len, v)) for v in vertices])
    told["object_attributes"] = sorted(facade.attribute_names("object"))
    for name in told["object_attributes"]:
        found[f"oattr__{name}"] = arrays.read_object_attributes(group, name)
        present = arrays.read_object_attribute_present_mask(group, name)
        found[f"present__{name}"] = np.ones(len(found[f"oattr__{name}"]), bool) if present is None else present
    if group.array_exists("groups"):
        told["groups"] = [[int(m) for m in members] for members in building.read_all_groupings(group)]
        names = sorted(group["group_attributes"].children()) if "group_attributes" in told["children"] else []
        for name in names:
            found[f"gattr__{name}"] = building.read_groupings_attributes(group, name)


def _lines(path, level, ids, everything, found):
    lines = read_lines(path, level=level, object_ids=ids)
    found["positions"] = lines["endpoints"].reshape(-1, lines["endpoints"].shape[2])
    found["lengths"] = np.full(len(lines["endpoints"]), 2)
    found["without_ids"] = everything.positions
    for name, values in lines["vertex_attributes"].items():
        found[f"attr__{name}"] = values


def _paths(path, level, ids, groups, everything, found, told):
    read = read_polylines(path, level=level, object_ids=ids)
    pieces = [p for path in read["polylines"] for p in path]
    found["positions"] = np.concatenate(pieces)
    found["lengths"] = np.array([sum(map(len, path)) for path in read["polylines"]])
    found["path_ids"] = np.array(read["object_ids"])
    for name, values in read["vertex_attributes"].items():
        found[f"attr__{name}"] = values
    found["without_ids"] = everything.positions
    if groups:
        some = read_polylines(path, level=level, group_ids=[len(groups) - 1])
        told["of_group"] = sorted(int(i) for i in some["object_ids"])


def boxes(path, out, box):
    """Dump what is in a box, by the reader of the store's kind."""
    kind = zv.open(path).level(0).kind
    bbox = tuple(np.array(corner) for corner in box)
    found = {}
    if kind == "line":
        found["endpoints"] = read_lines(path, bbox=bbox)["endpoints"]
    elif kind == "mesh":
        mesh = read_mesh(path, bbox=bbox)
        found["positions"], found["faces"] = mesh["vertices"], mesh["faces"]
    else:
        graph = read_graph(path, bbox=bbox)
        found["positions"], found["edges"] = graph["positions"], graph["edges"]
    np.savez(out, **found)
    return {}


def cross_level(path, out, level, delta):
    """Dump the links of a level to another one."""
    group = get_resolution_level(open_store(path), level)
    found = {}
    found["chunks"], found["rows"] = building.read_link_arrays(group, delta=delta)
    np.savez(out, **found)
    return {"directed": arrays.link_family_policy(group, delta)[2]}


def segment(path, out, segment_id):
    """Dump one skeleton of a chunked store, by its segment."""
    found = read_skeleton_by_segment_id(path, segment_id)
    values = {f"attr__{k}": v for k, v in found["attributes"].items()}
    np.savez(out, positions=found["positions"], edges=found["edges"], **values)
    return {"fragments": found["fragment_count"]}


def edit_links(path, add=(), change=(), remove=(), atomic=False):
    """Edit the links inside chunks and across: endpoints are (chunk, row), links are named by chunk, offsets and row."""
    with zv.open(path, mode="r+").editing(atomic=atomic) as plan:
        session = plan.session
        for ends, attributes in add:
            session.add_link(level=0, endpoints=[(tuple(c), r) for c, r in ends], attrs=attributes or None)
        for ref, ends in change:
            session.edit_link(_ref(ref), new_endpoints=tuple(ends))
        for ref in remove:
            session.remove_link(_ref(ref))
    return {}


def _ref(ref):
    chunk, offsets, fragment, row = ref
    return LinkRef(level=0, chunk=tuple(chunk), offsets=tuple(map(tuple, offsets)), fragment=fragment, row=row)


def append_links(path, records, attributes=None):
    """Add records (lists of [chunk, row]) to a family, with values of attributes, through the builder's verbs."""
    group = get_resolution_level(open_store(path, mode="r+"), 0)
    width, rank, directed, store = arrays.link_family_policy(group, 0)
    links = [[(tuple(c), r) for c, r in record] for record in records]
    partition = building.write_links(
        group, links, rank, delta=0, link_width=width, directed=directed, store=store, mode="append"
    )
    for name, values in (attributes or {}).items():
        layout = group.read_array_meta(f"link_attributes/{name}/0/{building.list_link_attribute_offsets(group, name, 0)[0]}")
        data = np.array(values, layout["dtype"])
        building.write_link_attributes(group, name, data, num_links=partition.num_links, mode="append", partition=partition)
    return partition.num_links


COMMANDS = {f.__name__: f for f in (read_geometry, boxes, cross_level, segment, edit_links, append_links)}
