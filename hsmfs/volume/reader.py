"""Read a volume from its sectors alone: tree, files, manifest."""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume import parse
from hsmfs.volume.descriptor import TagId
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
from hsmfs.volume.parse import Entry, Extent, Identifier
from hsmfs.volume.readme import README_NAME
from hsmfs.volume.rescue import (
    RESCUE_SECTORS,
    find_manifest,
    header_of,
    names_around_damage,
    or_holes,
)
from hsmfs.volume.source import VolumeHeader

READ_SECTORS: Final = 512
"""Files are read in requests of 1 MiB."""
RESCUED_BLOCKS_MAX: Final = 1 << 19
"""Of damaged directories together: no volume has more metadata."""
RESCUED_BLOCKS: Final = 1 << 14
"""The same where the disc's size is not known."""
README_PATH: Final = f"/.hsm/{README_NAME}"
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
    sector 256 is lost, and the manifest when the whole tree is.
    """

    def __init__(self, read: Read, total_sectors: int | None = None) -> None:
        self._read = read
        self._total = total_sectors
        self._header: VolumeHeader | None = None
        self._manifest_runs: list[tuple[int, int]] | None = None
        self._rescued: dict[int, list[Identifier | MediumError]] = {}
        self._rescue_blocks_left = min(total_sectors or RESCUED_BLOCKS, RESCUED_BLOCKS_MAX)
        self._mounted: Mount | None = None
        self._why_not = MediumError("not mounted")
        try:
            self._mounted = Mount(read, total_sectors)
        except MediumError as error:
            self._why_not = error
            self._search_manifest(error, None)

    @property
    def _mount(self) -> Mount:
        """MediumError where the manifest is all that is left."""
        if self._mounted is None:
            raise self._why_not
        return self._mounted

    def read(self, sector: int, sectors: int) -> bytes:
        """As the disc gives them."""
        return self._read(sector, sectors)

    @property
    def label(self) -> str:
        """The volume's name."""
        return self._mounted.logical.label if self._mounted is not None else self.header.label

    @property
    def header(self) -> VolumeHeader:
        """The manifest's first line."""
        if self._header is None:
            label = self._mount_label()
            with closing(self._lines_around_damage()) as lines:
                self._header = parse_header(next(lines, b""), label)[0]
        return self._header

    def header_or_rest(self) -> tuple[VolumeHeader, MediumError | None]:
        """The header; where its line is damaged what the volume descriptors say (no pool,
        and the time in microseconds), and why."""
        try:
            return self.header, None
        except MediumError as error:
            found = self._mount.descriptors
            if not {TagId.PRIMARY, TagId.IMPLEMENTATION_USE} <= found.keys():
                raise
            about = found[TagId.PRIMARY][0], found[TagId.IMPLEMENTATION_USE][0]
            return header_of(*about, self.label), error

    @property
    def total_sectors(self) -> int:
        """Of a volume that hsmfs wrote: up to the anchor at its end."""
        if self._mounted is None and self._total is not None:
            return self._total
        return self._mount.partition_sector + self._mount.partition_sectors + TAIL_SECTORS

    def own_sector(self, name: str) -> int:
        """First sector of a file of the volume's own: as the tree says, else the manifest."""
        path = f".hsm/{name}"
        with suppress(MediumError, OSError):
            for sector, _ in self._runs(self._find(path), path):
                return sector
        for entry in self.manifest_around_damage():
            if isinstance(entry, MediumError) or entry.result is None:
                continue
            if (entry.source.kind, entry.source.path) == ("own", name.encode()):
                return entry.result.offset_bytes // SECTOR_BYTES
        raise MediumError(f"volume {self.label}: found no {path}")

    # -- tree ---------------------------------------------------------------------------

    def walk(self) -> Iterator[WalkEntry]:
        """All names, depth first, a directory before what is in it."""
        for one in self.walk_around_damage():
            if isinstance(one, MediumError):
                raise one
            yield one

    def walk_around_damage(self) -> Iterator[WalkEntry | MediumError]:
        """The same, with what is lost in each copy of the metadata told in its place."""
        try:
            mount = self._mount
            root = mount.root_block()
            stack = [("", root, mount.entry(root))]
        except MediumError as error:
            yield error
            return
        seen = {root}
        names_left = mount.names_max
        while stack:
            path, block, entry = stack.pop()
            below = []
            for name in self._names(block, entry):
                names_left -= 1
                if names_left < 0:
                    yield MediumError(f"metadata block {block}: more names than metadata holds")
                    return
                try:
                    if isinstance(name, MediumError):
                        raise name
                    child = mount.entry(name.block)
                    described = self._described(f"{path}{name.name}", name, child)
                    if described.is_directory and name.block in seen:
                        raise MediumError(f"metadata block {name.block}: directory seen twice")
                except MediumError as error:
                    yield error
                    continue
                yield described
                if described.is_directory:
                    seen.add(name.block)
                    below.append((f"{path}{name.name}/", name.block, child))
            stack += reversed(below)

    def _names(self, block: int, entry: Entry) -> list[Identifier | MediumError]:
        """A directory's names, and where some are lost; its content is one extent of the
        metadata."""
        where = f"metadata block {block}: directory"
        if entry.file_type != FILE_TYPE_DIRECTORY or len(entry.extents) != 1:
            return [MediumError(f"{where}: expected one of one extent, found {entry}")]
        extent = entry.extents[0]
        blocks = sectors_of(extent.length)

        def check(data: bytes, place: str) -> list[Identifier | MediumError]:
            here = f"{place}: directory"
            return list(parse.parse_directory(data[: entry.size], extent.block, here))

        try:
            return self._mount.metadata(extent.block, blocks, check)
        except MediumError as error:
            if extent.block not in self._rescued:
                self._rescued[extent.block] = self._rescued_names(extent, entry.size, error)
            return self._rescued[extent.block]

    def _rescued_names(
        self, extent: Extent, size: int, why: MediumError
    ) -> list[Identifier | MediumError]:
        """Record by record from both copies, each block of the metadata once at most."""
        blocks = sectors_of(extent.length)
        self._rescue_blocks_left -= blocks
        copies = [
            or_holes(self._read, start + extent.block, blocks)[:size]
            for start, sectors in self._mount.copies
            if extent.block + blocks <= sectors and self._rescue_blocks_left >= 0
        ]
        if not copies:
            return [why]
        where = f"metadata block {extent.block}: directory"
        found = list(names_around_damage(copies, extent.block, where))
        return found if all(isinstance(one, Identifier) for one in found) else [why, *found]

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
                found = self._names(block, entry)
                names = {one.name: one for one in found if isinstance(one, Identifier)}
                if part not in names and len(names) < len(found):
                    raise next(one for one in found if isinstance(one, MediumError))
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

    def stream_walked(self, one: WalkEntry) -> Iterator[bytes]:
        """The same of a file that was met in a walk, without a search for its name."""
        return self._data(self._mount.entry(one.block), one.path)

    def _data(self, entry: Entry, path: str) -> Iterator[bytes]:
        for sector, length in self._runs(entry, path):
            yield from self.extent(sector, length)

    def _runs(self, entry: Entry, path: str) -> Iterator[tuple[int, int]]:
        """First sector and bytes of each extent of a file."""
        left = entry.size
        for extent in entry.extents:
            sectors = sectors_of(extent.length)
            sector = self._mount.sector_of(extent.block, sectors, path)
            length = min(extent.length, left)
            left -= length
            yield sector, length

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

    @property
    def manifest_bytes(self) -> int:
        """Its length."""
        return sum(length for _, length in self._manifest())

    def _manifest(self) -> list[tuple[int, int]]:
        """First sector and bytes of each run: as the tree says, else where it is found."""
        if self._manifest_runs is None:
            try:
                entry = self._find(MANIFEST_PATH)
                self._manifest_runs = list(self._runs(entry, MANIFEST_PATH))
            except MediumError as error:
                label = self._mounted.logical.label if self._mounted is not None else None
                self._search_manifest(error, label or None)
            except OSError as error:
                raise MediumError(
                    f"volume {self.label}: found no {MANIFEST_PATH}: a UDF disc that hsmfs did "
                    "not write; mount it, or read it with 7-Zip"
                ) from error
        assert self._manifest_runs is not None
        return self._manifest_runs

    def _search_manifest(self, why: MediumError, label: str | None) -> None:
        """Find it without the tree, or raise why that is needed."""
        found = None
        if self._total is not None:
            found = find_manifest(self._read, self._total, label)
        if found is None:
            raise why
        self._manifest_runs = [found]

    def stream_manifest(self) -> Iterator[bytes]:
        """Its bytes in pieces of at most 1 MiB."""
        for sector, length in self._manifest():
            yield from self.extent(sector, length)

    def manifest_ending(self, length: int) -> bytes:
        """Its last bytes."""
        kept = b""
        for first, size in reversed(self._manifest()):
            skipped = max(0, size - (length - len(kept))) // SECTOR_BYTES
            kept = b"".join(self.extent(first + skipped, size - skipped * SECTOR_BYTES)) + kept
            if len(kept) >= length:
                break
        return kept[-length:]

    def _lines(self) -> Generator[bytes, None, None]:
        rest = b""
        for piece in self.stream_manifest():
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

    def prove_manifest(self) -> str:
        """Its hash; MediumError where it cannot be read, or is not as it was written."""
        return prove(self.stream_manifest(), self.label)

    def manifest_around_damage(self) -> Iterator[ManifestEntry | MediumError]:
        """Each entry that is there, before and after damage, and why others are not.

        For rescue: nothing proves these entries.
        """
        return entries_around_damage(self._lines_around_damage(), self._mount_label())

    def _mount_label(self) -> str:
        return self._mounted.logical.label if self._mounted is not None else "?"

    def _lines_around_damage(self) -> Generator[bytes, None, None]:
        rest = b""
        for first, length in self._manifest():
            for sector in range(first, first + sectors_of(length), RESCUE_SECTORS):
                left = length - (sector - first) * SECTOR_BYTES
                step = min(RESCUE_SECTORS, sectors_of(left))
                data = or_holes(self._read, sector, step)[:left]
                *lines, rest = (rest + data).split(b"\n")
                yield from lines
                if len(rest) > LINE_BYTES_MAX:
                    rest = b""

    def manifest_or_rest(self) -> Iterator[ManifestEntry | MediumError]:
        """All entries; of a damaged manifest first why it is not whole, then what is there."""
        try:
            self.prove_manifest()
        except MediumError as error:
            yield error
            with suppress(MediumError):
                yield from self.manifest_around_damage()
            return
        yield from self.manifest()

    def unlisted(self, listed: Container[str]) -> Iterator[WalkEntry | MediumError]:
        """What the tree has and no line of the manifest; ``listed`` are paths on the disc.

        Directories that were made for what is in them are among it.
        """
        for one in self.walk_around_damage():
            if isinstance(one, MediumError) or (
                one.path not in listed and f"/{one.path}" not in (MANIFEST_PATH, README_PATH)
            ):
                yield one

    def manifest_until_damage(self) -> Iterator[ManifestEntry | MediumError]:
        """The entries up to the first that cannot be read, and then why.

        For rescue: what comes before the error is not proved by it.
        """
        try:
            yield from self.manifest()
        except MediumError as error:
            yield error
