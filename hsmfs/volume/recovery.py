"""Recovery data of a volume, in a file of its own on the same disc: ``/.hsm/recovery.bin``.

Interleaved parity: the sectors before the file, in blocks of 32 (64 KiB, one
error correction cluster of a BD), go round K parity blocks; parity block j is
the XOR of all blocks i with i mod K = j. So up to K blocks lost in a row are
made anew, and of scattered ones all that are alone in their stripe. XXH3 of
each block, data and parity, tells which are damaged.

======  ======  =========================================================
offset  type    header (one sector, little endian, zeros behind)
======  ======  =========================================================
0       8 s     "HSMRCVR1"
8       u32     sectors of a block: 32
12      u32     reserved, 0
16      u64     sectors covered, from sector 0; the file itself follows them
24      u64     K: parity blocks
32      u64     xxh3_64 of the table of sums
40      u64     xxh3_64 of the 40 bytes before
======  ======  =========================================================

Then, from sector 1 of the file: the table of sums, u64 xxh3_64 of each block
(the last one filled up with zeros) and then of each parity block, filled up to
a sector; then the K parity blocks.
"""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.source import RECOVERY_NAME

MAGIC: Final = b"HSMRCVR1"
BLOCK_SECTORS: Final = 32
BLOCK_BYTES: Final = BLOCK_SECTORS * SECTOR_BYTES
HEADER: Final = struct.Struct("<8sIIQQQ")
CHECKED: Final = struct.Struct("<Q")
SUM_BYTES: Final = 8
PIECE_BYTES: Final = 1 << 20
COVERED_MAX: Final = 1 << 27
"""Sectors: 256 GiB, more than any disc has."""
Read = Callable[[int, int], bytes]
"""First byte of the image and number of bytes; MediumError or OSError where it cannot be read."""


