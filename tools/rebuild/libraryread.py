"""All discs of a library read: the robot loads disc after disc, into all drives at once.

One thread for each drive, one for the robot; the caller's shows progress. What is
read is in the ledger at once, so that a run that is cut goes on where it was.
Damaged discs whose manifests nothing makes up for come a second time at the end: of these
the bytes of files are read too.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry

from hsmfs.changer.drive import Drive
from hsmfs.changer.library import Changer, Inventory
from hsmfs.config import Library
from hsmfs.daemon.equipment import open_equipment
from hsmfs.errors import (
    CallerError,
    DriveError,
    HsmError,
    LibraryError,
    MediumError,
    TransientError,
)
from hsmfs.tools.rebuild.ledger import Ledger
from hsmfs.tools.rebuild.robot import Robot
from hsmfs.tools.rebuild.taker import take, take_unlisted
from hsmfs.tools.rebuild.todo import Disc, Todo

POLL_S: Final = 0.2
DRIVE_FAILURES_MAX: Final = 3
"""Failures in a row after which a drive is used no more."""
Show = Callable[[int, int, str], None]
"""Discs done, discs in all, and what goes on."""


class DriveAt(NamedTuple):
    """A drive, and where the robot finds it."""

    name: str
    element: int
    drive: Drive


Take = Callable[[DriveAt, str], None]
"""What is done with a disc that is ready in a drive, by its barcode."""


@dataclass(slots=True)
class LibraryRead:
    """What came of it."""

    library: Library
    inventory: Inventory
    """As it is afterwards."""
    known: int = 0
    """Discs that an earlier run had read."""
    loads: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Discs (or slots) and why nothing was read of them."""
    problems: list[str] = field(default_factory=list)
    """Drives that failed, discs that are stuck."""


