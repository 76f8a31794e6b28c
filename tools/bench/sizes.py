"""How much each work does; bounded so that a full run ends within minutes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SMALL_FILE_BYTES: Final = 100_000
SYNCED_FILE_BYTES: Final = 4096
BLOCK_BYTES: Final = 1 << 20
RANDOM_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts of files, passes, reads; bytes of the big file."""

    small_files: int
    empty_files: int
    listed_files: int
    synced_files: int
    stat_passes: int
    read_passes: int
    big_bytes: int
    random_reads_cold: int
    random_reads_warm: int


FULL: Final = Sizes(1000, 2000, 10_000, 200, 20, 2, 1 << 30, 2000, 20_000)
QUICK: Final = Sizes(200, 400, 1000, 30, 5, 1, 1 << 26, 500, 4000)
TINY: Final = Sizes(8, 8, 8, 4, 2, 2, 1 << 21, 16, 16)
"""For tests."""
