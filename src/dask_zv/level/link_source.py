"""Which links a level has: families, their segments and attributes, and the chunks that have cells in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, MetadataError
from dask_zv.format.documents import parse_document
from dask_zv.format.grids import GridArray
from dask_zv.format.keys import DOCUMENT, is_spatial_key, parse_key
from dask_zv.format.links import LinkFamily, delta_name, has_permutation, parse_segment
from dask_zv.geometry.schema import LINK_FRAGMENTS, AttributeSchema, parse_dtype, readable
from dask_zv.level.source import LevelSource, level_blobs, lost_document
from dask_zv.spatial.chunks import ChunkLookup
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.objects import together
from dask_zv.storage.per_chunk.read import PerChunk

CROSSING = "cross_chunk_links"
"""Array of the records of generation 0.7 whose endpoints lie in several chunks: one blob of all of them."""


@dataclass(frozen=True, slots=True)
class LinkSegment:
    """An array of link cells: those of all records whose endpoints lie at the same offsets from their source."""

    array: str  # path below the level
    offsets: tuple[tuple[int, ...], ...]
    """From the source's chunk (at the level of the others, its anchor) to those of the other L - 1 endpoints; K numbers."""
    permuted: bool  # rows start with the code of the order in which their endpoints were given
    flat: bool  # cells are rows and nothing else
    dtype: str


@dataclass(frozen=True, slots=True)
class LinkAttribute:
    """An attribute of links, and the path below the level of its array for each segment."""

    schema: AttributeSchema
    arrays: tuple[str, ...]


