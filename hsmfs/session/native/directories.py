"""Requests on directories and extended attributes."""

from __future__ import annotations

import errno
import stat
from typing import Final

from hsmfs.errors import FsError
from hsmfs.namespace.engine import Engine
from hsmfs.session.native import protocol as p
from hsmfs.session.native.codec import Codec
from hsmfs.session.native.files import empty_after
from hsmfs.session.native.names import one_name
from hsmfs.session.native.protocol import Op
from hsmfs.session.native.request import Answer, Handler, Head

ENTRY_BYTES: Final = 40
"""About what an entry needs: how many are asked of the engine for a buffer."""
PLUS_BYTES: Final = p.ENTRY_OUT.size + ENTRY_BYTES
OPENED: Final = p.FOPEN_KEEP_CACHE | p.FOPEN_CACHE_DIR
XATTR_SIZE_MAX: Final = 65_536


class DirectoryRequests:
    """Listings, extended attributes, syncs of directories."""

    def __init__(self, engine: Engine, codec: Codec) -> None:
        self.engine = engine
        self.codec = codec
        self.setxattr_extended = False

    def table(self) -> dict[int, Handler]:
        """Handlers by opcode."""
        return {
            Op.OPENDIR: self.opendir,
            Op.READDIR: self.readdir,
            Op.READDIRPLUS: self.readdirplus,
            Op.RELEASEDIR: self.releasedir,
            Op.FSYNCDIR: self.fsyncdir,
            Op.SYNCFS: self.syncfs,
            Op.GETXATTR: self.getxattr,
            Op.SETXATTR: self.setxattr,
            Op.LISTXATTR: self.listxattr,
            Op.REMOVEXATTR: self.removexattr,
        }

    def opendir(self, head: Head, _body: memoryview) -> Answer:
        return p.OPEN_OUT.pack(self.engine.opendir(head.node), OPENED, 0)

    def releasedir(self, _head: Head, body: memoryview) -> Answer:
        self.engine.releasedir(p.FH_IN.unpack_from(body)[0])
        return b""

    def readdir(self, _head: Head, body: memoryview) -> Answer:
        fh, cookie, size = p.READ_IN.unpack_from(body)[:3]
        reply = bytearray()
        for name, after, ino, kind in self.engine.listed(fh, cookie, size // ENTRY_BYTES + 1):
            entry = _dirent(name, after, ino, kind)
            if len(reply) + len(entry) > size:
                break
            reply += entry
        return bytes(reply)

    def readdirplus(self, _head: Head, body: memoryview) -> Answer:
        fh, cookie, size = p.READ_IN.unpack_from(body)[:3]
        reply = bytearray()
        engine, entry_of, absent = self.engine, self.codec.entry, self.codec.absent
        for name, after, ino, kind in engine.listed(fh, cookie, size // PLUS_BYTES + 1):
            entry = _dirent(name, after, ino, kind)
            if len(reply) + p.ENTRY_OUT.size + len(entry) > size:
                break
            if name in (b".", b".."):
                reply += absent
            else:
                try:
                    reply += entry_of(engine.getattr(ino))
                except FsError:
                    continue
            reply += entry
        return bytes(reply)

    def fsyncdir(self, _head: Head, body: memoryview) -> Answer:
        fh, flags = p.FSYNC_IN.unpack_from(body)
        return empty_after(self.engine.fsyncdir(fh, bool(flags & p.FSYNC_FDATASYNC)))

    def syncfs(self, _head: Head, _body: memoryview) -> Answer:
        return empty_after(self.engine.syncfs())

    # -- extended attributes ---------------------------------------------------

    def getxattr(self, head: Head, body: memoryview) -> Answer:
        size = p.GETXATTR_IN.unpack_from(body)[0]
        value = self.engine.getxattr(head.node, one_name(body, p.GETXATTR_IN.size))
        return _sized(value, size)

    def listxattr(self, head: Head, body: memoryview) -> Answer:
        size = p.GETXATTR_IN.unpack_from(body)[0]
        names = self.engine.listxattr(head.node, head.uid)
        value = b"".join(name + b"\0" for name in names)
        if len(value) > XATTR_SIZE_MAX:
            raise FsError(errno.E2BIG)
        return _sized(value, size)

    def setxattr(self, head: Head, body: memoryview) -> Answer:
        kill_sgid = False
        if self.setxattr_extended:
            if len(body) < p.SETXATTR_IN.size:
                raise FsError(errno.EINVAL)
            size, flags, more, _ = p.SETXATTR_IN.unpack_from(body)
            kill_sgid = bool(more & p.SETXATTR_ACL_KILL_SGID)
            start = p.SETXATTR_IN.size
        else:
            size, flags = p.SETXATTR_IN_SHORT.unpack_from(body)
            start = p.SETXATTR_IN_SHORT.size
        name, _, value = bytes(body[start:]).partition(b"\0")
        if len(value) != size:
            raise FsError(errno.EINVAL)
        self.engine.setxattr(head.node, name, value, flags, kill_sgid)
        return b""

    def removexattr(self, head: Head, body: memoryview) -> Answer:
        self.engine.removexattr(head.node, one_name(body))
        return b""


def _sized(value: bytes, size: int) -> bytes:
    """The value, or its size where only that is asked."""
    if size == 0:
        return p.TWO_U32.pack(len(value), 0)
    if len(value) > size:
        raise FsError(errno.ERANGE)
    return value


def _dirent(name: bytes, after: int, ino: int, kind: int) -> bytes:
    """struct fuse_dirent: padded to eight bytes."""
    length = len(name)
    head = p.DIRENT.pack(ino, after, length, stat.S_IFMT(kind) >> 12)
    return head + name + bytes(-length & 7)
