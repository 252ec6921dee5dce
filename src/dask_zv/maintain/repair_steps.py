"""The steps of a repair, in their order: documents, tables, lists, chunks, what names lost chunks, numbers, catalogs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dask_zv.errors import ZVError
from dask_zv.format.keys import is_spatial_key
from dask_zv.format.links import parse_delta
from dask_zv.geometry.points import POINT_CLOUD
from dask_zv.geometry.schema import FRAGMENTS, VERTICES
from dask_zv.level.contents import StoreContents
from dask_zv.level.object_tables import EDGE_COUNTS, OBJECT_LENGTHS
from dask_zv.maintain.repair_copy import Chunks, Copy, absent_in, copied_chunks, copy_document, copy_tree
from dask_zv.maintain.repair_drop import (
    drop_array,
    drop_chunks,
    drop_from_manifests,
    drop_links,
    drop_members,
    is_there,
    readable_index,
)
from dask_zv.maintain.repair_rebuild import (
    correct_bounds,
    correct_counts,
    list_levels,
    number_level,
    renew_catalogs,
    write_lists,
)
from dask_zv.maintain.rules_catalog import NOT_LISTED
from dask_zv.maintain.validation import Finding
from dask_zv.storage.handles import open_objects

_OF_CHUNKS = ("blobs", "shards", "siblings", "inside", "nan", "fragments")
_LINKS = ("links", "link_attributes", "link_fragments", "cross_chunk_links")
_TREES: dict[str, tuple[str, ...]] = {
    "ids": ("object_index", OBJECT_LENGTHS),
    "manifests": ("object_index", OBJECT_LENGTHS),
    "groups": ("groups", "group_attributes"),
    "links": _LINKS,
    "trees": _LINKS,
    "winding": _LINKS,
}
"""What is copied as a whole, by the rule that was broken."""


class OpenedAgain:
    """Contents in the form in which functions take a store."""

    def __init__(self, contents: StoreContents) -> None:
        self._contents = contents

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes."""
        return self._contents.axes


