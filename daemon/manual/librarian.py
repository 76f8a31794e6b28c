"""What is where in a library without a robot: drives that are watched, boxes that are believed.

Only a drive sees discs. Once a second each idle drive is asked whether a disc
came or went; one that came is looked at (``LookJob``) and tells itself what it
is. Where a disc lies outside is what the person was told last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import structlog
import trio

from hsmfs.config import Library
from hsmfs.daemon.catalog import Catalog
from hsmfs.daemon.catalogrecords import (
    DiscRecord,
    DiscState,
    MagazineRecord,
    MagazineState,
)
from hsmfs.daemon.discidentity import IN_USE, Identities
from hsmfs.daemon.drivetask import DriveState, DriveUnit
from hsmfs.daemon.librarian import Librarian
from hsmfs.daemon.manual.asks import Ask
from hsmfs.daemon.manual.lookjob import LookJob
from hsmfs.daemon.manual.seat import Seat
from hsmfs.daemon.recognition import Content, Recognised
from hsmfs.daemon.robottask import Robot
from hsmfs.errors import DriveError, HsmError, LibraryError, MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.discmark import DiscMark

log = structlog.get_logger(__name__)
POLL_S: Final = 1.0
"""How often an idle drive is asked for its tray."""


class ManualLibrarian(Librarian):
    """Owner of the belief about drives, discs and boxes."""

    by_hand = True

    def __init__(
        self,
        config: Library,
        robot: Robot,
        units: Sequence[DriveUnit],
        catalog: Catalog,
        wake: Callable[[], None],
        site: str,
        now_ns: Callable[[], int],
    ) -> None:
        super().__init__(config, robot, units, catalog, wake)
        self.seats = {unit.name: Seat(unit) for unit in units}
        self.asked: Callable[[str], Ask | None] = lambda drive: None
        """What a person is asked to put into a drive."""
        self._identities = Identities(catalog, config.name, site, now_ns, self._box_of)
        self._begun = False

    # -- belief ----------------------------------------------------------------

    async def refresh(self) -> None:
        """Look at the trays of idle drives."""
        if not self._begun:
            self._begun = True
            await self._begin()
        for seat in self.seats.values():
            if seat.unit.alive and not seat.unit.busy:
                await self.poll(seat)
        alive = [seat for seat in self.seats.values() if seat.unit.alive]
        silent = [seat.problem for seat in alive if seat.problem]
        self.problem = "; ".join(silent) if len(silent) == len(alive) else ""

    async def watch(self) -> None:
        """Follow what people do with discs, until cancelled."""
        while True:
            await trio.sleep(POLL_S)
            await self.refresh()

    async def _begin(self) -> None:
        """Boxes of the configuration; discs whose burn was cut are of no use."""
        changed: list[DiscRecord | MagazineRecord] = []
        for box in self.config.boxes:
            if box not in self._catalog.magazines:
                made = MagazineRecord(name=box, library=self.config.name, first_slot=0)
                self._catalog.magazines[box] = made
                changed.append(made)
        for disc in self._catalog.discs.values():
            if disc.state == DiscState.BURNING:
                disc.become(DiscState.SUSPECT)
                disc.note = "its burn was cut"
                changed.append(disc)
            if disc.state in IN_USE and disc.magazine not in self._catalog.magazines:
                # Taken in by hsm rebuild: a box to begin to look in.
                disc.magazine, disc.library = self.config.boxes[0], self.config.name
                changed.append(disc)
        await self._catalog.save(*changed)
        for disc in list(self._catalog.discs.values()):
            if disc.state == DiscState.BLANK and disc.library == self.config.name:
                del self._catalog.discs[disc.barcode]  # a number that was never burned
        self.blanks(set(), set())

    async def poll(self, seat: Seat) -> None:
        """Ask an idle drive for its tray; what came in is looked at."""
        unit = seat.unit
        try:
            if seat.is_locked:
                await unit.call(unit.drive.prevent_removal, False)
                seat.is_locked = False
            tray = await unit.call(unit.drive.tray)
        except HsmError as error:
            if not seat.problem:
                log.warning("a drive does not answer", drive=unit.name, error=str(error))
            seat.problem = unit.note = f"drive {unit.name}: {error}"
            return
        if unit.busy:
            return  # its job knows better
        seat.problem = ""
        await self.saw(seat, present=tray.present, is_open=tray.is_open)
        if tray.present and (tray.is_new or not seat.is_looked):
            seat.empty()
            seat.present = True
            unit.assign(LookJob(self, seat), DriveState.LOADING)

    async def saw(self, seat: Seat, *, present: bool, is_open: bool) -> None:
        """What a drive said of its tray."""
        was = (seat.present, seat.is_open)
        seat.present, seat.is_open = present, is_open
        if not present and seat.is_looked:
            seat.empty()
        if not present and not is_open:
            await self.came_out(seat)
        if was != (present, is_open):
            self._wake()

    async def came_out(self, seat: Seat) -> None:
        """What should be taken out is not there any more."""
        taken, seat.taken = seat.taken, None
        disc = self._catalog.discs.get(taken.disc) if taken is not None else None
        if disc is not None and not disc.is_marked:
            disc.is_marked = True
            await self._catalog.save(disc)

    async def recognised(self, seat: Seat, found: Recognised) -> None:
        """A disc told what it is."""
        ask = self.asked(seat.unit.name)
        seat.empty()
        seat.looked_for, seat.is_looked, seat.is_planned = ask, True, False
        if found.content is Content.BLANK:
            seat.blank_sectors = found.capacity_sectors
        elif found.content is Content.UNFINISHED:
            seat.stranger = "a disc whose burn was not finished"
        else:
            seat.stranger = await self._volume_recognised(seat, found, ask)
        if seat.taken is not None and not (seat.taken.disc and seat.taken.disc == seat.unit.disc):
            await self.came_out(seat)

    async def _volume_recognised(self, seat: Seat, found: Recognised, ask: Ask | None) -> str:
        """Believe which disc it is; in words why it is of no use, empty where it is."""
        elsewhere = {unit.disc for unit in self.units}
        wanted = ask.put if ask is not None else ""
        disc = await self._identities.of_volume(found, elsewhere, wanted)
        if isinstance(disc, str):
            return disc
        seat.unit.disc = disc.barcode
        seat.unit.loads += 1
        await self._count_load(disc.barcode)
        box = self._catalog.magazines.get(disc.magazine)
        if box is not None and not box.present and not box.exporting:
            box.become(
                MagazineState.LIBRARY, self._clock.now_ns(), f"disc {disc.barcode} was put in"
            )
            await self._catalog.save(box)
        return ""

    def _box_of(self, mark: DiscMark) -> str:
        return mark.box if mark.box in self.config.boxes else self.config.boxes[0]

    # -- questions ---------------------------------------------------------------

    def present(self, disc: DiscRecord) -> bool:
        """A person can bring it."""
        if self.unit_with(disc.barcode) is not None:
            return True
        box = self._catalog.magazines.get(disc.magazine)
        return box is not None and box.present and not box.exporting

    def home(self, barcode: str) -> int:
        """Boxes have no addresses."""
        return self._catalog.discs[barcode].position

    def span_index(self, first_slot: int) -> int:
        return 0

    def in_words(self, disc: DiscRecord) -> str:
        """Where a disc is, for people."""
        if disc.state == DiscState.BLANK:
            return "not burned yet"
        box = self._catalog.magazines.get(disc.magazine)
        if self.unit_with(disc.barcode) is not None or box is None or not box.present:
            return super().in_words(disc)
        return f"box {box.name}"

    def blanks(self, avoid_magazines: set[str], taken: set[str]) -> list[DiscRecord]:
        """The next number to be burned for each box: any blank disc will be it."""
        boxes = [
            box
            for name in self.config.boxes
            if name not in avoid_magazines
            and (box := self._catalog.magazines[name]).present
            and not box.exporting
        ]
        return [self._next_blank(box.name, taken) for box in boxes]

    def _next_blank(self, box: str, taken: set[str]) -> DiscRecord:
        for disc in self._catalog.discs.values():
            if disc.state == DiscState.BLANK and disc.magazine == box and disc.barcode not in taken:
                return disc
        number = self._identities.new_number()
        disc = DiscRecord(
            barcode=number,
            magazine=box,
            position=sum(other.magazine == box for other in self._catalog.discs.values()),
            library=self.config.name,
            capacity_sectors=self.config.disc_bytes // SECTOR_BYTES,
            is_numbered=True,
        )
        self._catalog.discs[number] = disc
        return disc

    # -- moves ---------------------------------------------------------------------

    async def load(self, unit: DriveUnit, barcode: str) -> None:
        """Have the disc ready that a person put in; LibraryError where it is another one."""
        seat = self.seats[unit.name]
        seat.looked_for = None
        if unit.disc != barcode and seat.blank_sectors:
            disc = self._catalog.discs[barcode]
            if disc.state == DiscState.BLANK and self.unit_with(barcode) is None:
                unit.disc, seat.blank_sectors = barcode, 0
                unit.loads += 1
        if unit.disc != barcode:
            found = unit.disc or ("a blank disc" if seat.blank_sectors else "none of ours")
            raise LibraryError(f"drive {unit.name}: found {found}, expected disc {barcode}")
        try:
            await unit.call(unit.drive.prevent_removal, True)
            seat.is_locked = True
            await unit.call(unit.drive.ready, self.config.load_timeout_s)
        except (DriveError, MediumError) as error:
            unit.charge(error, for_good=isinstance(error, DriveError))
            raise

    async def unload(self, unit: DriveUnit, home: int | None = None) -> None:
        """The disc stays until another one is wanted: an exchange costs a person's time."""
