"""Hashes of a volume's stream: of the image, and all those of each file.

SHA-256 takes longer than everything else of a burn. So chunks that were handed out
are hashed while the next are read, by one thread for SHA-256 and one for XXH3.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import xxhash

from hsmfs.types import CHUNK_BYTES
from hsmfs.volume.manifest import FileResult
from hsmfs.volume.source import FileSource

CHUNKS_AHEAD: Final = 8
"""Chunks of the stream that may wait for the thread."""
Segment = tuple["FileHashes", int, int, int]
"""Whose bytes from where to where in a chunk, and which part of the file they are."""
PART: Final = 0
"""Some of the file's bytes."""
WHOLE: Final = 1
"""All of them: no state is kept for so small a file."""
END: Final = 2
"""None: this was all of the file."""


class FileHashes:
    """Fed in order; keeps little once it has ended."""

    __slots__ = ("_chunk", "_chunk_left", "_chunks", "_sha256", "_xxh3", "in_parts")

    def __init__(self) -> None:
        self._xxh3: Any = None
        self._sha256: Any = None
        self._chunk: Any = None
        self._chunk_left = CHUNK_BYTES
        self._chunks: list[int] = []
        self.in_parts = False
        """Its bytes are in more than one chunk of the stream."""

    def update(self, piece: memoryview | bytes) -> None:
        """The next bytes."""
        self.update_sha256(piece)
        self.update_xxh3(piece)

    def update_sha256(self, piece: memoryview | bytes) -> None:
        """The next bytes, for SHA-256 alone."""
        if self._sha256 is None:
            self._sha256 = hashlib.sha256()
        self._sha256.update(piece)

    def update_xxh3(self, piece: memoryview | bytes) -> None:
        """The next bytes, for the others."""
        if self._xxh3 is None:
            self._xxh3, self._chunk = xxhash.xxh3_128(), xxhash.xxh3_64()
        self._xxh3.update(piece)
        while piece:
            part = piece[: self._chunk_left]
            self._chunk.update(part)
            self._chunk_left -= len(part)
            if self._chunk_left == 0:
                self._end_chunk()
            piece = piece[len(part) :]

    def whole_sha256(self, piece: memoryview | bytes) -> None:
        """All of the file."""
        self._sha256 = hashlib.sha256(piece).digest()

    def whole_xxh3(self, piece: memoryview | bytes) -> None:
        """All of the file, which is at most one chunk."""
        assert 0 < len(piece) <= CHUNK_BYTES
        self._chunks = [xxhash.xxh3_64_intdigest(piece)]
        self._xxh3 = xxhash.xxh3_128_digest(piece)

    def end_sha256(self) -> None:
        """That was all, for SHA-256; once more is no harm."""
        if self._sha256 is None:
            self._sha256 = _SHA256_OF_NOTHING
        elif not isinstance(self._sha256, bytes):
            self._sha256 = self._sha256.digest()

    def end_xxh3(self) -> None:
        """That was all, for the others; once more is no harm."""
        if self._xxh3 is None:
            self._xxh3 = _XXH3_OF_NOTHING
        elif not isinstance(self._xxh3, bytes):
            if self._chunk_left != CHUNK_BYTES:
                self._end_chunk()
            self._xxh3, self._chunk = self._xxh3.digest(), None

    @property
    def ended(self) -> bool:
        """All of them have their last value."""
        return isinstance(self._sha256, bytes) and isinstance(self._xxh3, bytes)

    def _end_chunk(self) -> None:
        self._chunks.append(self._chunk.intdigest())
        self._chunk.reset()
        self._chunk_left = CHUNK_BYTES

    def proof(self) -> Proof:
        """What was fed."""
        self.end_sha256()
        self.end_xxh3()
        return Proof(self._xxh3, self._sha256, self._chunks)

    def result(self, entry: FileSource, offset_bytes: int) -> FileResult:
        """What was fed, as the result of a file at that place."""
        return self.proof().result(entry, offset_bytes)


class Proof(NamedTuple):
    """All hashes of a file, as bytes (XXH3's in its canonical order)."""

    xxh3_128: bytes
    sha256: bytes
    chunk_xxh3: list[int]

    def result(self, entry: FileSource, offset_bytes: int) -> FileResult:
        """As the result of a file at that place."""
        return FileResult(
            ino=entry.ino,
            data_version=entry.data_version,
            offset_bytes=offset_bytes,
            size=entry.size,
            xxh3_128=self.xxh3_128.hex(),
            sha256=self.sha256.hex(),
            chunk_xxh3=self.chunk_xxh3,
        )


_SHA256_OF_NOTHING: Final = hashlib.sha256().digest()
_XXH3_OF_NOTHING: Final = xxhash.xxh3_128_digest(b"")
OF_NOTHING: Final = Proof(_XXH3_OF_NOTHING, _SHA256_OF_NOTHING, [])
"""Of an empty file."""


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
        for hashes, start, stop, part in segments:
            if part == WHOLE:
                hashes.whole_xxh3(view[start:stop])
            elif part == END:
                hashes.end_xxh3()
            else:
                hashes.update_xxh3(view[start:stop])


def _sha256(chunk: bytes, segments: list[Segment]) -> None:
    view = memoryview(chunk)
    for hashes, start, stop, part in segments:
        if part == WHOLE:
            hashes.whole_sha256(view[start:stop])
        elif part == END:
            hashes.end_sha256()
        else:
            hashes.update_sha256(view[start:stop])
