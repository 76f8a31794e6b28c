"""Read a volume from its sectors alone: tree, files, manifest."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume import parse
from hsmfs.volume.geometry import TAIL_SECTORS, sectors_of
from hsmfs.volume.manifest import MANIFEST_PATH
from hsmfs.volume.manifestread import (
    ManifestEntry,
    entries_around_damage,
    entries_of,
    parse_header,
    prove,
)
from hsmfs.volume.metadata import FILE_TYPE_DIRECTORY, FILE_TYPE_FILE
from hsmfs.volume.mount import Mount, Read, exactly
from hsmfs.volume.names import disc_path
from hsmfs.volume.parse import Entry, Identifier
from hsmfs.volume.source import VolumeHeader

READ_SECTORS: Final = 512
"""Files are read in requests of 1 MiB."""
RESCUE_SECTORS: Final = 32
"""A cluster: what a drive cannot read it cannot read by clusters."""
HOLE: Final = b"\xff"
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of the manifest."""


@dataclass(frozen=True, slots=True)
class WalkEntry:
    """One name on the disc; ``path`` is the disc's own."""

    path: str
    is_directory: bool
    size: int
    mode: int
    uid: int
    gid: int
    links: int
    mtime_ns: int
    atime_ns: int
    ctime_ns: int
    sector: int
    """First sector of a file's data; 0 where there is none."""
    block: int
    """Metadata block of the file entry; equal for hard links."""


