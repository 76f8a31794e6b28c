"""Descriptors from bytes that may be anything; MediumError names the place."""

from __future__ import annotations

import struct
from binascii import crc_hqx
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.descriptor import TAG_BYTES, TagId, parse_timestamp_ns
from hsmfs.volume.names import decode_cs0, parse_dstring
from hsmfs.volume.sequence import METADATA_MAP

_TAG: Final = struct.Struct("<HHBBHHHI")
FILE_ENTRIES: Final = frozenset({TagId.FILE_ENTRY, TagId.EXTENDED_FILE_ENTRY})
_ENTRY: Final = struct.Struct("<11xB6xHIIIH6xQ8x12s12s12s52xQII")
_EXTENDED_ENTRY: Final = struct.Struct("<11xB6xHIIIH6xQ16x12s12s12x12s72xQII")
_FID: Final = struct.Struct("<16sHBBIIH6sH")
NAME_BYTES_MIN: Final = 40
"""The shortest record of a directory."""
_TYPE_BITS: Final = 0xC0000000
_REVISIONS: Final = range(0x0250, 0x0261)
_REVISION_201: Final = 0x0201


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes at a block of a partition reference."""

    length: int
    block: int
    partition: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A file entry."""

    file_type: int
    mode: int
    uid: int
    gid: int
    links: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    unique_id: int
    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class Identifier:
    """One name in a directory."""

    name: str
    is_directory: bool
    block: int


@dataclass(frozen=True, slots=True)
class Logical:
    """What the logical volume descriptor says."""

    label: str
    file_set: Extent
    metadata_entry_block: int
    mirror_entry_block: int
    has_metadata_partition: bool = True
    """Else file entries are in the partition itself (UDF 2.01)."""


def tag_of(data: bytes, location: int, expected: Collection[int], where: str) -> int:
    """The tag's identifier, after checksum, CRC and location are proved."""
    if len(data) < TAG_BYTES:
        raise MediumError(f"{where}: found {len(data)} bytes, expected a descriptor")
    ident, _, checksum, _, _, crc, length, found = _TAG.unpack_from(data)
    total = (sum(data[:4]) + sum(data[5:TAG_BYTES])) & 0xFF
    if ident not in expected or checksum != total:
        raise MediumError(f"{where}: found tag {ident}, expected {sorted(expected)}, or damaged")
    if found != location:
        raise MediumError(f"{where}: tag says location {found}, expected {location}")
    if TAG_BYTES + length > len(data) or crc_hqx(data[TAG_BYTES : TAG_BYTES + length], 0) != crc:
        raise MediumError(f"{where}: CRC of descriptor {ident} does not match")
    return int(ident)


