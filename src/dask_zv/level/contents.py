"""What a store and its levels are, as far as their documents and catalogs tell; no blob is read for it.

All code works on these; :class:`dask_zv.Store` and :class:`dask_zv.Level` hold them and add the public methods.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeAlias

from dask_zv.errors import FormatError, MetadataError, NotFoundError, ZVWarning
from dask_zv.format.documents import parse_document
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.format.levels import LevelMetadata
from dask_zv.format.metadata import RootMetadata
from dask_zv.geometry.kinds import kind_of
from dask_zv.geometry.schema import VERTICES
from dask_zv.graph.group import Group
from dask_zv.level.chunk_table import chunk_table, has_emptied_fragments
from dask_zv.level.find import find_source
from dask_zv.level.link_source import FoundLinks, find_links
from dask_zv.level.object_index import ObjectIndex
from dask_zv.level.source import ChunkTable, LevelSource, catalogued_chunks, level_blobs
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.handles import StoreHandle, open_objects
from dask_zv.storage.layout import layout_of
from dask_zv.storage.nodes import SETTINGS, read_document
from dask_zv.storage.objects import Objects, place_url
from dask_zv.storage.opening import open_root
from dask_zv.storage.specs import LayoutName, Place

Check: TypeAlias = Callable[[LevelSource, ChunkTable], None]
"""What looks at the chunks of a level that no catalog vouches for, where a store is opened with ``check_objects``."""


class StoreContents:
    """The contents of a store; tasks carry its `handle`, and `settings` are the arguments of `create` for stores of dask-zv."""

    believes_catalogs = True  # False where levels are looked at as if they had no catalog
    resumes = False  # True where writes go on with what an interrupted call has stored, and leave alone what is written
    pending: tuple[tuple[str, bytes], ...] = ()  # documents of a store that is being made: nothing of it is there yet

    def __init__(self, handle: StoreHandle, prefix: str, attributes: Mapping[str, Any], check: Check | None = None) -> None:
        self.handle = handle
        self.prefix = prefix
        self.check = check
        self._load(attributes)

    def _load(self, attributes: Mapping[str, Any]) -> None:
        if "zarr_vectors" not in attributes:
            raise MetadataError(
                f"a Zarr group, but not a Zarr Vectors store: its attributes are {sorted(attributes) or 'empty'}",
                store=self.url,
            )
        try:
            self.metadata = RootMetadata.from_attributes(attributes)
        except MetadataError as error:
            raise error.at(store=self.url) from None
        self._attributes = attributes
        self.settings: Mapping[str, Any] = s if isinstance(s := attributes.get(SETTINGS, {}), Mapping) else {}
        self._levels: dict[int, LevelContents] = {}

    @classmethod
    def reopened(cls, handle: StoreHandle, prefix: str, check: Check | None = None) -> StoreContents:
        """Return the store at `prefix` as it is now."""
        return cls(handle, prefix, Group._from_handle(handle, prefix).attrs.to_dict(), check)

    @classmethod
    def opened(
        cls, target: object, mode: str = "r", storage_options: Mapping[str, Any] | None = None, check: Check | None = None
    ) -> StoreContents:
        """Open what a user names, see :func:`dask_zv.open`."""
        first: list[bytes | None] = []

        def peek(objects: Objects, prefix: str) -> bytes | None:
            root, level = objects.get_many([(join(prefix, p), None) for p in (DOCUMENT, f"0/{DOCUMENT}")])
            first.append(level)
            return root

        handle, prefix, attributes = open_root(target, mode, storage_options, must_exist=True, peek=peek)
        store = cls(handle, prefix, attributes, check)
        if first[0] is not None:  # most readers go on with level 0
            document = parse_document(first[0], join(prefix, "0"), handle.url)
            store._levels[0] = LevelContents(store, 0, document.get("attributes", {}))
        if (store.metadata.crs or {}).get("input_space") == "voxmm":
            warnings.warn(
                f"the positions are in voxel millimetres (crs.input_space is 'voxmm'), not in the space of a scanner or an "
                f"atlas: transform them before you combine them with others [{store.url}]",
                ZVWarning,
                stacklevel=3,
            )
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        return StoreContents.reopened, (self.handle, self.prefix, self.check)

    @property
    def url(self) -> str:
        """Where the store is, without secrets."""
        return place_url(self.handle.url, self.prefix)

    @property
    def layout(self) -> LayoutName:
        """The layout of its arrays: ``"grid"`` (ZV 0.9) or ``"per_chunk"`` (ZV 0.7)."""
        return layout_of(self.metadata.generation)

    @property
    def group(self) -> Group:
        """The root group."""
        return Group._from_handle(self.handle, self.prefix, self.layout)

    @property
    def read_only(self) -> bool:
        """True where the store was opened for reading."""
        return open_objects(self.handle).read_only

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes, one for each column of the positions."""
        return tuple(a.name for a in self.metadata.axes)

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Numbers of the resolution levels; 0 is the finest. One that is being built has no metadata yet, and is none."""
        names = open_objects(self.handle).list_dir(self.prefix)
        found = sorted(int(n) for n in names if n.isascii() and n.isdigit() and len(n) < 10 and str(int(n)) == n)
        told = iter(open_objects(self.handle).get_many([(join(self.prefix, str(n), DOCUMENT), None) for n in found if n]))
        return tuple(n for n in found if not n or b"zarr_vectors_level" in (next(told) or b""))

    @property
    def headers(self) -> dict[str, dict[str, Any]]:
        """What the store keeps of the heads of files that its content came from, by the files' format: ``{"trk": {...}}``."""
        return read_headers(self.handle, self.prefix)

    @property
    def attribute_specs(self) -> dict[str, dict[str, Any]]:
        """What the store says of attributes (dtype, unit and so on), by scope ("vertex", "object", "link") and name."""
        found = self.metadata.extra.get("attribute_specs")
        return {k: dict(v) for k, v in found.items() if isinstance(v, Mapping)} if isinstance(found, Mapping) else {}

    def level(self, number: int = 0) -> LevelContents:
        """Return one resolution level; where the store has none of this number, :class:`NotFoundError` is raised."""
        if number not in self._levels:
            document = read_document(open_objects(self.handle), join(self.prefix, str(number)))
            if document is None and number not in self.levels:
                raise NotFoundError(f"no level {number}: the store has the levels {list(self.levels)}", store=self.url)
            self._levels[number] = LevelContents(self, number, {} if document is None else document.get("attributes", {}))
        return self._levels[number]

    def reload(self) -> None:
        """Read the metadata again."""
        attributes = self.group.attrs.to_dict()
        self.__dict__.pop("levels", None)
        self._load(attributes)


