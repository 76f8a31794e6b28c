"""Requests of one volume, in disc order; plain values, no waiting inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from sortedcontainers import SortedDict, SortedList

from hsmfs.daemon.catalogrecords import ExtentRecord
from hsmfs.daemon.coverage import size_of, stop_of
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.picture import INFINITE, Priority, ReadDemand, Rules, Share
from hsmfs.types import CHUNK_BYTES, ByteRange, FileVersion

Place = tuple[int, int, int]
CHUNKS_MAX: Final = 1 << 62
TURN_CHUNKS: Final = 64
"""Of a part that is loaded are read, 256 MiB, before the drive goes to another one that
readers wait for: two readers of two parts must not exchange discs at each chunk."""


CHANCES_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Waiter:
    """Who waits for a file, as far as the kernel says."""

    path: str
    pid: int
    uid: int
    program: str


@dataclass(slots=True, eq=False)
class Request:
    """One file version that is wanted back."""

    file: FileVersion
    path: str
    extents: dict[str, ExtentRecord]
    label: str
    since_s: float
    jobs: list[Job] = field(default_factory=list)
    waiters: dict[int, Waiter] = field(default_factory=dict)
    wanted: list[ByteRange] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)
    have: bytearray = field(default_factory=bytearray)
    cursor: int = 0
    turn_chunks: int = 0
    """Read since the present volume's turn began."""
    fd: int = -1
    note: str = ""
    noted_s: float = 0.0
    stuck_since_s: float | None = None
    offline_since_s: float | None = None
    chances_left: int = CHANCES_MAX
    """So often a disc that was proved anew is read again for it."""
    failure: str = ""
    learnt: bool = False
    """Chunks were hashed that never were before; they are to be stored."""
    completing: bool = False
    """All landed; only the fsync and hsmfs's answer are missing."""

    @property
    def extent(self) -> ExtentRecord:
        return self.extents[self.label]

    @property
    def size(self) -> int:
        """Of the whole file."""
        return size_of(self.extent)

    def has_readers(self) -> bool:
        return bool(self.waiters)

    @property
    def priority(self) -> Priority:
        """The best of all who want it."""
        if self.waiters:
            return Priority.READERS
        return min((job.priority for job in self.jobs), default=Priority.BULK)

    @property
    def user(self) -> str:
        """Whose share it counts in: the first reader's, else the first job's."""
        if self.waiters:
            return f"uid {next(iter(self.waiters.values())).uid}"
        return self.jobs[0].user if self.jobs else ""

    @property
    def deadline_s(self) -> float:
        """The earliest that somebody gave."""
        return min((job.deadline_s for job in self.jobs), default=INFINITE)

    @property
    def place(self) -> Place:
        return (self.extent.offset, self.file.ino, self.file.data_version)

    def begin(self, fd: int, landed: list[ByteRange]) -> None:
        """A recall file stands; chunks that landed before need not be read."""
        self.fd = fd
        count = -(-self.size // CHUNK_BYTES)
        self.have = bytearray(count)
        self.cursor = 0
        for span in landed:
            first = -(-span.start // CHUNK_BYTES)
            last = count if span.stop >= self.size else span.stop // CHUNK_BYTES
            for chunk in range(first, last):
                self.have[chunk] = 1

    def next_chunk(self) -> int | None:
        """What to read of this volume: wanted chunks first, in the order of their requests,
        then ascending; None where all of it is here, or readers wait for another volume's part
        and this one had its turn."""
        self.wanted = [span for span in self.wanted if self._missing_in(span) is not None]
        first, last = chunks_of(self.extent)
        for span in self.wanted:
            chunk = self._missing_in(span, first, last)
            if chunk is not None:
                return chunk
        if self.wanted and self.turn_chunks >= TURN_CHUNKS:
            return None
        missing = self.have.find(0, max(first, self.cursor), last)
        if missing < 0:
            missing = self.have.find(0, first, last)
        return missing if missing >= 0 else None

    def needed_chunk(self) -> int:
        """The first chunk that readers want and is missing, else the first that is missing."""
        if not self.have:
            return (
                min(self.wanted[0].start, max(0, self.size - 1)) // CHUNK_BYTES
                if self.wanted
                else 0
            )
        for span in self.wanted:
            chunk = self._missing_in(span)
            if chunk is not None:
                return chunk
        return max(0, self.have.find(0))

    def labels(self) -> list[str]:
        """Volumes that have what is needed next; parts of files are each on their own."""
        needed = self.needed_chunk()
        return [label for label, extent in self.extents.items() if holds(extent, needed)]

    def _missing_in(self, span: ByteRange, first: int = 0, last: int = CHUNKS_MAX) -> int | None:
        """A missing chunk of a range, of those from ``first`` up to before ``last``."""
        stop = min(span.stop, self.size)
        if stop <= span.start:
            return None
        start_at = max(first, span.start // CHUNK_BYTES)
        missing = self.have.find(0, start_at, min(last, -(-stop // CHUNK_BYTES)))
        return missing if missing >= 0 else None

    def chunk_range(self, chunk: int) -> ByteRange:
        """Bytes of the file that a chunk covers."""
        start = chunk * CHUNK_BYTES
        return ByteRange(start, min(start + CHUNK_BYTES, self.size))

    def landed(self, chunk: int) -> None:
        self.have[chunk] = 1
        self.cursor = chunk + 1
        self.turn_chunks += 1

    @property
    def complete(self) -> bool:
        return self.have.find(0) < 0


def chunks_of(extent: ExtentRecord) -> tuple[int, int]:
    """The first chunk of the file that an extent holds, and the one after the last."""
    return extent.start // CHUNK_BYTES, -(-stop_of(extent) // CHUNK_BYTES)


def holds(extent: ExtentRecord, chunk: int) -> bool:
    """Whether a chunk of the file is there; all extents hold all of an empty file."""
    first, last = chunks_of(extent)
    return first <= chunk < last or not size_of(extent)


@dataclass(frozen=True, slots=True)
class _Line:
    """What the queue counted for a request; it may have changed since."""

    priority: Priority
    user: str
    since_s: float
    deadline_s: float


class VolumeQueue:
    """Requests of one volume, by class and offset, with sums for the scheduler."""

    def __init__(self) -> None:
        self._by_class: dict[Priority, SortedDict[Place, Request]] = {
            priority: SortedDict() for priority in Priority
        }
        self._ages: dict[Priority, SortedList[tuple[float, Place]]] = {
            priority: SortedList() for priority in Priority
        }
        self._deadlines: SortedList[tuple[float, Place]] = SortedList()
        self._lines: dict[Place, _Line] = {}
        self._shares: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Request]:
        for requests in self._by_class.values():
            yield from requests.values()

    def put(self, request: Request) -> None:
        """Add, or move to where it now belongs."""
        self.drop(request)
        place = request.place
        line = _Line(request.priority, request.user, request.since_s, request.deadline_s)
        self._lines[place] = line
        self._by_class[line.priority][place] = request
        self._ages[line.priority].add((line.since_s, place))
        if line.deadline_s != INFINITE:
            self._deadlines.add((line.deadline_s, place))
        files, since_sum_s = self._shares.get(line.user, (0, 0.0))
        self._shares[line.user] = (files + 1, since_sum_s + line.since_s)

    def drop(self, request: Request) -> None:
        place = request.place
        line = self._lines.pop(place, None)
        if line is None:
            return
        del self._by_class[line.priority][place]
        self._ages[line.priority].remove((line.since_s, place))
        if line.deadline_s != INFINITE:
            self._deadlines.remove((line.deadline_s, place))
        files, since_sum_s = self._shares.pop(line.user)
        if files > 1:
            self._shares[line.user] = (files - 1, since_sum_s - line.since_s)

    @property
    def has_readers(self) -> bool:
        return bool(self._by_class[Priority.READERS])

    def first(self) -> Request | None:
        """Any request, readers' first."""
        return next(iter(self), None)

    def demand(self, volume: str, discs: tuple[str, ...], rules: Rules) -> ReadDemand:
        """What the scheduler should know; there must be a request."""
        present = [priority for priority in Priority if self._ages[priority]]
        oldest = {priority: self._ages[priority][0][0] for priority in present}
        urgent = [since_s + rules.patience_s(priority) for priority, since_s in oldest.items()]
        urgent += [rules.urgent_before_s(deadline_s) for deadline_s, _ in self._deadlines[:1]]
        return ReadDemand(
            volume,
            discs,
            since_s=oldest[present[0]],
            priority=present[0],
            shares=tuple(
                Share(user, files, since_sum_s)
                for user, (files, since_sum_s) in self._shares.items()
            ),
            urgent_s=min(urgent),
        )

    def after(self, offset: int, disc: str) -> Request | None:
        """The next request by offset that this disc has not failed."""
        for queue in self._by_class.values():
            for keys in (queue.irange((offset, 0, 0)), iter(queue)):
                for key in keys:
                    request: Request = queue[key]
                    if disc not in request.bad:
                        return request
        return None
