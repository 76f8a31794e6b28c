"""Waiting files: what has no room waits outside, and comes in later; who waits is told."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import pytest
import trio

from hsmfs.clock import ManualClock
from hsmfs.daemon import filequeue
from hsmfs.daemon.filequeue import FileQueue
from hsmfs.daemon.filling import Filling
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.packing import Found
from hsmfs.errors import TransientError
from hsmfs.rpc.messages import FileResult
from hsmfs.types import FileVersion, Residency
from hsmfs.volume.source import FileSource


def found(ino: int, state: Residency = Residency.RESIDENT) -> Found:
    return Found(b"f%d" % ino, ino, 1, 10, state)


class Core:
    """What a queue needs of hsmd: notes what the catalog was told."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.catalog = self.link = self.namespace = self
        self.asked: set[int] = set()
        self.claimed: set[FileVersion] = set()
        self.files = {ino: found(ino) for ino in range(1, 101)}
        self.down_after = 1000
        self.refused = frozenset[int]()

    async def ask(self, kind: str, inodes: Iterable[int], pool: str) -> None:
        self.asked.update(inodes)

    async def answer(self, kind: str, inodes: Iterable[int]) -> None:
        self.asked.difference_update(inodes)

    async def claim(self, files: list[FileVersion]) -> list[FileResult]:
        if len(self.claimed) >= self.down_after:
            raise TransientError("hsmfs is not connected")
        good = [file for file in files if file.ino not in self.refused]
        self.claimed.update(good)
        return [FileResult(f, "it is open" if f.ino in self.refused else "") for f in files]

    async def unclaim(self, files: list[FileVersion]) -> None:
        self.claimed.difference_update(files)

    async def read(self, query: Any) -> Any:
        """Of files by their inodes."""
        return query(self)

    # -- as a view of the namespace

    def inode(self, ino: int) -> Any:
        return None


class Splits:
    """No file is in parts."""

    def __init__(self) -> None:
        self.waiting: dict[FileVersion, Any] = {}

    def get(self, file: FileVersion) -> None:
        return None


@pytest.fixture
def core() -> Core:
    return Core()


@pytest.fixture
def queue(core: Core, monkeypatch: pytest.MonkeyPatch) -> FileQueue:
    monkeypatch.setattr(filequeue, "WAITING_FILES_MAX", 20)
    monkeypatch.setattr(filequeue, "FEED_FILES", 5)
    monkeypatch.setattr(
        filequeue, "founds", lambda view, inodes: [core.files[i] for i in inodes if i in core.files]
    )
    return FileQueue(core, Splits(), {})  # type: ignore[arg-type]


def inodes_of(queue: FileQueue, pool: str = "main") -> list[int]:
    return [one.item.ino for one in queue.take(pool, 1000, 1 << 40)]


def test_what_policy_chose_beyond_the_room_is_left_to_its_next_run(queue: FileQueue) -> None:
    job, again = Job(1, "policy"), Job(2, "policy")
    chosen = [("main", found(ino)) for ino in range(1, 31)]
    assert not queue.offer(chosen, job)
    assert (job.files_total, queue.room) == (20, 0)
    assert queue.is_full_by("main")
    taken = queue.take("main", 8, 1 << 40)
    for waiting in taken:
        queue.plan(waiting)
    assert not queue.offer(chosen, again)
    # what waits or is planned is not counted a second time
    assert again.files_total == 8
    assert inodes_of(queue) == list(range(9, 29))


def test_what_was_asked_for_comes_in_as_there_is_room(queue: FileQueue, core: Core) -> None:
    job = Job(1, "migrate", files_total=60)

    async def run() -> list[int]:
        await queue.remember(array("Q", range(60, 0, -1)), "main", job)
        assert len(core.asked) == 60
        seen = []
        while True:
            await queue.feed()
            assert queue.queued <= 20
            batch = queue.take("main", 7, 1 << 40)
            if not batch:
                return seen
            for waiting in batch:
                assert waiting.urgent
                queue.plan(waiting)
                seen.append(waiting.item.ino)

    del core.files[30]
    core.files[31] = found(31, Residency.PREMIGRATED)
    # in the order in which they were asked for
    assert trio.run(run) == [ino for ino in range(60, 0, -1) if ino not in (30, 31)]
    assert (job.files_failed, job.files_done) == (1, 1)
    assert core.asked == set(range(1, 61)) - {30, 31}


