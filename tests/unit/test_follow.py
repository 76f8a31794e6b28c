"""Drives whose devices change their names, and changers that lie."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from support.libraries import CLUSTER, DRIVE, SLOT, content, new_library

from hsmfs.changer import cdb
from hsmfs.changer.discovery import Device, config_text
from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import EmulatedLibrary
from hsmfs.changer.follow import LOOK_S, Followed
from hsmfs.changer.identity import DeviceId
from hsmfs.changer.library import Changer
from hsmfs.changer.transport.interface import GOOD, Reply, Transport
from hsmfs.clock import ManualClock
from hsmfs.errors import CallerError, DriveError, HsmError, LibraryError, TransientError

pytestmark = pytest.mark.allow_warnings


class Bus:
    """Names of devices, and which drive is behind each now."""

    def __init__(self, library: EmulatedLibrary) -> None:
        self.library = library
        self.names: dict[str, int] = {"sg0": 0, "sg1": 1}
        self.writes: list[str] = []

    def open(self, name: str) -> Transport:
        if name not in self.names:
            raise CallerError(f"{name}: no such device")
        return _Node(self, name, self.names[name])

    def unplug(self, number: int) -> None:
        self.names = {name: n for name, n in self.names.items() if n != number}


class _Node:
    """An open device: it stays with its drive until that is unplugged."""

    def __init__(self, bus: Bus, name: str, number: int) -> None:
        self.bus, self.name, self.number = bus, name, number

    def execute(
        self,
        command: bytes,
        data_out: bytes | memoryview = b"",
        data_in_len: int = 0,
        timeout_s: float = 60.0,
    ) -> Reply:
        if self.bus.names.get(self.name) != self.number:
            raise TransientError(f"{self.name}: no such device")
        if command[0] == cdb.WRITE_12:
            self.bus.writes.append(f"drive{self.number}")
        device = self.bus.library.drive_transport(self.number)
        return device.execute(command, data_out, data_in_len)

    def close(self) -> None:
        """Nothing to give back."""


@pytest.fixture
def library(tmp_path: Path) -> EmulatedLibrary:
    return new_library(tmp_path)


def followed(bus: Bus, clock: ManualClock) -> tuple[Followed, Drive]:
    device = Followed(bus.open("sg0"), "sg0", lambda: list(bus.names), bus.open, clock.monotonic_s)
    device.serial = "EMUD0000"
    return device, Drive(device, clock.sleep)


def test_a_drive_that_comes_back_under_another_name_is_found(library: EmulatedLibrary) -> None:
    bus, clock = Bus(library), ManualClock()
    device, drive = followed(bus, clock)
    Changer(library.changer_transport()).move(SLOT, DRIVE)
    drive.ready()
    bus.unplug(0)
    with pytest.raises(DriveError, match="no such device"):
        drive.ready()
    with pytest.raises(DriveError, match="'EMUD0000' is not at sg0 any more"):
        drive.ready()
    bus.names["sg7"] = 0
    with pytest.raises(DriveError, match="not at sg0"):
        drive.ready()
    clock.advance(LOOK_S)
    drive.ready()
    assert device.device == "sg7"
    drive.write(0, content(CLUSTER))
    assert bus.writes == ["drive0"]


def test_nothing_is_written_to_another_drive_of_that_name(library: EmulatedLibrary) -> None:
    bus, clock = Bus(library), ManualClock()
    device, drive = followed(bus, clock)
    changer = Changer(library.changer_transport())
    changer.move(SLOT, DRIVE)
    changer.move(SLOT + 1, DRIVE + 1)
    drive.ready()
    bus.names = {"sg0": 1, "sg1": 0}
    with pytest.raises(DriveError):
        drive.write(0, content(CLUSTER))
    drive.ready()
    assert device.device == "sg1"
    drive.write(0, content(CLUSTER))
    assert bus.writes == ["drive0"]
    assert not library.image("HSM00002").exists()


def test_a_lost_answer_alone_moves_nothing(library: EmulatedLibrary) -> None:
    bus, clock = Bus(library), ManualClock()
    device, drive = followed(bus, clock)
    bus.names["sg0"] = 9
    with pytest.raises(HsmError):
        drive.identity()
    bus.names["sg0"] = 0
    assert drive.identity().serial == "EMUD0000"
    assert device.device == "sg0"


# -- libraries -----------------------------------------------------------------------


def test_two_libraries_with_one_serial_number_are_told(library: EmulatedLibrary) -> None:
    inventory = Changer(library.changer_transport()).inventory()
    who = DeviceId("HSMFS", "BD-LIB", "1", "SAME")
    devices = [Device(f"sg:/dev/sg{n}", "changer", who, inventory, "") for n in (1, 2)]
    text = config_text(devices)
    assert "/dev/sg1 and sg:/dev/sg2 say that their serial number is 'SAME'" in text
    assert "say that their serial" not in config_text(devices[:1])


Lie = Callable[[bytes], bytes]


class Liar:
    """A changer whose element status passes through ``lie``."""

    def __init__(self, library: EmulatedLibrary, lie: Lie) -> None:
        self.inner, self.lie = library.changer_transport(), lie

    def execute(
        self,
        command: bytes,
        data_out: bytes | memoryview = b"",
        data_in_len: int = 0,
        timeout_s: float = 60.0,
    ) -> Reply:
        reply = self.inner.execute(command, data_out, data_in_len)
        if command[0] == cdb.READ_ELEMENT_STATUS and reply.status == GOOD:
            return reply._replace(data=self.lie(reply.data))
        return reply

    def close(self) -> None:
        """Nothing to give back."""


def _more(data: bytes) -> bytes:
    count = struct.unpack_from(">H", data, 2)[0]
    return data[:2] + struct.pack(">H", count + 1) + data[4:]


def _fewer(data: bytes) -> bytes:
    count = struct.unpack_from(">H", data, 2)[0]
    return data[:2] + struct.pack(">H", min(count, 1)) + data[4:]


def test_a_changer_that_counts_more_than_it_tells_of_is_not_believed(
    library: EmulatedLibrary,
) -> None:
    with pytest.raises(LibraryError, match="says that it has 2, and tells of 1"):
        Changer(Liar(library, _more)).inventory()


def test_a_changer_that_counts_too_few_tells_all_the_same(library: EmulatedLibrary) -> None:
    assert len(Changer(Liar(library, _fewer)).inventory().slots) == 6


def test_element_status_that_ends_early_and_stays_so_is_not_believed(
    library: EmulatedLibrary,
) -> None:
    first: dict[int, bytes] = {}

    def lie(data: bytes) -> bytes:
        """Each type's first 200 bytes, whatever is asked for."""
        return first.setdefault(data[8] if len(data) > 8 else 0, data[:200])

    with pytest.raises(LibraryError, match="slots: the library says that it has 6, and tells of"):
        Changer(Liar(library, lie)).inventory()


def test_without_dvcid_no_serial_is_guessed(library: EmulatedLibrary) -> None:
    def lie(data: bytes) -> bytes:
        return data.replace(b"EMUD", b"\0\0\0\0")

    serials = {drive.drive_serial for drive in Changer(Liar(library, lie)).inventory().drives}
    assert not serials & {"EMUD0000", "EMUD0001"}