class VolumeReader:
    """One volume; every part is read when it is asked for.

    ``total_sectors`` lets it find the anchors at the end when the one at
    sector 256 is lost.
    """

    def __init__(self, read: Read, total_sectors: int | None = None) -> None:
        self._read = read
        self._mount = Mount(read, total_sectors)
        self._header: VolumeHeader | None = None

    @property
    def label(self) -> str:
        """The volume's name."""
        return self._mount.logical.label

    @property
    def header(self) -> VolumeHeader:
        """The manifest's first line."""
        if self._header is None:
            self._header = parse_header(self._first_line(), self.label)[0]
        return self._header

    def _first_line(self) -> bytes:
        """Sector by sector where the whole first request cannot be read."""
        try:
            with closing(self._lines()) as lines:
                return next(lines, b"")
        except MediumError as error:
            try:
                return next(self._lines_around_damage(), b"")
            except OSError:
                raise error from None

    @property
    def total_sectors(self) -> int:
        """Of a volume that hsmfs wrote: up to the anchor at its end."""
        return self._mount.partition_sector + self._mount.partition_sectors + TAIL_SECTORS

    def size(self, path: str) -> int:
        """Bytes of a file by its path on the disc; FileNotFoundError."""
        return self._find(path).size

    def ending(self, path: str, length: int) -> bytes:
        """The last bytes of a file by its path on the disc; FileNotFoundError."""
        entry, kept = self._find(path), b""
        for extent in reversed(entry.extents):
            count = sectors_of(extent.length)
            first = self._mount.sector_of(extent.block, count, path)
            skipped = max(0, extent.length - (length - len(kept))) // SECTOR_BYTES
            size = extent.length - skipped * SECTOR_BYTES
            kept = b"".join(self.extent(first + skipped, size)) + kept
            if len(kept) >= length:
                break
        return kept[-length:]

    # -- tree ---------------------------------------------------------------------------

    def walk(self) -> Iterator[WalkEntry]:
        """All names, depth first, a directory before what is in it."""
        mount = self._mount
        root = mount.root_block()
        stack = [("", root, mount.entry(root))]
        seen = {root}
        names_left = mount.names_max
        while stack:
            path, block, entry = stack.pop()
            below = []
            for name in self._names(block, entry):
                names_left -= 1
                if names_left < 0:
                    raise MediumError(f"metadata block {block}: more names than metadata holds")
                child = mount.entry(name.block)
                yield self._described(f"{path}{name.name}", name, child)
                if child.file_type == FILE_TYPE_DIRECTORY:
                    if name.block in seen:
                        raise MediumError(f"metadata block {name.block}: directory seen twice")
                    seen.add(name.block)
                    below.append((f"{path}{name.name}/", name.block, child))
            stack += reversed(below)

    def _names(self, block: int, entry: Entry) -> list[Identifier]:
        """A directory's names; its content is one extent of the metadata."""
        where = f"metadata block {block}: directory"
        if entry.file_type != FILE_TYPE_DIRECTORY or len(entry.extents) != 1:
            raise MediumError(f"{where}: expected one of one extent, found {entry}")
        extent = entry.extents[0]
        blocks = sectors_of(extent.length)

        def check(data: bytes, place: str) -> list[Identifier]:
            here = f"{place}: directory"
            return list(parse.parse_directory(data[: entry.size], extent.block, here))

        return self._mount.metadata(extent.block, blocks, check)

    def _described(self, path: str, name: Identifier, entry: Entry) -> WalkEntry:
        is_directory = entry.file_type == FILE_TYPE_DIRECTORY
        if not is_directory and entry.file_type != FILE_TYPE_FILE:
            raise MediumError(f"{path}: found file type {entry.file_type}, expected 4 or 5")
        sector = 0
        if entry.extents and not is_directory:
            sector = self._mount.partition_sector + entry.extents[0].block
        return WalkEntry(
            path=path,
            is_directory=is_directory,
            size=0 if is_directory else entry.size,
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            links=entry.links,
            mtime_ns=entry.mtime_ns,
            atime_ns=entry.atime_ns,
            ctime_ns=entry.ctime_ns,
            sector=sector,
            block=name.block,
        )

    def _find(self, path: str) -> Entry:
        block = self._mount.root_block()
        entry = self._mount.entry(block)
        for part in path.strip("/").split("/"):
            names: dict[str, Identifier] = {}
            if entry.file_type == FILE_TYPE_DIRECTORY:
                names = {name.name: name for name in self._names(block, entry)}
            if part not in names:
                why = f"volume {self.label}: {os.strerror(errno.ENOENT)}"
                raise FileNotFoundError(errno.ENOENT, why, path)
            block = names[part].block
            entry = self._mount.entry(block)
        return entry

    # -- files ---------------------------------------------------------------------------

    def read_file(self, path: bytes | str) -> bytes:
        """All of a file; bytes are an original path, text is the disc's own.

        Raises FileNotFoundError where there is none.
        """
        return b"".join(self.stream_file(path))

    def stream_file(self, path: bytes | str) -> Iterator[bytes]:
        """A file in pieces of at most 1 MiB."""
        own = disc_path(path) if isinstance(path, bytes) else path
        entry = self._find(own)
        if entry.file_type != FILE_TYPE_FILE:
            why = f"volume {self.label}: {os.strerror(errno.EISDIR)}"
            raise IsADirectoryError(errno.EISDIR, why, own)
        return self._data(entry, own)

    def _data(self, entry: Entry, path: str) -> Iterator[bytes]:
        left = entry.size
        for extent in entry.extents:
            sectors = sectors_of(extent.length)
            sector = self._mount.sector_of(extent.block, sectors, path)
            length = min(extent.length, left)
            left -= length
            yield from self.extent(sector, length)

    def extent(self, sector: int, size_bytes: int) -> Iterator[bytes]:
        """Contiguous data in pieces of 1 MiB."""
        left = size_bytes
        while left > 0:
            step = min(READ_SECTORS, sectors_of(left))
            data = exactly(self._read, sector, step)[:left]
            yield data
            left -= len(data)
            sector += step

    # -- manifest -------------------------------------------------------------------------

    def _lines(self) -> Generator[bytes, None, None]:
        rest = b""
        try:
            pieces = self.stream_file(MANIFEST_PATH)
        except OSError as error:
            raise MediumError(
                f"volume {self.label}: found no {MANIFEST_PATH}: a UDF disc that hsmfs did "
                "not write; mount it, or read it with 7-Zip"
            ) from error
        for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
            if len(rest) > LINE_BYTES_MAX:
                break
        if rest:
            raise MediumError(f"volume {self.label}: manifest: a line does not end")

    def manifest(self) -> Iterator[ManifestEntry]:
        """All entries, in the order in which they were planned.

        Raises MediumError at the end where lines are missing or changed, and
        CallerError at the start where the format is newer than this reader.
        """
        return entries_of(self._lines(), self.label)

    def prove_manifest(self) -> None:
        """MediumError where it cannot be read, or is not as it was written."""
        prove(self.stream_file(MANIFEST_PATH), self.label)

    def manifest_around_damage(self) -> Iterator[ManifestEntry | MediumError]:
        """Each entry that is there, before and after damage, and why others are not.

        For rescue: nothing proves these entries.
        """
        return entries_around_damage(self._lines_around_damage(), self.label)

    def _lines_around_damage(self) -> Iterator[bytes]:
        rest = b""
        for extent in self._find(MANIFEST_PATH).extents:
            count = sectors_of(extent.length)
            first = self._mount.sector_of(extent.block, count, MANIFEST_PATH)
            for sector in range(first, first + count, RESCUE_SECTORS):
                left = extent.length - (sector - first) * SECTOR_BYTES
                step = min(RESCUE_SECTORS, sectors_of(left))
                *lines, rest = (rest + self._or_holes(sector, step)[:left]).split(b"\n")
                yield from lines
                if len(rest) > LINE_BYTES_MAX:
                    rest = b""

    def _or_holes(self, sector: int, sectors: int) -> bytes:
        """What can be read; bytes that no manifest has for the rest."""
        try:
            return exactly(self._read, sector, sectors)
        except MediumError:
            if sectors == 1:
                return HOLE * SECTOR_BYTES
        return b"".join(self._or_holes(sector + at, 1) for at in range(sectors))

    def manifest_until_damage(self) -> Iterator[ManifestEntry | MediumError]:
        """The entries up to the first that cannot be read, and then why.

        For rescue: what comes before the error is not proved by it.
        """
        try:
            yield from self.manifest()
        except MediumError as error:
            yield error
