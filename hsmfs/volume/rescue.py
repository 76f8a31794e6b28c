"""What damage leaves: names around it in a directory, the manifest without a tree, a header
without the manifest. Nothing here is needed for a whole volume."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import product
from typing import Final

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume import parse
from hsmfs.volume.descriptor import TAG_BYTES, TagId, parse_timestamp_ns
from hsmfs.volume.mount import Read, exactly
from hsmfs.volume.names import parse_dstring
from hsmfs.volume.parse import Identifier
from hsmfs.volume.source import VolumeHeader

RESCUE_SECTORS: Final = 32
"""A cluster: what a drive cannot read it cannot read by clusters."""
HOLE: Final = b"\xff"
"""For bytes that cannot be read: no manifest and no directory has them."""
MANIFEST_START: Final = b'{"kind":"hsm-manifest"'
MANIFEST_END: Final = b'\n{"kind":"end"'
SEARCHED_SECTORS_MAX: Final = 1 << 21
"""4 GiB from the end: manifest, mirror and tail of any volume are shorter."""
_FID_TAG: Final = struct.pack("<H", TagId.FILE_IDENTIFIER)
_FID_BYTES: Final = 38
_FID_BYTES_MAX: Final = SECTOR_BYTES
"""Of one record; so it lies in two blocks at most."""


def or_holes(read: Read, sector: int, sectors: int) -> bytes:
    """What can be read; holes for the rest."""
    try:
        return exactly(read, sector, sectors)
    except MediumError:
        if sectors == 1:
            return HOLE * SECTOR_BYTES
    step = RESCUE_SECTORS if sectors > RESCUE_SECTORS else 1
    return b"".join(
        or_holes(read, sector + at, min(step, sectors - at)) for at in range(0, sectors, step)
    )


# -- directories -----------------------------------------------------------------------------


def names_around_damage(
    copies: Sequence[bytes], first_block: int, where: str
) -> Iterator[Identifier | MediumError]:
    """The names of a directory of which each copy may be damaged elsewhere.

    Each record is taken from the copy that has it whole, by blocks where it lies in two;
    where none has, the next whole one is searched: all begin at multiples of 4 and have a CRC.
    """
    size, position, lost_at = max(map(len, copies)), 0, -1
    while position < size:
        found = _record_at(copies, position, first_block, where)
        if found is None:
            lost_at = position if lost_at < 0 else lost_at
            position += 4
            continue
        if lost_at >= 0:
            yield _names_lost(where, lost_at, position)
            lost_at = -1
        names, length = found
        yield from names
        position += length
    if lost_at >= 0:
        yield _names_lost(where, lost_at, size)


def _names_lost(where: str, start: int, stop: int) -> MediumError:
    return MediumError(f"{where}: names between bytes {start} and {stop} are lost in each copy")


def _record_at(
    copies: Sequence[bytes], position: int, first_block: int, where: str
) -> tuple[list[Identifier], int] | None:
    border = (position // SECTOR_BYTES + 1) * SECTOR_BYTES
    stop = position + _FID_BYTES_MAX
    for first, second in product(copies, repeat=2):
        if first[position : position + 2] != _FID_TAG:
            continue
        data = first[position:border] + second[border:stop]
        if len(data) < _FID_BYTES:
            continue
        name_bytes, use_bytes = data[19], struct.unpack_from("<H", data, 36)[0]
        length = (_FID_BYTES + use_bytes + name_bytes + 3) & ~3
        with suppress(MediumError):
            block = first_block + position // SECTOR_BYTES
            return list(parse.parse_directory(data[:length], block, where)), length
    return None


# -- the manifest without a tree ---------------------------------------------------------------


def find_manifest(read: Read, total_sectors: int, label: str | None) -> tuple[int, int] | None:
    """First sector and bytes of the manifest, searched from the end, where it is the last of
    the files. ``label`` is that of the volume where it is known: files may hold manifests."""
    step = RESCUE_SECTORS * 16
    lowest = max(0, total_sectors - SEARCHED_SECTORS_MAX)
    for stop in range(total_sectors, lowest, -step):
        start = max(lowest, stop - step)
        data = or_holes(read, start, stop - start)
        at = data.rfind(MANIFEST_START)
        while at >= 0:
            if at % SECTOR_BYTES == 0 and _is_of(label, data[at : at + SECTOR_BYTES]):
                sector = start + at // SECTOR_BYTES
                return sector, _manifest_bytes(read, sector, total_sectors)
            at = data.rfind(MANIFEST_START, 0, at)
    return None


def _is_of(label: str | None, data: bytes) -> bool:
    """Whether it is the manifest of that volume, or cannot be told."""
    return label is None or b'"label":"' not in data or f'"label":"{label}"'.encode() in data


def _manifest_bytes(read: Read, sector: int, total_sectors: int) -> int:
    """Up to the end of its last line; where that is lost up to where zeros follow, or the end."""
    held, at = b"", sector
    while at < total_sectors:
        step = min(RESCUE_SECTORS, total_sectors - at)
        data = or_holes(read, at, step)
        both = held + data
        end = both.find(MANIFEST_END)
        stop = both.find(b"\n", end + 1) if end >= 0 else both.find(b"\0")
        if stop >= 0:
            return (at - sector) * SECTOR_BYTES - len(held) + stop + (end >= 0)
        held, at = both[-SECTOR_BYTES:], at + step
    return (at - sector) * SECTOR_BYTES


# -- without the manifest's first line -----------------------------------------------------------


def header_of(primary: bytes, implementation_use: bytes, label: str) -> VolumeHeader:
    """What the volume descriptors say of a volume whose manifest does not: its pool is not
    known, its time is in microseconds, and a site's name may be cut."""
    about = parse_dstring(implementation_use[TAG_BYTES + 4 + 32 + 64 + 128 :][:36], "site")
    created = parse_timestamp_ns(primary[376:388])
    return VolumeHeader(
        label=label, site=about.removeprefix("site "), pool="", created_ns=created, copies=1
    )
