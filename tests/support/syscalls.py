"""System calls that Python's os does not offer."""

from __future__ import annotations

import ctypes
import os
from typing import Final

AT_FDCWD: Final = -100
AT_SYMLINK_FOLLOW: Final = 0x400
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
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


def link_open_file(fd: int, path: bytes) -> None:
    """A name for an open file, such as one of O_TMPFILE."""
    own = b"/proc/self/fd/%d" % fd
    _checked(_libc.linkat(AT_FDCWD, own, AT_FDCWD, path, AT_SYMLINK_FOLLOW))
