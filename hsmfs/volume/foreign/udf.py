"""UDF volumes of others: revisions 1.02 to 2.60 with blocks of 2048 bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import xxhash

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume import parse
from hsmfs.volume.descriptor import TagId
from hsmfs.volume.foreign.dates import udf_date_ns
from hsmfs.volume.foreign.entry import (
    DEPTH_MAX,
    ForeignEntry,
    Found,
    Names,
    Problem,
    namer,
)
from hsmfs.volume.foreign.sectors import Sectors
from hsmfs.volume.foreign.udfentry import (
    DIRECTORY,
    FILES,
    METADATA_FILES,
    SYMLINK,
    VAT_FILES,
    Blocks,
    UdfEntry,
    UdfName,
)
from hsmfs.volume.foreign.udfpartition import (
    Metadata,
    Partition,
    Physical,
    Sparable,
    Virtual,
    sparing,
)
from hsmfs.volume.names import parse_dstring

POINTER: Final = 3
"""Tag of a volume descriptor pointer."""
SEQUENCE_SECTORS_MAX: Final = 64
POINTERS_MAX: Final = 8
ANCHORS: Final = (256, 512)
END_ANCHORS: Final = (1, 257, 2, 3, 151, 152)
"""Sectors before the end; some drives count what a CD's last packet is padded with."""
VAT_SECTORS: Final = 320
"""At the end of the disc: where the VAT's entry is looked for."""
REVISIONS: Final = range(0x0100, 0x0261)
_SEQUENCE_TAGS: Final = frozenset(
    {
        TagId.PRIMARY,
        POINTER,
        TagId.IMPLEMENTATION_USE,
        TagId.PARTITION,
        TagId.LOGICAL,
        TagId.UNALLOCATED,
        TagId.TERMINATING,
    }
)
_VAT_NAME: Final = b"*UDF Virtual Alloc Tbl"
_VAT_TAIL_BYTES: Final = 36
_VAT_HEADER_BYTES: Final = 152


@dataclass(slots=True)
class _Descriptors:
    """Those that prevail: of each kind the one with the highest number (ECMA-167 3/8.4.3)."""

    newest: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    partitions: dict[int, tuple[int, bytes]] = field(default_factory=dict)

    def add(self, ident: int, data: bytes) -> None:
        (number,) = struct.unpack_from("<I", data, 16)
        if ident == TagId.PARTITION:
            key, table = struct.unpack_from("<H", data, 22)[0], self.partitions
        else:
            key, table = ident, self.newest
        if key not in table or table[key][0] < number:
            table[key] = (number, data)

    @property
    def complete(self) -> bool:
        return TagId.LOGICAL in self.newest and bool(self.partitions)


@dataclass(frozen=True, slots=True)
class _Folder:
    """A directory that waits to be read."""

    path: bytes
    entry: UdfEntry
    depth: int


