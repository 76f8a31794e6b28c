"""Versions of a file's data: what copies may have is left before bytes change.

The new version is durable before the first changed byte: else a crash leaves
changed data under a version that is said to be on discs.
"""

from __future__ import annotations

import os
from typing import Any

from hsmfs.cache.tier import CacheTier
from hsmfs.deferred import Deferred, Executor, as_fs_error, following
from hsmfs.errors import FsError
from hsmfs.namespace import schema
from hsmfs.namespace.claims import Claims
from hsmfs.namespace.marks import Marks
from hsmfs.namespace.openfiles import OpenFiles
from hsmfs.namespace.stubs import Stubs, flush_into
from hsmfs.namespace.tables import Tables
from hsmfs.namespace.through import Through
from hsmfs.records import FLAG_SEEN, InodeRecord
from hsmfs.residency import STUB_STATES, Cause, after
from hsmfs.types import FileVersion, Residency


def is_seen(record: InodeRecord) -> bool:
    """Whether a copy may have this version."""
    return bool(record.flags & FLAG_SEEN or record.copies or record.state != Residency.RESIDENT)


class Versions:
    """Leaves one version for the next."""

    def __init__(
        self,
        tables: Tables,
        tier: CacheTier,
        files: OpenFiles,
        stubs: Stubs,
        claims: Claims,
        marks: Marks,
        through: Through,
        executor: Executor,
    ) -> None:
        self.tables = tables
        self.tier = tier
        self.files = files
        self.stubs = stubs
        self.claims = claims
        self.marks = marks
        self.through = through
        self.executor = executor
        self._leaving: dict[int, Deferred[None]] = {}

    def leaving(self, record: InodeRecord) -> Deferred[Any] | None:
        """The end of what is under way with this file."""
        leaving = self._leaving.get(record.ino)
        return None if leaving is None else following(leaving)

    def changing(self, record: InodeRecord, pid: int) -> Deferred[Any] | None:
        """Before any change of data: None when it may go on at once.

        A stub comes back first; claimed bytes get a file of their own; a
        version that a copy may have seen is left behind for a new one.
        """
        if record.state in STUB_STATES:
            return self.stubs.whole(record, pid)
        leaving = self.leaving(record)
        if leaving is not None:
            return leaving
        if self.claims.is_claimed(record):
            return self._copy_claimed(record)
        if not self._new_version(record):
            return None
        stepped: Deferred[Any] = Deferred()
        flush_into(self.tables, stepped, None)
        return stepped

    def _new_version(self, record: InodeRecord) -> bool:
        """Leave a version that a copy may have seen; whether that was needed."""
        seen = is_seen(record)
        if seen:
            self.step(record, Cause.CHANGED)
        return seen

    def step(self, record: InodeRecord, cause: Cause) -> None:
        """The next version, of which there is no copy."""
        record.state = after(record.state, cause)
        record.data_version += 1
        record.flags &= ~FLAG_SEEN
        record.copies = 0
        self.tables.drop_xattr(record, schema.VOLUMES_XATTR)
        self.tables.save(record)

    def _copy_claimed(self, record: InodeRecord) -> Deferred[Any]:
        ino = record.ino
        copying: Deferred[None] = Deferred()
        self._leaving[ino] = copying

        file = self.files.get(ino)
        in_place = file is not None and file.backing != 0
        claimed = record.data_version

        def copy() -> None:
            self.tier.reserve(record.size)
            self.tier.copy_aside(ino)

        def copied(_value: None, error: BaseException | None) -> None:
            try:
                if error is not None:
                    raise error
                if in_place:
                    # The kernel has the file for others: the burn gets the copy.
                    self.tier.copy_to_claim(ino, claimed)
                    self.claims.kept(FileVersion(ino, claimed))
                    placed(None, None)
                else:
                    self.claims.keep(record)
                    self.tier.adopt_copy(ino)
                    self.files.reopen(ino)
                    self.executor.submit(lambda: self.tier.sync_place(ino), placed)
            except (FsError, OSError) as failure:
                placed(None, failure)

        def placed(_value: None, error: BaseException | None) -> None:
            del self._leaving[ino]
            if error is not None:
                copying.fail(as_fs_error(error))
                return
            self._new_version(record)
            flush_into(self.tables, copying, None)

        self.executor.submit(copy, copied)
        return following(copying)

    def is_shared(self, record: InodeRecord) -> bool:
        """Claimed by a burn, and in the kernel's hands: neither can be replaced."""
        file = self.files.get(record.ino)
        return file is not None and file.backing != 0 and self.claims.is_claimed(record)

    def cut(self, record: InodeRecord, claimed: int | None) -> Deferred[Any]:
        """Empty the cache file of one that has no data any more, once that is durable."""
        self.tables.mark(record.ino, schema.MARK_CUT)
        emptied: Deferred[None] = Deferred()
        self._leaving[record.ino] = emptied
        durable: Deferred[None] = Deferred()
        flush_into(self.tables, durable, None)
        durable.then(lambda done: self._cut_emptied(record, claimed, done, emptied))
        return following(emptied)

    def _cut_emptied(
        self,
        record: InodeRecord,
        claimed: int | None,
        durable: Deferred[None],
        emptied: Deferred[None],
    ) -> None:
        ino = record.ino
        try:
            durable.result()
            if claimed is not None:
                self.tier.keep_claim(ino, claimed)
                self.claims.kept(FileVersion(ino, claimed))
                self.tier.empty_aside(ino)
                self.tier.adopt_copy(ino)
                self.files.reopen(ino)
                self.executor.submit(
                    lambda: self.tier.sync_place(ino),
                    lambda _, error: self._placed(ino, error, emptied),
                )
                return
            os.truncate(self.tier.path(ino), 0)
        except (FsError, OSError) as error:
            self._placed(ino, error, emptied)
        else:
            self._placed(ino, None, emptied)

    def _placed(self, ino: int, error: BaseException | None, emptied: Deferred[None]) -> None:
        del self._leaving[ino]
        if error is not None:
            emptied.fail(as_fs_error(error))
            return
        self.marks.renew(ino)
        file = self.files.get(ino)
        if file is not None:
            self.through.touched(file)
        emptied.set(None)
