"""The log of an edit that changes chunks in place: all of it is written beside the level before any of it is applied.

While it is written the level is as it was: a process that dies there leaves files that nobody reads. Its last object, the
record, says that it is whole. Then it is applied: cells and tables are replaced, the commit makes them the level's content, and
the log goes. Applying it twice leaves the same; the next edit of the level finishes what another has begun.

A transaction of Icechunk needs no log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dask.delayed import Delayed
from dask.task_spec import List, Task, TaskRef

from dask_zv.errors import FormatError, MetadataError
from dask_zv.format.documents import dump_json, to_json
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.geometry.block import EncodedBlock
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.report import Report
from dask_zv.graph.run import compute_one
from dask_zv.graph.tasks import add_block, add_commit
from dask_zv.level.contents import StoreContents
from dask_zv.maintain.convert_level import copy_node
from dask_zv.storage.codecs import crc32c
from dask_zv.storage.handles import open_objects
from dask_zv.storage.locks import commit_lock
from dask_zv.storage.nodes import load_catalog, read_grids
from dask_zv.storage.specs import (
    EDIT_RECORD,
    EDITING,
    STAGED,
    BlockSpec,
    CommitSpec,
    GridPlan,
    Place,
    check_as_planned,
    mark,
    unmark,
)

_HEAD = 8


@dataclass(frozen=True, slots=True)
class Record:
    """What a whole log says: how many blocks it has, which nodes replace others, and what the commit does besides."""

    run: str  # name of the log
    token: str  # of the level's catalog before the edit
    blocks: int
    arrays: tuple[str, ...]
    nodes: tuple[str, ...]
    metadata: tuple[tuple[str, Mapping[str, Any]], ...]
    remove: tuple[str, ...]
    gone: tuple[str, ...]
    root: Mapping[str, Any]
    count: int
    objects: int

    def encode(self) -> bytes:
        """Return it as JSON."""
        return dump_json({name: to_json({"v": getattr(self, name)}, name)["v"] for name in self.__slots__})

    @classmethod
    def decode(cls, data: bytes, place: Place) -> Record:
        """Return the record in JSON."""
        try:
            told = json.loads(data)
            metadata = tuple((str(path), dict(attributes)) for path, attributes in told["metadata"])
            lists = (tuple(map(str, told[name])) for name in ("arrays", "nodes", "remove", "gone"))
            arrays, nodes, remove, gone = lists
            return cls(
                str(told["run"]), str(told["token"]), int(told["blocks"]), arrays, nodes, metadata, remove, gone,
                dict(told["root"]), int(told["count"]), int(told["objects"]),
            )  # fmt: skip
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FormatError(
                f"the record of an unfinished edit is damaged ({error!r:.200}): write the level again, or restore it",
                store=place.handle.url, array=join(place.prefix, STAGED),
            ) from error  # fmt: skip


def shadow(place: Place, run: str) -> Place:
    """Return where the log has the nodes that replace others of a level."""
    return Place(place.handle, join(place.prefix, STAGED, run, "nodes"), place.layout)


def _key(place: Place, run: str, number: int) -> str:
    return join(place.prefix, STAGED, run, f"blocks/{number}")


def stage(place: Place, run: str, number: int, encoded: EncodedBlock) -> int:
    """Put a block into the log: lengths and a checksum, then the payloads."""
    told = {
        "blobs": [[array, key, len(data)] for (array, key), data in encoded.blobs.items()],
        "rows": dict(encoded.rows), "metadata": encoded.metadata, "records": encoded.records,
    }  # fmt: skip
    head = dump_json(told)
    body = b"".join([len(head).to_bytes(_HEAD, "little"), head, *map(bytes, encoded.blobs.values())])
    open_objects(place.handle).put(_key(place, run, number), body + crc32c(body).to_bytes(4, "little"))
    return number


def _staged(place: Place, run: str, number: int, *_: Any) -> EncodedBlock:
    """Return a block of the log."""
    data = open_objects(place.handle).get(_key(place, run, number))
    if data is None or len(data) < _HEAD + 4 or crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise FormatError(
            "a block of an unfinished edit is missing or damaged: write the level again, or restore it",
            store=place.handle.url, array=_key(place, run, number),
        )  # fmt: skip
    end = _HEAD + int.from_bytes(data[:_HEAD], "little")
    told = json.loads(data[_HEAD:end])
    blobs: dict[tuple[str, str], Any] = {}
    for array, key, length in told["blobs"]:
        blobs[array, key] = data[end : end + length]
        end += length
    return EncodedBlock(blobs, told["rows"], metadata=told["metadata"], records=told["records"])


def _close(place: Place, record: Record, *_: Any) -> None:
    """Write the record: the log is whole. Raises where another writer was faster."""
    objects, key, data = open_objects(place.handle), join(place.prefix, EDIT_RECORD), record.encode()
    with commit_lock(objects, place.prefix):
        if objects.get(key) != data:  # it is there where this task runs again
            check_as_planned(objects, place.prefix, "", record.token)
            objects.put(key, data)


def add_application(builder: GraphBuilder, place: Place, record: Record, logged: Sequence[TaskRef]) -> Delayed:
    """Add the tasks that close the log, once what was `logged` is there, and apply it; return the graph."""
    closed = builder.add(builder.key("close"), _close, place, record, List(*logged)) if logged else None
    marked = builder.add(builder.key("mark"), _mark, place, closed)
    spec = BlockSpec(place, _grids(place, record))
    blocks = [
        add_block(builder, n, spec, Task(None, _staged, place, record.run, n, marked), [marked]) for n in range(record.blocks)
    ]
    nodes = [
        builder.add(builder.key("replace", i), _replace_node, place, record.run, node, marked)
        for i, node in enumerate(record.nodes)
    ]
    commit = CommitSpec(
        place, record.metadata, record.arrays, catalog=True, remove=(*record.remove, STAGED), gone=record.gone,
        count=record.count, objects=record.objects, grid=spec.grid, marker=EDITING, root=record.root, extends_catalog=True,
        edit=record.run,
    )  # fmt: skip
    return add_commit(builder, commit, blocks, lambda _, __: (nodes, []))


def _mark(place: Place, _: Any) -> None:
    mark(open_objects(place.handle), place.prefix, EDITING)


def _grids(place: Place, record: Record) -> GridPlan:
    """Return the grids of the arrays that the edit changes, which other cells stay in."""
    objects = open_objects(place.handle)
    held = {a: found.spec for a, found in read_grids(objects, place.prefix, record.arrays).items() if found is not None}
    catalog = load_catalog(objects, place.prefix)
    return GridPlan(held, frozenset(held), "" if catalog is None else catalog.token)


def _replace_node(place: Place, run: str, node: str, _: Any) -> None:
    """Put a node of the log in the place of the level's."""
    objects = open_objects(place.handle)
    objects.delete_prefix(join(place.prefix, node))
    if objects.exists(join(shadow(place, run).prefix, node, DOCUMENT)):  # else nothing takes its place
        copy_node(shadow(place, run), place, node)


