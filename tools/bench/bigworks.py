"""Works on one big file: in sequence by 1 MiB, and 4 KiB at random places."""

from __future__ import annotations

import os
import random
from functools import partial
from typing import ClassVar

from hsmfs.tools.bench.apart import WorkFailed, in_parallel
from hsmfs.tools.bench.sizes import BLOCK_BYTES, RANDOM_BYTES, Sizes
from hsmfs.tools.bench.works import (
    CreateEmpty,
    CreateSmall,
    CreateSynced,
    Listing,
    ReadCold,
    ReadWarm,
    Rename,
    StatCold,
    StatWarm,
    Unlink,
    Work,
    expect,
)


class BigFile(Work):
    """Works on the big file."""

    unit = "MB/s"
    op = "MiB"
    folder = "big"

    def __init__(self, root: str, sizes: Sizes) -> None:
        super().__init__(root, sizes)
        self.path = self.dir + b"/big"
        self.blocks = sizes.big_bytes // BLOCK_BYTES

    @property
    def ops(self) -> int:
        return self.blocks

    @property
    def amount(self) -> float:
        return self.sizes.big_bytes / 1e6

    def make(self) -> None:
        """The file, unless an earlier work left it."""
        os.makedirs(self.dir, exist_ok=True)
        try:
            if os.stat(self.path).st_size == self.sizes.big_bytes:
                return
        except FileNotFoundError:
            pass
        write_blocks(self.path, self.blocks, False)

    def read_all(self) -> int:
        """Every byte once; how many came."""
        buffer, total = [bytearray(BLOCK_BYTES)], 0
        fd = os.open(self.path, os.O_RDONLY)
        while count := os.readv(fd, buffer):
            total += count
        os.close(fd)
        return total


def write_blocks(path: bytes, blocks: int, sync: bool) -> None:
    """A file of so many blocks."""
    block = os.urandom(BLOCK_BYTES)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for _ in range(blocks):
        if os.write(fd, block) != BLOCK_BYTES:
            raise WorkFailed("write: found a short count")
    if sync:
        os.fsync(fd)
    os.close(fd)


class Write(BigFile):
    """A new file written in sequence."""

    name = "sequential write"
    sync: ClassVar[bool] = False

    def prepare(self) -> None:
        os.makedirs(self.dir, exist_ok=True)
        if os.path.lexists(self.path):
            os.unlink(self.path)

    def run(self) -> None:
        write_blocks(self.path, self.blocks, self.sync)

    def verify(self) -> None:
        expect("size", os.stat(self.path).st_size, self.sizes.big_bytes)


class WriteSynced(Write):
    """The same, with fsync before close."""

    name = "sequential write + fsync"
    sync = True


class ReadBigCold(BigFile):
    """Read in sequence."""

    name = "sequential read cold"
    cold = True

    def prepare(self) -> None:
        self.make()

    def run(self) -> None:
        self.bytes_read = self.read_all()

    def verify(self) -> None:
        expect("bytes read", self.bytes_read, self.sizes.big_bytes)


class ReadBigWarm(ReadBigCold):
    """The same, after a first time that is not timed."""

    name = "sequential read warm"
    cold = False

    def prepare(self) -> None:
        super().prepare()
        self.read_all()


class RandomCold(BigFile):
    """4 KiB at random places, each place by one pread."""

    name = "random 4 KiB cold, 1 job"
    unit = "reads/s"
    op = "read"
    cold = True
    jobs: ClassVar[int] = 1

    @property
    def ops(self) -> int:
        cold, warm = self.sizes.random_reads_cold, self.sizes.random_reads_warm
        return (cold if self.cold else warm) // self.jobs * self.jobs

    @property
    def amount(self) -> float:
        return self.ops

    def prepare(self) -> None:
        self.make()
        chance = random.Random(self.name)
        pages = self.sizes.big_bytes // RANDOM_BYTES
        places = [chance.randrange(pages) * RANDOM_BYTES for _ in range(self.ops)]
        self.places = [places[number :: self.jobs] for number in range(self.jobs)]
        if not self.cold:
            self.read_all()

    def run(self) -> None:
        if self.jobs == 1:
            self._read(self.places[0])
        else:
            in_parallel([partial(self._read, mine) for mine in self.places])

    def _read(self, places: list[int]) -> None:
        fd = os.open(self.path, os.O_RDONLY)
        pread, total = os.pread, 0
        for place in places:
            total += len(pread(fd, RANDOM_BYTES, place))
        os.close(fd)
        expect("bytes read", total, len(places) * RANDOM_BYTES)

    def verify(self) -> None:
        """Each job has checked its own counts."""


class RandomCold4(RandomCold):
    """The same reads, shared by four processes."""

    name = "random 4 KiB cold, 4 jobs"
    jobs = 4


class RandomWarm(RandomCold):
    """The same on a file that was read once, more reads."""

    name = "random 4 KiB warm, 1 job"
    cold = False


class RandomWarm4(RandomWarm):
    """The same reads, shared by four processes."""

    name = "random 4 KiB warm, 4 jobs"
    jobs = 4


WORKS: tuple[type[Work], ...] = (
    CreateSmall,
    ReadWarm,
    ReadCold,
    Unlink,
    CreateEmpty,
    StatWarm,
    StatCold,
    Rename,
    Listing,
    CreateSynced,
    Write,
    WriteSynced,
    ReadBigWarm,
    ReadBigCold,
    RandomWarm,
    RandomWarm4,
    RandomCold,
    RandomCold4,
)
"""In the order of a round: later works use what earlier ones left."""
