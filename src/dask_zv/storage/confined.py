"""Keys that stay below the root of their store, whatever the documents say that they were made of."""

from __future__ import annotations

from dask_zv.errors import InvalidNameError


def confined(key: str) -> str:
    """Return `key`, if it names something below the store's root.

    Names are checked where documents are decoded; this is the last check, at the seam to the bytes, for all of them.

    Raises
    ------
    InvalidNameError
        It is absolute, has a ``..`` segment or a NUL character, or can't be encoded as UTF-8.
    """
    if ".." in key or "\0" in key or key[:1] == "/" or not key.isascii():
        _check(key)
    return key


def _check(key: str) -> None:
    if key.startswith("/") or ".." in key.replace("\\", "/").split("/"):
        raise InvalidNameError(
            f"the key {key!r:.200} leads out of the store: the name that it was made of is damaged, or hostile"
        )
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise InvalidNameError(f"the key {key!r:.200} can't be encoded as UTF-8") from error
    if "\0" in key:
        raise InvalidNameError(f"the key {key!r:.200} has a NUL character")
