"""Which discs are still to be read, handed out to drives."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Final

TRIES_MAX: Final = 2
"""How often a disc is loaded, in another drive the second time where there is one."""


@dataclass(slots=True)
class Disc:
    """One to be read."""

    barcode: str
    place: int
    """Element where it was found."""
    drive: str = ""
    """The drive in which it was found."""
    tried: list[str] = field(default_factory=list)
    """Drives in which it failed."""
    why: str = ""
    """What failed last."""


class Todo:
    """Thread-safe; a disc is with one drive at a time."""

    def __init__(self, discs: list[Disc], drives: set[str]) -> None:
        self._changed = threading.Condition()
        self._alive = set(drives)
        self._waiting = deque(disc for disc in discs if not disc.drive)
        self._in_drives = [disc for disc in discs if disc.drive]
        self._with_drives = 0
        self._is_stopped = False
        self.left_out: list[tuple[str, str]] = []
        """Discs that no drive could read, and why."""
        self.done = 0

    def next(self, drive: str) -> Disc | None:
        """The next disc for a drive; waits while another drive may still give one back.
        None: there is none for it any more."""
        with self._changed:
            while not self._is_stopped:
                disc = self._take(drive)
                if disc is not None or not self._with_drives:
                    return disc
                self._changed.wait()
        return None

    def _take(self, drive: str) -> Disc | None:
        # What lies in a drive is for that drive, as long as it works.
        own = next((disc for disc in self._in_drives if disc.drive == drive), None)
        if own is not None:
            self._in_drives.remove(own)
        else:
            fitting = (n for n, disc in enumerate(self._waiting) if self._fits(disc, drive))
            at = next(fitting, None)
            if at is None:
                return None
            own = self._waiting[at]
            del self._waiting[at]
        self._with_drives += 1
        return own

    def _fits(self, disc: Disc, drive: str) -> bool:
        return drive not in disc.tried or self._alive <= set(disc.tried)

    def succeeded(self) -> None:
        """A disc that was handed out is read."""
        with self._changed:
            self.done += 1
            self._back()

    def failed(self, disc: Disc, drive: str, why: str) -> None:
        """It goes to another drive, or is left out."""
        with self._changed:
            disc.tried.append(drive)
            disc.why, disc.drive = why, ""
            if len(disc.tried) < TRIES_MAX:
                self._waiting.append(disc)
            else:
                self._leave_out(disc)
            self._back()

    def _leave_out(self, disc: Disc) -> None:
        self.done += 1
        self.left_out.append((disc.barcode, disc.why))

    def _back(self) -> None:
        self._with_drives -= 1
        self._changed.notify_all()

    def drive_ended(self, drive: str, why: str) -> None:
        """A drive that takes no more: what lay in it waits for a person."""
        with self._changed:
            self._alive.discard(drive)
            for disc in [disc for disc in self._in_drives if disc.drive == drive]:
                self._in_drives.remove(disc)
                disc.why = f"it is in {drive}: {why}"
                self._leave_out(disc)
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out no more."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def give_up(self, why: str) -> None:
        """At the end: discs that no drive took."""
        with self._changed:
            for disc in (*self._in_drives, *self._waiting):
                disc.why = disc.why or why
                self._leave_out(disc)
            self._in_drives.clear()
            self._waiting.clear()
