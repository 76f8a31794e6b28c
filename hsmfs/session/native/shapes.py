"""What a request must look like, so that handlers need not ask.

The kernel keeps to this; a request that does not is answered with EINVAL.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from hsmfs.session.native import protocol as p
from hsmfs.session.native.protocol import Op

TWO: Final = 2
OFFSET_MAX: Final = (1 << 63) - 1
"""The kernel's offsets have a sign."""
_NAME: Final = 2
"""A name has a byte at least, and a zero."""
_RELEASE: Final = 24
_FSYNC: Final = 16
_BODIES: Final[dict[int, int]] = {
    Op.LOOKUP: _NAME,
    Op.FORGET: p.FH_IN.size,
    Op.GETATTR: p.GETATTR_IN.size,
    Op.SETATTR: p.SETATTR_IN.size,
    Op.SYMLINK: 2 * _NAME,
    Op.MKNOD: p.MKNOD_IN.size + _NAME,
    Op.MKDIR: p.MKDIR_IN.size + _NAME,
    Op.UNLINK: _NAME,
    Op.RMDIR: _NAME,
    Op.RENAME: p.U64.size + 2 * _NAME,
    Op.LINK: p.U64.size + _NAME,
    Op.OPEN: p.OPEN_IN.size,
    Op.READ: p.READ_IN.size,
    Op.WRITE: p.WRITE_IN.size,
    Op.RELEASE: _RELEASE,
    Op.FSYNC: _FSYNC,
    Op.SETXATTR: p.SETXATTR_IN_SHORT.size + _NAME,
    Op.GETXATTR: p.GETXATTR_IN.size + _NAME,
    Op.LISTXATTR: p.GETXATTR_IN.size,
    Op.REMOVEXATTR: _NAME,
    Op.FLUSH: p.FH_IN.size,
    Op.INIT: p.INIT_IN_SHORT.size,
    Op.OPENDIR: p.OPEN_IN.size,
    Op.READDIR: p.READ_IN.size,
    Op.RELEASEDIR: _RELEASE,
    Op.FSYNCDIR: _FSYNC,
    Op.CREATE: p.CREATE_IN.size + _NAME,
    Op.INTERRUPT: p.U64.size,
    Op.BATCH_FORGET: p.U64.size,
    Op.FALLOCATE: p.FALLOCATE_IN.size,
    Op.READDIRPLUS: p.READ_IN.size,
    Op.RENAME2: p.RENAME2_IN.size + 2 * _NAME,
    Op.LSEEK: p.LSEEK_IN.size,
    Op.COPY_FILE_RANGE: p.COPY_IN.size,
    Op.TMPFILE: p.CREATE_IN.size,
    Op.STATX: p.STATX_IN.size,
}
"""The least size of a body; of those not named here, none."""
LEAST_BYTES: Final = [p.HEADER_BYTES + _BODIES.get(op, 0) for op in range(p.OPCODES)]
"""The least size of a request, by opcode."""
_NAMES_LAST: Final = (
    *(Op.LOOKUP, Op.SYMLINK, Op.MKNOD, Op.MKDIR, Op.UNLINK, Op.RMDIR, Op.RENAME, Op.RENAME2),
    *(Op.LINK, Op.GETXATTR, Op.REMOVEXATTR, Op.CREATE),
)
ENDS_WITH_NAME: Final = [op in _NAMES_LAST for op in range(p.OPCODES)]
"""Whether the last byte is a name's zero, by opcode."""


def _size_is_right(body: memoryview) -> bool:
    """WRITE brings what it says."""
    _, offset, size = p.WRITE_IN.unpack_from(body)[:3]
    return bool(p.WRITE_IN.size + size == len(body) and offset <= OFFSET_MAX)


def _size_is_bounded(body: memoryview) -> bool:
    """Nobody asks for more than what was agreed."""
    _, offset, size = p.READ_IN.unpack_from(body)[:3]
    return bool(size <= p.MAX_WRITE_BYTES and offset <= OFFSET_MAX)


def _whence_is_known(body: memoryview) -> bool:
    return bool(p.LSEEK_IN.unpack_from(body)[2] <= os.SEEK_HOLE)


def _count_is_right(body: memoryview) -> bool:
    """BATCH_FORGET brings what it says."""
    return bool(8 + p.U32.unpack_from(body)[0] * p.FORGET_ONE.size <= len(body))


def _two_names(start: int) -> Callable[[memoryview], bool]:
    def are_there(body: memoryview) -> bool:
        return bytes(body[start:]).count(b"\0") == TWO

    return are_there


FURTHER: Final[dict[int, Callable[[memoryview], bool]]] = {
    Op.WRITE: _size_is_right,
    Op.READ: _size_is_bounded,
    Op.READDIR: _size_is_bounded,
    Op.READDIRPLUS: _size_is_bounded,
    Op.LSEEK: _whence_is_known,
    Op.BATCH_FORGET: _count_is_right,
    Op.SYMLINK: _two_names(0),
    Op.RENAME: _two_names(p.U64.size),
    Op.RENAME2: _two_names(p.RENAME2_IN.size),
}
"""What else must be true of a body, by opcode."""
UNANSWERED: Final = frozenset((Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT))
"""The kernel waits for no answer to them."""


def is_sound(opcode: int, body: memoryview) -> bool:
    """Whether a handler can take it; ``opcode`` is one that has a handler."""
    if len(body) + p.HEADER_BYTES < LEAST_BYTES[opcode]:
        return False
    if ENDS_WITH_NAME[opcode] and body[-1]:
        return False
    further = FURTHER.get(opcode)
    return further is None or further(body)