class Shape(NamedTuple):
    """What a recovery file covers, and with how much."""

    sectors: int
    stripes: int

    @property
    def blocks(self) -> int:
        """Covered blocks."""
        return -(-self.sectors // BLOCK_SECTORS)

    @property
    def parity_offset(self) -> int:
        """Byte of the file where the parity blocks begin."""
        table = (self.blocks + self.stripes) * SUM_BYTES
        return SECTOR_BYTES * (1 + -(-table // SECTOR_BYTES))

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self.parity_offset + self.stripes * BLOCK_BYTES


def shape_of(sectors: int, percent: float) -> Shape:
    """Parity for so much of what is covered, at least one block."""
    blocks = -(-sectors // BLOCK_SECTORS)
    return Shape(sectors, min(blocks, max(1, round(blocks * percent / 100))))


def shape_with(sectors: int, file_bytes: int) -> Shape:
    """The shape whose file has this size; MediumError if there is none."""
    blocks = Shape(sectors, 0).blocks
    guess = (file_bytes - SECTOR_BYTES - blocks * SUM_BYTES) // (BLOCK_BYTES + SUM_BYTES)
    for stripes in range(max(1, guess - 1), guess + 2):
        if Shape(sectors, stripes).file_bytes == file_bytes:
            return Shape(sectors, stripes)
    raise MediumError(f"{RECOVERY_NAME}: {file_bytes} bytes are no size for {sectors} sectors")


def room_left(capacity_sectors: int, percent: float) -> int:
    """Sectors that a disc has for all else; with 0 percent all of them."""
    if not percent:
        return capacity_sectors
    share = 1 + percent / 100 + SUM_BYTES * (1 + percent / 100) / BLOCK_BYTES
    return max(0, int((capacity_sectors - 2 * BLOCK_SECTORS) / share))


# -- writing --------------------------------------------------------------------------------


def make_file(path: Path, shape: Shape) -> None:
    """An empty one of the right size; ``Accumulator`` fills it."""
    with path.open("wb") as file:
        file.truncate(shape.file_bytes)


class Accumulator:
    """Takes an image's bytes in order, up to the file's place; ``finish`` completes the file."""

    def __init__(self, path: Path, shape: Shape) -> None:
        make_file(path, shape)
        self._path = path
        self._shape = shape
        self._parity: npt.NDArray[np.uint8] = np.memmap(
            path, np.uint8, "r+", shape.parity_offset, (shape.stripes, BLOCK_BYTES)
        )
        self._sums: list[int] = []
        self._rest = b""
        self._left = shape.sectors * SECTOR_BYTES

    def add(self, data: bytes) -> None:
        """The next bytes; what lies behind the covered part is ignored."""
        data = data[: self._left]
        self._left -= len(data)
        if self._rest:
            data, self._rest = self._rest + data, b""
        whole = len(data) - len(data) % BLOCK_BYTES
        if whole:
            self._fold(np.frombuffer(data, np.uint8, whole).reshape(-1, BLOCK_BYTES))
        self._rest = data[whole:]

    def _fold(self, blocks: npt.NDArray[np.uint8]) -> None:
        stripes = self._shape.stripes
        while len(blocks):
            at = len(self._sums) % stripes
            part = blocks[: stripes - at]
            target = self._parity[at : at + len(part)]
            np.bitwise_xor(target, part, out=target)
            self._sums += [xxhash.xxh3_64_intdigest(block) for block in part]
            blocks = blocks[len(part) :]

    def finish(self) -> None:
        """All covered bytes are in; MediumError where some are missing."""
        if self._left:
            raise MediumError(f"{self._path}: {self._left} bytes before it were not written")
        if self._rest:
            filled = self._rest + bytes(BLOCK_BYTES - len(self._rest))
            self._fold(np.frombuffer(filled, np.uint8).reshape(1, BLOCK_BYTES))
            self._rest = b""
        sums = self._sums + [xxhash.xxh3_64_intdigest(block) for block in self._parity]
        table = np.array(sums, "<u8").tobytes()
        self._parity.flush()  # type: ignore[attr-defined]
        with self._path.open("r+b") as file:
            file.write(_header(self._shape, table))
            file.seek(SECTOR_BYTES)
            file.write(table)
            file.flush()
            os.fsync(file.fileno())


def _header(shape: Shape, table: bytes) -> bytes:
    proof = xxhash.xxh3_64_intdigest(table)
    head = HEADER.pack(MAGIC, BLOCK_SECTORS, 0, shape.sectors, shape.stripes, proof)
    return (head + CHECKED.pack(xxhash.xxh3_64_intdigest(head))).ljust(SECTOR_BYTES, b"\0")


# -- mending --------------------------------------------------------------------------------


class Mended(NamedTuple):
    """What came of it: first sectors of blocks."""

    repaired: list[int]
    lost: list[int]
    sectors: int
    """Covered, from 0."""


def parse_header(data: bytes) -> Shape | None:
    """The shape that a sector tells; None if it is none of ours, or damaged."""
    if len(data) < SECTOR_BYTES or data[:8] != MAGIC:
        return None
    head, (proof,) = data[: HEADER.size], CHECKED.unpack_from(data, HEADER.size)
    _, block_sectors, reserved, sectors, stripes, _ = HEADER.unpack(head)
    shape = Shape(sectors, stripes)
    known = proof == xxhash.xxh3_64_intdigest(head) and (block_sectors, reserved) == (32, 0)
    sane = 0 < sectors <= COVERED_MAX and 0 < stripes <= shape.blocks
    return shape if known and sane else None


def find(read: Read, total_bytes: int) -> tuple[int, Shape] | None:
    """Where a recovery file begins in an image, and its shape: the sector that says that it
    covers all before it. Sought from the end, where it is."""
    for start in range((total_bytes - 1) // PIECE_BYTES * PIECE_BYTES, -1, -PIECE_BYTES):
        size = min(PIECE_BYTES, total_bytes - start)
        data = _try(read, start, size)
        if data is None:  # some of it cannot be read
            pieces = (_try(read, start + at, SECTOR_BYTES) for at in range(0, size, SECTOR_BYTES))
            data = b"".join(piece or bytes(SECTOR_BYTES) for piece in pieces)
        at = len(data)
        while (at := data.rfind(MAGIC, 0, at)) >= 0:
            shape = parse_header(data[at : at + SECTOR_BYTES])
            if shape is not None and shape.sectors * SECTOR_BYTES == start + at:
                return start + at, shape
    return None


def _try(read: Read, offset: int, size: int) -> bytes | None:
    try:
        data = read(offset, size)
    except (MediumError, OSError):
        return None
    return data if len(data) == size else None


class Mender:
    """Makes damaged blocks of one image anew."""

    def __init__(
        self, read: Read, write: Callable[[int, bytes], None], at: int, shape: Shape
    ) -> None:
        self._read = read
        self._write = write
        self._at = at
        self._shape = shape
        self._sums = self._table()

    def _table(self) -> npt.NDArray[np.uint64]:
        """MediumError where the table itself is damaged."""
        size = (self._shape.blocks + self._shape.stripes) * SUM_BYTES
        data = _try(self._read, self._at + SECTOR_BYTES, size)
        head = _try(self._read, self._at, HEADER.size)
        if data is None or head is None or HEADER.unpack(head)[5] != xxhash.xxh3_64_intdigest(data):
            raise MediumError(f"{RECOVERY_NAME}: its table of sums is damaged; nothing is repaired")
        return np.frombuffer(data, "<u8").astype(np.uint64)

    def _block(self, number: int) -> bytes | None:
        """A block that is as it was written, else None."""
        start = number * BLOCK_BYTES
        size = min(BLOCK_BYTES, self._shape.sectors * SECTOR_BYTES - start)
        data = _try(self._read, start, size)
        return self._proved(number, None if data is None else data.ljust(BLOCK_BYTES, b"\0"))

    def _parity(self, stripe: int) -> bytes | None:
        offset = self._at + self._shape.parity_offset + stripe * BLOCK_BYTES
        return self._proved(self._shape.blocks + stripe, _try(self._read, offset, BLOCK_BYTES))

    def _proved(self, number: int, data: bytes | None) -> bytes | None:
        good = data is not None and xxhash.xxh3_64_intdigest(data) == int(self._sums[number])
        return data if good else None

    def mend(self) -> Mended:
        """Read all, repair what can be; each repaired block is proved by its sum."""
        damaged = defaultdict[int, list[int]](list)
        for number in range(self._shape.blocks):
            if self._block(number) is None:
                damaged[number % self._shape.stripes].append(number)
        repaired: list[int] = []
        lost: list[int] = []
        for stripe, numbers in damaged.items():
            data = self._solve(stripe, numbers[0]) if len(numbers) == 1 else None
            if data is None:
                lost += numbers
                continue
            start = numbers[0] * BLOCK_BYTES
            self._write(start, data[: self._shape.sectors * SECTOR_BYTES - start])
            repaired += numbers
        first = sorted(number * BLOCK_SECTORS for number in repaired)
        return Mended(first, sorted(n * BLOCK_SECTORS for n in lost), self._shape.sectors)

    def _solve(self, stripe: int, number: int) -> bytes | None:
        parity = self._parity(stripe)
        if parity is None:
            return None
        total = np.frombuffer(parity, np.uint8).copy()
        for other in range(stripe, self._shape.blocks, self._shape.stripes):
            data = self._block(other) if other != number else None
            if data is not None:
                np.bitwise_xor(total, np.frombuffer(data, np.uint8), out=total)
        return self._proved(number, total.tobytes())


def mend_image(path: Path) -> Mended | None:
    """Repair an image file in place; None where it has no recovery file that can be found."""
    with path.open("r+b") as file:
        number = file.fileno()

        def read(offset: int, size: int) -> bytes:
            return os.pread(number, size, offset)

        def write(offset: int, data: bytes) -> None:
            os.pwrite(number, data, offset)

        found = find(read, os.fstat(number).st_size)
        if found is None:
            return None
        mended = Mender(read, write, *found).mend()
        os.fsync(number)
    return mended


def without(spans: Iterable[tuple[int, int]], mended: Mended) -> Iterator[tuple[int, int]]:
    """Spans of sectors that are still missing after a repair."""
    lost = set(mended.lost)
    for start, stop in spans:
        at = start
        while at < stop:
            if at >= mended.sectors:
                yield at, stop
                break
            block = at // BLOCK_SECTORS * BLOCK_SECTORS
            end = min(stop, block + BLOCK_SECTORS, mended.sectors)
            if block in lost:
                yield at, end
            at = end
