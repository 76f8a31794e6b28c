"""Where every byte of a volume will be, before the first one is written.

Metadata order: file set, then for each directory (depth first) its file
entry, its content, and the file entries of the files first named in it. Data
order: README, the files in the order of the entries, the manifest.

The entries are gone through several times, so they are a sequence, in memory or
read from a plan file (see ``entries.py``); besides them a layout takes some 40 bytes
an entry.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from hsmfs.errors import CallerError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.geometry import Geometry, sectors_of
from hsmfs.volume.manifest import MANIFEST_NAME
from hsmfs.volume.readme import README_NAME, readme
from hsmfs.volume.sequence import VolumeIdentity
from hsmfs.volume.source import UDF_REVISIONS, FileSource, VolumeHeader
from hsmfs.volume.tree import FIRST_UNIQUE_ID, MANIFEST, README, Planner, Tree

__all__ = [
    "FIRST_UNIQUE_ID",
    "DataFile",
    "FileSource",
    "Layout",
    "OwnFile",
    "VolumeHeader",
    "plan_volume",
]
OWN_MODE: Final = 0o100444


@dataclass(frozen=True, slots=True)
class OwnFile:
    """README or manifest: in no plan, but on every volume."""

    name: str
    size: int
    unique_id: int
    block: int
    sector: int

    @property
    def sectors(self) -> int:
        return sectors_of(self.size)


@dataclass(frozen=True, slots=True)
class DataFile:
    """An entry whose bytes are written, and where."""

    entry: FileSource
    sector: int

    @property
    def sectors(self) -> int:
        return sectors_of(self.entry.size)

    @property
    def offset_bytes(self) -> int:
        return self.sector * SECTOR_BYTES


@dataclass(slots=True)
class Layout:
    """A planned volume; all that the writer needs besides the data."""

    header: VolumeHeader
    entries: Sequence[FileSource]
    geometry: Geometry
    identity: VolumeIdentity
    tree: Tree
    content_bytes: array[int]
    """Of each directory, by its number."""
    own_files: tuple[OwnFile, OwnFile]
    """README and manifest."""

    @property
    def total_sectors(self) -> int:
        return self.geometry.total_sectors

    @property
    def readme(self) -> OwnFile:
        return self.own_files[0]

    @property
    def manifest(self) -> OwnFile:
        return self.own_files[1]

    def placed(self) -> Iterator[tuple[FileSource, int | None]]:
        """All entries, with the first sector of those that have data."""
        first = self.geometry.data_sector
        for entry, sector in zip(self.entries, self.tree.sector, strict=True):
            yield entry, first + sector if entry.has_data else None

    def data_files(self) -> Iterator[DataFile]:
        """What is planned with data, in data order; README and manifest are not."""
        for entry, sector in self.placed():
            if sector is not None:
                yield DataFile(entry, sector)

    @property
    def extents(self) -> dict[int, int]:
        """Byte offset of each file's data, by inode."""
        return {
            file.entry.ino: file.offset_bytes
            for file in self.data_files()
            if file.entry.kind == "file"
        }

    def default(self, mode: int, kind: str, size: int = 0) -> FileSource:
        """Attributes of what no entry tells of: the volume's own time and root."""
        when = self.header.created_ns
        return FileSource(
            path=b"",
            ino=0,
            size=size,
            mode=mode,
            kind=kind,
            mtime_ns=when,
            atime_ns=when,
            ctime_ns=when,
        )


def plan_volume(
    header: VolumeHeader, entries: Sequence[FileSource], capacity_sectors: int
) -> Layout:
    """Lay out a volume; CallerError where the entries cannot be on one disc."""
    planner = Planner(header)
    for entry in entries:
        planner.add(entry)
    geometry = planner.geometry()
    if not geometry.fits(capacity_sectors):
        raise CallerError(
            f"volume {header.label}: {len(entries)} entries do not fit {capacity_sectors} "
            "sectors; plan fewer, or use a larger disc"
        )
    manifest_id = planner.close()
    tree, content_bytes = planner.tree, planner.content_bytes
    blocks = tree.place(content_bytes, geometry.first_block)
    assert blocks == geometry.metadata_used_blocks
    first = OwnFile(
        README_NAME,
        len(readme(header)),
        planner.readme_id,
        tree.own_block(README, content_bytes),
        geometry.data_sector,
    )
    last = OwnFile(
        MANIFEST_NAME,
        planner.manifest_bytes,
        manifest_id,
        tree.own_block(MANIFEST, content_bytes),
        geometry.data_end_sector - sectors_of(planner.manifest_bytes),
    )
    identity = VolumeIdentity(
        label=header.label,
        site=header.site,
        created_ns=header.created_ns,
        files=planner.files,
        directories=planner.directories,
        next_unique_id=planner.next_unique_id,
        revision=UDF_REVISIONS[header.udf],
    )
    return Layout(header, entries, geometry, identity, tree, content_bytes, (first, last))
