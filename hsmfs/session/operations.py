"""The request handlers: each calls one method of the engine.

No handler keeps state of the file system. What is here: references of the
kernel (``Nodes``), the process behind each open file (for interrupts), and
waiting for what the engine answers later.
"""

from __future__ import annotations

import errno
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
from hsmfs.namespace import acl
from hsmfs.namespace.engine import Engine
from hsmfs.namespace.model import Io, Opened
from hsmfs.session.convert import Entries, caller, changes, handler
from hsmfs.session.waiting import Waiting

log = logs.get(__name__)

READDIR_BATCH: Final = 64
"""Entries asked of the engine at once; a reply holds 20 to 700."""
HERE: Final = (b".", b"..")
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
    enable_acl = True

    def __init__(
        self, engine: Engine, waiting: Waiting, entries: Entries, metrics: FsMetrics
    ) -> None:
        super().__init__()
        self.engine = engine
        self.waiting = waiting
        self.entries = entries
        self.metrics = metrics
        engine.keep_until_forgotten()
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
        return self.entries.of(attr)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, _ in inode_list:
            self.engine.forget(ino)

    @handler
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self.entries.of(self.engine.mknod(parent_inode, name, mode, rdev, caller(ctx)))

    @handler
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self.entries.of(self.engine.mkdir(parent_inode, name, mode, caller(ctx)))

    @handler
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self.entries.of(self.engine.symlink(parent_inode, name, target, caller(ctx)))

    @handler
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self.entries.of(self.engine.link(inode, new_parent_inode, new_name))

    @handler
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return self.engine.readlink(inode)

    @handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self.engine.unlink(parent_inode, name)

    @handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self.engine.rmdir(parent_inode, name)

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
        self.engine.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    # -- attributes ----------------------------------------------------------

    @handler
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self.entries.of(self.engine.getattr(inode))

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
        return self.engine.getxattr(inode, name)

    @handler
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        # The binding has checked XATTR_CREATE and XATTR_REPLACE.
        kill_sgid = name == acl.ACCESS and self._is_outsider(inode, ctx)
        self.engine.setxattr(inode, name, value, 0, kill_sgid)

    def _is_outsider(self, inode: int, ctx: RequestContext) -> bool:
        """Not in the file's group; the kernel tells it only in a form that the
        binding does not ask for (FUSE_SETXATTR_EXT)."""
        gid = self.engine.getattr(inode).gid
        if ctx.uid == 0 or ctx.gid == gid:
            return False
        try:
            return gid not in pyfuse3.get_sup_groups(ctx.pid)
        except OSError:
            return True  # the process is gone

    @handler
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        return self.engine.listxattr(inode, ctx.uid)

    @handler
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        self.engine.removexattr(inode, name)

    # -- files ---------------------------------------------------------------

    @handler
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        answer = self.engine.open(inode, flags, caller(ctx))
        opened = await self.waiting.interruptible(answer, ctx.pid)
        return self._handle(opened, ctx.pid)

    @handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        answer = self.engine.create(parent_inode, name, mode, flags, caller(ctx))
        opened, attr = await self.waiting.interruptible(answer, ctx.pid)
        return self._handle(opened, ctx.pid), self.entries.of(attr)

    def _handle(self, opened: Opened, pid: int) -> FileInfo:
        self._openers[opened.fh] = pid
        # Stubs are read without the page cache: the kernel's read-ahead would
        # ask for data beyond the head that no program wants, and so load a
        # disc; and its few background requests would all be waiting ones.
        direct = opened.io is Io.DIRECT
        return FileInfo(fh=opened.fh, keep_cache=opened.keep_cache, direct_io=direct)

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
            if len(batch) < READDIR_BATCH:
                return

    @handler
    async def releasedir(self, fh: int) -> None:
        self.engine.releasedir(fh)

    @handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.waiting.brief(self.engine.fsyncdir(fh, datasync))
