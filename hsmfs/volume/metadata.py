"""File set, file entries and directories as they stand on the disc."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
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
from hsmfs.volume.layout import OWN_MODE, Layout
from hsmfs.volume.names import disc_name, dstring, encode_cs0
from hsmfs.volume.scratch import Scratch
from hsmfs.volume.sequence import padded
from hsmfs.volume.source import FileSource
from hsmfs.volume.tally import OWN, ROOT
from hsmfs.volume.tree import IS_DIRECTORY, MANIFEST, OWN_NAME, README, directory_name

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
PIECE_BYTES: Final = 256 * 1024
"""Metadata is handed on in pieces of about this size."""
_ZEROS: Final = bytes(SECTOR_BYTES)
_LENGTH: Final = struct.Struct("<I")
KEPT_ENTRIES_MAX: Final = 4096
"""Of one directory: those of larger ones are read from the plan when they are needed."""
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


@dataclass(frozen=True, slots=True)
class Node:
    """What has a file entry on the disc."""

    entry: FileSource
    unique_id: int
    block: int
    """In metadata."""
    links: int = 1


def _file_entry(node: Node, file_type: int, size: int, ads: bytes) -> bytes:
    """Entry of a file or directory (ECMA-167 4/14.9)."""
    entry = node.entry
    flags = _LONG_AD | _CONTIGUOUS | _special_bits(entry.mode)
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
        timestamp(entry.atime_ns) + timestamp(entry.mtime_ns) + timestamp(entry.ctime_ns),
        1,  # checkpoint
        NO_EXTENT,
        IMPLEMENTATION,
        node.unique_id,
        0,  # length of extended attributes
        len(ads),
    )
    return sealed(TagId.FILE_ENTRY, node.block, body + ads)


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


def _data_extents(sector: int, size: int) -> Iterator[bytes]:
    block, left = sector - PARTITION_SECTOR, size
    while left > 0:
        length = min(left, EXTENT_BYTES_MAX)
        yield long_ad(length, block, _PHYSICAL)
        block += EXTENT_BYTES_MAX // SECTOR_BYTES
        left -= length


def _file(node: Node, sector: int) -> bytes:
    size = node.entry.size
    return _file_entry(node, FILE_TYPE_FILE, size, b"".join(_data_extents(sector, size)))


def _identifier(location: int, block: int, flags: int, coded: bytes, unique_id: int) -> bytes:
    """A file identifier descriptor; 7-Zip wants the CRC over the padding too."""
    icb = long_ad(SECTOR_BYTES, block, _METADATA, unique_id & 0xFFFFFFFF)
    body = _FID.pack(1, flags, len(coded), icb, 0) + coded
    return sealed(TagId.FILE_IDENTIFIER, location, body + bytes(-len(body) % 4))


class _Directories:
    """Makes the metadata of one directory after the other."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._tree = layout.tree
        self._own = {README: layout.readme, MANIFEST: layout.manifest}

    def parts(self, directory: int) -> Iterator[bytes]:
        """File entry, content, and file entries of the files first named in it."""
        tree, size = self._tree, self._layout.content_bytes[directory]
        block = tree.directory_block[directory]
        node = Node(
            self._directory_entry(directory),
            tree.directory_id[directory],
            block,
            tree.directory_links[directory],
        )
        ads = long_ad(size, block + 1, _METADATA)
        yield _file_entry(node, FILE_TYPE_DIRECTORY, size, ads)
        refs = tree.names(directory)
        entries = self._kept(refs)
        yield from self._content(directory, refs, entries)
        for ref in refs:
            if tree.is_first(ref):
                yield self._file(ref, entries)

    def _directory_entry(self, directory: int) -> FileSource:
        number = self._tree.entry[directory]
        layout = self._layout
        return layout.entries[number] if number >= 0 else layout.default(0o40755, "dir")

    def _kept(self, refs: array[int]) -> dict[int, FileSource]:
        """Entries of a directory that has few: else each is read twice."""
        if len(refs) > KEPT_ENTRIES_MAX:
            return {}
        entries = self._layout.entries
        return {ref: entries[ref] for ref in refs if ref < README}

    def _entry(self, ref: int, kept: dict[int, FileSource]) -> FileSource:
        found = kept.get(ref)
        return self._layout.entries[ref] if found is None else found

    def _file(self, ref: int, kept: dict[int, FileSource]) -> bytes:
        own, layout, tree = self._own.get(ref), self._layout, self._tree
        if own is not None:
            node = Node(layout.default(OWN_MODE, "file", own.size), own.unique_id, own.block)
            return _file(node, own.sector)
        node = Node(self._entry(ref, kept), tree.unique_id[ref], tree.block[ref], tree.links[ref])
        return _file(node, layout.geometry.data_sector + tree.sector[ref])

    def _content(
        self, directory: int, refs: array[int], kept: dict[int, FileSource]
    ) -> Iterator[bytes]:
        """The names, in pieces of whole blocks but the last."""
        tree = self._tree
        first = tree.directory_block[directory] + 1
        above = tree.parent[directory]
        part = _identifier(
            first,
            tree.directory_block[above],
            _IS_DIRECTORY | _IS_PARENT,
            b"",
            tree.directory_id[above],
        )
        parts, position, given = [part], len(part), 0
        for ref in refs:
            name, block, flags, unique_id = self._named(ref, directory, kept)
            location = first + position // SECTOR_BYTES
            part = _identifier(location, block, flags, encode_cs0(name), unique_id)
            parts.append(part)
            position += len(part)
            if position - given >= PIECE_BYTES:
                data = b"".join(parts)
                whole = len(data) // SECTOR_BYTES * SECTOR_BYTES
                yield data[:whole]
                parts, given = [data[whole:]], given + whole
        assert position == self._layout.content_bytes[directory]
        if position > given:
            yield b"".join(parts)

    def _named(
        self, ref: int, directory: int, kept: dict[int, FileSource]
    ) -> tuple[str, int, int, int]:
        """Name, block of the file entry, flags and unique id of a name."""
        tree, at_root = self._tree, directory == ROOT
        if ref & IS_DIRECTORY:
            number = ref & ~IS_DIRECTORY
            place = tree.directory_block[number], _IS_DIRECTORY, tree.directory_id[number]
            if number == OWN:
                return OWN_NAME, *place
            via = self._layout.entries[tree.via[number]]
            return directory_name(tree.depth[number], via, at_root=at_root), *place
        own = self._own.get(ref)
        if own is not None:
            return own.name, own.block, 0, own.unique_id
        name = self._entry(ref, kept).key.rpartition(b"/")[2]
        block = tree.block[tree.node[ref]]
        return disc_name(name, at_root=at_root), block, 0, tree.unique_id[ref]


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
            long_ad(SECTOR_BYTES, layout.tree.directory_block[ROOT], _METADATA),
            DOMAIN,
            NO_EXTENT * 2,
            bytes(32),
        )
    )
    return sealed(TagId.FILE_SET, 0, body)


