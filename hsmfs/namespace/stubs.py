"""Stubs and their recalls: who waits, what landed, how it ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from hsmfs.cache.tier import CacheTier
from hsmfs.deferred import Deferred, Executor, as_fs_error
from hsmfs.errors import FsError, StoreFullError
from hsmfs.namespace import schema
from hsmfs.namespace.openfiles import OpenFiles
from hsmfs.namespace.tables import Tables
from hsmfs.recallq import Recall, Waiter
from hsmfs.records import InodeRecord
from hsmfs.residency import STUB_STATES, Cause, after
from hsmfs.rpc.messages import Event, NoLongerWanted, RecallFile, Wanted
from hsmfs.types import ByteRange, FileVersion

log = structlog.get_logger(__name__)
STALE_WHY = "the file was changed or removed meanwhile"


def version(record: InodeRecord) -> FileVersion:
    """The guard of a record's data as it is now."""
    return FileVersion(record.ino, record.data_version)


class Stubs:
    """All running recalls. ``on_event`` tells hsmd."""

    def __init__(
        self,
        tables: Tables,
        tier: CacheTier,
        files: OpenFiles,
        executor: Executor,
        timeout_s: float,
    ) -> None:
        self.tables = tables
        self.tier = tier
        self.files = files
        self.executor = executor
        self.timeout_s = timeout_s
        self.recalls: dict[int, Recall] = {}
        self.on_event: Callable[[Event], None] = lambda event: None

    # -- readers ---------------------------------------------------------------

    def read(
        self, record: InodeRecord, offset: int, stop: int, pid: int
    ) -> bytes | Deferred[bytes]:
        """Bytes of a stub: from the head at once, else when they land."""
        head = min(record.head_bytes, record.size)
        if stop <= head:
            return self._head(record, offset, stop)
        recall = self.recalls.get(record.ino)
        start = max(offset, head)
        if recall is not None and recall.landed.covers(start, stop):
            return self._assemble(record, recall, offset, stop)
        answer: Deferred[bytes] = Deferred()
        landed = self.wait(record, ByteRange(start, stop), pid)
        answer.on_cancel = landed.cancel

        def ready(done: Deferred[Recall]) -> None:
            if done.error is not None:
                answer.settle_like(done)
                return
            try:
                answer.set(self._assemble(record, done.result(), offset, stop))
            except OSError as error:
                answer.fail(FsError(error.errno or errno.EIO, f"cache: {error}"))

        landed.then(ready)
        return answer

    def _head(self, record: InodeRecord, offset: int, stop: int) -> bytes:
        file = self.files.get(record.ino)
        assert file is not None
        return os.pread(self.files.fd(file), stop - offset, offset)

    def _assemble(self, record: InodeRecord, recall: Recall, offset: int, stop: int) -> bytes:
        """From the recall file; what lies in the head may not have landed yet."""
        if recall.landed.covers(offset, stop):
            return os.pread(recall.fd, stop - offset, offset)
        head = min(record.head_bytes, record.size)
        return self._head(record, offset, head) + os.pread(recall.fd, stop - head, head)

    def wait(self, record: InodeRecord, wanted: ByteRange, pid: int) -> Deferred[Recall]:
        """Done when the range has landed (the whole file for writers)."""
        recall = self._recall(record)
        answer: Deferred[Recall] = Deferred()
        waiter = Waiter(wanted, answer, pid)
        answer.on_cancel = lambda: self._leave(recall, waiter)
        recall.waiters.append(waiter)
        self.on_event(self._wanted(recall, waiter))
        return answer

    def whole(self, record: InodeRecord, pid: int) -> Deferred[Recall]:
        """Done when all of the file is back in its place (premigrated)."""
        return self.wait(record, ByteRange(0, record.size + 1), pid)

    def _recall(self, record: InodeRecord) -> Recall:
        recall = self.recalls.get(record.ino)
        if recall is None:
            recall = Recall(version(record), record.size)
            recall.progress_s = self.tables.clock.monotonic_s()
            self.recalls[record.ino] = recall
            record.state = after(record.state, Cause.WANTED)
            self.tables.save(record)
            self.tables.mark(record.ino, schema.MARK_CUT)
            self._watch(recall)
        return recall

    def _wanted(self, recall: Recall, waiter: Waiter) -> Wanted:
        path = os.fsdecode(self.tables.path_of(recall.file.ino))
        span = ByteRange(waiter.range.start, min(waiter.range.stop, recall.size))
        printable = path.encode("utf-8", "backslashreplace").decode()
        return Wanted(recall.file, span, printable, *_process(waiter.pid))

    def pending(self) -> list[Wanted]:
        """What a newly connected hsmd should know."""
        return [self._wanted(r, w) for r in self.recalls.values() for w in r.waiters]

    def abandon_unwanted(self) -> None:
        """hsmd starts anew: recalls that nobody waits for are over."""
        for recall in [r for r in self.recalls.values() if not r.waiters]:
            self._give_up(recall)

    @property
    def waiting_readers(self) -> int:
        return sum(len(recall.waiters) for recall in self.recalls.values())

    def _leave(self, recall: Recall, waiter: Waiter) -> None:
        """A reader was interrupted."""
        if waiter in recall.waiters:
            recall.waiters.remove(waiter)
        if recall.waiters or self.recalls.get(recall.file.ino) is not recall:
            return
        if recall.fd < 0:
            self._give_up(recall)
        self.on_event(NoLongerWanted(recall.file, False))

    # -- time-outs ---------------------------------------------------------------

    def _watch(self, recall: Recall) -> None:
        """ETIMEDOUT when nothing was heard of this recall for too long."""
        now_s = self.tables.clock.monotonic_s()
        left_s = recall.progress_s + self.timeout_s - now_s
        if self.recalls.get(recall.file.ino) is not recall:
            return
        if left_s <= 0:
            why = f"no answer from hsmd or the library for {self.timeout_s:.0f} s"
            self._fail(recall, FsError(errno.ETIMEDOUT, why))
            self.on_event(NoLongerWanted(recall.file, True))
            return
        self.executor.call_later(left_s + 0.01, lambda: self._watch(recall))

    # -- hsmd ----------------------------------------------------------------------

    def _known(self, file: FileVersion) -> Recall:
        recall = self.recalls.get(file.ino)
        if recall is None or recall.file != file:
            raise FsError(errno.ESTALE, STALE_WHY)
        recall.progress_s = self.tables.clock.monotonic_s()
        return recall

    def begin(self, file: FileVersion) -> RecallFile:
        """Open the recall file; also for files that nobody waits for yet."""
        record = self.tables.inode(file.ino)
        if record.data_version != file.data_version or record.state not in STUB_STATES:
            raise FsError(errno.ESTALE, STALE_WHY)
        recall = self._recall(record)
        recall.progress_s = self.tables.clock.monotonic_s()
        if recall.fd < 0:
            self.tier.reserve(record.size)
            recall.path, recall.fd = self.tier.create_recall(file.ino, file.data_version)
            os.ftruncate(recall.fd, record.size)
        return RecallFile(str(Path(recall.path)), recall.size, recall.landed.ranges())

    def landed(self, file: FileVersion, span: ByteRange) -> None:
        """Serve those whose range is complete now."""
        recall = self._known(file)
        if recall.fd < 0:
            raise FsError(errno.ESTALE, STALE_WHY)
        recall.landed.add(span.start, span.stop)
        for waiter in recall.take_ready():
            waiter.deferred.set(recall)

    def recalled(self, file: FileVersion) -> Deferred[None]:
        """All is there and fsynced: put it in the stub's place.

        Only once its mark is durable: else a crash leaves a stub that nobody
        looks at over a whole file. And resident only once the rename is
        durable: else a loss of power leaves a head that is taken for it all.
        """
        self._known(file)
        answer: Deferred[None] = Deferred()
        marked: Deferred[None] = Deferred()
        if self.tables.kv.is_pending(schema.mark_key(file.ino)):
            flush_into(self.tables, marked, None)
        else:
            marked.set(None)
        marked.then(lambda done: self._recalled(file, done, answer))
        return answer

    def _recalled(self, file: FileVersion, marked: Deferred[None], answer: Deferred[None]) -> None:
        try:
            marked.result()
            recall = self._known(file)
            self._place(recall)
        except FsError as error:
            answer.fail(error)
            return
        self.executor.submit(
            lambda: self.tier.sync_place(file.ino),
            lambda _, error: self._placed(file, error, answer),
        )

    def _place(self, recall: Recall) -> None:
        file = recall.file
        recall.landed.add(0, recall.size)
        for waiter in recall.take_ready():
            waiter.deferred.set(recall)
        if not recall.placed:
            self.tier.adopt_recall(file.ino, file.data_version)
            recall.placed = True
            self.files.reopen(file.ino)

    def _placed(
        self, file: FileVersion, error: BaseException | None, answer: Deferred[None]
    ) -> None:
        try:
            if error is not None:
                raise as_fs_error(error)
            recall = self._known(file)
        except FsError as failure:
            answer.fail(failure)
            return
        self._adopt(recall)
        for waiter in recall.take_all():
            waiter.deferred.set(recall)
        flush_into(self.tables, answer, None)

    def _adopt(self, recall: Recall) -> None:
        file = recall.file
        record = self.tables.inode(file.ino)
        record.state = after(record.state, Cause.COMPLETE)
        self.tables.save(record)
        self.tables.unmark(file.ino)
        self._forget(recall)

    def failed(self, file: FileVersion, number: int, why: str) -> None:
        """Readers get the error; the file is a stub again."""
        self._fail(self._known(file), FsError(number, why))

    def note(self, file: FileVersion, text: str) -> None:
        """What it waits for, in words; counts as progress."""
        self._known(file).note = text

    # -- ends ------------------------------------------------------------------------

    def _fail(self, recall: Recall, error: FsError) -> None:
        self._give_up(recall)
        for waiter in recall.take_all():
            waiter.deferred.fail(error)

    def _give_up(self, recall: Recall) -> None:
        record = self.tables.inode(recall.file.ino)
        record.state = after(record.state, Cause.GIVEN_UP)
        self.tables.save(record)
        self.tables.unmark(recall.file.ino)
        self._forget(recall)
        if recall.placed:
            self.tier.truncate_to(record.ino, record.head_bytes)
            self.files.reopen(record.ino)
        else:
            self.tier.drop_recall(recall.file.ino, recall.file.data_version)

    def _forget(self, recall: Recall) -> None:
        self.recalls.pop(recall.file.ino, None)
        if recall.fd >= 0:
            os.close(recall.fd)
            recall.fd = -1

    def drop(self, record: InodeRecord, error: FsError) -> None:
        """The stub is truncated or removed: its recall has no more use."""
        recall = self.recalls.get(record.ino)
        if recall is not None:
            self._fail(recall, error)
            self.on_event(NoLongerWanted(recall.file, True))


def flush_into(tables: Tables, answer: Deferred[Any], value: Any) -> None:
    """Set ``answer`` when all changes so far are durable."""

    def done(error: Any) -> None:
        if error is None:
            answer.set(value)
        else:
            number = errno.ENOSPC if isinstance(error, StoreFullError) else errno.EIO
            answer.fail(FsError(number, f"commit failed: {error}"))

    tables.kv.flush(done)


def _process(pid: int) -> tuple[int, int, str]:
    """Owner, number and name of a process, as far as /proc still tells."""
    uid, name = 0, ""
    if pid > 0:
        try:
            uid = os.stat(f"/proc/{pid}").st_uid
            name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
        except OSError:
            return 0, pid, ""
    return uid, pid, name
