"""System calls that Python's os does not offer."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Final

AT_FDCWD: Final = -100
AT_SYMLINK_FOLLOW: Final = 0x400
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
CAPABILITY_VERSION_3: Final = 0x20080522
CAP_FSETID: Final = 4
FALLOC_KEEP_SIZE: Final = 1
FALLOC_PUNCH_HOLE: Final = 2
FALLOC_ZERO_RANGE: Final = 16

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fallocate64.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def renameat2(old: bytes, new: bytes, flags: int) -> None:
    """renameat2(2), relative to the working directory."""
    _checked(_libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with its modes."""
    _checked(_libc.fallocate64(fd, mode, offset, length))


@contextlib.contextmanager
def without_fsetid() -> Iterator[None]:
    """This thread has no CAP_FSETID, whatever its user."""
    head = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; low, then high words
    _checked(_libc.capget(head, sets))
    effective = sets[0]
    sets[0] = effective & ~(1 << CAP_FSETID)
    _checked(_libc.capset(head, sets))
    try:
        yield
    finally:
        sets[0] = effective
        _checked(_libc.capset(head, sets))


def link_open_file(fd: int, path: bytes) -> None:
    """A name for an open file, such as one of O_TMPFILE."""
    own = b"/proc/self/fd/%d" % fd
    _checked(_libc.linkat(AT_FDCWD, own, AT_FDCWD, path, AT_SYMLINK_FOLLOW))
