"""Directories read entry by entry, with positions, as opendir(3) offers it."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final, NamedTuple

_libc: Final = ctypes.CDLL(None, use_errno=True)
_SYS_GETDENTS64: Final = {"x86_64": 217, "aarch64": 61}[os.uname().machine]
_HEAD: Final = struct.Struct("<QqHB")
BUFFER_BYTES: Final = 32_768


class Entry(NamedTuple):
    """``after``: where to go on behind it (d_off)."""

    name: str
    ino: int
    after: int
    kind: int


def next_entries(fd: int, buffer_bytes: int = BUFFER_BYTES) -> list[Entry]:
    """getdents64(2): some entries from the descriptor's position; none at the end."""
    buffer = ctypes.create_string_buffer(buffer_bytes)
    count = _libc.syscall(_SYS_GETDENTS64, fd, buffer, buffer_bytes)
    if count < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    found, place = [], 0
    raw = buffer.raw
    while place < count:
        ino, after, length, kind = _HEAD.unpack_from(raw, place)
        name = raw[place + 19 : place + length].split(b"\0", 1)[0]
        found.append(Entry(os.fsdecode(name), ino, after, kind))
        place += length
    return found


def all_entries(fd: int, buffer_bytes: int = BUFFER_BYTES) -> list[Entry]:
    """From the position to the end."""
    found = []
    while some := next_entries(fd, buffer_bytes):
        found += some
    return found


def rewind(fd: int, place: int = 0) -> None:
    """seekdir(3)."""
    os.lseek(fd, place, os.SEEK_SET)


def names(entries: list[Entry]) -> list[str]:
    """Without the two that every directory has."""
    return [entry.name for entry in entries if entry.name not in (".", "..")]