@dataclass(frozen=True)
class LinkSource:
    """All that a task needs to read a family of links: small and picklable."""

    family: LinkFamily  # in generation 0.7 its `count` is that of the records across chunks
    segments: tuple[LinkSegment, ...]
    """Those to read: all but the second copies of a family that stores its records in every chunk that they touch."""
    attributes: tuple[LinkAttribute, ...] = ()
    crossing: str | None = None  # array of the records across chunks (generation 0.7), which have no attributes
    own: tuple[int, ...] = ()
    target: tuple[int, ...] = ()
    """Chunk edges of the level and of the other endpoints' level, in those of the root; K numbers each."""

    @property
    def array(self) -> str:
        """Path of the family below the level."""
        return f"links/{delta_name(self.family.delta)}"

    @property
    def expected(self) -> int | None:
        """How many records of the family are stored, as its group counts them."""
        return self.family.count if self.family.store == "duplicate" else (self.family.physical or self.family.count)

    @cached_property
    def slots(self) -> NDArray[np.int64]:
        """Offsets of all stored endpoints, shape (S, L, K); the first is that of the source itself."""
        out = np.zeros((len(self.segments), self.family.width, self.family.rank), np.int64)
        for i, segment in enumerate(self.segments):
            if segment.offsets:
                out[i, 1:] = segment.offsets
        return out

    def targets(self, coords: NDArray[np.int64], segments: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the chunks (c, L, K) of the stored endpoints of cells, by sources (c, K) and segments (c,).

        Endpoint 0 is at this level, the others at the family's: there offsets count from the chunk that holds the source's
        least corner.
        """
        anchors = coords if self.own == self.target else coords * np.asarray(self.own) // np.asarray(self.target)
        out = anchors[:, None, :] + self.slots[segments]
        out[:, 0] = coords
        return out


@dataclass(frozen=True, slots=True, eq=False)
class FoundLinks:
    """A family of links, and the chunks of those of its arrays that the level's catalog does not know."""

    source: LinkSource
    listed: Mapping[str, ChunkLookup] = field(default_factory=dict)

    def present(
        self, coords: NDArray[np.int64], catalog: Catalog | None, only: Sequence[int] | None = None
    ) -> NDArray[np.bool_]:
        """Return which segments (of those that are wanted) have cells in which chunks: coords (n, K) to bool (S, n)."""
        out = np.zeros((len(self.source.segments), len(coords)), bool)
        rows = catalog.find(coords) if catalog is not None else np.zeros(0, np.int64)
        for i in range(len(out)) if only is None else only:
            segment = self.source.segments[i]
            if segment.array in self.listed:
                out[i] = self.listed[segment.array].find(coords) >= 0
            elif catalog is not None and segment.array in catalog.arrays:
                out[i] = (rows >= 0) & (catalog.arrays[segment.array].nbytes[rows] >= 0)
        return out

    def chunks(self, segment: int, catalog: Catalog | None) -> NDArray[np.int64]:
        """Return the chunks that have cells in a segment, ascending, shape (n, K)."""
        array = self.source.segments[segment].array
        if array in self.listed:
            return self.listed[array].coords
        rank = self.source.family.rank
        if catalog is None:
            return np.zeros((0, rank), np.int64)
        return catalog.coords[catalog.chunks_of(array)].reshape(-1, rank)  # a catalog of nothing has no rank


def find_links(
    source: LevelSource, delta: int = 0, *, own: tuple[int, ...] = (), target: tuple[int, ...] = (), empty: bool = False
) -> FoundLinks | None:
    """Return a level's links to the level `delta` above, None where it has none.

    `own` and `target` are the edges of the chunks of both levels, in chunks of the root; an `empty` level has no vertices.
    """
    blobs = level_blobs(source)
    if isinstance(blobs, GridArrays):
        return _find_in_grid(source, blobs, delta, own, target, empty=empty)
    return _find_per_chunk(source, blobs, delta)


def _attributes(source: LevelSource, path: str, data: bytes | None) -> Mapping[str, Any] | None:
    """Return the attributes in a node's document, None where it has none."""
    if data is None:
        return None
    document = parse_document(data, path, source.place.handle.url)
    found: Mapping[str, Any] = document.get("attributes", {})
    return found


def _schema(source: LevelSource, name: str, attributes: Mapping[str, Any]) -> AttributeSchema | None:
    return readable(lambda: AttributeSchema.from_attributes(name, attributes, any_width=True), source.where())


def _row_dtype(source: LevelSource, array: str, attributes: Mapping[str, Any]) -> np.dtype[Any]:
    dtype = parse_dtype(attributes.get("dtype", "int64"), f"array {array!r}")
    if dtype.kind not in "iu":
        raise MetadataError(f"links of dtype {dtype}: rows are integers", store=source.where(), array=array)
    return dtype


def _lookup(coords: Iterable[tuple[int, ...]], rank: int) -> ChunkLookup:
    return ChunkLookup(np.array(sorted(coords), np.int64).reshape(-1, rank))


# -------------------------------------------------------------------------------------------------- layout grid


def _find_in_grid(
    source: LevelSource, blobs: GridArrays, delta: int, own: tuple[int, ...], target: tuple[int, ...], *, empty: bool
) -> FoundLinks | None:
    objects, base, suffix = blobs.objects, f"links/{delta_name(delta)}", delta_name(delta)
    data, listed, names, catalog = together(
        objects,
        lambda: objects.get(blobs.path(base, DOCUMENT)),
        lambda: objects.list_dir(blobs.path(base)),
        lambda: objects.list_dir(blobs.path("link_attributes")),
        # one that another tool's edits made stale still tells what there was
        lambda: blobs.catalog or load_catalog(objects, blobs.prefix),
    )
    known = sorted(catalog.nodes) if catalog is not None else []
    segments = sorted(
        {*(a.rpartition("/")[2] for a in known if a.startswith(f"{base}/")), *(n for n in listed if n != DOCUMENT)}
    )
    if data is None:
        if segments and not empty:  # in an empty level they are those of a write that has not reached its commit
            raise lost_document(source.where(), base)
        return None
    try:
        family = LinkFamily.from_attributes(_attributes(source, base, data) or {}, source.rank, delta)
    except MetadataError as error:
        raise error.at(store=source.where(), array=base) from None
    must = [a for a in known if a.startswith("link_attributes/") and a.split("/")[2:3] == [suffix]]
    names = sorted({*(a.split("/")[1] for a in must), *(n for n in names if n != DOCUMENT)})
    arrays = [f"{base}/{s}" for s in segments]
    values = {n: [f"link_attributes/{n}/{suffix}/{s}" for s in segments] for n in names}
    every = [*arrays, *(a for of_name in values.values() for a in of_name)]
    compared = blobs if source.links_compared else GridArrays(objects, blobs.prefix, blobs.catalog)
    found: dict[str, GridArray | None] = {**compared.catalogued(every)}
    unknown = [a for a in every if a not in found]
    found |= blobs.arrays(unknown)
    lost = next((a for a in every if a in must and found[a] is None), None)
    if lost is not None:
        raise lost_document(source.where(), lost)
    read = [_read_segment(source, family, s, a, found[a]) for s, a in zip(segments, arrays, strict=True)]
    attributes = [a for n in names if (a := _link_attribute(source, n, values[n], found)) is not None]
    # the copy of a record that is filed under the least of its chunks has no offset to a lesser one
    keep = [i for i, s in enumerate(read) if family.store == "canonical" or all(o >= (0,) * source.rank for o in s.offsets)]
    keep.sort(key=lambda i: (any(map(any, read[i].offsets)), segments[i]))
    links = LinkSource(
        family,
        tuple(read[i] for i in keep),
        tuple(LinkAttribute(a.schema, tuple(a.arrays[i] for i in keep)) for a in attributes),
        None,
        own or (1,) * source.rank,
        target or own or (1,) * source.rank,
    )
    return FoundLinks(links, {a: _listing(blobs, a, found[a]) for a in unknown if a in arrays})


def _listing(blobs: GridArrays, array: str, found: GridArray | None) -> ChunkLookup:
    """Return the chunks that an array's document lists; where it has no list, those that are stored."""
    assert found is not None
    listed = map(tuple, blobs.list_coords(array).tolist()) if found.nonempty is None else map(parse_key, found.nonempty)
    return _lookup(listed, found.spec.rank)


def _read_segment(source: LevelSource, family: LinkFamily, name: str, array: str, node: GridArray | None) -> LinkSegment:
    if node is None:
        raise lost_document(source.where(), array)
    try:
        offsets = parse_segment(name, source.rank)
    except FormatError as error:
        raise MetadataError(error.message, store=source.where(), array=array) from None
    if len(offsets) != family.width - 1 or node.spec.rank != source.rank:
        raise MetadataError(
            f"a segment for {len(offsets) + 1} endpoints in chunks of rank {node.spec.rank}, the family has link_width "
            f"{family.width} and the level's chunk keys rank {source.rank}",
            store=source.where(), array=array,
        )  # fmt: skip
    intra = not offsets.any()
    permuted = node.attributes.get("has_perm")
    if permuted is None:
        permuted = has_permutation(intra=intra, delta=family.delta, directed=family.directed, store=family.store)
    if type(permuted) is not bool or node.attributes.get("link_width", family.width) != family.width:
        raise MetadataError(
            f"has_perm is {permuted!r} and link_width {node.attributes.get('link_width')!r}, the family has {family.width}",
            store=source.where(), array=array,
        )  # fmt: skip
    dtype = _row_dtype(source, array, node.attributes)
    return LinkSegment(array, tuple(map(tuple, offsets.tolist())), permuted, intra and family.delta == 0, dtype.str)


def _link_attribute(
    source: LevelSource, name: str, arrays: Sequence[str], found: Mapping[str, GridArray | None]
) -> LinkAttribute | None:
    """Return an attribute of the family, None where it belongs to the links of other levels alone."""
    every = [_schema(source, name, node.attributes) for a in arrays if (node := found[a]) is not None]
    schemas = [s for s in every if s is not None]
    if not schemas:
        return None
    first = schemas[0]
    odd = next(
        (s for s in schemas if (s.dtype, s.channels, s.dictionary) != (first.dtype, first.channels, first.dictionary)), None
    )
    if odd is not None:
        raise MetadataError(
            f"link attribute {name!r} is {first.dtype} x {first.width} in one of its arrays and {odd.dtype} x {odd.width} in "
            "another, or has other categories there: they must agree",
            store=source.where(), array=arrays[0].rpartition("/")[0],
        )  # fmt: skip
    return LinkAttribute(first, tuple(arrays))


# -------------------------------------------------------------------------------------------------- layout per_chunk


def _find_per_chunk(source: LevelSource, blobs: PerChunk, delta: int) -> FoundLinks | None:
    objects, suffix = blobs.objects, delta_name(delta)
    base, crossing = f"links/{suffix}", f"{CROSSING}/{suffix}"
    documents, listed, names = together(
        objects,
        lambda: objects.get_many([(blobs.path(a, DOCUMENT), None) for a in (base, crossing)]),
        lambda: _spatial_keys(blobs, base),
        lambda: objects.list_dir(blobs.path("link_attributes")) if delta == 0 else [],
    )
    inside, across = (_attributes(source, a, d) for a, d in zip((base, crossing), documents, strict=True))
    if inside is None and listed:
        raise lost_document(source.where(), base)
    has_crossing = across is not None
    if inside is not None and across is not None and "num_links" not in across:
        across = None  # made before there is a record across chunks, with a width of 2 whatever the links are
    told = [a for a in (inside, across) if a is not None]
    if not told:
        return None
    try:
        families = [
            LinkFamily.from_attributes({**a, "sid_ndim": a.get("sid_ndim", source.rank)}, source.rank, delta) for a in told
        ]
    except MetadataError as error:
        raise error.at(store=source.where(), array=base) from None
    width = families[0].width
    if families[-1].width != width:
        raise MetadataError(
            f"link_width is {width} in {base!r} and {families[1].width} in {crossing!r}", store=source.where(), array=base
        )
    dtype = _row_dtype(source, base, inside or {})
    zero = ((0,) * source.rank,) * (width - 1)
    segments = (LinkSegment(base, zero, False, delta == 0, dtype.str),) if inside is not None else ()
    wanted = [f"link_attributes/{n}/{suffix}" for n in names if n != DOCUMENT]
    found = objects.get_many([(blobs.path(a, DOCUMENT), None) for a in wanted])
    schemas = [
        LinkAttribute(schema, (a,) if segments else ())
        for a, d in zip(wanted, found, strict=True)
        if (attrs := _attributes(source, a, d)) is not None and (schema := _schema(source, a.split("/")[1], attrs)) is not None
    ]
    for sibling in [LINK_FRAGMENTS, *(a.arrays[0] for a in schemas if a.arrays)] if delta == 0 else []:
        _check_sibling(source, blobs, base, listed, sibling)
    family = LinkFamily(width, source.rank, delta, directed=delta != 0, count=families[-1].count if across is not None else 0)
    ones = (1,) * source.rank
    # between levels a cell of 0.7 is about chunks of the same key, whatever their edges
    links = LinkSource(family, segments, tuple(schemas), crossing if has_crossing else None, ones, ones)
    return FoundLinks(links, {base: _lookup(map(parse_key, listed), source.rank)} if segments else {})


def _spatial_keys(blobs: PerChunk, array: str) -> list[str]:
    listing = blobs.listing(array)
    return [k for k in (*listing.plain, *listing.entries) if is_spatial_key(k)]


def _check_sibling(source: LevelSource, blobs: PerChunk, array: str, listed: Sequence[str], sibling: str) -> None:
    """Compare the chunks that have links with those that have groups or values of them: nothing else tells of a loss."""
    others = set(_spatial_keys(blobs, sibling))
    odd = min(others - set(listed), key=parse_key, default=None)
    if odd is not None:
        raise FormatError(
            f"the chunk is in {sibling!r} and not in {array!r}: it was lost, or is being written",
            store=source.where(), array=array, chunk=odd,
        )  # fmt: skip
