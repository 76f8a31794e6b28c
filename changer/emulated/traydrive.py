"""An emulated drive with a tray that a person loads."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hsmfs.changer.emulated import drivepages as pages
from hsmfs.changer.emulated.deskstate import DeskFile, DeskState, DeskTray
from hsmfs.changer.emulated.device import IN_PROCESS, CheckCondition
from hsmfs.changer.emulated.disc import DiscFile
from hsmfs.changer.emulated.drivedevice import REMOVAL_PREVENTED, DriveDevice, Speed
from hsmfs.changer.emulated.faults import Faults
from hsmfs.changer.sense import Sense
from hsmfs.changer.transport.interface import Reply
from hsmfs.clock import Clock

NO_MEDIUM_CLOSED: Final = Sense(0x02, 0x3A, 0x01)
NO_MEDIUM_OPEN: Final = Sense(0x02, 0x3A, 0x02)


class TrayDrive(DriveDevice):
    """One drive; before each command it looks what people did with its tray."""

    def __init__(
        self, number: int, discs: Path, desk: DeskFile, faults: Faults, clock: Clock, speed: Speed
    ) -> None:
        timing = desk.read().timing
        super().__init__(number, discs, 0, faults, clock, speed, timing)
        self._desk = desk
        self._number = number
        self._seen = DeskTray()
        self._lock_tray(False)  # a power-on
        self._look()

    def execute(
        self,
        cdb: bytes,
        data_out: bytes | memoryview,
        data_in_len: int,
        nexus: str = IN_PROCESS,
    ) -> Reply:
        """One command at a time, on what lies in the tray now."""
        with self.lock:
            self._look()
            return super().execute(cdb, data_out, data_in_len, nexus)

    def _look(self) -> None:
        state = self._desk.read()
        tray = state.trays[self._number]
        before, self._seen = self._seen, tray
        held = "" if tray.is_open else tray.disc
        changed = (before.disc, before.is_open, before.closed) != (
            tray.disc, tray.is_open, tray.closed,
        )  # fmt: skip
        if changed and self.disc is not None:
            self.remove()
            self._event = pages.MEDIUM_REMOVED
        self.ejected = tray.is_open
        if changed and held:
            self._capacity = state.discs[held].sectors
            self.insert(held)

    def _ready_disc(self) -> DiscFile:
        if self.disc is None:
            raise CheckCondition(NO_MEDIUM_OPEN if self.ejected else NO_MEDIUM_CLOSED)
        return super()._ready_disc()

    def _start_stop(self, cdb: bytes) -> bytes:
        """The tray opens and closes with whatever lies on it."""
        if not cdb[4] & 2:
            return b""
        closes = bool(cdb[4] & 1)
        self._fault("load" if closes else "eject")
        if not closes and self.prevented:
            raise CheckCondition(REMOVAL_PREVENTED)
        self._desk.change(lambda state: set_tray(state, self._number, is_open=not closes))
        self._look()
        return b""

    def _prevent_allow(self, cdb: bytes) -> bytes:
        super()._prevent_allow(cdb)
        if self.prevented != self._seen.is_locked:
            self._lock_tray(self.prevented)
        return b""

    def allow_all(self) -> None:
        """Nobody prevents any more; the button works again."""
        super().allow_all()
        if self._seen.is_locked:
            self._lock_tray(False)

    def _lock_tray(self, locked: bool) -> None:
        def change(state: DeskState) -> None:
            state.trays[self._number].is_locked = locked

        self._desk.change(change)


def set_tray(state: DeskState, number: int, *, is_open: bool) -> None:
    """Open or close it, by command or by the button."""
    tray = state.trays[number]
    if tray.is_open and not is_open:
        tray.closed += 1
    tray.is_open = is_open
