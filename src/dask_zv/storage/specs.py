"""A write as values: where it goes, how a block is stored, what the commit does; payloads in one form; and its marks.

What a write leaves beside its data: the mark that chunks are being replaced, its journal, and the stamp of the last commit. A
replaced cell is whole by itself and, to a reader with the old catalog, looks like another tool's edit. Where a mark lies beside
the arrays, it is not taken for one. A write that died leaves its mark; the next one that replaces the level removes it. One
module because planners, tasks and commits all speak of a write in these words.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from dask_zv.config import settings
from dask_zv.errors import FormatError, InputError, PlanError
from dask_zv.format.grids import GridSpec
from dask_zv.format.keys import DOCUMENT, check_chunk_key, join
from dask_zv.geometry.block import EncodedBlock
from dask_zv.spatial.chunks import runs_of
from dask_zv.storage.catalog import CATALOG_NAME, catalog_stamp, stamped_document
from dask_zv.storage.handles import StoreHandle, open_objects
from dask_zv.storage.locks import LOCK_NAME, claim_of, claimed_by, commit_lock
from dask_zv.storage.nodes import as_bytes, check_array_name, load_catalog
from dask_zv.storage.objects import Address, Objects
from dask_zv.storage.receipts import Receipt

LayoutName = Literal["per_chunk", "grid"]
_BLOCKS = 8
_COUNTED = ("links_family", "link_attribute_family")
"""What groups are called whose attributes count the links below them."""


@dataclass(frozen=True, slots=True)
class Place:
    """The group that a batch writes to, and the layout of its arrays."""

    handle: StoreHandle
    prefix: str
    layout: LayoutName = "per_chunk"


@dataclass(frozen=True, slots=True)
class GridPlan:
    """What a batch knew of a group's grid arrays when it was planned."""

    specs: Mapping[str, GridSpec]  # of the arrays that it writes
    existing: frozenset[str] = frozenset()  # those that were there
    token: str = ""  # of the group's catalog; empty where there was none
    # The batch is the first content of the arrays: where another writer's is there at the end, it is refused
    alone: bool = False
    listed: str = ""  # where there was no catalog: which chunks the arrays in shards listed
    # Grids of arrays whose names only the blocks know, by the group above them
    families: Mapping[str, GridSpec] = field(default_factory=dict)
    extends: bool = False  # arrays keep the chunks that they have

    def with_arrays(self, arrays: Iterable[str]) -> GridPlan:
        """Return the plan with the grids of `arrays`, where they are members of a family."""
        new = [a for a in arrays if a not in self.specs and a.rpartition("/")[0] in self.families]
        found = {a: self.families[a.rpartition("/")[0]] for a in new}
        return replace(self, specs={**self.specs, **found}) if found else self


@dataclass(frozen=True, slots=True)
class PerChunkPlan:
    """How one block is packed in layout ``per_chunk``, beside what was there when its batch was planned."""

    # Pack the blobs into shards, cut at multiples of this along the Morton curve; None stores every blob on its own
    shard_chunks: int | None = None
    shard_number: int | None = None  # pack all blobs of an array into this one shard instead
    # Blobs that another task's shard holds: they go beside it, where they win over it
    stay_plain: frozenset[Address] = frozenset()
    # Shards of this block that hold other chunks, or may do so by then, which must be kept
    merge: tuple[tuple[str, int], ...] = ()
    superseded: tuple[Address, ...] = ()  # blobs stored as arrays of their own, to be removed once the shard holds them
    # Members of the shards to merge that another block of the batch stores as arrays of their own: they stay in the shard
    # as they are, and that block's receipt speaks of them
    beside: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """How one task stores its blobs."""

    place: Place
    grid: GridPlan | None = None  # in layout ``grid``
    packing: PerChunkPlan = PerChunkPlan()  # in layout ``per_chunk``
    declared: str | None = None  # digest of the addresses that the payload must have
    topic: str = ""  # where the block is told of on a cluster, for a progress bar; empty where nobody listens


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What a block's task returns: its receipt, when it ran, and what the payload said besides its blobs."""

    receipt: Receipt
    started: float  # seconds since the epoch, on the clock of the machine that stored it
    ended: float
    extra: Any = None  # see :class:`~dask_zv.geometry.block.EncodedBlock`
    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    records: Mapping[str, int] = field(default_factory=dict)
    kind: str = ""  # which block: of "vertices" or of "links"
    number: int = -1
    worker: str = ""  # address of the worker, or host and process
    retries: int = 0  # requests to the store that were made again

    def __sizeof__(self) -> int:
        # what the scheduler's memory management counts
        return sys.getsizeof(self.extra) + 500

    @classmethod
    def of(cls, payload: Any, receipt: Receipt, started: float) -> BlockResult:
        """Return the result of a payload that was stored just now."""
        if not isinstance(payload, EncodedBlock):
            return cls(receipt, started, time.time())
        return cls(receipt, started, time.time(), payload.extra, payload.metadata, payload.records)


