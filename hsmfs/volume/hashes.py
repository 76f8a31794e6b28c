"""All hashes of one file: what a manifest line proves."""

from __future__ import annotations

import hashlib

import xxhash

from hsmfs.types import CHUNK_BYTES
from hsmfs.volume.manifest import FileResult
from hsmfs.volume.source import FileSource


class FileHashes:
    """Fed in order, with pieces that do not cross a chunk's end."""

    def __init__(self) -> None:
        self._xxh3 = xxhash.xxh3_128()
        self._sha256 = hashlib.sha256()
        self._chunk = xxhash.xxh3_64()
        self.chunk_left = CHUNK_BYTES
        self._chunks: list[int] = []

    def update(self, piece: memoryview | bytes) -> None:
        """The next piece, of at most ``chunk_left`` bytes."""
        assert len(piece) <= self.chunk_left
        self._xxh3.update(piece)
        self._sha256.update(piece)
        self._chunk.update(piece)
        self.chunk_left -= len(piece)
        if self.chunk_left == 0:
            self._end_chunk()

    def _end_chunk(self) -> None:
        self._chunks.append(self._chunk.intdigest())
        self._chunk.reset()
        self.chunk_left = CHUNK_BYTES

    def result(self, entry: FileSource, offset_bytes: int) -> FileResult:
        """What was fed, as the result of a file at that place."""
        if self.chunk_left != CHUNK_BYTES:
            self._end_chunk()
        return FileResult(
            ino=entry.ino,
            data_version=entry.data_version,
            offset_bytes=offset_bytes,
            size=entry.size,
            xxh3_128=self._xxh3.hexdigest(),
            sha256=self._sha256.hexdigest(),
            chunk_xxh3=self._chunks,
        )
