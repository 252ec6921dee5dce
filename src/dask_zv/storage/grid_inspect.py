"""Looking at stored cells: what a catalog needs to know of objects that are there already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, StoreError
from dask_zv.format.cells import unframe
from dask_zv.format.grids import GridArray, GridSpec
from dask_zv.format.keys import format_key
from dask_zv.storage.cell_reads import cell_path
from dask_zv.storage.checksums import crc32c
from dask_zv.storage.codecs import cell_codec
from dask_zv.storage.columns import COLUMNS, Columns
from dask_zv.storage.grid_writing import shard_cells
from dask_zv.storage.objects import Objects, join

Inspected = tuple[NDArray[np.int64], Columns, dict[tuple[int, ...], bytes]]
"""Chunk coordinates, where they are, and their payloads."""


def object_cells(spec: GridSpec, coords: NDArray[np.int64]) -> list[tuple[tuple[int, ...], NDArray[np.int64]]]:
    """Group chunks by the stored object that holds them: (its cell or shard, coordinates of the chunks)."""
    cells = spec.cells_of(coords)
    where = cells if spec.shard_shape is None else spec.shards_of(cells)[0]
    order = np.lexsort(where.T[::-1])
    ordered = where[order]
    first = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]) if len(order) else np.zeros(0, np.intp)
    return [(tuple(where[run[0]].tolist()), coords[run]) for run in np.split(order, first[1:]) if len(run)]


def inspect_cells(
    objects: Objects, prefix: str, array: str, found: GridArray, groups: Sequence[tuple[tuple[int, ...], NDArray[np.int64]]]
) -> Inspected:
    """Read some objects of an array and tell where each listed chunk is in them.

    Raises
    ------
    StoreError, FormatError
        An object or a listed cell is missing or damaged; the message names the chunk.
    """
    spec, path = found.spec, join(prefix, array)
    codec = cell_codec(spec.codecs)
    paths = [cell_path(path, where) for where, _ in groups]
    stamps = objects.stamps(paths)  # first: what changes in between has another stamp than is noted, and is looked at again
    payloads: dict[tuple[int, ...], bytes] = {}
    values: dict[str, list[int]] = {kind: [] for kind in COLUMNS}
    coords: list[list[int]] = []
    for data, stamp, (_, chunks), place in zip(
        objects.get_many([(p, None) for p in paths]), stamps, groups, paths, strict=True
    ):
        key = format_key(chunks[0].tolist())
        if data is None or stamp is None:
            raise StoreError("a listed chunk is gone: its object is missing", store=objects.url, array=path, chunk=key)
        numbers = [-1] * len(chunks)
        cells: dict[int, tuple[int, bytes]] = {-1: (0, data)}
        if spec.shard_shape is not None:
            numbers = spec.shards_of(spec.cells_of(chunks))[1].tolist()
            cells = shard_cells(data, spec, place, objects.url)
        for at, number in zip(chunks.tolist(), numbers, strict=True):
            key = format_key(at)
            if number not in cells:
                raise StoreError("a listed chunk is gone: its shard has no such cell", store=objects.url, array=path, chunk=key)
            offset, stored = cells[number]
            try:
                payload = unframe(codec.decode(stored))
            except FormatError as error:
                raise error.at(store=objects.url, array=path, chunk=key) from None
            coords.append(at)
            payloads[tuple(at)] = payload
            row = {"nbytes": len(payload), "shard": -1 if number < 0 else 0, "offset": offset, "stored": len(stored),
                   "crc": crc32c(stored), "stamp": stamp[1]}  # fmt: skip
            for kind, value in row.items():
                values[kind].append(value)
    columns = Columns({kind: np.array(values[kind], dtype) for kind, (dtype, _) in COLUMNS.items()})
    return np.array(coords, np.int64).reshape(-1, spec.rank), columns, payloads
