"""Links on their way into a store: the rows that they name, and the cells that hold the records.

Source: Zarr Vectors format 0.9, links families; see :mod:`dask_zv.format.links`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.format.fragments import encode_single
from dask_zv.format.keys import coords_to_keys
from dask_zv.format.links import LinkFamily, encode_ragged, lehmer_codes, segment_name, stored_order
from dask_zv.geometry.block import EncodedBlock, Found
from dask_zv.geometry.rows import LinkRows
from dask_zv.geometry.schema import LINK_FRAGMENTS, AttributeSchema
from dask_zv.spatial.chunks import group_by_chunk


@dataclass(frozen=True, slots=True, eq=False)
class LinkRecords:
    """Links whose endpoints are known to be rows of chunks."""

    coords: NDArray[np.int64]  # (c, K): Chunks, ascending
    chunks: NDArray[np.int64]  # (m, L): Chunk of each endpoint, as a place in `coords`
    rows: NDArray[np.int64]  # (m, L): Row of each endpoint among its chunk's vertices
    numbers: NDArray[np.int64]  # (m,): Place of each in the input
    attributes: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # (m,) or (m, C): As they are stored

    def __len__(self) -> int:
        return len(self.rows)

    def __sizeof__(self) -> int:
        own = self.coords.nbytes + self.chunks.nbytes + self.rows.nbytes + self.numbers.nbytes
        return own + sum(a.nbytes for a in self.attributes.values()) + 200

    def take(self, rows: NDArray[np.intp]) -> LinkRecords:
        """Return some of the records, with the chunks that they name."""
        chunks = self.chunks[rows]
        named, at = np.unique(chunks, return_inverse=True)
        return LinkRecords(
            self.coords[named],
            at.reshape(chunks.shape),
            self.rows[rows],
            self.numbers[rows],
            {k: v[rows] for k, v in self.attributes.items()},
        )

    @classmethod
    def join(cls, parts: Sequence[LinkRecords]) -> LinkRecords:
        """Return the records of all parts, of which there is one at least."""
        if len(parts) == 1:
            return parts[0]
        coords, at = group_by_chunk(np.concatenate([p.coords for p in parts]))
        first = np.cumsum([0, *(len(p.coords) for p in parts)]).tolist()
        return cls(
            coords,
            np.concatenate([at[f : f + len(p.coords)][p.chunks] for f, p in zip(first, parts, strict=False)]),
            np.concatenate([p.rows for p in parts]),
            np.concatenate([p.numbers for p in parts]),
            {k: np.concatenate([p.attributes[k] for p in parts]) for k in parts[0].attributes},
        )


def family_path(attribute: str | None = None) -> str:
    """Return the path of the group of the level's own links, or of one of their attributes."""
    return "links/0" if attribute is None else f"link_attributes/{attribute}/0"


def intra_segment(family: LinkFamily) -> str:
    """Return the name of the segment whose endpoints share a chunk."""
    return segment_name([[0] * family.rank] * (family.width - 1))


def _order(family: LinkFamily, records: LinkRecords) -> NDArray[np.intp]:
    if family.directed:
        return np.broadcast_to(np.arange(family.width), records.rows.shape)
    return stored_order(records.chunks, records.rows)


def source_coords(family: LinkFamily, records: LinkRecords) -> NDArray[np.int64]:
    """Return the chunk in whose cell each record is filed, shape (m, K)."""
    first = _order(family, records)[:, 0]
    return records.coords[np.take_along_axis(records.chunks, first[:, None], 1)[:, 0]]


def link_attribute_metadata(family: LinkFamily, attribute: AttributeSchema, segment: str) -> dict[str, Any]:
    """Return the attributes of the array of a link attribute's segment."""
    return {
        "zv_array": "link_attribute",
        "name": attribute.name,
        "dtype": str(attribute.dtype),
        "offsets": family.segment_attributes(segment)["offsets"],
        "level_delta": 0,
        "row_shape": [] if attribute.channels is None else [attribute.channels],
    }


