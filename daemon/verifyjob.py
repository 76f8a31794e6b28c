"""Read a disc back, all of it or a sample, and compare with what was sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog
import trio

from hsmfs.daemon.catalog import VolumeExtents, put_history, put_record
from hsmfs.daemon.catalogrecords import (
    DiscRecord,
    DiscState,
    HistoryRecord,
    VolumeRecord,
)
from hsmfs.daemon.core import Core
from hsmfs.daemon.discproof import Damage, damaged_files, image_hash, sampled
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.errors import DriveError, HsmError, MediumError, TransientError
from hsmfs.types import SECTOR_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)
WHOLE_PERCENT: Final = 100.0
NAMED_MAX: Final = 5
"""Damaged files in an alarm; the disc's history counts all."""


@dataclass(slots=True)
class VerifyJob:
    """Prove one disc; its state says the result.

    With ``sample_percent`` below 100 chunks are chosen by chance; that proves
    nothing of the others, so it never makes a disc verified that was not.
    """

    core: Core
    disc: DiscRecord
    volume: VolumeRecord
    on_ended: Callable[[VerifyJob], None]
    sample_percent: float = WHOLE_PERCENT
    what: str = "verify"
    """``verify`` or ``scrub``, for the disc's history."""
    _cancelled: bool = False
    _damaged: int = 0
    """Files that were found damaged."""
    _unit: DriveUnit | None = None
    error: HsmError | None = field(default=None)

    async def run(self, unit: DriveUnit) -> None:
        """The drive's part (a ``DriveJob``)."""
        started = self.core.clock.monotonic_s()
        self._unit = unit
        try:
            await self.core.librarian.load(unit, self.disc.barcode)
            size = await self._prove(unit)
            seconds = self.core.clock.monotonic_s() - started
            self.core.metrics.verify_seconds.observe(seconds)
            await self._succeeded(unit, seconds, size)
        except HsmError as error:
            self.error = error
            await self._failed(unit, error, self.core.clock.monotonic_s() - started)
        finally:
            self.on_ended(self)

    @property
    def drive(self) -> str:
        """Where it was read; empty before."""
        return self._unit.name if self._unit is not None else ""

    async def _prove(self, unit: DriveUnit) -> int:
        """Bytes that were read; MediumError where the disc is not what it should be."""
        info = await unit.call(unit.drive.disc_info)
        if info.state != "complete":
            raise MediumError(
                f"disc {self.disc.barcode}: found {info.state}, expected a closed disc"
            )
        try:
            if self.sample_percent < WHOLE_PERCENT:
                return await self._prove_sample(unit)
            return await self._prove_whole(unit)
        except trio.Cancelled:
            self._cancelled = True
            raise

    async def _prove_whole(self, unit: DriveUnit) -> int:
        total = self.volume.total_sectors
        expected = self.volume.image_xxh3
        try:
            digest = await unit.call(image_hash, unit.drive.read, total, self._check)
        except MediumError as error:
            raise MediumError(await self._damage(unit, str(error))) from error
        if expected and digest == expected:
            return total * SECTOR_BYTES
        if expected:
            why = f"found xxh3 {digest}, expected {expected}"
            text = f"what was read back differs from volume {self.volume.label} ({why})"
            raise MediumError(await self._damage(unit, text))
        return await self._prove_files(unit, digest)

    async def _prove_files(self, unit: DriveUnit, digest: str) -> int:
        """Where the image's hash is not known (after a rebuild): by all files' hashes."""
        extents = self._extents()
        found = await unit.call(damaged_files, unit.drive.read, extents, self._check)
        self._refuse(found)
        self.volume.image_xxh3 = digest
        await self.core.catalog.save(self.volume)
        return self.volume.total_sectors * SECTOR_BYTES + found.bytes

    async def _prove_sample(self, unit: DriveUnit) -> int:
        extents = self._extents()
        seed = self.core.clock.now_ns()
        found = await unit.call(
            sampled, unit.drive.read, extents, self.sample_percent, self._check, seed
        )
        self._refuse(found)
        return found.bytes

    def _refuse(self, found: Damage) -> None:
        self._damaged = found.total
        if found.total:
            raise MediumError(f"disc {self.disc.barcode}: {_damage_words(found)}")

    async def _damage(self, unit: DriveUnit, why: str) -> str:
        """Which files are hit, in words."""
        extents = self._extents()
        found = await unit.call(damaged_files, unit.drive.read, extents, self._check)
        self._damaged = found.total
        return f"disc {self.disc.barcode}: {why}; {_damage_words(found)}"

    def _extents(self) -> VolumeExtents:
        return self.core.catalog.volume_extents(self.volume.label)

    def _check(self) -> None:
        if self._cancelled:
            raise TransientError("verify was cancelled")
        if self.what == "scrub" and self._unit is not None and self._unit.yields:
            raise TransientError("the scrub makes room for recalls; it begins anew later")

    # -- the result ------------------------------------------------------------------

    async def _succeeded(self, unit: DriveUnit, seconds: float, size: int) -> None:
        unit.credit()
        whole = self.sample_percent >= WHOLE_PERCENT
        if whole:
            self.disc.become(DiscState.VERIFIED)
        self.disc.verified_in = unit.name
        self.disc.verified_ns = self.core.clock.now_ns()
        await self._record(unit, HistoryRecord(
            what=self.what, drive=unit.name, volume=self.volume.label, seconds=seconds, bytes=size,
            text="whole" if whole else f"sample of {self.sample_percent:g} %",
        ))  # fmt: skip

    async def _record(self, unit: DriveUnit, entry: HistoryRecord) -> None:
        change = put_history(self.disc.barcode, self.core.clock.now_ns(), entry)
        await self.core.catalog.transact(put_record(self.disc), change)

    async def _failed(self, unit: DriveUnit, error: HsmError, seconds: float) -> None:
        if isinstance(error, TransientError) and unit.yields:
            log.info("scrub ended early", disc=self.disc.barcode, why=str(error))
            return
        self.core.metrics.errors.labels(error.kind.value).inc()
        if isinstance(error, DriveError | MediumError):
            unit.charge(error, for_good=isinstance(error, DriveError))
        if isinstance(error, MediumError):
            self.disc.read_errors += 1
            self.disc.note = str(error)
            known = self.disc.state in (DiscState.VERIFIED, DiscState.DAMAGED)
            self.disc.become(DiscState.DAMAGED if known else DiscState.SUSPECT)
            self.core.alarms.raise_("verify-failed", str(error))
            await self._record(unit, HistoryRecord(
                what=self.what, drive=unit.name, volume=self.volume.label, seconds=seconds,
                errors=max(1, self._damaged), text=str(error),
            ))  # fmt: skip
        log.warning("verify failed", disc=self.disc.barcode, drive=unit.name, error=str(error))


def _damage_words(found: Damage) -> str:
    if not found.total:
        return "no file is damaged"
    shown = ", ".join(found.files[:NAMED_MAX])
    more = f" and {found.total - NAMED_MAX} more" if found.total > NAMED_MAX else ""
    return f"{found.total} files are damaged: {shown}{more}"
