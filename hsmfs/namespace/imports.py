"""Trees of stubs from discs that others wrote: made in batches, removed in batches.

Key ``Mimports``: msgpack of ``{label: Import}``. The root of a tree is marked
before anything is in it, and each step may be done again: an import that was
cut is gone on with, or taken away. Until it is done its files cannot be
opened, since hsmd may not know yet where they lie.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from hsmfs.deferred import Deferred
from hsmfs.errors import FsError
from hsmfs.namespace import schema
from hsmfs.namespace.model import LINKS_MAX, SYMLINK_BYTES_MAX, Caller
from hsmfs.namespace.openfiles import OpenFiles
from hsmfs.namespace.quotas import Quotas
from hsmfs.namespace.readonly import check_writable
from hsmfs.namespace.removal import Removal
from hsmfs.namespace.stubs import flush_into
from hsmfs.namespace.tables import Tables
from hsmfs.namespace.tree import DEPTH_MAX, Tree, check_name
from hsmfs.records import FLAG_FOREIGN, FLAG_IMPORT, FLAG_SEEN, FLAG_WORM, InodeRecord, within_time
from hsmfs.rpc.messages import (
    IMPORT_BATCH_MAX,
    FileResult,
    ImportAdd,
    ImportBegin,
    ImportEntry,
    ImportLeft,
    ImportRoot,
)
from hsmfs.types import ROOT_INODE, FileVersion, Residency

IMPORTS_KEY: Final = b"Mimports"
ROOT_MODE: Final = stat.S_IFDIR | 0o755
_PLAIN: Final = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


class Import(msgspec.Struct, array_like=True):
    """One tree."""

    ino: int
    """Of its root."""
    done: bool = False


@dataclass(slots=True)
class _Level:
    """A directory on the way down to what is removed."""

    folder: InodeRecord
    name: bytes
    entries: list[tuple[int, bytes]]


class Imports:
    """All imported trees. ``name_changed`` is told of directory and name of each root,
    ``names_made`` of those below: programs may have listed the directories already."""

    def __init__(
        self, tables: Tables, tree: Tree, files: OpenFiles, removal: Removal, quotas: Quotas
    ) -> None:
        self.tables = tables
        self.tree = tree
        self.files = files
        self.removal = removal
        self.quotas = quotas
        self.name_changed: Callable[[int, bytes], None] = lambda parent, name: None
        self.names_made: Callable[[Sequence[tuple[int, bytes]]], None] = lambda names: None
        self._fresh: list[tuple[int, bytes]] = []
        stored = tables.kv.get(IMPORTS_KEY)
        self.known: dict[str, Import] = (
            msgspec.msgpack.decode(stored, type=dict[str, Import]) if stored else {}
        )
        self._unfinished = {one.ino for one in self.known.values() if not one.done}
        self._place: tuple[int, bytes, InodeRecord] | None = None
        """Root, path and record of the directory that was added to last."""

    def _save(self) -> None:
        self._place = None
        self._unfinished = {one.ino for one in self.known.values() if not one.done}
        self.tables.kv.put(IMPORTS_KEY, msgspec.msgpack.encode(self.known))

    def check_open(self, record: InodeRecord, flags: int) -> None:
        """EROFS to write; EBUSY while its import is under way."""
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            check_writable(self.tables.guard, record, "open")
        if self._unfinished and self._root_of(record.ino) in self._unfinished:
            raise FsError(errno.EBUSY, "the import of this disc is under way")

    def _root_of(self, ino: int) -> int:
        """The nearest root above, or 0."""
        for _ in range(DEPTH_MAX):
            if self.tables.inode(ino).flags & FLAG_IMPORT:
                return ino
            place = self.tables.parent_of(ino)
            if place is None:
                return 0
            ino = place[0]
        return 0

    # -- making ------------------------------------------------------------------------

    def begin(self, call: ImportBegin) -> Deferred[ImportRoot]:
        """The root directory: a new one, or one that is there and empty."""
        known = self.known.get(call.label)
        if known is None or not self._is_there(known.ino):
            root = self._root(call.path)
            root.flags |= FLAG_FOREIGN | FLAG_IMPORT
            self.tables.save(root)
            known = self.known[call.label] = Import(root.ino)
            self._save()
        if call.again and known.done:
            known.done = False
            self._save()
        answer: Deferred[ImportRoot] = Deferred()
        flush_into(self.tables, answer, ImportRoot(known.ino, known.done))
        return answer

    def _is_there(self, ino: int) -> bool:
        try:
            return bool(self.tables.inode(ino).flags & FLAG_IMPORT)
        except FsError:
            return False

    def _root(self, path: bytes) -> InodeRecord:
        names = [name for name in path.split(b"/") if name]
        if not names:
            raise FsError(errno.EINVAL, "the root of the mount cannot be an import")
        folder = self.tree.directory(ROOT_INODE)
        for name in names[:-1]:
            folder = self.tree.directory(self.tree.find(folder.ino, name).ino)
        check_writable(self.tables.guard, folder, "import")
        if folder.flags & FLAG_WORM:
            raise FsError(errno.EPERM, "in a tree with a retention; import it elsewhere")
        ino = self.tables.entry(folder.ino, names[-1])
        if ino is None:
            root = self.tree.make(folder.ino, names[-1], ROOT_MODE, Caller(0, 0))
            self.name_changed(folder.ino, names[-1])
            return root
        root = self.tree.directory(ino)
        check_writable(self.tables.guard, root, "import")
        if not self.tables.is_empty(ino):
            raise FsError(errno.ENOTEMPTY, f"{os.fsdecode(path)} is not empty")
        place = self.tables.parent_of(ino)
        assert place is not None
        self.name_changed(*place)
        return root

    def add(self, call: ImportAdd) -> Deferred[list[FileResult]]:
        """Entries, each directory before what is in it; what is there already stays."""
        known = self._unfinished_import(call.label)
        if len(call.entries) > IMPORT_BATCH_MAX:
            raise FsError(errno.E2BIG, f"more than {IMPORT_BATCH_MAX} entries in a batch")
        try:
            results = [self._add(known.ino, call.label, entry) for entry in call.entries]
        finally:
            fresh, self._fresh = self._fresh, []
            self.names_made(fresh)
        answer: Deferred[list[FileResult]] = Deferred()
        flush_into(self.tables, answer, results)
        return answer

    def _unfinished_import(self, label: str) -> Import:
        known = self.known.get(label)
        if known is None or known.done:
            raise FsError(errno.ESTALE, f"import {label} is not under way")
        return known

    def _add(self, root: int, label: str, entry: ImportEntry) -> FileResult:
        folder, _, name = entry.path.rpartition(b"/")
        try:
            record = self._made(self._directory(root, folder), name, label, entry)
        except FsError as error:
            if error.errno in (errno.EDQUOT, errno.ENOSPC, errno.EIO):
                raise
            return FileResult(FileVersion(0, 0), f"{os.fsdecode(entry.path)!a}: {error.why}")
        return FileResult(FileVersion(record.ino, record.data_version))

    def _directory(self, root: int, path: bytes) -> InodeRecord:
        """Of the tree, by its path; entries come directory by directory."""
        if self._place is not None and self._place[:2] == (root, path):
            return self._place[2]
        record = self.tree.directory(root)
        for name in path.split(b"/") if path else ():
            record = self.tree.directory(self.tree.find(record.ino, name).ino)
        self._place = (root, path, record)
        return record

    def _made(
        self, folder: InodeRecord, name: bytes, label: str, entry: ImportEntry
    ) -> InodeRecord:
        check_name(name)
        kind = stat.S_IFMT(entry.mode)
        size = len(entry.target) if kind == stat.S_IFLNK else entry.size
        if kind not in _PLAIN or not 0 <= len(entry.target) <= SYMLINK_BYTES_MAX or size < 0:
            raise FsError(errno.EINVAL)
        there = self.tables.entry(folder.ino, name)
        if there is not None:
            record = self.tables.inode(there)
            if stat.S_IFMT(record.mode) != kind or (kind != stat.S_IFDIR and record.size != size):
                raise FsError(errno.EEXIST, "another entry has this name")
            return record
        if kind == stat.S_IFDIR and folder.nlink >= LINKS_MAX:
            raise FsError(errno.EMLINK)
        return self._new(folder, name, label, entry, size if kind != stat.S_IFDIR else 0)

    def _new(
        self, folder: InodeRecord, name: bytes, label: str, entry: ImportEntry, size: int
    ) -> InodeRecord:
        tables = self.tables
        record = tables.new_inode(entry.mode, entry.uid, entry.gid)
        record.project = folder.project
        try:
            is_file = stat.S_ISREG(entry.mode)
            self.quotas.add(record, size if is_file else 0, 1)
        except FsError:
            record.project = 0
            tables.drop_inode(record)
            raise
        record.size = size
        record.flags |= FLAG_FOREIGN
        record.atime_ns, record.mtime_ns = within_time(entry.atime_ns), within_time(entry.mtime_ns)
        record.ctime_ns = within_time(entry.ctime_ns)
        if stat.S_ISDIR(entry.mode):
            record.nlink = 2
            folder.nlink += 1
            tables.save(folder)
        elif stat.S_ISLNK(entry.mode):
            tables.kv.put(schema.symlink_key(record.ino), entry.target)
        else:
            record.flags |= FLAG_SEEN
            record.state, record.copies = Residency.MIGRATED, 1
            tables.put_xattr(record, schema.VOLUMES_XATTR, label.encode())
        tables.add_entry(folder.ino, name, record, record.ino)
        tables.save(record)
        self._fresh.append((folder.ino, name))
        return record

    def end(self, label: str) -> Deferred[None]:
        """All is there and hsmd knows where it lies: files may be opened."""
        known = self.known.get(label)
        if known is None:
            raise FsError(errno.ESTALE, f"import {label} is not under way")
        known.done = True
        self._save()
        answer: Deferred[None] = Deferred()
        flush_into(self.tables, answer, None)
        return answer

    # -- removing ------------------------------------------------------------------------

    def forget(self, label: str) -> Deferred[ImportLeft]:
        """Take away up to a batch of entries, from the leaves up; at last the root."""
        known = self.known.get(label)
        left = False
        if known is not None:
            known.done = False
            self._save()
            left = self._is_there(known.ino) and self._prune(known.ino)
            if not left:
                del self.known[label]
                self._save()
        answer: Deferred[ImportLeft] = Deferred()
        flush_into(self.tables, answer, ImportLeft(left))
        return answer

    def _prune(self, root: int) -> bool:
        """Whether something is left. Each directory is listed once in a batch."""
        left = IMPORT_BATCH_MAX
        levels = [self._level(self.tree.directory(root), b"", left)]
        while left > 0:
            level = levels[-1]
            if level.entries:
                ino, name = level.entries.pop()
                record = self.tables.inode(ino)
                if stat.S_ISDIR(record.mode) and len(levels) < DEPTH_MAX:
                    levels.append(self._level(record, name, left))
                    continue
                self._remove(level.folder, name, record)
            elif len(levels) > 1:
                levels.pop()
                self._remove(levels[-1].folder, level.name, level.folder)
            else:
                self._remove_root(level.folder)
                return False
            left -= 1
        return True

    def _level(self, folder: InodeRecord, name: bytes, limit: int) -> _Level:
        """With no more entries than are to be removed: one that has none left is empty."""
        listed = self.tables.listed(folder.ino, 0, limit)
        return _Level(folder, name, [(ino, child) for _, ino, _, child in listed])

    def _remove(self, folder: InodeRecord, name: bytes, record: InodeRecord) -> None:
        self.tables.remove_entry(folder.ino, name, record.ino)
        if stat.S_ISDIR(record.mode):
            folder.nlink -= 1
            self.tables.save(folder)
        record.nlink = 0
        self.tables.save(record)
        if self.files.get(record.ino) is not None:
            self.removal.removed(record)
        else:  # the kernel may never have heard of it, and would never forget it
            self.removal.drop(record)

    def _remove_root(self, root: InodeRecord) -> None:
        place = self.tables.parent_of(root.ino)
        root.flags &= ~(FLAG_FOREIGN | FLAG_IMPORT)
        self.tables.save(root)
        if place is not None:
            self.tree.rmdir(*place)
            self.name_changed(*place)
