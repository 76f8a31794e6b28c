"""The disk that is adopted from: facts of inodes, directories by descriptor, leases."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from contextlib import suppress
from typing import Final, NamedTuple

from hsmfs.cache.paths import cache_path

AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_EMPTY_PATH: Final = 0x1000
STATX_WANTED: Final = 0x7FF | 0x800 | 0x1000
"""Basic facts, birth time and mount, see statx(2)."""
ATTR_IMMUTABLE: Final = 0x10
ATTR_APPEND: Final = 0x20
ATTR_ENCRYPTED: Final = 0x800
ATTR_VERITY: Final = 0x100000
_STATX: Final = struct.Struct("<IIQIIIHxxQQQQ qI4x qI4x qI4x qI4x IIIIQ 104x".replace(" ", ""))
"""struct statx of include/uapi/linux/stat.h."""
assert _STATX.size == 256
_libc: Final = ctypes.CDLL(None, use_errno=True)
FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Facts(NamedTuple):
    """What statx(2) tells."""

    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    ino: int
    dev: int
    mount: int
    attributes: int


def facts_of(folder: int, name: bytes) -> Facts:
    """Of a name in an open directory, links not followed; empty: of the descriptor."""
    buffer = ctypes.create_string_buffer(256)
    flags = AT_SYMLINK_NOFOLLOW | (0 if name else AT_EMPTY_PATH)
    if _libc.statx(folder, name, flags, STATX_WANTED, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(name))
    f = _STATX.unpack(buffer.raw)
    atime, btime, ctime, mtime = (f[i] * 10**9 + f[i + 1] for i in (11, 13, 15, 17))
    rdev, dev = os.makedev(f[19], f[20]), os.makedev(f[21], f[22])
    has_birth = f[0] & 0x800
    return Facts(
        f[6],
        f[4],
        f[5],
        f[3],
        rdev,
        f[8],
        f[9],
        atime,
        mtime,
        ctime,
        btime if has_birth else min(mtime, ctime),
        f[7],
        dev,
        f[23],
        f[2],
    )


def xattrs_of(folder: int, name: bytes, facts: Facts) -> list[tuple[bytes, bytes]]:
    """All extended attributes of a name in an open directory."""
    path = b"/proc/self/fd/%d/%s" % (folder, name)
    names = os.listxattr(path, follow_symlinks=False)
    return [
        (os.fsencode(key), os.getxattr(path, key, follow_symlinks=False)) for key in sorted(names)
    ]


class Below:
    """Directories below a root, opened step by step, so that no link leads elsewhere."""

    def __init__(self, root: bytes) -> None:
        self.root = os.open(root, FOLDER)
        self._path = b""
        self._fd = -1

    def open(self, path: bytes) -> int:
        """A descriptor that is good until the next call."""
        if not path:
            return self.root
        if self._fd >= 0 and path == self._path:
            return self._fd
        self._forget()
        fd = os.dup(self.root)
        try:
            for part in path.split(b"/"):
                deeper = os.open(part, FOLDER, dir_fd=fd)
                os.close(fd)
                fd = deeper
        except OSError:
            os.close(fd)
            raise
        self._path, self._fd = path, fd
        return fd

    def names(self, path: bytes) -> list[bytes]:
        """Names in a directory, sorted; its access time stays where that is allowed."""
        fd = self.open(path)
        try:
            quiet = os.open(b".", FOLDER | os.O_NOATIME, dir_fd=fd)
        except PermissionError:
            quiet = os.open(b".", FOLDER, dir_fd=fd)
        try:
            return sorted(os.fsencode(name) for name in os.listdir(quiet))
        finally:
            os.close(quiet)

    def _forget(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Let go of all descriptors."""
        self._forget()
        os.close(self.root)


def writer_of(fd: int) -> str:
    """Why a file may not be taken: somebody writes to it; empty if nobody does.

    A read lease is granted only where nobody has it open for writing (fcntl(2)).
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return "open for writing (write lease refused); end the program that writes"
        return f"cannot be proved to have no writer: lease: {error.strerror}"
    return ""


class Tier:
    """The side of the cache tier: second names of files, under their inode numbers."""

    def __init__(self, root: str) -> None:
        self.root = root
        owner = os.stat(root)
        self.uid, self.gid = owner.st_uid, owner.st_gid
        self._made: set[str] = set()

    def path(self, ino: int) -> str:
        """Of a cache file."""
        return cache_path(self.root, ino)

    def link(self, folder: int, name: bytes, ino: int) -> None:
        """Give a file the name of a cache file too."""
        path = self.path(ino)
        try:
            os.link(name, path, src_dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            self._make_folders(os.path.dirname(path))
            os.link(name, path, src_dir_fd=folder, follow_symlinks=False)
        self._made.add(os.path.dirname(path))

    def _make_folders(self, folder: str) -> None:
        above = os.path.dirname(folder)
        for path in (above, folder):
            with suppress(FileExistsError):
                os.mkdir(path)
                os.chown(path, self.uid, self.gid)

    def unlink(self, ino: int) -> None:
        """Take the second name away."""
        with suppress(FileNotFoundError):
            os.unlink(self.path(ino))

    def sync(self) -> None:
        """The second names made so far stay, whatever comes."""
        made, self._made = self._made, set()
        for path in made:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def is_cache_file(self, ino: int, facts: Facts) -> bool:
        """Whether a file is an inode's cache file under its old name."""
        try:
            there = os.stat(self.path(ino))
        except FileNotFoundError:
            return False
        return there.st_ino == facts.ino and stat.S_ISREG(facts.mode)

    def protect(self, ino: int) -> None:
        """Only hsmfs may reach it by its path: the namespace has owner and mode."""
        path = self.path(ino)
        os.chown(path, self.uid, self.gid)
        os.chmod(path, 0o600)
