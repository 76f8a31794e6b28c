"""Magazines in and out of the library, and the operator tasks about them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog
import trio

from hsmfs.daemon.catalogrecords import DiscState, MagazineRecord, TaskRecord
from hsmfs.daemon.core import Core
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.recaller import Recaller
from hsmfs.errors import CallerError, HsmError

log = structlog.get_logger(__name__)
WATCH_S: Final = 0.5
SHELF: Final = "shelf"
OFFSITE: Final = "off-site"
PERSON_WAIT_S: Final = 86_400.0
"""How long an export or import waits for the person to act."""


class Hands(Protocol):
    """Somebody who carries magazines; an emulated library has one built in."""

    async def take_out(self, magazine: MagazineRecord, index: int) -> None:
        """Take the magazine at this span of slots out of the library."""

    async def put_in(self, magazine: MagazineRecord) -> None:
        """Put the magazine back into free slots."""


class Magazines:
    """Owner of operator tasks; asks people, and sees by inventory what they did."""

    def __init__(self, core: Core, recaller: Recaller, hands: Hands | None) -> None:
        self.core = core
        self.recaller = recaller
        self._hands = hands
        self.confirm: Callable[[TaskRecord], Awaitable[None]] | None = None
        """Looks whether a task at a drive of a manual library was done."""

    def get(self, name: str) -> MagazineRecord:
        """CallerError for an unknown name."""
        try:
            return self.core.catalog.magazines[name]
        except KeyError:
            known = ", ".join(sorted(self.core.catalog.magazines)) or "none"
            raise CallerError(f"magazine {name!r} is not known; known: {known}") from None

    # -- out -------------------------------------------------------------------

    async def export(self, name: str, job: Job) -> None:
        """Bring its discs home, unlock, have it taken out, see it gone."""
        magazine = self.get(name)
        if not magazine.present:
            raise CallerError(f"magazine {name} is on the shelf already")
        job.add(1, 0)
        magazine.exporting = True
        await self.core.catalog.save(magazine)
        self.core.wake()
        try:
            await self._discs_home(name)
            await self.core.librarian.robot.allow_removal()
            text = f"Take magazine {name} out of library {magazine.library}."
            task = await self.add_task("take-out", text, name)
            if self._hands is not None:
                await self._hands.take_out(magazine, self._index(magazine))
            await self._until(lambda: not magazine.present)
            magazine.location = OFFSITE if magazine.offsite else SHELF
            await self.finish(task)
        finally:
            magazine.exporting = False
            await self.core.catalog.save(magazine)
        job.done(0)

    def _index(self, magazine: MagazineRecord) -> int:
        return self.core.librarian.span_index(magazine.first_slot)

    async def _discs_home(self, name: str) -> None:
        while any(
            self.core.catalog.discs[unit.disc].magazine == name
            for unit in self.core.librarian.units
            if unit.alive and unit.disc in self.core.catalog.discs
        ):
            self.core.wake()
            await trio.sleep(WATCH_S / 5)

    def leaving_discs(self) -> tuple[str, ...]:
        """Discs in drives whose magazine is about to leave."""
        return tuple(
            unit.disc
            for unit in self.core.librarian.units
            if unit.disc in self.core.catalog.discs
            and (magazine := self._of_disc(unit.disc)) is not None
            and magazine.exporting
        )

    def _of_disc(self, barcode: str) -> MagazineRecord | None:
        """None where the disc was never seen in a slot (after a rebuild)."""
        return self.core.catalog.magazines.get(self.core.catalog.discs[barcode].magazine)

    # -- in --------------------------------------------------------------------------

    async def bring_in(self, name: str, job: Job) -> None:
        """Have it put in and see it there."""
        magazine = self.get(name)
        if magazine.present:
            raise CallerError(f"magazine {name} is in library {magazine.library} already")
        job.add(1, 0)
        text = f"Put magazine {name} into free slots of library {magazine.library}."
        task = self.open_task("bring", name) or await self.add_task("bring", text, name)
        if self._hands is not None:
            await self._hands.put_in(magazine)
        await self._until(lambda: magazine.present)
        await self.finish(task)
        self.core.wake()
        job.done(0)

    async def _until(self, seen: object) -> None:
        assert callable(seen)
        with trio.move_on_after(PERSON_WAIT_S):
            while not seen():
                await self.core.librarian.refresh()
                if seen():
                    return
                await trio.sleep(WATCH_S)
            return
        raise CallerError("nobody moved the magazine within a day; ask again when it is moved")

    # -- tasks -----------------------------------------------------------------------------

    async def add_task(
        self,
        kind: str,
        text: str,
        magazine: str,
        fill: Callable[[TaskRecord], object] = lambda task: None,
    ) -> TaskRecord:
        """Something a person should do; ``fill`` says more before anybody sees it."""
        log.warning("operator task", kind=kind, text=text)
        now_ns = self.core.clock.now_ns()
        return await self.core.catalog.add_task(kind, text, magazine, now_ns, fill)

    def open_tasks(self) -> list[TaskRecord]:
        return [task for task in self.core.catalog.tasks.values() if not task.done_ns]

    def open_task(self, kind: str, magazine: str) -> TaskRecord | None:
        """The one about a magazine that is still to be done."""
        for task in self.open_tasks():
            if (task.kind, task.magazine) == (kind, magazine):
                return task
        return None

    async def finish(self, task: TaskRecord) -> None:
        """It is done."""
        if not task.done_ns:
            task.done_ns = self.core.clock.now_ns()
            await self.core.catalog.save(task)

    async def done(self, number: int) -> TaskRecord:
        """A person says it is done: believed only as far as the library shows it."""
        task = self.core.catalog.tasks.get(number)
        if task is None:
            raise CallerError(f"task {number} is not known; see hsm tasks")
        if task.drive and self.confirm is not None:
            await self.confirm(task)
            return task
        await self.core.librarian.refresh()
        if task.kind == "bring" and self.core.librarian.by_hand and self._hands is not None:
            await self._hands.put_in(self.get(task.magazine))
            await self.core.catalog.save(self.get(task.magazine))
        if task.kind == "bring" and not self.get(task.magazine).present:
            raise CallerError(
                f"task {number}: library {self.core.librarian.config.name} does not show "
                f"magazine {task.magazine} yet; put it into free slots"
            )
        if task.kind == "take-offsite" and self.get(task.magazine).present:
            raise CallerError(
                f"task {number}: library {self.core.librarian.config.name} still shows magazine "
                f"{task.magazine}; say hsm magazine export {task.magazine} and take it out"
            )
        await self.finish(task)
        return task

    async def run(self) -> None:
        """Open tasks for what readers and burns need, close what is done."""
        while True:
            await trio.sleep(WATCH_S)
            try:
                await self._watch()
            except HsmError as error:
                log.warning("tasks wait", error=str(error))

    async def _watch(self) -> None:
        demand = self.recaller.offline_demand()
        for name in demand:
            if self.open_task("bring", name) is None:
                text = (
                    f"Bring magazine {name} to library {self.core.librarian.config.name}: "
                    "files that only its discs hold are being read."
                )
                await self.add_task("bring", text, name)
        for task in self.open_tasks():
            if task.kind == "bring" and self.get(task.magazine).present:
                await self.finish(task)
        await self._watch_blanks()

    async def _watch_blanks(self) -> None:
        short = self.blanks_wanted
        task = self.open_task("blanks", "")
        if short and task is None:
            await self.add_task("blanks", short, "")
        elif not short and task is not None:
            await self.finish(task)

    blanks_wanted: str = ""
    """Set by the dispatcher while a volume waits for blank discs."""

    def counts(self) -> dict[str, int]:
        """Discs by state."""
        counts = dict.fromkeys((state.value for state in DiscState), 0)
        for disc in self.core.catalog.discs.values():
            counts[disc.state.value] += 1
        return counts
