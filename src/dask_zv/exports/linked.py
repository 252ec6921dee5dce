"""Vertices with links between them: networkx graphs, trimesh surfaces, uxarray grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.exports.front import (
    STORES,
    add_columns,
    check_paths,
    chosen_dims,
    edges_of,
    faces_of,
    flat,
    library,
    numbers_of,
    owned_links,
    reference_system,
    source_attrs,
)
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.content import Content, Shape, read_content, shape_of

if TYPE_CHECKING:
    from networkx import Graph
    from trimesh import Trimesh
    from uxarray import UxDataset

_DEGREES = ("degree", "degrees", "deg", "degree_east", "degrees_east", "degree_north", "degrees_north")


# ---------------------------------------------------------------------------------------------- networkx


def to_networkx(ds: xr.Dataset, *, directed: bool | None = None, multigraph: bool = False) -> Graph:
    """Return a graph of vertices and edges, see :meth:`ZVDatasetAccessor.to_networkx`."""
    nx = library("networkx", "graph")
    shape = shape_of(ds)
    if shape.geometry.is_points:
        raise InputError("points have no edges")
    if shape.geometry.link == "face":
        raise InputError("a mesh has faces, not edges: ds.zv.to_trimesh().vertex_adjacency_graph is the graph of its edges")
    check_paths(shape)
    content = read_content(ds)
    edges = content.steps() if shape.is_path else edges_of(content)
    if directed is None:
        topology = ds.variables.get(names.TOPOLOGY)
        directed = shape.geometry.has_parents or (topology is not None and bool(topology.attrs.get("directed", 0)))
    if not multigraph:
        _check_single(edges, directed=directed)
    kind = (nx.MultiDiGraph if directed else nx.MultiGraph) if multigraph else (nx.DiGraph if directed else nx.Graph)
    graph: Graph = kind(**source_attrs(ds))
    numbers = numbers_of(ds)
    nodes = flat(ds, shape.attributes, content.attributes)
    add_columns(nodes, {"pos": content.positions})
    if content.object_ids is not None:
        add_columns(nodes, {names.OBJECT_ID: content.object_ids})
    graph.add_nodes_from(zip(numbers.tolist(), _records(nodes, len(numbers)), strict=True))
    about = flat(ds, shape.edge_attributes, content.edge_attributes)
    ends = numbers[edges].tolist()
    graph.add_edges_from((a, b, data) for (a, b), data in zip(ends, _records(about, len(ends)), strict=True))
    return graph


def _check_single(edges: NDArray[np.int64], *, directed: bool) -> None:
    pairs = edges if directed else np.sort(edges, axis=1)
    twice = len(pairs) - len(np.unique(pairs, axis=0))
    if twice:
        raise InputError(
            f"{twice:,} edges connect two vertices that another edge already connects"
            + ("" if directed else " (in either direction)")
            + ": keep them all with multigraph=True" + ("" if directed else ", or directed=True where they have a direction")
        )  # fmt: skip


def _records(columns: dict[str, NDArray[Any]], n: int) -> list[dict[str, Any]]:
    """Return a dict of plain Python values for each row."""
    lists = [list(map(tuple, v.tolist())) if v.ndim == 2 else v.tolist() for v in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)] if columns else [{} for _ in range(n)]


# ---------------------------------------------------------------------------------------------- trimesh


def to_trimesh(ds: xr.Dataset, *, by_object: bool = False) -> Trimesh | dict[int, Trimesh]:
    """Return the faces of a mesh, see :meth:`ZVDatasetAccessor.to_trimesh`."""
    trimesh = library("trimesh", "mesh")
    shape = shape_of(ds)
    _check_mesh(shape)
    if not 2 <= len(shape.axes) <= 3:
        raise InputError(f"trimesh has meshes with 3 axes, the Dataset has {len(shape.axes)}: {', '.join(shape.axes)}")
    content = read_content(ds)
    faces = faces_of(content)
    if faces.shape[1] not in (3, 4):
        raise InputError(
            f"faces of {faces.shape[1]} corners cannot be divided into triangles; only faces of 3 or 4 corners can"
        )
    about = flat(ds, shape.face_attributes, content.face_attributes)
    if faces.shape[1] == 4:
        faces = faces[:, [0, 1, 2, 2, 3, 0]].reshape(-1, 3)
        about = {k: np.repeat(v, 2, axis=0) for k, v in about.items()}
    positions = np.zeros((len(content), 3))
    positions[:, : len(shape.axes)] = content.positions
    columns = {"vertex": numbers_of(ds), **flat(ds, shape.attributes, content.attributes)}
    if content.object_ids is not None:
        columns["object_id"] = content.object_ids

    def made(rows: Any, of_faces: Any, corners: NDArray[np.int64], metadata: dict[str, Any]) -> Trimesh:
        mesh: Trimesh = trimesh.Trimesh(
            vertices=positions[rows],
            faces=corners,
            process=False,
            vertex_attributes={k: v[rows] for k, v in columns.items()},
            face_attributes={k: v[of_faces] for k, v in about.items()},
            metadata=metadata,
        )
        return mesh

    if not by_object:
        return made(slice(None), slice(None), faces, {})
    return {
        key: made(rows, of_faces, corners, metadata) for key, rows, of_faces, corners, metadata in _each_object(content, faces)
    }


def _check_mesh(shape: Shape) -> None:
    if shape.geometry.link != "face":
        raise InputError(f"a {shape.kind} has no faces; only meshes have faces")


def _each_object(content: Content, faces: NDArray[np.int64]) -> Any:
    """Yield id, rows, faces (as numbers of these rows) and attributes of each object that has vertices."""
    owned = owned_links(content, faces, "faces", "by_object=False")
    if owned is None:
        raise InputError("the Dataset has no objects (object_id): by_object=False returns all faces at once")
    rows, links = (np.argsort(a, kind="stable") for a in (owned.vertices, owned.links))
    ends = np.arange(len(owned.ids) + 1)
    row_edges = np.searchsorted(owned.vertices, ends, sorter=rows)
    link_edges = np.searchsorted(owned.links, ends, sorter=links)
    local = np.empty(len(rows), np.int64)
    shown = content.shape.object_attributes
    for i, key in enumerate(owned.ids.tolist()):
        mine = rows[row_edges[i] : row_edges[i + 1]]
        if len(mine):
            of_faces = links[link_edges[i] : link_edges[i + 1]]
            local[mine] = np.arange(len(mine))
            about = {shown[k]: v[i].tolist() for k, v in content.object_attributes.items()}
            yield key, mine, of_faces, local[faces[of_faces]], {"object_id": key, **about}


# ---------------------------------------------------------------------------------------------- uxarray


def to_uxarray(ds: xr.Dataset, dims: Sequence[str] | None = None) -> UxDataset:
    """Return a mesh on the sphere, see :meth:`ZVDatasetAccessor.to_uxarray`."""
    ux = library("uxarray", "uxarray")
    shape = shape_of(ds)
    if shape.geometry.link == "edge":
        raise InputError(f"uxarray has surfaces only, and a {shape.kind} is a network of edges: use ds.zv.to_networkx()")
    _check_mesh(shape)
    if dims is None and len(shape.axes) != 2:
        raise InputError(
            f"uxarray has surfaces in longitude and latitude only, the Dataset has {len(shape.axes)} axes: name two, "
            f"such as dims={shape.axes[:2]!r}, or use ds.zv.to_trimesh()"
        )
    lon, lat = chosen_dims(shape, dims, 2)
    if dims is None and not _is_geographic(shape):
        raise InputError(
            "it is not known that the axes are degrees of longitude and latitude (from a geographic reference system, or the "
            f"unit degree): if they are, pass dims={shape.axes!r}"
        )
    content = read_content(ds)
    longitude, latitude = (content.positions[:, i].astype(np.float64) for i in (lon, lat))
    if not ((np.abs(latitude) <= 90).all() and (longitude >= -180).all() and (longitude <= 360).all()):
        raise InputError(
            f"{shape.axes[lon]} and {shape.axes[lat]} are not degrees of longitude (-180 to 360) and latitude (-90 to 90)"
        )
    grid = ux.Grid.from_topology(
        node_lon=longitude, node_lat=latitude, face_node_connectivity=faces_of(content), fill_value=-1, start_index=0
    )
    nodes = flat(ds, shape.attributes, content.attributes)
    if content.object_ids is not None:
        add_columns(nodes, {"object_id": content.object_ids})
    table: dict[str, Any] = {k: xr.Variable(("n_node",), v) for k, v in nodes.items()}
    about = flat(ds, shape.face_attributes, content.face_attributes)
    add_columns(table, {k: xr.Variable(("n_face",), v) for k, v in about.items()})
    made: UxDataset = ux.UxDataset(table, attrs=source_attrs(ds), uxgrid=grid)
    return made


def _is_geographic(shape: Shape) -> bool:
    if all((u or "").lower() in _DEGREES for u in shape.units):
        return True
    reference = reference_system(shape, STORES, "uxarray")
    return reference is not None and reference.is_geographic
