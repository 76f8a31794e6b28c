"""What every transport's devices must do.

A rig offers a changer with at least two drives and three blank discs, moved
and written for real: the emulator in this process, the same as an iSCSI target
through libiscsi, and tgtd as somebody else's library. Another transport joins
by a rig of its own; what its devices are known not to do is in ``lacks``, by
the name of the test that wants it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.kernelnodes import drop_nodes, kernel_nodes, node_transport
from support.libraries import (
    CLUSTER,
    CLUSTER_BYTES,
    content,
    data_of,
    new_library,
    sense_of,
    settle,
)
from support.tgtd import CHANGER_LUN, TARGET, jukebox, needs_libiscsi

from hsmfs.changer import cdb
from hsmfs.changer.burn import Burn
from hsmfs.changer.drive import TRANSFER_SECTORS_MAX, Drive
from hsmfs.changer.emulated.iscsi import IscsiTarget
from hsmfs.changer.identity import identify
from hsmfs.changer.library import Changer, parse_elements
from hsmfs.changer.transport.interface import Transport
from hsmfs.changer.transport.iscsi import IscsiAddress, IscsiTransport
from hsmfs.errors import LibraryError, MediumError
from hsmfs.types import SECTOR_BYTES

NO_MEDIUM = (2, 0x3A, 0)
INVALID_COMMAND, INVALID_FIELD = (5, 0x20, 0), (5, 0x24, 0)
OUT_OF_RANGE, INVALID_ELEMENT, NOT_NEXT = (5, 0x21, 0), (5, 0x21, 1), (5, 0x21, 2)
DESTINATION_FULL, SOURCE_EMPTY = (5, 0x3B, 0x0D), (5, 0x3B, 0x0E)
PREVENTED, END_OF_AREA = (5, 0x53, 2), (5, 0x63, 0)
MEDIUM_CHANGED, POWER_ON = (6, 0x28, 0), (6, 0x29, 0)
WRITE_PROTECTED = (7, 0x27, 0)
LENGTH = 0xFFFF


@dataclass
class Rig:
    """Devices under test, fresh from power-on."""

    changer: Transport
    drives: list[Transport]
    lacks: dict[str, str] = field(default_factory=dict)

    def element(self, kind: str, index: int = 0) -> int:
        found = Changer(self.changer).inventory(refresh=True)
        return int({"slot": found.slots, "drive": found.drives}[kind][index].address)

    def insert(self, slot: int = 0, number: int = 0) -> Transport:
        """A drive with a disc in it, its attentions consumed."""
        source, drive = self.element("slot", slot), self.element("drive", number)
        Changer(self.changer).move(source, drive)
        Drive(self.drives[number]).ready()
        return self.drives[number]


@contextmanager
def emulated(path: Path) -> Iterator[Rig]:
    library = new_library(path, mailslots=1)
    count = library.drive_count
    yield Rig(library.changer_transport(), [library.drive_transport(n) for n in range(count)])


@contextmanager
def emulated_by_iscsi(path: Path) -> Iterator[Rig]:
    needs_libiscsi()
    library = new_library(path, mailslots=1)
    with IscsiTarget(library) as target, closing_all() as opened:
        for lun in range(1 + library.drive_count):
            opened.append(IscsiTransport(IscsiAddress(target.portal, target.name, lun)))
        yield Rig(opened[0], opened[1:], dict.fromkeys(["test_cut_commands_are_refused"], FILLED))


@contextmanager
def tgtd_by_iscsi(path: Path) -> Iterator[Rig]:
    with jukebox(path, drives=3, slots=8) as daemon, closing_all() as opened:
        for lun in (CHANGER_LUN, 1, 2):
            opened.append(IscsiTransport(IscsiAddress(daemon.portal, TARGET, lun)))
        yield Rig(opened[0], opened[1:], TGTD_LACKS)


@contextmanager
def closing_all() -> Iterator[list[Transport]]:
    opened: list[Transport] = []
    try:
        yield opened
    finally:
        for transport in opened:
            transport.close()


FILLED = "a command has 16 bytes on iSCSI, a shorter one is filled up"
READ_ONLY = "its discs are DVD-ROM or DVD+R, never BD-R"
TGTD_LACKS: dict[str, str] = {
    "test_request_sense_tells_and_forgets": "REQUEST SENSE ends with the attention as its status",
    "test_cut_commands_are_refused": FILLED,
    "test_vital_product_pages": "page 83h does not have the serial number",
    "test_a_short_allocation_length_cuts_the_data": "cut element status is zeroed, too",
    "test_all_types_at_once_are_the_types_one_by_one": "all types at once come as one page",
    "test_start_and_count_choose_elements": "the count of elements asked for is ignored",
    "test_without_tags_and_ids_elements_are_still_known": "8 bytes, here a whole element, are cut",
    "test_a_disc_goes_to_a_drive_and_back": "a slot keeps its source after a disc came back",
    "test_moves_that_cannot_be_made": "unknown elements are an invalid field (05/24/00)",
    "test_a_drive_lets_go_only_after_eject": "the robot takes discs out of closed drives",
    "test_a_loaded_disc_is_an_attention_of_its_drive_only": "a loaded disc is no attention",
    "test_without_a_disc_nothing_can_be_done": "CLOSE SESSION without a disc is taken",
    "test_what_is_not_recorded_cannot_be_read": READ_ONLY,
    "test_mode_sense": "the changer's addresses are 0 in its mode page",
} | dict.fromkeys(
    (
        "test_a_disc_that_was_ejected_can_be_drawn_in_again",
        "test_a_disc_from_blank_to_complete",
        "test_only_the_next_sector_can_be_written",
        "test_the_capacity_is_the_end",
        "test_a_blank_disc_cannot_be_closed",
        "test_chunks_of_any_size_are_burned",
        "test_a_disc_is_burned_once_only",
        "test_a_volume_larger_than_the_disc_is_refused_before_the_first_sector",
        "test_a_burn_that_stops_leaves_an_incomplete_disc",
        "test_two_drives_and_the_robot_work_at_once",
    ),
    READ_ONLY,
)
KERNEL = "the kernel takes the power-on attention when it finds the device"
KERNEL_LACKS = dict.fromkeys(
    (
        "test_power_on_is_reported_once",
        "test_inquiry_goes_before_attentions_and_leaves_them",
        "test_request_sense_tells_and_forgets",
    ),
    KERNEL,
) | {"test_cut_commands_are_refused": FILLED}


def by_kernel(kind: str) -> Callable[[Path], AbstractContextManager[Rig]]:
    """The emulator behind the kernel's iSCSI initiator and device nodes; in a guest only."""

    @contextmanager
    def opened(path: Path) -> Iterator[Rig]:
        library = new_library(path, mailslots=1)
        with IscsiTarget(library) as target, closing_all() as transports:
            names = kernel_nodes(target.portal, target.name, 1 + library.drive_count)
            try:
                for name in names:
                    transports.append(node_transport(kind, name))
                yield Rig(transports[0], transports[1:], KERNEL_LACKS)
            finally:
                for transport in transports:
                    transport.close()
                drop_nodes(names)

    return opened


