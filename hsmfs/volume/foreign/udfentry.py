"""File entries and directories of any UDF (ECMA-167 4/14, UDF 2.60 2.3)."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume import parse
from hsmfs.volume.descriptor import TAG_BYTES, TagId
from hsmfs.volume.foreign.dates import udf_date_ns
from hsmfs.volume.foreign.entry import HOLE, TARGET_BYTES_MAX, Facts, Run, cut_to
from hsmfs.volume.foreign.sectors import Sectors
from hsmfs.volume.foreign.udfpartition import Partition
from hsmfs.volume.names import decode_cs0

ALLOCATION_EXTENT: Final = 258
_ENTRY: Final = struct.Struct("<20xH5xB6xHIIIH6xQ8x12s12s12s52xQII")
"""ICB tag (20 bytes with its strategy, file type, flags) and the file entry's fields."""
_EXTENDED: Final = struct.Struct("<20xH5xB6xHIIIH6xQ16x12s12s12x12s72xQII")
_FID: Final = struct.Struct("<16sHBBIIH6sH")
STRATEGY: Final = 4
LENGTH_MASK: Final = 0x3FFFFFFF
NOT_RECORDED, NOT_ALLOCATED, CONTINUES = 1, 2, 3
_EMBEDDED: Final = 3
DELETED, PARENT = 4, 8
DIRECTORY, FILE, SYMLINK = 4, 5, 12
FILES: Final = (0, FILE, 249)
"""Unspecified, a sequence of bytes, a real-time file."""
VAT_FILES: Final = (0, 248)
METADATA_FILES: Final = (250, 251)
NOBODY: Final = 0xFFFFFFFF
PIECES_MAX: Final = 200_000
"""Extents of one file before they are joined."""


@dataclass(frozen=True, slots=True)
class UdfEntry:
    """A file entry, with where its data is."""

    file_type: int
    facts: Facts
    size: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class UdfName:
    """One name in a directory."""

    name: str
    is_directory: bool
    block: int
    partition: int


