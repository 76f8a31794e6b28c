"""hsmd's belief about an emulated library, with its tasks, in one process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio
import trio.testing

from hsmfs.changer.drive import Drive
from hsmfs.changer.library import Changer
from hsmfs.clock import ManualClock
from hsmfs.config import Care, Library
from hsmfs.daemon.alarms import Alarms
from hsmfs.daemon.catalog import Catalog
from hsmfs.daemon.catalogrecords import DiscState, MagazineState, TaskRecord, VolumeRecord
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.daemon.jobs import Jobs
from hsmfs.daemon.librarian import Librarian
from hsmfs.daemon.magazines import Magazines
from hsmfs.daemon.robottask import Robot
from hsmfs.store.memory import MemoryStore
from support.libraries import DRIVE, new_library

NAME = "robot"
RATE = 50.0
"""Seconds of a second: no jumps, so that what a thread does takes no virtual day."""


class LibrarySite:
    """Two drives, magazines of three slots; nobody carries anything by himself."""

    def __init__(self, root: Path, magazines: int = 4, **options: Any) -> None:
        self.library = new_library(root, slots=3 * magazines, **options)
        self.clock = ManualClock()
        self.store = MemoryStore()
        self.demand: dict[str, list[Any]] = {}
        """Requests of readers by magazine."""
        self.start()

    def start(self) -> None:
        """As after a restart of hsmd."""
        self.catalog = Catalog(self.store)
        self.robot = Robot(Changer(self.library.changer_transport()))
        units = [
            DriveUnit(f"drive{n}", DRIVE + n, Drive(self.library.drive_transport(n)), self.clock)
            for n in range(self.library.drive_count)
        ]
        config = Library(name=NAME, kind="emulated", magazine_slots=3)
        self.librarian = Librarian(
            config, self.robot, units, self.catalog, lambda: None, self.clock
        )
        self.alarms = Alarms(self.clock)
        self.core: Any = SimpleNamespace(
            catalog=self.catalog, librarian=self.librarian, alarms=self.alarms, clock=self.clock,
            jobs=Jobs(), reserved=set(), wake=lambda: None, config=SimpleNamespace(care=Care()),
            policy=SimpleNamespace(pools={}),
        )  # fmt: skip
        recaller: Any = SimpleNamespace(offline_demand=lambda: self.demand, queues={})
        self.magazines = Magazines(self.core, recaller, None)

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """With the robot at work; time goes faster."""

        async def main() -> Any:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.robot.serve)
                result = await work()
                nursery.cancel_scope.cancel()
            return result

        return trio.run(main, clock=trio.testing.MockClock(rate=RATE))

    async def look(self) -> None:
        """What hsmd does every moment."""
        self.clock.advance(1)
        await self.librarian.refresh()
        await self.magazines.look()
        self.clock.advance(1)

    def look_once(self) -> None:
        self.run(self.look)

    # -- what people do ----------------------------------------------------------

    def take_out(self, index: int) -> str:
        """The magazine at a span of slots; the id of its tray."""
        return self.library.hands.take_out_magazine(index)

    def lay(self, slot: int, barcode: str) -> None:
        """A disc (or none) into a slot, counted from 0."""

        def change(state: Any) -> None:
            state.slots[slot] = barcode

        self.library.change(change)

    # -- what is known -------------------------------------------------------------

    def state(self, name: str) -> MagazineState | None:
        return self.catalog.magazines[name].state

    def barcodes(self, name: str) -> list[str]:
        """Of a magazine's discs, by position."""
        discs = [disc for disc in self.catalog.discs.values() if disc.magazine == name]
        return [disc.barcode for disc in sorted(discs, key=lambda disc: disc.position)]

    def write(self, label: str, *barcodes: str, **facts: Any) -> VolumeRecord:
        """Believe that these discs are proved copies of a volume."""
        record = VolumeRecord(label=label, pool="main", copies=len(barcodes), **facts)
        self.catalog.volumes[label] = record
        for barcode in barcodes:
            disc = self.catalog.discs[barcode]
            disc.state, disc.volume = DiscState.VERIFIED, label
        self.run(lambda: self.catalog.save(record, *(self.catalog.discs[b] for b in barcodes)))
        return record

    def alarm_texts(self, kind: str) -> list[str]:
        return [text for known, text in self.alarms.active if known == kind]

    def open_tasks(self) -> list[TaskRecord]:
        return self.magazines.open_tasks()
