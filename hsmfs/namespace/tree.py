"""Names: directories, links, renames."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from typing import Final

from hsmfs.errors import FsError
from hsmfs.namespace import acl, schema
from hsmfs.namespace.model import (
    LINKS_MAX,
    NAME_BYTES_MAX,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    SYMLINK_BYTES_MAX,
    Attr,
    Caller,
)
from hsmfs.namespace.readonly import check_writable
from hsmfs.namespace.tables import Tables
from hsmfs.records import FLAG_FOREIGN, FLAG_WORM, FLAG_XATTRS, FROZEN, InodeRecord
from hsmfs.types import ROOT_INODE

DEPTH_MAX: Final = 4096
"""Directories above one another; also ends a walk up a damaged tree."""


def check_name(name: bytes) -> None:
    """ENAMETOOLONG, or EINVAL for what is no name."""
    if len(name) > NAME_BYTES_MAX:
        raise FsError(errno.ENAMETOOLONG)
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise FsError(errno.EINVAL)


class Tree:
    """Operations on names. ``removed`` is told of inodes without any name left."""

    def __init__(self, tables: Tables, removed: Callable[[InodeRecord], None]) -> None:
        self.tables = tables
        self.born: Callable[[InodeRecord], None] = lambda record: None
        """Told of each new inode before it gets a name; may refuse it."""
        self._removed = removed
        self.linkable: set[int] = set()
        """Files made without a name, which may still get one."""

    def directory(self, ino: int) -> InodeRecord:
        """The record of a directory; ENOTDIR for anything else."""
        record = self.tables.inode(ino)
        if not stat.S_ISDIR(record.mode):
            raise FsError(errno.ENOTDIR)
        return record

    def known(self, parent: int, name: bytes) -> Attr | None:
        """Attributes of a name, or None where only a full lookup can tell why not."""
        ino = self.tables.entry(parent, name)
        return None if ino is None else self.tables.attr(self.tables.inode(ino))

    def is_absent(self, parent: int, name: bytes) -> bool:
        """Whether a name that is not known could be made there."""
        folder = self.tables.inode(parent)
        ordinary = len(name) <= NAME_BYTES_MAX and name not in (b".", b"..")
        return ordinary and stat.S_ISDIR(folder.mode)

    def lookup(self, parent: int, name: bytes) -> Attr:
        """Attributes of a name; ENOENT."""
        return self.tables.attr(self.find(parent, name))

    def find(self, parent: int, name: bytes) -> InodeRecord:
        """The record that a name stands for; ``.`` and ``..`` too."""
        tables = self.tables
        ino = tables.entry(parent, name)
        if ino is not None:
            return tables.inode(ino)
        record = tables.inode(parent)
        if name == b".":
            return record
        if not stat.S_ISDIR(record.mode):
            raise FsError(errno.ENOTDIR)
        if name == b"..":
            place = tables.parent_of(parent)
            return tables.inode(place[0]) if place else record
        if len(name) > NAME_BYTES_MAX:
            raise FsError(errno.ENAMETOOLONG)
        raise FsError(errno.ENOENT)

    # -- making --------------------------------------------------------------

    def make(
        self, parent: int, name: bytes, mode: int, caller: Caller, rdev: int = 0
    ) -> InodeRecord:
        """A new inode under a new name: EEXIST, ENOENT for a removed directory."""
        check_name(name)
        folder = self.directory(parent)
        if folder.nlink == 0:
            raise FsError(errno.ENOENT)
        if self.tables.entry(parent, name) is not None:
            raise FsError(errno.EEXIST)
        check_writable(self.tables.guard, folder, "make")
        if stat.S_ISDIR(mode) and folder.nlink >= LINKS_MAX:
            raise FsError(errno.EMLINK)
        record = self._new(folder, mode, caller, rdev)
        if stat.S_ISDIR(mode):
            record.nlink = 2
            folder.nlink += 1
        self.tables.add_entry(parent, name, record, record.ino)
        self.tables.save(record)
        self.tables.touch_parent(folder)
        self.tables.journal("make", record.ino, parent, name, mode)
        return record

    def _new(self, folder: InodeRecord, mode: int, caller: Caller, rdev: int) -> InodeRecord:
        """A record with the group, mode and ACLs that the directory gives."""
        tables = self.tables
        default = b""
        if folder.flags & FLAG_XATTRS and not stat.S_ISLNK(mode):
            default = tables.kv.get(schema.xattr_key(folder.ino, acl.DEFAULT)) or b""
        if not default:
            gid, mode = self._inherit(folder, mode & ~_umask(mode, caller), caller)
            return self._born(folder, mode, caller.uid, gid, rdev)
        entries, mode = acl.inherit(acl.parse(default), mode)
        gid, mode = self._inherit(folder, mode, caller)
        record = self._born(folder, mode, caller.uid, gid, rdev)
        if not acl.is_trivial(entries):
            tables.put_xattr(record, acl.ACCESS, acl.build(entries))
        if stat.S_ISDIR(mode):
            tables.put_xattr(record, acl.DEFAULT, default)
        return record

    def _born(self, folder: InodeRecord, mode: int, uid: int, gid: int, rdev: int) -> InodeRecord:
        record = self.tables.new_inode(mode, uid, gid, rdev)
        if folder.project:
            record.project = folder.project
            try:
                self.born(record)
            except FsError:
                self.tables.drop_inode(record)
                raise
        if folder.flags & FLAG_WORM:
            record.flags |= FLAG_WORM
            self.tables.guard.born(record, folder)
        return record

    def tmpfile(self, parent: int, mode: int, caller: Caller) -> InodeRecord:
        """A file without a name (O_TMPFILE); ``link`` may give it one."""
        folder = self.directory(parent)
        check_writable(self.tables.guard, folder, "make")
        record = self._new(folder, stat.S_IFREG | stat.S_IMODE(mode), caller, 0)
        record.nlink = 0
        self.linkable.add(record.ino)
        self.tables.save(record)
        self.tables.mark(record.ino, schema.MARK_ORPHAN)
        return record

    def _inherit(self, folder: InodeRecord, mode: int, caller: Caller) -> tuple[int, int]:
        """Group of a set-gid directory; directories in it are set-gid too."""
        if not folder.mode & stat.S_ISGID:
            return caller.gid, mode
        if stat.S_ISDIR(mode):
            mode |= stat.S_ISGID
        return folder.gid, mode

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attr:
        """A symbolic link; ENAMETOOLONG for a target beyond PATH_MAX."""
        if len(target) > SYMLINK_BYTES_MAX:
            raise FsError(errno.ENAMETOOLONG)
        record = self.make(parent, name, stat.S_IFLNK | 0o777, caller._replace(umask=0))
        record.size = len(target)
        self.tables.kv.put(schema.symlink_key(record.ino), target)
        self.tables.save(record)
        return self.tables.attr(record)

    def readlink(self, ino: int) -> bytes:
        """The target; EINVAL for anything but a symbolic link."""
        target = self.tables.kv.get(schema.symlink_key(ino))
        if target is None:
            self.tables.inode(ino)
            raise FsError(errno.EINVAL)
        return target

    def link(self, ino: int, parent: int, name: bytes) -> Attr:
        """One more name: EPERM for directories, EMLINK at the bound."""
        check_name(name)
        self.tables.check_commits()
        record, folder = self.tables.inode(ino), self.directory(parent)
        if stat.S_ISDIR(record.mode):
            raise FsError(errno.EPERM)
        if folder.nlink == 0 or (record.nlink == 0 and ino not in self.linkable):
            raise FsError(errno.ENOENT)
        if record.nlink >= LINKS_MAX:
            raise FsError(errno.EMLINK)
        if self.tables.entry(parent, name) is not None:
            raise FsError(errno.EEXIST)
        if record.project != folder.project:
            raise FsError(errno.EXDEV)
        guard = self.tables.guard
        check_writable(guard, record, "link")
        check_writable(guard, folder, "link")
        if (record.flags | folder.flags) & FLAG_WORM:
            self._check_linked(record, folder)
        if record.nlink == 0:
            self.linkable.discard(ino)
            self.tables.unmark(ino)
        record.nlink += 1
        record.ctime_ns = self.tables.clock.now_ns()
        self.tables.add_entry(parent, name, record)
        self.tables.save(record)
        self.tables.touch_parent(folder)
        self.tables.journal("link", ino, parent, name)
        return self.tables.attr(record)

    def _check_linked(self, record: InodeRecord, folder: InodeRecord) -> None:
        """A file of a tree with a retention has names there only: EXDEV."""
        tables = self.tables
        if not record.flags & folder.flags & FLAG_WORM:
            raise FsError(errno.EXDEV)
        if record.nlink == 0:
            tables.guard.born(record, folder)
            return
        place = tables.parent_of(record.ino)
        if place is None or not tables.guard.same_tree(self.directory(place[0]), folder):
            raise FsError(errno.EXDEV)
        tables.guard.touched(record)

    # -- removing --------------------------------------------------------------

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name; EISDIR for directories."""
        record = self.find(parent, name)
        if stat.S_ISDIR(record.mode):
            raise FsError(errno.EISDIR)
        check_writable(self.tables.guard, record, "unlink")
        self.tables.remove_entry(parent, name, record.ino)
        self.tables.touch_parent(self.directory(parent))
        self.tables.journal("unlink", record.ino, parent, name)
        self._lose_link(record)

    def _lose_link(self, record: InodeRecord) -> None:
        record.nlink -= 1
        record.ctime_ns = self.tables.clock.now_ns()
        self.tables.save(record)
        if record.nlink == 0:
            self._removed(record)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory; ENOTEMPTY, ENOTDIR."""
        if name == b".":
            raise FsError(errno.EINVAL)
        if name == b"..":
            raise FsError(errno.ENOTEMPTY)
        record = self.find(parent, name)
        if not stat.S_ISDIR(record.mode):
            raise FsError(errno.ENOTDIR)
        guard = self.tables.guard
        check_writable(guard, record, "rmdir")
        if not self.tables.is_empty(record.ino):
            raise FsError(errno.ENOTEMPTY)
        if record.flags & FLAG_WORM:
            guard.moving(record)
        self._remove_directory(parent, name, record)

    def _remove_directory(self, parent: int, name: bytes, record: InodeRecord) -> None:
        folder = self.directory(parent)
        self.tables.remove_entry(parent, name, record.ino)
        folder.nlink -= 1
        self.tables.touch_parent(folder)
        self.tables.journal("rmdir", record.ino, parent, name)
        record.nlink = 0
        record.ctime_ns = folder.ctime_ns
        self.tables.save(record)
        self._removed(record)

    # -- renaming ----------------------------------------------------------------

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> None:
        """rename(2) with RENAME_NOREPLACE and RENAME_EXCHANGE."""
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == 3:
            raise FsError(errno.EINVAL)
        check_name(new_name)
        check_name(name)
        before, after = self.directory(parent), self.directory(new_parent)
        guard = self.tables.guard
        check_writable(guard, before, "rename")
        check_writable(guard, after, "rename")
        if before.project != after.project:
            raise FsError(errno.EXDEV)
        if (before.flags | after.flags) & FLAG_WORM and not guard.same_tree(before, after):
            raise FsError(errno.EXDEV)
        record = self.find(parent, name)
        if record.flags & FROZEN:
            raise guard.refused(record, "rename")
        _check_taken(before, record)
        self._check_cycle(record, new_parent)
        target_ino = self.tables.entry(new_parent, new_name)
        if flags & RENAME_EXCHANGE:
            if target_ino is None:
                raise FsError(errno.ENOENT)
            self._exchange(parent, name, record, new_parent, new_name, target_ino)
            return
        if target_ino is not None:
            if flags & RENAME_NOREPLACE:
                raise FsError(errno.EEXIST)
            if target_ino == record.ino:
                return
            self._make_way(record, new_parent, new_name, self.tables.inode(target_ino))
        self._move(parent, name, record, new_parent, new_name)

    def _check_cycle(self, record: InodeRecord, new_parent: int) -> None:
        """A directory may not move below itself: EINVAL."""
        if not stat.S_ISDIR(record.mode):
            return
        self.tables.guard.moving(record)
        ino = new_parent
        for _ in range(DEPTH_MAX):
            if ino == record.ino:
                raise FsError(errno.EINVAL)
            place = self.tables.parent_of(ino)
            if place is None or ino == ROOT_INODE:
                return
            ino = place[0]
        raise FsError(errno.ELOOP)

    def _make_way(self, record: InodeRecord, parent: int, name: bytes, target: InodeRecord) -> None:
        """Remove what the new name stands for, if it may be replaced."""
        check_writable(self.tables.guard, target, "replace")
        if stat.S_ISDIR(record.mode):
            if not stat.S_ISDIR(target.mode):
                raise FsError(errno.ENOTDIR)
            if not self.tables.is_empty(target.ino):
                raise FsError(errno.ENOTEMPTY)
            if target.flags & FLAG_WORM:
                self.tables.guard.moving(target)
            self._remove_directory(parent, name, target)
            return
        if stat.S_ISDIR(target.mode):
            raise FsError(errno.EISDIR)
        self.tables.remove_entry(parent, name, target.ino)
        self.tables.journal("unlink", target.ino, parent, name)
        self._lose_link(target)

    def _move(
        self, parent: int, name: bytes, record: InodeRecord, new_parent: int, new_name: bytes
    ) -> None:
        cookie = self.tables.remove_entry(parent, name, record.ino)
        # Within a directory it stays where it is: who renames while listing
        # must not meet it again at the end.
        self.tables.add_entry(
            new_parent, new_name, record, cookie if parent == new_parent else None
        )
        self._settle(record, parent, new_parent)
        self.tables.journal("rename", record.ino, parent, name, new_parent, new_name)

    def _exchange(
        self,
        parent: int,
        name: bytes,
        record: InodeRecord,
        new_parent: int,
        new_name: bytes,
        target_ino: int,
    ) -> None:
        target = self.tables.inode(target_ino)
        if target.ino == record.ino:
            return
        check_writable(self.tables.guard, target, "exchange")
        _check_taken(self.directory(new_parent), target)
        self._check_cycle(target, parent)
        here = self.tables.remove_entry(parent, name, record.ino)
        there = self.tables.remove_entry(new_parent, new_name, target.ino)
        self.tables.add_entry(new_parent, new_name, record, there)
        self.tables.add_entry(parent, name, target, here)
        self._settle(record, parent, new_parent)
        self._settle(target, new_parent, parent)
        self.tables.journal("exchange", record.ino, parent, name, new_parent, new_name, target.ino)

    def _settle(self, record: InodeRecord, old: int, new: int) -> None:
        """Times and link counts after a move."""
        record.ctime_ns = self.tables.clock.now_ns()
        if record.flags & FLAG_WORM:
            self.tables.guard.touched(record)
        self.tables.save(record)
        before, after = self.directory(old), self.directory(new)
        if stat.S_ISDIR(record.mode) and old != new:
            before.nlink -= 1
            after.nlink += 1
        self.tables.touch_parent(before)
        if old != new:
            self.tables.touch_parent(after)


def _check_taken(folder: InodeRecord, record: InodeRecord) -> None:
    """EBUSY for what a retention that was just set has not reached yet."""
    if folder.flags & ~record.flags & FLAG_WORM and not record.flags & FLAG_FOREIGN:
        raise FsError(errno.EBUSY, "the retention of this tree is being set")


def _umask(mode: int, caller: Caller) -> int:
    return 0 if stat.S_ISLNK(mode) else caller.umask
