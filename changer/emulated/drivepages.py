"""What a BD drive tells of itself and of its disc: features, mode pages, speeds (MMC-6).

Plain values in, bytes out. Programs that burn ask for these before the first
sector; our own drive class needs few of them.
"""

from __future__ import annotations

import struct
from typing import Final

from hsmfs.changer import cdb as codes
from hsmfs.types import SECTOR_BYTES

PROFILES: Final = (codes.PROFILE_BD_R_SRM, codes.PROFILE_BD_ROM)
ECC_SECTORS: Final = 32
READ_KB_S: Final = 35_965
"""BD 8x, in units of 1000 bytes, as speeds are given."""
WRITE_KB_S: Final = (26_974, 17_983, 8_991)
"""BD 6x, 4x and 2x."""
BUFFER_BYTES: Final = 4 * 1024 * 1024
WRITE_PARAMETERS, ERROR_RECOVERY, CAPABILITIES, ALL_PAGES = 0x05, 0x01, 0x2A, 0x3F
NEW_MEDIUM, MEDIUM_REMOVED = 2, 3
MEDIA_CLASS: Final = 4


def configuration(
    current: int, readable: bool, serial: str, starting: int, requested: int
) -> bytes:
    """GET CONFIGURATION: all features, current ones or one (MMC-6 6.5)."""
    body = b""
    for code, is_current, data in _features(current, readable, serial):
        if code < starting or (requested == 1 and not is_current):
            continue
        if requested == 2 and code != starting:
            continue
        version, persistent = _VERSIONS.get(code, (0, False))
        flags = version << 2 | persistent << 1 | is_current
        body += struct.pack(">HBB", code, flags, len(data)) + data
    return struct.pack(">IHH", 4 + len(body), 0, current) + body


_VERSIONS: Final = {
    0x0000: (0, True), 0x0001: (2, True), 0x0002: (1, True), 0x0003: (1, True),
    0x0041: (1, False), 0x0100: (0, True), 0x0105: (1, True), 0x0107: (3, False),
    0x0108: (0, True),
}  # fmt: skip


def _features(current: int, readable: bool, serial: str) -> list[tuple[int, bool, bytes]]:
    """Code, whether it is current, data (MMC-6 5.3)."""
    profiles = b"".join(struct.pack(">HBx", one, one == current) for one in PROFILES)
    classes = struct.pack(">4H", 0x0006, 0, 0, 0)
    padded = serial.encode().ljust(-(-len(serial) // 4) * 4)
    writable = current == codes.PROFILE_BD_R_SRM
    return [
        (0x0000, True, profiles),
        (0x0001, True, struct.pack(">IB3x", 1, 1)),
        (0x0002, True, bytes([0x02, 0, 0, 0])),
        (0x0003, True, bytes([0x29, 0, 0, 0])),
        (0x0010, readable, struct.pack(">IHBx", SECTOR_BYTES, ECC_SECTORS, 1)),
        (0x0040, current != 0, bytes(4) + classes * 3),
        (0x0041, writable, bytes([0x01, 0, 0, 0]) + classes * 2 + bytes(8)),
        (0x0100, True, b""),
        (0x0105, True, bytes(4)),
        (0x0107, writable, bytes([0x1F, 0, 0, 0])),
        (0x0108, True, padded),
    ]


def mode_pages(page: int, write_parameters: bytes, locked: bool) -> bytes | None:
    """Pages behind the mode header; None for one that there is not."""
    pages = {
        ERROR_RECOVERY: bytes([ERROR_RECOVERY, 0x0A]) + bytes(10),
        WRITE_PARAMETERS: write_parameters,
        CAPABILITIES: _capabilities(locked),
    }
    if page == ALL_PAGES:
        return b"".join(pages[code] for code in sorted(pages))
    return pages.get(page)


def _capabilities(locked: bool) -> bytes:
    """MM Capabilities and Mechanical Status page (MMC-6, annex)."""
    speeds = b"".join(struct.pack(">BBH", 0, 0, speed) for speed in WRITE_KB_S)
    body = struct.pack(
        ">BBBBBBHHHHBBHHHHBBHH",
        0x3F, 0x30, 0x40, 0x00, 0x29 | locked << 1, 0x00,
        READ_KB_S, 0, BUFFER_BYTES // 1024, READ_KB_S, 0, 0,
        WRITE_KB_S[0], WRITE_KB_S[0], 1, 0, 0, 0, WRITE_KB_S[0], len(WRITE_KB_S),
    )  # fmt: skip
    return bytes([CAPABILITIES, len(body) + len(speeds)]) + body + speeds


def default_write_parameters() -> bytes:
    """Write parameters page (MMC-6 7.5): incremental, ECC clusters."""
    return bytes([WRITE_PARAMETERS, 0x32]) + bytes(0x32)


def performance(kind: int, writes: bool, sectors: int, descriptors_max: int) -> bytes | None:
    """GET PERFORMANCE types 0 and 3 (MMC-6 6.8); None for others."""
    last = max(0, sectors - 1)
    if kind == 0:
        speed = WRITE_KB_S[0] if writes else READ_KB_S
        rows = [struct.pack(">IIII", 0, speed, last, speed)]
        flags = 0x02 if writes else 0
    elif kind == 3:
        rows = [struct.pack(">B3xIII", 0, last, READ_KB_S, speed) for speed in WRITE_KB_S]
        flags = 0
    else:
        return None
    body = b"".join(rows[:descriptors_max])
    return struct.pack(">IB3x", 4 + len(body), flags) + body


def contents(form: int, sectors: int, minutes: bool) -> bytes | None:
    """READ TOC/PMA/ATIP formats 0 and 1 of one track in one session; None for others."""

    def place(lba: int) -> bytes:
        if not minutes:
            return struct.pack(">I", lba)
        seconds, frame = divmod(lba + 150, 75)
        return bytes([0, min(255, seconds // 60), seconds % 60, frame])

    rows = [bytes([0, 0x14, 1, 0]) + place(0)]
    if form == 0:
        rows.append(bytes([0, 0x14, 0xAA, 0]) + place(sectors))
    elif form != 1:
        return None
    body = b"".join(rows)
    return struct.pack(">HBB", 2 + len(body), 1, 1) + body


def buffer_capacity() -> bytes:
    """READ BUFFER CAPACITY: always empty."""
    return struct.pack(">HBxII", 10, 0, BUFFER_BYTES, BUFFER_BYTES)


def disc_structure(form: int) -> bytes | None:
    """READ DISC STRUCTURE of a BD: disc information of format 0 (MMC-6 6.22.3.2)."""
    if form != 0:
        return None
    unit = bytearray(112)
    unit[0:3], unit[8:11], unit[11] = b"DI\x01", b"BDR", 0x01
    unit[100:106], unit[106:109] = b"HSMFS ", b"EMU"
    return struct.pack(">H2x", 2 + len(unit)) + bytes(unit)


def event(asked: int, code: int, present: bool, is_open: bool) -> bytes:
    """GET EVENT STATUS NOTIFICATION: media events or none (MMC-6 6.6)."""
    supported = 1 << MEDIA_CLASS
    if not asked & supported:
        return struct.pack(">HBB", 2, 0x80, supported)
    status = (0x02 if present else 0) | (0x01 if is_open else 0)
    return struct.pack(">HBBBB2x", 6, MEDIA_CLASS, supported, code, status)
