"""Mostly dead volumes are reclaimed by themselves, where their pool says when.

One volume at a time, the deadest first, and only while blank discs are plenty:
``care.reclaim_blanks_min`` must be left in the library after its live files
have got their copies. Why it waits is told by the alarm ``reclaim``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from hsmfs.daemon.catalogrecords import VolumeRecord, VolumeState
from hsmfs.daemon.core import Core
from hsmfs.daemon.deadshare import DeadShares
from hsmfs.daemon.discchoice import is_offsite
from hsmfs.daemon.paritykeeper import ParityKeeper
from hsmfs.daemon.poolcare import pool_of
from hsmfs.daemon.reclaim import Reclaimer
from hsmfs.errors import FsError, HsmError

log = structlog.get_logger(__name__)
LOOK_MAX_S: Final = 10.0
"""Looks come at ``policy.interval_s``, but not less often than this."""
RETRY_S: Final = 86_400.0
"""A volume that could not be reclaimed is left alone for so long."""
ALARM: Final = "reclaim"


@dataclass(slots=True)
class AutoReclaim:
    """Looks again and again; all that it does goes by ``Reclaimer``."""

    core: Core
    shares: DeadShares
    reclaimer: Reclaimer
    parity: ParityKeeper
    _not_before_s: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(min(self.core.config.policy.interval_s, LOOK_MAX_S))
            if not self.core.link.connected:
                continue
            try:
                await self.look()
            except (HsmError, FsError) as error:
                log.warning("reclaim waits", why=str(error))

    async def look(self) -> None:
        """Count what went, and reclaim at most one volume."""
        await self.core.link.sync()
        await self.shares.look()
        waits = ""
        for record in self._candidates():
            why = await self._obstacle(record)
            if not why:
                self.core.alarms.clear(ALARM)
                await self._reclaim(record)
                return
            waits = waits or why
        self._tell(waits)

    def _candidates(self) -> list[VolumeRecord]:
        """Dead enough, the deadest first."""
        found = [(share, record) for record, share, bound in self._shares() if share > bound]
        found.sort(key=lambda pair: (-pair[0], pair[1].label))
        now_s = self.core.clock.monotonic_s()
        return [r for _, r in found if self._not_before_s.get(r.label, now_s) <= now_s]

    def _shares(self) -> Iterator[tuple[VolumeRecord, float, float]]:
        """Complete volumes of pools that say when, with their share and the pool's bound."""
        for record in self.core.catalog.volumes.values():
            pool, share = pool_of(self.core, record), self.shares.share(record)
            if record.state != VolumeState.COMPLETE or record.refresh or record.parity is not None:
                continue
            if pool is not None and pool.reclaim_dead is not None and share is not None:
                yield record, share, pool.reclaim_dead

    async def _obstacle(self, record: VolumeRecord) -> str:
        """Why a volume is not reclaimed now; empty: nothing is in the way."""
        if record.dead_bytes >= record.bytes:
            return ""  # nothing lives: no disc is read or burned
        share = f"volume {record.label} is {self._percent(record)} dead and waits"
        discs = self.core.catalog.verified_discs(record.label)
        if not any(self.core.librarian.present(disc) for disc in discs):
            names = ", ".join(sorted({disc.magazine for disc in discs})) or "no disc is left"
            return f"{share}: none of its discs is in the library; bring one of: {names}"
        least = self.core.config.care.reclaim_blanks_min
        blanks = self._blanks()
        if blanks < record.copies + least and not self.core.librarian.by_hand:
            return (
                f"{share}: found {blanks} blank discs, expected {record.copies} for its live files "
                f"and {least} to be left (care.reclaim_blanks_min); bring blank discs"
            )
        return ""

    def _percent(self, record: VolumeRecord) -> str:
        return f"{(self.shares.share(record) or 0.0) * 100:.0f} %"

    def _blanks(self) -> int:
        kept = self.core.reserved | self.parity.blanks_kept()
        blanks = self.core.librarian.blanks(set(), kept)
        return sum(not is_offsite(self.core, disc) for disc in blanks)

    def _tell(self, why: str) -> None:
        """One reason is in force at a time."""
        if (ALARM, why) not in self.core.alarms.active:
            self.core.alarms.clear(ALARM)
            if why:
                self.core.alarms.raise_(ALARM, why)

    async def _reclaim(self, record: VolumeRecord) -> None:
        job = self.core.jobs.new("reclaim")
        job.note = f"volume {record.label}: {self._percent(record)} dead"
        log.info("volume is reclaimed", volume=record.label, dead=self._percent(record))
        try:
            await self.reclaimer.run(job, record)
        except (HsmError, FsError) as error:
            job.complain(str(error))
            job.files_failed = max(job.files_failed, job.files_total - job.files_done)
            self._not_before_s[record.label] = self.core.clock.monotonic_s() + RETRY_S
            self._tell(
                f"volume {record.label} was not reclaimed, it is tried again in a day: {error}"
            )
        finally:
            job.end()
