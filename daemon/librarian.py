"""What is where: discs, magazines and drives of one library.

Belief comes from element status; the catalog remembers which disc belongs to
which magazine, so that a magazine is known again when it comes back, in
whatever slots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import structlog
import trio

from hsmfs.changer.library import Element, Inventory
from hsmfs.changer.transport.stack import Stack
from hsmfs.config import Library
from hsmfs.daemon.catalog import Catalog
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, MagazineRecord
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.daemon.picture import Work
from hsmfs.daemon.robottask import Robot
from hsmfs.errors import DriveError, HsmError, LibraryError, MediumError

log = structlog.get_logger(__name__)
REFRESH_S: Final = 2.0
"""How often element status is read, to see what a person did."""


class Librarian:
    """Owner of the belief about one library."""

    def __init__(
        self,
        config: Library,
        robot: Robot,
        units: Sequence[DriveUnit],
        catalog: Catalog,
        wake: Callable[[], None],
    ) -> None:
        self.config = config
        self.robot = robot
        self.units = list(units)
        self.stacks: dict[str, Stack] = {}
        """Each device's transport with its trace."""
        self.place: dict[str, int] = {}
        """Element address of every disc that is inside now."""
        self.problem = ""
        self.failures_in_row = 0
        """Moves that failed since the last one that went well."""
        self._catalog = catalog
        self._wake = wake
        self._slots: list[int] = []
        self._lock = trio.Lock()

    # -- belief ----------------------------------------------------------------

    async def refresh(self) -> None:
        """Read element status and bring discs and magazines up to date."""
        async with self._lock:
            try:
                inventory = await self.robot.inventory(refresh=True)
            except HsmError as error:
                self.problem = str(error)
                raise
            self.problem = ""
            await self._believe(inventory)
        self._wake()

    async def watch(self) -> None:
        """Follow what people do with magazines, until cancelled."""
        while True:
            await trio.sleep(REFRESH_S)
            try:
                await self.refresh()
            except HsmError as error:
                log.warning("library does not answer", library=self.config.name, error=str(error))

    async def _believe(self, inventory: Inventory) -> None:
        self._slots = [int(slot.address) for slot in inventory.slots]
        self.place = {
            str(element.barcode): int(element.address)
            for element in (*inventory.slots, *inventory.drives, *inventory.mailslots)
            if element.full and element.barcode
        }
        for unit in self.units:
            self._believe_drive(unit, inventory)
        changed = self._believe_magazines(inventory)
        if changed:
            await self._catalog.save(*changed)

    def _believe_drive(self, unit: DriveUnit, inventory: Inventory) -> None:
        """A busy drive's own job knows better than a status read meanwhile."""
        for element in inventory.drives:
            if int(element.address) == unit.element and not unit.busy:
                unit.disc = str(element.barcode or "") if element.full else ""

    def _believe_magazines(self, inventory: Inventory) -> list[DiscRecord | MagazineRecord]:
        changed: list[DiscRecord | MagazineRecord] = []
        seen: set[str] = set()
        size = self.config.magazine_slots
        for start in range(0, len(self._slots), size):
            span = inventory.slots[start : start + size]
            changed += self._believe_span(span, seen)
        for element in inventory.drives:
            if element.full and element.barcode and str(element.barcode) not in self._catalog.discs:
                # Not seen in a slot yet (a first start, a rebuild): its magazine is not known.
                changed += self._believe_disc(str(element.barcode), "", 0)
        for magazine in self._catalog.magazines.values():
            if magazine.library == self.config.name and magazine.name not in seen:
                changed += self._leave(magazine)
        return changed

    def _believe_span(
        self, span: Sequence[Element], seen: set[str]
    ) -> list[DiscRecord | MagazineRecord]:
        first = int(span[0].address)
        found = {i: str(slot.barcode) for i, slot in enumerate(span) if slot.full and slot.barcode}
        magazine = self._magazine_of(first, found)
        if magazine is None:
            return []
        seen.add(magazine.name)
        changed: list[DiscRecord | MagazineRecord] = []
        if not magazine.present or magazine.first_slot != first:
            magazine.present, magazine.exporting, magazine.first_slot = True, False, first
            changed.append(magazine)
        for position, barcode in found.items():
            changed += self._believe_disc(barcode, magazine.name, position)
        return changed

    def _believe_disc(self, barcode: str, magazine: str, position: int) -> list[DiscRecord]:
        disc = self._catalog.discs.get(barcode)
        if disc is None:
            disc = DiscRecord(
                barcode=barcode, magazine=magazine, position=position, library=self.config.name
            )
            self._catalog.discs[barcode] = disc
            return [disc]
        if (disc.magazine, disc.position) == (magazine, position):
            return []
        disc.magazine, disc.position = magazine, position
        return [disc]

    def _magazine_of(self, first: int, found: dict[int, str]) -> MagazineRecord | None:
        """The magazine that stands at these slots: by its discs, else by place."""
        discs = self._catalog.discs
        known = (discs[code].magazine for code in found.values() if code in discs)
        votes = Counter(name for name in known if name in self._catalog.magazines)
        if votes:
            return self._catalog.magazines[votes.most_common(1)[0][0]]
        standing = [
            magazine
            for magazine in self._catalog.magazines.values()
            if magazine.library == self.config.name
            and magazine.present
            and magazine.first_slot == first
        ]
        if standing and (found or self._in_drives(standing[0].name)):
            return standing[0]
        return self._new_magazine(first) if found else None

    def _in_drives(self, magazine: str) -> bool:
        loaded = (self._catalog.discs.get(unit.disc) for unit in self.units if unit.disc)
        return any(disc is not None and disc.magazine == magazine for disc in loaded)

    def _new_magazine(self, first: int) -> MagazineRecord:
        number = len(self._catalog.magazines) + 1
        magazine = MagazineRecord(
            name=f"M{number:02d}", library=self.config.name, first_slot=first, present=False
        )
        self._catalog.magazines[magazine.name] = magazine
        return magazine

    def _leave(self, magazine: MagazineRecord) -> list[DiscRecord | MagazineRecord]:
        if not magazine.present:
            return []
        magazine.present, magazine.exporting = False, False
        log.info("magazine left the library", magazine=magazine.name)
        return [magazine]

    # -- questions ---------------------------------------------------------------

    def present(self, disc: DiscRecord) -> bool:
        """Inside, and not about to leave."""
        magazine = self._catalog.magazines.get(disc.magazine)
        if disc.magazine and (magazine is None or magazine.exporting):
            return False
        unit = self.unit_with(disc.barcode)
        if unit is not None:
            return unit.alive
        return disc.barcode in self.place

    def unit_with(self, barcode: str) -> DriveUnit | None:
        return next((unit for unit in self.units if unit.disc == barcode), None)

    def alive_units(self) -> list[DriveUnit]:
        return [unit for unit in self.units if unit.alive]

    def home(self, barcode: str) -> int:
        """The slot a disc belongs to."""
        disc = self._catalog.discs[barcode]
        return self._catalog.magazines[disc.magazine].first_slot + disc.position

    @property
    def slots(self) -> list[int]:
        """Element addresses of all slots."""
        return list(self._slots)

    def span_index(self, first_slot: int) -> int:
        """Which span of magazine slots starts at this element address."""
        return self._slots.index(first_slot) // self.config.magazine_slots

    def in_words(self, disc: DiscRecord) -> str:
        """Where a disc is, for people."""
        unit = self.unit_with(disc.barcode)
        if unit is not None:
            return f"drive {unit.name}"
        address = self.place.get(disc.barcode)
        if address is not None:
            return f"slot {address}"
        magazine = self._catalog.magazines.get(disc.magazine)
        if magazine is None:
            return "shelf"
        return magazine.location or ("off-site" if magazine.offsite else "shelf")

    def blanks(self, avoid_magazines: set[str], taken: set[str]) -> list[DiscRecord]:
        """Blank discs inside, in stable order, outside the given magazines."""
        return sorted(
            (
                disc
                for disc in self._catalog.discs.values()
                if disc.state == DiscState.BLANK
                and disc.library == self.config.name
                and disc.barcode not in taken
                and disc.magazine not in avoid_magazines
                and self.present(disc)
            ),
            key=lambda disc: (disc.magazine, disc.position),
        )

    # -- moves ---------------------------------------------------------------------

    async def load(self, unit: DriveUnit, barcode: str) -> None:
        """Have this disc ready in this drive.

        Raises DriveError (charged to the drive), MediumError (the disc does
        not become ready) or LibraryError (the robot failed).
        """
        if unit.disc != barcode:
            unit.moving = True
            if unit.disc:
                await self.unload(unit)
            source = self.place.get(barcode)
            if source is None:
                raise LibraryError(f"disc {barcode} is not in library {self.config.name}")
            await self._move(source, unit.element, unit)
            unit.disc = barcode
            unit.ejected = unit.moving = False
            self._wake()
            self.place[barcode] = unit.element
            unit.loads += 1
            await self._count_load(barcode)
        try:
            if unit.ejected:
                await unit.call(unit.drive.load)
                unit.ejected = False
            await unit.call(unit.drive.ready, self.config.load_timeout_s)
        except (DriveError, MediumError) as error:
            unit.charge(error, for_good=isinstance(error, DriveError))
            raise

    async def _count_load(self, barcode: str) -> None:
        disc = self._catalog.discs[barcode]
        disc.loads += 1
        await self._catalog.save(disc)

    async def unload(self, unit: DriveUnit) -> None:
        """Return the disc to the slot it belongs to."""
        if not unit.disc:
            return
        barcode = unit.disc
        try:
            await unit.call(unit.drive.eject)
            unit.ejected = True
        except DriveError as error:
            unit.charge(error, for_good=True)
            log.warning("eject failed, the robot tries all the same", drive=unit.name)
        home = self._free_slot(barcode)
        await self._move(unit.element, home, unit, rescue=not unit.alive)
        unit.disc = ""
        unit.ejected = False
        self.place[barcode] = home

    def _free_slot(self, barcode: str) -> int:
        """Its own slot; if another disc stands there, any empty one of the library."""
        disc = self._catalog.discs.get(barcode)
        is_placed = disc is not None and disc.magazine in self._catalog.magazines
        taken = set(self.place.values())
        free = [self.home(barcode), *self._slots] if is_placed else self._slots
        try:
            return next(address for address in free if address not in taken)
        except StopIteration:
            raise LibraryError(
                f"library {self.config.name}: no empty slot for disc {barcode}; take a disc out"
            ) from None

    async def _move(
        self, source: int, destination: int, unit: DriveUnit, *, rescue: bool = False
    ) -> None:
        try:
            await self.robot.move(source, destination, for_recall=unit.work is Work.READ)
            self.failures_in_row = 0
        except LibraryError as error:
            if not rescue:
                self.problem = str(error)
                self.failures_in_row += 1
            with trio.CancelScope(shield=True):
                await self._reread()
            raise

    async def _reread(self) -> None:
        """After a failed move belief is worth nothing: ask the library."""
        try:
            inventory = await self.robot.inventory(refresh=True)
        except HsmError as error:
            log.warning("no element status after a failed move", error=str(error))
            return
        self.place = {
            str(element.barcode): int(element.address)
            for element in (*inventory.slots, *inventory.drives, *inventory.mailslots)
            if element.full and element.barcode
        }
        for unit in self.units:
            for element in inventory.drives:
                if int(element.address) == unit.element:
                    unit.disc = str(element.barcode or "") if element.full else ""
