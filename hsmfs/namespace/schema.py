"""Keys of the namespace's tables, version 2; integers are big endian.

======  =============================  ==========================================
prefix  key after the prefix           value
======  =============================  ==========================================
I       ino(8)                         inode record, 96 bytes, see records.py
D       parent ino(8) name             ino(8) file type(4, the mode's S_IFMT bits) cookie(8)
R       parent ino(8) cookie(8)        ino(8) file type(4) name: a directory in order of making
L       ino(8) parent ino(8) name      empty: where an inode is linked
X       ino(8) name                    extended attribute
S       ino(8)                         target of a symbolic link
O       ino(8)                         marks: w open for write, o orphan, t being cut, d doomed data
C       state(1) pool(2) heat(2) ino   empty: policy index of regular files
J       sequence(8)                    change, msgpack: (time ns, operation, ino, facts…)
M       name                           meta: version, starts, next_ino, counters, journal, imports
W, A                                   retention, holds and the audit log: see wormrows.py
======  =============================  ==========================================

A cookie is where readdir(3) goes on after an entry; it comes from the same
counter as inode numbers and is never used again, so that a position stays
right while entries come and go, and after a restart. A rename within one
directory keeps it. ``Mnext_ino`` is three decimal numbers: the next number,
and of the block of numbers that regular files get the next and the end.
"""

from __future__ import annotations

import struct
from typing import Final

SCHEMA_VERSION: Final = 2
WORM_VERSION: Final = 3
"""Of a store that has tables W and A: who does not know them would not keep them."""
KNOWN_VERSIONS: Final = (SCHEMA_VERSION, WORM_VERSION)
U64: Final = struct.Struct(">Q")
TWO_U64: Final = struct.Struct(">QQ")
ENTRY: Final = struct.Struct(">QIQ")
LISTED: Final = struct.Struct(">QI")
FIRST_INO: Final = 16
"""Lower numbers are the root, and the cookies of "." and ".."."""
INDEX: Final = struct.Struct(">BHHQ")
VOLUMES_XATTR: Final = b"\0hsm.volumes"
"""Reserved name in the xattr table: labels of the volumes that hold the file."""

MARK_WRITE: Final = b"w"
MARK_ORPHAN: Final = b"o"
MARK_CUT: Final = b"t"
MARK_DOOMED: Final = b"d"
HEAT_ZERO: Final = 0x8000
SCANNED: Final = b"LORXMWA"
"""Tables that the engine scans; of others it only asks for single keys."""


def inode_key(ino: int) -> bytes:
    return b"I" + U64.pack(ino)


def entry_key(parent: int, name: bytes) -> bytes:
    return b"D" + U64.pack(parent) + name


def listed_key(parent: int, cookie: int) -> bytes:
    return b"R" + TWO_U64.pack(parent, cookie)


def listed_range(parent: int, after: int = 0) -> tuple[bytes, bytes]:
    """The entries of a directory whose cookies are greater."""
    return b"R" + TWO_U64.pack(parent, after + 1), b"R" + U64.pack(parent + 1)


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