def metadata_parts(layout: Layout) -> Iterator[bytes]:
    """The metadata file's content, main and mirror alike: each part starts at a block,
    and zeros are to be put up to the next."""
    yield _file_set(layout)
    yield sealed(TagId.TERMINATING, 1, bytes(496))
    directories = _Directories(layout)
    for directory in layout.tree.directories():
        yield from directories.parts(directory)


class MetadataContent:
    """The metadata file's content twice: made once, and the second time from a scratch
    file, which takes about a tenth of the content."""

    def __init__(self, layout: Layout, scratch: Path | None) -> None:
        self._layout = layout
        self._kept = Scratch(f"volume {layout.header.label}: metadata", scratch)

    def main(self) -> Iterator[bytes]:
        """In pieces of whole blocks."""
        return self._padded(self._made())

    def mirror(self) -> Iterator[bytes]:
        """The same bytes, after ``main`` has ended."""
        return self._padded(self._again())

    def _made(self) -> Iterator[bytes]:
        append = self._kept.append
        for part in metadata_parts(self._layout):
            append(_LENGTH.pack(len(part)) + part)
            yield part
        append(_LENGTH.pack(0))

    def _again(self) -> Iterator[bytes]:
        take = self._kept.reader().take
        while (length := _LENGTH.unpack(take(_LENGTH.size))[0]) != 0:
            yield take(length)

    def _padded(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        pieces: list[bytes] = []
        size = 0
        for part in parts:
            over = -len(part) % SECTOR_BYTES
            pieces += (part, _ZEROS[:over])
            size += len(part) + over
            if size >= PIECE_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
        geometry = self._layout.geometry
        unused = geometry.metadata_blocks - geometry.metadata_used_blocks
        yield b"".join(pieces) + bytes(unused * SECTOR_BYTES)
