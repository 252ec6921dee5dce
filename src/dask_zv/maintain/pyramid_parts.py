"""What a task makes of a block of whole objects for the next coarser level: simplified paths and trees, contracted graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.analysis.objects import ObjectReader
from dask_zv.errors import InputError
from dask_zv.geometry.cells import Column
from dask_zv.geometry.contract import contract
from dask_zv.geometry.result import Geometry
from dask_zv.geometry.simplify import Simplify, counts_of
from dask_zv.read.object_rows import read_whole_objects
from dask_zv.write.partitions import RawPart

_BLOCK_BITS = 40


@dataclass(frozen=True, slots=True, eq=False)
class ReducedPart(RawPart):
    """Objects with fewer vertices, the lengths that they had, and the links between the vertices where these are given."""

    ids: NDArray[np.int64]
    lengths: NDArray[np.float64]
    links: NDArray[np.int64]  # (m, L): ids of vertices
    link_attributes: dict[str, NDArray[Any]]
    read: NDArray[np.int64]  # (1,): links that were read


@dataclass(frozen=True, slots=True, eq=False)
class ObjectReducer:
    """How a task makes a part of a coarser level."""

    reader: ObjectReader
    count: str  # the attribute that counts vertices
    names: tuple[str, ...]  # of the attributes

    def read(self, ids: NDArray[np.int64]) -> tuple[Geometry, NDArray[np.int64]]:
        """Return whole objects, and how many vertices of level 0 each of theirs stands for."""
        reader = self.reader
        found = read_whole_objects(reader.rows, ids, reader.wanted, reader.links, chunked=reader.chunked, tables=False)
        return found, np.asarray(found.attributes.get(self.count, np.ones(len(found), np.int64)))

    def part(self, number: int, ids: NDArray[np.int64]) -> ReducedPart:
        """Return a block of objects with fewer vertices."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class SimplifyReducer(ObjectReducer):
    """Paths and trees, simplified."""

    simplify: Simplify
    scale: tuple[float, ...]  # by which positions are multiplied before they are measured
    tolerance: float

    def part(self, number: int, ids: NDArray[np.int64]) -> ReducedPart:
        """Return a block of objects, simplified."""
        read, given = self.read(ids)
        found = self.simplify(read, read.positions.astype(np.float64) * np.asarray(self.scale), self.tolerance)
        values = {name: read.attributes[name][found.rows] for name in self.names}
        values[self.count] = counts_of(found, given)
        lengths = read.lengths
        assert lengths is not None
        integers = {"object_ids": np.repeat(ids, lengths)[found.rows]}
        if found.parents is not None:
            first = number << _BLOCK_BITS
            integers["vertex_ids"] = np.arange(first, first + len(found.rows))
            integers["parents"] = np.where(found.parents < 0, -1, found.parents + first)
        none = np.zeros((0, 2), np.int64)
        return ReducedPart(read.positions[found.rows], values, integers, ids, found.lengths, none, {}, np.zeros(1, np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class ContractReducer(ObjectReducer):
    """Vertices joined by links, contracted by bins."""

    edges: tuple[float, ...]  # of a bin
    columns: tuple[Column, ...]
    link_columns: tuple[Column, ...]
    directed: bool

    def part(self, number: int, ids: NDArray[np.int64]) -> ReducedPart:
        """Return a block of objects, contracted."""
        read, given = self.read(ids)
        known: dict[str, NDArray[Any]] = {}
        values: dict[str, NDArray[Any]] = {}
        for name, column in read.attributes.items():
            coded = column.dtype.kind in "OU"
            values[name] = column
            if coded:
                known[name], values[name] = _coded(column)
        read = Geometry(read.positions, values, None, read.edges, None, read.faces, read.ids, read.lengths, *_of_links(read))
        edges = np.asarray(self.edges)
        found = contract(read, edges, self.columns, self.link_columns, given, directed=self.directed)
        first = number << _BLOCK_BITS
        integers = {"object_ids": ids[found.objects], "vertex_ids": np.arange(first, first + len(found.positions))}
        out = {n: known[n][v] if n in known else v for n, v in found.attributes.items()}
        out[self.count] = found.counts
        links = read.faces if read.faces is not None else read.edges
        return ReducedPart(
            found.positions,
            out,
            integers,
            ids,
            np.zeros(len(ids)),
            found.links + first,
            dict(found.link_attributes),
            np.array([0 if links is None else len(links)]),
        )


def _of_links(read: Geometry) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    for some in (read.edge_attributes, read.face_attributes):
        for name, values in some.items():
            if np.ma.getmaskarray(values).any():
                raise InputError(f"attribute {name!r} of links has no value for some of them, so it can't be reduced")
    edges, faces = ({n: np.ma.getdata(v) for n, v in some.items()} for some in (read.edge_attributes, read.face_attributes))
    return edges, faces


def _coded(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the distinct strings, and the place of each value among them; the last stands for those that are missing."""
    names = sorted({v for v in values.tolist() if v is not None})
    place = {name: i for i, name in enumerate(names)}
    known = np.array([*names, None], object)
    return known, np.array([len(names) if v is None else place[v] for v in values.tolist()], np.int64)