def parse_anchor(data: bytes) -> list[tuple[int, int]]:
    """Sector and length in sectors of main and reserve sequence."""
    main_bytes, main, reserve_bytes, reserve = struct.unpack_from("<IIII", data, 16)
    return [(main, main_bytes // SECTOR_BYTES), (reserve, reserve_bytes // SECTOR_BYTES)]


def parse_partition(data: bytes) -> tuple[int, int]:
    """First sector and length of the partition."""
    start, length = struct.unpack_from("<II", data, 188)
    return start, length


def parse_logical(data: bytes, where: str) -> Logical:
    """Label, file set, and the metadata partition's map."""
    (block_bytes,) = struct.unpack_from("<I", data, 212)
    (revision,) = struct.unpack_from("<H", data, 216 + 24)
    length, block, partition = struct.unpack_from("<IIH", data, 248)
    plain = revision == _REVISION_201
    if block_bytes != SECTOR_BYTES or not (plain or revision in _REVISIONS):
        raise MediumError(
            f"{where}: found UDF {revision:#06x} with blocks of {block_bytes}, "
            f"expected 0x0201 or 0x0250 with {SECTOR_BYTES}"
        )
    entry, mirror = (0, 0) if plain else _metadata_places(data, where)
    label = parse_dstring(data[84:212], where)
    return Logical(label, Extent(length, block, partition), entry, mirror, not plain)


def _metadata_places(data: bytes, where: str) -> tuple[int, int]:
    table_bytes, _ = struct.unpack_from("<II", data, 264)
    position, stop = 440, min(440 + table_bytes, SECTOR_BYTES)
    while position + 2 <= stop:
        kind, size = data[position], data[position + 1]
        if kind == 2 and size == 64 and data[position + 5 :].startswith(METADATA_MAP):
            entry, mirror = struct.unpack_from("<II", data, position + 40)
            return entry, mirror
        if size < 2:
            break
        position += size
    raise MediumError(f"{where}: found no metadata partition, expected one (UDF 2.50)")


def parse_file_set(data: bytes) -> Extent:
    """Where the root directory's entry is."""
    return Extent(*struct.unpack_from("<IIH", data, 400))


def _mode(permissions: int, flags: int) -> int:
    bits = (permissions & 7) | (permissions >> 5 & 7) << 3 | (permissions >> 10 & 7) << 6
    return bits | (flags >> 6 & 1) << 11 | (flags >> 7 & 1) << 10 | (flags >> 8 & 1) << 9


def parse_entry(data: bytes, where: str) -> Entry:
    """A file entry, plain or extended, whose tag was proved."""
    plain = int.from_bytes(data[:2], "little") == TagId.FILE_ENTRY
    layout = _ENTRY if plain else _EXTENDED_ENTRY
    fields = layout.unpack_from(data, TAG_BYTES)
    file_type, flags, uid, gid, permissions, links, size = fields[:7]
    unique_id, ea_bytes, ad_bytes = fields[10:]
    start = TAG_BYTES + layout.size + ea_bytes
    if start + ad_bytes > len(data):
        raise MediumError(f"{where}: file entry: its extents reach past the sector")
    extents = tuple(_extents(data[start : start + ad_bytes], flags & 7, where))
    if sum(extent.length for extent in extents) < size:
        raise MediumError(f"{where}: file entry: extents hold less than its {size} bytes")
    return Entry(
        file_type=file_type,
        mode=_mode(permissions, flags),
        uid=uid,
        gid=gid,
        links=links,
        size=size,
        atime_ns=parse_timestamp_ns(fields[7]),
        mtime_ns=parse_timestamp_ns(fields[8]),
        ctime_ns=parse_timestamp_ns(fields[9]),
        unique_id=unique_id,
        extents=extents,
    )


def _extents(data: bytes, kind: int, where: str) -> Iterator[Extent]:
    if kind not in (0, 1):
        raise MediumError(f"{where}: file entry: found extents of type {kind}, expected 0 or 1")
    size = 8 if kind == 0 else 16
    for position in range(0, len(data) - size + 1, size):
        length, block = struct.unpack_from("<II", data, position)
        partition = struct.unpack_from("<H", data, position + 8)[0] if kind == 1 else 0
        if length & _TYPE_BITS:
            raise MediumError(f"{where}: file entry: found an extent that is not recorded")
        if length == 0:
            return
        yield Extent(length, block, partition)


def parse_directory(data: bytes, first_block: int, where: str) -> Iterator[Identifier]:
    """The names of a directory's content."""
    position = 0
    while position < len(data):
        here = f"{where} + {position}: file identifier"
        if position + _FID.size > len(data):
            raise MediumError(f"{here}: is cut off")
        fields = _FID.unpack_from(data, position)
        flags, name_bytes, block, use_bytes = fields[2], fields[3], fields[5], fields[8]
        size = (_FID.size + use_bytes + name_bytes + 3) & ~3
        if position + size > len(data):
            raise MediumError(f"{here}: is cut off")
        location = first_block + position // SECTOR_BYTES
        tag_of(data[position : position + size], location, {TagId.FILE_IDENTIFIER}, here)
        start = position + _FID.size + use_bytes
        if not flags & (4 | 8):
            name = decode_cs0(data[start : start + name_bytes], here)
            if name in ("", ".", "..") or "/" in name or "\0" in name:
                raise MediumError(f"{here}: found the name {name!r}, expected a plain one")
            yield Identifier(name, bool(flags & 2), block)
        position += size
