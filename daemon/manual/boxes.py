"""Boxes as magazines: a person says when one is taken away or brought back."""

from __future__ import annotations

from hsmfs.changer.library import Element, Inventory
from hsmfs.clock import Clock, SystemClock
from hsmfs.daemon.catalogrecords import MagazineRecord, MagazineState
from hsmfs.errors import LibraryError
from hsmfs.types import ElementAddress


class NoChanger:
    """Stands where a library has its robot: there is none, and nothing but drives."""

    def __init__(self, drives: int) -> None:
        elements = (
            Element(ElementAddress(number), "drive", False, None, None, True, None)
            for number in range(drives)
        )
        self._inventory = Inventory((), tuple(elements), (), ())

    def inventory(self, refresh: bool = False) -> Inventory:
        """The drives; what is in them is known to the librarian alone."""
        return self._inventory

    def move(self, source: int, destination: int) -> None:
        """Nothing moves by itself."""
        raise LibraryError("the library has no robot")

    def initialize(self) -> None:
        """There are no elements to look into."""

    def prevent_removal(self, prevent: bool) -> None:
        """Boxes have no door."""


class BoxHands:
    """What is said of a box is believed: nothing sees it."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    async def take_out(self, magazine: MagazineRecord, index: int) -> None:
        """It is away from now on."""
        magazine.become(magazine.outside, self._clock.now_ns())

    async def put_in(self, magazine: MagazineRecord) -> None:
        """It is at hand again."""
        magazine.become(MagazineState.LIBRARY, self._clock.now_ns())
