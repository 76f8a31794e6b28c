"""The emulated library as a whole: devices, discs, and a person's hands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from hsmfs.changer.emulated.changerdevice import ChangerDevice
from hsmfs.changer.emulated.device import MEDIUM_CHANGED, Device
from hsmfs.changer.emulated.disc import CLOSED_FOLDER, marker_path
from hsmfs.changer.emulated.drivedevice import DriveDevice
from hsmfs.changer.emulated.faults import Faults
from hsmfs.changer.emulated.state import (
    FIRST_SLOT,
    STATE_FILE,
    LibraryState,
    StateFile,
    Tray,
    write_state,
)
from hsmfs.changer.transport.interface import Reply
from hsmfs.clock import Clock, SystemClock
from hsmfs.errors import CallerError
from hsmfs.types import SECTOR_BYTES

ECC_SECTORS = 32
Speed = Literal["instant", "realistic"]


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

        self.changer = ChangerDevice(self._file, self.drives, self.faults, move_time)
        self.hands = Hands(self)
        for drive, barcode in zip(self.drives, state.drive_discs, strict=True):
            if barcode:
                drive.insert(barcode)

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
        return self.discs / f"{barcode}.img"

    def change(self, fn: Callable[[LibraryState], None]) -> None:
        """Something a person did: state on disk, and the robot notices."""
        with self._file.lock:
            fn(self._file.state)
            self._file.save()
            self.changer.attention(MEDIUM_CHANGED)


class Hands:
    """What a person does at the library's door."""

    def __init__(self, library: EmulatedLibrary) -> None:
        self._library = library

    def take_out_magazine(self, index: int) -> str:
        """Take the magazine at a span of slots out; the id of its tray.

        Discs that are in drives stay there. CallerError where nothing is.
        """
        taken: list[str] = []

        def change(state: LibraryState) -> None:
            size = state.magazine_slots
            discs = state.slots[index * size : (index + 1) * size]
            if not any(discs):
                raise CallerError(f"no magazine stands at span {index}")
            if self._library.changer.prevented:
                raise CallerError("the library's door is locked")
            state.slots[index * size : (index + 1) * size] = [""] * len(discs)
            tray = Tray(id=f"T{state.next_tray}", discs=discs, span=index)
            state.next_tray += 1
            state.trays.append(tray)
            taken.append(tray.id)

        self._library.change(change)
        return taken[0]

    def put_in_magazine(self, tray_id: str) -> int:
        """Put a tray into the first free span of slots; which one."""
        spans: list[int] = []

        def change(state: LibraryState) -> None:
            tray = next((tray for tray in state.trays if tray.id == tray_id), None)
            if tray is None:
                raise CallerError(f"tray {tray_id} is not outside")
            size = state.magazine_slots
            spans_all = range(-(-len(state.slots) // size))
            for index in sorted(spans_all, key=lambda index: index != tray.span):
                span = state.slots[index * size : (index + 1) * size]
                if len(span) >= len(tray.discs) and self._is_free(state, index, span):
                    padded = tray.discs + [""] * (len(span) - len(tray.discs))
                    state.slots[index * size : index * size + len(span)] = padded
                    state.trays.remove(tray)
                    spans.append(index)
                    return
            raise CallerError("no free place for a magazine; take one out first")

        self._library.change(change)
        return spans[0]

    def _is_free(self, state: LibraryState, index: int, span: list[str]) -> bool:
        """No disc in it, and none in a drive that came from it."""
        size = state.magazine_slots
        first = FIRST_SLOT + index * size
        homes = state.sources.values()
        return not any(span) and not any(first <= home < first + size for home in homes)

    def load_foreign(self, barcode: str, image: bytes, closed: bool = True) -> None:
        """Somebody else's disc in the place of one of ours (kept by barcode)."""
        folder = self._library.discs
        (folder / f"{barcode}.img").write_bytes(image + bytes(-len(image) % SECTOR_BYTES))
        marker = marker_path(folder, barcode)
        if closed:
            marker.touch()
        else:
            marker.unlink(missing_ok=True)

    def replace_by_blank(self, barcode: str) -> None:
        """A fresh disc under the same barcode."""
        marker_path(self._library.discs, barcode).unlink(missing_ok=True)
        self._library.image(barcode).unlink(missing_ok=True)


def open_library(
    path: Path, clock: Clock | None = None, speed: Speed = "instant"
) -> EmulatedLibrary:
    """The library that lives in a directory."""
    return EmulatedLibrary(path, clock, speed)