def encode_links(family: LinkFamily, attributes: Sequence[AttributeSchema], records: LinkRecords) -> EncodedBlock:
    """Return the cells of the records, those of one cell in the order of the input."""
    order = _order(family, records)
    chunks = np.take_along_axis(records.chunks, order, 1)
    rows = np.take_along_axis(records.rows, order, 1)
    source = chunks[:, 0]
    offsets = (records.coords[chunks[:, 1:]] - records.coords[source][:, None, :]).reshape(
        len(records), (family.width - 1) * family.rank
    )
    segments, segment = group_by_chunk(offsets)
    by_cell = np.lexsort((records.numbers, source, segment))
    segment, source, rows, order = segment[by_cell], source[by_cell], rows[by_cell], order[by_cell]
    values = {a.name: np.ascontiguousarray(records.attributes[a.name][by_cell], a.dtype) for a in attributes}
    starts = np.ones(len(by_cell), bool)
    starts[1:] = (segment[1:] != segment[:-1]) | (source[1:] != source[:-1])
    first = np.flatnonzero(starts)
    edges = [*first.tolist(), len(by_cell)]
    keys = coords_to_keys(records.coords)
    names = [segment_name(s.reshape(family.width - 1, family.rank)) for s in segments]
    described = [family.segment_attributes(n) for n in names]
    base = family_path()
    out = EncodedBlock({}, records={base: len(records), **{family_path(a.name): len(records) for a in attributes}})
    if len(records):
        out.metadata[base] = family.to_attributes()
    for name, attrs in zip(names, described, strict=True):
        out.metadata[f"{base}/{name}"] = attrs
        for a in attributes:
            out.metadata[f"{family_path(a.name)}/{name}"] = link_attribute_metadata(family, a, name)
    codes = lehmer_codes(order)
    permuted = np.concatenate([codes[:, None], rows], axis=1)
    intra = intra_segment(family)
    cells = zip(segment[first].tolist(), source[first].tolist(), edges[:-1], edges[1:], strict=True)
    for number, chunk, start, stop in cells:
        name, key = names[number], keys[chunk]
        if name == intra:
            out.blobs[f"{base}/{name}", key] = rows[start:stop].astype("<i8", copy=False).tobytes()
            out.blobs[LINK_FRAGMENTS, key] = encode_single(stop - start)
        else:
            wide = permuted if described[number]["has_perm"] else rows
            out.blobs[f"{base}/{name}", key] = encode_ragged(wide[start:stop])
        for a in attributes:
            out.blobs[f"{family_path(a.name)}/{name}", key] = values[a.name][start:stop].tobytes()
    return out


def join_links(links: LinkRows, found: Sequence[Found], what: str, *, one_object: bool) -> LinkRecords:
    """Return the records of `links`, whose endpoints were looked up in parts."""
    shape = links.endpoints.shape
    size = int(np.prod(shape))
    times = np.zeros(size, np.int64)
    chunks, rows, objects = (np.zeros(size, np.int64) for _ in range(3))
    first = 0
    for part in found:
        times[part.at] += 1
        chunks[part.at] = part.chunks + first
        rows[part.at] = part.rows
        if part.objects is not None:
            objects[part.at] = part.objects
        first += len(part.coords)
    if (times != 1).any():
        odd = int(np.flatnonzero(times != 1)[0])
        name = links.endpoints.reshape(-1)[odd]
        which = f"{what} {links.numbers[odd // shape[1]]}"
        if times[odd]:
            raise InputError(f"{which} names vertex {name}, and two vertices have that id: vertex_ids must be distinct")
        raise InputError(f"{which} names vertex {name}, which is not among the vertices")
    if one_object:
        ends = objects.reshape(shape)
        odd_rows = np.flatnonzero((ends != ends[:, :1]).any(axis=1))
        if len(odd_rows):
            i = int(odd_rows[0])
            raise InputError(
                f"vertex {links.endpoints[i, 0]} of object {ends[i, 0]} has the parent {links.endpoints[i, 1]} of object "
                f"{ends[i, 1]}: a tree belongs to one object; give its vertices one id, or make the child a root (-1)"
            )
    tables = [part.coords for part in found]
    if not len(links) or not tables:
        ndim = tables[0].shape[1] if tables else 0
        empty = np.zeros(shape, np.int64)
        return LinkRecords(np.zeros((0, ndim), np.int64), empty, empty, links.numbers, links.attributes)
    coords, number = group_by_chunk(np.concatenate(tables))
    return LinkRecords(coords, number[chunks].reshape(shape), rows.reshape(shape), links.numbers, links.attributes)
