"""Files of damaged manifests that only the discs' UDF trees tell of.

The namespace's sets as of the burn tell which inode each is: the one that had this path, size and
time. Where no set does and sets are missing, it becomes a new inode. Its hashes are those of
the bytes that are there now: nothing proves that these are the bytes that were burned.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hsmfs.daemon.catalogrecords import ExtentRecord
from hsmfs.daemon.namespaceset import SetLine
from hsmfs.errors import MediumError
from hsmfs.tools.rebuild.catalogfile import CatalogFile
from hsmfs.tools.rebuild.hashedfiles import HashedFile, hashed, read_hashes
from hsmfs.tools.rebuild.images import FoundVolume, opened
from hsmfs.tools.rebuild.namespacefile import INODES_SKIPPED
from hsmfs.tools.rebuild.recording import NotTaken
from hsmfs.tools.rebuild.scratch import DIRECTORIES, OTHERS, Known, Scratch
from hsmfs.tools.rebuild.unlistedparts import PartNames
from hsmfs.types import ROOT_INODE, FileVersion
from hsmfs.volume.manifest import FileResult
from hsmfs.volume.names import disc_path
from hsmfs.volume.reader import VolumeReader, WalkEntry
from hsmfs.volume.source import OWN_DIRECTORY, FileSource

DEPTH_MAX: Final = 4096
"""Of a directory; more is a loop."""
_OWN: Final = OWN_DIRECTORY.decode() + "/"
Noted = Callable[[str], AbstractContextManager[None]]


def own_files(found: FoundVolume, listed: Collection[str]) -> Iterator[FileSource]:
    """The volume's own files that no line tells of; gzip's CRC proves them."""
    for entry in _entries(found, listed):
        if entry.path.startswith(_OWN) and not entry.is_directory:
            path = entry.path.removeprefix(_OWN).encode()
            yield FileSource(path=path, ino=0, kind="own", size=entry.size)


def _entries(found: FoundVolume, listed: Collection[str]) -> Iterator[WalkEntry]:
    """Of all copies, each path once."""
    seen = set(listed)
    for image in found.images:
        with opened(image) as reader:
            for one in reader.unlisted(seen):
                if not isinstance(one, MediumError):
                    seen.add(one.path)
                    yield one


@dataclass(slots=True)
class Unlisted:
    """Takes them in; the scratch store has all sets by then."""

    scratch: Scratch
    catalog: CatalogFile
    noted: Noted
    highest_ino: int
    is_complete: bool
    """Whether the sets know every inode."""
    unproved: dict[tuple[str, FileVersion], str] = field(default_factory=dict)
    """What was taken in, with its path on the disc."""
    part_names: PartNames = field(default_factory=PartNames)
    unknown: int = 0
    """Files that are no inode's: left out, for the sets know all that there are."""
    new: int = 0
    _hashes: dict[Path, dict[int, HashedFile]] = field(default_factory=dict)
    """Of the volume that is taken in."""
    _parts: dict[str, FileSource] = field(default_factory=dict)
    """Of the volume that is taken in, by path on the disc."""

    def take(self, found: FoundVolume, listed: Collection[str], until: int) -> None:
        """A volume's; ``until`` is how far the newest set reaches that is not newer."""
        self._hashes = {image: read_hashes(image) for image in found.images}
        tree = {e.path: e for e in _entries(found, listed) if not e.path.startswith(_OWN)}
        tree.pop(OWN_DIRECTORY.decode(), None)
        blocks: dict[int, str] = {}
        files = {path: entry for path, entry in tree.items() if not entry.is_directory}
        self._take_parts(found, files, blocks)
        for ino, path, line in self._matches(files, until):
            blocks.setdefault(files[path].block, path)
            self._file(found, files[path], line, ino, line.data_version)
        for path, entry in files.items():
            if entry.block in blocks and self.is_complete:
                continue
            if self.is_complete:
                self.unknown += 1
            elif entry.block not in blocks:
                blocks[entry.block] = path
                self._file(found, entry, None, self._new_ino(), 1)
        if not self.is_complete:
            self._directories(found, tree)

    def _take_parts(
        self, found: FoundVolume, files: dict[str, WalkEntry], blocks: dict[int, str]
    ) -> None:
        """Parts of files that another volume's line tells of."""
        self._parts = {}
        for path, entry in list(files.items()):
            source = self.part_names.of(found.label, path, entry.size)
            if source is not None and entry.block not in blocks:
                blocks[entry.block] = path
                self._parts[path] = source
                self._file(found, files.pop(path), None, source.ino, source.data_version)

    def _new_ino(self) -> int:
        """A number that no disc has used."""
        self.new += 1
        return self.highest_ino + INODES_SKIPPED + self.new

    # -- which inode -----------------------------------------------------------------------

    def _matches(
        self, files: dict[str, WalkEntry], until: int
    ) -> Iterator[tuple[int, str, SetLine]]:
        """Inodes that were at one of these paths, with its size and time, when it was burned."""
        if not files:
            return
        directories = {
            ino: line.places()[0]
            for ino, line in self.scratch.lines_until(DIRECTORIES, until)
            if line.names and not line.gone
        }
        found = []
        for ino, line in self.scratch.lines_until(OTHERS, until):
            if line.gone or not stat.S_ISREG(line.mode):
                continue
            for parent, name in line.places():
                path = _path(directories, parent, name)
                entry = files.get(path) if path is not None else None
                if path is not None and entry is not None and _is_same(entry, line):
                    found.append((ino, path, line))
                    break
        yield from found

    # -- what is told of it ------------------------------------------------------------------

    def _file(
        self, found: FoundVolume, entry: WalkEntry, line: SetLine | None, ino: int, version: int
    ) -> None:
        images = sorted(found.images, key=lambda image: entry.block not in self._hashes[image])
        for image in images:
            with self.noted(f"{image}: {entry.path}"), opened(image) as reader:
                result = self._result(reader, image, entry)
                self._known(found, "file", entry, line, ino, version)
                self._extent(found, entry, result, FileVersion(ino, version))
                return

    def _result(self, reader: VolumeReader, image: Path, entry: WalkEntry) -> FileResult:
        """As it was read in a library's drive, or of the image itself."""
        known = self._hashes[image].get(entry.block)
        if known is not None:
            return known.found()
        try:
            return hashed(reader, entry)
        except NotTaken as error:
            raise MediumError("its bytes were not read from this disc") from error

    def _extent(
        self, found: FoundVolume, entry: WalkEntry, result: FileResult, file: FileVersion
    ) -> None:
        source = self._parts.get(entry.path)
        extent = ExtentRecord(
            offset=result.offset_bytes,
            size=result.size,
            xxh3_128=result.xxh3_128,
            sha256=result.sha256,
            chunks=result.chunk_xxh3,
            path=entry.path,
            start=source.part.start if source is not None and source.part is not None else 0,
            total=source.part.total if source is not None and source.part is not None else 0,
        )
        self.catalog.extent(found.label, file, extent)
        self.unproved[found.label, file] = entry.path

    def _known(
        self, found: FoundVolume, kind: str, entry: WalkEntry, line: SetLine | None, ino: int,
        version: int,
    ) -> None:  # fmt: skip
        source = self._parts.get(entry.path)
        if source is not None and source.part is not None:
            known = Known(
                found.label, kind, source.path, version, source.part.total, source.mode, source.uid,
                source.gid, source.mtime_ns, source.atime_ns, source.ctime_ns, source.xattrs, b"",
                False,
            )  # fmt: skip
            self.scratch.known(known, ino, found.header.created_ns)
            return
        kind_bits = stat.S_IFDIR if entry.is_directory else stat.S_IFREG
        known = Known(
            found.label, kind, os.fsencode(entry.path), version, entry.size,
            kind_bits | entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.atime_ns,
            entry.ctime_ns, line.xattr_bytes() if line is not None else {}, b"", False,
        )  # fmt: skip
        self.scratch.known(known, ino, found.header.created_ns)

    def _directories(self, found: FoundVolume, tree: dict[str, WalkEntry]) -> None:
        for entry in tree.values():
            if entry.is_directory:
                self._known(found, "dir", entry, None, self._new_ino(), 0)


def _path(directories: dict[int, tuple[int, bytes]], parent: int, name: bytes) -> str | None:
    """On the disc; None where a directory above it is not known."""
    names = [name]
    while parent != ROOT_INODE:
        above = directories.get(parent)
        if above is None or len(names) > DEPTH_MAX:
            return None
        parent, name = above
        names.append(name)
    return disc_path(b"/".join(reversed(names)))


def _is_same(entry: WalkEntry, line: SetLine) -> bool:
    return entry.size == line.size and entry.mtime_ns // 1000 == line.mtime_ns // 1000
