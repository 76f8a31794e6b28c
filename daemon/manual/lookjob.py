"""What a drive does by itself in a manual library: look at a disc, open and close the tray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.daemon.manual.seat import Seat
from hsmfs.daemon.recognition import Content, Recognised, recognise
from hsmfs.errors import DriveError, MediumError

if TYPE_CHECKING:
    from hsmfs.daemon.manual.librarian import ManualLibrarian

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class LookJob:
    """A disc came in: let it tell what it is (a ``DriveJob``)."""

    librarian: ManualLibrarian
    seat: Seat

    async def run(self, unit: DriveUnit) -> None:
        """Ends with the seat known, or empty again."""
        try:
            await unit.call(unit.drive.ready, self.librarian.config.load_timeout_s)
            found = await unit.call(recognise, unit.drive)
        except MediumError as error:
            tray = await unit.call(unit.drive.tray)
            if not tray.present:
                await self.librarian.saw(self.seat, present=False, is_open=tray.is_open)
                return
            found = Recognised(Content.OTHER, why=str(error))
        except DriveError as error:
            unit.charge(error, for_good=True)
            found = Recognised(Content.OTHER, why=str(error))
        await self.librarian.recognised(self.seat, found)


@dataclass(slots=True)
class OpenJob:
    """Let go of what is in, and open the tray for the person."""

    librarian: ManualLibrarian
    seat: Seat

    async def run(self, unit: DriveUnit) -> None:
        """A drive that does not open is charged."""
        try:
            await unit.call(unit.drive.prevent_removal, False)
            self.seat.is_locked = False
            await unit.call(unit.drive.eject)
        except DriveError as error:
            unit.charge(error, for_good=True)
            log.warning("the tray does not open", drive=unit.name, error=str(error))
        tray = await unit.call(unit.drive.tray)
        await self.librarian.saw(self.seat, present=tray.present, is_open=tray.is_open)


@dataclass(slots=True)
class CloseJob:
    """A person says that the disc lies on the tray: draw it in, and look."""

    librarian: ManualLibrarian
    seat: Seat

    async def run(self, unit: DriveUnit) -> None:
        """Drives whose tray is pushed by hand refuse; the tray tells all the same."""
        try:
            await unit.call(unit.drive.load)
        except DriveError as error:
            log.info("the tray is not drawn in", drive=unit.name, error=str(error))
        tray = await unit.call(unit.drive.tray)
        await self.librarian.saw(self.seat, present=tray.present, is_open=tray.is_open)
        if tray.present:
            self.seat.empty()
            self.seat.present = True
            await LookJob(self.librarian, self.seat).run(unit)
