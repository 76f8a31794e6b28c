"""The robot of a library while its discs are read: one thread, which alone knows places."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from hsmfs.changer.library import Changer, Element, Inventory
from hsmfs.errors import LibraryError

T = TypeVar("T")
STORAGE: Final = ("slot", "mailslot")
FAILURES_MAX: Final = 5
"""Failed moves in a row after which the robot counts as failed."""


class Robot:
    """Methods may be called from any thread; each is done in the robot's."""

    def __init__(self, changer: Changer) -> None:
        self._changer = changer
        self._thread = ThreadPoolExecutor(1, "robot")
        self._failures = 0
        self._home: dict[int, int] = {}
        """Slot to which the disc in a drive goes back, by the drive's element."""

    def _in_thread(self, work: Callable[[], T]) -> T:
        return self._thread.submit(work).result()

    def inventory(self) -> Inventory:
        """Element status, read anew."""
        return self._in_thread(lambda: self._changer.inventory(refresh=True))

    @property
    def has_failed(self) -> bool:
        return self._failures >= FAILURES_MAX

    def load(self, barcode: str, place: int, drive: int) -> None:
        """Put a disc, which was seen at a place, into an empty drive; LibraryError if it does
        not get there."""
        self._in_thread(lambda: self._load(barcode, place, drive))

    def _load(self, barcode: str, place: int, drive: int) -> None:
        now = self._changer.inventory()
        found = now.find(place)
        if found is None or found.barcode != barcode or found.kind not in STORAGE:
            elements = (*now.slots, *now.mailslots)
            found = next((e for e in elements if e.full and e.barcode == barcode), None)
        if found is None:
            raise LibraryError(f"disc {barcode} is in no slot any more")
        self._move(int(found.address), drive)
        self._home[drive] = int(found.address)

    def unload(self, drive: int) -> None:
        """Back to its slot, or to any that is empty; LibraryError if it stays in the drive."""
        self._in_thread(lambda: self._unload(drive))

    def _unload(self, drive: int) -> None:
        now = self._changer.inventory()
        element = now.find(drive)
        if element is None or not element.full:
            return
        home = self._home.get(drive, int(element.source or 0))
        if not self._is_empty(now.find(home)):
            others = self._homes_of_others(drive)
            slots = (slot for slot in (*now.slots, *now.mailslots) if not slot.full)
            free = (int(slot.address) for slot in slots)
            home = next((address for address in free if address not in others), 0)
        if not home:
            raise LibraryError(f"no empty slot for disc {element.barcode}; take a disc out")
        self._move(drive, home)
        self._home.pop(drive, None)

    def _is_empty(self, element: Element | None) -> bool:
        return element is not None and element.kind in STORAGE and not element.full

    def _homes_of_others(self, drive: int) -> set[int]:
        return {slot for other, slot in self._home.items() if other != drive}

    def _move(self, source: int, destination: int) -> None:
        if self.has_failed:
            raise LibraryError(f"the robot failed {self._failures} times in a row")
        try:
            self._changer.move(source, destination)
        except LibraryError:
            self._failures += 1
            raise
        self._failures = 0

    def close(self) -> None:
        """No more moves."""
        self._thread.shutdown(wait=True)
