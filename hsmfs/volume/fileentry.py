"""File entries: of files, directories, the metadata file and its mirror."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.descriptor import (
    IMPLEMENTATION,
    NO_EXTENT,
    TagId,
    extent_ad,
    long_ad,
    sealed,
    timestamp,
)
from hsmfs.volume.geometry import (
    EXTENT_BYTES_MAX,
    METADATA_EXTENT_BLOCKS,
    METADATA_SECTOR,
    PARTITION_SECTOR,
    Geometry,
    sectors_of,
)
from hsmfs.volume.sequence import padded
from hsmfs.volume.source import FileSource

FILE_TYPE_DIRECTORY: Final = 4
FILE_TYPE_FILE: Final = 5
FILE_TYPE_METADATA: Final = 250
FILE_TYPE_MIRROR: Final = 251
_SHORT_AD: Final = 0
_LONG_AD: Final = 1
_CONTIGUOUS: Final = 1 << 9
_NOBODY: Final = 0xFFFFFFFF
_LINKS_MAX: Final = 0xFFFF
_PHYSICAL: Final = 0
_ICB_TAG: Final = struct.Struct("<IHHHBBIHH")
_ENTRY: Final = struct.Struct("<20sIIIHBBIQQ36sI16s32sQII")
_EXTENDED_ENTRY: Final = struct.Struct("<20sIIIHBBIQQQ48sII32s32sQII")


def permissions(mode: int) -> int:
    """UDF permissions: 5 bits each for other, group, owner (ECMA 4/14.9.5)."""
    return (mode & 7) | (mode >> 3 & 7) << 5 | (mode >> 6 & 7) << 10


def _special_bits(mode: int) -> int:
    """Set-user-id, set-group-id, sticky: bits 6, 7, 8 of the ICB flags."""
    return (mode >> 11 & 1) << 6 | (mode >> 10 & 1) << 7 | (mode >> 9 & 1) << 8


def _icb_tag(file_type: int, flags: int) -> bytes:
    """Strategy 4, one entry, no parent (ECMA-167 4/14.6)."""
    return _ICB_TAG.pack(0, 4, 0, 1, 0, file_type, 0, 0, flags)


class Node(NamedTuple):
    """What has a file entry on the disc."""

    entry: FileSource
    unique_id: int
    block: int
    """In metadata."""
    links: int = 1


@lru_cache(maxsize=1024)
def _of_mode(file_type: int, mode: int) -> tuple[bytes, int]:
    """ICB tag and permissions: few modes are used again and again."""
    flags = _LONG_AD | _CONTIGUOUS | _special_bits(mode)
    return _icb_tag(file_type, flags), permissions(mode)


def file_entry(node: Node, file_type: int, size: int, ads: bytes) -> bytes:
    """Entry of a file or directory (ECMA-167 4/14.9)."""
    entry = node.entry
    icb_tag, allowed = _of_mode(file_type, entry.mode)
    body = _ENTRY.pack(
        icb_tag,
        entry.uid & _NOBODY,
        entry.gid & _NOBODY,
        allowed,
        min(node.links, _LINKS_MAX),
        0,
        0,
        0,  # record format, attributes, length
        size,
        sectors_of(size),
        timestamp(entry.atime_ns) + timestamp(entry.mtime_ns) + timestamp(entry.ctime_ns),
        1,  # checkpoint
        NO_EXTENT,
        IMPLEMENTATION,
        node.unique_id,
        0,  # length of extended attributes
        len(ads),
    )
    return sealed(TagId.FILE_ENTRY, node.block, body + ads)


def metadata_file_entry(geometry: Geometry, created_ns: int, *, mirror: bool) -> bytes:
    """Entry of the metadata file or of its mirror; its extents follow one another, so
    that readers which take only the first one's start find everything.

    An extended one (ECMA-167 4/14.17): libudfread opens no volume without.
    """
    block = geometry.mirror_entry_block if mirror else geometry.metadata_entry_block
    sector = geometry.mirror_sector if mirror else METADATA_SECTOR
    size = geometry.metadata_blocks * SECTOR_BYTES
    first = sector - PARTITION_SECTOR
    ads = b"".join(
        extent_ad(blocks * SECTOR_BYTES, first + number * METADATA_EXTENT_BLOCKS)
        for number, blocks in enumerate(geometry.metadata_extents)
    )
    body = _EXTENDED_ENTRY.pack(
        _icb_tag(FILE_TYPE_MIRROR if mirror else FILE_TYPE_METADATA, _SHORT_AD | _CONTIGUOUS),
        _NOBODY,
        _NOBODY,
        0,  # permissions
        0,  # links: it is in no directory
        0,
        0,
        0,  # record format, attributes, length
        size,
        size,  # of all streams
        geometry.metadata_blocks,
        timestamp(created_ns) * 4,
        1,  # checkpoint
        0,
        NO_EXTENT * 2,  # attributes, streams
        IMPLEMENTATION,
        0,  # unique id
        0,  # length of extended attributes
        len(ads),
    )
    return padded(sealed(TagId.EXTENDED_FILE_ENTRY, block, body + ads))


def _data_extents(sector: int, size: int) -> Iterator[bytes]:
    block, left = sector - PARTITION_SECTOR, size
    while left > 0:
        length = min(left, EXTENT_BYTES_MAX)
        yield long_ad(length, block, _PHYSICAL)
        block += EXTENT_BYTES_MAX // SECTOR_BYTES
        left -= length


def file_with_data(node: Node, sector: int) -> bytes:
    """Entry of a file whose data starts at that sector."""
    size = node.entry.size
    if 0 < size <= EXTENT_BYTES_MAX:
        ads = long_ad(size, sector - PARTITION_SECTOR, _PHYSICAL)
    else:
        ads = b"".join(_data_extents(sector, size))
    return file_entry(node, FILE_TYPE_FILE, size, ads)
