"""Which files are to be migrated, by pool, and who asked; what does not fit waits outside.

In memory are ``WAITING_FILES_MAX`` files at most. Files that policy would add stay where
they are, and a later run of it finds them again. Files that somebody asked for are in the
catalog, and as their inodes' numbers here (8 bytes a file) until there is room.
"""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from hsmfs.daemon.activevolume import ActiveVolume
from hsmfs.daemon.core import Core
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.packing import Found, founds
from hsmfs.daemon.splitter import Splitter
from hsmfs.daemon.waiting import JobSets, PlannedFor, Waiting, WaitingFiles
from hsmfs.namespace.view import NamespaceView
from hsmfs.types import FileVersion, Residency

WAITING_FILES_MAX: Final = 1_000_000
"""In all pools together; some 130 MB."""
FEED_FILES: Final = 10_000
"""Taken out of the namespace at a time."""


@dataclass(slots=True)
class _Feed:
    """Files that somebody asked for and that did not come into the queue yet."""

    inodes: array[int]
    pool: str
    job: Job
    is_sized: bool
    """The job knows their bytes."""
    done: int = 0


class FileQueue:
    """Owner of the files that wait; ``active`` are the volumes that are not finished."""

    def __init__(self, core: Core, splits: Splitter, active: dict[str, ActiveVolume]) -> None:
        self._core = core
        self._splits = splits
        self._active = active
        self._sets = JobSets()
        self._pools: dict[str, WaitingFiles] = {}
        self._feeds: deque[_Feed] = deque()
        self._in_hand: dict[FileVersion, Waiting] = {}
        """Taken out of the queue, and in no plan yet."""
        self.planned = PlannedFor(self._sets)
        """Who waits for files of planned volumes."""

    def of(self, pool: str) -> WaitingFiles:
        """A pool's files."""
        return self._pools.setdefault(pool, WaitingFiles(self._sets))

    @property
    def pools(self) -> list[str]:
        """Those that have had files."""
        return list(self._pools)

    @property
    def queued(self) -> int:
        """Files in all pools."""
        return sum(map(len, self._pools.values()))

    @property
    def files(self) -> int:
        """All that are on their way."""
        fed = sum(len(feed.inodes) - feed.done for feed in self._feeds)
        return self.queued + fed + len(self._in_hand) + len(self.planned)

    @property
    def room(self) -> int:
        """How many more may wait."""
        return max(0, WAITING_FILES_MAX - self.queued - len(self._in_hand))

    def is_full_by(self, pool: str) -> bool:
        """Whether there is no room, and most of it is this pool's."""
        return not self.room and len(self.of(pool)) == max(map(len, self._pools.values()))

    def __contains__(self, ino: int) -> bool:
        return any(ino in files for files in self._pools.values())

    # -- in -------------------------------------------------------------------------------

    async def ask(
        self, items: Sequence[Found], pool: str, job: Job, *, urgent: bool, again: bool = False
    ) -> None:
        """Queue files; those that have enough copies already count as done, unless they
        are to be burned ``again``."""
        fresh = self._take_in(items, pool, job, urgent=urgent, again=again)
        if urgent and fresh:
            await self._core.catalog.ask("m", fresh, pool)

    def _take_in(
        self, items: Iterable[Found], pool: str, job: Job, *, urgent: bool, again: bool
    ) -> list[int]:
        """Inodes that wait from now on."""
        fresh = []
        for item in items:
            if item.state != Residency.RESIDENT and not (
                again and item.state == Residency.PREMIGRATED
            ):
                job.done(item.size)
            elif self._joins(item, job, urgent=urgent):
                continue
            elif not self.room:
                job.fail(f"{os.fsdecode(item.path)}: {WAITING_FILES_MAX} files wait already")
            else:
                self._append(item, pool, job, urgent=urgent)
                fresh.append(item.ino)
        return fresh

    def _append(self, item: Found, pool: str, job: Job, *, urgent: bool) -> None:
        now_s = self._core.clock.monotonic_s()
        self.of(pool).append(Waiting(item, now_s, urgent, [job]))

    def offer(self, items: Sequence[tuple[str, Found]], job: Job) -> bool:
        """Files that policy chose, each with its pool: those that are not on their way come
        into the queue, and the job counts them. False where there is no more room."""
        for pool, item in items:
            if not self.room:
                return False
            if not self.is_on_its_way(item):
                job.add(1, item.size)
                self._append(item, pool, job, urgent=False)
        return True

    def is_on_its_way(self, item: Found) -> bool:
        """Whether it waits, or is in a volume or in parts that are not finished."""
        return (
            item.ino in self
            or item.file in self.planned
            or item.file in self._in_hand
            or self._splits.get(item.file) is not None
            or any(item.file in active.files for active in self._active.values())
        )

    def _joins(self, item: Found, job: Job, *, urgent: bool) -> bool:
        """A job more waits for a file that is on its way; planned before a restart too."""
        split = self._splits.waiting.get(item.file)
        if split is None and item.file not in self.planned and self._splits.get(item.file):
            now_s = self._core.clock.monotonic_s()
            split = self._splits.waiting[item.file] = Waiting(item, now_s, False)
        waiting = split or self._in_hand.get(item.file)
        if waiting is not None:
            waiting.jobs.append(job)
            waiting.urgent = waiting.urgent or urgent
            return True
        if item.file in self.planned or any(
            item.file in active.files for active in self._active.values()
        ):
            self.planned.add(item.file, [job])
            return True
        return any(files.join(item.ino, job, urgent) for files in self._pools.values())

    # -- in, as there is room ----------------------------------------------------------------

    async def remember(self, inodes: array[int], pool: str, job: Job) -> None:
        """Files that somebody asked for, in the order in which they are wanted on discs."""
        for start in range(0, len(inodes), FEED_FILES):
            await self._core.catalog.ask("m", inodes[start : start + FEED_FILES], pool)
        self.take_up(inodes, pool, job, is_sized=True)

    def take_up(self, inodes: array[int], pool: str, job: Job, *, is_sized: bool = False) -> None:
        """The same, where the catalog has them; the job counts them already, and their bytes
        as they come."""
        if inodes:
            self._feeds.append(_Feed(inodes, pool, job, is_sized))

    async def feed(self) -> None:
        """What was asked for comes into the queue, until it is full."""
        while self._feeds and self.room >= FEED_FILES:
            feed = self._feeds[0]
            batch = feed.inodes[feed.done : feed.done + FEED_FILES]
            items = await self._core.namespace.read(partial(_founds_of, batch))
            gone = set(batch) - {item.ino for item in items}
            gone |= {item.ino for item in items if item.state != Residency.RESIDENT}
            feed.done += len(batch)
            if feed.done >= len(feed.inodes):
                self._feeds.popleft()
            if not feed.is_sized:
                feed.job.add(0, sum(item.size for item in items))
            self._take_in(items, feed.pool, feed.job, urgent=True, again=False)
            for _ in range(len(batch) - len(items)):
                feed.job.fail("a file was removed before it was burned")
            if gone:
                await self._core.catalog.answer("m", gone)

    # -- out --------------------------------------------------------------------------------

    def take(self, pool: str, files_max: int, room: int) -> list[Waiting]:
        """The first files, as many as may be and until their bytes are more than the room."""
        files, taken = self.of(pool), list[Waiting]()
        while len(files) and len(taken) < files_max and room > 0:
            waiting = files.pop()
            room -= waiting.item.size
            taken.append(waiting)
            self._in_hand[waiting.item.file] = waiting
        return taken

    def plan(self, waiting: Waiting) -> None:
        """One that was taken is in a volume."""
        self._in_hand.pop(waiting.item.file, None)
        self.planned.add(waiting.item.file, waiting.jobs)

    def drop(self, waiting: Waiting) -> None:
        """One that was taken goes its own way."""
        self._in_hand.pop(waiting.item.file, None)

    def put_back(self, waiting: Iterable[Waiting], pool: str) -> None:
        """To the head of the queue, the last one first."""
        files = self.of(pool)
        for one in waiting:
            self.drop(one)
            if one.item.ino not in files:
                files.prepend(one)
                continue
            for job in one.jobs:
                files.join(one.item.ino, job, one.urgent)

    def let_go(self, why: str) -> None:
        """All jobs of files that are in no volume end; the files stay queued."""
        for files in self._pools.values():
            files.let_go(why)
        for waiting in self._in_hand.values():
            waiting.fail(why)
            waiting.jobs = []


def _founds_of(inodes: Sequence[int], view: NamespaceView) -> list[Found]:
    return founds(view, inodes)
