"""Drives that a person loads: the tray, the mark behind a volume, what a disc is told to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.volumes import burn as write_volume

from hsmfs.changer import cdb
from hsmfs.changer.burn import Burn
from hsmfs.changer.drive import Drive, Tray
from hsmfs.changer.emulated.desk import Desk, Person, create_desk
from hsmfs.changer.emulated.device import INVALID_COMMAND
from hsmfs.changer.sense import encode
from hsmfs.changer.transport.interface import CHECK_CONDITION, Reply, Transport
from hsmfs.clock import ManualClock
from hsmfs.daemon.recognition import Content, recognise
from hsmfs.errors import CallerError, MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.discmark import MARK_SECTORS, DiscMark, mark_bytes, parse_mark, read_mark
from hsmfs.volume.layout import FileSource
from hsmfs.volume.mount import Mount, anchor_at

MARK = DiscMark(site="sandbox", disc="D0007", volume="V1", created_ns=1, box="A")
FILES = [FileSource(path=b"a/f", ino=7, size=100_000)]


class WithoutEvents:
    """A drive that knows no GET EVENT STATUS NOTIFICATION."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    def execute(self, command: bytes, *rest: Any) -> Reply:
        if command[0] == cdb.GET_EVENT_STATUS:
            return Reply(CHECK_CONDITION, encode(INVALID_COMMAND), b"", 0)
        return self._inner.execute(command, *rest)

    def close(self) -> None:
        """Nothing to give back."""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    create_desk(tmp_path / "desk", drives=1, discs=3, disc_bytes=20_000_000)
    return Desk(tmp_path / "desk", ManualClock())


@pytest.fixture
def person(desk: Desk) -> Person:
    return Person(desk.path)


def drive_of(desk: Desk) -> Drive:
    return Drive(desk.drive_transport(0), lambda _seconds: None)


@pytest.mark.parametrize("events", [True, False])
def test_the_tray_tells_what_a_person_did(desk: Desk, person: Person, events: bool) -> None:
    transport: Transport = desk.drive_transport(0)
    drive = Drive(transport if events else WithoutEvents(transport), lambda _seconds: None)
    assert drive.tray() == Tray(False, False, False)
    assert person.press("drive0")
    assert drive.tray() == Tray(False, True, False)
    person.put("disc001", "drive0")
    assert drive.tray() == Tray(True, False, events)
    assert drive.tray() == Tray(True, False, False)
    drive.ready()
    drive.prevent_removal(True)
    with pytest.raises(CallerError, match="at work"):
        person.press("drive0")
    drive.eject()  # which allows it
    assert drive.tray() == Tray(False, True, False)
    with pytest.raises(MediumError, match="no medium"):
        drive.ready()
    drive.load()  # the disc lies on it still
    assert drive.tray() == Tray(True, False, events)
    drive.eject()
    assert person.take("drive0", "D0001", "A") == "disc001"
    person.put("disc002", "drive0")
    assert drive.tray().present
    assert person.look().discs["disc001"].written == "D0001"


def test_hands_cannot_do_what_hands_cannot_do(desk: Desk, person: Person) -> None:
    with pytest.raises(CallerError, match="tray of drive0 is closed"):
        person.put("disc001", "drive0")
    with pytest.raises(CallerError, match="drive 'x': expected one of drive0"):
        person.press("x")
    person.press("drive0")
    with pytest.raises(CallerError, match="no disc is called or marked"):
        person.put("D0009", "drive0")
    with pytest.raises(CallerError, match="no disc lies on the tray"):
        person.take("drive0")
    person.put("disc001", "drive0")
    person.press("drive0")
    with pytest.raises(CallerError, match="disc001 lies on the tray"):
        person.put("disc002", "drive0")
    with pytest.raises(CallerError, match="another process"):
        Desk(desk.path)


def burned(desk: Desk, person: Person, image: Path, mark: bytes) -> Drive:
    write_volume(image, "V1", FILES)
    person.press("drive0")
    person.put("disc001", "drive0")
    drive = drive_of(desk)
    drive.ready()
    assert recognise(drive).content is Content.BLANK
    burn = Burn(drive, image.stat().st_size // SECTOR_BYTES, mark)
    burn.write(image.read_bytes())
    burn.finish()
    return drive


def test_a_disc_says_itself_which_it_is(desk: Desk, person: Person, tmp_path: Path) -> None:
    """The volume is what it would be without a mark; the disc ends with an anchor."""
    image = tmp_path / "image"
    write_volume(image, "V1", FILES)
    total = image.stat().st_size // SECTOR_BYTES
    drive = burned(desk, person, image, mark_bytes(MARK, total))
    found = recognise(drive)
    assert (found.content, found.mark, found.total_sectors) == (Content.VOLUME, MARK, total)
    assert found.header is not None and found.header.label == "V1"
    disc = (desk.path / "discs" / "disc001.img").read_bytes()
    assert disc[: total * SECTOR_BYTES] == image.read_bytes()
    assert len(disc) == (total + MARK_SECTORS) * SECTOR_BYTES
    assert anchor_at(drive.read, total + MARK_SECTORS - 1) == anchor_at(drive.read, 256)

    def read(sector: int, sectors: int) -> bytes:
        """With all at the beginning lost."""
        if sector < 257:
            raise MediumError("unreadable")
        return drive.read(sector, sectors)

    assert Mount(read, total + MARK_SECTORS).logical.label == "V1"


def test_other_discs_are_told_apart(desk: Desk, person: Person, tmp_path: Path) -> None:
    image = tmp_path / "image"
    drive = burned(desk, person, image, b"")
    assert recognise(drive).content is Content.VOLUME and recognise(drive).mark is None
    other = tmp_path / "other"
    other.write_bytes(b"\x33" * SECTOR_BYTES * 400)
    person.buy(20_000_000, "other", other)
    person.buy(20_000_000, "half", other, closed=False)
    for name, content in (("other", Content.OTHER), ("half", Content.UNFINISHED)):
        drive.eject()
        person.take("drive0")
        person.put(name, "drive0")
        drive.ready()
        assert recognise(drive).content is content


def test_a_mark_of_another_volume_or_place_counts_for_nothing(tmp_path: Path) -> None:
    data = mark_bytes(MARK, 640)
    assert all(parse_mark(_at(data, n), 640 + n) == MARK for n in range(MARK_SECTORS - 1))
    assert parse_mark(_at(data, 1), 640) is None
    assert read_mark(lambda sector, _: _at(data, sector - 640), 640) == MARK
    assert read_mark(lambda sector, _: bytes(SECTOR_BYTES), 640) is None

    def worn(sector: int, _sectors: int) -> bytes:
        if sector < 640 + MARK_SECTORS - 2:
            raise MediumError("unreadable")
        return _at(data, sector - 640)

    assert read_mark(worn, 640) == MARK


def _at(data: bytes, sector: int) -> bytes:
    return data[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]


@given(st.integers(0, SECTOR_BYTES - 1), st.integers(1, 255))
def test_a_damaged_mark_is_none(place: int, change: int) -> None:
    data = bytearray(_at(mark_bytes(MARK, 640), 0))
    data[place] ^= change
    assert parse_mark(bytes(data), 640) is None
