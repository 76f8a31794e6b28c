"""From bytes of a file to bytes of a disc, for data in one run or in many.

Everything here blocks; it runs in the thread of the drive that reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from hsmfs.daemon.catalogrecords import ExtentRecord
from hsmfs.types import CHUNK_BYTES, SECTOR_BYTES

Read = Callable[[int, int], bytes]
"""First sector and number of sectors to bytes; MediumError where they cannot be read."""
HOLE: Final = -1
UNKNOWN: Final = -1
"""In place of the hash of a chunk that was never read."""


def pieces(extent: ExtentRecord, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Byte on the disc (``HOLE``: none) and length of what makes up a range of the extent."""
    if not extent.runs:
        yield extent.offset + start, stop - start
        return
    for at, length in extent.runs:
        if stop <= start:
            return
        if start < length:
            step = min(length, stop) - start
            yield (HOLE if at == HOLE else at + start), step
            start += step
        start, stop = start - length, stop - length


def read_range(read: Read, extent: ExtentRecord, start: int, stop: int) -> bytes:
    """Bytes of a range of the extent."""
    parts = []
    for at, length in pieces(extent, start, stop):
        if at == HOLE:
            parts.append(bytes(length))
            continue
        first, inside = divmod(at, SECTOR_BYTES)
        data = read(first, -(-(inside + length) // SECTOR_BYTES))
        parts.append(data[inside : inside + length] if len(data) != length else data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def chunk_count(extent: ExtentRecord) -> int:
    """Chunks that the extent has, the last perhaps a short one."""
    return -(-extent.size // CHUNK_BYTES)


def known_hash(extent: ExtentRecord, chunk: int) -> int | None:
    """What a chunk must have; None where it was never read."""
    if chunk >= len(extent.chunks) or extent.chunks[chunk] == UNKNOWN:
        return None
    return extent.chunks[chunk]


def learn(extent: ExtentRecord, chunk: int, digest: int) -> bool:
    """Note the hash of a chunk; whether it is news."""
    if known_hash(extent, chunk) is not None:
        return False
    if not extent.chunks:
        extent.chunks = [UNKNOWN] * chunk_count(extent)
    extent.chunks[chunk] = digest
    return True


def is_hashed(extent: ExtentRecord) -> bool:
    """Whether every byte can be proved."""
    return len(extent.chunks) == chunk_count(extent) and UNKNOWN not in extent.chunks
