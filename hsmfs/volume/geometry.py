"""Where the parts of a volume lie, from three totals.

Sectors of 2048 bytes; blocks are sectors counted from the partition's start,
metadata blocks are counted from the start of the metadata file's content::

    16   recognition        32   main descriptor sequence   64  integrity
    256  anchor             288  partition = block 0: metadata file entry
    320  metadata content, file data, metadata mirror content, mirror entry
    N-512 reserve sequence  N-257, N-1 anchors              N   end

UDF 2.01 has no metadata partition: neither entry and no mirror, and file entries and
directories are blocks of the partition from 320 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hsmfs.types import SECTOR_BYTES

ALIGN_SECTORS: Final = 32
"""A cluster of BD: volumes and the metadata file are made of whole ones."""
RECOGNITION_SECTOR: Final = 16
MAIN_SEQUENCE_SECTOR: Final = 32
SEQUENCE_SECTORS: Final = 16
INTEGRITY_SECTOR: Final = 64
ANCHOR_SECTOR: Final = 256
PARTITION_SECTOR: Final = 288
METADATA_SECTOR: Final = 320
TAIL_SECTORS: Final = 512
"""From the reserve sequence to the end."""
END_ANCHOR_SECTORS: Final = 257
EXTENT_BYTES_MAX: Final = 2**30 - SECTOR_BYTES
FILE_ENTRY_BYTES: Final = 176
LONG_AD_BYTES: Final = 16
EXTENTS_MAX: Final = (SECTOR_BYTES - FILE_ENTRY_BYTES) // LONG_AD_BYTES
FILE_BYTES_MAX: Final = EXTENTS_MAX * EXTENT_BYTES_MAX
"""All extents of a file are in its one-sector file entry: 125.6 GB."""
METADATA_EXTENT_BLOCKS: Final = (2**30 - ALIGN_SECTORS * SECTOR_BYTES) // SECTOR_BYTES
"""Of one extent of the metadata file, about half a million entries: further ones follow it
directly (UDF 2.50 section 2.2.13 wants each to be whole allocation units)."""
EXTENDED_FILE_ENTRY_BYTES: Final = 216
SHORT_AD_BYTES: Final = 8
METADATA_EXTENTS_MAX: Final = (SECTOR_BYTES - EXTENDED_FILE_ENTRY_BYTES) // SHORT_AD_BYTES
"""All are in the one-sector file entry: 229, some 120 million entries."""
METADATA_BLOCKS_MAX: Final = METADATA_EXTENT_BLOCKS * METADATA_EXTENTS_MAX
DIRECTORY_BYTES_MAX: Final = 256 * 1024 * 1024
"""Content of one directory, about four million names: readers hold it in memory."""


def sectors_of(size_bytes: int) -> int:
    """Whole sectors that hold so many bytes."""
    return -(-size_bytes // SECTOR_BYTES)


def aligned(sectors: int) -> int:
    """Up to whole clusters."""
    return -(-sectors // ALIGN_SECTORS) * ALIGN_SECTORS


@dataclass(frozen=True, slots=True)
class Geometry:
    """Places of everything; both totals are of used sectors."""

    metadata_used_blocks: int
    data_sectors: int
    metadata_partition: bool = True
    """Whether file entries are in a partition of their own, twice (UDF 2.50)."""

    @property
    def metadata_blocks(self) -> int:
        return aligned(self.metadata_used_blocks)

    @property
    def data_sector(self) -> int:
        return METADATA_SECTOR + self.metadata_blocks

    @property
    def data_end_sector(self) -> int:
        return self.data_sector + self.data_sectors

    @property
    def mirror_sector(self) -> int:
        return aligned(self.data_end_sector)

    @property
    def mirror_entry_sector(self) -> int:
        return self.mirror_sector + self.metadata_blocks

    @property
    def reserve_sector(self) -> int:
        end = self.mirror_entry_sector + 1 if self.metadata_partition else self.data_end_sector
        return aligned(end)

    @property
    def total_sectors(self) -> int:
        return self.reserve_sector + TAIL_SECTORS

    @property
    def partition_sectors(self) -> int:
        return self.reserve_sector - PARTITION_SECTOR

    @property
    def metadata_entry_block(self) -> int:
        return 0

    @property
    def mirror_entry_block(self) -> int:
        return self.mirror_entry_sector - PARTITION_SECTOR

    @property
    def first_block(self) -> int:
        """Of the metadata, in the numbers that file entries and directories use."""
        return 0 if self.metadata_partition else METADATA_SECTOR - PARTITION_SECTOR

    @property
    def metadata_reference(self) -> int:
        """Partition reference of file entries and directories; data has 0."""
        return int(self.metadata_partition)

    @property
    def metadata_extents(self) -> list[int]:
        """Blocks of each extent of the metadata file, one directly after the other."""
        whole, rest = divmod(self.metadata_blocks, METADATA_EXTENT_BLOCKS)
        return [METADATA_EXTENT_BLOCKS] * whole + ([rest] if rest else [])

    def fits(self, capacity_sectors: int) -> bool:
        """On a disc of that size, and within the format's bounds."""
        within = self.metadata_blocks <= METADATA_BLOCKS_MAX
        return within and self.total_sectors <= capacity_sectors
