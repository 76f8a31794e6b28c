"""Times of ISO 9660 and of UDF, with their zones; 0 where a field is no time."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND_NS: Final = 1_000_000_000
_SPANS: Final = ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14), (14, 16))
_ZONE_UNKNOWN: Final = -2047


def short_date_ns(field: bytes) -> int:
    """Seven bytes (ECMA-119 9.1.5)."""
    year, month, day, hour, minute, second, quarter = struct.unpack("<6Bb", field)
    return _ns((1900 + year, month, day, hour, minute, second), 0, 15 * quarter)


def long_date_ns(field: bytes) -> int:
    """Sixteen digits and a zone (ECMA-119 8.4.26.1)."""
    digits = field[:16]
    if not digits.isdigit():
        return 0
    *moment, hundredth = (int(digits[start:stop]) for start, stop in _SPANS)
    quarter = int.from_bytes(field[16:17], "little", signed=True)
    return _ns(tuple(moment), hundredth * 10_000_000, 15 * quarter)


def udf_date_ns(field: bytes) -> int:
    """Twelve bytes (ECMA-167 1/7.3)."""
    kind, year, *moment, centi, hundreds, micro = struct.unpack("<HhBBBBBBBB", field)
    zone = kind & 0xFFF
    zone = zone - 0x1000 if zone & 0x800 else zone
    rest_ns = (centi * 10_000 + hundreds * 100 + micro) * 1000
    local = kind >> 12 == 1 and zone != _ZONE_UNKNOWN
    return _ns((year, *moment), rest_ns if rest_ns < _SECOND_NS else 0, zone if local else 0)


def _ns(moment: tuple[int, ...], rest_ns: int, minutes: int) -> int:
    try:
        year, month, day, hour, minute, second = moment
        zone = timezone(timedelta(minutes=minutes))
        when = datetime(year, month, day, hour, minute, second, tzinfo=zone) - _EPOCH
    except (ValueError, OverflowError):
        return 0
    return (when.days * 86400 + when.seconds) * _SECOND_NS + rest_ns
