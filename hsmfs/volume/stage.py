"""The stream's staging buffer: chunks of one size, hashed as they leave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.hashes import END, PART, WHOLE, FileHashes, HashThreads, Segment

STAGE_BYTES: Final = 1024 * 1024
_ZEROS: Final = bytes(STAGE_BYTES)


class Stage:
    """Gathers what is written into chunks of one size."""

    def __init__(self) -> None:
        self._buffer = bytearray(STAGE_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self.taken_bytes = 0
        self._segments: list[Segment] = []
        self.hashes = HashThreads()

    @property
    def position(self) -> int:
        return self.taken_bytes + self._filled

    @property
    def room_bytes(self) -> int:
        return STAGE_BYTES - self._filled

    def room(self, want: int) -> memoryview:
        """Free space of at most that size; empty when the stage is full."""
        return self._view[self._filled : self._filled + want]

    def advance(self, size: int, hashes: FileHashes | None = None) -> None:
        """So much was put into the room; ``hashes`` gets it when it leaves."""
        start = self._filled
        self._filled += size
        if hashes is None:
            return
        if self._segments:
            last, begin, stop, part = self._segments[-1]
            if last is hashes and stop == start and part == PART:
                self._segments[-1] = (hashes, begin, self._filled, PART)
                return
        self._segments.append((hashes, start, self._filled, PART))

    def end(self, hashes: FileHashes) -> None:
        """That was all that these hashes get."""
        if self._segments and not hashes.in_parts:
            last, begin, stop, _ = self._segments[-1]
            if last is hashes:
                self._segments[-1] = (hashes, begin, stop, WHOLE)
                return
        self._segments.append((hashes, 0, 0, END))

    @property
    def full(self) -> bool:
        return self._filled == STAGE_BYTES

    def take(self) -> bytes:
        """All that was gathered, as an object of its own."""
        chunk = bytes(self._view[: self._filled])
        if self._segments and self._segments[-1][3] == PART:
            self._segments[-1][0].in_parts = True
        self.hashes.put(chunk, self._segments)
        self._segments = []
        self.taken_bytes += self._filled
        self._filled = 0
        return chunk

    def put(self, data: bytes) -> Iterable[bytes]:
        """Copy in; yields each time the stage is full."""
        stop = self._filled + len(data)
        if stop >= STAGE_BYTES:
            return self._put(memoryview(data))
        self._view[self._filled : stop] = data
        self._filled = stop
        return ()

    def _put(self, rest: memoryview) -> Iterator[bytes]:
        while rest:
            room = self.room(len(rest))
            room[:] = rest[: len(room)]
            rest = rest[len(room) :]
            self.advance(len(room))
            if self.full:
                yield self.take()

    def zeros(self, size: int) -> Iterator[bytes]:
        while size > 0:
            step = min(size, len(_ZEROS))
            yield from self.put(_ZEROS[:step])
            size -= step

    def zeros_to(self, sector: int) -> Iterable[bytes]:
        """Up to a sector that lies ahead."""
        gap = sector * SECTOR_BYTES - self.position
        assert gap >= 0, f"stream is {-gap} bytes past sector {sector}"
        return self.put(_ZEROS[:gap]) if gap < SECTOR_BYTES else self.zeros(gap)
