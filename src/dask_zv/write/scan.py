"""The one look at the data before anything is written: is it sound, where is it, which categories and objects are there.

Every partition is read once more than a blind write would; for that, nothing is stored of data that can't be stored whole,
and blocks are cut by true counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError, noted
from dask_zv.format.dictionary import MAX_CATEGORIES, DictionaryEncoding
from dask_zv.geometry.rows import VertexRows
from dask_zv.geometry.schema import position_dtype
from dask_zv.graph.keeping import look_once
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.spatial.chunks import group_by_chunk, morton_codes
from dask_zv.spatial.grid import Box, ChunkGrid, corners
from dask_zv.write.append_schema import as_stored
from dask_zv.write.convert import Conversion, categories_key, convert_part, rows_crc32c
from dask_zv.write.options import WriteOptions
from dask_zv.write.partitions import AttributeInput, Partitions, RawPart

_SPANS = 512
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class PartFacts:
    """What one partition holds, beside its rows' places."""

    rows: int
    names: tuple[int, int] = (0, -1)  # least and greatest vertex id; (0, -1) where there are none
    # lengths of the first, the shortest inner, the longest inner and the last run of rows of one object; the last is 0 where
    # there is one run alone, all are without objects
    runs: tuple[int, int, int, int] = (0, 0, 0, 0)
    ends: tuple[int, int] = (-1, -1)  # object of the first and of the last row
    n_runs: int = 0
    digest: int = 0  # CRC-32C of all that the partition holds
    dropped: int = 0  # rows that were left out


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What was found in one or more partitions; mappings of int are by partition."""

    rows: int
    dropped: int
    low: NDArray[Any]  # (D,): with `high` the box of the stored positions
    high: NDArray[Any]
    coords: NDArray[np.int64]  # (n, D): chunks with rows in them, ascending
    counts: NDArray[np.int64]  # (n,): rows in each
    ids: NDArray[np.int64]  # (m, 2): object ids as disjoint ranges [start, stop), ascending
    # distinct strings of each dictionary attribute, and whether values are missing
    categories: Mapping[str, tuple[frozenset[str], bool]] = field(default_factory=dict)
    spans: Mapping[int, NDArray[Any]] = field(default_factory=dict)  # (s, 2): ranges of span_codes, both ends included
    parts: Mapping[int, PartFacts] = field(default_factory=dict)
    parent_spans: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)  # (s, 2): ranges of names, both ends included

    def starts(self) -> NDArray[np.int64]:
        """Return the number of the first row of each partition, and the number of all rows: shape (partitions + 1,)."""
        return np.cumsum([0, *(self.parts[p].rows for p in sorted(self.parts))]).astype(np.int64)


def scan_part(
    conversion: Conversion, attributes: Sequence[AttributeInput], max_categories: int, number: int, part: RawPart
) -> Scan:
    """Look at one partition."""
    where = f"partition {number}: "
    rows, dropped = convert_part(conversion, number, part)
    coords, which = group_by_chunk(conversion.grid.chunks_of(rows.positions))
    counts = np.bincount(which, minlength=len(coords)).astype(np.int64)
    categories: dict[str, tuple[frozenset[str], bool]] = {}
    codes: dict[str, NDArray[Any]] = {}
    for attribute in attributes:
        values = rows.attributes[attribute.name]
        if not attribute.is_dictionary:
            width = values.shape[1] if values.ndim == 2 else None
            if values.ndim > 2 or width != attribute.channels or values.dtype.kind not in "biufcmM":
                raise InputError(
                    f"{where}attribute {attribute.name!r} is {values.dtype} {values.shape}, declared as {attribute.dtype} "
                    f"with {attribute.channels or 'no'} channels"
                )
            if not fits(values, attribute.dtype):
                raise InputError(
                    f"{where}attribute {attribute.name!r} is {values.dtype}, declared as {attribute.dtype}, which does not "
                    "hold its values: give the lazy array the dtype that it has, with astype or meta="
                )
            continue
        try:
            encoding = DictionaryEncoding.from_values(values)
        except InputError as error:
            raise InputError(f"{where}attribute {attribute.name!r}: {error.message}") from None
        names = frozenset(str(c) for c in encoding.categories)
        _check_categories(attribute, names, max_categories)
        categories[attribute.name] = names, encoding.fill_value is not None
        codes[categories_key(attribute.name, encoding)] = encoding.encode(values)
    points = rows.positions
    low, high = corners(points) if len(points) else (np.zeros(0), np.zeros(0))
    return Scan(
        len(points),
        dropped,
        low,
        high,
        coords,
        counts,
        id_ranges(rows.object_ids) if rows.object_ids is not None else np.zeros((0, 2), np.int64),
        categories,
        {number: compact_spans(span_codes(coords))},
        {number: replace(_facts(rows), digest=rows_crc32c(rows, codes), dropped=dropped)},
        {} if rows.parents is None else {number: compact_spans(rows.parents[rows.parents >= 0])},
    )


def _facts(rows: VertexRows) -> PartFacts:
    n = len(rows)
    names = (0, -1) if rows.keys is None or not n else (int(rows.keys.min()), int(rows.keys.max()))
    if rows.object_ids is None or not n:
        return PartFacts(n, names)
    ids = rows.object_ids
    first = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    lengths = np.diff(np.r_[first, n])
    inner = lengths[1:-1]
    runs = (
        int(lengths[0]),
        int(inner.min()) if len(inner) else 0,
        int(inner.max()) if len(inner) else 0,
        int(lengths[-1]) if len(lengths) > 1 else 0,
    )
    return PartFacts(n, names, runs, (int(ids[0]), int(ids[-1])), len(lengths))


def fits(values: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Return True if values are the same after a cast."""
    if np.can_cast(values.dtype, dtype, "safe"):
        return True
    if not np.can_cast(values.dtype, dtype, "same_kind"):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(dtype).astype(values.dtype)
    return np.array_equal(cast, values, equal_nan=values.dtype.kind in "fcmM")


