"""Look what a disc is, and take it in where it is a copy of a volume that is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from hsmfs.daemon.catalog import put_history, put_record
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, HistoryRecord, VolumeState
from hsmfs.daemon.core import Core
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.daemon.jobs import Job
from hsmfs.errors import CallerError, HsmError
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.source import VolumeHeader

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class IdentifyJob:
    """The drive's part (a ``DriveJob``)."""

    core: Core
    disc: DiscRecord
    job: Job
    on_ended: Callable[[IdentifyJob], None]

    async def run(self, unit: DriveUnit) -> None:
        """The job tells what was found; nothing is ever written to the disc."""
        try:
            await self.core.librarian.load(unit, self.disc.barcode)
            info = await unit.call(unit.drive.disc_info)
            if info.state == "blank":
                self.disc.capacity_sectors = info.capacity_sectors
                await self.core.catalog.save(self.disc)
                self.job.note = f"disc {self.disc.barcode} is blank"
            else:
                sectors = info.capacity_sectors
                reader = await unit.call(lambda: VolumeReader(unit.drive.read, sectors))
                header = await unit.call(lambda: reader.header)
                await self._take_in(unit, header, reader.total_sectors)
            self.job.done(0)
        except HsmError as error:
            self.job.fail(f"disc {self.disc.barcode}: {error}")
        finally:
            self.core.reserved.discard(self.disc.barcode)
            self.on_ended(self)

    async def _take_in(self, unit: DriveUnit, header: VolumeHeader, sectors: int) -> None:
        """CallerError where it is no copy of a volume of ours."""
        site = self.core.config.site.id
        if header.site != site:
            raise CallerError(f"found a volume of site {header.site!r}, expected {site!r}")
        record = self.core.catalog.volumes.get(header.label)
        if record is None:
            raise CallerError(
                f"found volume {header.label}, which the catalog does not know; hsm rebuild takes "
                "volumes in that no catalog knows"
            )
        if record.created_ns != header.created_ns:
            raise CallerError(
                f"found volume {header.label} made at {header.created_ns} ns, expected "
                f"{record.created_ns}: another volume has this label"
            )
        if record.state not in (VolumeState.COMPLETE, VolumeState.SHORT):
            raise CallerError(f"found volume {header.label}, which is {record.state}")
        disc = self.disc
        disc.become(DiscState.BURNED)
        disc.volume, disc.used_sectors = header.label, sectors
        record.state, record.total_sectors, record.note = VolumeState.COMPLETE, sectors, ""
        entry = HistoryRecord(what="found", drive=unit.name, volume=header.label)
        change = put_history(disc.barcode, self.core.clock.now_ns(), entry)
        await self.core.catalog.transact(put_record(record), put_record(disc), change)
        self.job.note = f"disc {disc.barcode} is a copy of volume {header.label}; it is proved next"
        log.info("disc taken in", disc=disc.barcode, volume=header.label)
