"""FORMAT UNIT of a blank BD-R: spare areas for the drive's own defect management (MMC-6 6.4).

Plain values in and out. The emulator keeps no defects: a format makes the disc smaller, and
that is all. Once formatted, a disc cannot be formatted again.
"""

from __future__ import annotations

import struct
from typing import Final

from hsmfs.types import SECTOR_BYTES

ECC_SECTORS: Final = 32
FMT_DATA, FORMAT_CODE = 0x10, 0x01
LIST_BYTES: Final = 12
FULL, SPARE = 0x00, 0x32
"""Format types: as the drive thinks best, and BD-R with spare areas."""
UNFORMATTED, FORMATTED, ABSENT = 1, 2, 3
"""Descriptor types of READ FORMAT CAPACITIES."""
SHARE_DEFAULT, SHARE_MIN = 32, 96
"""Sectors of which one is a spare; on a disc of 25 GB some 780 and 260 MB, as real ones have."""


def user_sectors(capacity: int, share: int) -> int:
    """What is left of a disc when so much is spare, in whole clusters."""
    spare = -(-capacity // share // ECC_SECTORS) * ECC_SECTORS
    return max(ECC_SECTORS, (capacity - max(ECC_SECTORS, spare)) // ECC_SECTORS * ECC_SECTORS)


def wanted_sectors(cdb: bytes, data: bytes, capacity: int) -> int | None:
    """User sectors that FORMAT UNIT asks for; None for a parameter list that cannot be."""
    if cdb[1] & 0x1F != FMT_DATA | FORMAT_CODE or len(data) < LIST_BYTES:
        return None
    length, blocks, kind = struct.unpack_from(">xxHIB", data)
    if length != 8 or kind >> 2 not in (FULL, SPARE):
        return None
    if not 0 < blocks < capacity or blocks % ECC_SECTORS:
        return None
    return int(blocks)


def capacities(sectors: int, kind: int) -> bytes:
    """READ FORMAT CAPACITIES (MMC-6 6.23): the current one, and how a blank disc may be formatted:
    the default first, then the one with the fewest spares."""
    rows = struct.pack(">IB", sectors, kind) + SECTOR_BYTES.to_bytes(3, "big")
    if kind == UNFORMATTED:
        default, most = (user_sectors(sectors, share) for share in (SHARE_DEFAULT, SHARE_MIN))
        for blocks, form in ((default, FULL), (default, SPARE), (most, SPARE)):
            rows += struct.pack(">IB3x", blocks, form << 2)
    return struct.pack(">3xB", len(rows)) + rows