@dataclass(frozen=True, slots=True)
class Extension:
    """What a level has that an append to it leaves as it is."""

    staged: str  # path of the directory where all that is stored waits for the commit; empty where a transaction holds it back
    rows: int  # vertices of the chunks that get none
    counted: Mapping[str, int] = field(default_factory=dict)  # links of each family


@dataclass(frozen=True, slots=True)
class CommitSpec:
    """What the commit does when all blocks are stored."""

    place: Place
    # Attributes merged into nodes, in this order: what makes data visible comes last
    metadata: tuple[tuple[str, Mapping[str, Any]], ...]
    arrays: tuple[str, ...]  # arrays whose groups must exist
    # Write the catalog; False where the group already held blobs that no catalog lists: one that is there at the end,
    # made since, is added to
    catalog: bool
    replace: bool = False  # the batch is the whole content of its `arrays`: what they held before is removed
    remove: tuple[str, ...] = ()  # nodes to remove
    # What the report says: vertices, where the receipts don't tell; objects; positions out of bounds that were left out;
    # blocks of an earlier run that were kept
    count: int = -1
    objects: int = 0
    dropped: int = 0
    kept: int = 0
    # There was a catalog when the batch was planned: where it is gone at the end, somebody wrote blobs that none lists
    extends_catalog: bool = False
    grid: GridPlan | None = None  # the arrays' grids, in layout ``grid``
    # Groups of chunk arrays whose names only the blocks know; with `replace`, those that no block has stored are removed
    families: tuple[str, ...] = ()
    stamp: str = ""  # says which write this is: left beside the catalog, so that the same write, begun again, finds itself done
    # With `replace`, an earlier run may have died in its commit: what is to be removed is found by listing the arrays
    sweep: bool = False
    marker: str = ""  # name of the mark that chunks are being replaced; empty where none is
    # Vertices that the scan of the input counted for each block: none may have stored others
    rows: tuple[int, ...] | None = None
    # The group held nothing when the batch was planned, in layout ``per_chunk``: what others have stored since is to be
    # in the catalog, too
    first: bool = False
    # Attributes of the store's root (``..``) as they were read: of those in `metadata`, the others are changes
    root: Mapping[str, Any] = field(default_factory=dict)
    # With arrays that stay as they are: those that the batch replaces whole, and those that go (see `remove`, too)
    whole: frozenset[str] = frozenset()
    gone: tuple[str, ...] = ()
    extends: Extension | None = None  # the batch adds to what the level has
    # An edit of what the level has: its name, which the catalog gets, and the token of the catalog that it was planned on, ""
    # for none; with `turn`, blocks change the level before the commit, so that no other edit may begin
    edit: str = ""
    planned: str | None = None
    turn: bool = False

    def collect_attributes(self, results: Sequence[BlockResult]) -> dict[str, dict[str, Any]]:
        """Return all attributes by path, in order: those that were known before, and what the blocks found out."""
        out = {path: dict(attributes) for result in results for path, attributes in result.metadata.items()}
        for path, attributes in self.metadata:
            out[path] = {**out.pop(path, {}), **attributes}  # in their order, what makes data visible last
        counted = {p for result in results for p in result.records}
        if self.replace and self.rows is not None:  # where no links came, none are left; a copy has the counts that it copies
            counted |= {p for p, attributes in self.metadata if attributes.get("zv_array") in _COUNTED}
        for path in sorted(counted):
            count = sum(result.records.get(path, 0) for result in results)
            count += 0 if self.extends is None else self.extends.counted.get(path, 0)
            keys = ("num_links", "num_physical_records") if path.startswith("links/") else ("num_links",)
            out.setdefault(path, {}).update(dict.fromkeys(keys, count))
        if self.rows is not None:
            rows = sum(self.stored_rows(results).values()) + (0 if self.extends is None else self.extends.rows)
            out[""]["zarr_vectors_level"] = {**out[""]["zarr_vectors_level"], "vertex_count": rows}
        return out

    def stored_rows(self, results: Sequence[BlockResult]) -> dict[int, int]:
        """Return the vertices that each block's receipt tells of."""
        found = {r.number: int(r.receipt.rows[r.receipt.rows > 0].sum()) for r in results if r.kind == "vertices"}
        for number, wanted in enumerate(self.rows or ()):
            if found.get(number, 0) != wanted:
                raise InputError(
                    f"block {number} has stored {found.get(number, 0):,} vertices, the scan of the input counted {wanted:,}: "
                    "the input differs between readings; persist() it, or seed it, and write again",
                    store=self.place.handle.url, array=self.place.prefix,
                )  # fmt: skip
        return found


