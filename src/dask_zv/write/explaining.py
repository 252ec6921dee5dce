"""What a user is told of a failure that is no error of the library's: of a scheduler, of workers that died, of the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from dask_zv.errors import ZVError
from dask_zv.level.contents import LevelContents


@contextmanager
def _noted(text: str) -> Iterator[None]:
    """Add a note to errors, which know neither the store nor a way on; the library's own know both."""
    try:
        yield
    except ZVError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        error.add_note(text)
        raise


def not_begun(level: LevelContents) -> AbstractContextManager[None]:
    """Say of errors inside that the call had stored nothing yet."""
    return _noted(f"the write to {level.url} had stored nothing yet: make the same call again (resume=True does no harm)")


def not_ended(level: LevelContents, *, journal: bool) -> AbstractContextManager[None]:
    """Say of errors inside how the write is finished."""
    if level.place.handle.is_session:
        return _noted(f"nothing of the write to {level.url} is in the Icechunk session: the same call can be made again")
    again = "resume=True, which keeps the blocks that are stored" if journal else "mode='overwrite'"
    return _noted(f"the write to {level.url} did not come to its end: the same call finishes it with {again}")
