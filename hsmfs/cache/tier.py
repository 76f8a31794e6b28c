"""One cache tier: a directory on a local file system, a file per inode."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from hsmfs.cache.paths import (
    CLAIM,
    COPY,
    FILES_BITS,
    OPEN,
    RECALL,
    SIDES,
    cache_path,
    claim_path,
    copy_path,
    open_path,
    recall_path,
)
from hsmfs.errors import FsError

FICLONE: Final = 0x40049409
COPY_BYTES: Final = 64 * 1024 * 1024
SPACE_CHECK_BYTES: Final = 8 * 1024 * 1024
"""The file system is asked for its free space once for so many bytes written."""

ROOM_CHECKS: Final = 64
"""Questions after room that one look at the disk answers."""


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
        """Cached bytes: the namespace's counters at each commit, and what grew since."""
        self._room = 0
        self._room_seen = 0
        self._room_checks = 0
        for side in SIDES:
            self._make_parent(f"{self.root}/{side}/x")

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

    def has_room(self, size: int) -> bool:
        """Whether so much may still come; asks the disk once in a while."""
        if self.capacity_bytes and self.used_bytes + size > self.capacity_bytes:
            return False
        self._room_checks -= 1
        if self._room_checks < 0:
            self._room_checks = ROOM_CHECKS
            self._room_seen = self.free_bytes()
        return self._room_seen >= size

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

    def open_for(self, ino: int, size: int) -> int:
        """The data; what has no bytes in the cache, and no file, gets its file now."""
        if size == 0 and not os.path.exists(self.path(ino)):
            return self.create(ino)
        return self.open(ino)

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
        target = _open(
            copy_path(self.root, ino), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        )
        try:
            _clone(source, target)
        except OSError as error:
            _remove(copy_path(self.root, ino))
            raise _fs_error(error) from error
        finally:
            os.close(source)
            os.close(target)

    def empty_aside(self, ino: int) -> None:
        """Make an empty ``.copy``."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        os.close(_open(copy_path(self.root, ino), flags))

    def sync_place(self, ino: int) -> None:
        """What was renamed to the data's place stays there, whatever comes."""
        fd = os.open(os.path.dirname(self.path(ino)), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def adopt_copy(self, ino: int) -> None:
        """``.copy`` becomes the data."""
        os.rename(copy_path(self.root, ino), self.path(ino))

    def copy_to_claim(self, ino: int, data_version: int) -> None:
        """``copy/`` becomes the claimed bytes; the data stays where it is."""
        try:
            os.rename(copy_path(self.root, ino), claim_path(self.root, ino, data_version))
        except OSError as error:
            raise _fs_error(error) from error

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
        path = self.path(ino)
        try:
            try:
                os.rename(recall_path(self.root, ino, data_version), path)
            except FileNotFoundError:  # the first file of its directory, after a rebuild
                self._make_parent(path)
                os.rename(recall_path(self.root, ino, data_version), path)
        except OSError as error:
            raise _fs_error(error) from error

    def drop_recall(self, ino: int, data_version: int) -> None:
        """No late write can reach new data: the file has lost its name."""
        _remove(recall_path(self.root, ino, data_version))

    # -- what a crash may leave -------------------------------------------------------

    def take_from_strangers(self, ino: int) -> None:
        """Programs with the file still open from an earlier mount keep the old one.

        Through the kernel's passthrough they would go on writing to what
        nobody watches any more.
        """
        try:
            fd = os.open(self.path(ino), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            # A read lease is granted only where nobody writes (fcntl(2)).
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            return
        except OSError as error:
            if error.errno != errno.EAGAIN:
                return
        finally:
            os.close(fd)
        self.copy_aside(ino)
        self.adopt_copy(ino)

    def mark_open(self, ino: int) -> None:
        """Before a change that the namespace does not know durably yet.

        No sync: making a name comes before later changes of files in the
        journal of the disk's file system (ext4, xfs), and that is enough.
        """
        try:
            os.mknod(open_path(self.root, ino), 0o600)
        except FileExistsError:
            return
        except OSError as error:
            raise _fs_error(error) from error

    def unmark_open(self, ino: int) -> None:
        """The namespace knows it now."""
        _remove(open_path(self.root, ino))

    def marked_open(self) -> list[int]:
        """Inodes that an earlier run may have changed without a durable word."""
        return [int(name, 16) for name in self._side(OPEN)]

    def leftovers(self) -> Iterator[str]:
        """Recall files and unfinished copies of an earlier run."""
        for side in (RECALL, COPY):
            for name in self._side(side):
                yield f"{self.root}/{side}/{name}"

    def claims(self) -> Iterator[tuple[int, int]]:
        """Inode and version of every kept claim."""
        for name in self._side(CLAIM):
            ino, _, version = name.partition(".")
            yield int(ino, 16), int(version)

    def unborn(self, first: int, stop: int, next_ino: int) -> Iterator[int]:
        """Numbers of cache files that no committed inode ever had: the unused
        of the block ``[first, stop)``, and all from ``next_ino`` on."""
        for ino in self._in_folder(first):
            if first <= ino < stop:
                yield ino
        while found := self._in_folder(next_ino):
            yield from (ino for ino in found if ino >= next_ino)
            next_ino = ((next_ino >> FILES_BITS) + 1) << FILES_BITS

    def _in_folder(self, ino: int) -> list[int]:
        """Numbers of the cache files beside an inode's."""
        try:
            return [int(name, 16) for name in os.listdir(os.path.dirname(self.path(ino)))]
        except FileNotFoundError:
            return []

    def _side(self, side: str) -> list[str]:
        return os.listdir(f"{self.root}/{side}")


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
