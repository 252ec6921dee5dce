"""Skeletons: the nodes of each chunk arranged so that most parents need not be stored.

Where a fragment's row has no stored link, its parent is the row before; the first row of a fragment has none. A chunk's nodes
are therefore put into chains (a node, its first child in the same chunk, that one's first child, …), of which only the heads
need a link, and every root begins a fragment: so forests, and objects of several trees, are told exactly, too. Source: Zarr
Vectors format, skeletons, with the rule of its 0.9 readers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.format.links import LinkFamily
from dask_zv.geometry.block import (
    Arrangement,
    BlockExtra,
    ChunkedRows,
    EncodedBlock,
    chunk_rows,
    cut_fragments,
    encode_block,
    places_of,
)
from dask_zv.geometry.links import LinkRecords, encode_links
from dask_zv.geometry.rows import LinkRows, VertexRows
from dask_zv.geometry.schema import Kind, PointSchema

SKELETON = Kind("skeleton", "implicit_sequential_with_branches", link="edge", has_parents=True)


def encode_skeletons(schema: PointSchema, rows: VertexRows, *, family: LinkFamily) -> EncodedBlock:
    """Encode the nodes of skeletons, with the links inside their chunks."""
    block = chunk_rows(schema, rows.with_objects())
    arrangement, inner, outer, edges = arrange_forest(block)
    places = places_of(block, arrangement, with_objects=True)
    out = encode_block(schema, block, arrangement, BlockExtra(arrangement.fragments, places, outer, edges))
    links = encode_links(family, (), inner)
    return replace(out, blobs={**out.blobs, **links.blobs}, metadata=links.metadata, records=links.records)


def arrange_forest(block: ChunkedRows) -> tuple[Arrangement, LinkRecords, LinkRows, NDArray[np.int64]]:
    """Arrange the nodes of skeletons.

    Returns, besides, the links (child, parent) in one chunk where the rule doesn't tell, those whose parent is in another
    chunk, and (m, D + 1) the coordinates of each chunk with the number of its nodes that have a parent.
    """
    rows = block.rows
    assert rows.parents is not None
    n = len(rows)
    parent = _rows_of(rows.names, rows.parents)
    near = parent >= 0
    near[near] = block.number[parent[near]] == block.number[near]
    check_same_object(rows.names, rows.ids, parent)
    parent = np.where(near, parent, -1)
    head, distance = _chains(parent)
    is_root = rows.parents < 0
    # a chunk's objects one after the other, the trees that begin there first, each followed by its chain
    order = np.lexsort((distance, head, ~is_root[head], rows.ids, block.number))
    ids, chunk = rows.ids[order], block.number[order]
    starts = np.ones(n, bool)
    starts[1:] = (chunk[1:] != chunk[:-1]) | (ids[1:] != ids[:-1]) | is_root[order[1:]]
    arrangement = cut_fragments(block, order, starts)
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    begins = np.empty(n, bool)
    begins[order] = starts
    told = near & ~begins
    told[told] = place[parent[told]] == place[told] - 1
    chunk_start = np.r_[0, np.cumsum(np.bincount(block.number, minlength=len(block.coords)))][:-1]
    child = order[(near & ~told)[order]]
    at = np.stack([child, parent[child]], axis=1)
    inner = LinkRecords(block.coords, block.number[at], place[at] - chunk_start[block.number[at]], place[child])
    away = np.flatnonzero(~near & ~is_root)
    outer = LinkRows(np.stack([rows.names[away], rows.parents[away]], axis=1), rows.names[away])
    linked = np.bincount(block.number[~is_root], minlength=len(block.coords))
    return arrangement, inner, outer, np.column_stack([block.coords, linked])


def check_forest(parents: NDArray[np.int64]) -> None:
    """Raise :class:`InputError` where parents (numbers of rows, negative at roots) lead round in a cycle."""
    row = np.arange(len(parents))
    up = np.where(parents < 0, row, parents)
    for _ in range(max(len(parents), 1).bit_length()):
        above = up[up]
        if (above == up).all():
            break
        up = above
    on_cycle = np.flatnonzero(parents[up] >= 0)
    if len(on_cycle):
        raise InputError(
            f"vertex {up[on_cycle[0]]} is its own ancestor: the parents form a cycle, and a tree must lead to a root (parent "
            "-1). Parents are row numbers from 0; if they are ids from the table, pass vertex_ids="
        )


def check_same_object(names: NDArray[np.int64], ids: NDArray[np.int64], parent: NDArray[np.int64]) -> None:
    """Raise :class:`InputError` where a row's parent (a row, or -1 where it is unknown) is of another object."""
    known = np.flatnonzero(parent >= 0)
    odd = known[ids[parent[known]] != ids[known]]
    if len(odd):
        child = int(odd[0])
        raise InputError(
            f"vertex {names[child]} of object {ids[child]} has the parent {names[parent[child]]} of object "
            f"{ids[parent[child]]}: a tree belongs to one object; give its vertices one id, or make the child a root (-1)"
        )


def _rows_of(names: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row that has each wanted name, -1 where none has."""
    order = None if (names[1:] > names[:-1]).all() else np.argsort(names, kind="stable")
    known = names if order is None else names[order]
    twice = np.flatnonzero(known[1:] == known[:-1])
    if len(twice):
        raise InputError(f"two vertices have the id {known[twice[0]]}: vertex_ids must be distinct")
    at = np.searchsorted(known, wanted)
    at[at == len(known)] = 0
    found = known[at] == wanted if len(known) else np.zeros(len(wanted), bool)
    rows = at if order is None else order[at]
    return np.where(found & (wanted >= 0), rows, -1)


def _chains(parent: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the head of each row's chain and the steps from it; a row's first child continues its chain."""
    n = len(parent)
    row = np.arange(n)
    inner = np.flatnonzero(parent >= 0)
    first_child = np.full(n, -1, np.int64)
    first_child[parent[inner][::-1]] = inner[::-1]  # of several assignments the last stays: the first child
    goes_on = np.zeros(n, bool)
    goes_on[inner] = first_child[parent[inner]] == inner
    # rows that follow their parent in the input are walked in one step
    run = np.zeros(n, bool)
    run[1:] = goes_on[1:] & (parent[1:] == row[:-1])
    up = np.maximum.accumulate(np.where(run, 0, row))
    distance = row - up
    jumps = goes_on & ~run
    up[jumps], distance[jumps] = parent[jumps], 1
    for _ in range(64):
        above = up[up]
        if (above == up).all():
            if goes_on[up].any():  # a cycle whose length is a power of two comes to rest as well, but at no head
                break
            return up, distance
        distance = distance + distance[up]
        up = above
    raise InputError("the parents form a cycle: the nodes of a skeleton must lead to a root (parent -1)")
