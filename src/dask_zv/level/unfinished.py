"""Whether an interrupted write lies in a level: what reprs, errors and the next write say of it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from dask_zv.errors import FormatError, ZVError, ZVWarning
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.geometry.schema import VERTICES
from dask_zv.level.contents import LevelContents
from dask_zv.storage.handles import open_objects
from dask_zv.storage.nodes import SETTINGS, load_catalog
from dask_zv.storage.specs import (
    APPENDING,
    EDIT_RECORD,
    FINISH_EDIT,
    JOURNAL,
    REPLACING,
    STAGED,
    Place,
    journal_key,
    written_stamp,
)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A write that did not reach its commit, or not yet; `blocks` is 0 where it keeps no receipts."""

    stored: int = 0
    blocks: int = 0
    appends: bool = False  # to what the level had; it is complete, and was being put in its place
    deletes: bool = False  # what is logged as a whole, and was about to be put in its place

    @property
    def advice(self) -> str:
        """What to do about it."""
        if self.deletes:
            return FINISH_EDIT
        if self.appends:
            return "the next write completes it"
        return "the same write again finishes it" if self.blocks else "run the rest of its plan, or write the level again"

    def __str__(self) -> str:
        if self.deletes:
            return "a deletion was interrupted, or is under way"
        count = f": {self.stored:,} of {self.blocks:,} blocks stored" if self.blocks else ""
        return f"a write is under way or was interrupted{count}"


def unfinished_write(level: LevelContents, names: Sequence[str] | None = None) -> Unfinished | None:
    """Return the write that lies in a level without a commit, None where there is none; some small objects.

    `names` are those directly below the level; listed where None.
    """
    objects, prefix = open_objects(level.place.handle), level.place.prefix
    if level.place.handle.is_session:  # a transaction shows all of a write, or nothing
        return None
    names = objects.list_dir(prefix) if names is None else names
    document = objects.get(journal_key(prefix)) if JOURNAL in names else None
    if document is not None:
        try:
            told = json.loads(document)["attributes"]
            write, blocks = told["write"], len(told["block_starts"])
        except (ValueError, TypeError, KeyError):  # who resumes is told; here it only says that a write was begun
            return Unfinished()
        if written_stamp(level.place) != write:  # else it died after its commit, before it had removed its receipts
            return Unfinished(min(blocks, len(objects.list_dir(join(prefix, JOURNAL, "c")))), blocks)
    ours = SETTINGS in level._attributes  # other tools may never count
    chunks = ours and not level.metadata.vertex_count and VERTICES in names
    if STAGED in names and interrupted_edit(level.place):
        return Unfinished(deletes=True)
    if REPLACING + APPENDING in names:
        return Unfinished(appends=True)
    if any(n.startswith(REPLACING) for n in names) or (chunks and not objects.exists(join(prefix, VERTICES, DOCUMENT))):
        return Unfinished()
    return None


def interrupted_edit(place: Place) -> bool:
    """Return True if a deletion is logged in a level and did not reach its commit, or not yet; a small object or two."""
    objects = open_objects(place.handle)
    data = None if place.handle.is_session else objects.get(join(place.prefix, EDIT_RECORD))
    if data is None:
        return False
    catalog = load_catalog(objects, place.prefix)
    try:
        token = json.loads(data)["token"]
    except (ValueError, TypeError, KeyError):  # who finishes it is told
        return True
    return catalog is None or catalog.token == token  # else only its log is left


def check_not_edited(level: LevelContents) -> None:
    """Raise :class:`FormatError` where a deletion from the level was interrupted, before anything is made of half of it."""
    if interrupted_edit(level.place):
        raise FormatError(f"a deletion was interrupted: {FINISH_EDIT} (or it is under way: wait for it)", store=level.url)


def warn_of_unfinished(level: LevelContents, *, stacklevel: int) -> None:
    """Warn of a write to a level of ours that has not ended, and because of which it may be empty; a listing more."""
    if SETTINGS not in level._attributes:
        return
    try:
        empty = not len(level.chunks)
    except ZVError as error:  # documents that such a write has not stored yet, perhaps
        if (found := unfinished_write(level)) is not None:
            error.add_note(f"{found}; {found.advice}")
        raise
    if (found := unfinished_write(level)) is not None:
        told = f"{'the level is empty: ' if empty else ''}{found}; {found.advice} [{level.url}]"
        warnings.warn(told, ZVWarning, stacklevel=stacklevel + 1)
