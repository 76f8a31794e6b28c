"""Many small operations on cache files, done beside the engine's thread.

``Hands`` does them in the thread that calls (a worker's). ``RemoteHands`` has
a process of its own for it: in this one each system call would contend with
the engine's thread for Python's interpreter lock. On its socket: kind (u8),
count (u32) and inode numbers (u64 each), little endian; the answer is an errno
(u32), 0 when all is done.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

from hsmfs.cache.paths import cache_path

MAKE: Final = 1
REMOVE: Final = 2
HEADER: Final = struct.Struct("<BI")
ANSWER: Final = struct.Struct("<I")
END_TIMEOUT_S: Final = 30.0


class CacheHands(Protocol):
    """What the engine wants done to many cache files."""

    def make(self, inodes: Sequence[int]) -> None:
        """Empty files; raises OSError."""

    def remove(self, inodes: Sequence[int]) -> None:
        """Files that may be missing; raises OSError."""

    def close(self) -> None:
        """Nothing more to do."""


class Hands:
    """In the calling thread."""

    def __init__(self, root: str) -> None:
        self.root = root

    def make(self, inodes: Sequence[int]) -> None:
        """Empty files for inodes that are still to be born; one that is there
        already is in use, and is left alone."""
        for ino in inodes:
            path = cache_path(self.root, ino)
            try:
                os.mknod(path, 0o600)
            except FileExistsError:
                continue
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with suppress(FileExistsError):
                    os.mknod(path, 0o600)

    def remove(self, inodes: Sequence[int]) -> None:
        """Files of inodes that are no more."""
        for ino in inodes:
            with suppress(FileNotFoundError):
                os.unlink(cache_path(self.root, ino))

    def close(self) -> None:
        """Nothing to end."""


class RemoteHands:
    """In a process of its own, which ends with this one."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def _start(self) -> None:
        self._channel, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hsmfs.cache.hands", str(number), self.root],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def make(self, inodes: Sequence[int]) -> None:
        """See ``Hands.make``."""
        self._ask(MAKE, inodes)

    def remove(self, inodes: Sequence[int]) -> None:
        """See ``Hands.remove``."""
        self._ask(REMOVE, inodes)

    def _ask(self, kind: int, inodes: Sequence[int]) -> None:
        message = HEADER.pack(kind, len(inodes)) + struct.pack(f"<{len(inodes)}Q", *inodes)
        with self._lock:
            if self._channel is None:
                self._start()
            assert self._channel is not None
            try:
                self._channel.sendall(message)
                answer = self._channel.recv(ANSWER.size, socket.MSG_WAITALL)
            except OSError:
                answer = b""
            if len(answer) < ANSWER.size:
                self._end()
                raise OSError(errno.EPIPE, "the process for cache files ended", self.root)
        number = ANSWER.unpack(answer)[0]
        if number:
            raise OSError(number, os.strerror(number), self.root)

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            try:
                self._process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()


def main() -> int:
    """``hands SOCKET_FD ROOT``; started by ``RemoteHands``."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    hands = Hands(sys.argv[2])
    while len(head := channel.recv(HEADER.size, socket.MSG_WAITALL)) == HEADER.size:
        kind, count = HEADER.unpack(head)
        data = channel.recv(count * 8, socket.MSG_WAITALL) if count else b""
        if len(data) < count * 8:
            break
        inodes = struct.unpack(f"<{count}Q", data)
        number = 0
        try:
            (hands.make if kind == MAKE else hands.remove)(inodes)
        except OSError as error:
            number = error.errno or errno.EIO
        channel.sendall(ANSWER.pack(number))
    return 0


if __name__ == "__main__":
    sys.exit(main())
