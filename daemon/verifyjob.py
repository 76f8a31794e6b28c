"""Read a burned disc back, all of it, and compare with what was sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog
import trio
import xxhash

from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, VolumeRecord
from hsmfs.daemon.core import Core
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.errors import DriveError, HsmError, MediumError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)
READ_SECTORS: Final = 512


@dataclass(slots=True)
class VerifyJob:
    """Prove one disc; its state says the result."""

    core: Core
    disc: DiscRecord
    volume: VolumeRecord
    on_ended: Callable[[VerifyJob], None]
    _cancelled: bool = False
    error: HsmError | None = field(default=None)

    async def run(self, unit: DriveUnit) -> None:
        """The drive's part (a ``DriveJob``)."""
        started = self.core.clock.monotonic_s()
        try:
            await self.core.librarian.load(unit, self.disc.barcode)
            await self._prove(unit)
            self.core.metrics.verify_seconds.observe(self.core.clock.monotonic_s() - started)
        except HsmError as error:
            self.error = error
            await self._failed(unit, error)
        finally:
            self.on_ended(self)

    async def _prove(self, unit: DriveUnit) -> None:
        info = await unit.call(unit.drive.disc_info)
        if info.state != "complete":
            raise MediumError(
                f"disc {self.disc.barcode}: found {info.state}, expected a closed disc"
            )
        try:
            digest = await unit.call(self._read_all, unit)
        except trio.Cancelled:
            self._cancelled = True
            raise
        if digest != self.volume.image_xxh3:
            raise MediumError(
                f"disc {self.disc.barcode}: what was read back differs from volume "
                f"{self.volume.label} (found xxh3 {digest}, expected {self.volume.image_xxh3})"
            )
        unit.credit()
        self.disc.become(DiscState.VERIFIED)
        self.disc.verified_in = unit.name
        self.disc.verified_ns = self.core.clock.now_ns()
        await self.core.catalog.save(self.disc)

    def _read_all(self, unit: DriveUnit) -> str:
        """Hash of all sectors (in the drive's thread)."""
        digest = xxhash.xxh3_128()
        total = self.volume.total_sectors
        for lba in range(0, total, READ_SECTORS):
            if self._cancelled:
                raise TransientError("verify was cancelled")
            digest.update(unit.drive.read(lba, min(READ_SECTORS, total - lba)))
        return digest.hexdigest()

    async def _failed(self, unit: DriveUnit, error: HsmError) -> None:
        self.core.metrics.errors.labels(error.kind.value).inc()
        if isinstance(error, DriveError | MediumError):
            unit.charge(error, for_good=isinstance(error, DriveError))
        if isinstance(error, MediumError):
            self.disc.read_errors += 1
            self.disc.note = str(error)
            known = self.disc.state == DiscState.VERIFIED
            self.disc.become(DiscState.DAMAGED if known else DiscState.SUSPECT)
            self.core.alarms.raise_("verify-failed", str(error))
            await self.core.catalog.save(self.disc)
        log.warning("verify failed", disc=self.disc.barcode, drive=unit.name, error=str(error))
