"""From the namespace's files to entries of a volume."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from hsmfs.namespace.view import NamespaceView
from hsmfs.records import InodeRecord
from hsmfs.types import FileVersion, Residency
from hsmfs.volume.layout import FileSource

_KINDS: Final = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}
MIGRATABLE: Final = frozenset({Residency.RESIDENT})


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file that a walk met."""

    path: bytes
    ino: int
    data_version: int
    size: int
    state: Residency

    @property
    def file(self) -> FileVersion:
        return FileVersion(self.ino, self.data_version)


def found(path: bytes, record: InodeRecord) -> Found:
    """What a walk keeps of a file."""
    return Found(path, record.ino, record.data_version, record.size, Residency(record.state))


def regular_files(view: NamespaceView, path: bytes, *, recursive: bool) -> Iterator[Found]:
    """The file at ``path``, or all files below it, each inode once.

    Raises FileNotFoundError where there is nothing.
    """
    ino = view.lookup_path(path)
    record = view.inode(ino) if ino is not None else None
    if ino is None or record is None:
        raise FileNotFoundError(os.fsdecode(path))
    if stat.S_ISREG(record.mode):
        yield found(path, record)
        return
    if not stat.S_ISDIR(record.mode):
        return
    seen: set[int] = set()
    entries = view.walk(ino, path) if recursive else _shallow(view, ino, path)
    for entry_path, entry in entries:
        if stat.S_ISREG(entry.mode) and entry.ino not in seen:
            if entry.nlink > 1:
                seen.add(entry.ino)
            yield found(entry_path, entry)


def _shallow(view: NamespaceView, ino: int, path: bytes) -> Iterator[tuple[bytes, InodeRecord]]:
    for name, child in view.children(ino):
        record = view.inode(child)
        if record is not None:
            yield (path + b"/" + name if path else name), record


def sources_of(view: NamespaceView, inodes: Iterable[int]) -> list[FileSource]:
    """Entries for a volume: each file with its further names after it."""
    entries: list[FileSource] = []
    for ino in inodes:
        record = view.inode(ino)
        paths = view.paths_of(ino) if record is not None else []
        if record is None or not paths:
            continue
        first = paths[0]
        entries.append(source_of(view, first, record))
        entries += [source_of(view, path, record, link_of=first) for path in paths[1:]]
    return entries


def parents_of(view: NamespaceView, paths: Iterable[bytes]) -> list[FileSource]:
    """Directory entries of all parents, outermost first, each once."""
    wanted: set[bytes] = set()
    for path in paths:
        while b"/" in path:
            path = path.rpartition(b"/")[0]
            if path in wanted:
                break
            wanted.add(path)
    entries = []
    for path in sorted(wanted, key=lambda p: (p.count(b"/"), p)):
        ino = view.lookup_path(path)
        record = view.inode(ino) if ino is not None else None
        if record is not None:
            entries.append(source_of(view, path, record))
    return entries


def source_of(
    view: NamespaceView, path: bytes, record: InodeRecord, link_of: bytes | None = None
) -> FileSource:
    """One entry with all the attributes that a disc records."""
    kind = _KINDS[stat.S_IFMT(record.mode)]
    return FileSource(
        path=path,
        ino=record.ino,
        data_version=record.data_version,
        size=record.size if kind == "file" else 0,
        mtime_ns=record.mtime_ns,
        atime_ns=record.atime_ns,
        ctime_ns=record.ctime_ns,
        mode=record.mode,
        uid=record.uid,
        gid=record.gid,
        xattrs=view.xattrs(record.ino),
        link_of=link_of,
        kind=kind,
        target=(view.symlink(record.ino) or b"") if kind == "symlink" else b"",
    )


def founds(view: NamespaceView, inodes: Iterable[int]) -> list[Found]:
    """The regular files among these inodes that still have a name."""
    items = []
    for ino in inodes:
        record = view.inode(ino)
        paths = view.paths_of(ino) if record is not None else []
        if record is not None and paths and stat.S_ISREG(record.mode):
            items.append(found(paths[0], record))
    return items


def parent_paths(path: bytes) -> list[bytes]:
    """All directories above a path, outermost first."""
    parts = path.split(b"/")[:-1]
    return [b"/".join(parts[: i + 1]) for i in range(len(parts))]
