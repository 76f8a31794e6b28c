"""Spare areas by FORMAT UNIT, and discs that are made final."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.libraries import (
    CLUSTER,
    DRIVE,
    SLOT,
    burned,
    content,
    loaded,
    new_library,
    sense_of,
    settle,
)

from hsmfs.changer import cdb
from hsmfs.changer.burn import Burn
from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import open_library
from hsmfs.changer.emulated.formatting import (
    SHARE_DEFAULT,
    SHARE_MIN,
    SPARE,
    UNFORMATTED,
    capacities,
    user_sectors,
    wanted_sectors,
)
from hsmfs.changer.library import Changer
from hsmfs.changer.sense import Sense, encode
from hsmfs.changer.transport.interface import CHECK_CONDITION, Reply, Transport
from hsmfs.clock import ManualClock
from hsmfs.errors import MediumError

SECTORS = 2048
USABLE = user_sectors(SECTORS, SHARE_DEFAULT)


def format_list(blocks: int, kind: int, length: int = 8) -> bytes:
    return struct.pack(">xBHIB3x", 2, length, blocks, kind << 2)


@given(st.integers(96, 1 << 26))
def test_every_offer_can_be_taken(capacity: int) -> None:
    rows = capacities(capacity, UNFORMATTED)
    assert len(rows) == 4 + rows[3] and struct.unpack_from(">I", rows, 4)[0] == capacity
    for at in range(12, len(rows), 8):
        blocks = wanted_sectors(cdb.format_unit(), cdb.format_list(rows[at : at + 8]), capacity)
        assert blocks == int.from_bytes(rows[at : at + 4], "big")
        assert 0 < blocks < capacity and blocks % CLUSTER == 0
    assert user_sectors(capacity, SHARE_MIN) >= user_sectors(capacity, SHARE_DEFAULT)


@pytest.mark.parametrize("least", [False, True])
def test_a_disc_with_spares_is_smaller_and_burns_like_any(tmp_path: Path, least: bool) -> None:
    library = new_library(tmp_path)
    drive = loaded(library)
    drive.format_with_spares(least=least)
    usable = user_sectors(SECTORS, SHARE_MIN if least else SHARE_DEFAULT)
    info = drive.disc_info()
    assert (info.state, info.capacity_sectors, info.next_writable) == ("blank", usable, 0)
    with pytest.raises(MediumError, match="no format with spare areas"):
        drive.format_with_spares()
    with pytest.raises(MediumError, match=f"holds {usable} sectors"):
        Burn(drive, usable + 1)
    data = content(usable)
    burn = Burn(drive, usable)
    burn.write(data)
    burn.finish()
    again = open_library(library.path)
    drive = Drive(again.drive_transport(0), lambda _seconds: None)
    drive.ready()
    assert drive.disc_info().state == "complete" and drive.read(0, usable) == data


def test_what_the_drive_says_of_a_disc_stays_true_after_a_restart(tmp_path: Path) -> None:
    library = new_library(tmp_path)
    loaded(library).format_with_spares()
    again = open_library(library.path)
    drive = Drive(again.drive_transport(0), lambda _seconds: None)
    drive.ready()
    assert drive.disc_info().capacity_sectors == USABLE
    drive.eject()
    assert not any((library.path / "formatted").glob("*.new"))
    other = new_library(tmp_path / "other")
    loaded(other, slot=1).format_with_spares()
    Drive(other.drive_transport(0)).eject()
    state = other.state
    barcode = state.drive_discs[0]
    other.change(lambda s: (s.slots.__setitem__(1, barcode), s.drive_discs.__setitem__(0, "")))
    other.drives[0].remove()
    other.hands.replace_disc(barcode)
    assert loaded(other, slot=1).disc_info().capacity_sectors == SECTORS


@pytest.mark.parametrize(
    "parameters",
    [
        b"",
        format_list(USABLE, SPARE)[:8],
        format_list(USABLE, SPARE, length=16),
        format_list(USABLE, 0x30),
        format_list(0, SPARE),
        format_list(SECTORS, SPARE),
        format_list(USABLE - 1, SPARE),
    ],
)
def test_a_list_that_cannot_be_changes_nothing(tmp_path: Path, parameters: bytes) -> None:
    library = new_library(tmp_path)
    drive = loaded(library)
    transport = library.drive_transport(0)
    settle(transport)
    assert sense_of(transport, cdb.format_unit(), parameters) == (0x05, 0x26, 0x00)
    assert drive.disc_info().capacity_sectors == SECTORS


def test_only_a_blank_disc_can_be_formatted(tmp_path: Path) -> None:
    library = new_library(tmp_path)
    burned(library, content(64))
    transport = library.drive_transport(0)
    good = format_list(USABLE, SPARE)
    assert sense_of(transport, cdb.format_unit(), good) == (0x05, 0x30, 0x06)
    loaded(library, slot=1, number=1).format_with_spares()
    other = library.drive_transport(1)
    assert sense_of(other, cdb.format_unit(), good) == (0x05, 0x30, 0x06)


def test_formatting_takes_its_time(tmp_path: Path) -> None:
    clock = ManualClock()
    library = new_library(tmp_path, clock=clock, speed="realistic")
    Changer(library.changer_transport()).move(SLOT, DRIVE)
    transport = library.drive_transport(0)
    Drive(transport, clock.sleep).ready()
    settle(transport)
    assert sense_of(transport, cdb.format_unit(), format_list(USABLE, SPARE)) is None
    assert sense_of(transport, cdb.test_unit_ready()) == (0x02, 0x04, 0x04)
    began_s = clock.monotonic_s()
    Drive(transport, clock.sleep).ready()
    assert clock.monotonic_s() - began_s == pytest.approx(10, abs=0.2)


# -- final ------------------------------------------------------------------------------


class Old:
    """A drive that does not know how to finalize."""

    def __init__(self, inner: Transport, sense: Sense) -> None:
        self.inner, self.sense = inner, sense
        self.functions: list[int] = []

    def execute(
        self,
        cdb_bytes: bytes,
        data_out: bytes | memoryview = b"",
        data_in_len: int = 0,
        timeout_s: float = 60.0,
    ) -> Reply:
        if cdb_bytes[0] == cdb.CLOSE_TRACK_SESSION:
            self.functions.append(cdb_bytes[2])
            if cdb_bytes[2] == cdb.FINALIZE and self.sense.key:
                return Reply(CHECK_CONDITION, encode(self.sense), b"", 0)
        return self.inner.execute(cdb_bytes, data_out, data_in_len, timeout_s)

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize(
    ("sense", "functions"),
    [
        (Sense(0, 0, 0), [cdb.CLOSE_TRACK, cdb.FINALIZE]),
        (Sense(5, 0x24, 0), [cdb.CLOSE_TRACK, cdb.FINALIZE, cdb.CLOSE_SESSION]),
        (Sense(5, 0x20, 0), [cdb.CLOSE_TRACK, cdb.FINALIZE, cdb.CLOSE_SESSION]),
    ],
)
def test_a_disc_is_finalized_or_at_least_closed(
    tmp_path: Path, sense: Sense, functions: list[int]
) -> None:
    library = new_library(tmp_path)
    loaded(library)
    transport = Old(library.drive_transport(0), sense)
    drive = Drive(transport, lambda _seconds: None)
    burn = Burn(drive, CLUSTER)
    burn.write(content(CLUSTER))
    burn.finish()
    assert transport.functions == functions and drive.disc_info().state == "complete"


def test_a_disc_that_cannot_be_closed_is_an_error(tmp_path: Path) -> None:
    library = new_library(tmp_path)
    loaded(library)
    drive = Drive(Old(library.drive_transport(0), Sense(5, 0x72, 0)), lambda _seconds: None)
    burn = Burn(drive, CLUSTER)
    burn.write(content(CLUSTER))
    with pytest.raises(MediumError, match="05/72/00"):
        burn.finish()
