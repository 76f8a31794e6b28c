"""Quotas by directory tree, as ext4's project quotas do it.

A directory with a quota has a project number, which all that is made below
inherits. Bytes are sizes of regular files, wherever their data is; files are
inodes of every type. Between trees names move by copy only: EXDEV.
"""

from __future__ import annotations

import errno
import stat
from dataclasses import replace
from typing import Final

import msgspec

from hsmfs.errors import CallerError, FsError
from hsmfs.namespace.model import Caller, Limit, StatFs
from hsmfs.namespace.tables import Tables
from hsmfs.namespace.tree import Tree
from hsmfs.records import InodeRecord
from hsmfs.types import ROOT_INODE

QUOTAS_KEY: Final = b"Mquotas"
PROJECTS_MAX: Final = 65_535
MODE: Final = stat.S_IFDIR | 0o755
"""Of a directory that has a quota and is not there yet."""


class Usage(msgspec.Struct):
    """What a tree holds."""

    ino: int
    bytes: int = 0
    files: int = 0


class Quotas:
    """Limits and usage of all trees that have a quota."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        stored = tables.kv.get(QUOTAS_KEY)
        self.usage: dict[int, Usage] = (
            msgspec.msgpack.decode(stored, type=dict[int, Usage]) if stored else {}
        )
        self._limits: dict[int, Limit] = {}
        self._changed = False

    # -- what operations ask -----------------------------------------------------

    def add(self, record: InodeRecord, size: int, files: int = 0) -> None:
        """Bytes and inodes that came or went; EDQUOT before a bound is passed."""
        usage = self.usage.get(record.project)
        if usage is None:
            return
        limit = self._limits.get(record.project)
        if limit is not None and (
            (files > 0 and limit.files_max and usage.files + files > limit.files_max)
            or (size > 0 and limit.bytes_max and usage.bytes + size > limit.bytes_max)
        ):
            raise FsError(errno.EDQUOT, f"quota of {limit.path} is used up")
        self.count(record, size, files)

    def count(self, record: InodeRecord, size: int, files: int = 0) -> None:
        """What has happened already."""
        usage = self.usage.get(record.project)
        if usage is not None:
            usage.bytes = max(0, usage.bytes + size)
            usage.files = max(0, usage.files + files)
            self._changed = True

    def has_room(self, record: InodeRecord, size: int) -> bool:
        """Whether so many bytes may still come."""
        limit = self._limits.get(record.project)
        if limit is None or not limit.bytes_max:
            return True
        return self.usage[record.project].bytes + size <= limit.bytes_max

    def seen_from(self, record: InodeRecord, whole: StatFs) -> StatFs:
        """The file system as it looks below a quota: its bounds, where they are tighter, as
        ext4 shows a project's (``ext4_statfs_project``)."""
        limit = self._limits.get(record.project)
        if limit is None:
            return whole
        usage = self.usage[record.project]
        if limit.bytes_max and limit.bytes_max // whole.f_frsize < whole.f_blocks:
            left = max(0, limit.bytes_max - usage.bytes) // whole.f_frsize
            whole = replace(
                whole,
                f_blocks=limit.bytes_max // whole.f_frsize,
                f_bfree=min(left, whole.f_bfree),
                f_bavail=min(left, whole.f_bavail),
            )
        if limit.files_max and limit.files_max < whole.f_files:
            left = max(0, limit.files_max - usage.files)
            whole = replace(
                whole,
                f_files=limit.files_max,
                f_ffree=min(left, whole.f_ffree),
                f_favail=min(left, whole.f_favail),
            )
        return whole

    def save(self) -> None:
        """Into the batch that is about to be committed."""
        if self._changed:
            self._changed = False
            self.tables.kv.put(QUOTAS_KEY, msgspec.msgpack.encode(self.usage))

    # -- at start ------------------------------------------------------------------

    def configure(self, tree: Tree, limits: list[Limit]) -> None:
        """Give trees their quotas; one that is new to a tree counts what is there."""
        for limit in limits:
            folder = self._directory(tree, limit)
            known = self.usage.get(folder.project)
            if known is None or known.ino != folder.ino:
                self._adopt(tree, folder)
            self._limits[folder.project] = limit

    def _directory(self, tree: Tree, limit: Limit) -> InodeRecord:
        record = tree.directory(ROOT_INODE)
        for name in limit.path.encode().split(b"/"):
            if not name:
                continue
            ino = self.tables.entry(record.ino, name)
            if ino is None:
                ino = tree.make(record.ino, name, MODE, Caller(0, 0)).ino
            record = self.tables.inode(ino)
            if not stat.S_ISDIR(record.mode):
                raise CallerError(
                    f"quota.path: {limit.path}: found a file, expected a directory of the mount"
                )
        return record

    def _adopt(self, tree: Tree, folder: InodeRecord) -> None:
        project = max(self.usage, default=0) + 1
        if project > PROJECTS_MAX:
            raise CallerError(f"quota: more than {PROJECTS_MAX} directories had a quota")
        above = folder.project
        self.usage[project] = Usage(folder.ino)
        pending = [folder]
        while pending:
            record = pending.pop()
            if record.project == project:
                continue  # a further name of a file
            self._move(record, project)
            if stat.S_ISDIR(record.mode):
                pending += [
                    child
                    for _, ino, _, _ in list(self.tables.listed(record.ino, 0, None))
                    if (child := self.tables.inode(ino)).project in (above, project)
                ]

    def _move(self, record: InodeRecord, project: int) -> None:
        size = record.size if stat.S_ISREG(record.mode) else 0
        self.count(record, -size, -1)
        record.project = project
        self.count(record, size, 1)
        self.tables.save(record)
