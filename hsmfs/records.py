"""The inode record: 96 bytes, little-endian, the same for struct and numpy.

======  ====  ==============  =========================================
offset  type  field           meaning
======  ====  ==============  =========================================
0       u64   ino
8       u32   generation      differs for every inode number ever used
12      u32   mode            type and permissions, as in stat(2)
16      u32   uid
20      u32   gid
24      u32   nlink
28      u32   rdev
32      u64   size            bytes
40      i64   atime_ns
48      i64   mtime_ns
56      i64   ctime_ns
64      i64   btime_ns        birth
72      u32   flags           1 SEEN, 2 PINNED, 4 XATTRS, 8 SPARSE, 16 FOREIGN, 32 IMPORT,
                              64 WORM, 128 SETTLED, 256 HELD
76      u8    state           ``types.Residency``
77      u8    copies          verified copies of this data_version
78      u8    tier            index of the cache tier
79      u8    (zero)
80      u32   data_version
84      u32   head_bytes      bytes kept in the cache when migrated
88      f32   heat            log2 of the forward-decayed count of opens
92      u16   pool            number of the pool, 0: none
94      u16   project         number of the tree with a quota, 0: none
======  ====  ==============  =========================================

Version 1 of the layout; the version is kept in the namespace's meta table.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

RECORD: Final = struct.Struct("<Q6I Qqqqq I BBBx II f HH".replace(" ", ""))
RECORD_VERSION: Final = 1
RECORD_BYTES: Final = 96
assert RECORD.size == RECORD_BYTES

FLAG_SEEN: Final = 1
"""A copy may have seen this data_version: a change needs a new one."""
FLAG_PINNED: Final = 2
FLAG_XATTRS: Final = 4
"""There may be extended attributes: else nobody need look."""
FLAG_SPARSE: Final = 8
"""The cache file has holes: its blocks are asked from the disk."""
FLAG_FOREIGN: Final = 16
"""Of a tree that was imported from a disc of others: nobody changes it."""
FLAG_IMPORT: Final = 32
"""The root of such a tree."""
FLAG_WORM: Final = 64
"""In a tree with a retention: what is made below is too."""
FLAG_SETTLED: Final = 128
"""Of such a tree, and unchanged for so long that it is now unchangeable."""
FLAG_HELD: Final = 256
"""Under a legal hold."""
FROZEN: Final = FLAG_SETTLED | FLAG_HELD
FIXED: Final = FLAG_FOREIGN | FROZEN
"""Nobody changes it through the mount."""

_FIELDS: Final = (
    ("ino", "<u8"),
    ("generation", "<u4"),
    ("mode", "<u4"),
    ("uid", "<u4"),
    ("gid", "<u4"),
    ("nlink", "<u4"),
    ("rdev", "<u4"),
    ("size", "<u8"),
    ("atime_ns", "<i8"),
    ("mtime_ns", "<i8"),
    ("ctime_ns", "<i8"),
    ("btime_ns", "<i8"),
    ("flags", "<u4"),
    ("state", "u1"),
    ("copies", "u1"),
    ("tier", "u1"),
    ("zero1", "u1"),
    ("data_version", "<u4"),
    ("head_bytes", "<u4"),
    ("heat", "<f4"),
    ("pool", "<u2"),
    ("project", "<u2"),
)
DTYPE: Final = np.dtype(list(_FIELDS))
assert DTYPE.itemsize == RECORD_BYTES


TIME_NS_MIN: Final = -(1 << 63)
TIME_NS_MAX: Final = (1 << 63) - 1
"""21 September 1677 to 11 April 2262."""


def within_time(time_ns: int) -> int:
    """The nearest time that a record can hold, as every file system has to do with
    what it cannot keep (the kernel's ``timestamp_truncate``)."""
    return min(max(time_ns, TIME_NS_MIN), TIME_NS_MAX)


@dataclass(slots=True)
class InodeRecord:
    """One inode; mutable, written back by ``pack``."""

    ino: int
    generation: int
    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    flags: int = 0
    state: int = 0
    copies: int = 0
    tier: int = 0
    data_version: int = 1
    head_bytes: int = 0
    heat: float = 0.0
    pool: int = 0
    project: int = 0
    stored: tuple[int, int, float, int, int] | None = None
    """State, pool, heat, size and head as the store has them: what index and
    counters know of this inode. None: nothing yet."""

    def facts(self) -> tuple[int, int, float, int, int]:
        """What index and counters depend on, as of now."""
        return self.state, self.pool, self.heat, self.size, self.head_bytes

    def pack(self) -> bytes:
        """The 96 bytes."""
        return RECORD.pack(
            self.ino,
            self.generation,
            self.mode,
            self.uid,
            self.gid,
            self.nlink,
            self.rdev,
            self.size,
            self.atime_ns,
            self.mtime_ns,
            self.ctime_ns,
            self.btime_ns,
            self.flags,
            self.state,
            self.copies,
            self.tier,
            self.data_version,
            self.head_bytes,
            self.heat,
            self.pool,
            self.project,
        )

    @classmethod
    def unpack(cls, data: bytes) -> InodeRecord:
        """From the 96 bytes."""
        fields = RECORD.unpack(data)
        record = cls(*fields)
        record.stored = (fields[13], fields[19], fields[18], fields[7], fields[17])
        return record
