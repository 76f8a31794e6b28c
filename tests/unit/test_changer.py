"""Changer, Drive and Burn over devices that answer short, late or not at all."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from support.libraries import (
    CLUSTER,
    CLUSTER_BYTES,
    DRIVE,
    SLOT,
    content,
    data_of,
    loaded,
    new_library,
    put_faults,
)

from hsmfs.changer import cdb
from hsmfs.changer.burn import Burn
from hsmfs.changer.drive import READY_POLL_S, READY_TIMEOUT_S, WRITE_TIMEOUT_S, Drive
from hsmfs.changer.emulated import EmulatedLibrary, Fault
from hsmfs.changer.library import Changer, parse_elements
from hsmfs.changer.transport.interface import BUSY, Reply, Transport
from hsmfs.clock import ManualClock
from hsmfs.errors import DriveError, LibraryError, MediumError, TransientError

LENGTH = 0xFFFF
Through = Callable[[bytes, Callable[[], Reply]], Reply]


class Line:
    """A transport with something on the way; notes every command."""

    def __init__(self, device: Transport, through: Through = lambda _command, go: go()) -> None:
        self.device = device
        self.through = through
        self.commands: list[bytes] = []

    def execute(
        self,
        command: bytes,
        data_out: bytes | memoryview = b"",
        data_in_len: int = 0,
        timeout_s: float = 60.0,
    ) -> Reply:
        self.commands.append(command)
        return self.through(
            command, lambda: self.device.execute(command, data_out, data_in_len, timeout_s)
        )

    def codes(self) -> list[int]:
        return [command[0] for command in self.commands]

    def close(self) -> None:
        """Nothing to give back."""


@pytest.fixture
def library(tmp_path: Path) -> EmulatedLibrary:
    return new_library(tmp_path, mailslots=1)


# -- moves -----------------------------------------------------------------------------


def test_after_a_move_only_both_elements_are_asked_for(library: EmulatedLibrary) -> None:
    line = Line(library.changer_transport())
    changer = Changer(line)
    changer.inventory()
    line.commands.clear()
    for source, destination in [(SLOT + 1, DRIVE), (SLOT + 2, DRIVE + 1), (SLOT + 3, SLOT + 1)]:
        changer.move(source, destination)
    asked = [command for command in line.commands if command[0] == cdb.READ_ELEMENT_STATUS]
    assert [int.from_bytes(command[4:6], "big") for command in asked] == [1] * 6
    assert changer.inventory() == Changer(library.changer_transport()).inventory()


def test_a_changer_that_tells_of_no_single_element_is_asked_for_all(
    library: EmulatedLibrary,
) -> None:
    def through(command: bytes, go: Callable[[], Reply]) -> Reply:
        is_single = command[0] == cdb.READ_ELEMENT_STATUS and command[4:6] == b"\0\1"
        return Reply(0, b"", bytes(8), 0) if is_single else go()

    changer = Changer(Line(library.changer_transport(), through))
    changer.move(SLOT, DRIVE)
    assert changer.inventory() == Changer(library.changer_transport()).inventory()


@pytest.mark.parametrize("sense", [(4, 0x15, 1), (0x0B, 0, 0), (5, 0x3B, 0x0D), (3, 0, 0)])
def test_after_an_error_both_elements_are_read_and_nothing_is_sent_again(
    library: EmulatedLibrary, sense: tuple[int, int, int]
) -> None:
    library.faults.set([Fault(device="changer", op="move", sense=sense)])
    line = Line(library.changer_transport())
    changer = Changer(line)
    changer.inventory()
    line.commands.clear()
    with pytest.raises(LibraryError, match="element 1024 is full, element 256 is empty"):
        changer.move(SLOT, DRIVE)
    assert line.codes() == [cdb.MOVE_MEDIUM] + [cdb.READ_ELEMENT_STATUS] * 4
    assert {command[1] & 15 for command in line.commands[1:]} == {1, 2, 3, 4}


@pytest.mark.allow_warnings
def test_a_move_whose_answer_was_lost_is_known_by_its_disc(library: EmulatedLibrary) -> None:
    def lost(command: bytes, go: Callable[[], Reply]) -> Reply:
        reply = go()
        if command[0] == cdb.MOVE_MEDIUM and reply.status == 0:
            raise TransientError("no answer in 300 s")
        return reply

    line = Line(library.changer_transport(), lost)
    Changer(line).move(SLOT, DRIVE)
    assert line.codes().count(cdb.MOVE_MEDIUM) == 1
    assert library.state.drive_discs[0] == "HSM00001"


def test_a_move_that_went_into_the_dark_is_a_fault_of_the_library(
    library: EmulatedLibrary,
) -> None:
    def dark(command: bytes, go: Callable[[], Reply]) -> Reply:
        seen = cdb.MOVE_MEDIUM in line.codes()
        return Reply(BUSY, b"", b"") if seen else go()

    line = Line(library.changer_transport(), dark)
    with pytest.raises(LibraryError, match=r"1024 to 256: .*busy.*not known"):
        Changer(line).move(SLOT, DRIVE)
    assert line.codes().count(cdb.MOVE_MEDIUM) == 1


def test_a_changer_that_does_not_answer_is_a_fault_of_the_library(
    library: EmulatedLibrary,
) -> None:
    line = Line(library.changer_transport(), lambda _command, _go: Reply(BUSY, b"", b""))
    with pytest.raises(LibraryError, match=r"STATUS of transports.*busy"):
        Changer(line).inventory()
    with pytest.raises(LibraryError, match="busy"):
        Changer(line).move(SLOT, DRIVE)
    assert cdb.MOVE_MEDIUM not in line.codes()


# -- short replies ---------------------------------------------------------------------


def test_element_status_cut_anywhere_tells_the_first_elements(library: EmulatedLibrary) -> None:
    loaded(library)
    device = library.changer_transport()
    data = data_of(device, cdb.read_element_status(0, 0, LENGTH, LENGTH), LENGTH)
    whole = list(parse_elements(data))
    told = [list(parse_elements(data[:length])) for length in range(len(data) + 1)]
    for found in told:
        assert found[:-1] == whole[: max(0, len(found) - 1)]
        if found:  # the last one may lack its tail, where the drive's serial is
            like = whole[len(found) - 1]
            assert found[-1] in (like, like._replace(drive_serial=None))
    assert [len(found) for found in told] == sorted(len(found) for found in told)
    assert told[0] == [] and told[-1] == whole and len(whole) == 10


def test_element_status_with_any_bits_wrong_is_read_to_an_end(library: EmulatedLibrary) -> None:
    device = library.changer_transport()
    Changer(device).inventory()
    data = data_of(device, cdb.read_element_status(0, 0, LENGTH, LENGTH), LENGTH)
    dice = random.Random(1)
    for _ in range(500):
        wrong = bytearray(data)
        for _ in range(dice.randint(1, 8)):
            wrong[dice.randrange(len(wrong))] = dice.randrange(256)
        assert len(list(parse_elements(bytes(wrong)))) <= len(data) // 12


def test_a_type_that_the_changer_does_not_know_has_no_elements(library: EmulatedLibrary) -> None:
    library.faults.set([Fault(device="changer", op="status", sense=(5, 0x24, 0), count=1)])
    found = Changer(library.changer_transport()).inventory()
    assert found.transports == () and len(found.slots) == 6


@pytest.mark.parametrize("code", [0x51, 0x52, 0x46])
@pytest.mark.parametrize("length", [0, 2])
def test_a_drive_that_answers_short_is_not_an_empty_disc(
    library: EmulatedLibrary, code: int, length: int
) -> None:
    loaded(library)

    def short(command: bytes, go: Callable[[], Reply]) -> Reply:
        reply = go()
        return reply._replace(data=reply.data[:length]) if command[0] == code else reply

    drive = Drive(Line(library.drive_transport(0), short))
    with pytest.raises(DriveError, match=f"{length} bytes came, expected at least"):
        drive.disc_info()
    with pytest.raises(DriveError):
        Burn(drive, CLUSTER)


def test_a_read_that_comes_short_is_no_data(library: EmulatedLibrary) -> None:
    loaded(library).write(0, content(CLUSTER))
    device = library.drive_transport(0)
    drive = Drive(Line(device, lambda _command, go: go()._replace(data=b"x" * 2048)))
    with pytest.raises(DriveError, match="2048 bytes came, expected 65536"):
        drive.read(0, CLUSTER)


# -- drives that need time ---------------------------------------------------------------


@pytest.mark.parametrize("timeout_s", [0.0, 1.0, 5.5])
def test_waiting_for_a_disc_has_an_end(tmp_path: Path, timeout_s: float) -> None:
    clock = ManualClock()
    library = new_library(tmp_path, clock=clock, speed="realistic")
    Changer(library.changer_transport()).move(SLOT, DRIVE)
    drive, start_s = Drive(library.drive_transport(0), clock.sleep), clock.elapsed_s
    with pytest.raises(DriveError, match="did not become ready"):
        drive.ready(timeout_s)
    assert clock.elapsed_s - start_s <= timeout_s + 2 * READY_POLL_S
    drive.ready(READY_TIMEOUT_S)
    assert clock.elapsed_s - start_s == pytest.approx(library.state.timing.load_s, abs=0.2)


@pytest.mark.parametrize("sense", [[2, 4, 1], [2, 4, 7], [2, 4, 8]])
def test_a_drive_still_at_work_is_waited_for(library: EmulatedLibrary, sense: list[int]) -> None:
    loaded(library)
    clock = ManualClock()
    drive = Drive(library.drive_transport(0), clock.sleep)
    at_work = [
        {"device": "drive0", "op": op, "sense": sense, "count": 3}
        for op in ("write", "sync", "close", "read", "load")
    ]
    put_faults(library, *at_work)
    burn = Burn(drive, 3 * CLUSTER)
    burn.write(content(3 * CLUSTER))
    burn.finish()
    assert drive.read(0, 3 * CLUSTER) == content(3 * CLUSTER)
    assert clock.elapsed_s == pytest.approx(15 * READY_POLL_S)


def test_a_drive_at_work_without_end_is_a_fault_of_the_drive(library: EmulatedLibrary) -> None:
    loaded(library)
    clock = ManualClock()
    drive = Drive(library.drive_transport(0), clock.sleep)
    put_faults(library, {"device": "drive0", "op": "write", "sense": [2, 4, 8]})
    with pytest.raises(DriveError, match="still not ready after 180 s"):
        drive.write(0, content(CLUSTER))
    assert clock.elapsed_s == pytest.approx(WRITE_TIMEOUT_S, abs=1.0)


def test_a_disc_changed_between_two_commands_is_not_written_or_read(
    library: EmulatedLibrary,
) -> None:
    drive = loaded(library)
    drive.write(0, content(CLUSTER))
    drive.eject()
    drive.load()
    with pytest.raises(MediumError, match="changed"):
        drive.write(CLUSTER, content(CLUSTER))
    assert drive.disc_info().next_writable == CLUSTER


# -- burns -------------------------------------------------------------------------------


def test_chunks_of_random_sizes_make_one_ascending_stream(library: EmulatedLibrary) -> None:
    dice = random.Random(7)
    for slot in range(4):
        sectors = dice.randint(1, 1500)
        data = content(sectors, slot)
        drive = loaded(library, slot)
        burn, at = Burn(drive, sectors), 0
        while at < len(data):
            size = dice.choice([0, 1, 2047, 2048, 65536, dice.randint(1, 2 << 20)])
            burn.write(data[at : at + size])
            at += size
        burn.finish()
        image = library.image(f"HSM{slot + 1:05d}").read_bytes()
        assert image == data + bytes(-len(data) % CLUSTER_BYTES)
        drive.eject()
        Changer(library.changer_transport()).move(DRIVE, SLOT + slot)
