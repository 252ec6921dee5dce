"""Zstandard frames of a known size, unpacked without trust in them."""

from __future__ import annotations

from numcodecs.zstd import Zstd

__all__ = ["unpack_frame"]


def unpack_frame(data: bytes, nbytes: int) -> bytes:
    """Return the content of a Zstandard frame that must hold `nbytes` bytes.

    The size in the frame's header is checked before anything is allocated.

    Raises
    ------
    ValueError
        It is no such frame.
    """
    size = _frame_size(data)
    if size != nbytes:
        raise ValueError(f"its frame says {size} bytes")
    try:
        payload = bytes(Zstd().decode(data))
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    if len(payload) != nbytes:
        raise ValueError(f"it unpacks to {len(payload)} bytes")
    return payload


def _frame_size(data: bytes) -> int | None:
    """Return the content size in a Zstandard frame's header (RFC 8878, 3.1.1.1), None where there is none."""
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = data[4]
    flag, single = descriptor >> 6, (descriptor >> 5) & 1
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    width = (1 if single else 0, 2, 4, 8)[flag]
    if width == 0 or len(data) < start + width:
        return None
    return int.from_bytes(data[start : start + width], "little") + (256 if width == 2 else 0)
