"""Coarser levels that were made from other data than a finer level now has: the mark, and what readers say of it."""

from __future__ import annotations

import warnings
from typing import Any

from dask_zv.errors import ZVWarning
from dask_zv.format.keys import join
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.storage.handles import open_objects
from dask_zv.storage.nodes import update_attributes

STALE = "dask_zv_stale"
"""Attribute of a level's group: True where a finer level has changed since the level was made."""


def stale_marks(store: StoreContents, level: int) -> list[tuple[str, dict[str, Any]]]:
    """Return (path from the root, attributes) that mark all levels coarser than `level`, as they are listed now.

    For a commit that stores them with its own metadata: the change and the marks are then one step.
    """
    store.__dict__.pop("levels", None)  # another process may have built some since
    return [(str(n), {STALE: True}) for n in store.levels if n > level]


def mark_stale(store: StoreContents, level: int) -> None:
    """Mark all levels coarser than `level` as made from other data.

    Called by whatever has changed the vertices, attributes or objects of `level`, at its end and without a lock of the level or
    the root: each mark takes that of its own level. Without coarser levels it costs a listing.
    """
    for path, attributes in stale_marks(store, level):
        update_attributes(open_objects(store.handle), join(store.prefix, path), attributes)
        store._levels.pop(int(path), None)


def is_stale(level: LevelContents) -> bool:
    """Return True if a finer level has changed since the level was made."""
    return level._attributes.get(STALE) is True


def stale_message(level: LevelContents) -> str | None:
    """Return what readers are told of a stale level, None for another."""
    if not is_stale(level):
        return None
    return (
        f"level {level.number} was made before a finer level changed, and shows the data as they were: "
        f"dzv.build_pyramid(store, update=True) makes it anew [{level.url}]"
    )


def warn_of_stale(level: LevelContents, *, stacklevel: int) -> None:
    """Warn if the level is stale."""
    if (message := stale_message(level)) is not None:
        warnings.warn(message, ZVWarning, stacklevel=stacklevel + 1)
