"""What element status shows that cannot be right: plain values in and out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from hsmfs.changer.library import Element, Inventory


@dataclass(frozen=True, slots=True)
class Oddities:
    """Discs that cannot be told from others by their barcodes."""

    doubles: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Elements of each barcode that several discs have."""
    nameless: tuple[int, ...] = ()
    """Slots and mailslots with a disc whose barcode was not read."""

    @property
    def elements(self) -> frozenset[int]:
        """All elements that hold such discs."""
        return frozenset(self.nameless).union(*self.doubles.values())


def oddities(inventory: Inventory) -> Oddities:
    """Of all slots, drives and mailslots."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for element in (*inventory.slots, *inventory.drives, *inventory.mailslots):
        if element.full and element.barcode:
            places[str(element.barcode)].append(int(element.address))
    still = (*inventory.slots, *inventory.mailslots)
    return Oddities(
        {code: tuple(found) for code, found in sorted(places.items()) if len(found) > 1},
        tuple(int(element.address) for element in still if _is_nameless(element)),
    )


def _is_nameless(element: Element) -> bool:
    return element.full and not element.barcode
