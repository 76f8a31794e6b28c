"""The DOS attributes that Samba keeps in ``user.DOSATTRIB``, and our one bit in them.

A stub shows FILE_ATTRIBUTE_OFFLINE ([MS-FSCC] 2.6), 0x1000. The bit is ours:
it is put into what a reader gets, and taken out of what a writer gives, so
that no copy of an attribute makes a resident file look like a stub.

Forms of the value, all little-endian:

- text: ``0x`` and hex digits, with or without a zero byte at the end. Old Samba
  wrote it, every later one reads it.
- blob: text as above or none, a zero byte, padding to 2, version u16, version
  u16 again, padding to 4, and by version

  =======  ==============================================================
  1        attrib u32, then 36 bytes
  2        flags u32, attrib u32, then 44 bytes and a name
  3        valid flags u32, attrib u32, then 36 bytes
  4        valid flags u32, attrib u32, itime u64, creation time u64
  5        valid flags u32, attrib u32, creation time u64
  =======  ==============================================================

  The attrib of the blob counts, not the text before it. Samba 4.16 and later
  write version 5 with an empty text: 24 bytes.

Anything else is not Samba's: it passes through as it is.
"""

from __future__ import annotations

import re
import struct
from typing import Final

OFFLINE: Final = 0x1000
TEXT: Final = re.compile(rb"0[xX]([0-9a-fA-F]{1,8})\0?")
TEXT_BYTES_MAX: Final = 10
VERSIONS: Final = struct.Struct("<HH")
ATTRIB: Final = struct.Struct("<I")
LAYOUT: Final = {1: (0, 40), 2: (4, 53), 3: (4, 44), 4: (4, 24), 5: (4, 16)}
"""By version: where in its record the attrib is, and the record's least size."""


def with_offline(stored: bytes | None) -> bytes:
    """What a reader of a stub's attribute gets; ``stored`` is what was set, if anything."""
    if stored is None:
        return b"0x%x" % OFFLINE
    attrib = attributes(stored)
    return stored if attrib is None else _replaced(stored, attrib | OFFLINE)


def without_offline(value: bytes) -> bytes:
    """What is kept of an attribute that someone sets."""
    attrib = attributes(value)
    return value if attrib is None else _replaced(value, attrib & ~OFFLINE)


def attributes(value: bytes) -> int | None:
    """The DOS attributes in a value; None if it is not in one of Samba's forms."""
    if text := TEXT.fullmatch(value):
        return int(text[1], 16)
    offset = _attrib_offset(value)
    if offset is None:
        return None
    attrib: int = ATTRIB.unpack_from(value, offset)[0]
    return attrib


def _replaced(value: bytes, attrib: int) -> bytes:
    """The value with other attributes, else byte for byte the same."""
    if attrib == attributes(value):
        return value
    offset = _attrib_offset(value)
    if offset is None:
        return b"0x%x" % attrib + (b"\0" if value.endswith(b"\0") else b"")
    return value[:offset] + ATTRIB.pack(attrib) + value[offset + ATTRIB.size :]


def _attrib_offset(value: bytes) -> int | None:
    """Where the attributes are in a blob; None if it is no complete one."""
    text_end = value.find(b"\0", 0, TEXT_BYTES_MAX + 1)
    if text_end > 0 and not TEXT.fullmatch(value[:text_end]):
        return None
    start = _aligned(text_end + 1, 2)
    if text_end < 0 or len(value) < start + VERSIONS.size:
        return None
    version, again = VERSIONS.unpack_from(value, start)
    record = _aligned(start + VERSIONS.size, 4)
    if version != again or version not in LAYOUT:
        return None
    offset, record_bytes = LAYOUT[version]
    return record + offset if len(value) >= record + record_bytes else None


def _aligned(offset: int, unit: int) -> int:
    return -(-offset // unit) * unit
