"""File set, file entries and directories as they stand on the disc."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.descriptor import (
    CHARSPEC,
    DOMAIN,
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
    METADATA_SECTOR,
    PARTITION_SECTOR,
    sectors_of,
)
from hsmfs.volume.layout import DirectoryNode, FileNode, Layout, Node
from hsmfs.volume.names import dstring
from hsmfs.volume.sequence import padded

FILE_TYPE_DIRECTORY: Final = 4
FILE_TYPE_FILE: Final = 5
FILE_TYPE_METADATA: Final = 250
FILE_TYPE_MIRROR: Final = 251
_SHORT_AD: Final = 0
_LONG_AD: Final = 1
_CONTIGUOUS: Final = 1 << 9
_IS_DIRECTORY: Final = 2
_IS_PARENT: Final = 8
_NOBODY: Final = 0xFFFFFFFF
_LINKS_MAX: Final = 0xFFFF
_PHYSICAL: Final = 0
_METADATA: Final = 1
_ICB_TAG: Final = struct.Struct("<IHHHBBIHH")
_ENTRY: Final = struct.Struct("<20sIIIHBBIQQ36sI16s32sQII")
_EXTENDED_ENTRY: Final = struct.Struct("<20sIIIHBBIQQQ48sII32s32sQII")
_FID: Final = struct.Struct("<HBB16sH")


def permissions(mode: int) -> int:
    """UDF permissions: 5 bits each for other, group, owner (ECMA 4/14.9.5)."""
    return (mode & 7) | (mode >> 3 & 7) << 5 | (mode >> 6 & 7) << 10


def _special_bits(mode: int) -> int:
    """Set-user-id, set-group-id, sticky: bits 6, 7, 8 of the ICB flags."""
    return (mode >> 11 & 1) << 6 | (mode >> 10 & 1) << 7 | (mode >> 9 & 1) << 8


def _icb_tag(file_type: int, flags: int) -> bytes:
    """Strategy 4, one entry, no parent (ECMA-167 4/14.6)."""
    return _ICB_TAG.pack(0, 4, 0, 1, 0, file_type, 0, 0, flags)


def _file_entry(node: Node, file_type: int, size: int, ads: bytes) -> bytes:
    """Entry of a file or directory (ECMA-167 4/14.9)."""
    entry = node.entry
    flags = _LONG_AD | _CONTIGUOUS | _special_bits(entry.mode)
    times = (entry.atime_ns, entry.mtime_ns, entry.ctime_ns)
    body = _ENTRY.pack(
        _icb_tag(file_type, flags),
        entry.uid & _NOBODY,
        entry.gid & _NOBODY,
        permissions(entry.mode),
        min(node.links, _LINKS_MAX),
        0,
        0,
        0,  # record format, attributes, length
        size,
        sectors_of(size),
        b"".join(map(timestamp, times)),
        1,  # checkpoint
        NO_EXTENT,
        IMPLEMENTATION,
        node.unique_id,
        0,  # length of extended attributes
        len(ads),
    )
    return padded(sealed(TagId.FILE_ENTRY, node.block, body + ads))


def metadata_file_entry(layout: Layout, *, mirror: bool) -> bytes:
    """Entry of the metadata file or of its mirror: one extent.

    An extended one (ECMA-167 4/14.17): libudfread opens no volume without.
    """
    geometry = layout.geometry
    block = geometry.mirror_entry_block if mirror else geometry.metadata_entry_block
    sector = geometry.mirror_sector if mirror else METADATA_SECTOR
    size = geometry.metadata_blocks * SECTOR_BYTES
    ads = extent_ad(size, sector - PARTITION_SECTOR)
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
        timestamp(layout.header.created_ns) * 4,
        1,  # checkpoint
        0,
        NO_EXTENT * 2,  # attributes, streams
        IMPLEMENTATION,
        0,  # unique id
        0,  # length of extended attributes
        len(ads),
    )
    return padded(sealed(TagId.EXTENDED_FILE_ENTRY, block, body + ads))


def _data_extents(node: FileNode) -> Iterator[bytes]:
    block, left = node.sector - PARTITION_SECTOR, node.entry.size
    while left > 0:
        length = min(left, EXTENT_BYTES_MAX)
        yield long_ad(length, block, _PHYSICAL)
        block += EXTENT_BYTES_MAX // SECTOR_BYTES
        left -= length


def _file(node: FileNode) -> bytes:
    return _file_entry(node, FILE_TYPE_FILE, node.entry.size, b"".join(_data_extents(node)))


def _directory(node: DirectoryNode) -> bytes:
    ads = long_ad(node.content_bytes, node.block + 1, _METADATA)
    return _file_entry(node, FILE_TYPE_DIRECTORY, node.content_bytes, ads)


def _identifier(location: int, node: Node, flags: int, coded: bytes, unique_id: int) -> bytes:
    """A file identifier descriptor; 7-Zip wants the CRC over the padding too."""
    icb = long_ad(SECTOR_BYTES, node.block, _METADATA, unique_id & 0xFFFFFFFF)
    body = _FID.pack(1, flags, len(coded), icb, 0) + coded
    return sealed(TagId.FILE_IDENTIFIER, location, body + bytes(-len(body) % 4))


def _content(directory: DirectoryNode) -> bytes:
    above = directory.parent or directory
    first = directory.block + 1
    parts = [_identifier(first, above, _IS_DIRECTORY | _IS_PARENT, b"", above.unique_id)]
    position = len(parts[0])
    for name in directory.names:
        flags = _IS_DIRECTORY if isinstance(name.node, DirectoryNode) else 0
        location = first + position // SECTOR_BYTES
        part = _identifier(location, name.node, flags, name.coded, name.unique_id)
        parts.append(part)
        position += len(part)
    assert position == directory.content_bytes
    return padded(b"".join(parts))


def _file_set(layout: Layout) -> bytes:
    label = layout.header.label
    body = b"".join(
        (
            timestamp(layout.header.created_ns),
            struct.pack("<HHIIII", 3, 3, 1, 1, 0, 0),
            CHARSPEC,
            dstring(label, 128),
            CHARSPEC,
            dstring(label, 32),
            bytes(64),
            long_ad(SECTOR_BYTES, layout.root.block, _METADATA),
            DOMAIN,
            NO_EXTENT * 2,
            bytes(32),
        )
    )
    end = sealed(TagId.TERMINATING, 1, bytes(496))
    return padded(sealed(TagId.FILE_SET, 0, body)) + padded(end)


def metadata_content(layout: Layout) -> Iterator[bytes]:
    """The metadata file's content in whole sectors; main and mirror alike."""
    yield _file_set(layout)
    for directory in layout.directories():
        yield _directory(directory) + _content(directory)
        for node in directory.owned():
            yield _file(node)
    geometry = layout.geometry
    yield bytes((geometry.metadata_blocks - geometry.metadata_used_blocks) * SECTOR_BYTES)
