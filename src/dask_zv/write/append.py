"""Joining blocks of new rows with what their chunks hold: rows keep their places, fragments their numbers, links their ends.

The task of a block encodes its new rows as any write does; then, chunk by chunk, the new bytes follow the old ones. Cells that
share a shard with them are carried along as they are stored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.config import settings
from dask_zv.errors import FormatError
from dask_zv.format.fragments import decode_fragments, encode_single, encode_tiling
from dask_zv.format.grids import GridSpec
from dask_zv.format.keys import coords_to_keys, keys_to_coords
from dask_zv.geometry.block import BlockExtra, EncodedBlock, Fragments
from dask_zv.geometry.rows import VertexRows
from dask_zv.geometry.schema import FRAGMENTS, VERTICES, PointSchema
from dask_zv.level.source import LevelSource, check_unchanged, level_blobs
from dask_zv.spatial.chunks import ChunkLookup, group_by_chunk, runs_of
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.objects import Address
from dask_zv.storage.specs import check_not_replaced
from dask_zv.write.append_links import is_of_links, join_link_cells, moved_links
from dask_zv.write.append_schema import GrownColumn
from dask_zv.write.job import Encode


@dataclass(frozen=True, eq=False)
class Growth:
    """What the tasks of an append know of the level as it is: small, picklable."""

    source: LevelSource
    spec: GridSpec  # of the level's arrays, large enough for the new rows
    columns: tuple[GrownColumn, ...]
    encode: Encode

    @property
    def schema(self) -> PointSchema:
        """What the level holds after the append."""
        return dataclasses.replace(self.source.schema, attributes=tuple(c.schema for c in self.columns))

    def __call__(self, _: PointSchema, rows: VertexRows) -> EncodedBlock:
        """Encode new rows, and what their chunks have."""
        values = {c.schema.name: rows.attributes[c.schema.name] if c.given else c.filled(len(rows)) for c in self.columns}
        new = self.encode(self.schema, dataclasses.replace(rows, attributes=values))
        blobs, catalog = self._blobs()
        keys = list(new.rows)
        coords = keys_to_coords(keys, self.spec.rank)
        there = rows_before(catalog, coords) >= 0
        old = [key for key, known in zip(keys, there.tolist(), strict=True) if known]
        found = self._read(blobs, old, [VERTICES, FRAGMENTS, *(c.schema.array for c in self.columns if c.before is not None)])
        width = self.source.schema.grid.ndim * self.source.schema.dtype.itemsize
        before = {key: len(found[VERTICES, key]) // width for key in old}
        out = dict(new.blobs)
        fragments = {key: self._join(key, before[key], found, out) for key in old}
        out |= self._beside(blobs, catalog, coords)
        out |= moved_links(new.blobs, before)
        rows_now = {key: n + before.get(key, 0) for key, n in new.rows.items()}
        extra = None if new.extra is None else _moved(new.extra, coords, keys, before, fragments)
        return self.join(dataclasses.replace(new, blobs=out, rows=rows_now, extra=extra))

    def join(self, block: EncodedBlock) -> EncodedBlock:
        """Return a block with its links behind those that their cells hold."""
        return join_link_cells(self._blobs()[0], self.spec, block) if any(is_of_links(a) for a, _ in block.blobs) else block

    def refill(self, coords: NDArray[np.int64]) -> EncodedBlock:
        """Return the values of the columns that every chunk gets others of, for chunks (n, K) without new rows."""
        _, catalog = self._blobs()
        return EncodedBlock(self._rewritten(coords_to_keys(coords), rows_before(catalog, coords)))

    def refilled(self, coords: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the chunks to :meth:`refill` beside new rows in chunks (n, K), cut into blocks of whole shards."""
        if not any(c.rewritten for c in self.columns):
            return []
        catalog = self._blobs()[1]
        every = catalog.coords[catalog.chunks_of(VERTICES)]
        units = self.spec.objects_of(every)
        left = ChunkLookup(group_by_chunk(self.spec.objects_of(coords))[0]).find(units) < 0
        every, (distinct, unit) = every[left], group_by_chunk(units[left])
        order = np.argsort(unit, kind="stable")
        counts = np.bincount(unit, minlength=len(distinct))
        ends = np.r_[0, np.cumsum(counts)]
        return [every[order[ends[a] : ends[b]]] for a, b in runs_of((counts, settings().pass_chunks))]

    def _blobs(self) -> tuple[GridArrays, Catalog]:
        blobs = level_blobs(self.source)
        assert isinstance(blobs, GridArrays)
        assert blobs.catalog is not None
        return blobs, blobs.catalog

    def _read(self, blobs: GridArrays, keys: Sequence[str], arrays: Sequence[str]) -> Mapping[Address, bytes]:
        found = blobs.read_many([(array, key) for array in arrays for key in keys])
        if blobs.catalog_is_stale:
            check_unchanged(self.source)
            check_not_replaced(blobs.objects, blobs.prefix, blobs.stale_chunk)
        for array in arrays:
            for key in keys:
                if (array, key) not in found:
                    raise FormatError("the chunk has no such blob", store=self.source.where(), array=array, chunk=key)
        return found

    def _join(self, key: str, before: int, found: Mapping[Address, bytes], out: dict[Address, Any]) -> int:
        """Put the old bytes of a chunk before the new ones in `out`; return how many fragments it had."""
        old, new = self._counts(key, found[FRAGMENTS, key], before), self._counts(key, out[FRAGMENTS, key], None)
        parts = {VERTICES: (found[VERTICES, key], out[VERTICES, key])}
        for c in self.columns:
            array = c.schema.array
            held = c.filled(before).tobytes() if c.before is None else c.stored(found[array, key])
            parts[array] = held, out[array, key]
        bins = self.source.schema.grid.n_bins
        if self.source.schema.has_objects or not len(old) == len(new) == bins:
            counts, order = np.r_[old, new], None
        else:  # a fragment to a bin
            counts = old + new
            of_rows = np.r_[np.repeat(np.arange(bins), old), np.repeat(np.arange(bins), new)]
            order = None if bins == 1 else np.argsort(of_rows, kind="stable")
        for array, pair in parts.items():
            data = b"".join(pair)
            if order is not None:
                data = np.frombuffer(data, np.uint8).reshape(len(order), -1)[order].tobytes()
            out[array, key] = data
        out[FRAGMENTS, key] = encode_single(int(counts[0])) if len(counts) == 1 else encode_tiling(counts)
        return len(old)

    def _counts(self, key: str, blob: bytes, rows: int | None) -> NDArray[np.int64]:
        """Return the rows of each fragment of a chunk, where they tile it."""
        index = decode_fragments(blob, n_rows=rows)
        if rows is not None and not index.tiles(rows):
            raise FormatError(
                "the fragments of the chunk list rows one by one, or leave some out (another tool's edit), so nothing can be "
                "appended to it: write the level again, as by dzv.convert to a new store",
                store=self.source.where(), array=FRAGMENTS, chunk=key,
            )  # fmt: skip
        return index.counts

    def _beside(self, blobs: GridArrays, catalog: Catalog, coords: NDArray[np.int64]) -> dict[Address, Any]:
        """Return the cells of other chunks in the shards of chunks (n, K)."""
        others = neighbours(catalog, self.spec, coords)
        if not len(others):
            return {}
        kept = [VERTICES, FRAGMENTS, *(c.schema.array for c in self.columns if not c.rewritten)]
        keys = coords_to_keys(others)
        out: dict[Address, Any] = dict(blobs.read_stored([(array, key) for array in kept for key in keys]))
        return out | self._rewritten(keys, rows_before(catalog, others))

    def _rewritten(self, keys: Sequence[str], rows: NDArray[np.int64]) -> dict[Address, Any]:
        """Return the values of columns that every chunk gets others of."""
        out: dict[Address, Any] = {}
        cast = [c for c in self.columns if c.rewritten and c.before is not None]
        found = self._read(self._blobs()[0], keys, [c.schema.array for c in cast])
        out |= {(c.schema.array, key): c.stored(found[c.schema.array, key]) for c in cast for key in keys}
        for c in self.columns:
            if c.before is None:
                out |= {(c.schema.array, key): c.filled(n).tobytes() for key, n in zip(keys, rows.tolist(), strict=True)}
        return out


