"""The devices of a configured library: the robot, and drives by the element they stand at."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import EmulatedLibrary, open_library
from hsmfs.changer.library import Changer
from hsmfs.clock import SystemClock
from hsmfs.config import Library
from hsmfs.errors import CallerError


class DriveAt(NamedTuple):
    """A drive, and where the robot finds it."""

    name: str
    element: int
    drive: Drive


class Devices(NamedTuple):
    """One library's devices; nobody else may command them meanwhile."""

    emulated: EmulatedLibrary
    changer: Changer
    drives: list[DriveAt]


def open_devices(config: Library) -> Devices:
    """Robot and drives; CallerError where a drive element has no device."""
    library = open_library(Path(config.path), SystemClock(), config.speed)
    changer = Changer(library.changer_transport())
    return Devices(library, changer, _drives(library, changer))


def _drives(library: EmulatedLibrary, changer: Changer) -> list[DriveAt]:
    """Drives by element, matched by serial (DVCID and VPD page 80h)."""
    by_serial: dict[str, Drive] = {}
    for number in range(library.drive_count):
        drive = Drive(library.drive_transport(number))
        by_serial[drive.identity().serial] = drive
    found = []
    for index, element in enumerate(changer.inventory(refresh=True).drives):
        device = by_serial.get(str(element.drive_serial or ""))
        if device is None:
            raise CallerError(
                f"drive element {element.address}: no device with serial {element.drive_serial!r}"
            )
        found.append(DriveAt(f"drive{index}", int(element.address), device))
    return found
