"""Magazines that are meant for another place: which they are, and when they should go.

A magazine is marked by hand, or by itself where a volume lacks one for its
off-site copy: then an empty magazine of the library is taken. One that is
marked and not in the library is known to be off-site; its discs count as
copies all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog
import trio

from hsmfs.daemon.care import Care
from hsmfs.daemon.catalogrecords import (
    DiscRecord,
    DiscState,
    MagazineRecord,
    MagazineState,
    VolumeRecord,
)
from hsmfs.daemon.core import Core
from hsmfs.daemon.discchoice import choose_discs, copies_left, is_offsite
from hsmfs.daemon.magazines import Magazines, check_words
from hsmfs.daemon.migrator import Migrator
from hsmfs.daemon.paritykeeper import MEMBERS_MIN
from hsmfs.errors import CallerError, HsmError

log = structlog.get_logger(__name__)
WATCH_S: Final = 0.5
DAY_NS: Final = 86_400 * 10**9
TASK: Final = "take-offsite"
UNSETTLED: Final = (DiscState.BURNING, DiscState.BURNED)


@dataclass(slots=True)
class Offsite:
    """Marks magazines, and asks people to take them away."""

    core: Core
    magazines: Magazines
    migrator: Migrator
    care: Care

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(WATCH_S)
            try:
                await self._mark_if_wanted()
                await self._watch()
            except HsmError as error:
                log.warning("off-site tasks wait", error=str(error))

    # -- marks -----------------------------------------------------------------------

    async def mark(self, name: str, offsite: bool | None, location: str | None) -> MagazineRecord:
        """By hand: whether it is meant to leave, and where it stands outside."""
        magazine = self.magazines.get(name)
        if offsite and not magazine.offsite:
            self._check_mark(magazine)
        if location is not None:
            self.magazines.check_outside(magazine)
            check_words("place", location)
        if offsite is not None:
            magazine.offsite = offsite
        is_missing = magazine.state == MagazineState.MISSING
        if not magazine.is_seen and (location is not None or not is_missing):
            text = "found" if is_missing else ""
            magazine.become(magazine.outside, self.core.clock.now_ns(), text, location)
        await self.core.catalog.save(magazine)
        self.core.wake()
        return magazine

    def _check_mark(self, magazine: MagazineRecord) -> None:
        """Every volume in it must have a copy that stays at hand."""
        for disc in self._discs(magazine.name):
            if disc.state != DiscState.VERIFIED:
                continue
            others = [
                one
                for one in self.core.catalog.verified_discs(disc.volume)
                if one.magazine != magazine.name and not is_offsite(self.core, one)
            ]
            record = self.core.catalog.volumes.get(disc.volume)
            if not others and record is not None and record.parity is None:
                raise CallerError(
                    f"magazine {magazine.name} cannot be for off-site: volume {disc.volume} has "
                    "no other copy at hand; choose another magazine, best an empty one"
                )

    async def _mark_if_wanted(self) -> None:
        """A volume waits for a disc that leaves, and no magazine has one."""
        waiting = [active.record for active in self.migrator.active.values()]
        waiting += [record for record, _ in self.care.burn_demands()]
        chosen = next((found for record in waiting if (found := self.to_mark(record))), None)
        if chosen is None:
            return
        chosen.offsite = True
        await self.core.catalog.save(chosen)
        log.info("magazine is for off-site copies from now on", magazine=chosen.name)
        self.core.wake()

    def to_mark(self, record: VolumeRecord) -> MagazineRecord | None:
        """The empty magazine that a volume's off-site copy will get; None where it needs none,
        or there is none but the one that the others need."""
        here, away = copies_left(self.core, record)
        kept = self.care.parity.blanks_kept()
        chosen = choose_discs(self.core, record, here + away, kept) if away else []
        if not away or any(is_offsite(self.core, disc) for disc in chosen):
            return None
        taken = {disc.magazine for disc in chosen}
        empty = [
            magazine
            for magazine in self.core.catalog.magazines.values()
            if magazine.present
            and not magazine.offsite
            and magazine.name not in taken
            and self._is_empty(magazine.name)
        ]
        return max(empty, key=lambda one: one.name, default=None) if chosen or not here else None

    def _discs(self, magazine: str) -> list[DiscRecord]:
        return [d for d in self.core.catalog.discs.values() if d.magazine == magazine]

    def _is_empty(self, magazine: str) -> bool:
        return all(
            disc.state == DiscState.BLANK and disc.barcode not in self.core.reserved
            for disc in self._discs(magazine)
        )

    # -- tasks -----------------------------------------------------------------------

    async def _watch(self) -> None:
        for magazine in list(self.core.catalog.magazines.values()):
            task = self.magazines.open_task(TASK, magazine.name)
            if task is not None and not (magazine.present and magazine.offsite):
                await self.magazines.finish(task)
            elif task is None and (why := self.reason(magazine)):
                text = (
                    f"Take magazine {magazine.name} to the off-site place: {why}. "
                    f"Say hsm magazine export {magazine.name}."
                )
                await self.magazines.add_task(TASK, text, magazine.name)

    def reason(self, magazine: MagazineRecord) -> str:
        """Why a magazine should leave now; empty: it should not."""
        if not magazine.offsite or not magazine.present or magazine.exporting:
            return ""
        discs = self._discs(magazine.name)
        labels = {disc.volume for disc in discs if disc.state == DiscState.VERIFIED}
        unsettled = any(disc.state in UNSETTLED for disc in discs)
        if not labels or unsettled or labels & self.magazines.recaller.queues.keys():
            return ""
        if self._is_full(discs, len(labels)):
            return f"it is full ({len(labels)} volumes)"
        days = self.core.config.care.offsite_days
        volumes = self.core.catalog.volumes
        oldest_ns = min(
            (volumes[label].created_ns for label in labels if label in volumes), default=0
        )
        age_ns = self.core.clock.now_ns() - oldest_ns
        if days and oldest_ns and age_ns > days * DAY_NS:
            return f"its oldest volume has waited {age_ns // DAY_NS} days (care.offsite_days)"
        return ""

    def _is_full(self, discs: list[DiscRecord], members: int) -> bool:
        """No blank is left, but such as wait for parity that never comes."""
        blanks = {disc.barcode for disc in discs if disc.state == DiscState.BLANK}
        kept = blanks & self.care.parity.blanks_kept()
        return blanks == kept and (not kept or members < MEMBERS_MIN)
