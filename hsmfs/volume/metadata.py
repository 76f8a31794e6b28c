"""File set, file entries and directories as they stand on the disc."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.descriptor import (
    CHARSPEC,
    NO_EXTENT,
    TagId,
    domain,
    long_ad,
    sealed,
    timestamp,
)
from hsmfs.volume.fileentry import (
    FILE_TYPE_DIRECTORY,
    FILE_TYPE_FILE,
    Node,
    file_entry,
    file_with_data,
)
from hsmfs.volume.layout import OWN_MODE, Layout
from hsmfs.volume.names import disc_name, dstring, encode_cs0
from hsmfs.volume.scratch import Scratch
from hsmfs.volume.source import FileSource
from hsmfs.volume.tally import OWN, ROOT
from hsmfs.volume.tree import IS_DIRECTORY, MANIFEST, OWN_NAME, README, directory_name

__all__ = ["FILE_TYPE_DIRECTORY", "FILE_TYPE_FILE", "MetadataContent", "metadata_parts"]
_IS_DIRECTORY: Final = 2
_IS_PARENT: Final = 8
PIECE_BYTES: Final = 256 * 1024
"""Metadata is handed on in pieces of about this size."""
_ZEROS: Final = bytes(SECTOR_BYTES)
_LENGTH: Final = struct.Struct("<I")
KEPT_ENTRIES_MAX: Final = 4096
"""Of one directory: those of larger ones are read from the plan when they are needed."""
_FID: Final = struct.Struct("<HBB16sH")


def _identifier(
    location: int, reference: int, block: int, flags: int, coded: bytes, unique_id: int
) -> bytes:
    """A file identifier descriptor; 7-Zip wants the CRC over the padding too."""
    icb = long_ad(SECTOR_BYTES, block, reference, unique_id & 0xFFFFFFFF)
    body = _FID.pack(1, flags, len(coded), icb, 0) + coded
    return sealed(TagId.FILE_IDENTIFIER, location, body + bytes(-len(body) % 4))


class _Directories:
    """Makes the metadata of one directory after the other."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._tree = layout.tree
        self._reference = layout.geometry.metadata_reference
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
        ads = long_ad(size, block + 1, self._reference)
        yield file_entry(node, FILE_TYPE_DIRECTORY, size, ads)
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
            return file_with_data(node, own.sector)
        node = Node(self._entry(ref, kept), tree.unique_id[ref], tree.block[ref], tree.links[ref])
        return file_with_data(node, layout.geometry.data_sector + tree.sector[ref])

    def _content(
        self, directory: int, refs: array[int], kept: dict[int, FileSource]
    ) -> Iterator[bytes]:
        """The names, in pieces of whole blocks but the last."""
        tree = self._tree
        first = tree.directory_block[directory] + 1
        above = tree.parent[directory]
        part = _identifier(
            first,
            self._reference,
            tree.directory_block[above],
            _IS_DIRECTORY | _IS_PARENT,
            b"",
            tree.directory_id[above],
        )
        parts, position, given = [part], len(part), 0
        for ref in refs:
            name, block, flags, unique_id = self._named(ref, directory, kept)
            location = first + position // SECTOR_BYTES
            part = _identifier(location, self._reference, block, flags, encode_cs0(name), unique_id)
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
    label, root = layout.header.label, layout.tree.directory_block[ROOT]
    body = b"".join(
        (
            timestamp(layout.header.created_ns),
            struct.pack("<HHIIII", 3, 3, 1, 1, 0, 0),
            CHARSPEC,
            dstring(label, 128),
            CHARSPEC,
            dstring(label, 32),
            bytes(64),
            long_ad(SECTOR_BYTES, root, layout.geometry.metadata_reference),
            domain(layout.identity.revision),
            NO_EXTENT * 2,
            bytes(32),
        )
    )
    return sealed(TagId.FILE_SET, layout.geometry.first_block, body)


def metadata_parts(layout: Layout) -> Iterator[bytes]:
    """The metadata file's content, main and mirror alike: each part starts at a block,
    and zeros are to be put up to the next."""
    yield _file_set(layout)
    yield sealed(TagId.TERMINATING, layout.geometry.first_block + 1, bytes(496))
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
        is_twice = self._layout.geometry.metadata_partition
        for part in metadata_parts(self._layout):
            if is_twice:
                append(_LENGTH.pack(len(part)) + part)
            yield part
        append(_LENGTH.pack(0))

    def _again(self) -> Iterator[bytes]:
        take, lengths = self._kept.reader().take, _LENGTH.unpack
        while (length := lengths(take(_LENGTH.size))[0]) != 0:
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
