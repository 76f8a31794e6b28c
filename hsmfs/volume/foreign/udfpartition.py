"""Partitions of a UDF volume: from blocks to bytes of the disc.

ECMA-167 3/10.5, 3/10.7 and UDF 2.60: type 1 (3/10.7.2), virtual
(2.2.8, with the VAT of 2.2.11 or of UDF 1.50), sparable (2.2.9, 2.2.12) and
metadata (2.2.10, 2.2.13) partitions.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Final, Protocol

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.foreign.entry import HOLE, Run
from hsmfs.volume.foreign.sectors import Sectors

UNUSED: Final = 0xFFFFFFFF
SPARING_TABLES_MAX: Final = 4
SPARING_BYTES_MAX: Final = 1 << 20
_DEFECTIVE: Final = 0xFFFFFFF0


class Partition(Protocol):
    """A partition reference."""

    def runs(self, block: int, length: int, where: str) -> Iterator[Run]:
        """Where so many bytes from a block lie on the disc; MediumError outside."""


class Physical:
    """Type 1: blocks in a row."""

    def __init__(self, start: int, blocks: int) -> None:
        self.start = start
        self.blocks = blocks

    def runs(self, block: int, length: int, where: str) -> Iterator[Run]:
        count = -(-length // SECTOR_BYTES)
        if not 0 <= block <= block + count <= self.blocks:
            raise MediumError(
                f"{where}: blocks {block} to {block + count} are outside the partition "
                f"of {self.blocks}"
            )
        yield (self.start + block) * SECTOR_BYTES, length


class Virtual:
    """Each block where the virtual allocation table says."""

    def __init__(self, below: Physical, table: bytes) -> None:
        self._below = below
        self._table = table

    def runs(self, block: int, length: int, where: str) -> Iterator[Run]:
        first, count = -1, 0
        for number in range(block, block + -(-length // SECTOR_BYTES)):
            real = self._real(number, where)
            if count and real == first + count:
                count += 1
                continue
            if count:
                yield from self._below.runs(first, count * SECTOR_BYTES, where)
                length -= count * SECTOR_BYTES
            first, count = real, 1
        if count:
            yield from self._below.runs(first, length, where)

    def _real(self, block: int, where: str) -> int:
        if not 0 <= block < len(self._table) // 4:
            raise MediumError(
                f"{where}: virtual block {block}, the table has {len(self._table) // 4}"
            )
        (real,) = struct.unpack_from("<I", self._table, block * 4)
        if real == UNUSED:
            raise MediumError(f"{where}: virtual block {block} is not in use")
        return int(real)


class Sparable:
    """Blocks in a row but packets that were replaced."""

    def __init__(self, below: Physical, packet: int, replaced: dict[int, int]) -> None:
        self._below = below
        self._packet = packet
        self._replaced = replaced
        """First block of a packet to the sector where it is."""

    def runs(self, block: int, length: int, where: str) -> Iterator[Run]:
        if not self._replaced:
            yield from self._below.runs(block, length, where)
            return
        while length > 0:
            inside = block % self._packet
            step = min(length, (self._packet - inside) * SECTOR_BYTES)
            elsewhere = self._replaced.get(block - inside)
            if elsewhere is None:
                yield from self._below.runs(block, step, where)
            else:
                yield (elsewhere + inside) * SECTOR_BYTES, step
            block, length = block - inside + self._packet, length - step


class Metadata:
    """Blocks of a file in another partition."""

    def __init__(self, runs: tuple[Run, ...]) -> None:
        self._runs = runs
        self._ends = list(accumulate(length for _, length in runs))

    def runs(self, block: int, length: int, where: str) -> Iterator[Run]:
        start = block * SECTOR_BYTES
        number = bisect_right(self._ends, start)
        while length > 0:
            if number >= len(self._runs):
                raise MediumError(f"{where}: metadata block {block} is outside the metadata file")
            at, size = self._runs[number]
            if at == HOLE:
                raise MediumError(f"{where}: metadata block {block} is not recorded")
            inside = start - (self._ends[number] - size)
            step = min(length, size - inside)
            yield at + inside, step
            start, length, number = start + step, length - step, number + 1


def sparing(sectors: Sectors, places: list[int], size: int) -> dict[int, int]:
    """Replaced packets, from the first table that can be read (UDF 2.60, 2.2.12)."""
    if not 0 < size <= SPARING_BYTES_MAX:
        raise MediumError(f"sparing table of {size} bytes, expected at most {SPARING_BYTES_MAX}")
    first: MediumError | None = None
    for place in places[:SPARING_TABLES_MAX]:
        try:
            return _sparing_table(sectors, place, size)
        except MediumError as error:
            first = first or error
    if first is not None:
        raise first
    return {}


def _sparing_table(sectors: Sectors, place: int, size: int) -> dict[int, int]:
    where = f"sector {place}: sparing table"
    data = sectors.at(place * SECTOR_BYTES, -(-size // SECTOR_BYTES) * SECTOR_BYTES, where)
    if not data[17:].startswith(b"*UDF Sparing Table"):
        raise MediumError(f"{where}: found {data[17:35]!r}, expected a sparing table")
    (count,) = struct.unpack_from("<H", data, 48)
    if 56 + count * 8 > len(data):
        raise MediumError(f"{where}: {count} entries in {size} bytes")
    pairs = struct.iter_unpack("<II", data[56 : 56 + count * 8])
    return {block: sector for block, sector in pairs if block < _DEFECTIVE}
