"""Discs, places and magazines of libraries, as the new catalog gets them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hsmfs.changer.library import Element, Inventory
from hsmfs.config import Library
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, MagazineRecord
from hsmfs.tools.rebuild.images import FoundVolume
from hsmfs.tools.rebuild.ledger import Ledger
from hsmfs.tools.rebuild.libraryread import LibraryRead
from hsmfs.tools.rebuild.recording import DiscFacts, Found

STATE_OF: Final = {
    Found.BLANK: DiscState.BLANK,
    Found.CUT: DiscState.SUSPECT,
    Found.OTHER: DiscState.FOREIGN,
}
UNREAD: Final = "hsm rebuild could not read it ({}); hsm disc identify tries again"


@dataclass(slots=True)
class Shelf:
    """What was read of libraries; empty where only images are given."""

    facts: dict[str, DiscFacts] = field(default_factory=dict)
    """Discs that were read, by barcode."""
    images: list[Path] = field(default_factory=list)
    """Of volumes."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    magazines: list[MagazineRecord] = field(default_factory=list)
    known: int = 0
    loads: int = 0
    _places: dict[str, tuple[str, int, str]] = field(default_factory=dict)
    """Magazine, position and library of each disc that is inside."""

    @classmethod
    def of(cls, ledger: Ledger, reads: Iterable[LibraryRead]) -> Shelf:
        """All that the ledger has, and where libraries have it."""
        shelf = cls(facts=ledger.discs)
        shelf.images = [
            ledger.image(code) for code, one in ledger.discs.items() if one.found == Found.VOLUME
        ]
        for one in reads:
            shelf.left_out += one.left_out
            shelf.problems += one.problems
            shelf.known += one.known
            shelf.loads += one.loads
            shelf._stand(one.library, one.inventory)
        inside = shelf._places.keys()
        shelf.left_out += [
            (code, f"it was read and cannot be used: {facts.note}")
            for code, facts in ledger.discs.items()
            if facts.found == Found.OTHER
        ]
        shelf.problems += [
            f"disc {code} was read before, and is not in the library now"
            for code in ledger.discs
            if code not in inside
        ]
        return shelf

    def _stand(self, library: Library, inventory: Inventory) -> None:
        """Magazines are the spans of slots, as hsmd takes them."""
        span, slots = library.magazine_slots, inventory.slots
        home = {int(slot.address): number for number, slot in enumerate(slots)}
        inside: dict[int, str] = {n: str(s.barcode or "") for n, s in enumerate(slots) if s.full}
        for drive in inventory.drives:
            if drive.full and drive.source is not None and int(drive.source) in home:
                inside.setdefault(home[int(drive.source)], str(drive.barcode or ""))
        for start in range(0, len(slots), span):
            here = {n - start: code for n, code in inside.items() if start <= n < start + span}
            if here:
                self._magazine(library, slots[start], here)
        loose = (*inventory.mailslots, *inventory.drives)
        for code in (str(element.barcode) for element in loose if element.full and element.barcode):
            self._places.setdefault(code, ("", 0, library.name))

    def _magazine(self, library: Library, first: Element, here: dict[int, str]) -> None:
        name = f"M{len(self.magazines) + 1:02d}"
        self.magazines.append(
            MagazineRecord(name=name, library=library.name, first_slot=int(first.address))
        )
        for position, code in here.items():
            if code:
                self._places[code] = (name, position, library.name)

    def as_facts(self) -> dict[str, object]:
        """For the command's answer."""
        kinds = Counter(facts.found for facts in self.facts.values())
        return {
            "read": len(self.facts),
            "read_before": self.known,
            "loads": self.loads,
            "blank": kinds[Found.BLANK],
            "cut": kinds[Found.CUT],
            "problems": self.problems,
        }

    # -- volumes ------------------------------------------------------------------------------

    def add_copies(self, volumes: dict[str, FoundVolume]) -> None:
        """Discs that are copies of what other discs gave whole."""
        for code, facts in self.facts.items():
            volume = volumes.get(facts.header.label) if facts.header is not None else None
            if volume is None or facts.found not in (Found.COPY, Found.DAMAGED):
                continue
            if code not in volume.barcodes:
                volume.barcodes.append(code)
            if facts.found == Found.DAMAGED:
                volume.damaged.add(code)

    def by_barcode(self, left_out: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """What was left out of the images, discs of libraries by their barcodes."""
        mine = {str(image): image.stem for image in self.images}
        return [(mine.get(image, image), why) for image, why in left_out]

    # -- records ------------------------------------------------------------------------------

    def place(self, disc: DiscRecord) -> DiscRecord:
        """With its magazine, where it is in one."""
        disc.magazine, disc.position, disc.library = self._places.get(
            disc.barcode, ("", 0, disc.library)
        )
        facts = self.facts.get(disc.barcode)
        if facts is not None and disc.state == DiscState.DAMAGED and facts.note:
            disc.note = f"{disc.note}: {facts.note}"
        return disc

    def others(self, known: set[str], library: str) -> list[DiscRecord]:
        """Discs that are of no volume; ``known`` are those that are."""
        why = dict(self.left_out)
        found = []
        for code in sorted(self._places.keys() | self.facts.keys()):
            if code in known:
                continue
            facts = self.facts.get(code)
            state = DiscState.FOREIGN if facts is None else STATE_OF.get(facts.found)
            note = facts.note if facts is not None else ""
            if facts is None or state is None:
                state, note = DiscState.FOREIGN, UNREAD.format(note or why.get(code, "not read"))
            disc = DiscRecord(
                barcode=code, magazine="", position=0, library=library, state=state, note=note
            )
            if facts is not None and state == DiscState.BLANK:
                disc.capacity_sectors = facts.sectors
            found.append(self.place(disc))
        return found
