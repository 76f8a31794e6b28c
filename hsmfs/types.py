"""Typed identities and the plain values that every part shares."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NewType

import msgspec

Inode = NewType("Inode", int)
DataVersion = NewType("DataVersion", int)
VolumeLabel = NewType("VolumeLabel", str)
Barcode = NewType("Barcode", str)
ElementAddress = NewType("ElementAddress", int)
DriveName = NewType("DriveName", str)
MagazineName = NewType("MagazineName", str)
PoolName = NewType("PoolName", str)

ROOT_INODE: Final = Inode(1)
SECTOR_BYTES: Final = 2048
"""Size of a logical sector of a BD disc (MMC-6), and of a block of the volume (UDF 2.50
section 2.2.4.2)."""
CHUNK_BYTES: Final = 4 * 1024 * 1024
"""Files are hashed, read back and served in chunks of this size."""


class Residency(IntEnum):
    """Where a file's data is; the numbers are stored in inode records."""

    RESIDENT = 0
    PREMIGRATED = 1
    MIGRATED = 2
    RECALLING = 3

    @property
    def word(self) -> str:
        """The state's name as users see it."""
        return self.name.lower()


class FileVersion(msgspec.Struct, frozen=True, array_like=True):
    """One version of one file's data: the guard of every change by hsmd."""

    ino: int
    data_version: int


class ByteRange(msgspec.Struct, frozen=True, array_like=True):
    """A half-open range of bytes in a file: ``[start, stop)``."""

    start: int
    stop: int