class Blocks:
    """Descriptors of partitions by reference."""

    def __init__(self, sectors: Sectors, partitions: list[Partition]) -> None:
        self.sectors = sectors
        self.partitions = partitions

    def partition(self, number: int, where: str) -> Partition:
        if not 0 <= number < len(self.partitions):
            raise MediumError(f"{where}: partition {number}, the volume has {len(self.partitions)}")
        return self.partitions[number]

    def descriptor(
        self, number: int, block: int, expected: Collection[int], what: str
    ) -> tuple[bytes, int, str]:
        """One block whose tag was proved, its byte on the disc, and where it is in words."""
        where = f"partition {number}, block {block}: {what}"
        runs = list(self.partition(number, where).runs(block, SECTOR_BYTES, where))
        at = runs[0][0]
        where = f"sector {at // SECTOR_BYTES}: {what}"
        data = self.sectors.at(at, SECTOR_BYTES, where)
        parse.tag_of(data, block, expected, where)
        return data, at, where

    def entry(self, number: int, block: int) -> UdfEntry:
        """The file entry at a block of a partition."""
        data, at, where = self.descriptor(number, block, parse.FILE_ENTRIES, "file entry")
        plain = int.from_bytes(data[:2], "little") == TagId.FILE_ENTRY
        layout = _ENTRY if plain else _EXTENDED
        fields = layout.unpack_from(data)
        strategy, file_type, flags, uid, gid, permissions, _, size = fields[:8]
        times, (_, ea_bytes, ad_bytes) = fields[8:11], fields[11:]
        start = layout.size + ea_bytes
        if start + ad_bytes > SECTOR_BYTES:
            raise MediumError(f"{where}: its allocation reaches past the sector")
        if strategy != STRATEGY:
            raise MediumError(f"{where}: strategy {strategy}, expected {STRATEGY}")
        atime_ns, mtime_ns, ctime_ns = (udf_date_ns(field) for field in times)
        facts = Facts(
            _mode(permissions, flags), _owner(uid), _owner(gid), mtime_ns, atime_ns, ctime_ns
        )
        if flags & 7 == _EMBEDDED:
            if size > ad_bytes:
                raise MediumError(f"{where}: {size} bytes inside an entry that has {ad_bytes}")
            runs: tuple[Run, ...] = ((at + start, size),) if size else ()
            return UdfEntry(file_type, facts, size, runs)
        pieces = self._pieces(number, data[start : start + ad_bytes], flags & 7, size, where)
        found = self.sectors.check(cut_to(pieces, size, where), where)
        return UdfEntry(file_type, facts, size, found)

    # -- allocation descriptors ---------------------------------------------------------

    def _pieces(self, own: int, data: bytes, kind: int, size: int, where: str) -> Iterator[Run]:
        """Runs of the disc, in file order, until the file is full."""
        count = 0
        for length, block, number in self._extents(own, data, kind, where):
            what, length = length >> 30, length & LENGTH_MASK
            if size <= 0:
                return
            length = min(length, size)
            size -= length
            if what in (NOT_RECORDED, NOT_ALLOCATED):
                yield HOLE, length
                continue
            for run in self.partition(number, where).runs(block, length, where):
                count += 1
                if count > PIECES_MAX:
                    raise MediumError(f"{where}: file in more than {PIECES_MAX} pieces")
                yield run

    def _extents(
        self, own: int, data: bytes, kind: int, where: str
    ) -> Iterator[tuple[int, int, int]]:
        """Length with type bits, block, partition; continued ones too (ECMA-167 4/14.14)."""
        if kind not in (0, 1):
            raise MediumError(f"{where}: allocation descriptors of type {kind}, expected 0 or 1")
        size = 8 if kind == 0 else 16
        while True:
            following: tuple[int, int] | None = None
            for position in range(0, len(data) - size + 1, size):
                length, block = struct.unpack_from("<II", data, position)
                number = struct.unpack_from("<H", data, position + 8)[0] if kind else own
                if not length & LENGTH_MASK:
                    return
                if length >> 30 == CONTINUES:
                    following = (number, block)
                    break
                yield length, block, number
            if following is None:
                return
            data = self._continued(*following, where)

    def _continued(self, number: int, block: int, where: str) -> bytes:
        self.sectors.spend_link(where)
        data, _, here = self.descriptor(
            number, block, {ALLOCATION_EXTENT}, "continued allocation descriptors"
        )
        (length,) = struct.unpack_from("<I", data, 20)
        if 24 + length > SECTOR_BYTES:
            raise MediumError(f"{here}: {length} bytes, more than the sector has")
        return data[24 : 24 + length]

    # -- directories and links ------------------------------------------------------------

    def names(self, entry: UdfEntry, where: str) -> Iterator[UdfName]:
        """What a directory holds; deleted names and its parent left out."""
        self.sectors.spend_directory(entry.size, where)
        rest, position = b"", 0
        for piece in self.sectors.content(entry.runs, where):
            rest += piece
            while True:
                here = f"{where} + {position}: file identifier"
                step, name = _identifier(rest, here)
                if not step:
                    break
                rest, position = rest[step:], position + step
                if name is not None:
                    yield name
        if rest.strip(b"\0"):
            raise MediumError(f"{where} + {position}: file identifier is cut off")

    def target(self, entry: UdfEntry, where: str) -> bytes:
        """Where a symlink points to: path components (ECMA-167 4/14.16)."""
        if entry.size > 4 * TARGET_BYTES_MAX:
            raise MediumError(f"{where}: symlink of {entry.size} bytes")
        data = b"".join(self.sectors.content(entry.runs, where))
        parts: list[str] = []
        position = 0
        while position + 4 <= len(data):
            kind, length = data[position], data[position + 1]
            text = data[position + 4 : position + 4 + length]
            position += 4 + length
            if kind in (1, 2):
                parts = [""]
            elif kind in (3, 4):
                parts.append(".." if kind == 3 else ".")
            elif kind == 5:
                parts.append(_text(text, where))
            else:
                raise MediumError(f"{where}: path component of type {kind}")
        found = ("/".join(parts) if parts != [""] else "/").encode("utf-8", "replace")
        if not found or len(found) > TARGET_BYTES_MAX or b"\0" in found:
            raise MediumError(f"{where}: symlink of {len(found)} bytes")
        return found


def _identifier(data: bytes, where: str) -> tuple[int, UdfName | None]:
    """Bytes of the first descriptor, 0 where more is needed, and the name, if it has one."""
    if len(data) < _FID.size or not any(data[:TAG_BYTES]):
        return 0, None
    tag, _, flags, name_bytes, _, block, number, _, use_bytes = _FID.unpack_from(data)
    size = (_FID.size + use_bytes + name_bytes + 3) & ~3
    if size > SECTOR_BYTES * 2:
        raise MediumError(f"{where}: of {size} bytes, expected at most {SECTOR_BYTES}")
    if len(data) < size:
        return 0, None
    _check_tag(tag, data[:size], where)
    if flags & (DELETED | PARENT):
        return size, None
    start = _FID.size + use_bytes
    name = _text(data[start : start + name_bytes], where)
    return size, UdfName(name, bool(flags & 2), block, number)


def _check_tag(tag: bytes, data: bytes, where: str) -> None:
    """Of a file identifier; its location is not compared, for many writers get it wrong."""
    location = int.from_bytes(tag[12:16], "little")
    parse.tag_of(data, location, {TagId.FILE_IDENTIFIER}, where)


def _text(data: bytes, where: str) -> str:
    if data[:1] in (b"\x10", b"\xff"):
        return data[1:].decode("utf-16-be", "replace").replace("\ufffd", "_")
    return decode_cs0(data, where)


def _mode(permissions: int, flags: int) -> int:
    """Of each class the lowest three of five bits are those of Unix (ECMA-167 4/14.9.5)."""
    bits = (permissions & 7) | (permissions >> 5 & 7) << 3 | (permissions >> 10 & 7) << 6
    return bits | (flags >> 6 & 1) << 11 | (flags >> 7 & 1) << 10 | (flags >> 8 & 1) << 9


def _owner(number: int) -> int:
    return 0 if number == NOBODY else number
