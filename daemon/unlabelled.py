"""Discs whose barcode tells nothing: those without one are looked at, double ones are told of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hsmfs.daemon.core import Core
from hsmfs.daemon.drivetask import DriveState, DriveUnit
from hsmfs.errors import DriveError


@dataclass(slots=True)
class _LookAtJob:
    """Ask a disc without a barcode what it is (a ``DriveJob``)."""

    core: Core
    address: int
    ended: Callable[[int], None]

    async def run(self, unit: DriveUnit) -> None:
        """It is back in its slot afterwards, and known."""
        try:
            await self.core.librarian.look_at(unit, self.address)
            await self.core.librarian.refresh()
        except DriveError as error:
            unit.charge(error, for_good=True)
            raise
        finally:
            self.ended(self.address)


@dataclass(slots=True)
class Unlabelled:
    """Part of the dispatcher."""

    core: Core
    looking: set[int] = field(default_factory=set)
    """Addresses of discs that are being looked at."""

    def dispatch(self) -> None:
        """Hand out looks."""
        self._look()

    def _look(self) -> None:
        """One disc that nobody knows for each idle drive."""
        librarian = self.core.librarian
        unknown = [at for at in librarian.unknown_places() if at not in self.looking]
        holders = {unit.element: unit for unit in librarian.units}
        now_s = self.core.clock.monotonic_s()
        alive = librarian.alive_units()
        idle = [unit for unit in alive if not unit.busy and unit.rest_until_s <= now_s]
        free = [unit for unit in idle if unit.element not in unknown]
        for address in unknown:
            holder = holders.get(address)
            if holder is not None and holder not in idle:
                continue
            unit = holder or (free.pop(0) if free else None)
            if unit is None:
                continue
            self.looking.add(address)
            job = _LookAtJob(self.core, address, self.looking.discard)
            unit.assign(job, DriveState.LOADING)
