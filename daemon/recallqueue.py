"""Requests of one volume, in disc order; plain values, no waiting inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sortedcontainers import SortedDict

from hsmfs.daemon.catalogrecords import ExtentRecord
from hsmfs.daemon.jobs import Job
from hsmfs.types import CHUNK_BYTES, ByteRange, FileVersion

Place = tuple[int, int, int]


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
    fd: int = -1
    note: str = ""
    noted_s: float = 0.0
    stuck_since_s: float | None = None
    offline_since_s: float | None = None
    failure: str = ""
    learnt: bool = False
    """Chunks were hashed that never were before; they are to be stored."""
    completing: bool = False
    """All landed; only the fsync and hsmfs's answer are missing."""

    @property
    def extent(self) -> ExtentRecord:
        return self.extents[self.label]

    @property
    def queued(self) -> bool:
        """Neither being read nor being completed."""
        return self.fd < 0 and not self.completing

    @property
    def has_readers(self) -> bool:
        return bool(self.waiters)

    @property
    def place(self) -> Place:
        return (self.extent.offset, self.file.ino, self.file.data_version)

    def begin(self, fd: int, landed: list[ByteRange]) -> None:
        """A recall file stands; chunks that landed before need not be read."""
        self.fd = fd
        count = -(-self.extent.size // CHUNK_BYTES)
        self.have = bytearray(count)
        self.cursor = 0
        for span in landed:
            first = -(-span.start // CHUNK_BYTES)
            last = count if span.stop >= self.extent.size else span.stop // CHUNK_BYTES
            for chunk in range(first, last):
                self.have[chunk] = 1

    def next_chunk(self) -> int | None:
        """Wanted chunks first, in the order of their requests, then ascending."""
        while self.wanted:
            chunk = self._missing_in(self.wanted[0])
            if chunk is not None:
                return chunk
            self.wanted.pop(0)
        missing = self.have.find(0, self.cursor)
        if missing < 0:
            missing = self.have.find(0)
        return missing if missing >= 0 else None

    def _missing_in(self, span: ByteRange) -> int | None:
        stop = min(span.stop, self.extent.size)
        if stop <= span.start:
            return None
        missing = self.have.find(0, span.start // CHUNK_BYTES, -(-stop // CHUNK_BYTES))
        return missing if missing >= 0 else None

    def chunk_range(self, chunk: int) -> ByteRange:
        """Bytes of the file that a chunk covers."""
        start = chunk * CHUNK_BYTES
        return ByteRange(start, min(start + CHUNK_BYTES, self.extent.size))

    def landed(self, chunk: int) -> None:
        self.have[chunk] = 1
        self.cursor = chunk + 1

    @property
    def complete(self) -> bool:
        return self.have.find(0) < 0


class VolumeQueue:
    """Requests of one volume: those with readers before those by hand."""

    def __init__(self) -> None:
        self._read: SortedDict[Place, Request] = SortedDict()
        self._asked: SortedDict[Place, Request] = SortedDict()

    def __len__(self) -> int:
        return len(self._read) + len(self._asked)

    def __iter__(self) -> Iterator[Request]:
        yield from self._read.values()
        yield from self._asked.values()

    def put(self, request: Request) -> None:
        """Add, or move to where it now belongs."""
        self.drop(request)
        (self._read if request.has_readers else self._asked)[request.place] = request

    def drop(self, request: Request) -> None:
        self._read.pop(request.place, None)
        self._asked.pop(request.place, None)

    @property
    def has_readers(self) -> bool:
        return bool(self._read)

    def first(self) -> Request | None:
        """Any request, readers' first."""
        return next(iter(self), None)

    def after(self, offset: int, disc: str) -> Request | None:
        """The next request by offset that this disc has not failed."""
        for queue in (self._read, self._asked):
            for keys in (queue.irange((offset, 0, 0)), iter(queue)):
                for key in keys:
                    request: Request = queue[key]
                    if disc not in request.bad:
                        return request
        return None