class Udf:
    """One volume; raises MediumError where the disc has none."""

    def __init__(self, sectors: Sectors, session_sector: int = 0) -> None:
        self._sectors = sectors
        self._session = session_sector
        self._notes: list[str] = []
        descriptors = self._descriptors()
        _, logical = descriptors.newest[TagId.LOGICAL]
        self._check(logical)
        self.label = parse_dstring(logical[84:212], "logical volume descriptor").strip(" \0")
        _, primary = descriptors.newest.get(TagId.PRIMARY, (0, bytes(SECTOR_BYTES)))
        self.created_ns = udf_date_ns(primary[376:388])
        self._partitions: list[Partition] = []
        self._mirrors: dict[int, Partition] = {}
        self._blocks = Blocks(sectors, self._partitions)
        self._maps(logical, descriptors.partitions)
        number, block = self._root_place(logical)
        self._root = self._entry(number, block)
        if self._root.file_type != DIRECTORY:
            raise MediumError(
                f"partition {number}, block {block}: root directory: found a file of type "
                f"{self._root.file_type}, expected {DIRECTORY}"
            )
        self._root_key = (number, block)
        revision = struct.unpack_from("<H", logical, 216 + 24)[0]
        self.format = f"UDF {revision >> 8}.{revision & 0xFF:02x}" + "".join(self._notes)
        self.fingerprint = self._fingerprint(primary, logical)

    def _fingerprint(self, primary: bytes, logical: bytes) -> str:
        digest = xxhash.xxh3_128(primary + logical)
        left = SECTOR_BYTES
        for piece in self._sectors.content(self._root.runs, "root directory"):
            digest.update(piece)
            left -= len(piece)
            if left <= 0:
                break
        return digest.hexdigest()

    # -- volume descriptors --------------------------------------------------------------

    def _descriptors(self) -> _Descriptors:
        found = _Descriptors()
        for start, sectors in self._sequences():
            with suppress(MediumError):
                self._sequence(start, sectors, found)
            if found.complete:
                return found
        raise MediumError(
            "sectors 256, 512 and the end: no anchor of UDF leads to a logical volume and its "
            "partition"
        )

    def _sequences(self) -> Iterator[tuple[int, int]]:
        """Main and reserve sequence of every anchor."""
        total = self._sectors.total
        places = [self._session + place for place in ANCHORS]
        places += [*ANCHORS, *(total - before for before in END_ANCHORS)]
        for place in dict.fromkeys(places):
            where = f"sector {place}: anchor"
            with suppress(MediumError):
                data = self._sectors.sector(place, where)
                parse.tag_of(data, place, {TagId.ANCHOR}, where)
                yield from parse.parse_anchor(data)

    def _sequence(self, start: int, sectors: int, found: _Descriptors) -> None:
        for _ in range(POINTERS_MAX):
            following: tuple[int, int] | None = None
            for sector in range(start, start + min(sectors, SEQUENCE_SECTORS_MAX)):
                where = f"sector {sector}: volume descriptor"
                with suppress(MediumError):
                    data = self._sectors.sector(sector, where)
                    ident = parse.tag_of(data, sector, _SEQUENCE_TAGS, where)
                    if ident == TagId.TERMINATING:
                        break
                    if ident == POINTER:
                        size, place = struct.unpack_from("<II", data, 20)
                        following = (place, size // SECTOR_BYTES)
                        break
                    found.add(ident, data)
            if following is None:
                return
            start, sectors = following

    def _check(self, logical: bytes) -> None:
        block_bytes = struct.unpack_from("<I", logical, 212)[0]
        revision = struct.unpack_from("<H", logical, 216 + 24)[0]
        domain = logical[217:240].rstrip(b"\0")
        if block_bytes != SECTOR_BYTES or revision not in REVISIONS:
            raise MediumError(
                f"logical volume descriptor: found {domain.decode('ascii', 'replace')!r} "
                f"{revision:#06x} with blocks of {block_bytes}, expected UDF 0x0102 to 0x0260 "
                f"with {SECTOR_BYTES}"
            )

    # -- partitions -------------------------------------------------------------------------

    def _maps(self, logical: bytes, known: dict[int, tuple[int, bytes]]) -> None:
        """Partition maps (ECMA-167 3/10.7); those that stand on others come last."""
        table_bytes, count = struct.unpack_from("<II", logical, 264)
        maps: list[bytes] = []
        position = 440
        stop = min(440 + table_bytes, SECTOR_BYTES)
        while position + 6 <= stop and len(maps) < count:
            size = logical[position + 1]
            if size < 6 or position + size > stop:
                raise MediumError(f"logical volume descriptor: partition map of {size} bytes")
            maps.append(logical[position : position + size])
            position += size
        if not maps:
            raise MediumError("logical volume descriptor: no partition map")
        physical = [self._physical(one, known) for one in maps]
        self._partitions += physical
        for number, one in enumerate(maps):
            if one[0] == 2:
                self._special(number, one, physical)

    def _physical(self, one: bytes, known: dict[int, tuple[int, bytes]]) -> Physical:
        if (one[0], len(one)) not in ((1, 6), (2, 64)):
            raise MediumError(f"partition map of type {one[0]} and {len(one)} bytes")
        (wanted,) = struct.unpack_from("<H", one, 4 if one[0] == 1 else 38)
        if wanted not in known:
            raise MediumError(f"partition map: partition {wanted}, found {sorted(known)}")
        return Physical(*parse.parse_partition(known[wanted][1]))

    def _special(self, number: int, one: bytes, physical: list[Physical]) -> None:
        name = one[5:28].rstrip(b"\0")
        below = physical[number]
        if name.startswith(b"*UDF Virtual Partition"):
            self._partitions[number] = Virtual(below, self._table(below, physical))
            self._notes.append(", virtual partition")
        elif name.startswith(b"*UDF Sparable Partition"):
            packet, tables = struct.unpack_from("<HB", one, 40)
            size, *places = struct.unpack_from("<5I", one, 44)
            if not packet:
                raise MediumError("sparable partition map: packets of 0 blocks")
            replaced = sparing(self._sectors, places[:tables], size)
            self._partitions[number] = Sparable(below, packet, replaced)
            self._notes.append(", sparable partition")
        elif name.startswith(b"*UDF Metadata Partition"):
            self._metadata(number, one, physical)
            self._notes.append(", metadata partition")
        else:
            raise MediumError(f"partition map {name.decode('ascii', 'replace')!r} is not known")

    def _base(self, number: int, physical: list[Physical]) -> int:
        """The reference of the same partition that a metadata or virtual one stands on."""
        for other, partition in enumerate(self._partitions):
            if other != number and not isinstance(partition, Virtual | Metadata):
                same = physical[other].start == physical[number].start
                if same:
                    return other
        return number

    def _metadata(self, number: int, one: bytes, physical: list[Physical]) -> None:
        base = self._base(number, physical)
        found: list[Metadata] = []
        errors: list[str] = []
        for block in struct.unpack_from("<II", one, 40):
            try:
                entry = self._blocks.entry(base, block)
                if entry.file_type not in METADATA_FILES:
                    raise MediumError(
                        f"partition {base}, block {block}: metadata file: found type "
                        f"{entry.file_type}"
                    )
                found.append(Metadata(entry.runs))
            except MediumError as error:
                errors.append(str(error))
        if not found:
            raise MediumError(f"no metadata file can be read: {'; '.join(errors)}")
        self._partitions[number] = found[0]
        if len(found) > 1:
            self._mirrors[number] = found[1]

    # -- the virtual allocation table -----------------------------------------------------

    def _table(self, below: Physical, physical: list[Physical]) -> bytes:
        """Its entry is in the last sector that was written (UDF 2.60, 2.2.11)."""
        number = physical.index(below)
        base = self._base(number, physical)
        total = self._sectors.total
        for sector in range(total - 1, max(0, total - VAT_SECTORS), -1):
            with suppress(MediumError):
                entry = self._blocks.entry(base, sector - below.start)
                if entry.file_type in VAT_FILES and entry.size <= total * 4 + SECTOR_BYTES:
                    return self._table_of(entry, f"sector {sector}: virtual allocation table")
        raise MediumError(
            f"sectors {max(0, total - VAT_SECTORS)} to {total}: no virtual allocation table; "
            "the disc was not closed, or the image is cut off"
        )

    def _table_of(self, entry: UdfEntry, where: str) -> bytes:
        data = b"".join(self._sectors.content(entry.runs, where))
        if entry.file_type == 248:
            header = int.from_bytes(data[:2], "little")
            if not _VAT_HEADER_BYTES <= header <= len(data):
                raise MediumError(f"{where}: header of {header} bytes")
            return data[header:]
        tail = data[-_VAT_TAIL_BYTES:]
        if not tail[1:].startswith(_VAT_NAME):
            raise MediumError(f"{where}: found {tail[1:23]!r}, expected {_VAT_NAME!r}")
        return data[:-_VAT_TAIL_BYTES]

    # -- the tree ---------------------------------------------------------------------------

    def _entry(self, number: int, block: int) -> UdfEntry:
        """From the metadata file, else from its mirror."""
        try:
            return self._blocks.entry(number, block)
        except MediumError:
            if number not in self._mirrors:
                raise
        return self._mirrored().entry(number, block)

    def _mirrored(self) -> Blocks:
        partitions = [
            self._mirrors.get(number, partition)
            for number, partition in enumerate(self._partitions)
        ]
        return Blocks(self._sectors, partitions)

    def _root_place(self, logical: bytes) -> tuple[int, int]:
        _, block, number = struct.unpack_from("<IIH", logical, 248)
        blocks = self._blocks
        try:
            data, _, _ = blocks.descriptor(number, block, {TagId.FILE_SET}, "file set")
        except MediumError:
            if number not in self._mirrors:
                raise
            data, _, _ = self._mirrored().descriptor(number, block, {TagId.FILE_SET}, "file set")
        root = parse.parse_file_set(data)
        return root.partition, root.block

    def walk(self) -> Iterator[Found]:
        """All names, depth first."""
        seen = {self._root_key}
        stack = [_Folder(b"", self._root, 0)]
        while stack:
            folder = stack.pop()
            below: list[_Folder] = []
            name_of = namer()
            where = f"directory {folder.path.decode('utf-8', 'replace') or '/'}"
            try:
                for name in self._blocks.names(folder.entry, where):
                    yield self._found(folder, name, name_of, seen, below)
            except MediumError as error:
                if not folder.path:
                    raise
                yield Problem(folder.path, str(error))
            stack += reversed(below)

    def _found(
        self,
        folder: _Folder,
        name: UdfName,
        name_of: Names,
        seen: set[tuple[int, int]],
        below: list[_Folder],
    ) -> Found:
        own = name_of(name.name)
        path = folder.path + b"/" + own if folder.path else own
        where = f"partition {name.partition}, block {name.block}"
        try:
            entry = self._entry(name.partition, name.block)
            if entry.file_type == DIRECTORY:
                key = (name.partition, name.block)
                if key in seen or folder.depth >= DEPTH_MAX:
                    raise MediumError(f"{where}: directory is there twice, or too deep: a loop")
                seen.add(key)
                below.append(_Folder(path, entry, folder.depth + 1))
                return ForeignEntry(path, "dir", entry.facts)
            if entry.file_type == SYMLINK:
                target = self._blocks.target(entry, f"{where}: symlink")
                return ForeignEntry(path, "symlink", entry.facts, target=target)
            if entry.file_type in FILES:
                return ForeignEntry(path, "file", entry.facts, entry.size, entry.runs)
        except MediumError as error:
            return Problem(path, str(error))
        return Problem(path, f"{where}: a device, FIFO or socket; it has no data")
