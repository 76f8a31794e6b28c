"""Files on their way into volumes, and who waits for that, in little memory.

A file takes some 600 bytes as objects and some 130 here: a million wait at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from hsmfs.daemon.jobs import Job
from hsmfs.daemon.packing import Found
from hsmfs.types import FileVersion, Residency
from hsmfs.volume.pathtable import VALUE_MAX, PathTable

BLOCK_FILES: Final = 128
_FIRST: Final = 1 << 31
"""Number of the first file of an empty queue: there is room before and after it."""
_INO_BYTES: Final = 8


@dataclass(slots=True)
class Waiting:
    """A file on its way into a volume."""

    item: Found
    since_s: float
    urgent: bool
    jobs: list[Job] = field(default_factory=list)

    def finish(self) -> None:
        for job in self.jobs:
            job.done(self.item.size)

    def fail(self, why: str) -> None:
        for job in self.jobs:
            job.fail(f"{os.fsdecode(self.item.path)}: {why}")


class JobSets:
    """Jobs that wait for one file, as a number: thousands of files share it. 0 is nobody.

    Jobs are told apart as objects: those of the rules of one run have one number. They stay
    alive as long as their set, so no other object has their ``id``.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, ...], int] = {}
        self._sets: dict[int, list[Job]] = {}
        self._uses: dict[int, int] = {}
        self._next = 1

    def keep(self, jobs: Sequence[Job]) -> int:
        """The number of these; to be taken back as often as it was given."""
        if not jobs:
            return 0
        key = _key_of(jobs)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = self._next
            self._next += 1
            self._sets[number], self._uses[number] = list(jobs), 0
        self._uses[number] += 1
        return number

    def take(self, number: int) -> list[Job]:
        """The jobs of a number, once."""
        if not number:
            return []
        jobs = self._sets[number]
        self._uses[number] -= 1
        if not self._uses[number]:
            del self._uses[number], self._sets[number]
            del self._numbers[_key_of(jobs)]
        return list(jobs)


def _key_of(jobs: Sequence[Job]) -> tuple[int, ...]:
    return tuple(map(id, jobs))


class _Row(msgspec.Struct, array_like=True):
    """A waiting file as it is packed."""

    path: bytes
    ino: int
    data_version: int
    size: int
    state: int
    since_s: float
    urgent: bool
    jobs: int


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[_Row]).decode


class WaitingFiles:
    """The queue of a pool: in by one end, out by the other, and back again there.

    Files are numbered in their order and packed by blocks, of which one is open at a time.
    """

    def __init__(self, sets: JobSets) -> None:
        self._sets = sets
        self._places = PathTable()
        self._blocks: dict[int, bytes] = {}
        self._open: dict[int, Waiting] = {}
        """By number; all of one block."""
        self._open_block = -1
        self._head = self._tail = _FIRST
        self.bytes = 0
        """Of all files."""
        self.urgent = 0
        """How many are."""

    def __len__(self) -> int:
        return self._tail - self._head

    def __contains__(self, ino: int) -> bool:
        return self._places.get(_key(ino)) is not None

    # -- one end and the other ---------------------------------------------------------

    def append(self, waiting: Waiting) -> None:
        """The last from now on."""
        assert self._tail < VALUE_MAX
        self._put(self._tail, waiting)
        self._tail += 1

    def prepend(self, waiting: Waiting) -> None:
        """The first from now on."""
        assert self._head > 0
        self._put(self._head - 1, waiting)
        self._head -= 1

    def _put(self, number: int, waiting: Waiting) -> None:
        self._block_of(number)[number] = waiting
        self._places.put(_key(waiting.item.ino), number)
        self.bytes += waiting.item.size
        self.urgent += waiting.urgent

    def pop(self) -> Waiting:
        """The first; it waits here no more."""
        waiting = self._block_of(self._head).pop(self._head)
        self._head += 1
        self._places.restore(_key(waiting.item.ino), None)
        self.bytes -= waiting.item.size
        self.urgent -= waiting.urgent
        if self._head == self._tail:
            self._places = PathTable()  # one that was large stays large
            self._open, self._open_block = {}, -1
            self._head = self._tail = _FIRST
        return waiting

    # -- all of them --------------------------------------------------------------------

    def oldest_s(self) -> float:
        """Since when the first waits; there is one."""
        return self._block_of(self._head)[self._head].since_s

    def join(self, ino: int, job: Job, urgent: bool) -> bool:
        """A job waits for this file too; False where it is not here."""
        number = self._places.get(_key(ino))
        if number is None:
            return False
        waiting = self._block_of(number)[number]
        if job not in waiting.jobs:
            waiting.jobs.append(job)
        self.urgent += urgent and not waiting.urgent
        waiting.urgent = waiting.urgent or urgent
        return True

    def let_go(self, why: str) -> None:
        """All jobs end; the files stay."""
        for number in range(self._head, self._tail):
            waiting = self._block_of(number)[number]
            waiting.fail(why)
            waiting.jobs = []

    # -- blocks ---------------------------------------------------------------------------

    def _block_of(self, number: int) -> dict[int, Waiting]:
        """The block of a file, open: what is changed in it stays changed."""
        block = number // BLOCK_FILES
        if block != self._open_block:
            self._close()
            rows = _decode(self._blocks.pop(block, b"\x90"))
            first = max(self._head, block * BLOCK_FILES)
            self._open = {n: self._unpacked(row) for n, row in enumerate(rows, first)}
            self._open_block = block
        return self._open

    def _close(self) -> None:
        if self._open:
            rows = [self._packed(self._open[number]) for number in sorted(self._open)]
            self._blocks[self._open_block] = _encode(rows)

    def _packed(self, waiting: Waiting) -> _Row:
        item = waiting.item
        return _Row(
            item.path, item.ino, item.data_version, item.size, int(item.state),
            waiting.since_s, waiting.urgent, self._sets.keep(waiting.jobs),
        )  # fmt: skip

    def _unpacked(self, row: _Row) -> Waiting:
        item = Found(row.path, row.ino, row.data_version, row.size, Residency(row.state))
        return Waiting(item, row.since_s, row.urgent, self._sets.take(row.jobs))


def _key(ino: int) -> bytes:
    return ino.to_bytes(_INO_BYTES, "big")


class PlannedFor:
    """Who waits for files that are in planned volumes; 32 bytes a file."""

    def __init__(self, sets: JobSets) -> None:
        self._sets = sets
        self._table = PathTable()

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, file: FileVersion) -> bool:
        return self._table.get(_file_key(file)) is not None

    def add(self, file: FileVersion, jobs: Sequence[Job]) -> None:
        """It was planned; more jobs may come."""
        key = _file_key(file)
        known = self._sets.take(self._table.get(key) or 0)
        fresh = [job for job in jobs if job not in known]
        self._table.put(key, self._sets.keep([*known, *fresh]))

    def pop(self, file: FileVersion) -> list[Job]:
        """Who waited; nobody does any more."""
        key = _file_key(file)
        number = self._table.get(key)
        if number is None:
            return []
        self._table.restore(key, None)
        if not len(self._table):
            self._table = PathTable()
        return self._sets.take(number)

    def let_go(self, files: Iterator[tuple[FileVersion, bytes]], why: str) -> None:
        """The jobs of these files end; by file and path."""
        for file, path in files:
            for job in self.pop(file):
                job.fail(f"{os.fsdecode(path)}: {why}")


def _file_key(file: FileVersion) -> bytes:
    return b"%b%b" % (_key(file.ino), file.data_version.to_bytes(8, "big"))
