"""Proof of what a disc holds: all of its image, every file, or a sample of them.

Everything here blocks; it runs in the thread of the drive that reads. A proof can be
paused between two requests and go on later, in another drive too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import xxhash

from hsmfs.daemon.catalogrecords import ExtentRecord
from hsmfs.daemon.runs import chunk_count, known_hash, read_range
from hsmfs.errors import MediumError, TransientError
from hsmfs.types import CHUNK_BYTES

READ_SECTORS: Final = 512
DAMAGED_MAX: Final = 1000
"""Damaged files that are named; the others are only counted."""
Read = Callable[[int, int], bytes]
"""First sector and number of sectors to bytes; MediumError where they cannot be read."""
Check = Callable[[], None]
"""Called before each request; raises to stop."""
Chunk = tuple[ExtentRecord, int]


class ProofPaused(TransientError):
    """Readers want the drive: what was proved is kept, the rest is read later."""


class Damage(NamedTuple):
    """What a proof found: damaged files by path, bytes that were read."""

    files: list[str]
    total: int
    bytes: int


@dataclass(slots=True)
class ImageProof:
    """XXH3 of 128 bits of all sectors; called again, it goes on where it stopped."""

    total_sectors: int
    next_lba: int = 0
    _digest: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)

    def go_on(self, read: Read, check: Check) -> str:
        """The hash; what ``check`` raises leaves all as it is between two requests."""
        while self.next_lba < self.total_sectors:
            check()
            count = min(READ_SECTORS, self.total_sectors - self.next_lba)
            self._digest.update(read(self.next_lba, count))
            self.next_lba += count
        return self._digest.hexdigest()


class FilesProof:
    """Files by the hashes of their chunks; called again, it goes on where it stopped."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._chunks: Iterator[Chunk] = iter(chunks)
        self._bad: list[str] = []
        self._count = self._bytes = 0
        self._last: ExtentRecord | None = None
        """The file that was found damaged last: no more of it is read."""

    def go_on(self, read: Read, check: Check) -> Damage:
        """What is damaged; what ``check`` raises leaves all as it is between two chunks."""
        while True:
            check()
            chunk = next(self._chunks, None)
            if chunk is None:
                return Damage(list(self._bad), self._count, self._bytes)
            extent, number = chunk
            self._bytes += min(CHUNK_BYTES, extent.size - number * CHUNK_BYTES)
            if extent is not self._last and not _chunk_is_good(read, extent, number):
                self._last = extent
                self._count += 1
                if len(self._bad) < DAMAGED_MAX:
                    self._bad.append(extent.path)


def all_files(extents: Sequence[ExtentRecord]) -> FilesProof:
    """All files of a disc, in its order."""
    ordered = sorted(extents, key=lambda one: one.offset)
    return FilesProof((extent, n) for extent in ordered for n in range(chunk_count(extent)))


def sample(extents: Sequence[ExtentRecord], percent: float, seed: int) -> FilesProof:
    """Chunks chosen by chance, about so much of the data, at least one."""
    chunks = [(extent, number) for extent in extents for number in range(chunk_count(extent))]
    count = min(len(chunks), max(1, round(len(chunks) * percent / 100)))
    chosen = random.Random(seed).sample(chunks, count)
    return FilesProof(sorted(chosen, key=lambda one: (one[0].offset, one[1])))


@dataclass(slots=True)
class Proof:
    """How far a disc was proved, kept while others have its drive."""

    image: ImageProof | None = None
    files: FilesProof | None = None
    why: str = ""
    """What is wrong with the image: its files are looked at one by one."""
    seconds: float = 0.0
    """Of the pieces so far."""


def _chunk_is_good(read: Read, extent: ExtentRecord, number: int) -> bool:
    start = number * CHUNK_BYTES
    length = min(CHUNK_BYTES, extent.size - start)
    try:
        data = read_range(read, extent, start, start + length)
    except MediumError:
        return False
    found, expected = xxhash.xxh3_64_intdigest(data), known_hash(extent, number)
    return expected in (None, found)
