"""Asks people for discs, and uses what they put in.

The dispatcher asks ``plan`` what can be done now; what cannot without a person
is asked for by one operator task for each drive. The task changes when the work
does, and ends when the drive shows that it was done.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import structlog
import trio

from hsmfs.daemon.catalogrecords import DiscState, TaskRecord
from hsmfs.daemon.core import Core
from hsmfs.daemon.drivetask import DriveState
from hsmfs.daemon.magazines import Magazines
from hsmfs.daemon.manual.asks import Ask, Desk, Rank, plan_by_hand
from hsmfs.daemon.manual.librarian import ManualLibrarian
from hsmfs.daemon.manual.lookjob import CloseJob, OpenJob
from hsmfs.daemon.manual.seat import Seat, Taken
from hsmfs.daemon.manual.words import Errand, disc_size
from hsmfs.daemon.migrator import Migrator
from hsmfs.daemon.picture import Action, DriveView, Picture
from hsmfs.errors import CallerError, HsmError
from hsmfs.volume.discmark import MARK_SECTORS

log = structlog.get_logger(__name__)
WATCH_S: Final = 0.5
SETTLE_S: Final = 0.1
SETTLE_ATTEMPTS_MAX: Final = 50
UNSETTLED: Final = (DiscState.BLANK, DiscState.BURNING, DiscState.BURNED)
"""Discs that stay in the drive: their proof comes next."""


class People:
    """Owner of the tasks at drives."""

    def __init__(
        self, core: Core, librarian: ManualLibrarian, magazines: Magazines, migrator: Migrator
    ) -> None:
        self.core = core
        self.librarian = librarian
        self.magazines = magazines
        self.migrator = migrator
        self.asks: dict[str, Ask] = {}
        self._changed = trio.Event()
        self._begun = False
        librarian.asked = self.asks.get

    # -- what should be done (called by the dispatcher) -----------------------------

    def plan(self, picture: Picture, now_s: float) -> list[Action]:
        """Actions on the discs that are in; what is missing is asked for."""
        seats = self.librarian.seats
        picture = replace(picture, drives=tuple(self._view(view) for view in picture.drives))
        desk = Desk(
            blanks={name: seat.blank_sectors for name, seat in seats.items()},
            needed=self._needed,
            leaving=frozenset(name for name, seat in seats.items() if self._leaves(seat)),
            loading=frozenset(name for name, seat in seats.items() if self._is_loading(seat)),
            before=dict(self.asks),
        )
        actions, asks = plan_by_hand(picture, desk, now_s)
        for seat in seats.values():
            seat.is_planned = seat.is_planned or seat.is_usable
        if asks != self.asks:
            self.asks.clear()
            self.asks.update(asks)
            self._changed.set()
        return actions

    def _view(self, view: DriveView) -> DriveView:
        """A drive that is not known yet is busy."""
        if self.librarian.seats[view.name].is_usable or view.busy:
            return view
        return replace(view, busy=True)

    def _is_loading(self, seat: Seat) -> bool:
        """Its tray moves, or what is in is looked at: what was asked for stays. Nothing is asked
        for at a drive that is out of service."""
        is_moving = seat.unit.state == DriveState.LOADING or not seat.is_usable
        return seat.unit.alive and is_moving

    def _needed(self, volume: str) -> int:
        active = self.migrator.active.get(volume)
        record = self.core.catalog.volumes.get(volume)
        sectors = record.total_sectors if record is not None else 0
        if active is not None:
            sectors = active.layout.total_sectors
        return sectors + MARK_SECTORS

    def _leaves(self, seat: Seat) -> bool:
        """Whether what is in should come out as soon as nothing needs it."""
        disc = self.core.catalog.discs.get(seat.unit.disc)
        if disc is None:
            return bool(seat.stranger)
        box = self.core.catalog.magazines.get(disc.magazine)
        if box is not None and box.exporting:
            return True
        return not disc.is_marked and disc.state not in UNSETTLED

    # -- tasks and trays -----------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._changed = trio.Event()
            with trio.move_on_after(WATCH_S):
                await self._changed.wait()
            try:
                await self._settle_all()
            except HsmError as error:
                log.warning("tasks wait", error=str(error))

    async def _settle_all(self) -> None:
        if not self._begun:
            self._begun = True
            self._resume()
        for seat in self.librarian.seats.values():
            await self._settle(seat)

    def _resume(self) -> None:
        """After a restart: what was to be taken from an open tray may lie there still."""
        for task in self.magazines.open_tasks():
            seat = self.librarian.seats.get(task.drive)
            if seat is not None and task.take and seat.is_open and seat.taken is None:
                disc = task.take if task.take in self.core.catalog.discs else ""
                words = f"disc {disc}" if disc else task.take
                seat.taken = Taken(words, disc, task.write, task.box)

    async def _settle(self, seat: Seat) -> None:
        """The tray as it must be for what is asked, and the task that says so."""
        ask = self.asks.get(seat.unit.name)
        if self._must_come_out(seat, ask):
            self._note_found(seat)
            seat.taken = self._taken(seat)
        await self._tell(seat, ask)  # before the tray opens: people act at once
        ask = self.asks.get(seat.unit.name)
        if self._must_come_out(seat, ask) or self._must_open(seat, ask):
            seat.opened_for = ask
            seat.unit.assign(OpenJob(self.librarian, seat), DriveState.LOADING)

    def _is_free(self, seat: Seat) -> bool:
        return seat.unit.alive and not seat.unit.busy and seat.is_planned and seat.is_usable

    def _must_come_out(self, seat: Seat, ask: Ask | None) -> bool:
        """What is in is not what is asked for."""
        return (
            self._is_free(seat)
            and seat.present
            and ask is not None
            and not self._satisfies(seat, ask)
        )

    def _must_open(self, seat: Seat, ask: Ask | None) -> bool:
        """Once for each ask: a person who closes it empty has a button."""
        closed = not seat.present and not seat.is_open
        return self._is_free(seat) and closed and ask is not None and seat.opened_for != ask

    def _satisfies(self, seat: Seat, ask: Ask) -> bool:
        if ask.blank_sectors:
            return seat.blank_sectors >= ask.blank_sectors
        return bool(ask.put) and seat.unit.disc == ask.put

    def _note_found(self, seat: Seat) -> None:
        """What was put in while something else was asked for is told."""
        seat.found = ""
        if seat.looked_for is not None and seat.looked_for.rank < Rank.NOTHING:
            seat.found = self._content(seat).words
        seat.looked_for = None

    def _content(self, seat: Seat) -> Taken:
        disc = self.core.catalog.discs.get(seat.unit.disc)
        if disc is not None:
            return Taken(f"disc {disc.barcode}", disc.barcode)
        if seat.blank_sectors:
            return Taken(f"a blank disc of {disc_size(seat.blank_sectors)}")
        return Taken(seat.stranger or "the disc")

    def _taken(self, seat: Seat) -> Taken:
        """What a person should do with what is in."""
        content = self._content(seat)
        disc = self.core.catalog.discs.get(content.disc)
        if disc is None:
            return content
        if disc.state in (DiscState.SUSPECT, DiscState.RETIRED):
            return Taken(content.words, disc.barcode, f"BAD {disc.barcode}")
        write = "" if disc.is_marked else disc.barcode
        return Taken(content.words, disc.barcode, write, disc.magazine)

    async def _tell(self, seat: Seat, ask: Ask | None) -> None:
        """One open task for the drive, or none; as it was while the tray moves."""
        if seat.unit.busy and seat.unit.state == DriveState.LOADING:
            return
        name = seat.unit.name
        task = next((t for t in self.magazines.open_tasks() if t.drive == name), None)
        if ask is None and seat.taken is not None and not seat.unit.busy:
            ask = Ask(name)
        errand = None if ask is None else self._errand(seat, ask)
        if task is not None and (errand is None or not errand.is_of(task)):
            await self.magazines.finish(task)
            task = None
        if errand is None:
            seat.found = ""
        elif task is None:
            await self._new_task(errand)
        elif errand.fill(task):
            await self.core.catalog.save(task)

    def _errand(self, seat: Seat, ask: Ask) -> Errand | None:
        """None while there is nothing for a person to do yet."""
        nothing = not ask.put and not ask.blank_sectors
        waits = seat.present and not seat.is_open
        if waits and (seat.unit.busy or self._satisfies(seat, ask) or not seat.is_planned):
            return None
        if nothing and seat.taken is None:
            return None
        disc = self.core.catalog.discs.get(ask.put)
        box = disc.magazine if disc is not None else ""
        return Errand(seat.unit.name, ask, seat.taken, seat.found, box)

    async def _new_task(self, errand: Errand) -> None:
        box = errand.put_box or (errand.taken.box if errand.taken is not None else "")
        await self.magazines.add_task(errand.kind, errand.text(), box, fill=errand.fill)

    # -- a person says something ----------------------------------------------------------

    async def confirm(self, task: TaskRecord) -> None:
        """Said to be done: CallerError where the drive shows something else."""
        seat = self.librarian.seats.get(task.drive)
        if task.done_ns or seat is None:
            await self.magazines.finish(task)
            return
        if not seat.unit.busy and seat.unit.alive:
            seat.unit.assign(CloseJob(self.librarian, seat), DriveState.LOADING)
        with trio.move_on_after(self.librarian.config.load_timeout_s):
            while seat.unit.busy and not task.done_ns:
                await trio.sleep(SETTLE_S)
        for _ in range(SETTLE_ATTEMPTS_MAX):
            if task.done_ns:
                return
            self.core.wake()
            await trio.sleep(SETTLE_S)
            if seat.found or (not seat.present and not seat.unit.busy):
                break
        await self._settle(seat)
        if not task.done_ns:
            found = seat.found or ("the drive is empty" if not seat.present else "no change")
            raise CallerError(f"task {task.id} is not done: found {found}; {task.text}")
