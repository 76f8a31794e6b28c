"""Where every byte of a volume will be, before the first one is written.

Metadata order: file set, then for each directory (depth first) its file
entry, its content, and the file entries of the files first named in it. Data
order: README, the files in the order of the entries, the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from hsmfs.errors import CallerError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.geometry import Geometry, sectors_of
from hsmfs.volume.manifest import MANIFEST_NAME
from hsmfs.volume.names import disc_name, encode_cs0
from hsmfs.volume.readme import README_NAME, readme
from hsmfs.volume.sequence import VolumeIdentity
from hsmfs.volume.source import OWN_DIRECTORY, FileSource, VolumeHeader
from hsmfs.volume.tally import FID_BYTES, FILE_SET_BLOCKS, PARENT_FID_BYTES, Tally

__all__ = ["FileSource", "Layout", "VolumeHeader", "plan_volume"]
FIRST_UNIQUE_ID: Final = 16
"""Lower ones are reserved; the root has 0 (UDF 2.50 section 3.2.1)."""


@dataclass(slots=True)
class Node:
    """What has a file entry on the disc."""

    entry: FileSource
    unique_id: int
    block: int = 0
    links: int = 1


@dataclass(slots=True)
class FileNode(Node):
    """A file's place in the data."""

    sector: int = 0
    name: str = ""
    """Set for the volume's own two files only."""

    @property
    def sectors(self) -> int:
        return sectors_of(self.entry.size)


@dataclass(slots=True)
class Name:
    """One record of a directory."""

    coded: bytes
    node: Node
    unique_id: int
    is_first: bool


@dataclass(slots=True)
class DirectoryNode(Node):
    """A directory and its names, in the order in which they came."""

    parent: DirectoryNode | None = None
    names: list[Name] = field(default_factory=list)
    content_bytes: int = PARENT_FID_BYTES

    def owned(self) -> Iterator[FileNode]:
        """The files whose first name is here."""
        for name in self.names:
            if name.is_first and isinstance(name.node, FileNode):
                yield name.node

    def subdirectories(self) -> list[DirectoryNode]:
        return [name.node for name in self.names if isinstance(name.node, DirectoryNode)]


@dataclass(slots=True)
class Layout:
    """A planned volume; all that the writer needs besides the data."""

    header: VolumeHeader
    entries: Sequence[FileSource]
    geometry: Geometry
    root: DirectoryNode
    files: list[FileNode]
    """In data order, README first and manifest last."""
    identity: VolumeIdentity

    @property
    def total_sectors(self) -> int:
        return self.geometry.total_sectors

    @property
    def extents(self) -> dict[int, int]:
        """Byte offset of each file's data, by inode."""
        return {
            node.entry.ino: node.sector * SECTOR_BYTES
            for node in self.files[1:-1]
            if node.entry.kind == "file"
        }

    def directories(self) -> Iterator[DirectoryNode]:
        """Depth first from the root, the order of the metadata."""
        stack = [self.root]
        while stack:
            node = stack.pop()
            yield node
            stack += reversed(node.subdirectories())


class _Tree:
    """Nodes while they are made."""

    def __init__(self, header: VolumeHeader) -> None:
        self.header = header
        self.next_unique_id = FIRST_UNIQUE_ID
        self.root = DirectoryNode(self._default(b"", 0o40755, "dir"), 0)
        self.directories: dict[bytes, DirectoryNode] = {b"": self.root}
        self.by_path: dict[bytes, FileNode] = {}
        self.files: list[FileNode] = []
        self.own = self._attach(self.root, self._default(b"", 0o40755, "dir"))
        self._name(self.root, OWN_DIRECTORY.decode(), self.own, is_first=True)
        self.directories[OWN_DIRECTORY + b"/"] = self.own

    def _default(self, path: bytes, mode: int, kind: str, size: int = 0) -> FileSource:
        when = self.header.created_ns
        return FileSource(
            path=path,
            ino=0,
            size=size,
            mode=mode,
            kind=kind,
            mtime_ns=when,
            atime_ns=when,
            ctime_ns=when,
        )

    def _take_id(self) -> int:
        self.next_unique_id += 1
        return self.next_unique_id - 1

    def _attach(self, parent: DirectoryNode, entry: FileSource) -> DirectoryNode:
        parent.links += 1
        return DirectoryNode(entry, self._take_id(), parent=parent)

    def _name(self, parent: DirectoryNode, name: str, node: Node, *, is_first: bool) -> None:
        coded = encode_cs0(name)
        parent.content_bytes += (FID_BYTES + len(coded) + 3) & ~3
        unique_id = node.unique_id if is_first else self._take_id()
        parent.names.append(Name(coded, node, unique_id, is_first))

    def own_file(self, name: str, size: int) -> None:
        node = FileNode(self._default(b"", 0o100444, "file", size), self._take_id(), name=name)
        self._name(self.own, name, node, is_first=True)
        self.files.append(node)

    def _directory(self, path: bytes) -> DirectoryNode:
        """Made with defaults, and its parents too, where it is missing."""
        missing = []
        while path not in self.directories:
            missing.append(path)
            path = path.rpartition(b"/")[0]
        node = self.directories[path]
        for path in reversed(missing):
            parent = node
            node = self._attach(parent, self._default(path, 0o40755, "dir"))
            self._name(parent, self._disc_name(path), node, is_first=True)
            self.directories[path] = node
        return node

    @staticmethod
    def _disc_name(path: bytes) -> str:
        parent, _, name = path.rpartition(b"/")
        return disc_name(name, at_root=not parent)

    def add(self, entry: FileSource) -> None:
        if entry.kind == "dir":
            self._directory(entry.path).entry = entry
            return
        parent = self._directory(entry.key.rpartition(b"/")[0])
        if entry.kind == "symlink":
            return
        if entry.link_of is not None:
            node = self.by_path[entry.link_of]
            node.links += 1
        else:
            node = self.by_path[entry.key] = FileNode(entry, self._take_id())
            self.files.append(node)
        self._name(parent, self._disc_name(entry.key), node, is_first=entry.link_of is None)


def plan_volume(
    header: VolumeHeader, entries: Sequence[FileSource], capacity_sectors: int
) -> Layout:
    """Lay out a volume; CallerError where the entries cannot be on one disc."""
    tally = Tally(header)
    if not tally.add_all(entries, capacity_sectors):
        raise CallerError(
            f"volume {header.label}: {len(entries)} entries do not fit {capacity_sectors} "
            "sectors; plan fewer, or use a larger disc"
        )
    tree = _Tree(header)
    tree.own_file(README_NAME, len(readme(header)))
    for entry in entries:
        tree.add(entry)
    tree.own_file(MANIFEST_NAME, tally.manifest_bytes)
    identity = VolumeIdentity(
        label=header.label,
        site=header.site,
        created_ns=header.created_ns,
        files=tally.files,
        directories=tally.directories,
        next_unique_id=tree.next_unique_id,
    )
    layout = Layout(header, entries, tally.geometry(), tree.root, tree.files, identity)
    _place(layout)
    return layout


def _place(layout: Layout) -> None:
    """Give each file entry its block and each file its sectors."""
    block = FILE_SET_BLOCKS
    for directory in layout.directories():
        directory.block = block
        block += 1 + sectors_of(directory.content_bytes)
        for node in directory.owned():
            node.block = block
            block += 1
    sector = layout.geometry.data_sector
    for node in layout.files:
        node.sector = sector
        sector += node.sectors
    assert block == layout.geometry.metadata_used_blocks
    assert sector == layout.geometry.data_end_sector