IN_GUEST = os.environ.get("HSMFS_GUEST", "").split()
"""Kinds of the kernel's nodes to try, where the kernel is the guest's."""
RIGS: dict[str, Callable[[Path], AbstractContextManager[Rig]]] = (
    {kind: by_kernel(kind) for kind in IN_GUEST}
    if IN_GUEST
    else {"emulated": emulated, "iscsi": emulated_by_iscsi, "tgtd": tgtd_by_iscsi}
)


@pytest.fixture(params=RIGS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with RIGS[request.param](tmp_path) as rig:
        missing = rig.lacks.get(request.node.originalname)
        if missing:
            pytest.skip(f"{request.param}: {missing}")
        yield rig


def write(device: Transport, lba: int, sectors: int, ten: bool = False) -> object:
    data = content(sectors, seed=lba)
    command = cdb.write_12(lba, sectors)
    if ten:
        command = struct.pack(">BBIBHB", cdb.WRITE_10, 0, lba, 0, sectors, 0)
    return sense_of(device, command, data)


def disc_status(device: Transport) -> int:
    return data_of(device, cdb.read_disc_information(LENGTH), LENGTH)[2] & 3


def profile(device: Transport) -> int:
    return int.from_bytes(data_of(device, cdb.get_configuration(LENGTH), LENGTH)[6:8], "big")


# -- attentions and sense ----------------------------------------------------------


def test_power_on_is_reported_once(rig: Rig) -> None:
    for device in (rig.changer, *rig.drives):
        assert POWER_ON in settle(device)
        assert settle(device) == []


def test_inquiry_goes_before_attentions_and_leaves_them(rig: Rig) -> None:
    assert data_of(rig.changer, cdb.inquiry(36), 36)[0] & 0x1F == 8
    assert data_of(rig.drives[0], cdb.inquiry(36), 36)[0] & 0x1F == 5
    assert settle(rig.drives[0])[0] == POWER_ON


def test_request_sense_tells_and_forgets(rig: Rig) -> None:
    drive = rig.drives[0]
    assert data_of(drive, cdb.request_sense(18), 18)[2] == 6
    settle(drive)
    assert sense_of(drive, cdb.test_unit_ready()) == NO_MEDIUM
    told = data_of(drive, cdb.request_sense(18), 18)
    assert (told[2], told[12], told[13]) == NO_MEDIUM
    assert data_of(drive, cdb.request_sense(18), 18)[2] == 0
    assert len(data_of(drive, cdb.request_sense(4), 18)) == 4


def test_unknown_commands_are_refused(rig: Rig) -> None:
    for device in (rig.changer, rig.drives[0]):
        settle(device)
        assert sense_of(device, bytes([0xB5]) + bytes(15)) == INVALID_COMMAND


def test_cut_commands_are_refused(rig: Rig) -> None:
    for device in (rig.changer, rig.drives[0]):
        settle(device)
        assert sense_of(device, bytes([cdb.MODE_SENSE_10, 0])) == INVALID_FIELD
    assert sense_of(rig.changer, bytes([cdb.MOVE_MEDIUM, 0, 0])) == INVALID_FIELD


# -- identity ------------------------------------------------------------------------


def test_vital_product_pages(rig: Rig) -> None:
    for device in (rig.changer, *rig.drives):
        pages = data_of(device, cdb.inquiry(252, 0x00), 252)[4:]
        assert {0x00, 0x80, 0x83} <= set(pages) and sorted(pages) == list(pages)
        serial = identify(device).serial
        assert serial and serial.encode() in data_of(device, cdb.inquiry(252, 0x83), 252)
        assert sense_of(device, cdb.inquiry(252, 0xFE), b"", 252) == INVALID_FIELD


def test_serials_are_unique_and_tell_which_element_a_drive_is(rig: Rig) -> None:
    serials = [identify(device).serial for device in rig.drives]
    assert len({*serials, identify(rig.changer).serial}) == len(serials) + 1
    found = Changer(rig.changer).inventory()
    assert [element.drive_serial for element in found.drives][: len(serials)] == serials


def test_a_short_allocation_length_cuts_the_data(rig: Rig) -> None:
    whole = data_of(rig.changer, cdb.inquiry(96), 96)
    assert data_of(rig.changer, cdb.inquiry(5), 96) == whole[:5]
    settle(rig.changer)
    status = data_of(rig.changer, cdb.read_element_status(2, 0, LENGTH, LENGTH), LENGTH)
    cut = data_of(rig.changer, cdb.read_element_status(2, 0, LENGTH, 300), LENGTH)
    assert cut == status[:300]
    told = list(parse_elements(cut))
    assert told and told == list(parse_elements(status))[: len(told)]


# -- element status --------------------------------------------------------------------


def test_all_types_at_once_are_the_types_one_by_one(rig: Rig) -> None:
    settle(rig.changer)

    def ask(kind: int) -> bytes:
        return data_of(rig.changer, cdb.read_element_status(kind, 0, LENGTH, LENGTH), LENGTH)

    whole = ask(0)
    single = [element for kind in (1, 2, 3, 4) for element in parse_elements(ask(kind))]
    assert list(parse_elements(whole)) == single
    first, count = struct.unpack_from(">HH", whole)
    assert first == min(element.address for element in single) and count == len(single)
    assert int.from_bytes(whole[5:8], "big") == len(whole) - 8


def test_start_and_count_choose_elements(rig: Rig) -> None:
    settle(rig.changer)
    start = rig.element("slot", 1)
    data = data_of(rig.changer, cdb.read_element_status(2, start, 2, LENGTH), LENGTH)
    assert [element.address for element in parse_elements(data)] == [start, start + 1]


def test_without_tags_and_ids_elements_are_still_known(rig: Rig) -> None:
    settle(rig.changer)
    command = bytearray(cdb.read_element_status(2, 0, LENGTH, LENGTH))
    command[1], command[6] = 2, 0
    bare = list(parse_elements(data_of(rig.changer, bytes(command), LENGTH)))
    full = Changer(rig.changer).inventory().slots
    assert [(e.address, e.full) for e in bare] == [(e.address, e.full) for e in full]
    assert all(element.barcode is None for element in bare)
    assert all(element.barcode for element in full)


# -- moves -----------------------------------------------------------------------------


def test_a_disc_goes_to_a_drive_and_back(rig: Rig) -> None:
    changer = Changer(rig.changer)
    slot, drive = rig.element("slot"), rig.element("drive")
    before = changer.inventory(refresh=True).find(slot)
    assert before is not None and before.full
    rig.insert()
    now = changer.inventory(refresh=True)
    there = now.find(drive)
    assert there is not None and there.full
    assert (there.barcode, there.source) == (before.barcode, slot)
    assert now.find(slot) == before._replace(full=False, barcode=None)
    Drive(rig.drives[0]).eject()
    changer.move(drive, slot)
    after = changer.inventory()
    assert after.find(slot) == before
    assert sense_of(rig.drives[0], cdb.test_unit_ready()) == NO_MEDIUM


def test_moves_that_cannot_be_made(rig: Rig) -> None:
    settle(rig.changer)
    slot, other, drive = rig.element("slot"), rig.element("slot", 1), rig.element("drive")
    assert sense_of(rig.changer, cdb.move_medium(0, slot, other)) == DESTINATION_FULL
    assert sense_of(rig.changer, cdb.move_medium(0, drive, slot)) == SOURCE_EMPTY
    assert sense_of(rig.changer, cdb.move_medium(0, slot, 0xFFFE)) == INVALID_ELEMENT
    assert sense_of(rig.changer, cdb.move_medium(0, 0xFFFE, drive)) == INVALID_ELEMENT
    with pytest.raises(LibraryError, match="is full"):
        Changer(rig.changer).move(slot, other)


def test_a_drive_lets_go_only_after_eject(rig: Rig) -> None:
    drive = rig.insert()
    source, target = rig.element("drive"), rig.element("slot")
    loaded = Changer(rig.changer).inventory().find(source)
    assert loaded is not None and not loaded.accessible
    assert sense_of(rig.changer, cdb.move_medium(0, source, target)) == PREVENTED
    assert sense_of(drive, cdb.prevent_allow(True)) is None
    assert sense_of(drive, cdb.start_stop(cdb.START_EJECT)) == PREVENTED
    assert sense_of(drive, cdb.prevent_allow(False)) is None
    assert sense_of(drive, cdb.start_stop(cdb.START_EJECT)) is None
    assert sense_of(drive, cdb.test_unit_ready()) == NO_MEDIUM
    ejected = Changer(rig.changer).inventory(refresh=True).find(source)
    assert ejected is not None and ejected.accessible and ejected.full
    assert sense_of(rig.changer, cdb.move_medium(0, source, target)) is None


def test_a_disc_that_was_ejected_can_be_drawn_in_again(rig: Rig) -> None:
    drive = rig.insert()
    assert write(drive, 0, CLUSTER) is None
    assert sense_of(drive, cdb.start_stop(cdb.START_EJECT)) is None
    assert sense_of(drive, cdb.read_12(0, 1), b"", LENGTH) == NO_MEDIUM
    assert sense_of(drive, cdb.start_stop(cdb.START_LOAD)) is None
    assert settle(drive) == [MEDIUM_CHANGED]
    assert data_of(drive, cdb.read_12(0, 1), SECTOR_BYTES) == content(CLUSTER)[:SECTOR_BYTES]


def test_a_loaded_disc_is_an_attention_of_its_drive_only(rig: Rig) -> None:
    for device in (rig.changer, *rig.drives):
        settle(device)
    slot, drive = rig.element("slot"), rig.element("drive")
    assert sense_of(rig.changer, cdb.move_medium(0, slot, drive)) is None
    assert settle(rig.drives[0]) == [MEDIUM_CHANGED]
    assert settle(rig.drives[1]) == [] and settle(rig.changer) == []


def test_initialize_changes_nothing(rig: Rig) -> None:
    changer = Changer(rig.changer)
    before = changer.inventory()
    changer.initialize()
    changer.prevent_removal(True)
    changer.prevent_removal(False)
    assert changer.inventory() == before


# -- discs -----------------------------------------------------------------------------


def test_without_a_disc_nothing_can_be_done(rig: Rig) -> None:
    drive = rig.drives[0]
    settle(drive)
    for command in (
        cdb.read_disc_information(34),
        cdb.read_track_information(1, 48),
        cdb.read_capacity(),
        cdb.read_12(0, 1),
        cdb.synchronize_cache(),
        cdb.close_track_session(cdb.CLOSE_SESSION),
    ):
        assert sense_of(drive, command, b"", LENGTH) == NO_MEDIUM
    assert write(drive, 0, CLUSTER) == NO_MEDIUM
    assert profile(drive) == 0
    with pytest.raises(MediumError, match="no medium"):
        Drive(drive).ready()


def test_a_disc_from_blank_to_complete(rig: Rig) -> None:
    drive = rig.insert()
    assert (disc_status(drive), profile(drive)) == (0, cdb.PROFILE_BD_R_SRM)
    capacity = Drive(drive).disc_info().capacity_sectors
    assert write(drive, 0, CLUSTER) is None
    assert write(drive, CLUSTER, CLUSTER, ten=True) is None
    assert Drive(drive).disc_info() == ("incomplete", capacity, 2 * CLUSTER, cdb.PROFILE_BD_R_SRM)
    Drive(drive).sync()
    Drive(drive).close_session()
    info = Drive(drive).disc_info()
    assert (info.state, info.profile) == ("complete", cdb.PROFILE_BD_ROM)
    last, size = struct.unpack(">II", data_of(drive, cdb.read_capacity(), 8))
    assert (last, size) == (2 * CLUSTER - 1, SECTOR_BYTES)
    assert write(drive, 2 * CLUSTER, CLUSTER) == WRITE_PROTECTED
    expected = content(CLUSTER, 0) + content(CLUSTER, CLUSTER)
    assert Drive(drive).read(0, 2 * CLUSTER) == expected
    ten = struct.pack(">BBIBHB", cdb.READ_10, 0, 3, 0, 2, 0)
    assert data_of(drive, ten, 2 * SECTOR_BYTES) == expected[3 * SECTOR_BYTES : 5 * SECTOR_BYTES]


def test_only_the_next_sector_can_be_written(rig: Rig) -> None:
    drive = rig.insert()
    assert write(drive, CLUSTER, CLUSTER) == NOT_NEXT
    assert write(drive, 0, CLUSTER) is None
    assert write(drive, 0, CLUSTER) == NOT_NEXT
    assert write(drive, 2 * CLUSTER, CLUSTER) == NOT_NEXT
    assert sense_of(drive, cdb.write_12(CLUSTER, CLUSTER), bytes(7)) == INVALID_FIELD
    assert Drive(drive).read(0, CLUSTER) == content(CLUSTER, 0)


def test_the_capacity_is_the_end(rig: Rig) -> None:
    drive = rig.insert()
    capacity = Drive(drive).disc_info().capacity_sectors
    at = 0
    while at < capacity - CLUSTER:
        count = min(TRANSFER_SECTORS_MAX, capacity - CLUSTER - at)
        assert write(drive, at, count) is None
        at += count
    assert write(drive, at, 2 * CLUSTER) in (END_OF_AREA, OUT_OF_RANGE)
    assert write(drive, at, CLUSTER) is None
    assert write(drive, capacity, CLUSTER) in (END_OF_AREA, OUT_OF_RANGE)


def test_what_is_not_recorded_cannot_be_read(rig: Rig) -> None:
    drive = rig.insert()
    assert sense_of(drive, cdb.read_12(0, 1), b"", LENGTH) == OUT_OF_RANGE
    assert write(drive, 0, CLUSTER) is None
    assert sense_of(drive, cdb.read_12(CLUSTER, 1), b"", LENGTH) == OUT_OF_RANGE
    assert sense_of(drive, cdb.read_12(CLUSTER - 1, 2), b"", LENGTH) == OUT_OF_RANGE
    assert data_of(drive, cdb.read_12(CLUSTER - 1, 1), SECTOR_BYTES)


def test_a_blank_disc_cannot_be_closed(rig: Rig) -> None:
    drive = rig.insert()
    command = cdb.close_track_session(cdb.CLOSE_SESSION, 1)
    assert sense_of(drive, command) == INVALID_FIELD
    assert disc_status(drive) == 0


def test_mode_sense(rig: Rig) -> None:
    drive = rig.insert()
    data = data_of(drive, cdb.mode_sense(0x05, LENGTH), LENGTH)
    assert data[8] & 0x3F == 0x05 and int.from_bytes(data[:2], "big") == len(data) - 2
    settle(rig.changer)
    page = data_of(rig.changer, cdb.mode_sense(0x1D, LENGTH), LENGTH)[8:]
    addresses = struct.unpack_from(">8H", page, 2)
    found = Changer(rig.changer).inventory()
    assert addresses[2:4] == (found.slots[0].address, len(found.slots))
    assert addresses[6:8] == (found.drives[0].address, len(found.drives))


# -- burning ---------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2047, 2048, 100_000, 1 << 20, 3 << 20])
def test_chunks_of_any_size_are_burned(rig: Rig, chunk: int) -> None:
    drive = Drive(rig.insert())
    sectors = 1024 + 40 if chunk > 1 else 3
    data = content(sectors)
    burn = Burn(drive, sectors)
    for at in range(0, len(data), chunk):
        burn.write(memoryview(data)[at : at + chunk])
    burn.finish()
    info = drive.disc_info()
    assert info.state == "complete"
    assert info.capacity_sectors == -(-sectors // CLUSTER) * CLUSTER
    padding = bytes(-len(data) % CLUSTER_BYTES)
    assert drive.read(0, info.capacity_sectors) == data + padding


def test_a_disc_is_burned_once_only(rig: Rig) -> None:
    drive = Drive(rig.insert())
    burn = Burn(drive, CLUSTER)
    burn.write(content(CLUSTER))
    burn.finish()
    with pytest.raises(MediumError, match="complete, expected blank"):
        Burn(drive, CLUSTER)


def test_a_volume_larger_than_the_disc_is_refused_before_the_first_sector(rig: Rig) -> None:
    drive = Drive(rig.insert())
    with pytest.raises(MediumError, match="nothing was written"):
        Burn(drive, drive.disc_info().capacity_sectors + 1)
    assert drive.disc_info().state == "blank"


def test_a_burn_that_stops_leaves_an_incomplete_disc(rig: Rig) -> None:
    drive = Drive(rig.insert())
    burn = Burn(drive, 2 * TRANSFER_SECTORS_MAX)
    burn.write(content(TRANSFER_SECTORS_MAX))
    with pytest.raises(AssertionError):
        burn.finish()
    assert drive.disc_info().state == "incomplete"
    with pytest.raises(MediumError, match="incomplete"):
        Burn(drive, CLUSTER)


def test_two_drives_and_the_robot_work_at_once(rig: Rig) -> None:
    drives = [Drive(rig.insert(number, number)) for number in (0, 1)]

    def job(number: int) -> bytes:
        burn = Burn(drives[number], 1024)
        burn.write(content(1024, number))
        burn.finish()
        return drives[number].read(0, 1024)

    with ThreadPoolExecutor(3) as pool:
        status = pool.submit(lambda: [Changer(rig.changer).inventory() for _ in range(20)])
        assert list(pool.map(job, (0, 1))) == [content(1024, 0), content(1024, 1)]
        assert len(set(status.result())) == 1
