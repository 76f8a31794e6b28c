"""Marks of files whose data may be ahead of what the namespace durably knows.

Mark ``w`` says: at a start after a crash take size and time from the cache
file. It stays until the disk has surely written what was closed, so that a
loss of power is covered too; so does the mark of a removed file, which the
disk's journal could bring back. Where the mark itself is not committed yet, an
empty file in the tier's ``open/`` stands for it, see ``cache/paths.py``.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from typing import Final

import structlog

from hsmfs.cache.tier import CacheTier
from hsmfs.deferred import Executor
from hsmfs.namespace import schema
from hsmfs.namespace.tables import Tables
from hsmfs.records import InodeRecord

log = structlog.get_logger(__name__)
SYNC_S: Final = 30.0
"""How often the tier's file system is synced while closed files are marked."""
REMOVED_MAX: Final = 50_000
"""So many marks of removed files do not wait for it."""
COMMIT_S: Final = 0.05
"""How long marks are gathered for one commit."""


class Marks:
    """Who may be ahead, from the first change to the sync after the last close."""

    def __init__(self, tables: Tables, tier: CacheTier, executor: Executor) -> None:
        self.tables = tables
        self.tier = tier
        self.executor = executor
        self._marked: set[int] = set()
        self._uncommitted: list[int] = []
        self._closed: dict[int, None] = {}
        self._removed: list[int] = []

    def set(self, record: InodeRecord) -> None:
        """Before data of an inode changes."""
        ino = record.ino
        if ino in self._marked:
            return
        self._marked.add(ino)
        self.tables.mark(ino, schema.MARK_WRITE)
        if record.stored is None:
            return  # made in this batch: without its commit there is no such inode
        self.tier.mark_open(ino)
        self._uncommitted.append(ino)
        if len(self._uncommitted) == 1:
            self.executor.call_later(COMMIT_S, self._commit)

    def _commit(self) -> None:
        inodes, self._uncommitted = self._uncommitted, []

        def committed(error: object) -> None:
            if error is None:
                self.executor.submit(lambda: self._unmark_open(inodes), _ignore)

        self.tables.kv.flush(committed)

    def _unmark_open(self, inodes: list[int]) -> None:
        for ino in inodes:
            self.tier.unmark_open(ino)

    def closed(self, ino: int) -> None:
        """Nobody has it open any more."""
        if ino not in self._marked:
            return
        self._marked.discard(ino)
        self._expect_sync()
        self._closed[ino] = None

    def data_removed(self, inodes: list[int]) -> None:
        """Their cache files are unlinked."""
        self._expect_sync()
        before = len(self._removed)
        self._removed += inodes
        if before < REMOVED_MAX <= len(self._removed):
            self.sync()

    def _expect_sync(self) -> None:
        if not self._closed and not self._removed:
            self.executor.call_later(SYNC_S, self.sync)

    def sync(self) -> None:
        """Unmark what was closed or removed, once the disk has it."""
        closed, self._closed = self._closed, {}
        removed, self._removed = self._removed, []
        if not closed and not removed:
            return  # an earlier one came in between

        def synced(_value: None, error: BaseException | None) -> None:
            if error is not None:
                log.warning("cache tier was not synced", tier=self.tier.name, error=str(error))
                return  # the marks stay: the next start looks at these files
            for ino in closed:
                if ino not in self._marked:
                    self._unmark(ino)
            for ino in removed:
                self.tables.unmark(ino)

        self.executor.submit(lambda: sync_file_system(self.tier.root), synced)

    def sync_now(self, busy: Collection[int]) -> None:
        """At the end of the process, in this thread: a clean stop leaves no marks
        but those of files that programs still have open for writing."""
        sync_file_system(self.tier.root)
        for ino in {*self._closed, *self._marked}.difference(busy):
            self._unmark(ino)
        for ino in self._removed:
            self.tables.unmark(ino)
        self._removed.clear()
        self._closed.clear()
        self._marked.clear()

    def _unmark(self, ino: int) -> None:
        """Unless the mark says something else by now."""
        if self.tables.marked(ino) == schema.MARK_WRITE:
            self.tables.unmark(ino)

    def renew(self, ino: int) -> None:
        """After another mark has had its time."""
        if ino in self._marked or ino in self._closed:
            self.tables.mark(ino, schema.MARK_WRITE)
        else:
            self.tables.unmark(ino)

    def removed(self, ino: int) -> None:
        """The inode is no more."""
        self._marked.discard(ino)
        self._closed.pop(ino, None)


def sync_file_system(path: str) -> None:
    """syncfs(2), which Python does not offer."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs", path)
    finally:
        os.close(fd)


def _ignore(_value: object, error: BaseException | None) -> None:
    if error is not None:
        log.warning("open marks were not removed", error=str(error))
