"""The fixed places of our own volumes (docs/disc-format.md), for where no volume descriptor or
no anchor is left to tell them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume import parse
from hsmfs.volume.descriptor import IMPLEMENTATION, TagId
from hsmfs.volume.geometry import (
    ALIGN_SECTORS,
    MAIN_SEQUENCE_SECTOR,
    METADATA_SECTOR,
    PARTITION_SECTOR,
    SEQUENCE_SECTORS,
    TAIL_SECTORS,
)
from hsmfs.volume.names import parse_dstring

Read = Callable[[int, int], bytes]


def _sector(read: Read, sector: int) -> bytes:
    data = read(sector, 1)
    if len(data) != SECTOR_BYTES:
        raise MediumError(f"sector {sector}: found {len(data)} bytes, expected {SECTOR_BYTES}")
    return bytes(data)


def fixed_sequences(total_sectors: int | None) -> list[tuple[int, int]]:
    """Where the descriptor sequences of our own volumes are, whatever anchors say."""
    places = [(MAIN_SEQUENCE_SECTOR, SEQUENCE_SECTORS)]
    if total_sectors is not None and total_sectors > 2 * TAIL_SECTORS:
        places.append((total_sectors - TAIL_SECTORS, SEQUENCE_SECTORS))
    return places


def fixed_places(read: Read, total_sectors: int | None) -> tuple[parse.Logical, int, int] | None:
    """What both descriptor sequences would say of a volume of ours: its logical volume, its
    partition's first sector and length. None where it is no volume of ours."""
    blocks, sectors = [0], 1 << 31
    if total_sectors is not None and total_sectors > 2 * TAIL_SECTORS:
        sectors = total_sectors - TAIL_SECTORS - PARTITION_SECTOR
        blocks.append(sectors - ALIGN_SECTORS)
    starts = [start for block in blocks if (start := _metadata_start(read, block)) is not None]
    if not starts:
        return _fixed_places_201(read, sectors)
    labels = (_file_set_label(read, start) for start in (*starts, METADATA_SECTOR))
    label = next((label for label in labels if label is not None), "")
    file_set = parse.Extent(SECTOR_BYTES, 0, 1)
    return parse.Logical(label, file_set, 0, blocks[-1]), PARTITION_SECTOR, sectors


def _fixed_places_201(read: Read, sectors: int) -> tuple[parse.Logical, int, int] | None:
    """Of UDF 2.01: no metadata file, the file set is a block of the partition."""
    block = METADATA_SECTOR - PARTITION_SECTOR
    label = _file_set_label(read, METADATA_SECTOR, block)
    if label is None:
        return None
    file_set = parse.Extent(SECTOR_BYTES, block, 0)
    logical = parse.Logical(label, file_set, 0, 0, has_metadata_partition=False)
    return logical, PARTITION_SECTOR, sectors


def _metadata_start(read: Read, block: int) -> int | None:
    """First sector of the metadata whose file's entry is there, where hsmfs wrote it."""
    where = f"sector {PARTITION_SECTOR + block}: metadata file entry"
    with suppress(MediumError):
        data = _sector(read, PARTITION_SECTOR + block)
        parse.tag_of(data, block, {TagId.EXTENDED_FILE_ENTRY}, where)
        extents = parse.parse_entry(data, where).extents
        if extents and IMPLEMENTATION in data:
            return PARTITION_SECTOR + extents[0].block
    return None


def _file_set_label(read: Read, sector: int, block: int = 0) -> str | None:
    where = f"sector {sector}: file set"
    with suppress(MediumError):
        data = _sector(read, sector)
        parse.tag_of(data, block, {TagId.FILE_SET}, where)
        return parse_dstring(data[112:240], where)
    return None
