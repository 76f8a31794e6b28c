"""The emulated library killed at each step of docs/crash-safety.md: one test a row."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.crashpoints import CLOSE_SESSION, CrashFile
from support.hsmfscuts import in_a_child
from support.libraries import CLUSTER, DRIVE, SLOT, content, loaded, new_library

from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import EmulatedLibrary, open_library
from hsmfs.changer.library import Changer
from hsmfs.clock import ManualClock
from hsmfs.types import SECTOR_BYTES

DISC = "HSM00001"
DATA = content(2 * CLUSTER)
MODULE = "hsmfs.changer.emulated.disc"


class Victim:
    """A library between processes that use it."""

    def __init__(self, root: Path) -> None:
        self.path = new_library(root).path
        self.crash = CrashFile(root / "crash")
        self.image = self.path / "discs" / f"{DISC}.img"
        self.marker = self.path / "closed" / DISC

    def opened(self) -> EmulatedLibrary:
        return open_library(self.path, ManualClock())

    def killed(
        self,
        work: Callable[[EmulatedLibrary], Any],
        point: str,
        when: str,
        nth: int = 1,
        **facts: Any,
    ) -> None:
        self.crash.arm(point, when, nth, **facts)
        assert in_a_child(self.crash, lambda: work(self.opened())) == -signal.SIGKILL
        self.crash.disarm()

    def drive(self) -> Drive:
        """The one that the disc was left in."""
        drive = Drive(self.opened().drive_transport(0), lambda _seconds: None)
        drive.ready()
        return drive


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim(tmp_path)


@pytest.mark.parametrize("when", ["before", "after"])
def test_move(victim: Victim, when: str) -> None:
    def work(library: EmulatedLibrary) -> None:
        Changer(library.changer_transport()).move(SLOT, DRIVE)

    victim.killed(work, "rename", when, name="library.json")
    assert (victim.path / "library.new").exists() == (when == "before")
    library = victim.opened()
    state = library.state
    assert (state.drive_discs[0], state.slots[0]) == (
        ("", DISC) if when == "before" else (DISC, "")
    )
    changer = Changer(library.changer_transport())
    if when == "before":
        changer.move(SLOT, DRIVE)
    else:
        Drive(library.drive_transport(0)).eject()
        changer.move(DRIVE, SLOT)
    assert not (victim.path / "library.new").exists()


def writing(library: EmulatedLibrary) -> Drive:
    drive = loaded(library)
    drive.write(0, DATA)
    return drive


@pytest.mark.parametrize("cut_bytes", [0, 700], ids=["whole", "the last one cut"])
def test_write(victim: Victim, cut_bytes: int) -> None:
    victim.killed(writing, f"{MODULE}:DiscFile.write", "after")
    assert victim.image.read_bytes() == DATA, "recorded, not answered"
    if cut_bytes:
        victim.image.write_bytes(DATA[: CLUSTER * SECTOR_BYTES + cut_bytes])
    kept = 2 * CLUSTER if not cut_bytes else CLUSTER
    drive = victim.drive()
    info = drive.disc_info()
    assert (info.state, info.next_writable) == ("incomplete", kept)
    more = content(CLUSTER, 7)
    drive.write(kept, more)
    assert drive.read(0, kept) == DATA[: kept * SECTOR_BYTES]
    assert drive.read(kept, CLUSTER) == more


def closing(library: EmulatedLibrary) -> None:
    drive = writing(library)
    drive.close_session()


def test_close_before_its_marker(victim: Victim) -> None:
    victim.killed(closing, f"{MODULE}:DiscFile.sync", "after")
    assert (victim.image.read_bytes(), victim.marker.exists()) == (DATA, False)
    drive = victim.drive()
    assert drive.disc_info().state == "incomplete"
    assert drive.read(0, 2 * CLUSTER) == DATA


@pytest.mark.parametrize("step", ["marker on its way to the disk", "all done"])
def test_close_after_its_marker_not_answered(victim: Victim, step: str) -> None:
    if step == "all done":
        victim.killed(closing, "scsi", "after", op=CLOSE_SESSION, function=6)
    else:
        victim.killed(closing, f"{MODULE}:fsync_directory", "before", nth=2)
    assert (victim.image.read_bytes(), victim.marker.exists()) == (DATA, True)
    drive = victim.drive()
    info = drive.disc_info()
    assert (info.state, info.capacity_sectors) == ("complete", 2 * CLUSTER)
    assert drive.read(0, 2 * CLUSTER) == DATA


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("was_closed", [False, True], ids=["blank", "closed"])
def test_a_disc_exchanged_by_hand(victim: Victim, when: str, was_closed: bool) -> None:
    old, new = content(CLUSTER, 1), content(CLUSTER, 2)
    if was_closed:
        victim.opened().hands.load_foreign(DISC, old)
    victim.killed(
        lambda library: library.hands.load_foreign(DISC, new),
        "rename", when, name=victim.image.name,
    )  # fmt: skip
    assert not victim.marker.exists()
    there = new if when == "after" else old if was_closed else None
    assert (victim.image.read_bytes() if victim.image.exists() else None) == there
    victim.opened().hands.load_foreign(DISC, new)
    drive = loaded(victim.opened())
    assert drive.disc_info().state == "complete"
    assert drive.read(0, CLUSTER) == new