def _clear_log(place: Place) -> None:
    """Remove what an edit that died has logged."""
    objects = open_objects(place.handle)
    unmark(objects, place.prefix, EDITING)
    objects.delete(join(place.prefix, EDIT_RECORD))  # first: without it nothing is applied
    objects.delete_prefix(join(place.prefix, STAGED))


def finish_edit(place: Place) -> Report | None:
    """Finish an edit that another process has logged and not committed; return its report, None if there was none."""
    if place.handle.is_session:
        return None
    objects = open_objects(place.handle)
    data = objects.get(join(place.prefix, EDIT_RECORD))
    if data is None:
        return None
    record, catalog = Record.decode(data, place), load_catalog(objects, place.prefix)
    if catalog is not None and catalog.token != record.token:  # it was committed, or the level was written since
        _clear_log(place)
        return None
    report: Report = compute_one(add_application(GraphBuilder("zv-finish-edit"), place, record, []))
    return report


def finish_edits(store: StoreContents) -> list[int]:
    """Finish the edits of all levels that other processes have logged and not committed; return the levels that had one."""
    found = []
    for number in store.levels:
        try:
            place = store.level(number).place
        except MetadataError:  # whoever reads the level is told
            continue
        if finish_edit(place) is not None:
            found.append(number)
    if found:
        store.reload()
    return found