def test_a_job_joins_files_wherever_they_are(queue: FileQueue) -> None:
    first, second = Job(1, "policy", files_total=3), Job(2, "migrate", files_total=3)
    queue.offer([("main", found(ino)) for ino in (1, 2, 3)], first)
    planned, in_hand = queue.take("main", 2, 1 << 40)
    queue.plan(planned)
    trio.run(lambda: queue.ask([found(1), found(2), found(3)], "main", second, urgent=True))
    assert queue.planned.pop(FileVersion(1, 1)) == [first, second]
    assert in_hand.jobs == [first, second]
    assert in_hand.urgent
    (last,) = queue.take("main", 9, 1 << 40)
    assert last.jobs == [first, second]
    queue.put_back([in_hand], "main")
    assert (queue.files, queue.of("main").urgent) == (2, 1)


class Room:
    """A draft that takes some files."""

    def __init__(self, files: int) -> None:
        self.room = files
        self.files = 0
        self.taken: list[FileSource] = []

    def add(self, parents: list[FileSource], entries: list[FileSource]) -> set[int]:
        left = {entry.ino for entry in entries[self.room - self.files :]}
        self.taken += [entry for entry in entries if entry.ino not in left]
        self.files = len(self.taken)
        return left

    def drop(self) -> None:
        """Nothing to remove."""


@pytest.fixture
def filling(queue: FileQueue, core: Core, monkeypatch: pytest.MonkeyPatch) -> Filling:
    def sources_of(view: object, inodes: list[int]) -> list[FileSource]:
        return [FileSource(path=b"f%d" % n, ino=n, data_version=1, size=10) for n in inodes]

    monkeypatch.setattr("hsmfs.daemon.filling.BATCH_FILES", 4)
    monkeypatch.setattr("hsmfs.daemon.filling.sources_of", sources_of)
    monkeypatch.setattr(
        "hsmfs.daemon.filling.founds", lambda view, inodes: [core.files[i] for i in inodes]
    )
    monkeypatch.setattr("hsmfs.daemon.filling.parents_of", lambda view, paths: [])
    return Filling(core, queue, Room(9), "main")  # type: ignore[arg-type]


def test_a_volume_is_filled_and_the_rest_waits_in_order(
    queue: FileQueue, core: Core, filling: Filling
) -> None:
    job = Job(1, "policy")
    core.refused = frozenset({2})
    queue.offer([("main", found(ino)) for ino in range(1, 21)], job)

    async def run() -> None:
        await filling.fill(1 << 40, 100)
        assert filling.only is None
        await filling.give_back()

    trio.run(run)
    assert (job.files_failed, len(queue.planned)) == (1, 9)
    assert core.claimed == {FileVersion(ino, 1) for ino in (1, *range(3, 11))}
    assert inodes_of(queue) == list(range(11, 21))


def test_files_of_a_plan_that_failed_wait_again(
    queue: FileQueue, core: Core, filling: Filling
) -> None:
    job = Job(1, "policy")
    queue.offer([("main", found(ino)) for ino in range(1, 13)], job)
    core.down_after = 8
    core.files[3] = Found(b"f3", 3, 2, 10, Residency.RESIDENT)

    async def run() -> None:
        with pytest.raises(TransientError):
            await filling.fill(1 << 40, 100)
        await filling.undo()

    trio.run(run)
    assert core.claimed == set()
    # one was changed meanwhile
    assert (len(queue.planned), queue.files, job.files_failed) == (0, 11, 1)
    taken = queue.take("main", 100, 1 << 40)
    assert [one.item.ino for one in taken] == [1, 2, *range(4, 13)]
    assert all(one.jobs == [job] for one in taken)


def test_the_only_file_that_fits_no_disc_is_told(
    queue: FileQueue, core: Core, filling: Filling
) -> None:
    filling._draft.room = 0  # type: ignore[attr-defined]
    queue.offer([("main", found(7))], Job(1, "policy"))
    trio.run(lambda: filling.fill(5, 100))
    assert filling.only is not None
    assert filling.only.item.ino == 7
