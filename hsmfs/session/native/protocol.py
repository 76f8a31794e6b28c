"""The kernel's FUSE protocol, 7.31 to 7.45: numbers, flags and structures.

Source: Linux ``include/uapi/linux/fuse.h``. All integers have the machine's
byte order; this is written for little-endian machines, as all that Debian
ships kernels with FUSE passthrough for are.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final

MAJOR: Final = 7
MINOR: Final = 45
MINOR_MIN: Final = 31
"""Linux 5.2, before which parts of what is used here are missing."""
ROOT_ID: Final = 1
MAX_WRITE_BYTES: Final = 1 << 20
HEADER_BYTES: Final = 40


class Op(IntEnum):
    """Requests (enum fuse_opcode)."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


OPCODES: Final = 64
"""Room of tables by opcode."""


class Init(IntFlag):
    """Features that INIT negotiates (FUSE_INIT flags, 64 bits)."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    ALLOW_IDMAP = 1 << 40


WANTED: Final = (
    Init.ASYNC_READ
    | Init.ATOMIC_O_TRUNC
    | Init.EXPORT_SUPPORT
    | Init.BIG_WRITES
    | Init.DONT_MASK
    | Init.DO_READDIRPLUS
    | Init.READDIRPLUS_AUTO
    | Init.ASYNC_DIO
    | Init.PARALLEL_DIROPS
    | Init.POSIX_ACL
    | Init.MAX_PAGES
    | Init.CACHE_SYMLINKS
    | Init.HANDLE_KILLPRIV_V2
    | Init.SETXATTR_EXT
    | Init.INIT_EXT
    | Init.DIRECT_IO_ALLOW_MMAP
    | Init.PASSTHROUGH
)

# Answers to OPEN and OPENDIR (FOPEN_*).
FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_CACHE_DIR: Final = 1 << 3
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PARALLEL_DIRECT_WRITES: Final = 1 << 6
FOPEN_PASSTHROUGH: Final = 1 << 7

# What SETATTR sets (FATTR_*).
FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_KILL_SUIDGID: Final = 1 << 11

GETATTR_FH: Final = 1 << 0
FSYNC_FDATASYNC: Final = 1 << 0
SETXATTR_ACL_KILL_SGID: Final = 1 << 0
WRITE_KILL_SUIDGID: Final = 1 << 2
OPEN_KILL_SUIDGID: Final = 1 << 0
"""The last two: whoever asks has no CAP_FSETID; only with HANDLE_KILLPRIV_V2."""

NOTIFY_INVAL_INODE: Final = 2
NOTIFY_INVAL_ENTRY: Final = 3

BACKING_OPEN: Final = 0x4010E501
BACKING_CLOSE: Final = 0x4004E502
"""ioctl(2) requests on the device (FUSE_DEV_IOC_BACKING_*)."""

IN_HEADER: Final = struct.Struct("<IIQQIII4x")
"""length, opcode, unique, node, uid, gid, pid."""
OUT_HEADER: Final = struct.Struct("<IiQ")
"""length, minus errno, unique."""
INIT_IN: Final = struct.Struct("<IIIII44x")
INIT_IN_SHORT: Final = struct.Struct("<IIII")
INIT_OUT: Final = struct.Struct("<IIIIHHIIHHIIH22x")
ATTR: Final = struct.Struct("<QQQqqqIIIIIIIIII")
"""ino size blocks atime mtime ctime (s), the same (ns), mode nlink uid gid rdev
blksize flags."""
ATTR_OUT: Final = struct.Struct("<QIIQQQqqqIIIIIIIIII")
ENTRY_OUT: Final = struct.Struct("<QQQQIIQQQqqqIIIIIIIIII")
OPEN_IN: Final = struct.Struct("<II")
OPEN_OUT: Final = struct.Struct("<QIi")
CREATE_IN: Final = struct.Struct("<IIII")
MKNOD_IN: Final = struct.Struct("<IIII")
MKDIR_IN: Final = struct.Struct("<II")
RENAME2_IN: Final = struct.Struct("<QII")
SETATTR_IN: Final = struct.Struct("<I4xQQQqqqIIIIIII4x")
READ_IN: Final = struct.Struct("<QQIIQII")
WRITE_IN: Final = READ_IN
GETATTR_IN: Final = struct.Struct("<IIQ")
FH_IN: Final = struct.Struct("<Q")
FSYNC_IN: Final = struct.Struct("<QI")
SETXATTR_IN: Final = struct.Struct("<IIII")
SETXATTR_IN_SHORT: Final = struct.Struct("<II")
GETXATTR_IN: Final = struct.Struct("<II")
STATFS_OUT: Final = struct.Struct("<QQQQQIII4x24x")
FORGET_ONE: Final = struct.Struct("<QQ")
FALLOCATE_IN: Final = struct.Struct("<QQQII")
LSEEK_IN: Final = struct.Struct("<QqII")
COPY_IN: Final = struct.Struct("<QQQQQQQ")
DIRENT: Final = struct.Struct("<QQII")
STATX_IN: Final = struct.Struct("<IIQII")
STATX_OUT: Final = struct.Struct("<QII16x IIQIIIHHQQQQ qIi qIi qIi qIi IIII 112x".replace(" ", ""))
INVAL_INODE: Final = struct.Struct("<Qqq")
INVAL_ENTRY: Final = struct.Struct("<QII")
"""directory, length of the name that follows with a zero, flags."""
U32: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")
TWO_U32: Final = struct.Struct("<II")

assert IN_HEADER.size == HEADER_BYTES
assert ATTR.size == 88
assert ENTRY_OUT.size == 128
assert ATTR_OUT.size == 104
assert SETATTR_IN.size == 88
assert INIT_OUT.size == 64
assert STATFS_OUT.size == 80
assert STATX_OUT.size == 32 + 256
