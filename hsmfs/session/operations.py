"""The request handlers: each calls one method of the engine.

No handler keeps state of the file system. What is here: references of the
kernel (``Nodes``), the process behind each open file (for interrupts), and
waiting for what the engine answers later.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileInfo,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

from hsmfs import logs
from hsmfs.errors import FsError
from hsmfs.metrics import FsMetrics
from hsmfs.namespace.engine import Engine
from hsmfs.namespace.model import Attr, Opened
from hsmfs.session.convert import Entries, caller, changes, handler
from hsmfs.session.nodes import Nodes
from hsmfs.session.waiting import Waiting

log = logs.get(__name__)

READDIR_BATCH: Final = 64
"""Entries asked of the engine at once; a reply holds 20 to 700."""
HERE: Final = (b".", b"..")
ACL_PREFIX: Final = b"system.posix_acl_"
"""Without ACL support by the mount they must be refused: a tool that can store
an ACL takes the mode as set by it."""
STUB_STATES: Final = (b"migrated", b"recalling")


@dataclass(frozen=True, slots=True)
class Listing:
    """An open directory."""

    ino: int
    engine_fh: int


class Operations(pyfuse3.Operations):
    """One mounted engine, as the binding wants it."""

    supports_dot_lookup = True
    enable_writeback_cache = False
    enable_acl = False

    def __init__(
        self, engine: Engine, waiting: Waiting, entries: Entries, metrics: FsMetrics
    ) -> None:
        super().__init__()
        self.engine = engine
        self.waiting = waiting
        self.entries = entries
        self.metrics = metrics
        self.nodes = Nodes()
        self.accepted = False
        self._openers: dict[int, int] = {}

    def init(self) -> None:
        """The kernel has accepted the session."""
        self.accepted = True

    # -- names ---------------------------------------------------------------

    @handler
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        try:
            attr = self.engine.lookup(parent_inode, name)
        except FsError as error:
            if error.errno != errno.ENOENT:
                raise
            if name in HERE:
                # A file handle from an earlier mount whose inode is gone.
                raise FsError(errno.ESTALE) from None
            return self.entries.absent()
        return self._known(attr)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        self.nodes.forget(inode_list)

    @handler
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._known(self.engine.mknod(parent_inode, name, mode, rdev, caller(ctx)))

    @handler
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._known(self.engine.mkdir(parent_inode, name, mode, caller(ctx)))

    @handler
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._known(self.engine.symlink(parent_inode, name, target, caller(ctx)))

    @handler
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._known(self.engine.link(inode, new_parent_inode, new_name))

    @handler
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return self.engine.readlink(inode)

    @handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        last = self._last_name(parent_inode, name)
        self.engine.unlink(parent_inode, name)
        self._removed(last)

    @handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        last = self._last_name(parent_inode, name)
        self.engine.rmdir(parent_inode, name)
        self._removed(last)

    @handler
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        exchange = flags & pyfuse3.RENAME_EXCHANGE
        last = None if exchange else self._last_name(parent_inode_new, name_new)
        moved = last and self.engine.lookup(parent_inode_old, name_old)
        self.engine.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)
        if last and moved and last.ino != moved.ino:
            self._removed(last)

    def _known(self, attr: Attr) -> EntryAttributes:
        self.nodes.looked_up(attr.ino)
        return self.entries.of(attr)

    def _last_name(self, parent: int, name: bytes) -> Attr | None:
        """The inode that removing this name would remove."""
        try:
            attr = self.engine.lookup(parent, name)
        except FsError:
            return None
        return attr if attr.nlink == 1 or stat.S_ISDIR(attr.mode) else None

    def _removed(self, attr: Attr | None) -> None:
        if attr is not None:
            self.nodes.removed(attr)

    # -- attributes ----------------------------------------------------------

    @handler
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self.entries.of(self._attr(inode))

    def _attr(self, ino: int) -> Attr:
        try:
            return self.engine.getattr(ino)
        except FsError as error:
            last = self.nodes.last_seen(ino)
            if last is None or error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            return last

    @handler
    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        answer = self.engine.setattr(inode, changes(attr, fields), fh, caller(ctx))
        return self.entries.of(await self.waiting.interruptible(answer, ctx.pid))

    @handler
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        facts = self.engine.statfs()
        reply = StatvfsData()
        for name in facts.__slots__:
            setattr(reply, name, getattr(facts, name))
        return reply

    @handler
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        self._check_supported(name)
        return self.engine.getxattr(inode, name)

    @handler
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        # The binding has checked XATTR_CREATE and XATTR_REPLACE.
        self._check_supported(name)
        self.engine.setxattr(inode, name, value)

    @handler
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        return self.engine.listxattr(inode)

    @handler
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        self.engine.removexattr(inode, name)

    @staticmethod
    def _check_supported(name: bytes) -> None:
        if name.startswith(ACL_PREFIX):
            raise FsError(errno.EOPNOTSUPP)

    # -- files ---------------------------------------------------------------

    @handler
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        answer = self.engine.open(inode, flags, caller(ctx))
        opened = await self.waiting.interruptible(answer, ctx.pid)
        return self._handle(opened, inode, ctx.pid)

    @handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        opened, attr = self.engine.create(parent_inode, name, mode, flags, caller(ctx))
        return self._handle(opened, attr.ino, ctx.pid), self._known(attr)

    def _handle(self, opened: Opened, ino: int, pid: int) -> FileInfo:
        self._openers[opened.fh] = pid
        # Stubs are read without the page cache: the kernel's read-ahead would
        # ask for data beyond the head that no program wants, and so load a
        # disc; and its few background requests would all be waiting ones.
        stub = self._is_stub(ino)
        return FileInfo(fh=opened.fh, keep_cache=opened.keep_cache, direct_io=stub)

    def _is_stub(self, ino: int) -> bool:
        try:
            return self.engine.getxattr(ino, b"user.hsm.state") in STUB_STATES
        except FsError:
            return False

    @handler
    async def read(self, fh: int, off: int, size: int) -> bytes:
        answer = self.engine.read(fh, off, size)
        return await self.waiting.interruptible(answer, self._openers.get(fh, 0))

    @handler
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        answer = self.engine.write(fh, off, buf)
        return await self.waiting.interruptible(answer, self._openers.get(fh, 0))

    @handler
    async def flush(self, fh: int) -> None:
        self.engine.flush(fh)

    @handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self.waiting.brief(self.engine.fsync(fh, datasync))

    @handler
    async def release(self, fh: int) -> None:
        self._openers.pop(fh, None)
        self.engine.release(fh)

    @property
    def open_files(self) -> int:
        """File handles that the kernel holds."""
        return len(self._openers)

    # -- directories ---------------------------------------------------------

    @handler
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return self.engine.opendir(inode)

    @handler
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        cookie = start_id
        while True:
            batch = self.engine.readdir(fh, cookie, READDIR_BATCH)
            for name, cookie, attr in batch:
                if not pyfuse3.readdir_reply(token, name, self.entries.of(attr), cookie):
                    return
                if name not in HERE:
                    self.nodes.looked_up(attr.ino)
            if len(batch) < READDIR_BATCH:
                return

    @handler
    async def releasedir(self, fh: int) -> None:
        self.engine.releasedir(fh)

    @handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.waiting.brief(self.engine.fsyncdir(fh, datasync))
