"""Random operations for two sides, as hypothesis strategies: (name, arguments...)."""

from __future__ import annotations

import fcntl
import os
import stat
from typing import Any, Final

from hypothesis import strategies as st

from support import syscalls
from support.sides import ALICE, BOB, ROOT, SLOTS

Operation = tuple[Any, ...]

NAMES: Final = (b"a", b"b", b"d", b"e")
PATHS: Final = (
    *NAMES,
    *(b"d/" + name for name in NAMES),
    *(b"d/e/" + name for name in NAMES[:2]),
    *(b"e/" + name for name in NAMES[:3]),
)
ODD_PATHS: Final = (
    b".",
    b"d/.",
    b"d/..",
    b"a/",
    b"d/",
    b"",
    b"\xff\xfe not UTF-8",
    b"n" * 255,
    b"n" * 256,
    b"d/" + b"p/" * 2100,
)
LARGE_BYTES: Final = 70_000

users = st.sampled_from((ROOT, ROOT, ALICE, BOB))
umasks = st.sampled_from((0o022, 0, 0o077))

_common = st.sampled_from(PATHS)
_path = st.one_of(_common, _common, st.sampled_from(PATHS + ODD_PATHS))
_slot = st.integers(0, SLOTS - 1)
_uid = st.sampled_from((-1, 0, 1001, 1002))
_gid = st.sampled_from((0, 1001, 1002, 2000))
"""Never -1: a chown that changes nothing takes set-id bits, but the kernel does not
tell a FUSE server of it (fs/fuse/dir.c, ``fuse_do_setattr``)."""
_any_mode = st.one_of(
    st.sampled_from((0o755, 0o777, 0o644, 0o666, 0o1777, 0o2775, 0o6755)), st.integers(0, 0o7777)
)
_file_mode = _any_mode.map(lambda mode: mode & ~0o2000)
"""Not set-group-id: who loses it depends on groups that a server is not told
(Linux, fs/attr.c, ``setattr_should_drop_sgid``). Directories have it."""
_changed_mode = _any_mode.map(lambda mode: mode & ~0o6000)
"""Not set-id on what may be open: hsmfs takes it at the next change of data by
whomever, as the kernel lets programs write to the cache file itself."""
_offset = st.one_of(st.integers(0, 20_000), st.sampled_from((0, 4095, 4096, 8192, 200_000)))
_size = st.one_of(_offset, _offset, st.sampled_from((-1, 1 << 62, (1 << 63) - 1)))
_data = st.builds(
    lambda first, count: bytes((first + index) % 255 + 1 for index in range(count)),
    st.integers(0, 254),
    st.one_of(st.integers(0, 100), st.sampled_from((4096, 5000, LARGE_BYTES))),
)
_times = st.tuples(st.integers(0, 4 * 10**18), st.integers(-(10**18), 4 * 10**18))
_xattr = st.sampled_from(("user.a", "user.a", "user.b", "trusted.t", "odd.o", "user.", "u" * 256))
_open_flags = st.builds(
    lambda access, others: access | others,
    st.sampled_from((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR)),
    st.sampled_from(
        (
            0,
            0,
            os.O_CREAT,
            os.O_CREAT,
            os.O_CREAT | os.O_EXCL,
            os.O_CREAT | os.O_TRUNC,
            os.O_CREAT | os.O_APPEND,
            os.O_TRUNC,
            os.O_APPEND,
            os.O_NOFOLLOW,
            os.O_DIRECTORY,
            os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW,
        )
    ),
)
_rename_flags = st.sampled_from(
    (
        0,
        0,
        syscalls.RENAME_NOREPLACE,
        syscalls.RENAME_EXCHANGE,
        syscalls.RENAME_EXCHANGE | syscalls.RENAME_NOREPLACE,
    )
)
_fallocate_mode = st.sampled_from(
    (
        0,
        syscalls.FALLOC_KEEP_SIZE,
        syscalls.FALLOC_PUNCH_HOLE | syscalls.FALLOC_KEEP_SIZE,
        syscalls.FALLOC_PUNCH_HOLE,
        syscalls.FALLOC_ZERO_RANGE,
        syscalls.FALLOC_ZERO_RANGE | syscalls.FALLOC_KEEP_SIZE,
    )
)
_node = st.sampled_from((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG, 0))
_node_mode = st.builds(
    lambda kind, mode: kind | mode, _node, st.sampled_from((0o644, 0o600, 0o4755))
)
_device = st.sampled_from((os.makedev(1, 3), os.makedev(240, 70_000)))
_target = st.sampled_from((b"a", b"../a", b"d", b"e", b"nowhere", b".", b"t" * 4095, b"t" * 4096))
_lock = st.sampled_from((fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN))
_flag = st.booleans()

ARGUMENTS: Final[dict[str, tuple[st.SearchStrategy[Any], ...]]] = {
    "open": (_slot, _path, _open_flags, _file_mode),
    "mkdir": (_path, _any_mode),
    "rmdir": (_path,),
    "mknod": (_path, _node_mode, _device),
    "unlink": (_path,),
    "rename": (_path, _path, _rename_flags),
    "link": (_path, _path),
    "symlink": (_target, _path),
    "readlink": (_path,),
    "listing": (_path,),
    "stat": (_path, _flag),
    "access": (_path, st.integers(0, 7)),
    "chmod": (_path, _changed_mode),
    "chown": (_path, _uid, _gid, _flag),
    "utime": (_path, _times, _flag),
    "touch": (_path,),
    "truncate": (_path, _size),
    "setxattr": (_path, _xattr, st.binary(max_size=300), st.sampled_from((0, 0, 1, 2, 3))),
    "getxattr": (_path, _xattr),
    "listxattr": (_path,),
    "removexattr": (_path, _xattr),
    "close": (_slot,),
    "fstat": (_slot,),
    "read": (_slot, _offset),
    "pread": (_slot, _offset, _size),
    "write": (_slot, _data),
    "pwrite": (_slot, _data, _size),
    "seek": (_slot, _offset, st.sampled_from((os.SEEK_SET, os.SEEK_CUR, os.SEEK_END))),
    "ftruncate": (_slot, _size),
    "fchmod": (_slot, _changed_mode),
    "fchown": (_slot, _uid, _gid),
    "fsync": (_slot,),
    "flock": (_slot, _lock),
    "fallocate": (_slot, _fallocate_mode, _offset, _offset),
    "copy_range": (_slot, _offset, _slot, _offset, _offset),
    "map_write": (_slot, _data, _offset, _flag),
    "data_segments": (_slot,),
    "tmpfile": (_slot, _path, _file_mode),
    "link_open": (_slot, _path),
}
OFTEN: Final = ("open",) * 8 + ("write", "pwrite", "rename")

operations: Final[st.SearchStrategy[Operation]] = st.sampled_from((*ARGUMENTS, *OFTEN)).flatmap(
    lambda name: st.tuples(st.just(name), *ARGUMENTS[name])
)
