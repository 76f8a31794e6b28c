"""Which of the copies of a volume a disc is: a record behind the volume, see docs/disc-format.md.

All copies are byte-identical up to the volume's end; the mark is one cluster
behind it, written only where discs have no barcodes. 31 sectors hold the same
record, the last one an anchor, so that the last sector of the disc has one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import msgspec
import xxhash

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.descriptor import TagId, extent_ad, sealed
from hsmfs.volume.geometry import (
    ALIGN_SECTORS,
    MAIN_SEQUENCE_SECTOR,
    SEQUENCE_SECTORS,
    TAIL_SECTORS,
)

MARK_SECTORS: Final = ALIGN_SECTORS
MAGIC: Final = b"HSMDISC1"
_HEAD: Final = struct.Struct("<8sQQ")
"""Magic, xxh3_64 of all behind these two, number of the sector."""
_SUMMED_FROM: Final = 16


class DiscMark(msgspec.Struct, frozen=True, kw_only=True):
    """What a disc says of itself; written as JSON, further fields are ignored."""

    site: str
    disc: str
    """Its number, unique within the site."""
    volume: str
    created_ns: int
    """Of the volume, as in its header."""
    box: str = ""
    """Where it was to be kept when it was burned."""


def mark_bytes(mark: DiscMark, total_sectors: int) -> bytes:
    """One cluster, to be written from sector ``total_sectors`` on (a multiple of 32)."""
    text = msgspec.json.encode(mark)
    assert total_sectors % MARK_SECTORS == 0 and len(text) <= SECTOR_BYTES - _HEAD.size
    last = total_sectors + MARK_SECTORS - 1
    sectors = [_sector(text, number) for number in range(total_sectors, last)]
    return b"".join(sectors) + _anchor(last, total_sectors - TAIL_SECTORS)


def _sector(text: bytes, number: int) -> bytes:
    body = (_HEAD.pack(MAGIC, 0, number) + text).ljust(SECTOR_BYTES, b"\0")
    return MAGIC + struct.pack("<Q", xxhash.xxh3_64_intdigest(body[_SUMMED_FROM:])) + body[16:]


def _anchor(sector: int, reserve_sector: int) -> bytes:
    length = SEQUENCE_SECTORS * SECTOR_BYTES
    body = extent_ad(length, MAIN_SEQUENCE_SECTOR) + extent_ad(length, reserve_sector)
    return sealed(TagId.ANCHOR, sector, body + bytes(480)).ljust(SECTOR_BYTES, b"\0")


def parse_mark(data: bytes, number: int) -> DiscMark | None:
    """The record of one sector; None where it is none, or damaged."""
    if len(data) != SECTOR_BYTES:
        return None
    magic, digest, own = _HEAD.unpack_from(data)
    if magic != MAGIC or own != number:
        return None
    if xxhash.xxh3_64_intdigest(data[_SUMMED_FROM:]) != digest:
        return None
    try:
        return msgspec.json.decode(data[_HEAD.size :].rstrip(b"\0"), type=DiscMark)
    except msgspec.MsgspecError:
        return None


def read_mark(read: Callable[[int, int], bytes], total_sectors: int) -> DiscMark | None:
    """The mark behind a volume of so many sectors; None where there is none.

    Its sectors are tried one by one, as long as they cannot be read.
    """
    for number in range(total_sectors, total_sectors + MARK_SECTORS - 1):
        try:
            data = read(number, 1)
        except MediumError:
            continue
        mark = parse_mark(data, number)
        if mark is not None or not data.startswith(MAGIC):
            return mark
    return None
