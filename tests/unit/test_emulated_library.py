"""The emulated library: its person's hands, its timing, what it keeps on disk."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from support.libraries import (
    CLUSTER,
    CLUSTER_BYTES,
    DISC_BYTES,
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
from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import EmulatedLibrary, open_library
from hsmfs.changer.library import Changer
from hsmfs.clock import ManualClock
from hsmfs.errors import CallerError, DriveError, LibraryError, MediumError

MEDIUM_CHANGED = (6, 0x28, 0)
TRAY_OF_FIRST = ["HSM00001", "HSM00002", "HSM00003"]


@pytest.fixture
def library(tmp_path: Path) -> EmulatedLibrary:
    return new_library(tmp_path)


def slots(library: EmulatedLibrary) -> list[str]:
    found = Changer(library.changer_transport()).inventory()
    return [slot.barcode or "" for slot in found.slots]


def reopened(library: EmulatedLibrary) -> EmulatedLibrary:
    return open_library(library.path, ManualClock())


def images(library: EmulatedLibrary) -> list[str]:
    return sorted(path.name for path in library.discs.iterdir())


# -- state on disk -----------------------------------------------------------------


def test_a_library_is_made_once_and_found_again(tmp_path: Path) -> None:
    library = new_library(tmp_path)
    assert slots(library) == [f"HSM{n:05d}" for n in range(1, 7)]
    with pytest.raises(CallerError, match="holds a library already"):
        new_library(tmp_path)
    with pytest.raises(CallerError, match="not found"):
        open_library(tmp_path / "nowhere")
    (library.path / "library.json").write_text('{"drives": "two"}')
    with pytest.raises(CallerError, match=r"library\.json.*backup"):
        reopened(library)


@pytest.mark.parametrize("shape", [{"drives": 0}, {"disc_bytes": 2048}, {"slots": 70_000}])
def test_shapes_that_no_library_has(tmp_path: Path, shape: dict[str, int]) -> None:
    with pytest.raises(CallerError, match="expected at"):
        new_library(tmp_path, **shape)
    assert not (tmp_path / "library").exists()


def test_everything_is_where_it_was_after_a_restart(library: EmulatedLibrary) -> None:
    data = content(CLUSTER)
    burned(library, data)
    before = Changer(library.changer_transport()).inventory(refresh=True)
    again = reopened(library)
    assert Changer(again.changer_transport()).inventory() == before
    assert settle(again.drive_transport(0))[-1] == MEDIUM_CHANGED
    drive = Drive(again.drive_transport(0))
    assert drive.disc_info().state == "complete" and drive.read(0, CLUSTER) == data


def test_an_image_is_exactly_what_was_recorded(library: EmulatedLibrary) -> None:
    data = content(3)
    burned(library, data)
    assert images(library) == ["HSM00001.img"]
    assert library.image("HSM00001").read_bytes() == data + bytes(CLUSTER_BYTES - len(data))


def test_a_blank_disc_in_a_drive_leaves_no_image(library: EmulatedLibrary) -> None:
    drive = loaded(library)
    assert drive.disc_info().state == "blank"
    assert images(library) == []


def test_a_sector_that_a_crash_cut_was_never_written(library: EmulatedLibrary) -> None:
    drive = loaded(library)
    drive.write(0, content(CLUSTER))
    with library.image("HSM00001").open("ab") as image:
        image.write(b"torn")
    again = reopened(library)
    info = Drive(again.drive_transport(0)).disc_info()
    assert (info.state, info.next_writable) == ("incomplete", CLUSTER)
    assert library.image("HSM00001").stat().st_size == CLUSTER_BYTES


def test_a_move_that_the_disk_refuses_did_not_happen(
    library: EmulatedLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    changer = Changer(library.changer_transport())
    before = changer.inventory()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr("hsmfs.changer.emulated.state.write_state", full)
        with pytest.raises(LibraryError, match="04/44/00"):
            changer.move(SLOT, DRIVE)
    assert changer.inventory(refresh=True) == before
    changer.move(SLOT, DRIVE)
    assert reopened(library).state.drive_discs == ["HSM00001", ""]


def test_a_full_host_disk_is_a_write_error_and_keeps_what_was_recorded(
    library: EmulatedLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = loaded(library)
    real, left = os.pwrite, [CLUSTER_BYTES + 5000]

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "no space")
        count = real(fd, data[: left[0]], offset)
        left[0] -= count
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(MediumError, match="write error"):
            drive.write(0, content(2 * CLUSTER))
    assert drive.disc_info().next_writable == CLUSTER + 2
    drive.write(CLUSTER + 2, content(30))
    assert drive.read(0, CLUSTER) == content(2 * CLUSTER)[:CLUSTER_BYTES]
    assert drive.read(CLUSTER + 2, 30) == content(30)


# -- magazines ---------------------------------------------------------------------


def test_a_magazine_goes_out_and_comes_back(library: EmulatedLibrary) -> None:
    device = library.changer_transport()
    settle(device)
    tray = library.hands.take_out_magazine(0)
    assert settle(device) == [MEDIUM_CHANGED]
    assert slots(library) == ["", "", "", "HSM00004", "HSM00005", "HSM00006"]
    again = reopened(library)
    assert [(t.id, t.discs) for t in again.state.trays] == [(tray, TRAY_OF_FIRST)]
    assert again.hands.put_in_magazine(tray) == 0
    assert slots(again)[:3] == TRAY_OF_FIRST
    with pytest.raises(CallerError, match="not outside"):
        again.hands.put_in_magazine(tray)


def test_magazines_can_change_places(library: EmulatedLibrary) -> None:
    first, second = (library.hands.take_out_magazine(index) for index in (0, 1))
    third = library.hands.put_in_magazine(second)
    assert third == 1
    library.hands.take_out_magazine(1)
    assert slots(library) == [""] * 6
    assert library.hands.put_in_magazine(first) == 0


def test_where_no_magazine_stands_none_can_be_taken(library: EmulatedLibrary) -> None:
    library.hands.take_out_magazine(0)
    for index in (0, 2, -1):
        with pytest.raises(CallerError, match="no magazine"):
            library.hands.take_out_magazine(index)


def test_a_locked_door_stays_shut(library: EmulatedLibrary) -> None:
    changer = Changer(library.changer_transport())
    changer.prevent_removal(True)
    with pytest.raises(CallerError, match="locked"):
        library.hands.take_out_magazine(0)
    changer.prevent_removal(False)
    tray = library.hands.take_out_magazine(0)
    changer.prevent_removal(True)
    with pytest.raises(CallerError, match="locked"):
        library.hands.put_in_magazine(tray)


def test_a_disc_in_a_drive_stays_when_its_magazine_goes(library: EmulatedLibrary) -> None:
    drive = loaded(library, 1)
    tray = library.hands.take_out_magazine(0)
    assert library.state.trays[0].discs == ["HSM00001", "", "HSM00003"]
    assert drive.disc_info().state == "blank"
    assert library.hands.put_in_magazine(tray) == 0
    drive.eject()
    Changer(library.changer_transport()).move(DRIVE, SLOT + 1)
    assert slots(library)[:3] == TRAY_OF_FIRST


def test_no_other_magazine_takes_the_place_of_a_disc_in_a_drive(library: EmulatedLibrary) -> None:
    drive = loaded(library, 1)
    library.hands.take_out_magazine(0)
    other = library.hands.take_out_magazine(1)
    library.change(lambda state: state.slots.__setitem__(3, "IN_ITS_WAY"))
    with pytest.raises(CallerError, match="no free place"):
        library.hands.put_in_magazine(other)
    drive.eject()
    Changer(library.changer_transport()).move(DRIVE, SLOT + 4)
    assert library.hands.put_in_magazine(other) == 0


# -- discs of others -----------------------------------------------------------------


def test_a_foreign_disc_in_the_place_of_ours(library: EmulatedLibrary, tmp_path: Path) -> None:
    device = library.changer_transport()
    settle(device)
    library.hands.load_foreign("HSM00001", b"foreign")
    assert settle(device) == [MEDIUM_CHANGED]
    image = tmp_path / "image"
    image.write_bytes(content(5))
    library.hands.load_foreign("HSM00002", image, closed=False)
    drive = loaded(library, 0)
    assert drive.disc_info().state == "complete"
    assert drive.read(0, 1).rstrip(b"\0") == b"foreign"
    other = loaded(library, 1, 1)
    assert other.disc_info()[:3] == ("incomplete", DISC_BYTES // 2048, 5)
    assert images(library) == ["HSM00001.img", "HSM00002.img"]


def test_a_disc_in_a_drive_cannot_be_exchanged(library: EmulatedLibrary) -> None:
    loaded(library)
    for work in (
        lambda: library.hands.load_foreign("HSM00001", b""),
        lambda: library.hands.replace_disc("HSM00001"),
    ):
        with pytest.raises(CallerError, match="in a drive"):
            work()


def test_a_disc_replaced_by_a_blank_one(library: EmulatedLibrary) -> None:
    drive = burned(library, content(CLUSTER))
    drive.eject()
    Changer(library.changer_transport()).move(DRIVE, SLOT)
    library.hands.replace_disc("HSM00001")
    assert loaded(library).disc_info().state == "blank"
    with pytest.raises(CallerError, match="not in the library"):
        library.hands.replace_disc("NOBODY")


def test_a_disc_of_unknown_name_needs_room(tmp_path: Path) -> None:
    library = new_library(tmp_path, mailslots=1)
    library.hands.load_foreign("OTHER001", b"x")
    found = Changer(library.changer_transport()).inventory()
    assert [slot.barcode for slot in found.mailslots] == ["OTHER001"]
    with pytest.raises(CallerError, match="no free slot"):
        library.hands.load_foreign("OTHER002", b"x")


# -- eject and time --------------------------------------------------------------------


def test_a_library_that_ejects_by_itself(tmp_path: Path) -> None:
    library = new_library(tmp_path)
    library.change(lambda state: setattr(state, "eject_first", False))
    loaded(library)
    device = library.drive_transport(0)
    changer = Changer(library.changer_transport())
    assert sense_of(device, cdb.prevent_allow(True)) is None
    with pytest.raises(LibraryError, match="05/53/02"):
        changer.move(DRIVE, SLOT)
    assert sense_of(device, cdb.prevent_allow(False)) is None
    changer.move(DRIVE, SLOT)


def test_realistic_times(tmp_path: Path) -> None:
    clock = ManualClock()
    library = new_library(tmp_path, clock=clock, speed="realistic")
    timing = library.state.timing
    Changer(library.changer_transport()).move(SLOT, DRIVE)
    assert clock.elapsed_s == timing.move_s
    device = library.drive_transport(0)
    settle(device)
    assert sense_of(device, cdb.test_unit_ready()) == (2, 4, 1)
    assert sense_of(device, cdb.read_12(0, 1), b"", 2048) == (2, 4, 1)
    drive = Drive(device, clock.sleep)
    with pytest.raises(DriveError, match="not become ready in 1 s"):
        drive.ready(1.0)
    drive.ready()
    assert clock.elapsed_s >= timing.move_s + timing.load_s
    before_s = clock.elapsed_s
    drive.write(0, content(1024))
    drive.sync()
    wrote_s = clock.elapsed_s - before_s
    assert wrote_s == pytest.approx(1024 * 2048 / timing.write_bytes_s)


def test_a_move_that_is_refused_takes_no_time(tmp_path: Path) -> None:
    clock = ManualClock()
    library = new_library(tmp_path, clock=clock, speed="realistic")
    settle(library.changer_transport())
    assert sense_of(library.changer_transport(), cdb.move_medium(0, SLOT, SLOT + 1))
    assert clock.elapsed_s == 0.0


class HeldClock(ManualClock):
    """Sleeps until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeping, self.go = threading.Event(), threading.Event()

    def sleep(self, seconds: float) -> None:
        self.sleeping.set()
        assert self.go.wait(30)


def test_status_and_the_other_drive_go_on_while_the_arm_moves(tmp_path: Path) -> None:
    clock = HeldClock()
    library = new_library(tmp_path, clock=clock, speed="realistic")
    changer = Changer(library.changer_transport())
    before = changer.inventory()
    mover = threading.Thread(target=changer.move, args=(SLOT, DRIVE))
    mover.start()
    assert clock.sleeping.wait(30)
    assert Changer(library.changer_transport()).inventory() == before
    settle(library.drive_transport(1))
    clock.go.set()
    mover.join(30)
    assert library.state.drive_discs == ["HSM00001", ""]
