"""A drive that stalls holds up the others of its burn for a bounded time only."""

from __future__ import annotations

import queue
import threading
from types import SimpleNamespace
from typing import Any

from hsmfs.daemon.burnjob import _Lane
from hsmfs.errors import DriveError

CHUNKS = 40


def lane(name: str, lanes: list[_Lane], patience_s: float) -> _Lane:
    unit: Any = SimpleNamespace(name=name)
    made = _Lane(unit, unit, queue.Queue(maxsize=4), patience_s=patience_s)
    made.others = lambda: lanes
    lanes.append(made)
    return made


class Disc:
    """Takes what comes, or nothing after so many chunks until it is let go."""

    def __init__(self, stops_after: int | None = None) -> None:
        self.chunks: list[bytes] = []
        self.is_closed = False
        self.go_on = threading.Event()
        self._stops_after = stops_after

    def write(self, chunk: bytes) -> None:
        if len(self.chunks) == self._stops_after:
            self.go_on.wait(60)
        self.chunks.append(chunk)

    def finish(self) -> None:
        self.is_closed = True


def burned(lanes: list[_Lane], discs: list[Any]) -> list[BaseException | None]:
    """What the drives' threads end with, after the whole stream was handed out."""
    ends: list[BaseException | None] = [None] * len(lanes)

    def drain(number: int) -> None:
        try:
            lanes[number].drain_into(discs[number])
        except Exception as error:
            ends[number] = error

    threads = [threading.Thread(target=drain, args=(n,)) for n in range(len(lanes))]
    for thread in threads:
        thread.start()
    for number in range(CHUNKS):
        for one in lanes:
            one.put(bytes([number]))
    for one in lanes:
        one.put(None)
    for disc in discs:
        disc.go_on.set()
    for thread in threads:
        thread.join(60)
    return ends


def test_a_stalled_drive_is_left_out() -> None:
    lanes: list[_Lane] = []
    discs = [Disc(), Disc(stops_after=3), Disc()]
    for number in range(3):
        lane(f"drive{number}", lanes, patience_s=0.5)
    ends = burned(lanes, discs)
    assert [disc.is_closed for disc in discs] == [True, False, True]
    assert len(discs[0].chunks) == len(discs[2].chunks) == CHUNKS
    assert isinstance(lanes[1].error, DriveError)
    assert "drive1: took no data" in str(lanes[1].error)
    assert (ends[0], ends[2]) == (None, None)


def test_one_drive_alone_has_all_the_time() -> None:
    lanes: list[_Lane] = []
    disc = Disc(stops_after=3)
    lane("drive0", lanes, patience_s=0.3)
    threading.Timer(1.5, disc.go_on.set).start()
    assert burned(lanes, [disc]) == [None]
    assert disc.is_closed
