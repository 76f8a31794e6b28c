"""Parts that all descriptors are made of (ECMA-167 3rd edition, UDF 2.50).

All numbers are little-endian. A tag is id u16, version u16, checksum u8,
zero u8, serial u16, CRC u16, CRC length u16, location u32 (ECMA-167 3/7.2).
"""

from __future__ import annotations

import struct
from binascii import crc_hqx
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

TAG_BYTES: Final = 16
CHARSPEC: Final = b"\0" + b"OSTA Compressed Unicode".ljust(63, b"\0")
_OS_UNIX: Final = b"\x04\x05"
_EXTENT_NONE: Final = bytes(16)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_NS: Final = 1_000_000_000
_FIRST_S: Final = int((datetime(1, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds())
_LAST_S: Final = int((datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _EPOCH).total_seconds())


class TagId:
    """Tag identifiers (ECMA-167 3/7.2.1 and 4/7.2.1)."""

    PRIMARY: Final = 1
    ANCHOR: Final = 2
    IMPLEMENTATION_USE: Final = 4
    PARTITION: Final = 5
    LOGICAL: Final = 6
    UNALLOCATED: Final = 7
    TERMINATING: Final = 8
    INTEGRITY: Final = 9
    FILE_SET: Final = 256
    FILE_IDENTIFIER: Final = 257
    FILE_ENTRY: Final = 261
    EXTENDED_FILE_ENTRY: Final = 266


_TAG: Final = struct.Struct("<HHBBHHHI")
_TIME: Final = struct.Struct("6B")


def sealed(ident: int, location: int, body: bytes) -> bytes:
    """Tag and body; the CRC covers the whole body."""
    crc = crc_hqx(body, 0)
    bare = _TAG.pack(ident, 3, 0, 0, 1, crc, len(body), location)
    return b"".join((bare[:4], bytes((sum(bare) & 0xFF,)), bare[5:], body))


def regid(name: bytes, suffix: bytes = _OS_UNIX) -> bytes:
    """An entity identifier: flags, 23 bytes of name, 8 of suffix."""
    return b"\0" + name.ljust(23, b"\0") + suffix.ljust(8, b"\0")


IMPLEMENTATION: Final = regid(b"*hsmfs")


def domain(revision: int) -> bytes:
    """The entity identifier of UDF, hard and soft write protected (UDF 2.50 2.1.5.3)."""
    return regid(b"*OSTA UDF Compliant", struct.pack("<HB", revision, 3))


def udf_regid(name: bytes, revision: int) -> bytes:
    """An entity identifier that UDF itself defines: revision and OS."""
    return regid(name, struct.pack("<H", revision) + _OS_UNIX)


def timestamp(time_ns: int) -> bytes:
    """UTC in microseconds, held within years 1 to 9999 (ECMA-167 1/7.3)."""
    seconds, rest_ns = divmod(time_ns, _SECOND_NS)
    if not _FIRST_S <= seconds <= _LAST_S:
        seconds, rest_ns = (_FIRST_S, 0) if seconds < _FIRST_S else (_LAST_S, 999_999_999)
    days, second = divmod(seconds, 86_400)
    micros = rest_ns // 1000
    return _date(days) + _TIME.pack(
        second // 3600,
        second // 60 % 60,
        second % 60,
        micros // 10_000,
        micros // 100 % 100,
        micros % 100,
    )


@lru_cache(maxsize=4096)
def _date(days: int) -> bytes:
    """Type, year, month, day; in UTC."""
    when = _EPOCH.fromordinal(_EPOCH.toordinal() + days)
    return struct.pack("<HhBB", 0x1000, when.year, when.month, when.day)


def parse_timestamp_ns(field: bytes) -> int:
    """Nanoseconds since the epoch; 0 where the field is no time."""
    _, year, month, day, hour, minute, second, *parts = struct.unpack("<HhBBBBBBBB", field)
    try:
        when = datetime(year, month, day, hour, minute, second, tzinfo=UTC) - _EPOCH
    except ValueError:
        return 0
    micros = parts[0] * 10_000 + parts[1] * 100 + parts[2]
    return int((when.days * 86400 + when.seconds) * _SECOND_NS + micros * 1000)


def extent_ad(length_bytes: int, sector: int) -> bytes:
    """An extent of the volume."""
    return struct.pack("<II", length_bytes, sector)


_LONG_AD: Final = struct.Struct("<IIHHI")


def long_ad(length_bytes: int, block: int, partition: int, unique_id: int = 0) -> bytes:
    """An extent of a partition (reference 0 physical, 1 metadata)."""
    return _LONG_AD.pack(length_bytes, block, partition, 0, unique_id)


NO_EXTENT: Final = _EXTENT_NONE
