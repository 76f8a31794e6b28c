"""Inodes without a name: kept while somebody has them, then removed with their data."""

from __future__ import annotations

import errno
import stat
from typing import Final

import structlog

from hsmfs.cache.hands import CacheHands
from hsmfs.cache.tier import CacheTier
from hsmfs.deferred import Executor
from hsmfs.errors import FsError
from hsmfs.namespace import schema
from hsmfs.namespace.claims import Claims
from hsmfs.namespace.marks import Marks
from hsmfs.namespace.openfiles import OpenFiles
from hsmfs.namespace.quotas import Quotas
from hsmfs.namespace.stubs import Stubs
from hsmfs.namespace.tables import Tables, cached_bytes
from hsmfs.records import InodeRecord

log = structlog.get_logger(__name__)
REAP_S: Final = 0.05
"""How long data of removed files may stay, so that many share a commit."""


class Removal:
    """The end of inodes."""

    def __init__(
        self,
        tables: Tables,
        tier: CacheTier,
        files: OpenFiles,
        stubs: Stubs,
        claims: Claims,
        marks: Marks,
        hands: CacheHands,
        quotas: Quotas,
        executor: Executor,
    ) -> None:
        self.tables = tables
        self.tier = tier
        self.files = files
        self.stubs = stubs
        self.claims = claims
        self.marks = marks
        self.hands = hands
        self.quotas = quotas
        self.executor = executor
        self.forgets = False
        """Whether the session says when the kernel forgets an inode: until then
        a working directory or an O_PATH descriptor may stand on it."""
        self.nameless: dict[int, InodeRecord] = {}
        self._doomed: list[int] = []

    def removed(self, record: InodeRecord) -> None:
        """The last name is gone."""
        if self.forgets or self.files.get(record.ino) is not None:
            self.tables.mark(record.ino, schema.MARK_ORPHAN)
            if self.forgets:
                self.nameless[record.ino] = record
            return
        self.drop(record)

    def named(self, ino: int) -> None:
        """It has a name again, or for the first time."""
        self.nameless.pop(ino, None)

    def forgotten(self, ino: int) -> None:
        """The kernel let go of an inode."""
        record = self.nameless.pop(ino, None)
        if record is not None and self.files.get(ino) is None:
            self.drop(record)

    def closed(self, record: InodeRecord) -> None:
        """The last handle of an inode without a name is gone."""
        if record.ino not in self.nameless:
            self.drop(record)

    def drop(self, record: InodeRecord) -> None:
        """Remove inode and data."""
        if stat.S_ISREG(record.mode):
            self.stubs.drop(record, FsError(errno.ESTALE, "the file was removed"))
            if self.claims.is_claimed(record):
                self.claims.keep(record)
            self.tier.used_bytes -= cached_bytes(record)
        size = record.size if stat.S_ISREG(record.mode) else 0
        self.quotas.count(record, -size, -1)
        self.tables.drop_inode(record)
        self.marks.removed(record.ino)
        if stat.S_ISREG(record.mode):
            self._doom(record.ino)

    def _doom(self, ino: int) -> None:
        """The data goes only after the commit of its end: a crash before it
        brings the name back, with all its bytes."""
        self.tables.mark(ino, schema.MARK_DOOMED)
        self._doomed.append(ino)
        if len(self._doomed) == 1:
            self.executor.call_later(REAP_S, self._reap)

    def _reap(self) -> None:
        doomed, self._doomed = self._doomed, []

        def committed(error: object) -> None:
            if error is None:  # else the marks stay: the next start removes the data
                self.executor.submit(lambda: self.hands.remove(doomed), reaped)

        def reaped(_value: None, error: BaseException | None) -> None:
            if error is not None:
                log.warning("data of removed files stays", error=str(error))
                return
            self.marks.data_removed(doomed)

        self.tables.kv.flush(committed)
