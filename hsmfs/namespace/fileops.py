"""Reading and writing: handles, data, sizes, and what is durable when."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any, Final, TypeVar

from hsmfs.cache.tier import CacheTier
from hsmfs.deferred import Deferred, Executor, as_fs_error, chain
from hsmfs.errors import FsError
from hsmfs.heat import heated
from hsmfs.namespace.births import Births
from hsmfs.namespace.claims import Claims
from hsmfs.namespace.marks import Marks
from hsmfs.namespace.model import SIZE_MAX, Caller, Io, Opened
from hsmfs.namespace.openfiles import Handle, OpenFile, OpenFiles
from hsmfs.namespace.quotas import Quotas
from hsmfs.namespace.removal import Removal
from hsmfs.namespace.stubs import Stubs, flush_into
from hsmfs.namespace.tables import Tables
from hsmfs.namespace.through import SET_ID, Through, atime_is_stale
from hsmfs.namespace.tree import Tree
from hsmfs.namespace.versions import Versions, is_seen
from hsmfs.records import (
    FIXED,
    FLAG_FOREIGN,
    FLAG_SPARSE,
    FLAG_WORM,
    FLAG_XATTRS,
    FROZEN,
    InodeRecord,
)
from hsmfs.residency import STUB_STATES, Cause

T = TypeVar("T")
FALLOC_KEEP_SIZE: Final = 1
FALLOC_PUNCH_HOLE: Final = 2
FALLOC_ZERO_RANGE: Final = 16
FALLOC_KNOWN: Final = FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE
COPY_INLINE_BYTES: Final = 1 << 20
CAPABILITY: Final = b"security.capability"


class FileOps:
    """Operations on regular files."""

    def __init__(
        self,
        tables: Tables,
        tree: Tree,
        tier: CacheTier,
        files: OpenFiles,
        stubs: Stubs,
        claims: Claims,
        removal: Removal,
        marks: Marks,
        births: Births,
        quotas: Quotas,
        executor: Executor,
    ) -> None:
        self.tables = tables
        self.tree = tree
        self.tier = tier
        self.files = files
        self.stubs = stubs
        self.claims = claims
        self.removal = removal
        self.marks = marks
        self.births = births
        self.quotas = quotas
        self.through = Through(tables, tier, claims, quotas)
        self.executor = executor
        self.always = 0
        """Flags of every open: O_NOATIME where the mount has ``noatime``, which
        the kernel leaves to the server."""
        self.on_open: Callable[[InodeRecord, int, int], None] = lambda record, flags, uid: None
        """Told of each open of a regular file: the record before it, flags and user."""
        self.check_foreign: Callable[[InodeRecord, int], None] = lambda record, flags: None
        """Whether a file of an imported tree may be opened; raises."""
        self.versions = Versions(tables, tier, files, stubs, claims, marks, self.through, executor)

    # -- handles ---------------------------------------------------------------

    def open(self, ino: int, flags: int, caller: Caller) -> Opened | Deferred[Opened]:
        """A handle; with O_TRUNC the file is emptied first."""
        record = self.tables.inode(ino)
        flags |= self.always
        if stat.S_ISDIR(record.mode):
            raise FsError(errno.EISDIR)
        if record.flags & FIXED:
            self._check_fixed(record, flags)
        if flags & os.O_TRUNC and stat.S_ISREG(record.mode):
            return chain(
                self.truncate(record, 0, caller), lambda: self._opened(record, flags, caller)
            )
        return self._opened(record, flags, caller)

    def _check_fixed(self, record: InodeRecord, flags: int) -> None:
        if record.flags & FLAG_FOREIGN:
            self.check_foreign(record, flags)
        elif flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise self.tables.guard.refused(record, "open")

    def _opened(self, record: InodeRecord, flags: int, caller: Caller) -> Opened:
        fh = self.files.open(record, flags, caller.pid)
        if not stat.S_ISREG(record.mode):
            return Opened(fh, True)
        self.on_open(record, flags, caller.uid)
        record.heat = heated(record.heat, self.tables.clock.now_ns())
        self.tables.save(record)
        return self._io(fh, flags)

    def _io(self, fh: int, flags: int, fd: int = -1) -> Opened:
        file = self.files.handle(fh).file
        try:
            opened = self.through.opened(file, fh, flags, fd)
        except FsError:
            self.files.release(fh)
            raise
        if opened.io is Io.PASSES and flags & os.O_ACCMODE != os.O_RDONLY:
            self._dirty(file)
        return opened

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[Opened, InodeRecord] | Deferred[tuple[Opened, InodeRecord]]:
        """A new regular file and a handle on it; without O_EXCL one that is there."""
        there = self.tables.entry(parent, name)
        if there is not None:
            if flags & os.O_EXCL:
                raise FsError(errno.EEXIST)
            record = self.tables.inode(there)
            opened = self.open(there, flags, caller)
            return chain(opened, lambda: (_value(opened), record))
        return self._handled(*self._make_file(parent, name, mode, caller), flags, caller)

    def tmpfile(
        self, parent: int, mode: int, flags: int, caller: Caller
    ) -> tuple[Opened, InodeRecord]:
        """A file without a name and a handle on it (O_TMPFILE)."""
        self.tier.reserve(0)
        record = self.tree.tmpfile(parent, mode, caller)
        if self.removal.forgets:
            self.removal.nameless[record.ino] = record
        try:
            fd = self.births.open(record.ino)
        except FsError:
            self.removal.drop(record)
            raise
        return self._handled(record, fd, flags, caller)

    def _handled(
        self, record: InodeRecord, fd: int, flags: int, caller: Caller
    ) -> tuple[Opened, InodeRecord]:
        flags |= self.always
        try:
            fh = self.files.open(record, flags, caller.pid)
            return self._io(fh, flags, fd), record
        finally:
            os.close(fd)

    def make_file(self, parent: int, name: bytes, mode: int, caller: Caller) -> InodeRecord:
        """A new empty file with its cache file; no name without the other."""
        record, fd = self._make_file(parent, name, mode, caller)
        os.close(fd)
        return record

    def _make_file(
        self, parent: int, name: bytes, mode: int, caller: Caller
    ) -> tuple[InodeRecord, int]:
        self.tier.reserve(0)
        record = self.tree.make(parent, name, stat.S_IFREG | stat.S_IMODE(mode), caller)
        try:
            return record, self.births.open(record.ino)
        except FsError:
            self.tree.unlink(parent, name)
            self.removal.forgotten(record.ino)
            raise

    def release(self, fh: int) -> None:
        """The kernel has no more use for the handle."""
        self.files.release(fh)

    def closed(self, file: OpenFile) -> None:
        """The last handle of an inode is gone."""
        record = file.record
        self.through.closed(file)
        if record.nlink == 0:
            self.removal.closed(record)
        elif file.dirty:
            self.marks.closed(record.ino)

    # -- reading -----------------------------------------------------------------

    def read(self, fh: int, offset: int, size: int) -> bytes | Deferred[bytes]:
        """Up to ``size`` bytes; fewer only at the end of the file."""
        handle = self.files.handle(fh)
        if not handle.reads:
            raise FsError(errno.EBADF)
        record = self.current(handle.file)
        stop = min(offset + size, record.size)
        if stop <= offset:
            return b""
        self._accessed(record, handle.flags)
        if record.state in STUB_STATES:
            return self.stubs.read(record, offset, stop, handle.pid)
        return self._read_resident(handle.file, offset, stop - offset)

    def current(self, file: OpenFile) -> InodeRecord:
        """The record, with what programs did to the cache file."""
        if file.watched:
            self.through.refresh(file)
        return file.record

    def _read_resident(self, file: OpenFile, offset: int, size: int) -> bytes | Deferred[bytes]:
        """From the page cache at once; what must come from disk, by a worker."""
        fd = self.files.fd(file)
        buffer = bytearray(size)
        try:
            count = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            count = -1
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise FsError(error.errno or errno.EIO) from error
            count = -1
        if count == size:
            return bytes(buffer)
        return self._in_worker(file, lambda own: _read_full(own, offset, size))

    def _accessed(self, record: InodeRecord, flags: int) -> None:
        now_ns = self.tables.clock.now_ns()
        if not flags & os.O_NOATIME and atime_is_stale(record, now_ns):
            record.atime_ns = now_ns
            self.tables.save(record)

    def _in_worker(self, file: OpenFile, work: Callable[[int], T]) -> Deferred[T]:
        """Run on a descriptor of its own, which outlives the handle."""
        answer: Deferred[T] = Deferred()
        own = os.dup(self.files.fd(file))

        def run() -> T:
            try:
                return work(own)
            finally:
                os.close(own)

        def done(value: T | None, error: BaseException | None) -> None:
            if error is None:
                answer.set(value)  # type: ignore[arg-type]
            else:
                answer.fail(as_fs_error(error))

        self.executor.submit(run, done)
        return answer

    # -- changing -----------------------------------------------------------------

    def write(
        self, fh: int, offset: int, data: bytes | memoryview, fsetid: bool = False
    ) -> int | Deferred[int]:
        """All of ``data``, or an error; ENOSPC before the tier is full.

        ``fsetid``: whether set-id bits survive it.
        """
        handle = self.files.handle(fh)
        if not handle.writes:
            raise FsError(errno.EBADF)
        if offset + len(data) > SIZE_MAX:
            raise FsError(errno.EFBIG)
        record = handle.file.record
        if record.flags & FROZEN:  # since it was opened
            raise self.tables.guard.refused(record, "write")
        pending = self.versions.changing(record, handle.pid)
        if pending is None:
            return self._write(handle, offset, data, fsetid)
        kept = bytes(data)
        return chain(pending, lambda: self.write(fh, offset, kept, fsetid))

    def _write(self, handle: Handle, offset: int, data: bytes | memoryview, fsetid: bool) -> int:
        file = handle.file
        record = self.current(file)
        size = offset + len(data)
        if size > record.size:
            self.tables.check_commits()
            self.tier.reserve(min(size - record.size, len(data)))  # a hole needs no room
            self.quotas.add(record, size - record.size)
        self._dirty(file)
        try:
            count = os.pwrite(self.files.fd(file), data, offset)
        except OSError as error:
            raise FsError(error.errno or errno.EIO) from error
        if offset > record.size:
            record.flags |= FLAG_SPARSE
        if size > record.size:
            self.quotas.count(record, max(record.size, offset + count) - size)
        self._grown(record, offset + count)
        self.drop_privileges(record, fsetid)
        self._modified(record)
        return count

    def _grown(self, record: InodeRecord, size: int) -> None:
        if size > record.size:
            self.tier.used_bytes += size - record.size
            record.size = size

    def _dirty(self, file: OpenFile) -> None:
        if not file.dirty:
            file.dirty = True
            self.marks.set(file.record)

    def drop_privileges(self, record: InodeRecord, fsetid: bool) -> None:
        """What a change of data or owner takes from a program (chown(2), write(2)).

        Linux, fs/attr.c, ``dentry_needs_remove_privs``: who has CAP_FSETID
        leaves the set-id bits; capabilities of the file go in any case.
        """
        if record.mode & SET_ID and not fsetid:
            record.mode &= ~stat.S_ISUID
            if record.mode & stat.S_IXGRP:
                record.mode &= ~stat.S_ISGID
        if record.flags & FLAG_XATTRS:
            self.tables.drop_xattr(record, CAPABILITY)

    def _modified(self, record: InodeRecord) -> None:
        record.mtime_ns = record.ctime_ns = self.tables.clock.now_ns()
        if record.flags & FLAG_WORM:
            self.tables.guard.touched(record)
        self.tables.save(record)
        file = self.files.get(record.ino)
        if file is not None and file.watched:
            self.through.touched(file)

    def truncate(self, record: InodeRecord, size: int, caller: Caller) -> Deferred[Any] | None:
        """Set the size; to nothing needs no recall of a stub."""
        if not stat.S_ISREG(record.mode):
            raise FsError(errno.EISDIR if stat.S_ISDIR(record.mode) else errno.EINVAL)
        if not 0 <= size <= SIZE_MAX:
            raise FsError(errno.EFBIG)
        if record.flags & FROZEN:  # since it began to wait
            raise self.tables.guard.refused(record, "truncate")
        if size == 0 and not self.versions.is_shared(record):
            return self._empty(record, caller)
        pending = self.versions.changing(record, caller.pid)
        if pending is not None:
            return chain(pending, lambda: self.truncate(record, size, caller))
        self._resize(record, size, caller)
        return None

    def _empty(self, record: InodeRecord, caller: Caller) -> Deferred[Any] | None:
        """Truncate to nothing; what copies hold is left behind durably first."""
        copying = self.versions.leaving(record)
        if copying is not None:
            return chain(copying, lambda: self._empty(record, caller))
        if not is_seen(record):
            self._resize(record, 0, caller)
            return None
        self.stubs.drop(record, FsError(errno.ESTALE, "the file was truncated"))
        claimed = record.data_version if self.claims.is_claimed(record) else None
        self.versions.step(record, Cause.EMPTIED)
        self.quotas.count(record, -record.size)
        record.size = 0
        self.drop_privileges(record, caller.fsetid)
        self._modified(record)
        return self.versions.cut(record, claimed)

    def _resize(self, record: InodeRecord, size: int, caller: Caller) -> None:
        file = self.files.get(record.ino)
        if file is not None:
            self._dirty(file)
        else:
            self.marks.set(record)
        self.quotas.add(record, size - record.size)
        try:
            os.truncate(self.tier.path(record.ino), size)
        except OSError as error:
            raise FsError(error.errno or errno.EIO) from error
        if size > record.size:
            record.flags |= FLAG_SPARSE
        self.tier.used_bytes += size - record.size
        record.size = size
        self.drop_privileges(record, caller.fsetid)
        self._modified(record)
        if file is None:
            self.marks.closed(record.ino)

    def fallocate(
        self, fh: int, mode: int, offset: int, length: int, fsetid: bool = False
    ) -> Deferred[Any] | None:
        """Allocate, punch, zero: modes 0, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE."""
        handle = self.files.handle(fh)
        if mode & ~FALLOC_KNOWN:
            raise FsError(errno.EOPNOTSUPP)
        if not handle.writes:
            raise FsError(errno.EBADF)
        if offset < 0 or length <= 0:
            raise FsError(errno.EINVAL)
        if handle.file.record.flags & FROZEN:
            raise self.tables.guard.refused(handle.file.record, "fallocate")
        if mode & FALLOC_PUNCH_HOLE and offset >= self.current(handle.file).size:
            # Nothing is there; times and set-id bits change all the same (ext4, Linux 6.15).
            self.drop_privileges(handle.file.record, fsetid)
            self._modified(handle.file.record)
            return None
        pending = self.versions.changing(handle.file.record, handle.pid)
        if pending is not None:
            return chain(pending, lambda: self.fallocate(fh, mode, offset, length, fsetid))
        if not mode & FALLOC_PUNCH_HOLE:
            self.tier.reserve(length)
        self._dirty(handle.file)
        _fallocate(self.files.fd(handle.file), mode, offset, length)
        record = handle.file.record
        self.drop_privileges(record, fsetid)
        record.flags |= FLAG_SPARSE
        if not mode & FALLOC_KEEP_SIZE:
            self.quotas.add(record, max(0, offset + length - record.size))
            self._grown(record, offset + length)
        self._modified(record)
        return None

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE; a stub is all data."""
        file = self.files.handle(fh).file
        record = self.current(file)
        if offset < 0 or offset >= record.size:
            raise FsError(errno.ENXIO)
        if record.state in STUB_STATES:
            return offset if whence == os.SEEK_DATA else record.size
        try:
            return os.lseek(self.files.fd(file), offset, whence)
        except OSError as error:
            raise FsError(error.errno or errno.EINVAL) from error

    def copy_file_range(
        self,
        fh_in: int,
        offset_in: int,
        fh_out: int,
        offset_out: int,
        length: int,
        fsetid: bool = False,
    ) -> int | Deferred[int]:
        """Bytes copied; fewer than asked is allowed (copy_file_range(2))."""
        size = min(length, COPY_INLINE_BYTES)
        data = self.read(fh_in, offset_in, size)
        if not isinstance(data, Deferred):
            return self.write(fh_out, offset_out, data, fsetid) if data else 0
        reading = data
        return chain(reading, lambda: self.write(fh_out, offset_out, reading.result(), fsetid))

    # -- durability ------------------------------------------------------------------

    def fsync(self, fh: int, _datasync: bool) -> Deferred[None]:
        """Data on disk first, then everything the namespace knows."""
        file = self.files.handle(fh).file
        answer: Deferred[None] = Deferred()
        if file.record.state in STUB_STATES or not stat.S_ISREG(file.record.mode):
            flush_into(self.tables, answer, None)
            return answer
        synced = self._in_worker(file, os.fdatasync)

        def commit(done: Deferred[None]) -> None:
            if done.error is not None:
                answer.settle_like(done)
            else:
                flush_into(self.tables, answer, None)

        synced.then(commit)
        return answer


def _value(opened: Opened | Deferred[Opened]) -> Opened:
    return opened.result() if isinstance(opened, Deferred) else opened


def _read_full(fd: int, offset: int, size: int) -> bytes:
    data = os.pread(fd, size, offset)
    while len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            # The size is larger than the file: a hole at its end.
            return data + bytes(size - len(data))
        data += more
    return data


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    off = ctypes.c_int64
    if libc.fallocate64(fd, mode, off(offset), off(length)) != 0:
        raise FsError(ctypes.get_errno())
