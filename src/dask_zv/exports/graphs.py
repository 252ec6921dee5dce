"""Graphs of networkx."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.exports.columns import add_columns, flat, numbers_of
from dask_zv.exports.optional import library
from dask_zv.exports.parts import edges_of
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.content import Content, Shape, read_content, shape_of

if TYPE_CHECKING:
    from networkx import Graph


def to_networkx(ds: xr.Dataset, *, directed: bool | None = None, multigraph: bool = False) -> Graph:
    """Return a graph of vertices and edges.

    Nodes are vertex numbers, which stay the same in selections. Their data: ``pos`` (a tuple), attributes of vertices (one per
    channel, ``colour_r``, of those that have several), ``object_id``. Data of edges: attributes of edges.

    Parameters
    ----------
    ds : Dataset
        Graphs in the spatial view, skeletons in either, paths in the objects view.
    directed : bool, optional
        Return a DiGraph. Where None: skeletons are directed, each edge from child to parent, as the store has them (all paths
        lead to the root; ``graph.reverse()`` is an arborescence); graphs where the store says that its links have a direction;
        paths are not. An edge of a directed path leads to the next vertex.
    multigraph : bool
        Return a MultiGraph or MultiDiGraph, which keeps edges between the same two vertices apart.

    Returns
    -------
    networkx.Graph, DiGraph, MultiGraph or MultiDiGraph

    Raises
    ------
    InputError
        The Dataset has no edges, or several between the same two vertices.
    ImportError
        networkx is not installed.
    """
    nx = library("networkx", "graph")
    shape = shape_of(ds)
    _check_kind(shape)
    content = read_content(ds)
    edges = _path_edges(content) if shape.is_path else edges_of(content)
    if directed is None:
        directed = shape.kind == "skeleton" or _is_directed(ds)
    if not multigraph:
        _check_single(edges, directed=directed)
    kind = (nx.MultiDiGraph if directed else nx.MultiGraph) if multigraph else (nx.DiGraph if directed else nx.Graph)
    graph: Graph = kind(**{k: ds.attrs[k] for k in ("zv_url", "zv_level") if k in ds.attrs})
    numbers = numbers_of(ds)
    nodes = flat(ds, shape.attributes, content.attributes)
    add_columns(nodes, {"pos": np.zeros(0)})
    if content.object_ids is not None:
        add_columns(nodes, {names.OBJECT_ID: content.object_ids})
    nodes["pos"] = content.positions
    graph.add_nodes_from(zip(numbers.tolist(), _records(nodes, len(numbers)), strict=True))
    about = flat(ds, shape.edge_attributes, content.edge_attributes)
    ends = numbers[edges].tolist()
    graph.add_edges_from((a, b, data) for (a, b), data in zip(ends, _records(about, len(ends)), strict=True))
    return graph


def _check_kind(shape: Shape) -> None:
    if shape.kind == "point_cloud":
        raise InputError("points have no edges")
    if shape.kind == "mesh":
        raise InputError("a mesh has faces, not edges: ds.zv.to_trimesh().vertex_adjacency_graph is the graph of its edges")
    if shape.is_path and shape.view != "objects":
        raise InputError(
            f"vertices of a {shape.kind} are not in the order of its path in the spatial view: open the store with "
            "view='objects'"
        )


def _is_directed(ds: xr.Dataset) -> bool:
    return names.TOPOLOGY in ds.variables and bool(ds.variables[names.TOPOLOGY].attrs.get("directed", 0))


def _path_edges(content: Content) -> NDArray[np.int64]:
    """Return (vertex, next vertex) of every path."""
    assert content.lengths is not None
    last = np.zeros(len(content) + 1, bool)
    last[np.cumsum(content.lengths)] = True  # rows that begin another object
    rows = np.flatnonzero(~last[1:])
    return np.stack([rows, rows + 1], axis=1)


def _check_single(edges: NDArray[np.int64], *, directed: bool) -> None:
    pairs = edges if directed else np.sort(edges, axis=1)
    twice = len(pairs) - len(np.unique(pairs, axis=0))
    if twice:
        raise InputError(
            f"{twice:,} edges join two vertices that another edge joins already"
            + ("" if directed else " (in either direction)")
            + ": keep them apart with multigraph=True" + ("" if directed else ", or directed=True where they have a direction")
        )  # fmt: skip


def _records(columns: dict[str, NDArray[Any]], n: int) -> list[dict[str, Any]]:
    """Return a dict for each row, of plain Python values."""
    keys = list(columns)
    lists = [list(map(tuple, v.tolist())) if v.ndim == 2 else v.tolist() for v in columns.values()]
    return [dict(zip(keys, row, strict=True)) for row in zip(*lists, strict=True)] if keys else [{} for _ in range(n)]
