"""Which magazines stand where, by what element status shows of their discs.

A magazine is where most of its discs are; two discs with one barcode are both unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

import structlog

from hsmfs.changer.library import Element, Inventory
from hsmfs.clock import Clock
from hsmfs.config import Library
from hsmfs.daemon.catalog import Catalog, Change, put_history, put_record
from hsmfs.daemon.catalogrecords import (
    DiscRecord,
    DiscState,
    HistoryRecord,
    MagazineRecord,
    MagazineState,
)
from hsmfs.daemon.drivetask import DriveUnit

log = structlog.get_logger(__name__)
TAKEN_OUT: Final = "taken out as it was asked for"
LEFT_UNASKED: Final = "left the library; nobody had asked for it"


class MagazineBelief:
    """Brings magazines and the places of discs in the catalog up to date."""

    def __init__(
        self, config: Library, catalog: Catalog, clock: Clock, units: Sequence[DriveUnit]
    ) -> None:
        self._config = config
        self._catalog = catalog
        self._clock = clock
        self._units = units
        self._doubles: Collection[str] = ()
        self._moved: list[Change] = []
        """History of discs that a person put elsewhere."""

    def follow(self, inventory: Inventory, doubles: Collection[str]) -> list[Change]:
        """What is to be stored; the records in memory are changed already. ``doubles`` are
        barcodes that several discs have."""
        self._doubles, self._moved = doubles, []
        records = [put_record(record) for record in self._believe_magazines(inventory)]
        return [*records, *self._moved] if records else []

    def _believe_magazines(self, inventory: Inventory) -> list[DiscRecord | MagazineRecord]:
        changed: list[DiscRecord | MagazineRecord] = []
        seen: set[str] = set()
        size = self._config.magazine_slots
        starts = range(0, len(inventory.slots), size)
        spans = [inventory.slots[start : start + size] for start in starts]
        for span in sorted(spans, key=self._known_discs, reverse=True):
            changed += self._believe_span(span, seen)
        for element in inventory.drives:
            known = {*self._catalog.discs, *self._doubles}
            if element.full and element.barcode and str(element.barcode) not in known:
                # Not seen in a slot yet (a first start, a rebuild): its magazine is not known.
                changed += self._believe_disc(str(element.barcode), "", 0)
        in_mailslots = self._magazines_in(inventory.mailslots)
        written = {
            disc.magazine for disc in self._catalog.discs.values() if disc.state != DiscState.BLANK
        }
        for magazine in self._catalog.magazines.values():
            if magazine.name in seen:
                changed += self._stand(magazine, magazine.name in written)
            elif magazine.library == self._config.name:
                changed += self._leave(magazine, magazine.name in in_mailslots)
        return changed

    def _magazines_in(self, elements: Sequence[Element]) -> set[str]:
        discs = (self._catalog.discs.get(str(one.barcode)) for one in elements if one.full)
        return {disc.magazine for disc in discs if disc is not None}

    def _known_discs(self, span: Sequence[Element]) -> int:
        """A magazine is where most of its discs are, not where one of them was laid."""
        return sum(slot.full and str(slot.barcode) in self._catalog.discs for slot in span)

    def _believe_span(
        self, span: Sequence[Element], seen: set[str]
    ) -> list[DiscRecord | MagazineRecord]:
        first = int(span[0].address)
        found = {
            i: str(slot.barcode)
            for i, slot in enumerate(span)
            if slot.full and slot.barcode and slot.barcode not in self._doubles
        }
        magazine = self._magazine_of(first, found, seen)
        if magazine is None:
            return []
        seen.add(magazine.name)
        changed: list[DiscRecord | MagazineRecord] = []
        if magazine.first_slot != first or magazine.library != self._config.name:
            magazine.first_slot, magazine.library = first, self._config.name
            changed.append(magazine)
        for position, barcode in found.items():
            changed += self._believe_disc(barcode, magazine.name, position)
        return changed

    def _believe_disc(self, barcode: str, magazine: str, position: int) -> list[DiscRecord]:
        disc = self._catalog.discs.get(barcode)
        if disc is None:
            disc = DiscRecord(
                barcode=barcode, magazine=magazine, position=position, library=self._config.name
            )
            self._catalog.discs[barcode] = disc
            return [disc]
        if (disc.magazine, disc.position) == (magazine, position):
            return []
        if disc.magazine:
            text = f"from {disc.magazine} {disc.position} to {magazine} {position}"
            entry = HistoryRecord(what="moved", volume=disc.volume, text=text)
            self._moved.append(put_history(barcode, self._clock.now_ns(), entry))
        disc.magazine, disc.position = magazine, position
        return [disc]

    def _magazine_of(
        self, first: int, found: dict[int, str], seen: set[str]
    ) -> MagazineRecord | None:
        """The magazine that stands at these slots: by its discs, else by place. None where
        nothing but discs of a magazine lie that stands elsewhere."""
        discs = self._catalog.discs
        known = (discs[code].magazine for code in found.values() if code in discs)
        votes = Counter(name for name in known if name in self._catalog.magazines)
        rest = [name for name, _ in votes.most_common() if name not in seen]
        if votes:
            return self._catalog.magazines[rest[0]] if rest else None
        standing = [
            magazine
            for magazine in self._catalog.magazines.values()
            if magazine.library == self._config.name
            and magazine.present
            and magazine.first_slot == first
        ]
        if standing and (found or self._in_drives(standing[0].name)):
            return standing[0]
        return self._new_magazine(first) if found else None

    def _in_drives(self, magazine: str) -> bool:
        loaded = (self._catalog.discs.get(unit.disc) for unit in self._units if unit.disc)
        return any(disc is not None and disc.magazine == magazine for disc in loaded)

    def _new_magazine(self, first: int) -> MagazineRecord:
        number = len(self._catalog.magazines) + 1
        while f"M{number:02d}" in self._catalog.magazines:
            number += 1
        magazine = MagazineRecord(
            name=f"M{number:02d}", library=self._config.name, first_slot=first, present=False
        )
        self._catalog.magazines[magazine.name] = magazine
        return magazine

    def _stand(self, magazine: MagazineRecord, is_written: bool) -> list[MagazineRecord]:
        """It is in slots, whatever was believed before."""
        state = MagazineState.LIBRARY if is_written else MagazineState.BLANK
        first = magazine.first_slot
        text = "" if magazine.present else f"seen in slots from {first} on"
        if magazine.state == MagazineState.MISSING:
            text = f"found: {text}"
        if not magazine.present:
            magazine.exporting = False
        return [magazine] if magazine.become(state, self._clock.now_ns(), text) else []

    def _leave(self, magazine: MagazineRecord, in_mailslot: bool) -> list[MagazineRecord]:
        """It is in no slots now."""
        now_ns = self._clock.now_ns()
        if in_mailslot:
            text = "its discs are in mailslots"
            return [magazine] if magazine.become(MagazineState.MAILSLOT, now_ns, text) else []
        if not magazine.present and magazine.state != MagazineState.MAILSLOT:
            return []
        text = TAKEN_OUT if magazine.exporting else LEFT_UNASKED
        magazine.exporting = False
        log.info("magazine left the library", magazine=magazine.name)
        return [magazine] if magazine.become(magazine.outside, now_ns, text) else []
