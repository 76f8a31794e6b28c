"""Faults as arguments, and what the layer above makes of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.libraries import CLUSTER, DRIVE, SLOT, burned, content, loaded, new_library, put_faults

from hsmfs.changer import cdb
from hsmfs.changer.burn import Burn
from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import EmulatedLibrary, Fault
from hsmfs.changer.emulated.faults import Faults
from hsmfs.changer.emulated.state import LibraryState
from hsmfs.changer.library import Changer
from hsmfs.changer.sense import Sense, encode
from hsmfs.changer.transport.interface import CHECK_CONDITION, Reply
from hsmfs.errors import DriveError, HsmError, LibraryError, MediumError

DEAD = {"device": "drive0", "op": "any", "sense": [4, 0x44, 0]}


@pytest.fixture
def library(tmp_path: Path) -> EmulatedLibrary:
    return new_library(tmp_path)


def test_unreadable_sectors_are_those_of_the_range(library: EmulatedLibrary) -> None:
    drive = burned(library, content(4 * CLUSTER))
    bad = {"device": "HSM00001", "op": "read", "lba_from": 40, "lba_to": 42, "sense": [3, 17, 5]}
    put_faults(library, bad)
    assert drive.read(0, 40) + drive.read(42, 86) == (
        content(4 * CLUSTER)[: 40 * 2048] + content(4 * CLUSTER)[42 * 2048 :]
    )
    for lba, count in ((0, 41), (40, 1), (41, 10)):
        with pytest.raises(MediumError, match="unreadable sector"):
            drive.read(lba, count)


def test_a_disc_takes_its_fault_to_any_drive(library: EmulatedLibrary) -> None:
    drive = burned(library, content(CLUSTER))
    put_faults(library, {"device": "HSM00001", "op": "read", "sense": [3, 17, 5]})
    drive.eject()
    changer = Changer(library.changer_transport())
    changer.move(DRIVE, SLOT)
    other = loaded(library, 0, 1)
    with pytest.raises(MediumError):
        other.read(0, 1)
    assert burned(library, content(CLUSTER), 1, 0).read(0, 1)


def test_a_burn_fails_after_so_many_bytes(library: EmulatedLibrary) -> None:
    drive = loaded(library)
    after = {"device": "drive0", "op": "write", "after_bytes": 3 << 19, "sense": [3, 0x0C, 0]}
    put_faults(library, after)
    burn = Burn(drive, 2048)
    burn.write(content(512))
    with pytest.raises(MediumError, match="write error"):
        burn.write(content(512))
    put_faults(library)
    assert drive.disc_info()[:3:2] == ("incomplete", 512)


@pytest.mark.parametrize("op", ["close", "sync"])
def test_a_disc_that_could_not_be_closed_is_not_complete(library: EmulatedLibrary, op: str) -> None:
    drive = loaded(library)
    burn = Burn(drive, CLUSTER)
    burn.write(content(CLUSTER))
    put_faults(library, {"device": "drive0", "op": op, "sense": [3, 0x0C, 0], "count": 1})
    with pytest.raises(MediumError):
        burn.finish()
    assert drive.disc_info().state == "incomplete"


def test_a_dead_drive_fails_at_everything(library: EmulatedLibrary) -> None:
    drive = burned(library, content(CLUSTER))
    put_faults(library, DEAD)
    for work in (
        drive.ready,
        drive.disc_info,
        drive.eject,
        drive.sync,
        drive.close_session,
        lambda: drive.read(0, 1),
    ):
        with pytest.raises(DriveError, match="04/44/00"):
            work()
    assert loaded(library, 1, 1).disc_info().state == "blank"
    with pytest.raises(LibraryError, match="05/53/02"):
        Changer(library.changer_transport()).move(DRIVE, SLOT)


@pytest.mark.parametrize(
    ("op", "work"), [("load", "ready"), ("eject", "eject"), ("load", "disc_info")]
)
def test_a_fault_strikes_as_often_as_it_says(library: EmulatedLibrary, op: str, work: str) -> None:
    drive = loaded(library)
    put_faults(library, {"device": "drive0", "op": op, "sense": [4, 0x53, 0], "count": 2})
    for _ in range(2):
        with pytest.raises(DriveError):
            getattr(drive, work)()
    getattr(drive, work)()


# -- the robot -------------------------------------------------------------------------


def moves(library: EmulatedLibrary, **fault: Any) -> Changer:
    library.faults.set([Fault(device="changer", op="move", **fault)])
    return Changer(library.changer_transport())


def test_a_stuck_robot_moved_nothing(library: EmulatedLibrary) -> None:
    changer = moves(library, sense=(4, 0x15, 1))
    before = changer.inventory()
    with pytest.raises(LibraryError, match=r"mechanical positioning error.*is full.*is empty"):
        changer.move(SLOT, DRIVE)
    assert changer.inventory() == before


def test_a_move_is_never_sent_twice(library: EmulatedLibrary) -> None:
    changer = moves(library, sense=(0x0B, 0, 0), count=1)
    with pytest.raises(LibraryError):
        changer.move(SLOT, DRIVE)
    assert library.state.drive_discs == ["", ""]
    changer.move(SLOT, DRIVE)


@pytest.mark.allow_warnings
def test_a_move_that_reports_an_error_but_was_done_is_done(library: EmulatedLibrary) -> None:
    changer = moves(library, sense=(4, 0x15, 1), done=True, count=1)
    changer.move(SLOT, DRIVE)
    arrived = changer.inventory().find(DRIVE)
    assert arrived is not None and arrived.barcode == "HSM00001"


class WrongGrip:
    """A robot that fails, and meanwhile another disc came to the destination."""

    def __init__(self, library: EmulatedLibrary) -> None:
        self.library = library
        self.inner = library.changer_transport()

    def execute(
        self,
        command: bytes,
        data_out: bytes | memoryview = b"",
        data_in_len: int = 0,
        timeout_s: float = 60.0,
    ) -> Reply:
        if command[0] == cdb.MOVE_MEDIUM:
            self.library.change(self.swap)
            return Reply(CHECK_CONDITION, encode(Sense(4, 0x15, 1)), b"")
        return self.inner.execute(command, data_out, data_in_len)

    def swap(self, state: LibraryState) -> None:
        state.mailslots[0], state.slots[0] = state.slots[0], ""
        state.drive_discs[0], state.slots[1] = state.slots[1], ""
        state.sources["HSM00002"] = SLOT

    def close(self) -> None:
        """Nothing to give back."""


def test_another_disc_at_the_destination_is_no_success(tmp_path: Path) -> None:
    library = new_library(tmp_path, mailslots=1)
    with pytest.raises(LibraryError, match=r"is empty.*is full"):
        Changer(WrongGrip(library)).move(SLOT, DRIVE)


def test_what_was_refused_is_not_taken_for_done(library: EmulatedLibrary) -> None:
    changer = moves(library, sense=(5, 0x3B, 0x0D), done=True, count=1)
    with pytest.raises(LibraryError, match="05/3B/0D"):
        changer.move(SLOT, DRIVE)


def test_a_disc_can_be_one_that_the_robot_cannot_grip(library: EmulatedLibrary) -> None:
    library.faults.set([Fault(device="HSM00002", op="move", sense=(4, 0x15, 1))])
    changer = Changer(library.changer_transport())
    with pytest.raises(LibraryError):
        changer.move(SLOT + 1, DRIVE)
    changer.move(SLOT, DRIVE)


@pytest.mark.parametrize("op", ["status", "initialize"])
def test_a_library_that_does_not_answer(library: EmulatedLibrary, op: str) -> None:
    library.faults.set([Fault(device="changer", op=op, sense=(4, 0x44, 0), count=1)])
    changer = Changer(library.changer_transport())
    with pytest.raises(LibraryError, match="04/44/00"):
        (changer.inventory if op == "status" else changer.initialize)()
    assert len(changer.inventory().slots) == 6


# -- the file ----------------------------------------------------------------------------


def test_faults_come_and_go_while_the_library_runs(library: EmulatedLibrary) -> None:
    drive = loaded(library)
    for _ in range(3):
        put_faults(library, DEAD)
        with pytest.raises(DriveError):
            drive.ready()
        (library.path / "faults.json").unlink()
        drive.ready()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '[{"device": 1}]',
        '[{"device": "a", "oops": 1}]',
        '[{"device": "drive0", "op": "raed"}]',
        '[{"device": "drive0", "sense": [4, 300, 0]}]',
        '[{"device": "drive0", "sense": [16, 0, 0]}]',
    ],
)
def test_a_file_that_cannot_be_read_changes_nothing(
    library: EmulatedLibrary, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    drive = loaded(library)
    put_faults(library, DEAD)
    with pytest.raises(DriveError):
        drive.ready()
    (library.path / "faults.json").write_text(text)
    with pytest.raises(DriveError):
        drive.ready()
    assert "faults.json is not used" in capsys.readouterr().out


def test_the_same_size_and_another_time_is_another_file(library: EmulatedLibrary) -> None:
    drive = loaded(library)
    put_faults(library, DEAD)
    with pytest.raises(DriveError):
        drive.ready()
    put_faults(library, DEAD | {"device": "drive1"})
    os.utime(library.path / "faults.json", ns=(1, 1))
    drive.ready()


def test_chance_is_replayed_from_its_seed(tmp_path: Path) -> None:
    def strikes(seed: int) -> list[bool]:
        faults = Faults(tmp_path, [Fault(device="drive0", probability=0.3, seed=seed)])
        return [faults.strike(("drive0",), "read", 0, 1) is not None for _ in range(200)]

    assert strikes(1) == strikes(1) != strikes(2)
    assert 20 < sum(strikes(1)) < 100


def test_every_error_of_a_fault_is_one_of_ours(library: EmulatedLibrary) -> None:
    drive = loaded(library)
    for key in (2, 3, 4, 5, 7, 8, 0x0B, 0x0D):
        put_faults(library, {"device": "drive0", "op": "write", "sense": [key, 0, 0]})
        with pytest.raises(HsmError):
            drive.write(0, content(CLUSTER))


# -- what befalls a command as a whole ---------------------------------------------------


@pytest.mark.parametrize("done", [False, True])
def test_an_answer_is_lost_and_the_command_done_or_not(
    library: EmulatedLibrary, done: bool
) -> None:
    drive = loaded(library)
    put_faults(library, {"device": "drive0", "op": "write", "effect": "lost", "done": done})
    with pytest.raises(DriveError, match="no answer"):
        drive.write(0, content(CLUSTER))
    put_faults(library)
    assert drive.disc_info().next_writable == CLUSTER * done


def test_power_takes_what_was_not_flushed(library: EmulatedLibrary) -> None:
    drive = loaded(library)
    drive.write(0, content(CLUSTER))
    drive.sync()
    drive.write(CLUSTER, content(CLUSTER))
    put_faults(library, {"device": "library", "effect": "power", "count": 1})
    with pytest.raises(DriveError, match="no answer"):
        drive.write(2 * CLUSTER, content(CLUSTER))
    with pytest.raises(MediumError, match="changed"):
        drive.write(2 * CLUSTER, content(CLUSTER))
    assert drive.disc_info().next_writable == CLUSTER
    assert drive.read(0, CLUSTER) == content(CLUSTER)


def test_power_leaves_a_closed_disc_as_it_is(library: EmulatedLibrary) -> None:
    drive = burned(library, content(CLUSTER))
    put_faults(library, {"device": "drive0", "effect": "power", "count": 1})
    with pytest.raises(DriveError):
        drive.ready()
    assert drive.disc_info().state == "complete"
    assert drive.read(0, CLUSTER) == content(CLUSTER)


def test_a_slow_drive_is_only_slow(library: EmulatedLibrary) -> None:
    drive = burned(library, content(CLUSTER))
    clock = library.drives[0]._clock
    start_s = clock.monotonic_s()
    put_faults(library, {"device": "drive0", "op": "read", "effect": "slow", "delay_s": 20.0})
    assert drive.read(0, CLUSTER) == content(CLUSTER)
    assert clock.monotonic_s() - start_s == 20.0


def test_two_discs_change_places(library: EmulatedLibrary) -> None:
    burned(library, content(CLUSTER)).eject()
    Changer(library.changer_transport()).move(DRIVE, SLOT)
    put_faults(library, {"device": "HSM00001", "effect": "wrong", "other": "HSM00003"})
    assert loaded(library, 0).disc_info().state == "blank"
    drive = loaded(library, 2, 1)
    assert drive.read(0, CLUSTER) == content(CLUSTER)
    seen = Changer(library.changer_transport()).inventory().find(DRIVE + 1)
    assert seen is not None and seen.barcode == "HSM00003"


def test_a_double_feed_jams_the_drive_until_both_are_back(library: EmulatedLibrary) -> None:
    put_faults(library, {"device": "changer", "op": "move", "effect": "double", "count": 1})
    changer = Changer(library.changer_transport())
    changer.move(SLOT, DRIVE)
    drive = Drive(library.drive_transport(0), lambda _seconds: None)
    with pytest.raises(DriveError, match="04/53/00"):
        drive.ready()
    second = changer.inventory(refresh=True).find(SLOT + 1)
    assert second is not None and not second.full
    with pytest.raises(LibraryError, match="05/3B/0E"):
        changer.move(SLOT + 1, DRIVE + 1)
    drive.eject()
    changer.move(DRIVE, SLOT)
    second = changer.inventory(refresh=True).find(SLOT + 1)
    assert second is not None and second.barcode == "HSM00002"
    assert loaded(library, 0).disc_info().state == "blank"


def test_a_drive_dies_by_and_by(library: EmulatedLibrary) -> None:
    def failed(seed: int) -> list[bool]:
        fault = {"device": "drive0", "op": "read", "sense": [3, 17, 5], "probability": 0.0}
        put_faults(library, fault | {"rising": 0.005, "seed": seed})
        found = []
        for _ in range(200):
            try:
                drive.read(0, 1)
                found.append(False)
            except MediumError:
                found.append(True)
        return found

    drive = burned(library, content(CLUSTER))
    first = failed(1)
    put_faults(library)
    assert failed(1) == first
    assert sum(first[:50]) < sum(first[50:100]) < sum(first[150:]) == pytest.approx(45, abs=8)


def test_a_fault_begins_after_so_many_commands(library: EmulatedLibrary) -> None:
    drive = burned(library, content(CLUSTER))
    put_faults(library, {"device": "drive0", "op": "read", "after_commands": 3, "count": 1})
    for _ in range(3):
        drive.read(0, 1)
    with pytest.raises(DriveError):
        drive.read(0, 1)
    drive.read(0, 1)
