"""What a write leaves beside its data: the mark that chunks are being replaced, its journal, and the stamp of the last commit.

A replaced cell is whole by itself and, to a reader with the old catalog, looks like another tool's edit. Where a mark lies
beside the arrays, it is not taken for one. A write that died leaves its mark; the next one that replaces the level removes it.
"""

from __future__ import annotations

from dask_zv.errors import FormatError
from dask_zv.format.keys import DOCUMENT, join
from dask_zv.storage.catalog import CATALOG_NAME, catalog_stamp, stamped_document
from dask_zv.storage.handles import open_objects
from dask_zv.storage.objects import Objects
from dask_zv.storage.specs import CommitSpec, Place, normal_path

REPLACING = "dask_zv_replacing-"


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
    if found:
        raise FormatError(
            f"{'the chunk' if chunk else 'the level'} is being replaced, or its writer died before the commit: wait for it, or "
            f"write it again (mode='overwrite', and resume=True where that was given); '/{found[0]}' marks it",
            store=objects.url, array=prefix, chunk=chunk,
        )  # fmt: skip


JOURNAL = "dask_zv_journal"
"""Name of the array, in a level, that keeps the receipts of an unfinished write."""


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
