"""Discs on which a robot reads no barcode: which of them is where.

Element status tells full places alone. A place's number comes from the
catalog (where the disc was put last) or from a look at the disc itself; moves
carry it along. What nobody knows is looked at before anything else; what the
catalog said is proved when the disc is loaded for the first time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from hsmfs.changer.library import Element, Inventory


@dataclass(slots=True)
class Untagged:
    """Numbers by element address."""

    there: dict[int, str] = field(default_factory=dict)
    unknown: set[int] = field(default_factory=set)
    """Full places of which nobody knows the disc."""
    proved: set[str] = field(default_factory=set)
    """Numbers that the discs themselves told since the start."""
    failures: Counter[int] = field(default_factory=Counter)
    """How often the disc at an address could not be looked at."""
    _gone: dict[int, str] = field(default_factory=dict)
    """What was last at a place that is empty now: a move may not have been told yet."""

    def seed(self, homes: dict[int, str], inventory: Inventory) -> None:
        """What the catalog believes: numbers by slot; those in drives by where they came from."""
        full = {int(e.address) for e in inventory.slots if e.full and not e.barcode}
        self.there.update({at: number for at, number in homes.items() if at in full})
        for element in inventory.drives:
            home = int(element.source) if element.source is not None else -1
            if element.full and not element.barcode and home in homes and home not in full:
                self.there[int(element.address)] = homes[home]

    def named(self, inventory: Inventory) -> Inventory:
        """The inventory with numbers in the place of barcodes that are not there."""
        return inventory._replace(
            slots=self._all_named(inventory.slots),
            drives=self._all_named(inventory.drives),
            mailslots=self._all_named(inventory.mailslots),
        )

    def _all_named(self, elements: Iterable[Element]) -> tuple[Element, ...]:
        return tuple(self._named(element) for element in elements)

    def _named(self, element: Element) -> Element:
        address = int(element.address)
        if not element.full or element.barcode:
            self.unknown.discard(address)
            self.failures.pop(address, None)
            number = self.there.pop(address, None)
            if number is not None:
                self._gone[address] = number
            return element
        if address in self.there:
            return element._replace(barcode=self.there[address])
        self.unknown.add(address)
        self._gone.pop(address, None)  # another disc stands there now
        return element

    def moved(self, source: int, destination: int) -> None:
        """The robot carried what was there; a disc with a barcode is no matter of ours."""
        number = self.there.pop(source, None) or self._gone.pop(source, None)
        was_unknown = source in self.unknown
        self.unknown.discard(source)
        self._gone.pop(destination, None)
        if number is not None:
            self.unknown.discard(destination)
            self.there[destination] = number
        elif was_unknown:
            self.unknown.add(destination)

    def is_at(self, address: int, number: str) -> None:
        """A disc told what it is."""
        self.there = {at: other for at, other in self.there.items() if other != number}
        self.there[address] = number
        self.unknown.discard(address)
        self.proved.add(number)

    def doubt(self, address: int) -> None:
        """A disc is not what the catalog said: nothing is believed that no disc told."""
        for at, number in list(self.there.items()):
            if at == address or number not in self.proved:
                del self.there[at]
                self.unknown.add(at)
