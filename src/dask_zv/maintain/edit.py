"""What all edits of a level share: what is checked first, what the commit says of it, and how the graph runs.

An edit stores what it changes, and one commit makes it visible: the documents of the arrays, the catalog, the attributes of the
level and of the root, and the marks of coarser levels, which now show other data.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dask.delayed import Delayed

from dask_zv.errors import ReadOnlyError
from dask_zv.format.levels import LevelMetadata
from dask_zv.graph.report import Report, finish_write
from dask_zv.graph.run import check_writable, compute_one
from dask_zv.level.contents import LevelContents, StoreContents, opened_contents
from dask_zv.level.stale import stale_marks
from dask_zv.maintain.edit_log import finish_edit
from dask_zv.maintain.refresh import refresh
from dask_zv.storage.handles import open_objects
from dask_zv.storage.icechunk.session import undone_on_failure
from dask_zv.storage.nodes import SETTINGS, load_catalog
from dask_zv.storage.specs import CommitSpec, end_edit
from dask_zv.write.job import finished
from dask_zv.write.planning import merge_specs
from dask_zv.write.running import complete_waiting

Specs = Mapping[str, Mapping[str, Any]]
"""What the root says of attributes, by name; an empty mapping takes away what it said."""


def level_to_edit(store: object, level: int) -> LevelContents:
    """Return a level of a store that can be written to, as it is now; an edit that died in its commit is finished first."""
    return finished_level(store, level)[0]


def finished_level(store: object, level: int) -> tuple[LevelContents, Report | None]:
    """Return a level as :func:`level_to_edit` does, and the report of the edit that was finished, if one was."""
    contents = opened_contents(store, "r+")
    if contents.read_only:
        raise ReadOnlyError("the store was opened read-only: dzv.open(..., mode='r+')", store=contents.url)
    check_writable(contents.handle)
    contents.reload()
    if complete_waiting(contents.level(level)):  # an append died while it put its rows in place
        contents.reload()
    done = finish_edit(contents.level(level).place)
    if done is not None:
        contents.reload()
        if not contents.level(level).source.catalogued:  # it died between the documents and the catalog that knows them
            refresh(store)
            contents.reload()
    return contents.level(level), done


def edited(
    commit: CommitSpec, level: LevelContents, edit: str, specs: Mapping[str, Specs] | None = None, **facts: Any
) -> CommitSpec:
    """Return a commit that also says what is new of the level, of the root, and of coarser levels.

    It is made by the `edit` of this name, and of the level as it is in `level` alone.

    `facts` are fields of the level's metadata; `specs` what the root says of attributes that changed, by scope and name.
    """
    store = level.store
    metadata = [*commit.metadata]
    if facts:
        told: LevelMetadata = replace(level.metadata, **facts)
        if told != level.metadata:
            metadata.append(("", told.to_attributes()))
    extra = {**store.metadata.extra}
    before = extra.pop("attribute_specs", {})
    merged = merge_specs(before, specs or {})
    if merged != before:
        if merged:
            extra["attribute_specs"] = merged
        metadata.append(("..", replace(store.metadata, extra=extra).to_attributes()))
    metadata += [(f"../{path}", attributes) for path, attributes in stale_marks(store, level.number)]
    known = {**store.metadata.to_attributes(), SETTINGS: dict(store.settings)}
    return replace(commit, metadata=tuple(metadata), root=known, edit=edit, planned=_token(level))


def _token(level: LevelContents) -> str:
    """Return the token of the catalog that a level has, empty where it has none."""
    if level.source.catalogued:
        return level.source.token
    catalog = load_catalog(open_objects(level.place.handle), level.place.prefix)  # one that another tool's edit has made old
    return "" if catalog is None else catalog.token


def with_arrays(present: tuple[str, ...], family: str, *, there: bool) -> tuple[str, ...]:
    """Return a level's ``arrays_present`` where a family of arrays is there now, or no more."""
    return tuple(dict.fromkeys((*present, family))) if there else tuple(a for a in present if a != family)


def run_edit(
    store: StoreContents, delayed: Delayed, *, compute: bool, progress: bool | None = None, commit: CommitSpec | None = None
) -> Report | Delayed:
    """Run an edit on the active scheduler and return its report; without `compute`, return it as it is."""
    if not compute:
        return delayed
    started = time.perf_counter()
    try:
        with undone_on_failure(store.handle):
            report = finish_write(store.handle, compute_one(delayed, progress=progress))
    except BaseException:
        if commit is not None:
            end_edit(open_objects(store.handle), commit.place.prefix, commit.edit)
        raise
    store.reload()
    return finished(report, started)
