"""Where belief and library differ: plain values in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from hsmfs.changer.library import Element, Inventory
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, MagazineRecord, VolumeRecord
from hsmfs.daemon.elementcheck import oddities
from hsmfs.volume.source import VolumeHeader


class Kind(StrEnum):
    """What sort of difference it is."""

    PLACE = "place"
    """A disc is elsewhere than believed."""
    GONE = "gone"
    """A disc should be inside and is in no element."""
    STRAY = "stray"
    """A disc lies outside of its own slot, or where no disc stays."""
    UNKNOWN = "unknown"
    """A disc that the catalog does not know, or cannot tell from others."""
    DOUBLE = "double"
    NOT_BLANK = "not-blank"
    """Data where a blank disc is expected."""
    BLANK = "blank"
    """A blank disc where a volume is expected."""
    WRONG_DISC = "wrong-disc"
    """Another volume than the one that is expected."""
    FOREIGN = "foreign"
    """Data that is no volume of ours where one is expected."""
    UNCOUNTED = "uncounted"
    """A copy of a known volume that does not count as one."""
    NOT_READ = "not-read"


@dataclass(slots=True)
class Finding:
    """One difference, in words."""

    kind: Kind
    disc: str
    place: str
    found: str
    expected: str
    todo: str = ""
    """What a person can do."""
    repaired: str = ""
    """What was taken over."""


@dataclass(frozen=True, slots=True)
class Belief:
    """What hsmd thinks before it asks."""

    place: Mapping[str, int]
    """Element of each disc that is inside."""
    in_drives: Mapping[int, str]
    """Disc of each drive element that is used; those at work are left out."""
    used_drives: frozenset[int]
    """Elements of all drives that are configured."""
    busy: frozenset[str]
    """Discs that are on their way or at work now."""
    discs: Mapping[str, DiscRecord]
    magazines: Mapping[str, MagazineRecord]
    library: str


def compare(belief: Belief, inventory: Inventory) -> list[Finding]:
    """All that element status shows to be otherwise."""
    return [
        *_odd(inventory),
        *_elsewhere(belief, inventory),
        *_drives(belief, inventory),
        *_gone(belief, inventory),
    ]


def _barcodes(inventory: Inventory) -> dict[str, Element]:
    every = (*inventory.slots, *inventory.drives, *inventory.mailslots, *inventory.transports)
    return {str(one.barcode): one for one in every if one.full and one.barcode}


def words(element: Element) -> str:
    """An element for people."""
    return f"{element.kind} {element.address}"


def _odd(inventory: Inventory) -> Iterator[Finding]:
    found = oddities(inventory)
    for code, places in found.doubles.items():
        where = ", ".join(str(place) for place in places)
        todo = "take the wrong one out, or give it another label; neither is used until then"
        yield Finding(Kind.DOUBLE, code, where, f"{len(places)} discs", "one disc", todo)
    for address in found.nameless:
        todo = "clean or replace its label, then hsm library audit --rescan"
        yield Finding(Kind.UNKNOWN, "", f"{address}", "a disc without barcode", "a barcode", todo)
    for arm in inventory.transports:
        if arm.full:
            todo = "take it off, or let the library's own panel do it"
            yield Finding(
                Kind.STRAY, str(arm.barcode or ""), words(arm), "a disc on the arm", "none", todo
            )


def _elsewhere(belief: Belief, inventory: Inventory) -> Iterator[Finding]:
    """Discs that are in another element than was believed, or in another one than their own."""
    doubles = oddities(inventory).doubles
    for code, element in sorted(_barcodes(inventory).items()):
        if code in doubles or code in belief.busy:
            continue
        disc = belief.discs.get(code)
        believed = belief.place.get(code)
        if disc is None:
            todo = "put it into a slot"
            yield Finding(Kind.UNKNOWN, code, words(element), "a disc", "one that is known", todo)
            continue
        if believed is not None and believed != element.address:
            yield Finding(Kind.PLACE, code, words(element), "the disc", f"in element {believed}")
        magazine = belief.magazines.get(disc.magazine)
        home = magazine.first_slot + disc.position if magazine is not None else None
        if element.kind == "slot" and home not in (None, int(element.address)):
            expected = f"in slot {home} (magazine {disc.magazine})"
            todo = "put it into its own slot, or leave it: it is found here too"
            yield Finding(Kind.STRAY, code, words(element), "the disc", expected, todo)
        elif element.kind == "mailslot":
            todo = "put it into a slot, or take it out"
            yield Finding(Kind.STRAY, code, words(element), "the disc", "in a slot", todo)


def _drives(belief: Belief, inventory: Inventory) -> Iterator[Finding]:
    for element in inventory.drives:
        held = str(element.barcode or "") if element.full else ""
        if element.address not in belief.in_drives:
            if element.full and element.address not in belief.used_drives:
                todo = "configure the drive, or let the library's own panel take the disc out"
                found = f"disc {held or 'without barcode'} in a drive that is not used"
                yield Finding(Kind.STRAY, held, words(element), found, "no disc", todo)
            continue
        expected = belief.in_drives[element.address]
        if held != expected and not {held, expected} & belief.busy:
            yield Finding(
                Kind.PLACE, held or expected, words(element), held or "empty", expected or "empty"
            )


def _gone(belief: Belief, inventory: Inventory) -> Iterator[Finding]:
    seen = _barcodes(inventory)
    for code, disc in sorted(belief.discs.items()):
        magazine = belief.magazines.get(disc.magazine)
        if magazine is None or not magazine.present or magazine.library != belief.library:
            continue
        if code in seen or code in belief.busy or disc.state == DiscState.RETIRED:
            continue
        home = f"slot {magazine.first_slot + disc.position} (magazine {disc.magazine})"
        todo = f"look for it, or say hsm disc quarantine {code}"
        what = f"disc with {disc.volume}" if disc.volume else f"{disc.state} disc"
        yield Finding(Kind.GONE, code, home, "no such disc in any element", f"a {what}", todo)


# -- what is on discs ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DiscFound:
    """What a drive reads of a disc."""

    state: str
    """blank, incomplete or complete."""
    header: VolumeHeader | None = None
    """Of a volume of ours or of another site."""
    note: str = ""
    """Why there is none."""

    def words(self) -> str:
        if self.state == "blank":
            return "a blank disc"
        if self.header is not None:
            return f"volume {self.header.label} of site {self.header.site}"
        return f"no volume of hsmfs ({self.note})"


READ: Final = (
    DiscState.BLANK,
    DiscState.BURNED,
    DiscState.VERIFIED,
    DiscState.DAMAGED,
    DiscState.FOREIGN,
)
"""Whose discs are looked at. Imported ones prove themselves each time they are read; what was
cut or replaced is of no more use."""


def judge(
    disc: DiscRecord, found: DiscFound, volumes: Mapping[str, VolumeRecord], site: str
) -> Finding | None:
    """None if the disc is what it is believed to be."""
    known = known_volume(found, volumes, site)

    def finding(kind: Kind, expected: str, todo: str) -> Finding:
        return Finding(
            kind, disc.barcode, f"magazine {disc.magazine}", found.words(), expected, todo
        )

    if disc.state == DiscState.BLANK:
        if found.state == "blank":
            return None
        todo = "nothing is written to it; --repair counts it as foreign, or as the copy that it is"
        return finding(Kind.NOT_BLANK, "a blank disc", todo)
    if disc.state == DiscState.FOREIGN:
        if known is None:
            return None
        todo = f"--repair, or hsm disc identify {disc.barcode}"
        return finding(Kind.UNCOUNTED, "a disc of others", todo)
    expected = f"volume {disc.volume}"
    if known is not None and known.label == disc.volume:
        return None
    todo = "look for the right one; --repair takes this one for what it is, and nothing is lost"
    if found.state == "blank":
        return finding(Kind.BLANK, expected, todo)
    kind = Kind.WRONG_DISC if found.header is not None else Kind.FOREIGN
    return finding(kind, expected, todo)


def known_volume(
    found: DiscFound, volumes: Mapping[str, VolumeRecord], site: str
) -> VolumeRecord | None:
    """The volume of the catalog that a disc is a copy of, by label, site and moment."""
    header = found.header
    if header is None or header.site != site:
        return None
    record = volumes.get(header.label)
    return record if record is not None and record.created_ns == header.created_ns else None
