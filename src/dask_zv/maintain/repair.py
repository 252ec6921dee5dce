"""Repairing a store by the findings about it: from a copy, by counting anew, by dropping what is lost if that is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dask_zv.errors import FormatError, InputError, MetadataError, ReadOnlyError, StoreError
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.graph.run import check_reachable
from dask_zv.level.contents import StoreContents, contents_of
from dask_zv.maintain.edit_log import finish_edits
from dask_zv.maintain.repair_copy import Copy, copy_document
from dask_zv.maintain.repair_steps import OpenedAgain, Repairs
from dask_zv.maintain.validate import as_stored, has_no_root, validate
from dask_zv.maintain.validation import OTHER_GRID, Finding, Validation
from dask_zv.storage.handles import open_objects
from dask_zv.storage.targets import resolve_target

_ROUNDS = 12


def repair(
    store: object,
    findings: Validation | Sequence[Finding] | None = None,
    *,
    source: object = None,
    drop_lost: bool = False,
) -> Validation:
    """Repair a store by what :func:`validate` found, and validate it again.

    Lists of chunks, catalogs, counts, bounds, the list of levels and the small tables of dask-zv are made again from what is
    stored. Chunks, tables and documents that are lost or damaged are written again from `source`. What neither has is dropped
    only with `drop_lost`. The store is validated after each step, because a document that is there again may show more.

    Parameters
    ----------
    store : Store, or a target as for :func:`open`
        Writable; nobody else should write to it meanwhile.
    findings : Validation or sequence of Finding, optional
        What to repair; None validates the store first. Findings that are left out of the sequence are not repaired.
    source : Store, or a target as for :func:`open`, optional
        A copy of the store: of the same generation and chunks, packed in any way.
    drop_lost : bool
        Drop what can't be had: chunks with all of their vertices, their entries in manifests, links to them, tables and
        attributes that can't be read, members of groups that are no objects. What can be read stays: a vertex outside of the
        box of its chunk is found, and not dropped.

    Returns
    -------
    Validation
        What is found afterwards; `done` says what was done, and names everything that was dropped.

    Raises
    ------
    InputError
        `source` is no copy of the store: its chunks are others. Or the store is in an Icechunk session, whose repository has
        every earlier snapshot: open one of these.
    ReadOnlyError
        The store was opened for reading.

    Examples
    --------
    >>> import dask_zv as dzv
    >>> store = dzv.create({}, chunk_shape=(10, 10), bounds=((0, 0), (99, 99)))
    >>> _ = dzv.write_points(store, [[1.0, 2.0], [3.0, 14.0]])
    >>> dzv.repair(store, dzv.validate(store))
    <dask_zv.Validation ok: no findings; 2 chunks, 2 vertices>
    """
    copy = None if source is None else Copy(as_stored(source))
    done: list[str] = []
    try:
        contents = _opened(store, copy, done)
    except (MetadataError, FormatError, StoreError) as error:
        if isinstance(error, StoreError) and not has_no_root(store):
            raise
        return validate(store)  # without its root nothing can be told of a store, nor repaired
    if copy is not None:
        contents = _with_the_grid_of(copy, contents, done)
        copy.check_alike(contents)
    done += [f"level {number}: finished a deletion that was interrupted" for number in finish_edits(contents)]
    target = _Target(contents)
    wanted = validate(target.again()) if findings is None or done else findings
    listed = tuple(wanted.findings if isinstance(wanted, Validation) else wanted)
    rules = None if findings is None or isinstance(findings, Validation) else {f.rule for f in listed}
    tried: set[Any] = set()
    gone: set[tuple[int, str]] = set()
    result = wanted if isinstance(wanted, Validation) else Validation(contents.url, listed)
    for _ in range(_ROUNDS):
        job = Repairs(target.again(), result.findings, copy, drop_lost, tried, gone)
        told = job.first_step(rules)
        if told is None:
            break
        done += told
        result = validate(target.again())
    else:
        result = validate(target.again())
    if not done:
        result = validate(target.again())
    given = contents_of(store)
    if given is not None:
        given.reload()
    return dataclasses.replace(result, done=tuple(done))


@dataclass(slots=True)
class _Target:
    """The store that is repaired, to be opened anew after each step."""

    contents: StoreContents

    def as_it_is(self) -> StoreContents:
        """Return the contents as they are now, looked at as if there were no catalogs."""
        found = StoreContents.reopened(self.contents.handle, self.contents.prefix)
        found.believes_catalogs = False
        return found

    def again(self) -> Any:
        """Return the same in the form in which functions take a store."""
        return OpenedAgain(self.as_it_is())


def _with_the_grid_of(copy: Copy, contents: StoreContents, done: list[str]) -> StoreContents:
    """Return the contents, with the root's document of the copy where the chunk shape of that alone fits the chunks."""
    if contents.metadata.chunk_shape == copy.contents.metadata.chunk_shape or not _of_another_grid(contents):
        return contents
    objects, path = open_objects(contents.handle), join(contents.prefix, DOCUMENT)
    before = objects.get(path)
    told = copy_document(copy, objects, contents.prefix, None)
    now = _Target(contents).as_it_is()
    if before is not None and _of_another_grid(now):
        objects.put(path, before)
        return contents
    done += told
    return now


def _of_another_grid(contents: StoreContents) -> bool:
    """Return True if most vertices of a level lie outside of their chunks."""
    return any(OTHER_GRID in f.message for f in validate(_Target(contents).again()).findings)


def _opened(store: object, copy: Copy | None, done: list[str]) -> StoreContents:
    """Return the contents of a writable store; a root that can't be read is first copied."""
    try:
        contents = as_stored(store, "r+")
    except (MetadataError, FormatError, StoreError) as error:
        if copy is None or (isinstance(error, StoreError) and not has_no_root(store)):
            raise
        given = contents_of(store)
        handle, prefix = resolve_target(store, None, read_only=False) if given is None else (given.handle, given.prefix)
        done += copy_document(copy, open_objects(handle), prefix, None)
        contents = as_stored(store, "r+")
    if contents.read_only:
        raise ReadOnlyError("the store was opened for reading: open it with mode='r+'", store=contents.url)
    if contents.handle.is_session:
        raise InputError(
            "a store in an Icechunk session is not repaired: its repository has all earlier snapshots, open one of these",
            store=contents.url,
        )
    check_reachable(contents.handle)
    return contents
