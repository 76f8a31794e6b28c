"""The emulated library's state on disk: who is in which element.

``library.json`` is replaced atomically at every change, so a kill at any
moment leaves the state before or after a move, never between. In memory too
a change happens as a whole or, if the disk refuses it, not at all.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from hsmfs.errors import CallerError

T = TypeVar("T")

FIRST_TRANSPORT: Final = 0
FIRST_DRIVE: Final = 0x0100
FIRST_MAILSLOT: Final = 0x0300
FIRST_SLOT: Final = 0x0400
DRIVES_MAX: Final = FIRST_MAILSLOT - FIRST_DRIVE
MAILSLOTS_MAX: Final = FIRST_SLOT - FIRST_MAILSLOT
SLOTS_MAX: Final = 0x10000 - FIRST_SLOT
STATE_FILE: Final = "library.json"


class Timing(msgspec.Struct, kw_only=True):
    """How long things take in realistic mode."""

    move_s: float = 5.0
    load_s: float = 6.0
    seek_s: float = 0.15
    read_bytes_s: float = 36e6
    """At the outside of the disc."""
    write_bytes_s: float = 27e6
    buffer_bytes: int = 4 << 20
    """Of the drive, for reading ahead and for burning."""
    inner_share: float = 1.0
    """Speed at the inside to that at the outside: 1.0 at constant linear velocity, about 0.41
    (radius 24 to 58 mm) at constant angular velocity."""
    format_s: float = 10.0
    """For spare areas of a blank disc."""
    layer_bytes: int = 32_000_000_000
    layer_change_s: float = 0.5

    def __post_init__(self) -> None:
        """Raises ValueError for times and speeds that no drive has."""
        waits = ("move_s", "load_s", "seek_s", "layer_change_s", "buffer_bytes", "format_s")
        speeds = ("read_bytes_s", "write_bytes_s", "layer_bytes", "inner_share")
        for name in (*waits, *speeds):
            value = getattr(self, name)
            if value < 0 or (name in speeds and value == 0) or not value < float("inf"):
                raise ValueError(f"timing.{name}: found {value}, expected more than 0")


class Tray(msgspec.Struct, kw_only=True):
    """A magazine outside: its discs by position."""

    id: str
    discs: list[str]
    span: int = 0
    """Where it stood."""


class Second(NamedTuple):
    """A disc that the robot took along with another one, and the slot it stood in."""

    barcode: str
    slot: int


class LibraryState(msgspec.Struct, kw_only=True):
    """Everything but the discs' contents."""

    version: int = 1
    drives: int
    magazine_slots: int
    disc_sectors: int
    slots: list[str]
    """Barcode in each slot, empty if none."""
    drive_discs: list[str]
    mailslots: list[str]
    sources: dict[str, int] = {}
    """Element a disc in a drive came from."""
    seconds: dict[str, Second] = {}
    """Discs that lie in a drive together with the disc of this barcode."""
    trays: list[Tray] = []
    next_tray: int = 1
    timing: Timing = msgspec.field(default_factory=Timing)
    tags: bool = True
    """Whether the library reads barcodes."""
    eject_first: bool = True
    """Whether the robot can take only a disc that its drive has ejected."""

    def place(self, address: int) -> tuple[list[str], int] | None:
        """The list and index behind an element address; None for no such element."""
        for first, items in (
            (FIRST_SLOT, self.slots),
            (FIRST_MAILSLOT, self.mailslots),
            (FIRST_DRIVE, self.drive_discs),
        ):
            if first <= address < first + len(items):
                return items, address - first
        return None


class StateFile:
    """The state in memory and on disk; one lock for all devices."""

    def __init__(self, path: Path) -> None:
        self.root = path
        self.lock = threading.RLock()
        file = path / STATE_FILE
        try:
            self.state = msgspec.json.decode(file.read_bytes(), type=LibraryState)
        except FileNotFoundError:
            raise CallerError(
                f"{file}: not found, expected an emulated library; make one with hsm sandbox start"
            ) from None
        except msgspec.MsgspecError as error:
            raise CallerError(f"{file}: {error}; restore the file from a backup") from None

    def change(self, fn: Callable[[LibraryState], T]) -> T:
        """Durable when it returns; if ``fn`` or the disk fails, nothing has changed."""
        with self.lock:
            state = msgspec.json.decode(msgspec.json.encode(self.state), type=LibraryState)
            result = fn(state)
            write_state(self.root, state)
            self.state = state
            return result


def write_state(root: Path, state: LibraryState) -> None:
    """Durable and atomic (write, fsync, rename)."""
    file = root / STATE_FILE
    temporary = file.with_suffix(".new")
    with temporary.open("wb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(state), indent=1))
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)
    fsync_directory(root)


def fsync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
