"""Discs without barcodes: their numbers, and which of them a recognised disc is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from hsmfs.daemon.catalog import Catalog, put_history, put_record
from hsmfs.daemon.catalogrecords import (
    DiscRecord,
    DiscState,
    HistoryRecord,
    VolumeRecord,
    VolumeState,
)
from hsmfs.daemon.recognition import Content, Recognised
from hsmfs.volume.discmark import DiscMark, mark_bytes

if TYPE_CHECKING:
    from hsmfs.daemon.core import Core

log = structlog.get_logger(__name__)
IN_USE: Final = (DiscState.VERIFIED, DiscState.BURNED, DiscState.DAMAGED, DiscState.IMPORTED)
TAKEN_IN: Final = (VolumeState.COMPLETE, VolumeState.SHORT, VolumeState.BURNED)
NUMBER_DIGITS: Final = 4


def mark_for(core: Core, disc: DiscRecord, volume: VolumeRecord, total_sectors: int) -> bytes:
    """What is written behind a volume to tell the disc again; none where it has a barcode.
    Others' images are burned as they are."""
    if not disc.is_numbered or volume.foreign is not None:
        return b""
    mark = DiscMark(
        site=core.config.site.id,
        disc=disc.barcode,
        volume=volume.label,
        created_ns=volume.created_ns,
        box=disc.magazine,
    )
    return mark_bytes(mark, total_sectors)


def is_it(disc: DiscRecord, found: Recognised) -> bool:
    """Whether what was found may be this disc, as far as discs tell; of blank ones any is."""
    if disc.state == DiscState.BLANK:
        return found.content is Content.BLANK
    if found.mark is not None:
        return found.mark.disc == disc.barcode
    if found.header is not None:
        return found.header.label == disc.volume
    return disc.state not in (DiscState.BURNED, DiscState.VERIFIED, DiscState.DAMAGED)


@dataclass(slots=True)
class Identities:
    """Gives numbers, and knows discs again."""

    catalog: Catalog
    library: str
    site: str
    now_ns: Callable[[], int]
    box_of: Callable[[DiscMark], str] = lambda mark: ""
    """Where a disc belongs that the catalog does not know."""

    def new_number(self) -> str:
        """The next one that no disc of the site has."""
        known = max(map(_number_of, self.catalog.discs), default=0)
        return f"D{known + 1:0{NUMBER_DIGITS}d}"

    async def of_volume(
        self, found: Recognised, elsewhere: Collection[str], wanted: str = ""
    ) -> DiscRecord | str:
        """The disc, or in words why none of ours can be it.

        ``elsewhere`` are discs that are known to be in other places; ``wanted``
        goes before other discs of a volume without marks.
        """
        header, mark = found.header, found.mark
        if header is None:
            disc = self._foreign(found, elsewhere)
            why = found.why or "no file system is known"
            return disc or f"a disc that hsmfs did not write, or that cannot be read ({why})"
        if header.site != self.site:
            return f"volume {header.label} of site {header.site!r}, not of {self.site!r}"
        record = self.catalog.volumes.get(header.label)
        if record is None:
            return f"volume {header.label}, which the catalog does not know (see hsm rebuild)"
        if record.created_ns != header.created_ns:
            return f"another volume called {header.label}, made at {header.created_ns} ns"
        if mark is None:
            chosen = self._one_of(record.label, elsewhere, wanted)
        else:
            chosen = self.catalog.discs.get(mark.disc)
            if chosen is not None and chosen.volume != record.label:
                chosen = None
        if chosen is None and mark is not None and record.state in TAKEN_IN:
            chosen = await self._take_in(mark, record, found.total_sectors)
        if chosen is None:
            return f"a disc of volume {header.label} that the catalog does not know"
        if chosen.state not in IN_USE:
            return f"disc {chosen.barcode}, which is {chosen.state} ({chosen.note or 'not in use'})"
        return chosen

    async def identified(
        self, found: Recognised, elsewhere: Collection[str], here: str = ""
    ) -> DiscRecord:
        """The disc that a robot without a barcode reader looked at; a new number where it is
        none of ours. ``here`` is the one that was there last."""
        disc: DiscRecord | str = "a disc whose burn was not finished"
        if found.content in (Content.VOLUME, Content.OTHER):
            disc = await self.of_volume(found, elsewhere)
        if isinstance(disc, DiscRecord):
            return disc
        last = self.catalog.discs.get(here)
        if last is not None and here not in elsewhere and is_it(last, found):
            return last
        fresh = DiscRecord(
            barcode=self.new_number(), magazine="", position=0, library=self.library,
            capacity_sectors=found.capacity_sectors, is_numbered=True,
        )  # fmt: skip
        if found.content is not Content.BLANK:
            fresh.become(DiscState.FOREIGN)
            fresh.note = disc
        self.catalog.discs[fresh.barcode] = fresh
        await self.catalog.save(fresh)
        return fresh

    def _one_of(self, label: str, elsewhere: Collection[str], wanted: str) -> DiscRecord | None:
        """A disc without a mark (burned under a barcode) is known by its volume alone."""
        fitting = [
            disc
            for disc in self.catalog.discs_of(label)
            if disc.state in IN_USE and disc.barcode not in elsewhere
        ]
        return min(fitting, key=lambda one: (one.barcode != wanted, one.barcode), default=None)

    def _foreign(self, found: Recognised, elsewhere: Collection[str]) -> DiscRecord | None:
        """A disc of others whose tree was imported."""
        for volume in self.catalog.volumes.values():
            known = volume.foreign
            if known is not None and found.fingerprint and known.fingerprint == found.fingerprint:
                return self._one_of(volume.label, elsewhere, "")
        return None

    async def _take_in(
        self, mark: DiscMark, volume: VolumeRecord, sectors: int
    ) -> DiscRecord | None:
        """A copy that the catalog lost (a restored backup, a rebuild): it is proved next."""
        known = self.catalog.discs.get(mark.disc)
        if known is not None and known.state != DiscState.BLANK:
            return None
        disc = DiscRecord(
            barcode=mark.disc, magazine=self.box_of(mark), position=0, library=self.library,
            volume=volume.label, used_sectors=sectors, is_numbered=True, is_marked=True,
        )  # fmt: skip
        disc.become(DiscState.BURNED)
        self.catalog.discs[disc.barcode] = disc
        volume.state = VolumeState.COMPLETE
        entry = HistoryRecord(what="found", volume=volume.label)
        change = put_history(disc.barcode, self.now_ns(), entry)
        await self.catalog.transact(put_record(volume), put_record(disc), change)
        log.info("disc taken in", disc=disc.barcode, volume=volume.label)
        return disc


def _number_of(barcode: str) -> int:
    digits = barcode[1:]
    return int(digits) if barcode[:1] == "D" and digits.isdecimal() else 0
