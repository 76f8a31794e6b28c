"""A claimed cache file as the volume writer reads it."""

from __future__ import annotations

import errno
import os
from types import TracebackType
from typing import Final

from hsmfs.volume.source import Part

READ_AHEAD_BYTES: Final = 128 * 1024
"""What the kernel reads ahead anyway: of smaller files it need not be told."""


class ClaimedSource:
    """A descriptor with the few methods of a binary file; closes itself.

    Where the file is changed while the kernel has it for others, the claimed
    bytes get a copy under the claim's name, and what was opened changes in
    place: the read at the end then fails, and the burn counts nothing of it.
    Of a file in parts it gives one part, and is no other way to the rest.
    """

    def __init__(self, fd: int, claim: str, part: Part | None = None, size: int = 0) -> None:
        self._fd = fd
        self._claim = claim
        self._part = part
        self._left = size
        if part is not None:
            os.lseek(fd, part.start, os.SEEK_SET)
        if not 0 < size < READ_AHEAD_BYTES:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill from the current position; 0 at the end."""
        if self._part is None:
            return os.readv(self._fd, [buffer])
        got = os.readv(self._fd, [memoryview(buffer)[: self._left]])
        self._left -= got
        return got

    def read(self, size: int) -> bytes:
        if self._part is not None:
            size = min(size, self._left)
        data = os.read(self._fd, size)
        self._left -= len(data)
        if not data and self._part is not None and self.size() != self._part.total:
            raise OSError(errno.ESTALE, "has another size", self._claim)
        if not data and self._was_left_behind():
            raise OSError(errno.ESTALE, "changed in mid-burn", self._claim)
        return data

    def _was_left_behind(self) -> bool:
        if not os.access(self._claim, os.F_OK):
            return False
        try:
            kept = os.stat(self._claim)
        except FileNotFoundError:
            return False
        return kept.st_ino != os.fstat(self._fd).st_ino

    def pread(self, size: int, offset: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> ClaimedSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
