"""What a changer and a BD-R drive must do, by their commands."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmfs.changer import cdb, sense
from hsmfs.changer.burn import Burn
from hsmfs.changer.command import SenseError, run_raw
from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import EmulatedLibrary, Fault, open_library
from hsmfs.changer.library import Changer, parse_elements
from hsmfs.changer.sense import TABLE, Sense
from hsmfs.changer.transport.interface import CHECK_CONDITION, Transport
from hsmfs.clock import ManualClock
from hsmfs.errors import CallerError, DriveError, LibraryError, MediumError

SECTOR = 2048
DISC = 4096 * SECTOR


@pytest.fixture
def library(tmp_path: Path) -> Iterator[EmulatedLibrary]:
    yield EmulatedLibrary.create(
        tmp_path / "lib", drives=2, slots=8, magazine_slots=4, disc_bytes=DISC
    )


@pytest.fixture
def changer(library: EmulatedLibrary) -> Changer:
    return Changer(library.changer_transport())


@pytest.fixture
def drive(library: EmulatedLibrary) -> Drive:
    return Drive(library.drive_transport(0), sleep=lambda seconds: None)


def load(changer: Changer, drive: Drive, slot: int = 0, number: int = 0) -> None:
    inventory = changer.inventory(refresh=True)
    changer.move(inventory.slots[slot].address, inventory.drives[number].address)
    drive.ready(1)


def refused(transport: Transport, command: bytes, data: bytes = b"", length: int = 0) -> Sense:
    with pytest.raises(SenseError) as caught:
        run_raw(transport, command, data, length)
    return caught.value.sense


def test_attentions_are_reported_once(library: EmulatedLibrary) -> None:
    transport = library.drive_transport(0)
    first = transport.execute(cdb.test_unit_ready())
    assert first.status == CHECK_CONDITION and sense.decode(first.sense) == (6, 0x29, 0)
    second = transport.execute(cdb.test_unit_ready())
    assert sense.decode(second.sense) == (2, 0x3A, 0)
    assert sense.decode(transport.execute(cdb.request_sense(18), b"", 18).data) == (2, 0x3A, 0)


def test_devices_say_who_they_are_and_match(library: EmulatedLibrary, changer: Changer) -> None:
    inventory = changer.inventory()
    serials = [Drive(library.drive_transport(n)).identity().serial for n in range(2)]
    assert [element.drive_serial for element in inventory.drives] == serials
    assert changer.inquiry().product == "BD-LIB EMULATED"
    page = run_raw(library.changer_transport(), cdb.inquiry(252, 0x83), b"", 252)
    assert page[1] == 0x83 and b"EMUC0001" in page
    assert refused(library.drive_transport(0), bytes([0xEE]) + bytes(11)) == (5, 0x20, 0)


def test_the_inventory_shows_all_elements(changer: Changer) -> None:
    inventory = changer.inventory()
    assert [len(group) for group in inventory] == [8, 2, 1, 0]
    assert [slot.barcode for slot in inventory.slots][:2] == ["HSM00001", "HSM00002"]
    assert all(slot.full and slot.accessible for slot in inventory.slots)


def test_short_element_status_is_tolerated(library: EmulatedLibrary) -> None:
    command = cdb.read_element_status(cdb.SLOT_ELEMENT, 0, 0xFFFF, 300)
    data = run_raw(library.changer_transport(), command, b"", 300)
    assert len(data) == 300
    found = list(parse_elements(data))
    assert 0 < len(found) < 8
    assert list(parse_elements(data[:5])) == []


def test_moves_and_their_refusals(library: EmulatedLibrary, changer: Changer) -> None:
    inventory = changer.inventory()
    first, second = (slot.address for slot in inventory.slots[:2])
    transport = library.changer_transport()
    assert refused(transport, cdb.move_medium(0, first, second)) == (5, 0x3B, 0x0D)
    assert refused(transport, cdb.move_medium(0, first, 9)) == (5, 0x21, 1)
    changer.move(first, inventory.drives[0].address)
    assert refused(transport, cdb.move_medium(0, first, second)) == (5, 0x3B, 0x0E)
    now = changer.inventory(refresh=True)
    assert now.drives[0].barcode == "HSM00001" and now.drives[0].source == first
    with pytest.raises(LibraryError, match=r"source element empty.*is empty.*is full"):
        changer.move(first, second)


def test_a_prevented_medium_stays(library: EmulatedLibrary, changer: Changer, drive: Drive) -> None:
    load(changer, drive)
    transport = library.drive_transport(0)
    run_raw(transport, cdb.prevent_allow(True))
    assert refused(transport, cdb.start_stop(cdb.START_EJECT)) == (5, 0x53, 2)
    run_raw(transport, cdb.prevent_allow(False))
    drive.eject()
    with pytest.raises(MediumError):
        drive.ready(0)


def test_a_disc_is_written_once(library: EmulatedLibrary, changer: Changer, drive: Drive) -> None:
    load(changer, drive)
    assert drive.disc_info() == ("blank", 4096, 0, 0x41)
    transport, chunk = library.drive_transport(0), bytes(range(256)) * 8 * 32
    run_raw(transport, cdb.write_12(0, 32), chunk)
    assert refused(transport, cdb.write_12(0, 32), chunk) == (5, 0x21, 2)
    assert refused(transport, cdb.write_12(64, 32), chunk) == (5, 0x21, 2)
    run_raw(transport, cdb.write_12(32, 32), chunk)
    assert drive.disc_info()[:3] == ("incomplete", 4096, 64)
    drive.sync()
    drive.close_session()
    assert drive.disc_info()[0] == "complete" and drive.disc_info().profile == 0x40
    assert refused(transport, cdb.write_12(64, 32), chunk) == (7, 0x27, 0)
    assert drive.read(32, 32) == chunk
    assert refused(transport, cdb.read_12(64, 1), b"", SECTOR) == (5, 0x21, 0)
    assert run_raw(transport, cdb.read_capacity(), b"", 8) == bytes([0, 0, 0, 63, 0, 0, 8, 0])
    assert library.image("HSM00001").read_bytes() == chunk * 2


def test_a_disc_ends(library: EmulatedLibrary, changer: Changer, drive: Drive) -> None:
    load(changer, drive)
    drive.write(0, bytes(4096 * SECTOR))
    full = refused(library.drive_transport(0), cdb.write_12(4096, 1), bytes(SECTOR))
    assert full == (5, 0x63, 0)


@pytest.mark.parametrize("chunk", [1, 700, 65536, 3_000_000])
def test_burns_take_chunks_of_any_size(changer: Changer, drive: Drive, chunk: int) -> None:
    load(changer, drive)
    data = bytes(range(251)) * 2100
    data += bytes(-len(data) % (32 * SECTOR))
    burn = Burn(drive, len(data) // SECTOR)
    step = chunk if chunk > 1 else 4099
    for start in range(0, len(data), step):
        burn.write(data[start : start + step])
    burn.finish()
    assert drive.read(0, len(data) // SECTOR) == data
    with pytest.raises(MediumError, match="complete, expected blank"):
        Burn(drive, 32)


def test_a_restart_keeps_everything(library: EmulatedLibrary, changer: Changer) -> None:
    drive = Drive(library.drive_transport(1))
    load(changer, drive, slot=2, number=1)
    drive.write(0, bytes(64 * SECTOR))
    again = open_library(library.path)
    second = Changer(again.changer_transport())
    assert second.inventory().drives[1].barcode == "HSM00003"
    opened = Drive(again.drive_transport(1))
    opened.ready(1)
    assert opened.disc_info()[:3] == ("incomplete", 4096, 64)


def test_loading_takes_its_time(tmp_path: Path) -> None:
    clock = ManualClock()
    EmulatedLibrary.create(tmp_path / "lib", drives=1, slots=2, magazine_slots=1, disc_bytes=DISC)
    library = open_library(tmp_path / "lib", clock, "realistic")
    changer = Changer(library.changer_transport())
    drive = Drive(library.drive_transport(0), sleep=clock.sleep)
    inventory = changer.inventory()
    changer.move(inventory.slots[0].address, inventory.drives[0].address)
    assert clock.elapsed_s == 5.0
    assert refused(library.drive_transport(0), cdb.test_unit_ready()) == (2, 4, 1)
    with pytest.raises(DriveError, match="did not become ready"):
        drive.ready(1)
    drive.ready(30)
    assert 11.0 <= clock.elapsed_s < 11.5


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"device": "drive0", "op": "read", "sense": (4, 0x44, 0)}, DriveError),
        ({"device": "drive0", "op": "read", "sense": (4, 0x15, 1)}, DriveError),
        ({"device": "HSM00001", "op": "read", "lba_from": 40, "sense": (3, 0x11, 5)}, MediumError),
        ({"device": "HSM00001", "op": "any", "sense": (6, 0x28, 0), "count": 1}, MediumError),
    ],
)
def test_faults_strike_where_they_should(
    library: EmulatedLibrary, changer: Changer, drive: Drive, fault: dict[str, object], error: type
) -> None:
    load(changer, drive)
    drive.write(0, bytes(64 * SECTOR))
    (library.path / "faults.json").write_text(json.dumps([fault]))
    with pytest.raises(error):
        drive.read(0, 64)
    (library.path / "faults.json").unlink()
    assert drive.read(0, 64) == bytes(64 * SECTOR)


def test_a_move_is_never_repeated(library: EmulatedLibrary, changer: Changer) -> None:
    inventory = changer.inventory()
    moves: list[bytes] = []
    real = library.changer.command

    def count(command: bytes, data: bytes | memoryview) -> bytes:
        if command[0] == cdb.MOVE_MEDIUM:
            moves.append(command)
        return real(command, data)

    library.changer.command = count  # type: ignore[method-assign]
    library.faults.set([Fault(device="changer", op="move", sense=(0x0B, 0, 0))])
    with pytest.raises(LibraryError):
        changer.move(inventory.slots[0].address, inventory.drives[0].address)
    assert len(moves) == 1


def test_magazines_go_out_and_come_back(library: EmulatedLibrary, changer: Changer) -> None:
    trays = [library.hands.take_out_magazine(index) for index in (0, 1)]
    assert not any(slot.full for slot in changer.inventory(refresh=True).slots)
    with pytest.raises(CallerError):
        library.hands.take_out_magazine(0)
    for tray in reversed(trays):
        library.hands.put_in_magazine(tray)
    found = [slot.barcode for slot in changer.inventory(refresh=True).slots]
    assert found == [f"HSM{number:05d}" for number in range(1, 9)]


@pytest.mark.parametrize("key", TABLE)
def test_every_row_of_the_sense_table(key: tuple[int, int, int]) -> None:
    concrete = Sense(*(0x7F if part < 0 else part for part in key))
    descriptor = bytes([0x72, *concrete]) + bytes(4)
    assert sense.decode(sense.encode(concrete)) == concrete == sense.decode(descriptor)
    row = TABLE[key]
    error = sense.error_of(concrete, "a command")
    if key == tuple(concrete):
        assert type(error) is row.error and row.meaning in str(error)
    assert row.action.value in {action.value for action in sense.Action}


def test_a_disc_that_was_cut_is_never_complete(library: EmulatedLibrary, changer: Changer) -> None:
    load(changer, Drive(library.drive_transport(0)))
    script = (
        "import sys; from pathlib import Path; from hsmfs.changer.drive import Drive\n"
        "from hsmfs.changer.emulated import open_library; from hsmfs.changer.burn import Burn\n"
        "drive = Drive(open_library(Path(sys.argv[1])).drive_transport(0)); drive.ready(1)\n"
        "burn = Burn(drive, 4096); print('go', flush=True)\n"
        "for _ in range(4096): burn.write(bytes(range(256)) * 8)\n"
        "import time; time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(library.path)], stdout=subprocess.PIPE
    ) as burner:
        assert burner.stdout and burner.stdout.readline() == b"go\n"
        time.sleep(0.01)
        burner.kill()
    drive = Drive(open_library(library.path).drive_transport(0))
    drive.ready(1)
    info = drive.disc_info()
    assert info.state in ("blank", "incomplete")
    if info.next_writable:
        assert drive.read(0, info.next_writable) == bytes(range(256)) * 8 * info.next_writable
        with pytest.raises(MediumError):
            Burn(drive, 32)
