"""A claimed cache file as the volume writer reads it."""

from __future__ import annotations

import os
from types import TracebackType


class ClaimedSource:
    """A descriptor with the few methods of a binary file; closes itself."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill from the current position; 0 at the end."""
        return os.readv(self._fd, [buffer])

    def read(self, size: int) -> bytes:
        return os.read(self._fd, size)

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
