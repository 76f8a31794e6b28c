"""One cache tier: a directory on a local file system, a file per inode."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from hsmfs.cache.paths import CLAIM, COPY, RECALL, cache_path, claim_path, recall_path
from hsmfs.errors import FsError

FICLONE: Final = 0x40049409
COPY_BYTES: Final = 64 * 1024 * 1024
SPACE_CHECK_BYTES: Final = 8 * 1024 * 1024
"""The file system is asked for its free space once for so many bytes written."""


class Space(NamedTuple):
    """Bytes of the file system that the tier is on."""

    total: int
    free: int
    files: int
    files_free: int


class CacheTier:
    """Files of one tier. Errors are FsErrors; ENOSPC comes before the disk is full."""

    def __init__(
        self, name: str, root: Path, reserve_bytes: int = 0, capacity_bytes: int = 0
    ) -> None:
        self.name = name
        self.root = str(root)
        self.reserve_bytes = reserve_bytes
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        """Cached bytes, kept by the namespace's counters."""
        self._room = 0

    # -- space -----------------------------------------------------------------

    def space(self) -> Space:
        """What statvfs says."""
        facts = os.statvfs(self.root)
        return Space(
            facts.f_blocks * facts.f_frsize,
            facts.f_bavail * facts.f_frsize,
            facts.f_files,
            facts.f_favail,
        )

    def free_bytes(self) -> int:
        """What may still be written: disk minus reserve, within the capacity."""
        free = max(0, self.space().free - self.reserve_bytes)
        if self.capacity_bytes:
            free = min(free, max(0, self.capacity_bytes - self.used_bytes))
        return free

    def reserve(self, size: int) -> None:
        """Before ``size`` more bytes: ENOSPC if they would pass the bounds."""
        if self.capacity_bytes and self.used_bytes + size > self.capacity_bytes:
            raise FsError(errno.ENOSPC, f"cache tier {self.name} is full")
        if size <= self._room:
            self._room -= size
            return
        free = self.free_bytes()
        if size > free:
            self._room = 0
            raise FsError(errno.ENOSPC, f"cache tier {self.name} is full")
        self._room = min(free - size, SPACE_CHECK_BYTES)

    # -- files -----------------------------------------------------------------

    def path(self, ino: int) -> str:
        """Of the data."""
        return cache_path(self.root, ino)

    def create(self, ino: int) -> int:
        """A new, empty file; a stale one of that number is emptied."""
        path = self.path(ino)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._make_parent(path)
            return _open(path, flags)
        except OSError as error:
            raise _fs_error(error) from error

    def _make_parent(self, path: str) -> None:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        except OSError as error:
            raise _fs_error(error) from error

    def open(self, ino: int) -> int:
        """The data, for reading and writing."""
        return _open(self.path(ino), os.O_RDWR | os.O_CLOEXEC)

    def truncate_to(self, ino: int, size: int) -> None:
        """Cut what is longer; a missing file is as good as cut."""
        try:
            if os.stat(self.path(ino)).st_size > size:
                os.truncate(self.path(ino), size)
        except FileNotFoundError:
            return

    def remove(self, ino: int) -> None:
        """The data; claimed versions stay until they are let go."""
        _remove(self.path(ino))

    # -- claims ------------------------------------------------------------------

    def keep_claim(self, ino: int, data_version: int) -> None:
        """Give the claimed bytes a name of their own (idempotent)."""
        try:
            os.link(self.path(ino), claim_path(self.root, ino, data_version))
        except FileExistsError:
            return
        except OSError as error:
            raise _fs_error(error) from error

    def copy_aside(self, ino: int) -> None:
        """Make ``.copy``: reflink where possible, else a copy (blocking)."""
        source = _open(self.path(ino), os.O_RDONLY | os.O_CLOEXEC)
        target = _open(self.path(ino) + COPY, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
        try:
            _clone(source, target)
        except OSError as error:
            _remove(self.path(ino) + COPY)
            raise _fs_error(error) from error
        finally:
            os.close(source)
            os.close(target)

    def empty_aside(self, ino: int) -> None:
        """Make an empty ``.copy``."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        os.close(_open(self.path(ino) + COPY, flags))

    def adopt_copy(self, ino: int) -> None:
        """``.copy`` becomes the data."""
        os.rename(self.path(ino) + COPY, self.path(ino))

    def drop_claim(self, ino: int, data_version: int) -> None:
        """The burn no longer needs it."""
        _remove(claim_path(self.root, ino, data_version))

    # -- recalls -------------------------------------------------------------------

    def create_recall(self, ino: int, data_version: int) -> tuple[str, int]:
        """Path and descriptor of a new, empty recall file."""
        path = recall_path(self.root, ino, data_version)
        self._make_parent(path)
        return path, _open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)

    def adopt_recall(self, ino: int, data_version: int) -> None:
        """The recall file becomes the data."""
        try:
            os.rename(recall_path(self.root, ino, data_version), self.path(ino))
        except OSError as error:
            raise _fs_error(error) from error

    def drop_recall(self, ino: int, data_version: int) -> None:
        """No late write can reach new data: the file has lost its name."""
        _remove(recall_path(self.root, ino, data_version))

    def leftovers(self) -> Iterator[str]:
        """Recall files and unfinished copies of an earlier run (walks the tier)."""
        for path in self._side_files():
            if RECALL in path or path.endswith(COPY):
                yield path

    def claims(self) -> Iterator[tuple[int, int]]:
        """Inode and version of every kept claim (walks the tier)."""
        for path in self._side_files():
            name = os.path.basename(path)
            if CLAIM in name:
                ino, _, version = name.partition(CLAIM)
                yield int(ino, 16), int(version)

    def _side_files(self) -> Iterator[str]:
        for folder, _, names in os.walk(self.root):
            for name in names:
                if "." in name:
                    yield os.path.join(folder, name)


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError as error:
        raise FsError(errno.EIO, f"{path}: cache file is missing; run hsm fsck") from error
    except OSError as error:
        raise _fs_error(error) from error


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _clone(source: int, target: int) -> None:
    try:
        fcntl.ioctl(target, FICLONE, source)
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY):
            raise
    size = os.fstat(source).st_size
    while copied := os.copy_file_range(source, target, COPY_BYTES):
        size -= copied


def _fs_error(error: OSError) -> FsError:
    return FsError(error.errno or errno.EIO, f"cache: {error.strerror}: {error.filename}")
