"""Somebody else's changer and drives (tgtd) through our classes, over iSCSI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tgtd import CHANGER_LUN, FIRST_DRIVE, FIRST_SLOT, TARGET, Tgtd, jukebox

from hsmfs.changer.drive import Drive
from hsmfs.changer.library import Changer
from hsmfs.changer.transport.iscsi import IscsiAddress, IscsiTransport, discover
from hsmfs.changer.transport.stack import Stack
from hsmfs.clock import SystemClock
from hsmfs.errors import LibraryError, MediumError
from hsmfs.types import SECTOR_BYTES

SLOTS, DRIVES, DISC_BYTES = 6, 3, 1 << 20


class Library:
    """The daemon with our objects over it, all decorators on."""

    def __init__(self, daemon: Tgtd) -> None:
        self.daemon = daemon
        self.devices = [
            IscsiTransport(IscsiAddress(daemon.portal, TARGET, lun))
            for lun in (CHANGER_LUN, *range(1, DRIVES + 1))
        ]
        self.stacks = [Stack(str(n), d, SystemClock()) for n, d in enumerate(self.devices)]
        self.changer = Changer(self.stacks[0].top)
        self.drives = [Drive(stack.top) for stack in self.stacks[1:]]

    def close(self) -> None:
        for stack in self.stacks:
            stack.top.close()


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with jukebox(tmp_path / "tgtd", DRIVES, SLOTS, DISC_BYTES) as daemon:
        for number in range(SLOTS - 1):
            image = bytes([number]) * DISC_BYTES
            (daemon.work / "media" / f"DVD_{number:04d}").write_bytes(image)
        library = Library(daemon)
        try:
            yield library
        finally:
            library.close()


def test_the_portal_tells_its_target(library: Library) -> None:
    assert discover(library.daemon.portal) == [TARGET]


def test_no_element_is_lost_though_each_answer_is_short(library: Library) -> None:
    found = library.changer.inventory()
    assert [slot.address for slot in found.slots] == list(range(FIRST_SLOT, FIRST_SLOT + SLOTS))
    barcodes = [slot.barcode for slot in found.slots]
    assert barcodes == [f"DVD_{n:04d}" for n in range(SLOTS - 1)] + [None]
    assert [slot.full for slot in found.slots] == [True] * (SLOTS - 1) + [False]
    assert len(found.transports) == 1 and len(found.drives) == DRIVES
    # The last drive's serial is what the missing bytes would tell: it is not guessed.
    serials = [drive.identity().serial for drive in library.drives]
    assert [element.drive_serial for element in found.drives] == [*serials[:-1], None]


def test_every_disc_is_read_in_every_drive(library: Library) -> None:
    for number in range(SLOTS - 1):
        for index, drive in enumerate(library.drives):
            library.changer.move(FIRST_SLOT + number, FIRST_DRIVE + index)
            drive.ready()
            info = drive.disc_info()
            assert (info.state, info.capacity_sectors) == ("complete", DISC_BYTES // SECTOR_BYTES)
            assert drive.read(0, 64) == bytes([number]) * 64 * SECTOR_BYTES
            there = library.changer.inventory(refresh=True).drives[index]
            assert there.barcode == f"DVD_{number:04d}"
            drive.eject()
            library.changer.move(FIRST_DRIVE + index, FIRST_SLOT + number)
            with pytest.raises(MediumError):
                drive.ready(0)


def test_moves_that_cannot_be_made_change_nothing(library: Library) -> None:
    before = library.changer.inventory()
    for source, destination in (
        (FIRST_SLOT, FIRST_SLOT + 1),
        (FIRST_SLOT + SLOTS - 1, FIRST_DRIVE),
        (FIRST_SLOT, 9999),
    ):
        with pytest.raises(LibraryError, match=f"MOVE MEDIUM {source} to {destination}"):
            library.changer.move(source, destination)
    assert library.changer.inventory(refresh=True) == before


def test_what_it_cannot_do_is_done_without(library: Library) -> None:
    library.changer.prevent_removal(True)
    library.changer.prevent_removal(False)
    library.changer.initialize()


def test_a_daemon_that_was_killed_is_an_error_and_no_hang(library: Library) -> None:
    library.changer.inventory()
    library.daemon.process.kill()
    library.daemon.process.wait()
    with pytest.raises(LibraryError, match=r"no login|iscsi://"):
        library.changer.inventory(refresh=True)


def test_all_that_was_said_is_in_the_trace(library: Library) -> None:
    library.changer.inventory()
    said: list[dict[str, Any]] = [entry.as_dict() for entry in library.stacks[0].trace.entries()]
    assert said[0]["sense"] == "06/29/00"
    assert [entry["command"] for entry in said].count("READ ELEMENT STATUS") == 5
