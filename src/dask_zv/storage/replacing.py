"""Marks of writes that replace chunks in place: until the commit a level may be half old, half new.

A replaced cell is whole by itself and, to a reader with the old catalog, looks like another tool's edit. Where a mark lies
beside the arrays, it is not taken for one. A write that died leaves its mark; the next one that replaces the level removes it.
"""

from __future__ import annotations

from dask_zv.errors import FormatError
from dask_zv.storage.objects import Objects, join

REPLACING = "dask_zv_replacing-"


def mark(objects: Objects, prefix: str, name: str) -> None:
    """Say that chunks of the group at `prefix` are about to change."""
    objects.put(join(prefix, REPLACING + name), b"chunks beside this are being replaced; it goes with the commit")


def _marks(objects: Objects, prefix: str) -> list[str]:
    return [join(prefix, name) for name in objects.list_dir(prefix) if name.startswith(REPLACING)]


def unmark(objects: Objects, prefix: str, name: str | None) -> None:
    """Remove one mark, all where None."""
    objects.delete_many(_marks(objects, prefix) if name is None else [join(prefix, REPLACING + name)])


def check_not_replaced(objects: Objects, prefix: str, chunk: str | None = None) -> None:
    """Raise where chunks of a group that are not those of its last commit are a write's that did not reach its own.

    Raises
    ------
    FormatError
        Some are.
    """
    found = _marks(objects, prefix)
    if found:
        raise FormatError(
            f"{'the chunk' if chunk else 'the level'} is being replaced, or its writer died before the commit: wait for it, or "
            f"write it again (mode='overwrite', and resume=True where that was given); '/{found[0]}' marks it",
            store=objects.url, array=prefix, chunk=chunk,
        )  # fmt: skip
