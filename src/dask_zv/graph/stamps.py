"""What a write leaves beside its data: the journal until its commit, and a stamp that says which write the last commit was."""

from __future__ import annotations

from dask_zv.format.keys import DOCUMENT
from dask_zv.graph.specs import Place
from dask_zv.storage.catalog import CATALOG_NAME, catalog_stamp, stamped_document
from dask_zv.storage.handles import open_objects
from dask_zv.storage.objects import Objects, join

JOURNAL = "dask_zv_journal"
"""Name of the array, in a level, that keeps the receipts of an unfinished write."""


def written_stamp(place: Place) -> str | None:
    """Return the stamp of a group's last commit, None where that left none.

    Raises
    ------
    MetadataError, FormatError
        The catalog's document can't be read.
    """
    objects, path = open_objects(place.handle), join(place.prefix, CATALOG_NAME)
    data = objects.get(f"{path}/{DOCUMENT}")
    if data is None:
        return None
    return catalog_stamp(data, path, objects.url)


def leave_stamp(objects: Objects, prefix: str, stamp: str) -> None:
    """Say which write a group's commit was of: the last step but the end of its journal, for whoever finds it is done."""
    key = join(prefix, CATALOG_NAME, DOCUMENT)
    data = objects.get(key) if stamp else None
    if data is not None:
        objects.put(key, stamped_document(data, stamp, join(prefix, CATALOG_NAME), objects.url))


def journal_key(prefix: str) -> str:
    """Return the key of the journal's document."""
    return join(prefix, JOURNAL, DOCUMENT)


def drop_journal(objects: Objects, prefix: str, seen: Objects) -> None:
    """Remove a group's journal, if `seen` (the same store, or what was fetched of it) has one."""
    if seen.get(journal_key(prefix)) is not None:
        objects.delete_prefix(join(prefix, JOURNAL, "c"))  # the document last: where this ends in the middle, it tells the next
        objects.delete_prefix(join(prefix, JOURNAL))