def rows_before(catalog: Catalog, coords: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the vertices of chunks (n, K) before an append, -1 where they are no chunks of the level."""
    at = catalog.find(coords)
    have = at >= 0
    have[have] = catalog.chunks_of(VERTICES)[at[have]]
    return np.where(have, catalog.rows[at], -1) if len(catalog) else at


def neighbours(catalog: Catalog, spec: GridSpec, coords: NDArray[np.int64], array: str = VERTICES) -> NDArray[np.int64]:
    """Return the other chunks that an array has in the shards of chunks (n, K)."""
    if spec.shard_shape is None or array not in catalog.arrays:
        return np.zeros((0, spec.rank), np.int64)
    every = catalog.coords[catalog.chunks_of(array)]
    shared = ChunkLookup(group_by_chunk(spec.objects_of(coords))[0]).find(spec.objects_of(every)) >= 0
    return every[shared & (ChunkLookup(group_by_chunk(coords)[0]).find(every) < 0)]


def _moved(
    extra: BlockExtra, coords: NDArray[np.int64], keys: Sequence[str], rows: Mapping[str, int], fragments: Mapping[str, int]
) -> BlockExtra:
    """Return what a block tells of its new rows where each chunk has old ones before them."""
    chunks, which = group_by_chunk(coords)
    more = np.zeros((len(chunks), 2), np.int64)
    more[which] = [(rows.get(key, 0), fragments.get(key, 0)) for key in keys]
    lookup = ChunkLookup(chunks)
    found, places = extra.fragments, extra.places
    if found is not None:
        at = lookup.find(found.coords)
        found = Fragments(
            found.objects, found.coords, found.fragments + more[at, 1], found.first + more[at, 0], found.count, found.sequence
        )
    if places is not None:
        at = lookup.find(places.coords)
        places = dataclasses.replace(places, rows=places.rows + more[at, 0][places.chunks])
    return dataclasses.replace(extra, fragments=found, places=places)
