"""The namespace engine: one object, one method per operation, one thread.

Nothing here knows of FUSE or trio. An operation that must wait returns a
``Deferred``; all others are done when they return. Errors are ``FsError``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from hsmfs.cache.hands import CacheHands, Hands
from hsmfs.cache.tier import CacheTier
from hsmfs.clock import Clock
from hsmfs.deferred import Deferred, Executor
from hsmfs.errors import FsError
from hsmfs.namespace.births import Births
from hsmfs.namespace.claims import Claims
from hsmfs.namespace.directories import Directories, Listed
from hsmfs.namespace.fileops import FileOps
from hsmfs.namespace.holds import Holds
from hsmfs.namespace.imports import Imports
from hsmfs.namespace.marks import Marks
from hsmfs.namespace.model import (
    NAME_BYTES_MAX,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    Attr,
    Caller,
    EngineSettings,
    Opened,
    SetAttr,
    StatFs,
)
from hsmfs.namespace.openfiles import OpenFile, OpenFiles
from hsmfs.namespace.quotas import Quotas
from hsmfs.namespace.readonly import check_writable
from hsmfs.namespace.recovery import make_namespace, recover
from hsmfs.namespace.removal import Removal
from hsmfs.namespace.retention import Retention
from hsmfs.namespace.stubs import Stubs, flush_into
from hsmfs.namespace.tables import Tables
from hsmfs.namespace.through import Backings
from hsmfs.namespace.tree import Tree
from hsmfs.namespace.xattrs import Xattrs
from hsmfs.records import FLAG_WORM, InodeRecord, within_time
from hsmfs.rpc.messages import (
    CopiedFile,
    Event,
    FileResult,
    RecallFile,
    StateCount,
    StatusReply,
    TierStatus,
    Wanted,
)
from hsmfs.store.overlay import GroupCommit
from hsmfs.types import ROOT_INODE, ByteRange, FileVersion, Residency

__all__ = [
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "Attr",
    "Caller",
    "Engine",
    "EngineSettings",
    "Opened",
    "SetAttr",
    "StatFs",
    "make_namespace",
]
BLOCK_BYTES: Final = 4096


class Engine:
    """A whole file system, without a binding."""

    def __init__(
        self,
        store: GroupCommit,
        cache: CacheTier,
        clock: Clock,
        executor: Executor,
        settings: EngineSettings | None = None,
        hands: CacheHands | None = None,
    ) -> None:
        settings = settings or EngineSettings()
        self.clock = clock
        self.tier = cache
        self.tables = Tables(store, clock, settings.journal_records_max)
        self.quotas = Quotas(self.tables)
        self.tables.quotas_save = self.quotas.save
        self.recovered = recover(self.tables, cache, self.quotas)
        self.files = OpenFiles(cache, self._closed)
        self.stubs = Stubs(self.tables, cache, self.files, executor, settings.recall_timeout_s)
        self.claims = Claims(self.tables, cache, self.files, executor)
        self.tree = Tree(self.tables, self._removed)
        self.directories = Directories(self.tables, self.tree)
        self.xattrs = Xattrs(self.tables, self.stubs)
        hands = hands or Hands(cache.root)
        self.tree.born = lambda record: self.quotas.add(record, 0, 1)
        self.births = Births(self.tables, cache, executor, hands)
        self.marks = Marks(self.tables, cache, executor)
        self.removal = Removal(
            self.tables, cache, self.files, self.stubs, self.claims, self.marks, hands,
            self.quotas, executor,
        )  # fmt: skip
        self.ops = FileOps(
            self.tables, self.tree, cache, self.files, self.stubs, self.claims, self.removal,
            self.marks, self.births, self.quotas, executor,
        )  # fmt: skip
        self.imports = Imports(self.tables, self.tree, self.files, self.removal, self.quotas)
        self.retention = Retention(self.tables, self.files, self.ops.through, executor)
        self.tables.guard = self.retention
        self.holds = Holds(self.retention, self.tree, self.removal)
        self.xattrs.holds = self.holds
        self.ops.check_foreign = self.imports.check_open
        if settings.noatime:
            self.ops.always = os.O_NOATIME
        self.files.writer_gone = self.ops.through.refresh
        self.tables.blocks_of = self._blocks_of
        self.tables.settled = self._account
        self.tables.is_held = lambda ino: (
            self.files.get(ino) is not None or ino in self.stubs.recalls
        )
        self.quotas.configure(self.tree, list(settings.quotas))
        self._account()

    def _removed(self, record: InodeRecord) -> None:
        self.removal.removed(record)

    def _closed(self, file: OpenFile) -> None:
        self.tree.linkable.discard(file.record.ino)
        if file.record.flags & FLAG_WORM:
            self.retention.closed(file.record)
        self.ops.closed(file)

    def _account(self) -> None:
        self.tier.used_bytes = self.tables.counters.cached

    def _blocks_of(self, record: InodeRecord) -> int:
        try:
            return os.stat(self.tier.path(record.ino)).st_blocks
        except OSError:
            return record.size >> 9

    def pass_through(self, backings: Backings) -> None:
        """From now on resident files are read and written on the cache file itself."""
        self.ops.through.backings = backings

    def keep_until_forgotten(self) -> None:
        """The session will call ``forget``: removed inodes stay until then."""
        self.removal.forgets = True

    # -- names -------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes) -> Attr:
        """Attributes of a name; ``.`` and ``..`` too."""
        return self.tree.lookup(parent, name)

    def lookup_or_none(self, parent: int, name: bytes) -> Attr | None:
        """As ``lookup``; None for ENOENT, which is no error to a kernel that asks first."""
        attr = self.tree.known(parent, name)
        if attr is None and not self.tree.is_absent(parent, name):
            return self.tree.lookup(parent, name)
        return attr

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Attr:
        """A file, FIFO, socket or device."""
        if stat.S_ISREG(mode) or not stat.S_IFMT(mode):
            return self.tables.attr(self.ops.make_file(parent, name, mode, caller))
        if stat.S_ISDIR(mode):
            raise FsError(errno.EPERM)
        return self.tables.attr(self.tree.make(parent, name, mode, caller, rdev))

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attr:
        """A directory."""
        mode = stat.S_IFDIR | stat.S_IMODE(mode)
        return self.tables.attr(self.tree.make(parent, name, mode, caller))

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attr:
        """A symbolic link."""
        return self.tree.symlink(parent, name, target, caller)

    def readlink(self, ino: int) -> bytes:
        """The target of a symbolic link."""
        return self.tree.readlink(ino)

    def link(self, ino: int, parent: int, name: bytes) -> Attr:
        """One more name for a file."""
        attr = self.tree.link(ino, parent, name)
        self.removal.named(ino)
        return attr

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name of anything but a directory."""
        self.tree.unlink(parent, name)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        self.tree.rmdir(parent, name)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> None:
        """rename(2) and renameat2(2)."""
        self.tree.rename(parent, name, new_parent, new_name, flags)

    # -- attributes ----------------------------------------------------------------

    def getattr(self, ino: int) -> Attr:
        """What stat(2) tells."""
        return self.tables.attr(self.tables.inode(ino))

    def setattr(
        self, ino: int, changes: SetAttr, fh: int | None, caller: Caller
    ) -> Attr | Deferred[Attr]:
        """Change attributes; a new size may have to wait for a recall."""
        record = self.tables.inode(ino)
        check_writable(self.tables.guard, record, "setattr")
        if ino in self.tables.live:
            self.tables.live[ino]()
        if changes.size is None:
            return self._set_plain(record, changes, caller)
        if fh is not None and not self.files.handle(fh).writes:
            raise FsError(errno.EINVAL)
        waiting = self.ops.truncate(record, changes.size, caller)
        if waiting is None:
            return self._set_plain(record, changes, caller)
        answer: Deferred[Attr] = Deferred(on_cancel=waiting.cancel)

        def go_on(done: Deferred[object]) -> None:
            if done.error is not None:
                answer.settle_like(done)
            else:
                answer.set(self._set_plain(record, changes, caller))

        waiting.then(go_on)
        return answer

    def _set_plain(self, record: InodeRecord, changes: SetAttr, caller: Caller) -> Attr:
        if changes.mode is not None:
            record.mode = stat.S_IFMT(record.mode) | stat.S_IMODE(changes.mode)
            self.xattrs.mode_changed(record)
        if changes.uid is not None or changes.gid is not None:
            self._set_owner(record, changes)
        if changes.atime_ns is not None:
            record.atime_ns = within_time(changes.atime_ns)
        if changes.mtime_ns is not None:
            record.mtime_ns = within_time(changes.mtime_ns)
        record.ctime_ns = self.clock.now_ns()
        if record.flags & FLAG_WORM:
            self.tables.guard.touched(record)
        self.tables.save(record)
        self.tables.journal(
            "setattr", record.ino, record.mode, record.uid, record.gid, record.mtime_ns
        )
        return self.tables.attr(record)

    def _set_owner(self, record: InodeRecord, changes: SetAttr) -> None:
        """Owner and group; set-id bits of programs do not survive it (chown(2))."""
        if changes.uid is not None:
            record.uid = changes.uid
        if changes.gid is not None:
            record.gid = changes.gid
        if changes.mode is None and not stat.S_ISDIR(record.mode):
            self.ops.drop_privileges(record, fsetid=False)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """One extended attribute; ENODATA."""
        return self.xattrs.get(ino, name)

    def setxattr(
        self, ino: int, name: bytes, value: bytes, flags: int = 0, kill_sgid: bool = False
    ) -> None:
        """Set one; ``user.hsm.pin`` forbids release."""
        self.xattrs.set(ino, name, value, flags, kill_sgid)

    def listxattr(self, ino: int, uid: int = 0) -> list[bytes]:
        """Names of the stored ones that this user may know."""
        return self.xattrs.list(ino, uid)

    def removexattr(self, ino: int, name: bytes) -> None:
        """Remove one; ENODATA."""
        self.xattrs.remove(ino, name)

    def statfs(self, ino: int = ROOT_INODE) -> StatFs:
        """The cache tier's space: what can be written now; below a quota, what it leaves."""
        space = self.tier.space()
        total = self.tier.capacity_bytes or space.total
        free = min(self.tier.free_bytes(), total)
        whole = StatFs(
            BLOCK_BYTES,
            BLOCK_BYTES,
            total // BLOCK_BYTES,
            free // BLOCK_BYTES,
            free // BLOCK_BYTES,
            space.files,
            space.files_free,
            space.files_free,
            NAME_BYTES_MAX,
        )
        return self.quotas.seen_from(self.tables.inode(ino), whole)

    # -- files ---------------------------------------------------------------------

    def open(self, ino: int, flags: int, caller: Caller) -> Opened | Deferred[Opened]:
        """A handle on a file."""
        return self.ops.open(ino, flags, caller)

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[Opened, Attr] | Deferred[tuple[Opened, Attr]]:
        """A new file and a handle on it."""
        made = self.ops.create(parent, name, mode, flags, caller)
        if isinstance(made, Deferred):
            return made.map(lambda pair: (pair[0], self.tables.attr(pair[1])))
        return made[0], self.tables.attr_of(made[1])

    def tmpfile(self, parent: int, mode: int, flags: int, caller: Caller) -> tuple[Opened, Attr]:
        """A file without a name and a handle on it."""
        opened, record = self.ops.tmpfile(parent, mode, flags, caller)
        return opened, self.tables.attr(record)

    def read(self, fh: int, offset: int, size: int) -> bytes | Deferred[bytes]:
        """Bytes of a file; of a stub, when they have landed."""
        return self.ops.read(fh, offset, size)

    def write(
        self, fh: int, offset: int, data: bytes | memoryview, fsetid: bool = False
    ) -> int | Deferred[int]:
        """Write all of ``data``."""
        return self.ops.write(fh, offset, data, fsetid)

    def flush(self, fh: int) -> None:
        """One descriptor of the handle was closed: nothing is kept back here."""
        self.files.handle(fh)

    def fsync(self, fh: int, datasync: bool) -> Deferred[None]:
        """On disk when done."""
        return self.ops.fsync(fh, datasync)

    def release(self, fh: int) -> None:
        """Close a handle."""
        self.ops.release(fh)

    def fallocate(
        self, fh: int, mode: int, offset: int, length: int, fsetid: bool = False
    ) -> object:
        """Allocate, punch or zero."""
        return self.ops.fallocate(fh, mode, offset, length, fsetid)

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE."""
        return self.ops.lseek(fh, offset, whence)

    def copy_file_range(
        self,
        fh_in: int,
        offset_in: int,
        fh_out: int,
        offset_out: int,
        length: int,
        fsetid: bool = False,
    ) -> int | Deferred[int]:
        """Copy within the file system."""
        return self.ops.copy_file_range(fh_in, offset_in, fh_out, offset_out, length, fsetid)

    def forget(self, ino: int) -> None:
        """The kernel has no more use for an inode: without a name it ends."""
        if ino in self.removal.nameless:
            self.removal.forgotten(ino)

    # -- directories -----------------------------------------------------------------

    def opendir(self, ino: int) -> int:
        """A handle on a directory."""
        return self.directories.open(ino)

    def listed(self, fh: int, cookie: int, limit: int) -> Iterator[Listed]:
        """Entries after a cookie, without attributes; to be used up at once."""
        return self.directories.listed(fh, cookie, limit)

    def readdir(self, fh: int, cookie: int, limit: int) -> list[tuple[bytes, int, Attr]]:
        """Entries after a cookie: name, next cookie, attributes."""
        return self.directories.read(fh, cookie, limit)

    def releasedir(self, fh: int) -> None:
        """Close a directory handle."""
        self.directories.release(fh)

    def fsyncdir(self, fh: int, _datasync: bool) -> Deferred[None]:
        """Entries on disk when done."""
        return self.syncfs()

    def syncfs(self) -> Deferred[None]:
        """Everything so far on disk when done."""
        answer: Deferred[None] = Deferred()
        flush_into(self.tables, answer, None)
        return answer

    # -- residency, for hsmd -------------------------------------------------------------

    @property
    def on_event(self) -> Callable[[Event], None]:
        """Who is told what hsmd should know."""
        return self.stubs.on_event

    @on_event.setter
    def on_event(self, tell: Callable[[Event], None]) -> None:
        self.stubs.on_event = tell

    def pending_wanted(self) -> list[Wanted]:
        """All that readers wait for now."""
        return self.stubs.pending()

    def claim(self, files: Sequence[FileVersion]) -> Deferred[list[FileResult]]:
        """Freeze versions for a burn."""
        return self.claims.claim(files)

    def unclaim(self, files: Sequence[FileVersion]) -> None:
        """The burn no longer needs them."""
        self.claims.unclaim(files)

    def hold_only(self, files: Sequence[FileVersion]) -> None:
        """A new hsmd: all claims but these are void, and recalls nobody waits for."""
        self.claims.hold_only(files)
        self.stubs.abandon_unwanted()

    def copied(self, files: Sequence[CopiedFile]) -> Deferred[list[FileResult]]:
        """Count verified copies."""
        return self.claims.copied(files)

    def release_data(
        self, files: Sequence[FileVersion], head_bytes: int
    ) -> Deferred[list[FileResult]]:
        """Turn premigrated files into stubs."""
        return self.claims.release(files, head_bytes)

    def recall_begin(self, file: FileVersion) -> RecallFile:
        """Where hsmd writes the data of a stub."""
        return self.stubs.begin(file)

    def landed(self, file: FileVersion, span: ByteRange) -> None:
        """A range is in the recall file."""
        self.stubs.landed(file, span)

    def recalled(self, file: FileVersion) -> Deferred[None]:
        """The recall file is whole."""
        return self.stubs.recalled(file)

    def failed(self, file: FileVersion, number: int, why: str) -> None:
        """The recall ends with an error."""
        self.stubs.failed(file, number, why)

    def recall_note(self, file: FileVersion, text: str) -> None:
        """What the recall waits for."""
        self.stubs.note(file, text)

    def pin(self, inodes: Sequence[int], pinned: bool) -> None:
        """Forbid or allow release."""
        self.claims.pin(inodes, pinned)

    def status(self) -> StatusReply:
        """Counts and space, as of now."""
        self.tables.settle()
        counters = self.tables.counters
        states = [
            StateCount(state.word, counters.files[state], counters.bytes[state])
            for state in Residency
        ]
        space = self.tier.space()
        capacity = self.tier.capacity_bytes or max(0, space.total - self.tier.reserve_bytes)
        used = counters.cached if self.tier.capacity_bytes else space.total - space.free
        tier = TierStatus(self.tier.name, used, capacity, self.tier.free_bytes())
        return StatusReply(
            states,
            [tier],
            self.stubs.waiting_readers,
            len(self.files),
            len(self.claims.held),
        )

    def close(self) -> None:
        """Commit everything and let go of all files."""
        self.retention.close()
        busy = self.files.written_by_programs()
        self.files.close_all()
        self.births.close()
        self.marks.sync_now(busy)
        for recall in self.stubs.recalls.values():
            if recall.fd >= 0:
                os.close(recall.fd)
                recall.fd = -1
        self.tables.kv.close()