@dataclass(slots=True)
class Repairs:
    """One step of a repair: the first that has something to do."""

    store: OpenedAgain
    findings: Sequence[Finding]
    copy: Copy | None
    drop: bool
    tried: set[Any] = field(default_factory=set)
    gone: set[tuple[int, str]] = field(default_factory=set)
    """Level and key of chunks of which a catalog told, maybe one that is no more."""

    @property
    def contents(self) -> StoreContents:
        """The store as it is now."""
        return self.store._contents

    def first_step(self, rules: set[str] | None) -> list[str] | None:
        """Do the first thing that is to be done and was not tried before; None where there is nothing left."""
        self.gone |= {(f.level, f.chunk) for f in self.findings if f.message == NOT_LISTED and f.level is not None and f.chunk}
        some = [f for f in self.findings if (rules is None or f.rule in rules) and f.severity != "info"]
        steps: list[Callable[[list[Finding]], list[str]]] = [
            self._documents, self._trees, self._lists, self._chunks, self._dropped_names, self._numbers, self._catalogs,
        ]  # fmt: skip
        for step in steps:
            told = step(some)
            if told:
                return told
        return None

    def _once(self, *what: Any) -> bool:
        """Return True if something was not tried before."""
        if what in self.tried:
            return False
        self.tried.add(what)
        return True

    def _tree(self, number: int, node: str) -> list[str]:
        """Copy a node with all below it."""
        assert self.copy is not None
        objects = open_objects(self.contents.handle)
        copied = copy_tree(self.copy, objects, self.contents.prefix, number, node)
        return [f"level {number}: copied {node or 'all of it'}"] if copied else []

    def _documents(self, findings: list[Finding]) -> list[str]:
        """Copy levels and documents that are lost, and the arrays of lost documents."""
        done: list[str] = []
        if self.copy is not None and any(f.rule in ("levels", "multiscales") and f.severity == "error" for f in findings):
            for number in set(self.copy.contents.levels) - set(self.contents.levels):
                if self._once("level", number):
                    done += self._tree(number, "")
        for f in findings:
            if f.rule != "documents" or f.severity != "error":
                continue
            node = f.array if f.array not in (None, str(f.level)) else None
            if self.copy is not None and self._once("document", f.level, node):
                if f.level is None or node is None:
                    done += copy_document(self.copy, open_objects(self.contents.handle), self.contents.prefix, f.level)
                else:
                    done += self._tree(f.level, node)
            elif self.drop and f.level is not None and node is not None and ("_attributes" in node or self._can_be_without(f)):
                done += drop_array(self.contents, f.level, node) if self._once("drop", f.level, node) else []
        return done

    def _can_be_without(self, finding: Finding) -> bool:
        """Return True for fragments of points that are no objects: a chunk without an index is one fragment."""
        if finding.array != FRAGMENTS or finding.level is None:
            return False
        schema = self.contents.level(finding.level).source.schema
        return self.contents.level(finding.level).kind == POINT_CLOUD.name and not schema.has_objects

    def _trees(self, findings: list[Finding]) -> list[str]:
        """Copy the tables of objects, groups, and links, where their rules are broken; or drop tables that can't be read."""
        done: list[str] = []
        for f in findings:
            if f.level is None or (f.severity != "error" and f.rule != "winding"):
                continue
            nodes = _TREES.get(f.rule, ())
            if f.rule == "object-tables" and f.array is not None and f.array not in (OBJECT_LENGTHS, EDGE_COUNTS):
                nodes = (f.array,)
            if f.rule in _OF_CHUNKS and f.array is not None and (f.chunk is None or not is_spatial_key(f.chunk)):
                nodes = (f.array,)
            if f.rule == "counts" and f.array is not None and f.array.startswith(("links/", "cross_chunk_links/")):
                nodes = _LINKS  # fewer than are counted were lost
            if f.rule == "counts" and f.array == "object_index":
                nodes = _TREES["manifests"]
            for node in nodes:
                if self.copy is not None and self._once("tree", f.level, node):
                    done += self._tree(f.level, node)
            single = (
                f.rule in ("object-tables", "siblings") and f.array is not None and "_attributes" in f.array and not f.chunk
            )
            unread = f.rule == "groups" and self.drop and "names" not in f.message
            if self.drop and (single or unread) and not done:
                for node in (f.array or "",) if single else nodes:
                    if is_there(self.contents.level(f.level), node) and self._once("drop", f.level, node):
                        done += drop_array(self.contents, f.level, node)
        return done

    def _lists(self, findings: list[Finding]) -> list[str]:
        """Write lists of chunks again."""
        done: list[str] = []
        for number in sorted({f.level for f in findings if f.rule == "lists" and f.level is not None}):
            arrays = {f.array for f in findings if f.rule == "lists" and f.level == number and f.array is not None}
            if self._once("lists", number, tuple(sorted(arrays))):
                done += write_lists(self.contents, number, arrays)
        return done

    def _chunks(self, findings: list[Finding]) -> list[str]:
        """Write chunks again from the copy, or drop them."""
        done: list[str] = []
        levels = {f.level for f in findings if f.rule in _OF_CHUNKS and f.level is not None}
        for number in sorted(levels | {n for n, _ in self.gone if self.copy is not None and n in self.contents.levels}):
            chunks = Chunks(number, keys=self._gone_from(number) if self.copy is not None else set())
            for f in findings:
                if f.level != number or f.rule not in _OF_CHUNKS or f.severity != "error" or not f.array or not f.chunk:
                    continue
                if f.array.startswith("link"):
                    chunks.addresses.add((f.array, f.chunk))
                elif is_spatial_key(f.chunk):
                    chunks.keys.add(f.chunk)
            if not chunks.keys and not chunks.addresses:
                continue
            state = tuple(sorted(chunks.keys)), tuple(sorted(chunks.addresses))
            if self.copy is not None and self._once("chunks", number, state):
                told, lost = copied_chunks(self.contents, self.copy, chunks)
                done += told
                chunks = absent_in(lost, chunks)
            elif self.copy is not None:  # the chunks are as in the copy, and their arrays say that they are others
                for array in sorted({f.array for f in findings if f.level == number and f.rule in _OF_CHUNKS and f.array}):
                    done += self._tree(number, array) if self._once("tree", number, array) else []
            chunks.keys -= self._gone_from(number) | self._readable(number, findings)
            if self.drop and not done and (chunks.keys or chunks.addresses):
                for array in self._hopeless(number, findings):
                    done += drop_array(self.contents, number, array) if self._once("drop", number, array) else []
            if self.drop and not done and (chunks.keys or chunks.addresses) and self._once("drop", number, state):
                done += self._without_values(chunks) + drop_chunks(self.contents, chunks)
        return done

    def _gone_from(self, number: int) -> set[str]:
        """Return the chunks of a level that a catalog knew, and that are still not there."""
        group = self.contents.level(number).group
        return {k for n, k in self.gone if n == number and not group.chunk_exists(VERTICES, k)}

    def _readable(self, number: int, findings: list[Finding]) -> set[str]:
        """Return the chunks of a level that are not as they should be, and whose vertices can be read: they stay."""
        errors = [f for f in findings if f.level == number and f.rule in _OF_CHUNKS and f.severity == "error" and f.chunk]
        others = {f.chunk for f in errors if f.rule != "inside"}
        strays = {f.chunk for f in errors if f.chunk} - others
        return strays | self._unindexed(number, findings)

    def _unindexed(self, number: int, findings: list[Finding]) -> set[str]:
        """Return all chunks of a level that has lost the fragments of all of them: dropped, they would leave nothing."""
        lost = {f.chunk for f in findings if f.level == number and f.rule == "siblings" and f.array == FRAGMENTS and f.chunk}
        return lost if lost and lost >= set(self.contents.level(number).group.list_chunks(VERTICES)) else set()

    def _hopeless(self, number: int, findings: list[Finding]) -> list[str]:
        """Return the attributes that are damaged in half of their chunks or more: they are dropped, and not all vertices."""
        errors = [f for f in findings if f.level == number and f.rule in _OF_CHUNKS and f.severity == "error" and f.chunk]
        own = {f.chunk for f in errors if f.array in (VERTICES, FRAGMENTS)}  # what lies beside them is not to blame
        odd = Counter(f.array for f in errors if f.chunk not in own)
        group = self.contents.level(number).group
        return [
            a for a, n in odd.items() if a and a.startswith("vertex_attributes/") and 2 * n >= len(group.list_chunks(a)) > 1
        ]

    def _without_values(self, chunks: Chunks) -> list[str]:
        """Let the values of dropped cells of links go as well: they lie beside each other."""
        more: set[tuple[str, str]] = set()
        names = open_objects(self.contents.handle).list_dir(f"{self.contents.level(chunks.level).place.prefix}/link_attributes")
        for array, key in chunks.addresses:
            parts = array.split("/")
            segment = "/".join(parts[-2:])
            more |= {(f"link_attributes/{n}/{segment}", key) for n in names if n != "zarr.json"} | {(f"links/{segment}", key)}
        group = self.contents.level(chunks.level).group
        chunks.addresses |= {a for a in more if a[0] in group and group.chunk_exists(*a)}
        return []

    def _dropped_names(self, findings: list[Finding]) -> list[str]:
        """Remove what names things that are not there."""
        done: list[str] = []
        errors = [f for f in findings if f.level is not None and f.severity == "error"] if self.drop else []
        for number in sorted({f.level for f in errors if f.level is not None}):
            here = [f for f in errors if f.level == number]
            if self._unindexed(number, here):
                continue  # nothing tells any more which fragments are there
            if (told := _messages(here, "manifests")) and self._once("manifests", number, told):
                done += drop_from_manifests(self.contents, number)
            if (told := _messages(here, "links")) and self._once("links", number, told):
                names = {f.array.split("/")[1] for f in here if f.rule == "links" and f.chunk and f.array and "/" in f.array}
                for delta in sorted(map(parse_delta, names)):
                    done += drop_links(self.contents, number, delta)
            if any(f.rule == "groups" for f in here) and readable_index(self.contents.level(number)):
                done += drop_members(self.contents, number) if self._once("groups", number) else []
        return done

    def _numbers(self, findings: list[Finding]) -> list[str]:
        """Correct counts, bounds, and what is said of levels."""
        done: list[str] = []
        for number in sorted({f.level for f in findings if f.rule == "counts" and f.level is not None}):
            if self._once("counts", number, tuple(f.message for f in findings if f.rule == "counts" and f.level == number)):
                # where chunks are lost it is known how many vertices there were
                lost = any(f.level == number and f.array == VERTICES and f.severity == "error" for f in self.findings)
                whole = self.drop or not (lost or self._gone_from(number))
                try:
                    done += correct_counts(self.contents, number, vertices=whole, fewer=self.drop)
                except ZVError:
                    continue  # what can't be read can't be counted: the finding stays
        if any(f.rule == "bounds" for f in findings) and self._once("bounds"):
            done += correct_bounds(self.contents)
        if any(f.rule == "multiscales" for f in findings) and self._once("multiscales"):
            done += list_levels(self.contents)
        for number in sorted({f.level for f in findings if f.rule == "levels" and f.level is not None}):
            if self._once("number", number):
                done += number_level(self.contents, number)
        return done

    def _catalogs(self, findings: list[Finding]) -> list[str]:
        """Make catalogs and small tables again."""
        ours = [f for f in findings if f.rule == "catalog" or f.array in (OBJECT_LENGTHS, EDGE_COUNTS)]
        if not self.drop and self.gone and any(f.rule == "counts" for f in self.findings):
            return []  # the catalog alone knows what was lost
        if not ours or not self._once("catalog", tuple(f.message for f in ours)):
            return []
        found = StoreContents.reopened(self.contents.handle, self.contents.prefix)
        return renew_catalogs(OpenedAgain(found))


def _messages(findings: Sequence[Finding], rule: str) -> tuple[str, ...]:
    """Return what findings of a rule say of chunks."""
    return tuple(f"{f.array} {f.chunk} {f.message}" for f in findings if f.rule == rule and f.chunk is not None)
