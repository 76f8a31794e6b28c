"""Proof of what a disc holds: all of its image, every file, or a sample of them.

Everything here blocks; it runs in the thread of the drive that reads.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

import xxhash

from hsmfs.daemon.catalogrecords import ExtentRecord
from hsmfs.daemon.runs import chunk_count, known_hash, read_range
from hsmfs.errors import MediumError
from hsmfs.types import CHUNK_BYTES

READ_SECTORS: Final = 512
DAMAGED_MAX: Final = 1000
"""Damaged files that are named; the others are only counted."""
Read = Callable[[int, int], bytes]
"""First sector and number of sectors to bytes; MediumError where they cannot be read."""
Check = Callable[[], None]
"""Called before each request; raises to stop."""


class Damage(NamedTuple):
    """What a proof found: damaged files by path, bytes that were read."""

    files: list[str]
    total: int
    bytes: int


def image_hash(read: Read, total_sectors: int, check: Check) -> str:
    """XXH3 of 128 bits of all sectors."""
    digest = xxhash.xxh3_128()
    for lba in range(0, total_sectors, READ_SECTORS):
        check()
        digest.update(read(lba, min(READ_SECTORS, total_sectors - lba)))
    return digest.hexdigest()


def damaged_files(read: Read, extents: Iterable[ExtentRecord], check: Check) -> Damage:
    """All files whose bytes are not those that were burned; extents in the order of the
    disc, and so are these."""
    files: list[str] = []
    count = size = 0
    for extent in extents:
        good = all(
            _chunk_is_good(read, extent, number, check) for number in range(chunk_count(extent))
        )
        size += extent.size
        if not good:
            count += 1
            if len(files) < DAMAGED_MAX:
                files.append(extent.path)
    return Damage(files, count, size)


def sampled(
    read: Read, extents: Iterable[ExtentRecord], percent: float, check: Check, seed: int
) -> Damage:
    """The same of chunks chosen by chance, about so much of the data, at least one; the
    extents are gone through twice."""
    total = sum(map(chunk_count, extents))
    count = min(total, max(1, round(total * percent / 100)))
    chosen = array("Q", sorted(random.Random(seed).sample(range(total), count)))
    bad: dict[str, None] = {}
    size = 0
    for extent, number in _chunks_at(extents, chosen):
        size += min(CHUNK_BYTES, extent.size - number * CHUNK_BYTES)
        if not _chunk_is_good(read, extent, number, check):
            bad[extent.path] = None
    return Damage(list(bad)[:DAMAGED_MAX], len(bad), size)


def _chunks_at(
    extents: Iterable[ExtentRecord], places: Iterable[int]
) -> Iterator[tuple[ExtentRecord, int]]:
    """Chunks by their places among all, ascending."""
    rest = iter(places)
    wanted, first = next(rest, None), 0
    for extent in extents:
        after = first + chunk_count(extent)
        while wanted is not None and wanted < after:
            yield extent, wanted - first
            wanted = next(rest, None)
        first = after


def _chunk_is_good(read: Read, extent: ExtentRecord, number: int, check: Check) -> bool:
    start = number * CHUNK_BYTES
    length = min(CHUNK_BYTES, extent.size - start)
    check()
    try:
        data = read_range(read, extent, start, start + length)
    except MediumError:
        return False
    found, expected = xxhash.xxh3_64_intdigest(data), known_hash(extent, number)
    return expected in (None, found)
