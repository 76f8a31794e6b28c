"""Bytes that are kept on disk while a volume is written, and read once more in order."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from hsmfs.errors import TransientError

BUFFER_BYTES: Final = 256 * 1024
"""So much is kept in memory before a file is made or added to."""


class Scratch:
    """Grows at its end; its file has no name and is gone with the object."""

    def __init__(self, what: str, directory: Path | None = None) -> None:
        self._what = what
        self._directory = directory
        self._buffer = bytearray()
        self._fd = -1
        self._spilled_bytes = 0

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def append(self, data: bytes) -> None:
        """TransientError where the disk is full."""
        self._buffer += data
        if len(self._buffer) >= BUFFER_BYTES:
            self._spill()

    def _spill(self) -> None:
        try:
            if self._fd < 0:
                self._fd, path = tempfile.mkstemp(prefix=".hsm-", dir=self._directory)
                os.unlink(path)
            while self._buffer:
                done = os.pwrite(self._fd, self._buffer, self._spilled_bytes)
                self._spilled_bytes += done
                del self._buffer[:done]
        except OSError as error:
            raise TransientError(
                f"{self._what} cannot be kept in {self._directory or tempfile.gettempdir()}: "
                f"{error.strerror}; free space there"
            ) from error

    def reader(self) -> ScratchReader:
        """From the start; several may read at once."""
        return ScratchReader(self)

    def piece(self, position: int) -> bytes:
        """Some bytes from there on; none at the end."""
        if position < self._spilled_bytes:
            want = min(BUFFER_BYTES, self._spilled_bytes - position)
            return os.pread(self._fd, want, position)
        return bytes(memoryview(self._buffer)[position - self._spilled_bytes :])


class ScratchReader:
    """What was appended, in order."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._position = 0
        self._piece = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next bytes, exactly so many."""
        stop = self._at + size
        while stop > len(self._piece):
            self._piece = self._piece[self._at :] + self._next()
            self._at, stop = 0, size
        data = self._piece[self._at : stop]
        self._at = stop
        return data

    def _next(self) -> bytes:
        piece = self._scratch.piece(self._position)
        self._position += len(piece)
        assert piece, "more is read than was kept"
        return piece