class _HasContents(Protocol):
    @property
    def _contents(self) -> StoreContents: ...
    @property
    def axes(self) -> tuple[str, ...]: ...


Store: TypeAlias = _HasContents
""":class:`dask_zv.Store`, as the signatures of the rooms below it call it."""


def contents_of(store: object) -> StoreContents | None:
    """Return the contents of a :class:`dask_zv.Store`; None where something else is given: a target."""
    contents = getattr(store, "_contents", None)
    return contents if isinstance(contents, StoreContents) else None


def opened_contents(store: object, mode: str = "r") -> StoreContents:
    """Return the contents of a :class:`dask_zv.Store`, or of the store at a target as for :func:`dask_zv.open`."""
    return contents_of(store) or StoreContents.opened(store, mode)


def read_headers(handle: StoreHandle, prefix: str) -> dict[str, dict[str, Any]]:
    """Return the headers of the store at `prefix`, see :attr:`StoreContents.headers`."""
    objects, path = open_objects(handle), join(prefix, "headers")
    documents = {n: read_document(objects, join(path, n)) for n in objects.list_dir(path) if n != DOCUMENT}
    return {n: dict(d.get("attributes", {})) for n, d in documents.items() if d is not None}


class LevelContents:
    """The facts of one resolution level."""

    def __init__(self, store: StoreContents, number: int, attributes: Mapping[str, Any]) -> None:
        self.store = store
        self.number = number
        self._attributes = dict(attributes)
        self._links: dict[int, FoundLinks | None] = {}
        self._documents: dict[str, Mapping[str, Any] | None] = {}
        try:
            self.metadata = LevelMetadata.from_attributes(self._attributes)
        except MetadataError as error:
            raise error.at(store=self.url) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return StoreContents.level, (self.store, self.number)  # what is remembered of it stays in this process

    @property
    def url(self) -> str:
        """Where the level is, without secrets."""
        return join(self.store.url, str(self.number))

    @property
    def place(self) -> Place:
        """The level's group as tasks carry it."""
        return Place(self.store.handle, join(self.store.prefix, str(self.number)), self.store.layout)

    @property
    def group(self) -> Group:
        """The level's group."""
        return Group._from_handle(self.place.handle, self.place.prefix, self.place.layout)

    @cached_property
    def _found(self) -> tuple[LevelSource, Catalog | None]:
        state = json.dumps([self.store.metadata.to_attributes(), self._attributes], sort_keys=True, default=str)
        token = hashlib.sha256(state.encode()).hexdigest()
        how = {"check_objects": self.store.check is not None, "believe": self.store.believes_catalogs}
        return find_source(self.place, self.store.metadata, self.metadata, token, **how, keep=self._documents)

    @property
    def source(self) -> LevelSource:
        """What a task needs to read the level."""
        return self._found[0]

    @cached_property
    def chunks(self) -> ChunkTable:
        """The level's chunks and their rows: from the catalog, without one from a document per chunk."""
        root = self.store.metadata
        source, catalog = self._found
        table = catalogued_chunks(source, catalog)
        if table is None:
            table = chunk_table(source, catalog, self.metadata.room(root.chunk_shape, root.bounds))
        have, told = int(table.rows.sum()), self.metadata.vertex_count
        # some writers never count, edits that empty chunks leave the count; what was in ours the catalog has told
        foreign = not source.catalogued and SETTINGS not in self._attributes
        if foreign and have < told and not table.emptied and not has_emptied_fragments(source, table):
            raise FormatError(
                f"the level has {have:,} vertices in {len(table):,} chunks, its metadata counts {told:,}: chunks were lost; "
                "restore them, or correct vertex_count",
                store=self.url, array=VERTICES,
            )  # fmt: skip
        if self.store.check is not None and not source.catalogued:
            self.store.check(source, table)
        return table

    @property
    def is_packed(self) -> bool:
        """True where the catalog says that chunks share objects."""
        catalog = self._found[1]
        columns = None if catalog is None else catalog.arrays.get(VERTICES)
        return columns is not None and bool((columns["shard"] >= 0).any())

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the vertex attributes."""
        own = tuple(a.name for a in self.source.schema.attributes)
        return own if self.source.chunk_attribute is None else (*own, self.source.chunk_attribute[0])

    @property
    def kind(self) -> str | None:
        """What the level's objects are: the first of the store's geometry types; None where it names none."""
        kinds = self.store.metadata.geometry_types
        return kinds[0] if kinds else None

    @cached_property
    def index(self) -> ObjectIndex:
        """The manifests of the level's objects, and the tables beside them."""
        return ObjectIndex(self.source, self._documents)

    def found_links(self, delta: int = 0) -> FoundLinks | None:
        """Return which links the level has to the level `delta` above, None where it has none."""
        if delta not in self._links:
            target = self
            if delta and self.number + delta in self.store.levels:
                target = self.store.level(self.number + delta)
            empty = not len(self.chunks)
            self._links[delta] = find_links(self.source, delta, own=self.chunk_ratio, target=target.chunk_ratio, empty=empty)
        return self._links[delta]

    @property
    def chunk_ratio(self) -> tuple[int, ...]:
        """The edges of the level's chunks in those of the root; 1 for an attribute that leads the keys."""
        base = self.store.metadata.chunk_shape
        edges = tuple(round(a / b) for a, b in zip(self.metadata.chunk_shape_in(base), base, strict=True))
        return (1,) * (self.source.rank - len(edges)) + edges

    @property
    def has_implied_edges(self) -> bool:
        """True where each row of a fragment is linked to the row before it, but where a stored link says otherwise.

        The store's ``links_convention`` says so of graphs and skeletons: edits change it. Where it is absent, the kind decides.

        Raises
        ------
        MetadataError
            A skeleton with the convention of paths, which says nothing of trees.
        """
        convention = self.store.metadata.links_convention
        if kind_of(self.kind).link != "edge":
            return False
        if convention == "implicit_sequential" and kind_of(self.kind).has_parents:
            raise MetadataError(
                "links_convention is 'implicit_sequential', that of paths, in a store of skeletons: it is unknown whether "
                "consecutive rows are linked; set it to 'implicit_sequential_with_branches' if they are, else to 'explicit'",
                store=self.store.url,
            )
        return kind_of(self.kind).has_parents if convention is None else convention == "implicit_sequential_with_branches"

    @cached_property
    def is_chunked_skeleton(self) -> bool:
        """True for skeletons of one unbranched path a fragment, whose positions may have an offset.

        Such a store has directed links, and names the segment that each fragment is of (format 0.9, chunked skeletons).
        """
        links = self.found_links(0) if kind_of(self.kind).has_parents else None
        if links is None or not links.source.family.directed:
            return False
        blobs = level_blobs(self.source)
        return isinstance(blobs, GridArrays) and blobs.array("fragment_attributes/segment_id") is not None

    @cached_property
    def offset(self) -> tuple[float, ...] | None:
        """What reading adds to the stored positions, None for nothing."""
        given = self.store.metadata.extra.get("coordinate_offset") if self.is_chunked_skeleton else None
        if given is None:
            return None
        ndim = self.source.schema.grid.ndim
        numbers = isinstance(given, Sequence) and all(isinstance(v, int | float) for v in given)
        if not numbers or len(given) != ndim:
            raise MetadataError(f"coordinate_offset is {given!r:.80}: {ndim} numbers are wanted", store=self.store.url)
        return tuple(float(v) for v in given)


def level_of(source: LevelSource) -> LevelContents:
    """Return the level that was found so; its store is opened again, and an error where it was rewritten since."""
    root, _, number = source.place.prefix.rpartition("/")
    level = StoreContents.reopened(source.place.handle, root).level(int(number))
    if level.source.token != source.token:
        raise FormatError("the level was rewritten after it was opened: open it again", store=source.where())
    return level
