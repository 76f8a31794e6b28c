"""Magazines out and in through mailslots: the robot carries disc by disc, a person the rest.

For libraries whose magazines do not come out as a whole. What lies in mailslots is seen by
element status; each round ends when it shows that the person acted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, MagazineRecord, TaskRecord
from hsmfs.daemon.core import Core
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.magazines import PERSON_WAIT_S, WATCH_S, Magazines
from hsmfs.daemon.taskcheck import FILL, TAKE_OUT
from hsmfs.errors import CallerError

CODES_TOLD_MAX: Final = 24


@dataclass(slots=True)
class Mailslots:
    """Guides a person and the robot."""

    core: Core
    magazines: Magazines

    def _discs(self, name: str) -> list[DiscRecord]:
        """Of a magazine, by position; what was replaced need not come back."""
        discs = [d for d in self.core.catalog.discs.values() if d.magazine == name]
        return sorted(discs, key=lambda disc: disc.position)

    def _lying(self, name: str) -> dict[int, str]:
        """Mailslots with a disc of this magazine."""
        mine = {disc.barcode for disc in self._discs(name)}
        return {at: code for at, code in self._full().items() if code in mine}

    def _full(self) -> dict[int, str]:
        librarian = self.core.librarian
        mailslots = set(librarian.mailslots)
        return {at: code for code, at in librarian.place.items() if at in mailslots}

    def _want_mailslots(self) -> None:
        if not self.core.librarian.mailslots:
            raise CallerError(
                f"library {self.core.librarian.config.name} has no mailslots; export and import "
                "without --mailslots, by its door"
            )

    # -- out -------------------------------------------------------------------------

    async def export(self, name: str, job: Job) -> None:
        """All its discs into mailslots, as many at once as there are, and out."""
        self._want_mailslots()
        async with self.magazines.leaving(name, job) as magazine:
            while self.core.catalog.magazines[name].is_seen:
                await self._lay_out(magazine)
                task = await self._take_out_task(magazine)
                laid = set(self._lying(name))
                await self._until(lambda at=laid: not at & set(self._lying(name)), task, job)  # type: ignore[misc]
                await self.magazines.finish(task)
                await self.core.librarian.refresh()

    async def _lay_out(self, magazine: MagazineRecord) -> None:
        librarian = self.core.librarian
        taken = set(librarian.place.values()) | librarian.oddities.elements
        free = [at for at in librarian.mailslots if at not in taken]
        lying = set(self._full().values())
        inside = [
            disc.barcode
            for disc in self._discs(magazine.name)
            if disc.barcode in librarian.place and disc.barcode not in lying
        ]
        if inside and not free and not self._lying(magazine.name):
            held = ", ".join(self._full().values())
            raise CallerError(f"no mailslot is free: they hold {held}; empty them and try again")
        for barcode, address in zip(inside, free, strict=False):
            await librarian.carry(barcode, address)
        await librarian.refresh()

    async def _take_out_task(self, magazine: MagazineRecord) -> TaskRecord:
        lying = self._lying(magazine.name)
        text = (
            f"Take {len(lying)} discs of magazine {magazine.name} out of the mailslots of library "
            f"{magazine.library}."
        )
        codes = ", ".join(f"{at}: {code}" for at, code in sorted(lying.items())[:CODES_TOLD_MAX])
        where = f"mailslots {codes}; they go to the {magazine.outside}"
        why = "hsm magazine export was said"
        return await self.magazines.add_task(TAKE_OUT, text, magazine.name, where, why)

    # -- in --------------------------------------------------------------------------

    async def bring_in(self, name: str, job: Job) -> None:
        """Its discs from mailslots into a free place, each to its own position."""
        self._want_mailslots()
        magazine = self.magazines.get(name)
        if magazine.present and not self._outside(name):
            raise CallerError(f"magazine {name} is in library {magazine.library} already")
        first = magazine.first_slot if magazine.present else self._free_place(magazine)
        job.add(1, 0)
        text = f"Put the discs of magazine {name} into the mailslots of library {magazine.library}."
        where = f"mailslots {', '.join(map(str, self.core.librarian.mailslots[:CODES_TOLD_MAX]))}"
        task = self.magazines.open_task(FILL, name) or await self.magazines.add_task(
            FILL, text, name, where, "hsm magazine import was said"
        )
        await self.core.librarian.robot.allow_removal()
        while self._outside(name):
            await self._until(lambda: bool(self._full()) or not self._outside(name), task, job)
            await self._take_in(name, first, task)
            await trio.sleep(WATCH_S)
        await self.magazines.finish(task)
        self.core.wake()
        job.note = ""
        job.done(0)

    def _free_place(self, magazine: MagazineRecord) -> int:
        spans = self.core.librarian.free_spans()
        if not spans:
            raise CallerError(
                f"library {self.core.librarian.config.name} has no place for magazine "
                f"{magazine.name}; take one out first (hsm magazine plan-export)"
            )
        starts = [first for first, _ in spans]
        return magazine.first_slot if magazine.first_slot in starts else starts[0]

    def _outside(self, name: str) -> list[str]:
        """Its discs that are in no slot and no drive."""
        librarian = self.core.librarian
        lying = set(self._full().values())
        return [
            disc.barcode
            for disc in self._discs(name)
            if disc.state != DiscState.RETIRED
            and (disc.barcode not in librarian.place or disc.barcode in lying)
        ]

    async def _take_in(self, name: str, first: int, task: TaskRecord) -> None:
        librarian = self.core.librarian
        taken = set(librarian.place.values()) | librarian.oddities.elements
        for address, barcode in sorted(self._full().items()):
            disc = self.core.catalog.discs.get(barcode)
            if disc is None or disc.magazine != name:
                whose = f"of magazine {disc.magazine}" if disc and disc.magazine else "not known"
                await self._wrong(task, address, f"disc {barcode} is {whose}, expected {name}")
            elif first + disc.position in taken:
                slot = first + disc.position
                await self._wrong(task, address, f"slot {slot} of disc {barcode} is not empty")
            else:
                await librarian.carry(barcode, first + disc.position)
        await librarian.refresh()

    async def _wrong(self, task: TaskRecord, address: int, why: str) -> None:
        await self.magazines.tell(task, f"mailslot {address}: {why}; take it out")

    async def _until(self, seen: Callable[[], bool], task: TaskRecord, job: Job) -> None:
        """As element status shows it; CallerError after a day."""
        with trio.move_on_after(PERSON_WAIT_S):
            while not seen():
                await self.core.librarian.refresh()
                job.note = task.problem or f"{task.text} {task.place}"
                if not seen():
                    await trio.sleep(WATCH_S)
            return
        raise CallerError("nobody came to the mailslots within a day; say it again")
