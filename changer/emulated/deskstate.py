"""The state of emulated drives without a robot: trays, and discs that lie around.

``desk.json`` is shared by the process that has the drives and by commands that
act as a person's hands: every change is made under a lock, durable and atomic.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from hsmfs.changer.emulated.state import Timing, fsync_directory
from hsmfs.errors import CallerError

T = TypeVar("T")
DESK_FILE: Final = "desk.json"
LOCK_FILE: Final = "desk.lock"
DRIVES_MAX: Final = 36
DISCS_MAX: Final = 10_000


class DeskDisc(msgspec.Struct, kw_only=True):
    """A disc that somebody bought."""

    sectors: int
    """What it holds."""
    written: str = ""
    """On it, with a pen."""
    box: str = ""
    """Where it lies when it is in no drive."""


class DeskTray(msgspec.Struct, kw_only=True):
    """One drive's tray."""

    disc: str = ""
    is_open: bool = False
    is_locked: bool = False
    """Somebody prevents removal: the button does nothing."""
    closed: int = 0
    """How often it was closed: what is inside may be another disc since."""


class DeskState(msgspec.Struct, kw_only=True):
    """Everything but the discs' contents."""

    version: int = 1
    trays: list[DeskTray]
    discs: dict[str, DeskDisc]
    timing: Timing = msgspec.field(default_factory=Timing)


class DeskFile:
    """The state as it is now."""

    def __init__(self, path: Path) -> None:
        self.root = path
        self._file = path / DESK_FILE
        self.read()

    def read(self) -> DeskState:
        """To be looked at only. Read anew each time: it is small, and time stamps are coarse."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=DeskState)
        except FileNotFoundError:
            raise CallerError(
                f"{self._file}: not found, expected emulated drives; make them with "
                "hsm emulator create --manual"
            ) from None
        except msgspec.MsgspecError as error:
            raise CallerError(f"{self._file}: {error}; restore it from a backup") from None

    def change(self, fn: Callable[[DeskState], T]) -> T:
        """Durable when it returns; nothing has changed if ``fn`` or the disk fails."""
        with _locked(self.root):
            state = msgspec.json.decode(self._file.read_bytes(), type=DeskState)
            result = fn(state)
            write_desk(self.root, state)
            return result


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """For the moment of one change, among processes and threads."""
    fd = os.open(root / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write_desk(root: Path, state: DeskState) -> None:
    """Durable and atomic."""
    temporary = root / (DESK_FILE + ".new")
    with temporary.open("wb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(state), indent=1))
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(root / DESK_FILE)
    fsync_directory(root)
