"""Hashes of a volume's stream: of the image, and all those of each file.

SHA-256 takes longer than everything else of a burn. So chunks that were handed out
are hashed while the next are read, by one thread for SHA-256 and one for XXH3.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

import xxhash

from hsmfs.types import CHUNK_BYTES
from hsmfs.volume.manifest import FileResult
from hsmfs.volume.source import FileSource

CHUNKS_AHEAD: Final = 8
"""Chunks of the stream that may wait for the thread."""
Segment = tuple["FileHashes", int, int]
"""Whose bytes from where to where in a chunk."""


END: Final = -1
"""Start of a segment that says: this was all of the file."""


class FileHashes:
    """Fed in order; keeps little once it has ended."""

    __slots__ = ("_chunk", "_chunk_left", "_chunks", "_sha256", "_xxh3")

    def __init__(self) -> None:
        self._xxh3: Any = xxhash.xxh3_128()
        self._sha256: Any = hashlib.sha256()
        self._chunk: Any = xxhash.xxh3_64()
        self._chunk_left = CHUNK_BYTES
        self._chunks: list[int] = []

    def update(self, piece: memoryview | bytes) -> None:
        """The next bytes."""
        self.update_sha256(piece)
        self.update_xxh3(piece)

    def update_sha256(self, piece: memoryview | bytes) -> None:
        """The next bytes, for SHA-256 alone."""
        self._sha256.update(piece)

    def update_xxh3(self, piece: memoryview | bytes) -> None:
        """The next bytes, for the others."""
        self._xxh3.update(piece)
        while piece:
            part = piece[: self._chunk_left]
            self._chunk.update(part)
            self._chunk_left -= len(part)
            if self._chunk_left == 0:
                self._end_chunk()
            piece = piece[len(part) :]

    def end_sha256(self) -> None:
        """That was all, for SHA-256; once more is no harm."""
        if not isinstance(self._sha256, str):
            self._sha256 = self._sha256.hexdigest()

    def end_xxh3(self) -> None:
        """That was all, for the others; once more is no harm."""
        if self._chunk is None:
            return
        if self._chunk_left != CHUNK_BYTES:
            self._end_chunk()
        self._xxh3, self._chunk = self._xxh3.hexdigest(), None

    def _end_chunk(self) -> None:
        self._chunks.append(self._chunk.intdigest())
        self._chunk.reset()
        self._chunk_left = CHUNK_BYTES

    def result(self, entry: FileSource, offset_bytes: int) -> FileResult:
        """What was fed, as the result of a file at that place."""
        self.end_sha256()
        self.end_xxh3()
        return FileResult(
            ino=entry.ino,
            data_version=entry.data_version,
            offset_bytes=offset_bytes,
            size=entry.size,
            xxh3_128=self._xxh3,
            sha256=self._sha256,
            chunk_xxh3=self._chunks,
        )


class _Worker:
    """One thread that does the same with each chunk, in their order."""

    def __init__(self, name: str, work: Callable[[bytes, list[Segment]], None]) -> None:
        self._work = work
        self._chunks: queue.Queue[tuple[bytes, list[Segment]] | None] = queue.Queue(CHUNKS_AHEAD)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, chunk: bytes, segments: list[Segment]) -> None:
        self._chunks.put((chunk, segments))

    def drain(self) -> None:
        self._chunks.join()

    def end(self) -> None:
        if self._thread.is_alive():
            self._chunks.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (item := self._chunks.get()) is not None:
            self._work(*item)
            self._chunks.task_done()


class HashThreads:
    """Hash chunks in the order in which they come."""

    def __init__(self) -> None:
        self.image = xxhash.xxh3_128()
        self._workers = (_Worker("sha256", _sha256), _Worker("xxh3", self._xxh3))

    def put(self, chunk: bytes, segments: list[Segment]) -> None:
        """One more chunk; waits while many are ahead."""
        for worker in self._workers:
            worker.put(chunk, segments)

    def drain(self) -> None:
        """Return when all that was put is hashed."""
        for worker in self._workers:
            worker.drain()

    def end(self) -> None:
        """After the last chunk, or when the stream is given up."""
        for worker in self._workers:
            worker.end()

    def _xxh3(self, chunk: bytes, segments: list[Segment]) -> None:
        self.image.update(chunk)
        view = memoryview(chunk)
        for hashes, start, stop in segments:
            if start == END:
                hashes.end_xxh3()
            else:
                hashes.update_xxh3(view[start:stop])


def _sha256(chunk: bytes, segments: list[Segment]) -> None:
    view = memoryview(chunk)
    for hashes, start, stop in segments:
        if start == END:
            hashes.end_sha256()
        else:
            hashes.update_sha256(view[start:stop])
