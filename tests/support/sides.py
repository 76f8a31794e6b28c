"""One directory on which operations are tried, each with its result or errno.

Two sides, one on hsmfs and one on ext4, get the same operations: whatever
differs is a difference that a program could see.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

from support import syscalls
from support.trees import facts

SLOTS = 3
"""Files that are kept open, on both sides at once."""


PLAIN_WRITES = ("write", "pwrite", "copy_range")
"""Of these the packaged binding does not tell who asks."""


class User(NamedTuple):
    """In whose name an operation runs."""

    uid: int
    gid: int
    groups: tuple[int, ...]


ROOT = User(0, 0, ())
ALICE = User(1001, 1001, (2000,))
BOB = User(1002, 1002, (2000, 1001))


@contextlib.contextmanager
def acting(user: User, umask: int) -> Iterator[None]:
    """Be a user in this process; for root only."""
    before = os.umask(umask)
    groups = os.getgroups()
    if user.uid != os.geteuid():
        os.setgroups(user.groups)
        os.setegid(user.gid)
        os.seteuid(user.uid)
    try:
        yield
    finally:
        if os.geteuid() != os.getuid():
            os.seteuid(os.getuid())
            os.setegid(os.getgid())
            os.setgroups(groups)
        os.umask(before)


class Side:
    """Operations relative to a directory, and the files that they keep open."""

    def __init__(self, directory: int, writes_take_set_id: bool = False) -> None:
        self.directory = directory
        self.writes_take_set_id = writes_take_set_id
        """Root's writes too: see ``PLAIN_WRITES``."""
        self.open_files: dict[int, int] = {}

    def do(self, user: User, umask: int, operation: str, *arguments: Any) -> Any:
        """The result, or the name of the error."""
        home = os.open(".", os.O_PATH | os.O_DIRECTORY)
        os.fchdir(self.directory)
        try:
            with acting(user, umask), self._rights(operation):
                return getattr(self, operation)(*arguments)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
        finally:
            os.fchdir(home)
            os.close(home)

    def _rights(self, operation: str) -> contextlib.AbstractContextManager[None]:
        if self.writes_take_set_id and operation in PLAIN_WRITES:
            return syscalls.without_fsetid()
        return contextlib.nullcontext()

    def close_all(self) -> None:
        for fd in self.open_files.values():
            os.close(fd)
        self.open_files.clear()

    def _fd(self, slot: int) -> int:
        if slot not in self.open_files:
            raise OSError(errno.EBADF, "no file in this slot")
        return self.open_files[slot]

    # -- names ---------------------------------------------------------------------

    def mkdir(self, path: bytes, mode: int) -> Any:
        os.mkdir(path, mode)
        return facts(os.lstat(path))

    def rmdir(self, path: bytes) -> None:
        os.rmdir(path)

    def mknod(self, path: bytes, mode: int, device: int) -> Any:
        os.mknod(path, mode, device)
        return facts(os.lstat(path))

    def unlink(self, path: bytes) -> None:
        os.unlink(path)

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        if flags:
            syscalls.renameat2(old, new, flags)
        else:
            os.rename(old, new)

    def link(self, old: bytes, new: bytes) -> Any:
        os.link(old, new, follow_symlinks=False)
        return facts(os.lstat(new))

    def symlink(self, target: bytes, path: bytes) -> Any:
        os.symlink(target, path)
        return facts(os.lstat(path))

    def readlink(self, path: bytes) -> bytes:
        return os.readlink(path)

    def listing(self, path: bytes) -> list[tuple[bytes, bool, bool]]:
        with os.scandir(path) as entries:
            return sorted(
                (entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink())
                for entry in entries
            )

    def stat(self, path: bytes, follow: bool) -> Any:
        return facts(os.stat(path, follow_symlinks=follow))

    def access(self, path: bytes, mode: int) -> bool:
        return os.access(path, mode, effective_ids=True)

    # -- attributes ------------------------------------------------------------------

    def chmod(self, path: bytes, mode: int) -> Any:
        os.chmod(path, mode)
        return facts(os.stat(path))

    def chown(self, path: bytes, uid: int, gid: int, follow: bool) -> Any:
        os.chown(path, uid, gid, follow_symlinks=follow)
        return facts(os.stat(path, follow_symlinks=follow))

    def utime(self, path: bytes, times: tuple[int, int], follow: bool) -> Any:
        os.utime(path, ns=times, follow_symlinks=follow)
        info = os.stat(path, follow_symlinks=follow)
        return info.st_atime_ns, info.st_mtime_ns

    def touch(self, path: bytes) -> None:
        os.utime(path)

    def truncate(self, path: bytes, size: int) -> Any:
        os.truncate(path, size)
        return facts(os.stat(path))

    def setxattr(self, path: bytes, name: str, value: bytes, flags: int) -> None:
        os.setxattr(path, name, value, flags, follow_symlinks=False)

    def getxattr(self, path: bytes, name: str) -> bytes:
        return os.getxattr(path, name, follow_symlinks=False)

    def listxattr(self, path: bytes) -> list[str]:
        return sorted(os.listxattr(path, follow_symlinks=False))

    def removexattr(self, path: bytes, name: str) -> None:
        os.removexattr(path, name, follow_symlinks=False)

    # -- open files ------------------------------------------------------------------

    def open(self, slot: int, path: bytes, flags: int, mode: int) -> Any:
        self.close(slot)
        if _is_device(path):
            return "devices are not opened: a mount may forbid it"
        # Without O_NONBLOCK a FIFO waits for its other end.
        self.open_files[slot] = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
        return facts(os.fstat(self.open_files[slot]))

    def close(self, slot: int) -> None:
        if slot in self.open_files:
            os.close(self.open_files.pop(slot))

    def fstat(self, slot: int) -> Any:
        return facts(os.fstat(self._fd(slot)))

    def read(self, slot: int, size: int) -> bytes:
        return os.read(self._fd(slot), size)

    def pread(self, slot: int, size: int, offset: int) -> bytes:
        return os.pread(self._fd(slot), size, offset)

    def write(self, slot: int, data: bytes) -> Any:
        count = os.write(self._fd(slot), data)
        return count, facts(os.fstat(self._fd(slot))), os.lseek(self._fd(slot), 0, os.SEEK_CUR)

    def pwrite(self, slot: int, data: bytes, offset: int) -> Any:
        count = os.pwrite(self._fd(slot), data, offset)
        return count, facts(os.fstat(self._fd(slot)))

    def seek(self, slot: int, offset: int, whence: int) -> Any:
        if stat.S_ISDIR(os.fstat(self._fd(slot)).st_mode):
            return "positions in a directory are its own affair"
        return os.lseek(self._fd(slot), offset, whence)

    def ftruncate(self, slot: int, size: int) -> Any:
        os.ftruncate(self._fd(slot), size)
        return facts(os.fstat(self._fd(slot)))

    def fchmod(self, slot: int, mode: int) -> Any:
        os.fchmod(self._fd(slot), mode)
        return facts(os.fstat(self._fd(slot)))

    def fchown(self, slot: int, uid: int, gid: int) -> Any:
        os.fchown(self._fd(slot), uid, gid)
        return facts(os.fstat(self._fd(slot)))

    def fsync(self, slot: int) -> None:
        os.fsync(self._fd(slot))

    def flock(self, slot: int, operation: int) -> None:
        fcntl.flock(self._fd(slot), operation | fcntl.LOCK_NB)

    def fallocate(self, slot: int, mode: int, offset: int, length: int) -> Any:
        syscalls.fallocate(self._fd(slot), mode, offset, length)
        return facts(os.fstat(self._fd(slot)))

    def copy_range(self, source: int, start: int, target: int, to: int, count: int) -> int:
        """All that there is: the call itself may copy less."""
        done = 0
        while done < count:
            piece = os.copy_file_range(
                self._fd(source), self._fd(target), count - done, start + done, to + done
            )
            if piece == 0:
                break
            done += piece
        return done

    @staticmethod
    def _size(fd: int) -> int:
        """Of a regular file; others have nothing to look at."""
        info = os.fstat(fd)
        return info.st_size if stat.S_ISREG(info.st_mode) else 0

    def map_write(self, slot: int, data: bytes, where: int, sync: bool) -> Any:
        """Through a shared mapping of the whole file; ``where`` is cut to its size."""
        fd = self._fd(slot)
        size = self._size(fd)
        if size == 0:
            return "nothing to map"
        with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as view:
            start = where % size
            part = data[: size - start]
            view[start : start + len(part)] = part
            if sync:
                view.flush()
            return view[:]

    def data_segments(self, slot: int) -> Any:
        """The content, read only where SEEK_DATA says that data is."""
        fd = self._fd(slot)
        os.pread(fd, 0, 0)  # the right to read, also where all is a hole
        size = self._size(fd)
        content = bytearray(size)
        position = 0
        while position < size:
            try:
                start = os.lseek(fd, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            position = os.lseek(fd, start, os.SEEK_HOLE)
            assert start < position <= size, (start, position, size)
            content[start:position] = os.pread(fd, position - start, start)
        os.lseek(fd, 0, os.SEEK_SET)
        return bytes(content)

    def tmpfile(self, slot: int, path: bytes, mode: int) -> Any:
        self.close(slot)
        self.open_files[slot] = os.open(path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
        return facts(os.fstat(self.open_files[slot]))

    def link_open(self, slot: int, path: bytes) -> Any:
        syscalls.link_open_file(self._fd(slot), path)
        return facts(os.lstat(path))


def _is_device(path: bytes) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
