"""One running recall: what has landed, and who waits for which range.

Plain values: no files, no store. The namespace's ``stubs`` module serves the
readers; hsmd lands the data.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Any

from hsmfs.deferred import Deferred
from hsmfs.types import ByteRange, FileVersion


class RangeSet:
    """Disjoint, sorted, merged half-open ranges of bytes."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        """Include ``[start, stop)``."""
        if stop <= start:
            return
        low = bisect_left(self._stops, start)
        high = bisect_right(self._starts, stop)
        if low < high:
            start = min(start, self._starts[low])
            stop = max(stop, self._stops[high - 1])
        self._starts[low:high] = [start]
        self._stops[low:high] = [stop]

    def covers(self, start: int, stop: int) -> bool:
        """Whether all of ``[start, stop)`` is included."""
        if stop <= start:
            return True
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and self._stops[at] >= stop

    def ranges(self) -> list[ByteRange]:
        return [ByteRange(a, b) for a, b in zip(self._starts, self._stops, strict=True)]


@dataclass(slots=True, eq=False)
class Waiter:
    """A reader of one range (or of the whole file), and its answer."""

    range: ByteRange
    deferred: Deferred[Any]
    pid: int


@dataclass(slots=True, eq=False)
class Recall:
    """A recall from the first wish to the last byte."""

    file: FileVersion
    size: int
    landed: RangeSet = field(default_factory=RangeSet)
    waiters: list[Waiter] = field(default_factory=list)
    fd: int = -1
    """The recall file; -1 until hsmd begins."""
    path: str = ""
    placed: bool = False
    """The recall file has the data's place, which is not durable yet."""
    note: str = "asked for"
    progress_s: float = 0.0

    def take_ready(self) -> list[Waiter]:
        """Waiters whose range has landed; they leave the queue."""
        ready = [w for w in self.waiters if self.landed.covers(w.range.start, w.range.stop)]
        if ready:
            gone = set(map(id, ready))
            self.waiters = [w for w in self.waiters if id(w) not in gone]
        return ready

    def take_all(self) -> list[Waiter]:
        """All waiters; the queue is empty after."""
        waiters, self.waiters = self.waiters, []
        return waiters