def _check_categories(attribute: AttributeInput, names: frozenset[str], limit: int) -> None:
    if len(names) > limit:
        raise InputError(
            f"attribute {attribute.name!r} has more than {limit:,} distinct strings, which are too many categories: store a "
            "number per string instead, or raise max_categories= (65,535 at the most)"
        )
    if attribute.categories is not None and not names <= set(attribute.categories):
        unknown = sorted(names - set(attribute.categories))[0]
        raise InputError(f"attribute {attribute.name!r} has the value {unknown!r}, which is not among its declared categories")


def id_ranges(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ids as disjoint ranges [start, stop), ascending, shape (m, 2).

    The stop after 2**63 - 1 wraps to -2**63: lengths, ``stop - start``, wrap back, and only they may be compared.
    """
    distinct = np.unique(ids)
    if not len(distinct):
        return np.zeros((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(distinct) > 1)
    return np.stack([distinct[np.r_[0, breaks + 1]], distinct[np.r_[breaks, len(distinct) - 1]] + 1], axis=1)


def merge_ranges(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the union of ranges [start, stop), disjoint and ascending."""
    ranges = np.concatenate(parts)
    if len(ranges) < 2:
        return ranges
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    reach = np.maximum.accumulate(ranges[:, 1] - 1)  # the last of each: stops may have wrapped, see id_ranges
    first = np.r_[0, np.flatnonzero(ranges[1:, 0] - 1 > reach[:-1]) + 1]
    return np.stack([ranges[first, 0], reach[np.r_[first[1:] - 1, len(ranges) - 1]] + 1], axis=1)


def span_codes(coords: NDArray[np.int64]) -> NDArray[Any]:
    """Return codes that are alike for neighbouring chunks, shape (n,); for ranges of chunks alone."""
    # where the codes of negative coordinates end, all lie in one range: more than is needed, never less
    return morton_codes(np.maximum(coords, -(1 << 20)))


def compact_spans(codes: NDArray[Any]) -> NDArray[Any]:
    """Return at most a few hundred ranges (both ends included) that hold all codes: enough to know whom they concern."""
    codes = np.sort(codes)
    if not len(codes):
        return np.zeros((0, 2), codes.dtype)
    cuts = np.arange(1, len(codes))
    if len(codes) > _SPANS:  # cut at the widest gaps: a slab's chunks are some long runs of the curve
        gaps = np.diff(codes).astype(np.float64)
        cuts = np.sort(np.argpartition(-gaps, _SPANS - 1)[: _SPANS - 1]) + 1
    first = np.r_[0, cuts].astype(np.intp)
    last = np.r_[cuts - 1, len(codes) - 1].astype(np.intp)
    return np.stack([codes[first], codes[last]], axis=1)


def merge_scans(scans: Sequence[Scan]) -> Scan:
    """Return what was found in all of them; associative."""
    filled = [s for s in scans if s.rows]
    some = filled or list(scans[:1])
    ndim = scans[0].coords.shape[1]
    coords = np.concatenate([s.coords for s in some])
    counts = np.concatenate([s.counts for s in some])
    unique, which = group_by_chunk(coords.reshape(-1, ndim))
    total = np.zeros(len(unique), np.int64)
    np.add.at(total, which, counts)
    names = sorted({n for s in scans for n in s.categories})
    categories = {
        n: (
            frozenset().union(*(s.categories[n][0] for s in scans if n in s.categories)),
            any(s.categories[n][1] for s in scans if n in s.categories),
        )
        for n in names
    }
    return Scan(
        sum(s.rows for s in scans),
        sum(s.dropped for s in scans),
        np.min([s.low for s in some], axis=0),
        np.max([s.high for s in some], axis=0),
        unique,
        total,
        merge_ranges([s.ids for s in scans]),
        categories,
        {k: v for s in scans for k, v in s.spans.items()},
        {k: v for s in scans for k, v in s.parts.items()},
        {k: v for s in scans for k, v in s.parent_spans.items()},
    )


def scan_partitions(partitions: Partitions, conversion: Conversion, max_categories: int) -> tuple[Scan, Partitions]:
    """Look at all partitions on the active scheduler; results are merged on the workers.

    Returns `Partitions`: The same; where the scan has kept them, they are not made again.
    """
    if not 1 <= max_categories <= MAX_CATEGORIES:
        raise InputError(f"max_categories is between 1 and {MAX_CATEGORIES:,}, not {max_categories}")
    look = partial(scan_part, conversion, partitions.attributes, max_categories)
    found, arguments, kept = look_once(partitions.arguments, look, merge_scans, partitions.nbytes)
    for attribute in partitions.attributes:
        if attribute.is_dictionary:
            _check_categories(attribute, found.categories[attribute.name][0], max_categories)
    return found, replace(partitions, arguments=arguments, kept=kept)


def scan_input(level: LevelContents, partitions: Partitions, options: WriteOptions) -> tuple[Partitions, Conversion, Scan]:
    """Look at the data once, on the active scheduler; return the partitions, too, which may be kept from then on."""
    conversion = _conversion(level.store, partitions, options)
    if options["mode"] == "append":
        partitions = as_stored(level, partitions)
        conversion = replace(conversion, dtype=level.source.schema.dtype)
    with note_nothing_written(level):
        scan, partitions = scan_partitions(partitions, conversion, options["max_categories"])
        return partitions, conversion, scan


def _conversion(store: StoreContents, partitions: Partitions, options: WriteOptions) -> Conversion:
    out_of_bounds, position_tolerance = options["out_of_bounds"], options["position_tolerance"]
    metadata = store.metadata
    grid = ChunkGrid(metadata.chunk_shape, metadata.bins_per_chunk)
    declared = store.settings.get("dtype")
    # other tools take positions for floats; integers that a float can't hold are moved by the cast, which is refused
    given = np.result_type(partitions.dtype, np.float32) if partitions.dtype.kind in "iu" else partitions.dtype
    dtype = position_dtype(np.dtype(declared) if isinstance(declared, str) else given)
    tolerance = _TOLERANCE * min(metadata.bin_shape) if position_tolerance is None else float(position_tolerance)
    if not tolerance >= 0:
        raise InputError(f"position_tolerance is a distance of at least 0, not {position_tolerance!r}")
    box: Box | None = None
    if out_of_bounds != "expand" and store.settings.get("bounds", "declared") == "declared":
        box = np.asarray(metadata.bounds[0], np.float64), np.asarray(metadata.bounds[1], np.float64)
    return Conversion(grid, dtype, tolerance, box, out_of_bounds == "ignore", store.axes)


def note_nothing_written(level: LevelContents) -> AbstractContextManager[None]:
    """Add a note to errors inside that says that nothing was stored."""
    return noted(f"the write to {level.url} had stored nothing yet: make the same call again (resume=True does no harm)")
