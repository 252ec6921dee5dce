"""Members of a zip file, unpacked into no more than they may fill."""

from __future__ import annotations

import zipfile
from pathlib import Path

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest

from dask_zv.errors import StoreError

_FREE = 64 << 20
_MOST_RATIO = 64
"""A member has at most `_FREE` bytes and this times what is stored of it."""


class ZipReads:
    """Reads members, for :class:`~dask_zv.storage.zarr_reads.ZarrReads`.

    zarr's own store unpacks all that a member's stream gives, whatever length the zip file says.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)

    async def __call__(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer | None:
        """Return the bytes of a member, or some of them; None where there is none."""
        try:
            member = self._zip.getinfo(key)
        except KeyError:
            return None
        self._check(member)
        start, stop = 0, member.file_size
        match byte_range:
            case RangeByteRequest(start=start, end=end):
                stop = min(end, stop)
            case OffsetByteRequest(offset=start):
                pass
            case SuffixByteRequest(suffix=suffix):
                start = max(0, stop - suffix)
        with self._zip.open(member) as file:
            if start:
                file.seek(start)
            # a length asked for is a bound of what is unpacked
            return prototype.buffer.from_bytes(file.read(stop - start) if stop > start else b"")

    def _check(self, member: zipfile.ZipInfo) -> None:
        name = self._zip.filename
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise StoreError(
                f"'/{member.filename}' in '{name}' is packed in a way that can't be unpacked in bounded memory: make the zip "
                "file with members that are stored or deflated"
            )
        if member.file_size > _FREE + _MOST_RATIO * member.compress_size:
            raise StoreError(
                f"'/{member.filename}' in '{name}' claims {member.file_size:,} bytes, packed into {member.compress_size:,}: it "
                "is damaged, or hostile"
            )
