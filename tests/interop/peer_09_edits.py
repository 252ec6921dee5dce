"""What only the ZV 0.9 package does to stores: cells, packing, notes of applications, edits. Imported by peer.py, where it is."""

from __future__ import annotations

import numpy as np
import zarr_vectors as zv
from zarr_vectors import building
from zarr_vectors.core import arrays
from zarr_vectors.core.store import get_resolution_level, open_store
from zarr_vectors.ops.refs import AttributeRef, LinkRef, ObjectRef
from zarr_vectors.sharding.io import shard_store, unshard_store
from zarr_vectors.types.graphs import read_graph
from zarr_vectors.types.lines import read_lines
from zarr_vectors.types.meshes import read_mesh
from zarr_vectors.types.skeletons import read_skeleton_by_segment_id


def cells(path, names, out, level=0):
    """Dump the cells of arrays through the package's own group, alone and in its batch of reads."""
    group = get_resolution_level(open_store(path), level)
    found, told = {}, {}
    for array in names:
        told[array] = group.list_chunks(array)
        with group.batched_reads([(array, told[array])]):
            batched = {key: group.read_bytes(array, key) for key in told[array]}
        for key in told[array]:
            data = group.read_bytes(array, key)
            assert data == batched[key]
            found[f"{array}|{key}"] = np.frombuffer(data, "u1")
    np.savez(out, **found)
    return told


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


COMMANDS = {
    f.__name__: f
    for f in (cells, edit, shard, user_metadata, write_cells, boxes, cross_level, segment, edit_links, append_links)
}
