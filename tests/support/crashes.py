"""Ways to cut a running hsmfs short, streams of operations to be cut, and what must be left.

Three cuts, each at a random moment:

kill
    SIGKILL of hsmfs, with or without its helper processes (who commit batches
    and make cache files): what was written to files stays, what was in memory
    is gone.
copy
    SIGSTOP of them all, one after another, and a copy of namespace and cache
    files: a cut between two writes. A second hsmfs starts on the copy.
power
    ext4's own shutdown ioctl on the disk that holds namespace and cache: from
    that moment nothing reaches it, and at the next mount there is what its
    journal and earlier syncs made durable; written data that was not synced is
    lost, file by file, as after a loss of power. This covers also the order of
    writes that the kernel chose, which a copy of the files cannot show. (A
    disk that lies about its cache is beyond it.) For root only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from support import syscalls
from support.cutmodel import SYNCS, XATTR, Operation, Stream

EXT4_IOC_SHUTDOWN = 0x8004587D
SHUTDOWN_NO_LOG_FLUSH = 2
DISK_BYTES = 256 << 20
GONE_TIMEOUT_S = 60.0
CUT_ERRORS = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENODEV, errno.EROFS, errno.EINTR)


class Cut(NamedTuple):
    """It happened between two times."""

    begin_s: float
    end_s: float


@dataclass
class Entry:
    """One operation; without an end it was under way when the stream was cut."""

    operation: Operation
    start_s: float
    end_s: float | None = None

    def is_promise(self, cut: Cut) -> bool:
        """A sync that was answered before the cut."""
        return self.operation[0] in SYNCS and self.end_s is not None and self.end_s < cut.begin_s


class Worker:
    """Does a stream of operations in a directory of its own until it is stopped or cut."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.root = root
        self.log: list[Entry] = []
        self.error: BaseException | None = None
        self.enough = threading.Event()
        self._stream = Stream(chance)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self.enough.is_set():
                entry = Entry(self._stream.draw(), time.monotonic())
                self.log.append(entry)
                self._do(*entry.operation)
                entry.end_s = time.monotonic()
                self._stream.model.apply(len(self.log) - 1, entry.operation)
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        """Wait for its end, which must come from the cut and nothing else."""
        self.enough.set()
        self._thread.join(GONE_TIMEOUT_S)
        assert not self._thread.is_alive(), f"hangs in {self.log[-1].operation[:3]!r:.200}"
        if self.error is not None:
            cut = isinstance(self.error, OSError) and self.error.errno in CUT_ERRORS
            assert cut, f"{self.log[-1].operation!r:.200}: {self.error!r}"

    def _do(self, name: str, *arguments: object) -> None:
        getattr(self, f"_{name}")(*arguments)

    def _path(self, path: str) -> str:
        return f"{self.root}/{path}"

    def _mkdir(self, path: str) -> None:
        os.mkdir(self._path(path), 0o755)

    def _create(self, path: str) -> None:
        os.close(os.open(self._path(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))

    def _symlink(self, target: str, path: str) -> None:
        os.symlink(target, self._path(path))

    def _link(self, old: str, new: str) -> None:
        os.link(self._path(old), self._path(new), follow_symlinks=False)

    def _unlink(self, path: str) -> None:
        os.unlink(self._path(path))

    def _rmdir(self, path: str) -> None:
        os.rmdir(self._path(path))

    def _rename(self, old: str, new: str) -> None:
        os.rename(self._path(old), self._path(new))

    def _exchange(self, old: str, new: str) -> None:
        first, second = os.fsencode(self._path(old)), os.fsencode(self._path(new))
        syscalls.renameat2(first, second, syscalls.RENAME_EXCHANGE)

    def _chmod(self, path: str, mode: int) -> None:
        os.chmod(self._path(path), mode)

    def _setxattr(self, path: str, word: bytes) -> None:
        os.setxattr(self._path(path), XATTR, word)

    def _write(self, path: str, offset: int, data: bytes) -> None:
        with opened(self._path(path), os.O_WRONLY) as fd:
            if os.pwrite(fd, data, offset) < len(data):
                raise OSError(errno.EIO, "the disk took only a part", path)

    def _truncate(self, path: str, size: int) -> None:
        os.truncate(self._path(path), size)

    def _fsync(self, path: str) -> None:
        with opened(self._path(path), os.O_RDONLY) as fd:
            os.fsync(fd)

    _fsyncdir = _fsync


@contextlib.contextmanager
def opened(path: Path | str, flags: int) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


# -- processes ----------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """A process and its children."""
    found = [pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_gone(pids: list[int]) -> None:
    """Until none of them runs any more; nobody else waits for children of a killed process."""
    end_s = time.monotonic() + GONE_TIMEOUT_S
    while any(_state(pid) not in ("", "Z") for pid in pids):
        assert time.monotonic() < end_s, f"of {pids} some do not end"
        time.sleep(0.005)


def wait_stopped(pids: list[int]) -> None:
    """A stop signal works when the process next runs."""
    end_s = time.monotonic() + GONE_TIMEOUT_S
    while any(_state(pid) not in ("", "Z", "T") for pid in pids):
        assert time.monotonic() < end_s, f"of {pids} some do not stop"
        time.sleep(0.0005)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[Cut]:
    """Hold processes; yields when that happened."""
    begin_s = time.monotonic()
    try:
        signal_all(pids, signal.SIGSTOP)
        wait_stopped(pids)
        yield Cut(begin_s, time.monotonic())
    finally:
        signal_all(pids, signal.SIGCONT)


# -- a disk that can lose its power ---------------------------------------------------


class Disk:
    """An ext4 image, mounted."""

    def __init__(self, directory: Path, size_bytes: int = DISK_BYTES) -> None:
        self.image = directory / "disk.img"
        self.path = directory / "disk"
        self.path.mkdir()
        with self.image.open("wb") as file:
            file.truncate(size_bytes)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self.image)], check=True)
        self._mount()

    def _mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.path)], check=True)

    def lose_power(self) -> Cut:
        """Nothing reaches the image any more."""
        with opened(self.path, os.O_RDONLY) as fd:
            begin_s = time.monotonic()
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", SHUTDOWN_NO_LOG_FLUSH))
            return Cut(begin_s, time.monotonic())

    def power_on(self) -> None:
        """What was durable is there again."""
        self.unmount()
        self._mount()

    def unmount(self) -> None:
        """Wait for those who still hold a file: the kernel lets go a little later."""
        end_s = time.monotonic() + GONE_TIMEOUT_S
        while (done := subprocess.run(["umount", str(self.path)], capture_output=True)).returncode:
            assert time.monotonic() < end_s, done.stderr
            time.sleep(0.02)

    @staticmethod
    def is_possible() -> bool:
        return os.geteuid() == 0 and Path("/dev/loop-control").exists()


@contextlib.contextmanager
def disk(directory: Path, size_bytes: int = DISK_BYTES) -> Iterator[Disk]:
    made = Disk(directory, size_bytes)
    try:
        yield made
    finally:
        made.unmount()
        made.image.unlink()
