"""Emulated drives without a robot, and the hands of the person who loads them."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import Final

from hsmfs.changer.emulated.deskstate import (
    DESK_FILE,
    DISCS_MAX,
    DRIVES_MAX,
    DeskDisc,
    DeskFile,
    DeskState,
    DeskTray,
    write_desk,
)
from hsmfs.changer.emulated.device import Device
from hsmfs.changer.emulated.disc import CLOSED_FOLDER, image_path, marker_path
from hsmfs.changer.emulated.drivedevice import Speed
from hsmfs.changer.emulated.faults import Faults
from hsmfs.changer.emulated.library import (
    ECC_SECTORS,
    LOCK_ATTEMPTS_MAX,
    LOCK_PAUSE_S,
    EmulatedTransport,
)
from hsmfs.changer.emulated.traydrive import TrayDrive, set_tray
from hsmfs.clock import Clock, SystemClock
from hsmfs.errors import CallerError
from hsmfs.types import SECTOR_BYTES

HELD_FILE: Final = "library.lock"
PEN_CHARACTERS_MAX: Final = 100


def create_desk(
    path: Path, drives: int = 1, discs: int = 24, disc_bytes: int = 200_000_000
) -> None:
    """New drives, and a spindle of blank discs beside them; CallerError if there are some."""
    if (path / DESK_FILE).exists():
        raise CallerError(f"{path}: holds emulated drives already")
    if not (0 < drives <= DRIVES_MAX and 0 <= discs <= DISCS_MAX):
        raise CallerError(
            f"{drives} drives, {discs} discs: expected 1 to {DRIVES_MAX} drives and at most "
            f"{DISCS_MAX} discs"
        )
    sectors = _whole_clusters(disc_bytes)
    for folder in ("discs", CLOSED_FOLDER):
        (path / folder).mkdir(parents=True, exist_ok=True)
    names = [f"disc{number:03d}" for number in range(1, discs + 1)]
    trays = [DeskTray() for _ in range(drives)]
    write_desk(path, DeskState(trays=trays, discs={n: DeskDisc(sectors=sectors) for n in names}))


def _whole_clusters(disc_bytes: int) -> int:
    sectors = disc_bytes // SECTOR_BYTES // ECC_SECTORS * ECC_SECTORS
    if sectors < ECC_SECTORS:
        raise CallerError(f"discs of {disc_bytes} bytes: expected at least 64 KiB")
    return sectors


class Desk:
    """The drives of one directory: for one process at a time."""

    def __init__(self, path: Path, clock: Clock | None = None, speed: Speed = "instant") -> None:
        self.path = path
        self.faults = Faults(path)
        self._file = DeskFile(path)
        self._lock_fd = -1
        self.hold()
        clock = clock or SystemClock()
        self.drives = [
            TrayDrive(number, path / "discs", self._file, self.faults, clock, speed)
            for number in range(len(self._file.read().trays))
        ]

    @property
    def devices(self) -> list[Device]:
        """All drives."""
        return list(self.drives)

    def drive_transport(self, number: int) -> EmulatedTransport:
        """To one drive."""
        return EmulatedTransport(self.drives[number])

    def hold(self) -> None:
        """For this process alone until it ends; CallerError if another one has it."""
        self._lock_fd = os.open(self.path / HELD_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        for attempt in range(LOCK_ATTEMPTS_MAX):
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if attempt < LOCK_ATTEMPTS_MAX - 1:
                    time.sleep(LOCK_PAUSE_S)
        self.let_go()
        raise CallerError(f"{self.path}: another process has the drives open; end it first")

    def let_go(self) -> None:
        """Another process may have them from now on."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


class Person:
    """What a person does at the drives; also while another process uses them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = DeskFile(path)

    def look(self) -> DeskState:
        """What lies where, and what is written on it."""
        return self._file.read()

    def press(self, drive: str) -> bool:
        """The button of a drive: opens or closes its tray; whether it is open now."""

        def change(state: DeskState) -> bool:
            number = _number(state, drive)
            tray = state.trays[number]
            if not tray.is_open and tray.is_locked:
                raise CallerError(f"{drive} is at work: its button does nothing now")
            set_tray(state, number, is_open=not tray.is_open)
            return tray.is_open

        return self._file.change(change)

    def put(self, disc: str, drive: str) -> str:
        """A disc onto the open tray, which is pushed in; the disc's name.

        ``disc`` is its name, or what is written on it. CallerError where the
        tray is closed or taken, or no one disc is meant.
        """

        def change(state: DeskState) -> str:
            number, name = _number(state, drive), _named(state, disc)
            tray = state.trays[number]
            if not tray.is_open:
                raise CallerError(
                    f"the tray of {drive} is closed; its button: hsm emulator press {drive}"
                )
            if tray.disc:
                raise CallerError(f"disc {tray.disc} lies on the tray of {drive}; take it first")
            if any(other.disc == name for other in state.trays):
                raise CallerError(f"disc {name} is in another drive")
            tray.disc = name
            set_tray(state, number, is_open=False)
            return name

        return self._file.change(change)

    def take(self, drive: str, written: str | None = None, box: str | None = None) -> str:
        """The disc from the open tray; write on it, and lay it into a box. Its name."""

        def change(state: DeskState) -> str:
            tray = state.trays[_number(state, drive)]
            if not tray.is_open:
                raise CallerError(
                    f"the tray of {drive} is closed; its button: hsm emulator press {drive}"
                )
            if not tray.disc:
                raise CallerError(f"no disc lies on the tray of {drive}")
            name, tray.disc = tray.disc, ""
            disc = state.discs[name]
            disc.written = _pen(disc.written if written is None else written)
            disc.box = _pen(disc.box if box is None else box)
            return name

        return self._file.change(change)

    def buy(
        self, disc_bytes: int, name: str, image: Path | None = None, closed: bool = True
    ) -> None:
        """One more disc: blank, or with what somebody else burned."""
        if not name.isalnum() or not name.isascii():
            raise CallerError(f"disc name {name!r}: expected letters and digits")
        sectors = _whole_clusters(disc_bytes)

        def change(state: DeskState) -> None:
            if name in state.discs or len(state.discs) >= DISCS_MAX:
                raise CallerError(f"disc {name} is there already, or {DISCS_MAX} discs are")
            state.discs[name] = DeskDisc(sectors=sectors)
            if image is not None:
                _burn_elsewhere(self._path / "discs", name, image, closed)

        self._file.change(change)


def _burn_elsewhere(discs: Path, name: str, image: Path, closed: bool) -> None:
    target = image_path(discs, name)
    shutil.copyfile(image, target)
    size = target.stat().st_size
    os.truncate(target, size + -size % SECTOR_BYTES)
    if closed:
        marker_path(discs, name).touch()


def _number(state: DeskState, drive: str) -> int:
    names = [f"drive{number}" for number in range(len(state.trays))]
    if drive not in names:
        raise CallerError(f"drive {drive!r}: expected one of {', '.join(names)}")
    return names.index(drive)


def _named(state: DeskState, text: str) -> str:
    if text in state.discs:
        return text
    found = [name for name, disc in state.discs.items() if disc.written == text]
    if len(found) != 1:
        number = "no disc is" if not found else f"{len(found)} discs are"
        raise CallerError(f"disc {text!r}: {number} called or marked so; see hsm emulator shelf")
    return found[0]


def _pen(text: str) -> str:
    if not text.isprintable() or len(text) > PEN_CHARACTERS_MAX:
        raise CallerError(f"{text!r}: expected at most {PEN_CHARACTERS_MAX} printable characters")
    return text