class LibraryReader:
    """Reads what the ledger does not know yet."""

    def __init__(self, library: Library, site: str, ledger: Ledger, show: Show) -> None:
        self._library = library
        self._site = site
        self._ledger = ledger
        self._show = show
        if library.kind == "manual":
            raise CallerError(
                f"library {library.name} has no robot: give its drives or images of its discs, "
                "as --from /dev/sr0"
            )
        self._equipment = open_equipment(library, CollectorRegistry())
        self._drives = [
            DriveAt(unit.name, unit.element, unit.drive)
            for unit in self._equipment.units
            if unit.alive
        ]
        assert isinstance(self._equipment.changer, Changer)
        self._robot = Robot(self._equipment.changer)
        self._taken: Take = self._take
        self._is_stopped = False
        self._failure: BaseException | None = None
        self._loads: Counter[str] = Counter()
        self._problems: list[str] = []
        self._in_hand: dict[str, str] = {}
        """Disc in each drive, for progress."""

    def run(self) -> LibraryRead:
        """Until all is read that can be; LibraryError where the robot tells nothing.

        At an interrupt the discs in the drives are ended and brought home.
        """
        with self._closed():
            discs, left_out = self._discs(self._robot.inventory())
            fresh = [disc for disc in discs if disc.barcode not in self._ledger.discs]
            missed = self._read_all(self._take, fresh, len(discs))
            return LibraryRead(
                self._library,
                self._robot.inventory(),
                len(discs) - len(fresh),
                self._loads.total(),
                left_out + missed,
                self._problems,
            )

    def run_unlisted(self, before: LibraryRead) -> LibraryRead:
        """Once more the discs with files that only their UDF trees tell of, now that it is
        known for which of them nothing else makes up. These files' bytes are read."""
        with self._closed():
            discs, _ = self._discs(self._robot.inventory())
            lacking = set(self._ledger.lacking())
            again = [disc for disc in discs if disc.barcode in lacking]
            missed = self._read_all(self._take_unlisted, again, len(again))
            before.problems += self._problems
            before.problems += [
                f"disc {code}: files that only its UDF tree tells of were not read: {why}"
                for code, why in missed
            ]
            before.loads += self._loads.total()
            before.inventory = self._robot.inventory()
            return before

    @contextmanager
    def _closed(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._robot.close()
            self._equipment.close()

    def _discs(self, inventory: Inventory) -> tuple[list[Disc], list[tuple[str, str]]]:
        """In the order of their places, those in drives first; and what cannot be told apart."""
        names = {drive.element: drive.name for drive in self._drives}
        elements = (*inventory.drives, *inventory.slots, *inventory.mailslots)
        full = [element for element in elements if element.full]
        places: dict[str, list[str]] = {}
        for element in full:
            places.setdefault(str(element.barcode or ""), []).append(
                f"{element.kind} {element.address}"
            )
        left_out = [
            (place, "its barcode cannot be read; clean the label or give it one")
            for place in places.pop("", [])
        ]
        left_out += [
            (
                barcode,
                f"{len(where)} discs have this barcode ({', '.join(where)}); give one another",
            )
            for barcode, where in places.items()
            if len(where) > 1
        ]
        return [
            Disc(str(e.barcode), int(e.address), names.get(int(e.address), ""))
            for e in full
            if e.barcode and len(places[str(e.barcode)]) == 1
        ], left_out

    # -- threads ---------------------------------------------------------------------------

    def _read_all(self, take: Take, discs: list[Disc], total: int) -> list[tuple[str, str]]:
        """What could not be read, and why."""
        todo = Todo(discs, {drive.name for drive in self._drives})
        self._taken = take
        self._run_drives(todo, total, total - len(discs))
        if self._failure is not None:
            raise self._failure
        lacking = "robot" if self._robot.has_failed else "drive"
        todo.give_up(f"no {lacking} is left that works")
        return todo.left_out

    def _run_drives(self, todo: Todo, total: int, known: int) -> None:
        threads = [
            threading.Thread(target=self._drive, args=(drive, todo), name=drive.name, daemon=True)
            for drive in self._drives
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                for thread in threads:
                    thread.join(POLL_S / len(threads))
                self._show(known + todo.done, total, self._doing())
        except BaseException:
            todo.stop()
            self._is_stopped = True
            for thread in threads:
                thread.join()
            raise

    def _doing(self) -> str:
        return ", ".join(f"{name}: {code}" for name, code in sorted(self._in_hand.copy().items()))

    def _drive(self, at: DriveAt, todo: Todo) -> None:
        """A drive's thread."""
        why = ""
        try:
            why = self._work(at, todo)
        except BaseException as error:
            self._failure = self._failure or error
            todo.stop()
        finally:
            todo.drive_ended(at.name, why or "nothing more is read")

    def _work(self, at: DriveAt, todo: Todo) -> str:
        """Disc after disc; why it ended before all were read."""
        failures, is_found = 0, self._is_full(at)
        while failures < DRIVE_FAILURES_MAX and not self._robot.has_failed:
            disc = todo.next(at.name)
            if disc is None:
                return self._bring_home(at) if is_found else ""
            if is_found and not disc.drive and (stuck := self._bring_home(at)):
                todo.failed(disc, at.name, stuck)
                return stuck
            is_found = False
            try:
                self._read(at, disc)
                todo.succeeded()
                failures = 0
            except (DriveError, LibraryError, MediumError, TransientError) as error:
                failures += isinstance(error, DriveError | TransientError)
                todo.failed(disc, at.name, str(error))
            finally:
                self._in_hand.pop(at.name, None)
            if stuck := self._bring_home(at):
                return stuck
        why = (
            "the robot failed" if self._robot.has_failed else f"it failed {failures} times in a row"
        )
        self._problems.append(f"{at.name}: {why}; it is used no more")
        return why

    def _is_full(self, at: DriveAt) -> bool:
        element = self._robot.inventory().find(at.element)
        return element is not None and element.full

    def _read(self, at: DriveAt, disc: Disc) -> None:
        self._in_hand[at.name] = disc.barcode
        if not disc.drive:
            self._robot.load(disc.barcode, disc.place, at.element)
            self._loads[disc.barcode] += 1
        else:
            at.drive.load()  # it may lie there ejected
        at.drive.ready(self._library.load_timeout_s)
        self._taken(at, disc.barcode)

    def _take(self, at: DriveAt, barcode: str) -> None:
        take(at.drive, at.name, barcode, self._site, self._ledger)

    def _take_unlisted(self, at: DriveAt, barcode: str) -> None:
        take_unlisted(at.drive, barcode, self._ledger, lambda: self._is_stopped)

    def _bring_home(self, at: DriveAt) -> str:
        """Empty the drive; why it is not. A drive that does not let go may still be
        emptied by the robot."""
        why = ""
        try:
            at.drive.eject()
        except HsmError as error:
            why = f" ({error})"
        try:
            self._robot.unload(at.element)
        except LibraryError as error:
            element = self._robot.inventory().find(at.element)
            code = element.barcode if element is not None else ""
            stuck = f"disc {code} is stuck in it: {error}{why}"
            self._problems.append(f"{at.name}: {stuck}")
            return stuck
        return ""
