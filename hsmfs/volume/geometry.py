"""Where the parts of a volume lie, from three totals.

Sectors of 2048 bytes; blocks are sectors counted from the partition's start,
metadata blocks are counted from the start of the metadata file's content::

    16   recognition        32   main descriptor sequence   64  integrity
    256  anchor             288  partition = block 0: metadata file entry
    320  metadata content, file data, metadata mirror content, mirror entry
    N-512 reserve sequence  N-257, N-1 anchors              N   end
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
METADATA_BLOCKS_MAX: Final = (2**30 - ALIGN_SECTORS * SECTOR_BYTES) // SECTOR_BYTES
"""The metadata file is one extent: about half a million entries."""


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
        return aligned(self.mirror_entry_sector + 1)

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

    def fits(self, capacity_sectors: int) -> bool:
        """On a disc of that size, and within the format's bounds."""
        within = self.metadata_blocks <= METADATA_BLOCKS_MAX
        return within and self.total_sectors <= capacity_sectors
