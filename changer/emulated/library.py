"""The emulated library as a whole: devices, discs, and a person's hands.

One process at a time opens it; a kill at any moment leaves a state that the
next one goes on with (see ``state`` and ``disc``). Opening it is a power-on.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from hsmfs.changer.emulated.changerdevice import ChangerDevice
from hsmfs.changer.emulated.device import MEDIUM_CHANGED, Device
from hsmfs.changer.emulated.disc import CLOSED_FOLDER, image_path
from hsmfs.changer.emulated.drivedevice import DriveDevice
from hsmfs.changer.emulated.faults import Faults
from hsmfs.changer.emulated.hands import Hands
from hsmfs.changer.emulated.state import (
    DRIVES_MAX,
    MAILSLOTS_MAX,
    SLOTS_MAX,
    STATE_FILE,
    LibraryState,
    StateFile,
    write_state,
)
from hsmfs.changer.transport.interface import Reply
from hsmfs.clock import Clock, SystemClock
from hsmfs.errors import CallerError
from hsmfs.types import SECTOR_BYTES

ECC_SECTORS = 32
LOCK_FILE = "library.lock"
LOCK_ATTEMPTS_MAX, LOCK_PAUSE_S = 40, 0.05
"""One that was just killed has let go by then."""
Speed = Literal["instant", "realistic"]
T = TypeVar("T")


class EmulatedTransport:
    """A transport to an emulated device in this process."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def execute(
        self,
        cdb: bytes,
        data_out: bytes | memoryview = b"",
        data_in_len: int = 0,
        timeout_s: float = 60.0,
    ) -> Reply:
        """One command; the device takes the time it takes."""
        return self._device.execute(cdb, data_out, data_in_len)

    def close(self) -> None:
        """Nothing to give back."""


class EmulatedLibrary:
    """Robot, drives and slots over a directory."""

    def __init__(self, path: Path, clock: Clock | None = None, speed: Speed = "instant") -> None:
        self.path = path
        self.discs = path / "discs"
        self._file = StateFile(path)
        self.faults = Faults(path)
        state = self._file.state
        self._lock_fd = -1
        clock = clock or SystemClock()
        self.drives = [
            DriveDevice(
                number, self.discs, state.disc_sectors, self.faults, clock, speed, state.timing
            )
            for number in range(state.drives)
        ]

        def move_time() -> None:
            if speed == "realistic":
                clock.sleep(state.timing.move_s)

        self.changer = ChangerDevice(self._file, self.drives, self.faults, move_time, clock)
        self.hands = Hands(self)
        for drive, barcode in zip(self.drives, state.drive_discs, strict=True):
            if barcode:
                drive.insert(barcode, jammed=barcode in state.seconds)

    @classmethod
    def create(
        cls,
        path: Path,
        drives: int = 2,
        slots: int = 24,
        magazine_slots: int = 12,
        disc_bytes: int = 200_000_000,
        mailslots: int = 0,
        clock: Clock | None = None,
        speed: Speed = "instant",
    ) -> EmulatedLibrary:
        """A new library full of blank discs; CallerError if there is one."""
        if (path / STATE_FILE).exists():
            raise CallerError(f"{path}: holds a library already")
        sectors = disc_bytes // SECTOR_BYTES // ECC_SECTORS * ECC_SECTORS
        if drives < 1 or slots < 1 or magazine_slots < 1 or sectors < ECC_SECTORS:
            raise CallerError(
                f"library of {drives} drives, {slots} slots, discs of {disc_bytes} bytes: "
                "expected at least one of each, and 64 KiB"
            )
        if drives > DRIVES_MAX or mailslots > MAILSLOTS_MAX or slots > SLOTS_MAX:
            raise CallerError(
                f"library of {drives} drives, {slots} slots, {mailslots} mailslots: "
                f"expected at most {DRIVES_MAX}, {SLOTS_MAX} and {MAILSLOTS_MAX}"
            )
        for folder in ("discs", CLOSED_FOLDER):
            (path / folder).mkdir(parents=True, exist_ok=True)
        state = LibraryState(
            drives=drives,
            magazine_slots=magazine_slots,
            disc_sectors=sectors,
            slots=[f"HSM{number:05d}" for number in range(1, slots + 1)],
            drive_discs=[""] * drives,
            mailslots=[""] * mailslots,
        )
        write_state(path, state)
        return cls(path, clock, speed)

    def hold(self) -> None:
        """For this process alone until it ends; CallerError if another one has it."""
        self._lock_fd = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        for attempt in range(LOCK_ATTEMPTS_MAX):
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if attempt < LOCK_ATTEMPTS_MAX - 1:
                    time.sleep(LOCK_PAUSE_S)
        self.let_go()
        raise CallerError(f"{self.path}: another process has the library open; end it first")

    def let_go(self) -> None:
        """Another process may have it from now on."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    @property
    def devices(self) -> list[Device]:
        """The robot, then the drives."""
        return [self.changer, *self.drives]

    @property
    def drive_count(self) -> int:
        return len(self.drives)

    def drive_transport(self, number: int) -> EmulatedTransport:
        """To one drive."""
        return EmulatedTransport(self.drives[number])

    def changer_transport(self) -> EmulatedTransport:
        """To the robot."""
        return EmulatedTransport(self.changer)

    def image(self, barcode: str) -> Path:
        """The image file of a disc; it exists once something was written."""
        return image_path(self.discs, barcode)

    @property
    def state(self) -> LibraryState:
        """Where everything is now; to be looked at only."""
        return self._file.state

    def change(self, fn: Callable[[LibraryState], T]) -> T:
        """Something a person did: state on disk, and the robot notices."""
        with self._file.lock:
            result = self._file.change(fn)
            self.changer.attention(MEDIUM_CHANGED)
            return result


def open_library(
    path: Path, clock: Clock | None = None, speed: Speed = "instant"
) -> EmulatedLibrary:
    """The library that lives in a directory."""
    return EmulatedLibrary(path, clock, speed)