@dataclass(frozen=True, slots=True)
class Queued:
    """What a batch of writes is to store."""

    sizes: Mapping[Address, int]  # bytes of each single blob, 0 where they are not there yet
    blocks: Sequence[tuple[Address, ...]]  # what each whole block yields
    metadata: Mapping[str, Mapping[str, Any]]  # attributes by array
    shards: int | Sequence[int] | None  # packing that was asked for
    block_chunks: int | None  # chunks of a block, at most
    run: str  # names the mark of what is being replaced

    def addresses(self) -> list[Address]:
        """Return all addresses."""
        return [*self.sizes, *(address for block in self.blocks for address in block)]

    def cut(self, units: Sequence[Sequence[Address]]) -> list[list[Address]]:
        """Put units of single blobs, in their order, into blocks of bounded size."""
        # a task waits for the store twice, for data and for documents: few large ones, but some for every worker
        in_all = len({key for _, key in self.sizes})
        low, high = settings().batch_block_chunks
        most = self.block_chunks or min(max(-(-in_all // _BLOCKS), low), high)
        chunks = np.array([len({key for _, key in unit}) for unit in units], np.int64)
        nbytes = np.array([sum(self.sizes[a] for a in unit) for unit in units], np.int64)
        runs = runs_of((chunks, most), (nbytes, settings().batch_block_bytes))
        return [[address for unit in units[start:stop] for address in unit] for start, stop in runs]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How a batch is stored: the single blobs in blocks, how these and then the whole blocks are stored, and the commit."""

    single: Sequence[Sequence[Address]]
    blocks: Sequence[BlockSpec]
    commit: CommitSpec


def keys_digest(addresses: Iterable[Address]) -> str:
    """Return a short digest of a set of addresses."""
    text = "\n".join(sorted([f"{array}\t{key}" for array, key in addresses]))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def normalise(payload: Any, spec: BlockSpec) -> tuple[dict[Address, bytes], Mapping[str, int]]:
    """Return a payload as ``{(array, chunk key): bytes}`` with the rows of its chunks."""
    rows: Mapping[str, int] = {}
    if isinstance(payload, EncodedBlock):  # made by this library
        return payload.blobs, payload.rows
    if spec.declared is None and isinstance(payload, list):  # cut by the batch itself, which has checked the names
        return {(a, k): d if type(d) is bytes else as_bytes(d, join(spec.place.prefix, a), k) for a, k, d in payload}, rows
    items: Iterable[tuple[Address, Any]]
    if isinstance(payload, Mapping):
        items = payload.items()
    elif isinstance(payload, list) and all(isinstance(item, tuple) and len(item) == 3 for item in payload):
        items = (((array, key), data) for array, key, data in payload)
    else:
        raise PlanError(
            f"a block must yield {{(array, chunk_key): bytes}}, not {type(payload).__name__}",
            store=spec.place.handle.url, array=spec.place.prefix,
        )  # fmt: skip
    blobs: dict[Address, bytes] = {}
    for address, data in items:
        if not (isinstance(address, tuple) and len(address) == 2):
            raise PlanError(f"a block's key is (array, chunk_key), not {address!r}", store=spec.place.handle.url)
        array, key = check_array_name(address[0]), check_chunk_key(address[1])
        blobs[array, key] = data if type(data) is bytes else as_bytes(data, join(spec.place.prefix, array), key)
    if spec.declared is not None and keys_digest(blobs) != spec.declared:
        shown = ", ".join(map(repr, sorted(blobs)[:3]))
        raise PlanError(
            f"a block yielded other keys than it declared ({len(blobs)} of them: {shown}, …): declare what the task yields, "
            "nothing of this block was stored",
            store=spec.place.handle.url, array=spec.place.prefix,
        )  # fmt: skip
    return blobs, rows


@contextmanager
def root_lock(objects: Objects, spec: CommitSpec) -> Iterator[None]:
    """Hold the lock of the store's root where a commit changes its attributes: those of other levels do so, too."""
    with commit_lock(objects, normal_path(spec.place.prefix, "..")) if spec.root else nullcontext():
        yield


def normal_path(prefix: str, path: str) -> str:
    """Resolve ``..`` at the start of a path: a level's commit also writes the attributes of the root above it."""
    while path == ".." or path.startswith("../"):
        prefix, path = prefix.rpartition("/")[0], path[3:]
    return join(prefix, path)


REPLACING = "dask_zv_replacing-"
WAITING = "dask_zv_append-"
"""How the names of the directories begin in which appends wait for their commits."""
APPENDING = "append"
"""Name of the mark that a complete append is being put in its place."""
EDITING = "edit"
"""Name of the mark that a deletion, of which all is logged, is being put in its place."""
FINISH_EDIT = "run it again, or any other edit, and it is finished"
"""What is to be done about a deletion that did not reach its commit."""


def mark(objects: Objects, prefix: str, name: str) -> None:
    """Mark that chunks of the group at `prefix` are about to change."""
    objects.put(join(prefix, REPLACING + name), b"chunks beside this are being replaced; it goes with the commit")


def _marks(objects: Objects, prefix: str) -> list[str]:
    return [join(prefix, name) for name in objects.list_dir(prefix) if name.startswith(REPLACING)]


def unmark(objects: Objects, prefix: str, name: str | None) -> None:
    """Remove one mark, all where None."""
    objects.delete_many(_marks(objects, prefix) if name is None else [join(prefix, REPLACING + name)])


def check_not_replaced(objects: Objects, prefix: str, chunk: str | None = None) -> None:
    """Raise where chunks of a group that are not those of its last commit are a write's that did not reach its own."""
    found = _marks(objects, prefix)
    if any(f.endswith(REPLACING + APPENDING) for f in found):
        raise FormatError(
            f"rows are being added to {'the chunk' if chunk else 'the level'}, or the writer died doing so: wait for it; "
            "the same write again, or any other, completes it",
            store=objects.url, array=prefix, chunk=chunk,
        )  # fmt: skip
    if any(f.endswith(REPLACING + EDITING) for f in found):
        raise FormatError(
            f"a deletion was interrupted: {FINISH_EDIT} (or it is under way: wait for it)",
            store=objects.url, array=prefix, chunk=chunk,
        )  # fmt: skip
    if found:
        raise FormatError(
            f"{'the chunk' if chunk else 'the level'} is being replaced, or its writer died before the commit: wait for it, or "
            f"write it again (mode='overwrite', and resume=True where that was given); '/{found[0]}' marks it",
            store=objects.url, array=prefix, chunk=chunk,
        )  # fmt: skip


JOURNAL = "dask_zv_journal"
"""Name of the array, in a level, that keeps the receipts of an unfinished write."""
STAGED = "dask_zv_edit"
"""Where, in a level, what an edit is going to store lies, until it is all there."""


EDIT_RECORD = f"{STAGED}/record.json"
"""What says, below a level, that a deletion is all there, and is being applied."""
_TURN = f"{LOCK_NAME}-edit"


def check_as_planned(objects: Objects, prefix: str, edit: str, planned: str, *, changed: str = "nothing was changed; ") -> bool:
    """Return True where an edit has been committed; raise where the level is not what it was planned on, or another's."""
    catalog = load_catalog(objects, prefix)
    if catalog is not None and edit and catalog.edit == edit:
        return True
    other = edit_at_work(objects, prefix)
    same = ("" if catalog is None else catalog.token) == planned and other in ("", edit)
    # a transaction of Icechunk has no log of a deletion
    if not same or (not objects.nodes_first and objects.exists(join(prefix, EDIT_RECORD))):
        where = f"; where none is at it any more, delete '/{join(prefix, _TURN)}'" if other not in ("", edit) else ""
        raise PlanError(
            f"another writer has changed the level, or is about to, since the edit was planned: {changed}make the same call "
            f"again{where}",
            store=objects.url, array=prefix,
        )  # fmt: skip
    return False


def edit_at_work(objects: Objects, prefix: str) -> str:
    """Return the name of the edit that is changing a level, empty where none is."""
    return "" if objects.nodes_first else claimed_by(objects.get(join(prefix, _TURN)))


def begin_edit(objects: Objects, spec: CommitSpec) -> None:
    """Begin an edit, so that no other does: before anything is replaced. Raises as :func:`check_as_planned` does."""
    prefix, planned = spec.place.prefix, spec.planned or ""
    with commit_lock(objects, prefix):
        if check_as_planned(objects, prefix, spec.edit, planned) or objects.nodes_first:
            return
        objects.put(join(prefix, _TURN), claim_of(spec.edit))
    check_as_planned(objects, prefix, spec.edit, planned)  # two have the lock of a store that can't make one exclusively


def edit_is_done(objects: Objects, spec: CommitSpec) -> bool:
    """Return True where the commit of an edit, whose lock is held, was made before; raise where it may not be made."""
    if spec.planned is None:
        return False
    prefix = spec.place.prefix
    changed = "" if spec.turn else "nothing was changed; "
    done = check_as_planned(objects, prefix, spec.edit, spec.planned, changed=changed)
    if not done and not objects.nodes_first:
        if spec.turn and edit_at_work(objects, prefix) != spec.edit:
            raise PlanError(
                "the edit was given up before its commit: make the same call again", store=objects.url, array=prefix
            )
        objects.put(join(prefix, _TURN), claim_of(spec.edit))
    return done


def end_edit(objects: Objects, prefix: str, edit: str) -> None:
    """Let others begin, where this edit was at work."""
    if edit and edit_at_work(objects, prefix) == edit:
        objects.delete(join(prefix, _TURN))


def written_stamp(place: Place) -> str | None:
    """Return the stamp of a group's last commit, None where that left none."""
    objects, path = open_objects(place.handle), join(place.prefix, CATALOG_NAME)
    data = objects.get(f"{path}/{DOCUMENT}")
    if data is None:
        return None
    return catalog_stamp(data, path, objects.url)


def journal_key(prefix: str) -> str:
    """Return the key of the journal's document."""
    return join(prefix, JOURNAL, DOCUMENT)


def end_write(objects: Objects, spec: CommitSpec, seen: Objects) -> None:
    """Do the last steps of a commit: remove nodes, leave the stamp, and end the journal that `seen` may have.

    Who finds the stamp of a write knows that it is done. `seen` is the same store, or what was fetched of it.
    """
    prefix = spec.place.prefix
    for path in spec.remove:
        objects.delete_prefix(normal_path(prefix, path))
    for above in dict.fromkeys(family.rpartition("/")[0] for family in spec.families if spec.replace):
        while above and all(name == DOCUMENT for name in objects.list_dir(join(prefix, above))):
            objects.delete_prefix(join(prefix, above))
            above = above.rpartition("/")[0]
    key = join(prefix, CATALOG_NAME, DOCUMENT)
    if spec.stamp and (data := objects.get(key)) is not None:
        objects.put(key, stamped_document(data, spec.stamp, join(prefix, CATALOG_NAME), objects.url))
    if seen.get(journal_key(prefix)) is not None:
        objects.delete_prefix(join(prefix, JOURNAL, "c"))  # the document last: where this ends in the middle, it tells the next
        objects.delete_prefix(join(prefix, JOURNAL))
    end_edit(objects, prefix, spec.edit)
