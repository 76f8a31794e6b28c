"""What is where: discs, magazines and drives of one library.

Belief comes from element status; the catalog remembers which disc belongs to
which magazine, so that a magazine is known again when it comes back, in
whatever slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import structlog
import trio

from hsmfs.changer.library import Inventory
from hsmfs.changer.transport.stack import Stack
from hsmfs.clock import Clock, SystemClock
from hsmfs.config import Library
from hsmfs.daemon.catalog import Catalog
from hsmfs.daemon.catalogrecords import (
    DiscRecord,
    DiscState,
)
from hsmfs.daemon.discidentity import Identities, is_it
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.daemon.elementcheck import Oddities, oddities
from hsmfs.daemon.magazinebelief import MagazineBelief
from hsmfs.daemon.picture import Work
from hsmfs.daemon.recognition import Content, Recognised, recognise
from hsmfs.daemon.robottask import Robot
from hsmfs.daemon.untagged import Untagged
from hsmfs.errors import DriveError, HsmError, LibraryError, MediumError

log = structlog.get_logger(__name__)
LOOK_ATTEMPTS_MAX: Final = 3
"""How often a disc without a barcode is loaded in vain before it is left alone."""
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
        clock: Clock | None = None,
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
        self.is_aside: Callable[[DiscRecord], bool] = lambda disc: False
        """Whether a disc is in quarantine."""
        self.mailslots: list[int] = []
        """Element addresses."""
        self.oddities = Oddities()
        """What element status shows that cannot be right."""
        self._catalog = catalog
        self._wake = wake
        self._clock = clock or SystemClock()
        self._magazines = MagazineBelief(config, catalog, self._clock, units)
        self.untagged = Untagged()
        self.identities: Identities | None = None
        """Who knows discs without barcodes; None: such discs are left alone."""
        self._full: set[int] = set()
        """Addresses at which a disc is, known or not."""
        self._seeded = False
        self._slots: list[int] = []
        self._lock = trio.Lock()

    # -- belief ----------------------------------------------------------------

    async def refresh(self) -> None:
        """Read element status and bring discs and magazines up to date."""
        async with self._lock:
            try:
                inventory = await self.robot.inventory(refresh=True)
                self._check(inventory)
            except HsmError as error:
                self.problem = str(error)
                raise
            self.problem = ""
            await self._believe(inventory)
        self._wake()

    def _check(self, inventory: Inventory) -> None:
        """LibraryError where it tells of fewer slots than before: its discs are not gone."""
        if len(inventory.slots) < len(self._slots):
            raise LibraryError(
                f"library {self.config.name}: it tells of {len(inventory.slots)} slots, before of "
                f"{len(self._slots)}; what was known is kept. If it was rebuilt: restart hsmd"
            )

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
        self.mailslots = [int(slot.address) for slot in inventory.mailslots]
        inventory = self._believe_places(inventory)
        for unit in self.units:
            self._believe_drive(unit, inventory)
        changes = self._magazines.follow(inventory, self.oddities.doubles)
        if changes:
            await self._catalog.transact(*changes)

    def _believe_places(self, inventory: Inventory) -> Inventory:
        """Where each disc is; the inventory with numbers where there are no barcodes.

        Of two discs with one barcode none is known: neither is used.
        """
        if self.identities is not None and not self._seeded:
            self._seeded = True
            self.untagged.seed(self._homes(), inventory)
        inventory = self.named(inventory)
        elements = (*inventory.slots, *inventory.drives, *inventory.mailslots)
        self._full = {int(element.address) for element in elements if element.full}
        self.oddities = oddities(inventory)
        self.place = {
            str(element.barcode): int(element.address)
            for element in elements
            if element.full and element.barcode and element.barcode not in self.oddities.doubles
        }
        return inventory

    def named(self, inventory: Inventory) -> Inventory:
        """Element status with the numbers of discs that have no barcode."""
        return inventory if self.identities is None else self.untagged.named(inventory)

    def _homes(self) -> dict[int, str]:
        """Numbers of discs without barcodes by the slot in which the catalog has them."""
        magazines = self._catalog.magazines
        return {
            magazines[disc.magazine].first_slot + disc.position: disc.barcode
            for disc in self._catalog.discs.values()
            if disc.is_numbered
            and disc.library == self.config.name
            and disc.magazine in magazines
            and magazines[disc.magazine].present
        }

    def _believe_drive(self, unit: DriveUnit, inventory: Inventory) -> None:
        """A busy drive's own job knows better than a status read meanwhile."""
        for element in inventory.drives:
            if int(element.address) == unit.element and not unit.busy:
                unit.disc = str(element.barcode or "") if element.full else ""

    # -- questions ---------------------------------------------------------------

    by_hand = False
    """Whether a person loads the drives."""

    def present(self, disc: DiscRecord) -> bool:
        """Inside, the only one of its barcode, and not about to leave."""
        if disc.barcode in self.oddities.doubles:
            return False
        magazine = self._catalog.magazines.get(disc.magazine)
        if disc.magazine and (magazine is None or magazine.exporting):
            return False
        if disc.quarantined_until_ns and self.is_aside(disc):
            return False
        unit = self.unit_with(disc.barcode)
        if unit is not None:
            return unit.alive
        return disc.barcode in self.place

    def is_nowhere(self, disc: DiscRecord) -> bool:
        """Its magazine is inside, and no element shows it."""
        magazine = self._catalog.magazines.get(disc.magazine)
        return (
            bool(self._slots)  # without, nothing sees where discs are
            and magazine is not None
            and magazine.present
            and magazine.library == self.config.name
            and disc.state != DiscState.RETIRED
            and disc.barcode not in self.place
            and disc.barcode not in self.oddities.doubles
            and self.unit_with(disc.barcode) is None
        )

    def unit_with(self, barcode: str) -> DriveUnit | None:
        return next((unit for unit in self.units if unit.disc == barcode), None)

    def is_shut_in(self, barcode: str) -> bool:
        """In a drive that is out of service, from which the robot could not get it."""
        unit = self.unit_with(barcode)
        return unit is not None and not unit.alive and unit.rescued and not unit.busy

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

    def free_spans(self) -> list[tuple[int, int]]:
        """First and last slot of each place for a magazine that is empty."""
        homes = {
            self.home(unit.disc)
            for unit in self.units
            if unit.disc in self._catalog.discs and self._has_home(unit.disc)
        }
        taken = set(self.place.values()) | self.oddities.elements | homes
        size = self.config.magazine_slots
        spans = (self._slots[at : at + size] for at in range(0, len(self._slots), size))
        return [(span[0], span[-1]) for span in spans if not taken.intersection(span)]

    def _has_home(self, barcode: str) -> bool:
        return self._catalog.discs[barcode].magazine in self._catalog.magazines

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
            self._carried(source, unit.element, barcode)
            unit.loads += 1
            await self._count_load(barcode)
        try:
            if unit.ejected:
                await unit.call(unit.drive.load)
                unit.ejected = False
            await unit.call(unit.drive.ready, self.config.load_timeout_s)
            await self._prove_number(unit, barcode)
        except (DriveError, MediumError) as error:
            unit.charge(error, for_good=True)
            raise

    async def carry(self, barcode: str, destination: int) -> None:
        """A disc that is in no drive to another slot or mailslot; LibraryError if it does not
        arrive."""
        source = self.place.get(barcode)
        if source is None or self.unit_with(barcode) is not None:
            raise LibraryError(f"disc {barcode} is in no slot of library {self.config.name}")
        await self._move(source, destination)
        self.place[barcode] = destination
        self._carried(source, destination, barcode)

    async def _prove_number(self, unit: DriveUnit, barcode: str) -> None:
        """A disc without a barcode must be what the catalog says; LibraryError where it is not."""
        disc = self._catalog.discs.get(barcode)
        if disc is None or not disc.is_numbered or barcode in self.untagged.proved:
            return
        found = await unit.call(recognise, unit.drive)
        if is_it(disc, found):
            self.untagged.proved.add(barcode)
            return
        unit.disc = ""
        self.place.pop(barcode, None)
        self.untagged.doubt(unit.element)
        raise LibraryError(
            f"drive {unit.name}: expected disc {barcode} by the place that it came from, found "
            f"{found.content}; discs were moved by hand, so all are looked at anew"
        )

    async def _count_load(self, barcode: str) -> None:
        disc = self._catalog.discs[barcode]
        disc.loads += 1
        await self._catalog.save(disc)

    async def unload(self, unit: DriveUnit, home: int | None = None) -> None:
        """Return the disc to the slot it belongs to, or to this one."""
        if not unit.disc:
            return
        barcode = unit.disc
        try:
            await unit.call(unit.drive.eject)
            unit.ejected = True
        except DriveError as error:
            unit.charge(error, for_good=True, sure=True)
            log.warning("eject failed, the robot tries all the same", drive=unit.name)
        home = self._free_slot(barcode) if home is None else home
        await self._move(unit.element, home, unit, rescue=not unit.alive)
        unit.disc = ""
        unit.ejected = False
        self.place[barcode] = home
        self._carried(unit.element, home, barcode)

    # -- discs without barcodes ------------------------------------------------------

    def unknown_places(self) -> list[int]:
        """Addresses of discs that nobody knows and that may tell what they are."""
        inside = {*self._slots, *(unit.element for unit in self.units)}
        tried = self.untagged.failures
        return sorted(at for at in self.untagged.unknown & inside if tried[at] < LOOK_ATTEMPTS_MAX)

    async def look_at(self, unit: DriveUnit, address: int) -> None:
        """Load the disc there, let it tell what it is, and put it back.

        Raises DriveError or LibraryError; then it is still not known. One that no drive
        can read is taken for somebody else's in the end.
        """
        assert self.identities is not None
        failures = self.untagged.failures
        failures[address] += 1
        if address != unit.element:
            await self.unload(unit)
            await self._move(address, unit.element, unit)
            self._carried(address, unit.element)
            failures[unit.element] = failures.pop(address)
        try:
            await unit.call(unit.drive.ready, self.config.load_timeout_s)
            found = await unit.call(recognise, unit.drive)
        except (DriveError, MediumError) as error:
            if isinstance(error, DriveError) and failures[unit.element] < LOOK_ATTEMPTS_MAX:
                raise
            found = Recognised(Content.OTHER, why=str(error))
        known = {*self.place, *(one.disc for one in self.units)}
        here = self._homes().get(address, "")
        disc = await self.identities.identified(found, known, here)
        self.untagged.is_at(unit.element, disc.barcode)
        failures.pop(unit.element, None)
        unit.disc = disc.barcode
        self.place[disc.barcode] = unit.element
        log.info("disc identified", disc=disc.barcode, address=address, found=found.content.value)
        await self.unload(unit, address if address != unit.element else None)

    def _carried(self, source: int, destination: int, barcode: str = "") -> None:
        """What was moved; a disc whose barcode the robot reads is never one that nobody knows."""
        self._full.discard(source)
        self._full.add(destination)
        disc = self._catalog.discs.get(barcode)
        if disc is None or disc.is_numbered:
            self.untagged.moved(source, destination)

    def _free_slot(self, barcode: str) -> int:
        """Its own slot; if another disc stands there, any empty one of the library."""
        disc = self._catalog.discs.get(barcode)
        is_placed = disc is not None and disc.magazine in self._catalog.magazines
        taken = {*self.place.values(), *self._full, *self.oddities.elements}
        free = [self.home(barcode), *self._slots] if is_placed else self._slots
        try:
            return next(address for address in free if address not in taken)
        except StopIteration:
            raise LibraryError(
                f"library {self.config.name}: no empty slot for disc {barcode}; take a disc out"
            ) from None

    async def _move(
        self, source: int, destination: int, unit: DriveUnit | None = None, *, rescue: bool = False
    ) -> None:
        for_recall = unit is not None and unit.work is Work.READ
        try:
            await self.robot.move(source, destination, for_recall=for_recall)
            self.failures_in_row = 0
        except LibraryError as error:
            if not rescue:
                self.problem = str(error)
                self.failures_in_row += 1
            with trio.CancelScope(shield=True):
                await self._reread(source, destination)
            raise

    async def _reread(self, source: int, destination: int) -> None:
        """After a failed move belief is worth nothing: ask the library."""
        try:
            inventory = await self.robot.inventory(refresh=True)
        except HsmError as error:
            log.warning("no element status after a failed move", error=str(error))
            return
        before, after = inventory.find(source), inventory.find(destination)
        if before is not None and after is not None and after.full and not before.full:
            self.untagged.moved(source, destination)
        inventory = self._believe_places(inventory)
        for unit in self.units:
            for element in inventory.drives:
                if int(element.address) == unit.element:
                    unit.disc = str(element.barcode or "") if element.full else ""
