"""Keys of the namespace's tables, version 1; integers are big endian.

======  =============================  ==========================================
prefix  key after the prefix           value
======  =============================  ==========================================
I       ino(8)                         inode record, 96 bytes, see records.py
D       parent ino(8) name             ino(8) file type(4, the mode's S_IFMT bits)
L       ino(8) parent ino(8) name      empty: where an inode is linked
X       ino(8) name                    extended attribute
S       ino(8)                         target of a symbolic link
O       ino(8)                         marks: w open for write, o orphan, t being cut, d doomed data
C       state(1) pool(2) heat(2) ino   empty: policy index of regular files
J       sequence(8)                    change, msgpack: see journal.py
M       name                           meta: version, next_ino, counters, journal
======  =============================  ==========================================
"""

from __future__ import annotations

import struct
from typing import Final

SCHEMA_VERSION: Final = 1
U64: Final = struct.Struct(">Q")
TWO_U64: Final = struct.Struct(">QQ")
ENTRY: Final = struct.Struct(">QI")
INDEX: Final = struct.Struct(">BHHQ")
VOLUMES_XATTR: Final = b"\0hsm.volumes"
"""Reserved name in the xattr table: labels of the volumes that hold the file."""

MARK_WRITE: Final = b"w"
MARK_ORPHAN: Final = b"o"
MARK_CUT: Final = b"t"
MARK_DOOMED: Final = b"d"
HEAT_ZERO: Final = 0x8000


def inode_key(ino: int) -> bytes:
    return b"I" + U64.pack(ino)


def entry_key(parent: int, name: bytes) -> bytes:
    return b"D" + U64.pack(parent) + name


def entry_range(parent: int) -> tuple[bytes, bytes]:
    return b"D" + U64.pack(parent), b"D" + U64.pack(parent + 1)


def link_key(ino: int, parent: int, name: bytes) -> bytes:
    return b"L" + TWO_U64.pack(ino, parent) + name


def link_range(ino: int) -> tuple[bytes, bytes]:
    return b"L" + U64.pack(ino), b"L" + U64.pack(ino + 1)


def xattr_key(ino: int, name: bytes) -> bytes:
    return b"X" + U64.pack(ino) + name


def xattr_range(ino: int) -> tuple[bytes, bytes]:
    return b"X" + U64.pack(ino), b"X" + U64.pack(ino + 1)


def symlink_key(ino: int) -> bytes:
    return b"S" + U64.pack(ino)


def mark_key(ino: int) -> bytes:
    return b"O" + U64.pack(ino)


def index_key(state: int, pool: int, heat: float, ino: int) -> bytes:
    """Coldest first within a state and pool; 16 buckets for each power of two."""
    bucket = min(0xFFFF, max(0, HEAT_ZERO + int(heat * 16)))
    return b"C" + INDEX.pack(state, pool, bucket, ino)


def journal_key(sequence: int) -> bytes:
    return b"J" + U64.pack(sequence)
