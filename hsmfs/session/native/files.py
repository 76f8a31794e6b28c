"""Requests on open files."""

from __future__ import annotations

from typing import Any

from hsmfs.deferred import Deferred
from hsmfs.namespace.engine import Engine
from hsmfs.namespace.model import Attr, Io, Opened
from hsmfs.session.native import protocol as p
from hsmfs.session.native.codec import Codec
from hsmfs.session.native.names import one_name
from hsmfs.session.native.protocol import Op
from hsmfs.session.native.request import Answer, Handler, Head

WAYS = {
    Io.CACHED: p.FOPEN_KEEP_CACHE | p.FOPEN_NOFLUSH,
    Io.DIRECT: p.FOPEN_DIRECT_IO | p.FOPEN_NOFLUSH | p.FOPEN_PARALLEL_DIRECT_WRITES,
    Io.PASSES: p.FOPEN_PASSTHROUGH | p.FOPEN_NOFLUSH,
    Io.BESIDE: p.FOPEN_PASSTHROUGH | p.FOPEN_DIRECT_IO | p.FOPEN_NOFLUSH,
}
"""Nothing is kept back until close(2), so FLUSH would tell nothing."""


def opened_out(opened: Opened) -> bytes:
    """struct fuse_open_out."""
    return p.OPEN_OUT.pack(opened.fh, WAYS[opened.io], opened.backing)


class FileRequests:
    """Open, read, write, sync, allocate."""

    def __init__(self, engine: Engine, codec: Codec) -> None:
        self.engine = engine
        self.codec = codec

    def table(self) -> dict[int, Handler]:
        """Handlers by opcode."""
        return {
            Op.OPEN: self.open,
            Op.CREATE: self.create,
            Op.TMPFILE: self.tmpfile,
            Op.READ: self.read,
            Op.WRITE: self.write,
            Op.FLUSH: self.flush,
            Op.RELEASE: self.release,
            Op.FSYNC: self.fsync,
            Op.FALLOCATE: self.fallocate,
            Op.LSEEK: self.lseek,
            Op.COPY_FILE_RANGE: self.copy_file_range,
        }

    def open(self, head: Head, body: memoryview) -> Answer:
        flags, more = p.OPEN_IN.unpack_from(body)
        who = head.caller(0, more & p.OPEN_KILL_SUIDGID)
        opened = self.engine.open(head.node, flags, who)
        return opened.map(opened_out) if isinstance(opened, Deferred) else opened_out(opened)

    def create(self, head: Head, body: memoryview) -> Answer:
        flags, mode, umask, more = p.CREATE_IN.unpack_from(body)
        name = one_name(body, p.CREATE_IN.size)
        who = head.caller(umask, more & p.OPEN_KILL_SUIDGID)
        made = self.engine.create(head.node, name, mode, flags, who)
        return made.map(self._made) if isinstance(made, Deferred) else self._made(made)

    def _made(self, made: tuple[Opened, Attr]) -> bytes:
        return self.codec.entry(made[1]) + opened_out(made[0])

    def tmpfile(self, head: Head, body: memoryview) -> Answer:
        flags, mode, umask, _ = p.CREATE_IN.unpack_from(body)
        return self._made(self.engine.tmpfile(head.node, mode, flags, head.caller(umask)))

    def read(self, _head: Head, body: memoryview) -> Answer:
        fh, offset, size = p.READ_IN.unpack_from(body)[:3]
        return self.engine.read(fh, offset, size)

    def write(self, _head: Head, body: memoryview) -> Answer:
        fh, offset, size, flags = p.WRITE_IN.unpack_from(body)[:4]
        start = p.WRITE_IN.size
        data = body[start : start + size]
        count = self.engine.write(fh, offset, data, not flags & p.WRITE_KILL_SUIDGID)
        return count.map(_written) if isinstance(count, Deferred) else _written(count)

    def flush(self, _head: Head, _body: memoryview) -> Answer:
        return b""

    def release(self, _head: Head, body: memoryview) -> Answer:
        self.engine.release(p.FH_IN.unpack_from(body)[0])
        return b""

    def fsync(self, _head: Head, body: memoryview) -> Answer:
        fh, flags = p.FSYNC_IN.unpack_from(body)
        return empty_after(self.engine.fsync(fh, bool(flags & p.FSYNC_FDATASYNC)))

    def fallocate(self, head: Head, body: memoryview) -> Answer:
        fh, offset, length, mode, _ = p.FALLOCATE_IN.unpack_from(body)
        return empty_after(self.engine.fallocate(fh, mode, offset, length, head.uid == 0))

    def lseek(self, _head: Head, body: memoryview) -> Answer:
        fh, offset, whence, _ = p.LSEEK_IN.unpack_from(body)
        return p.U64.pack(self.engine.lseek(fh, offset, whence))

    def copy_file_range(self, head: Head, body: memoryview) -> Answer:
        fh_in, offset_in, _, fh_out, offset_out, length, _ = p.COPY_IN.unpack_from(body)
        count = self.engine.copy_file_range(
            fh_in, offset_in, fh_out, offset_out, length, head.uid == 0
        )
        return count.map(_written) if isinstance(count, Deferred) else _written(count)


def _written(count: int) -> bytes:
    return p.TWO_U32.pack(count, 0)


def empty_after(answer: object) -> Answer:
    """An answer without a body, now or when this is done."""
    if not isinstance(answer, Deferred):
        return b""
    waiting: Deferred[Any] = answer
    return waiting.map(lambda _: b"")
