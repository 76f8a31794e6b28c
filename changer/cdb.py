"""Command descriptor blocks: builders, and codes that devices decode.

SPC-4 (primary), SMC-3 (changers) and MMC-6 (discs); all integers big endian.
"""

from __future__ import annotations

import struct
from typing import Final

TEST_UNIT_READY: Final = 0x00
REQUEST_SENSE: Final = 0x03
FORMAT_UNIT: Final = 0x04
INITIALIZE_ELEMENT_STATUS: Final = 0x07
INQUIRY: Final = 0x12
MODE_SENSE_6: Final = 0x1A
START_STOP_UNIT: Final = 0x1B
PREVENT_ALLOW: Final = 0x1E
READ_CAPACITY_10: Final = 0x25
READ_FORMAT_CAPACITIES: Final = 0x23
READ_10: Final = 0x28
WRITE_10: Final = 0x2A
SYNCHRONIZE_CACHE: Final = 0x35
READ_TOC: Final = 0x43
GET_CONFIGURATION: Final = 0x46
GET_EVENT_STATUS: Final = 0x4A
READ_DISC_INFORMATION: Final = 0x51
READ_TRACK_INFORMATION: Final = 0x52
RESERVE_TRACK: Final = 0x53
SEND_OPC: Final = 0x54
MODE_SELECT_10: Final = 0x55
MODE_SENSE_10: Final = 0x5A
CLOSE_TRACK_SESSION: Final = 0x5B
READ_BUFFER_CAPACITY: Final = 0x5C
REPORT_LUNS: Final = 0xA0
MOVE_MEDIUM: Final = 0xA5
EXCHANGE_MEDIUM: Final = 0xA6
READ_12: Final = 0xA8
WRITE_12: Final = 0xAA
GET_PERFORMANCE: Final = 0xAC
READ_DISC_STRUCTURE: Final = 0xAD
SET_STREAMING: Final = 0xB6
READ_ELEMENT_STATUS: Final = 0xB8
SET_CD_SPEED: Final = 0xBB
NAMES: Final = {
    code: name.replace("_", " ")
    for name, code in tuple(globals().items())
    if isinstance(code, int) and name.isupper()
}
"""Operation codes in words."""

VPD_SUPPORTED: Final = 0x00
VPD_SERIAL: Final = 0x80
VPD_DEVICE_ID: Final = 0x83
PROFILE_BD_ROM: Final = 0x40
PROFILE_BD_R_SRM: Final = 0x41
START_EJECT: Final = 0x02
START_LOAD: Final = 0x03
CLOSE_TRACK: Final = 0x01
CLOSE_SESSION: Final = 0x02
FINALIZE: Final = 0x06
"""CLOSE TRACK/SESSION function that makes a BD-R complete: nothing can be added (MMC-6 6.3)."""
ALL_ELEMENTS: Final = 0
TRANSPORT_ELEMENT, SLOT_ELEMENT, MAILSLOT_ELEMENT, DRIVE_ELEMENT = 1, 2, 3, 4


def test_unit_ready() -> bytes:
    return bytes(6)


def request_sense(length: int) -> bytes:
    return bytes([REQUEST_SENSE, 0, 0, 0, length, 0])


def inquiry(length: int, page: int | None = None) -> bytes:
    evpd = 0 if page is None else 1
    return struct.pack(">BBBHB", INQUIRY, evpd, page or 0, length, 0)


def initialize_element_status() -> bytes:
    return bytes([INITIALIZE_ELEMENT_STATUS, 0, 0, 0, 0, 0])


def prevent_allow(prevent: bool) -> bytes:
    return bytes([PREVENT_ALLOW, 0, 0, 0, int(prevent), 0])


def start_stop(what: int) -> bytes:
    return bytes([START_STOP_UNIT, 0, 0, 0, what, 0])


def read_capacity() -> bytes:
    return bytes([READ_CAPACITY_10]) + bytes(9)


def read_element_status(kind: int, start: int, count: int, length: int) -> bytes:
    """With volume tags (VOLTAG) and device identification (DVCID); SMC-3 6.10."""
    head = struct.pack(">BBHH", READ_ELEMENT_STATUS, 0x10 | kind, start, count)
    return head + bytes([0x01]) + length.to_bytes(3, "big") + bytes(2)


def move_medium(transport: int, source: int, destination: int) -> bytes:
    return struct.pack(">BBHHHHBB", MOVE_MEDIUM, 0, transport, source, destination, 0, 0, 0)


def get_configuration(length: int) -> bytes:
    return struct.pack(">BBH3xHB", GET_CONFIGURATION, 2, 0, length, 0)


def get_event_status(classes: int, length: int) -> bytes:
    """Polled: an answer at once."""
    return struct.pack(">BB2xB2xHB", GET_EVENT_STATUS, 1, classes, length, 0)


def read_disc_information(length: int) -> bytes:
    return struct.pack(">BB5xHB", READ_DISC_INFORMATION, 0, length, 0)


def read_track_information(track: int, length: int) -> bytes:
    return struct.pack(">BBIBHB", READ_TRACK_INFORMATION, 1, track, 0, length, 0)


def format_unit() -> bytes:
    """With a parameter list (``format_list``)."""
    return bytes([FORMAT_UNIT, 0x11, 0, 0, 0, 0])


def format_list(descriptor: bytes) -> bytes:
    """Header (IMMED) and one of the descriptors of READ FORMAT CAPACITIES; MMC-6 6.4."""
    return bytes([0, 0x02, 0, 8]) + descriptor[:5] + bytes(3)


def read_format_capacities(length: int) -> bytes:
    return struct.pack(">B6xHB", READ_FORMAT_CAPACITIES, length, 0)


def read_12(lba: int, sectors: int) -> bytes:
    return struct.pack(">BBIIBB", READ_12, 0, lba, sectors, 0, 0)


def write_12(lba: int, sectors: int) -> bytes:
    return struct.pack(">BBIIBB", WRITE_12, 0, lba, sectors, 0, 0)


def synchronize_cache() -> bytes:
    return bytes([SYNCHRONIZE_CACHE]) + bytes(9)


def close_track_session(function: int, track: int = 0) -> bytes:
    return struct.pack(">BBBBHHBB", CLOSE_TRACK_SESSION, 0, function, 0, track, 0, 0, 0)


def mode_sense(page: int, length: int) -> bytes:
    return struct.pack(">BBB4xHB", MODE_SENSE_10, 0, page, length, 0)


def address_and_count(cdb: bytes) -> tuple[int, int]:
    """LBA and sectors of READ and WRITE, 10 or 12 bytes."""
    lba = int.from_bytes(cdb[2:6], "big")
    if cdb[0] in (READ_12, WRITE_12):
        return lba, int.from_bytes(cdb[6:10], "big")
    return lba, int.from_bytes(cdb[7:9], "big")
