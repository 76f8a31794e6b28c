"""All system calls that take a path, as tables: matrices of tests go over them."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from support import syscalls

AT_EACCESS: Final = 0x200
NULL_DEVICE: Final = os.makedev(1, 3)
libc: Final = ctypes.CDLL(None, use_errno=True)


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o644))


def _chdir(path: str) -> None:
    here = os.open(".", os.O_PATH)
    try:
        os.chdir(path)
        os.fchdir(here)
    finally:
        os.close(here)


class PathCall(NamedTuple):
    """One system call with a path: what the path must be, and who the path is for."""

    name: str
    call: Callable[[str], Any]
    makes: bool = False
    """The last component must not be there yet."""
    follows: bool = True
    """A symbolic link as the last component is gone through."""
    kind: str = "any"
    """What must be there: ``any``, ``file``, ``dir``, ``nondir`` or ``link``."""
    parent_write: bool = False
    """Needs the right to write to the directory."""

    def __str__(self) -> str:
        return self.name


def _there(name: str, call: Callable[[str], Any], **how: Any) -> PathCall:
    return PathCall(name, call, **how)


def _new(name: str, call: Callable[[str], Any]) -> PathCall:
    return PathCall(name, call, makes=True, follows=False, parent_write=True)


MAKING: Final = (
    _new("creat_excl", lambda p: _open(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
    _new("mkdir", lambda p: os.mkdir(p, 0o755)),
    _new("mkfifo", lambda p: os.mkfifo(p, 0o644)),
    _new("mknod_file", lambda p: os.mknod(p, stat.S_IFREG | 0o644)),
    _new("mknod_socket", lambda p: os.mknod(p, stat.S_IFSOCK | 0o644)),
    _new("mknod_device", lambda p: os.mknod(p, stat.S_IFCHR | 0o644, NULL_DEVICE)),
    _new("symlink", lambda p: os.symlink("target", p)),
    _new("link_to", lambda p: os.link("other", p)),
    _new("rename_to_free", lambda p: _rename_flags("other", p, syscalls.RENAME_NOREPLACE)),
)
"""All that make a name. ``other`` is a file beside it."""

USING: Final = (
    _there("open_read", lambda p: _open(p, os.O_RDONLY)),
    _there("open_path", lambda p: _open(p, os.O_PATH)),
    _there("open_write", lambda p: _open(p, os.O_WRONLY), kind="file"),
    _there("open_trunc", lambda p: _open(p, os.O_WRONLY | os.O_TRUNC), kind="file"),
    _there("stat", os.stat),
    _there("lstat", os.lstat, follows=False),
    _there("access", lambda p: _access(p)),
    _there("chmod", lambda p: os.chmod(p, 0o700)),
    _there("chown", lambda p: os.chown(p, -1, -1)),
    _there("lchown", lambda p: os.lchown(p, -1, -1), follows=False),
    _there("utime", lambda p: os.utime(p, ns=(1, 2))),
    _there("lutime", lambda p: os.utime(p, ns=(1, 2), follow_symlinks=False), follows=False),
    _there("truncate", lambda p: os.truncate(p, 3), kind="file"),
    _there("statfs", os.statvfs),
    _there("listxattr", os.listxattr),
    _there("llistxattr", lambda p: os.listxattr(p, follow_symlinks=False), follows=False),
    _there("chdir", _chdir, kind="dir"),
    _there("listdir", os.listdir, kind="dir"),
    _there("readlink", os.readlink, follows=False, kind="link"),
    _there("rmdir", os.rmdir, follows=False, kind="dir", parent_write=True),
    _there("unlink", os.unlink, follows=False, kind="nondir", parent_write=True),
    _there("link_from", lambda p: os.link(p, "linked"), follows=False, kind="nondir"),
    _there("rename_from", lambda p: os.rename(p, "moved"), follows=False, parent_write=True),
    _there(
        "exchange",
        lambda p: _rename_flags("other", p, syscalls.RENAME_EXCHANGE),
        follows=False,
        parent_write=True,
    ),
    _there("setxattr", lambda p: os.setxattr(p, "user.a", b"1"), kind="file"),
)
"""All that need the name to be there."""

EITHER: Final = (
    PathCall("creat", lambda p: _open(p, os.O_CREAT | os.O_WRONLY), parent_write=True),
    PathCall("rename_to", lambda p: os.rename("other", p), follows=False, parent_write=True),
)
"""Content with both."""

ALL: Final = (*MAKING, *USING, *EITHER)


def _access(path: str) -> None:
    """For the effective user, as all others."""
    if libc.faccessat(syscalls.AT_FDCWD, os.fsencode(path), os.F_OK, AT_EACCESS) != 0:
        raise _error()


def _rename_flags(old: str, new: str, flags: int) -> None:
    syscalls.renameat2(os.fsencode(old), os.fsencode(new), flags)


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def make_kind(kind: str, path: str, mode: int = 0o644) -> None:
    """Something of each type of inode; the mode is exactly this one."""
    match kind:
        case "file":
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        case "dir":
            os.mkdir(path)
        case "fifo":
            os.mkfifo(path)
        case "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        case "char":
            os.mknod(path, stat.S_IFCHR | 0o600, NULL_DEVICE)
        case "block":
            os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 1))
        case "symlink":
            os.symlink("nowhere", path)
        case _:
            raise AssertionError(kind)
    if kind != "symlink":
        os.chmod(path, mode)


KINDS: Final = ("file", "dir", "fifo", "socket", "char", "block", "symlink")
FORMATS: Final = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "symlink": stat.S_IFLNK,
}
