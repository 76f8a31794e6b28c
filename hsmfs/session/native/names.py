"""Requests on names and attributes."""

from __future__ import annotations

import errno
import time
from typing import Final

from hsmfs.deferred import Deferred
from hsmfs.errors import FsError
from hsmfs.namespace.engine import Engine
from hsmfs.namespace.model import SetAttr
from hsmfs.session.native import protocol as p
from hsmfs.session.native.codec import SECOND_NS, Codec
from hsmfs.session.native.protocol import Op
from hsmfs.session.native.request import Answer, Handler, Head

HERE: Final = (b".", b"..")


def one_name(body: memoryview, start: int = 0) -> bytes:
    """The name that ends the request, without its zero."""
    return bytes(body[start:-1])


def two_names(body: memoryview, start: int) -> tuple[bytes, bytes]:
    """Two names, each with a zero."""
    first, second, _ = bytes(body[start:]).split(b"\0", 2)
    return first, second


class NameRequests:
    """Lookups, links, renames, attributes."""

    def __init__(self, engine: Engine, codec: Codec) -> None:
        self.engine = engine
        self.codec = codec

    def table(self) -> dict[int, Handler]:
        """Handlers by opcode."""
        return {
            Op.LOOKUP: self.lookup,
            Op.GETATTR: self.getattr,
            Op.SETATTR: self.setattr,
            Op.READLINK: self.readlink,
            Op.SYMLINK: self.symlink,
            Op.MKNOD: self.mknod,
            Op.MKDIR: self.mkdir,
            Op.UNLINK: self.unlink,
            Op.RMDIR: self.rmdir,
            Op.RENAME: self.rename,
            Op.RENAME2: self.rename2,
            Op.LINK: self.link,
            Op.FORGET: self.forget,
            Op.BATCH_FORGET: self.batch_forget,
            Op.STATFS: self.statfs,
            Op.STATX: self.statx,
        }

    def lookup(self, head: Head, body: memoryview) -> Answer:
        name = bytes(body[:-1])
        try:
            attr = self.engine.lookup_or_none(head.node, name)
        except FsError as error:
            if error.errno == errno.ENOENT and name in HERE:
                # A file handle from an earlier mount whose inode is gone.
                raise FsError(errno.ESTALE) from None
            raise
        return self.codec.absent if attr is None else self.codec.entry(attr)

    def forget(self, head: Head, _body: memoryview) -> Answer:
        self.engine.forget(head.node)
        return None

    def batch_forget(self, _head: Head, body: memoryview) -> Answer:
        count = p.U32.unpack_from(body)[0]
        stop = 8 + count * p.FORGET_ONE.size
        for node, _ in p.FORGET_ONE.iter_unpack(body[8:stop]):
            self.engine.forget(node)
        return None

    def getattr(self, head: Head, _body: memoryview) -> Answer:
        return self.codec.attributes(self.engine.getattr(head.node))

    def statx(self, head: Head, _body: memoryview) -> Answer:
        return self.codec.statx(self.engine.getattr(head.node))

    def setattr(self, head: Head, body: memoryview) -> Answer:
        fields = p.SETATTR_IN.unpack_from(body)
        valid, fh = fields[0], fields[1]
        handle = fh if valid & p.FATTR_FH else None
        who = head.caller(0, valid & p.FATTR_KILL_SUIDGID)
        answer = self.engine.setattr(head.node, _changes(valid, fields), handle, who)
        if isinstance(answer, Deferred):
            return answer.map(self.codec.attributes)
        return self.codec.attributes(answer)

    def readlink(self, head: Head, _body: memoryview) -> Answer:
        return self.engine.readlink(head.node)

    def symlink(self, head: Head, body: memoryview) -> Answer:
        name, target = two_names(body, 0)
        return self.codec.entry(self.engine.symlink(head.node, name, target, head.caller()))

    def mknod(self, head: Head, body: memoryview) -> Answer:
        mode, rdev, umask, _ = p.MKNOD_IN.unpack_from(body)
        name = one_name(body, p.MKNOD_IN.size)
        return self.codec.entry(self.engine.mknod(head.node, name, mode, rdev, head.caller(umask)))

    def mkdir(self, head: Head, body: memoryview) -> Answer:
        mode, umask = p.MKDIR_IN.unpack_from(body)
        name = one_name(body, p.MKDIR_IN.size)
        return self.codec.entry(self.engine.mkdir(head.node, name, mode, head.caller(umask)))

    def unlink(self, head: Head, body: memoryview) -> Answer:
        self.engine.unlink(head.node, one_name(body))
        return b""

    def rmdir(self, head: Head, body: memoryview) -> Answer:
        self.engine.rmdir(head.node, one_name(body))
        return b""

    def rename(self, head: Head, body: memoryview) -> Answer:
        target = p.U64.unpack_from(body)[0]
        name, new_name = two_names(body, p.U64.size)
        self.engine.rename(head.node, name, target, new_name, 0)
        return b""

    def rename2(self, head: Head, body: memoryview) -> Answer:
        target, flags, _ = p.RENAME2_IN.unpack_from(body)
        name, new_name = two_names(body, p.RENAME2_IN.size)
        self.engine.rename(head.node, name, target, new_name, flags)
        return b""

    def link(self, head: Head, body: memoryview) -> Answer:
        ino = p.U64.unpack_from(body)[0]
        return self.codec.entry(self.engine.link(ino, head.node, one_name(body, p.U64.size)))

    def statfs(self, head: Head, _body: memoryview) -> Answer:
        facts = self.engine.statfs(head.node)
        return p.STATFS_OUT.pack(
            facts.f_blocks,
            facts.f_bfree,
            facts.f_bavail,
            facts.f_files,
            facts.f_ffree,
            facts.f_bsize,
            facts.f_namemax,
            facts.f_frsize,
        )


def _changes(valid: int, fields: tuple[int, ...]) -> SetAttr:
    """What SETATTR asks for."""
    _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid = fields
    now_ns = time.time_ns() if valid & (p.FATTR_ATIME_NOW | p.FATTR_MTIME_NOW) else 0
    new_atime = new_mtime = None
    if valid & p.FATTR_ATIME:
        new_atime = now_ns if valid & p.FATTR_ATIME_NOW else atime * SECOND_NS + atime_ns
    if valid & p.FATTR_MTIME:
        new_mtime = now_ns if valid & p.FATTR_MTIME_NOW else mtime * SECOND_NS + mtime_ns
    return SetAttr(
        mode if valid & p.FATTR_MODE else None,
        uid if valid & p.FATTR_UID else None,
        gid if valid & p.FATTR_GID else None,
        size if valid & p.FATTR_SIZE else None,
        new_atime,
        new_mtime,
    )
