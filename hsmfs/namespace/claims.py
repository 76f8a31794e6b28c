"""Claims, copies and releases: what hsmd asks of files."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import Any, Final

import structlog

from hsmfs.cache.tier import CacheTier
from hsmfs.deferred import Deferred, Executor
from hsmfs.errors import FsError
from hsmfs.namespace import schema
from hsmfs.namespace.openfiles import OpenFiles
from hsmfs.namespace.stubs import flush_into
from hsmfs.namespace.tables import Tables
from hsmfs.records import FLAG_PINNED, FLAG_SEEN, InodeRecord
from hsmfs.residency import Cause, after
from hsmfs.rpc.messages import CopiedFile, FileResult
from hsmfs.types import FileVersion, Residency

log = structlog.get_logger(__name__)
CUT_SLICE: Final = 50
"""Cache files cut in one go, before other requests get their turn."""
POOLS_KEY: Final = b"Mpools"
WITH_DATA: Final = (Residency.RESIDENT, Residency.PREMIGRATED)


class Claims:
    """Which versions a burn holds, and what its end means."""

    def __init__(
        self, tables: Tables, tier: CacheTier, files: OpenFiles, executor: Executor
    ) -> None:
        self.tables = tables
        self.tier = tier
        self.files = files
        self.executor = executor
        self.held: set[FileVersion] = set()
        self._kept: set[FileVersion] = {FileVersion(*claim) for claim in tier.claims()}
        """Versions whose bytes lie under a claim's name."""

    def _record(self, file: FileVersion) -> InodeRecord | None:
        """The inode, if it still is this version of a regular file."""
        try:
            record = self.tables.inode(file.ino)
        except FsError:
            return None
        same = record.data_version == file.data_version and record.nlink > 0
        return record if same and stat.S_ISREG(record.mode) else None

    # -- claims ------------------------------------------------------------------

    def claim(self, files: Sequence[FileVersion]) -> Deferred[list[FileResult]]:
        """Freeze versions; the flag SEEN is durable before the answer."""
        results = []
        for file in files:
            refused = self._refuse_claim(file)
            if not refused:
                record = self.tables.inode(file.ino)
                record.flags |= FLAG_SEEN
                self.tables.save(record)
                self.held.add(file)
            results.append(FileResult(file, refused, self.tier.path(file.ino)))
        answer: Deferred[list[FileResult]] = Deferred()
        flush_into(self.tables, answer, results)
        return answer

    def _refuse_claim(self, file: FileVersion) -> str:
        record = self._record(file)
        if record is None:
            return "changed or removed meanwhile"
        opened = self.files.get(file.ino)
        if opened is not None and opened.writers:
            return "open for writing; try again when it is closed"
        if record.state not in WITH_DATA:
            return f"{Residency(record.state).word}: no data in the cache"
        return ""

    def unclaim(self, files: Sequence[FileVersion]) -> None:
        """The burn is over: its private bytes may go."""
        for file in files:
            self.held.discard(file)
            if file in self._kept:
                self._kept.discard(file)
                self.tier.drop_claim(file.ino, file.data_version)

    def hold_only(self, files: Sequence[FileVersion]) -> None:
        """A new hsmd says what it still holds."""
        wanted = set(files)
        self.unclaim([file for file in self.held | self._kept if file not in wanted])
        self.held |= {file for file in wanted if self._record(file) is not None}

    def is_claimed(self, record: InodeRecord) -> bool:
        return FileVersion(record.ino, record.data_version) in self.held

    def keep(self, record: InodeRecord) -> None:
        """The file is about to change: give the claimed bytes their own name."""
        self.tier.keep_claim(record.ino, record.data_version)
        self.kept(FileVersion(record.ino, record.data_version))

    def kept(self, file: FileVersion) -> None:
        """The claimed bytes have a name of their own."""
        self._kept.add(file)

    # -- copies --------------------------------------------------------------------

    def copied(self, files: Sequence[CopiedFile]) -> Deferred[list[FileResult]]:
        """Count verified copies; with enough of them the file is premigrated."""
        results = []
        for item in files:
            record = self._record(item.file)
            if record is None:
                results.append(FileResult(item.file, "changed or removed meanwhile"))
                continue
            record.copies = min(item.copies, 255)
            record.flags |= FLAG_SEEN
            record.pool = self._pool_number(item.pool)
            if item.enough and record.state in WITH_DATA:
                record.state = after(record.state, Cause.COPIED)
            self._add_volumes(record, item.volumes)
            self.tables.save(record)
            results.append(FileResult(item.file))
        answer: Deferred[list[FileResult]] = Deferred()
        flush_into(self.tables, answer, results)
        return answer

    def _add_volumes(self, record: InodeRecord, volumes: Sequence[str]) -> None:
        known = (self.tables.xattr(record, schema.VOLUMES_XATTR) or b"").decode().split()
        labels = " ".join(dict.fromkeys([*known, *volumes]))
        self.tables.put_xattr(record, schema.VOLUMES_XATTR, labels.encode())

    def _pool_number(self, name: str) -> int:
        """Pools are numbered in records as they are first met; 0 is none."""
        names = (self.tables.kv.get(POOLS_KEY) or b"").decode().split()
        if name not in names:
            names.append(name)
            self.tables.kv.put(POOLS_KEY, " ".join(names).encode())
        return names.index(name) + 1

    def pin(self, inodes: Sequence[int], pinned: bool) -> None:
        """Forbid or allow release."""
        for ino in inodes:
            record = self.tables.inode(ino)
            record.flags = record.flags | FLAG_PINNED if pinned else record.flags & ~FLAG_PINNED
            self.tables.save(record)

    # -- release -------------------------------------------------------------------

    def release(self, files: Sequence[FileVersion], head_bytes: int) -> Deferred[list[FileResult]]:
        """Stubs: the state is durable before any cache file is cut."""
        results, chosen = [], []
        for file in files:
            refused = self._refuse_release(file)
            if not refused:
                chosen.append(file)
                self._make_stub(self.tables.inode(file.ino), head_bytes)
            results.append(FileResult(file, refused))
        committed: Deferred[Any] = Deferred()
        answer: Deferred[list[FileResult]] = Deferred()

        def cut(done: Deferred[Any]) -> None:
            if done.error is not None:
                answer.settle_like(done)
            else:
                self._cut(chosen, 0, answer, results)

        flush_into(self.tables, committed, None)
        committed.then(cut)
        return answer

    def _refuse_release(self, file: FileVersion) -> str:
        record = self._record(file)
        if record is None:
            return "changed or removed meanwhile"
        if record.state != Residency.PREMIGRATED:
            return f"{Residency(record.state).word}, expected premigrated"
        if record.flags & FLAG_PINNED:
            return "pinned"
        if self.files.get(file.ino) is not None:
            return "open"
        if self.is_claimed(record):
            return "being burned"
        return ""

    def _make_stub(self, record: InodeRecord, head_bytes: int) -> None:
        record.head_bytes = min(head_bytes, record.size)
        record.state = after(record.state, Cause.RELEASED)
        self.tables.save(record)
        self.tables.mark(record.ino, schema.MARK_CUT)

    def _cut(
        self, files: list[FileVersion], start: int, answer: Deferred[Any], results: list[Any]
    ) -> None:
        """Cut in slices; a file that changed since the commit is left alone."""
        for file in files[start : start + CUT_SLICE]:
            record = self._record(file)
            if record is None or record.state != Residency.MIGRATED:
                continue
            try:
                self.tier.truncate_to(file.ino, record.head_bytes)
            except OSError as error:
                log.warning("cache file was not cut", ino=file.ino, error=str(error))
                continue
            self.tables.unmark(file.ino)
        if start + CUT_SLICE >= len(files):
            answer.set(results)
        else:
            self.executor.call_later(
                0.0, lambda: self._cut(files, start + CUT_SLICE, answer, results)
            )
