"""From the anchors to blocks: partition, metadata file and its mirror."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, TypeVar

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume import parse
from hsmfs.volume.descriptor import TagId
from hsmfs.volume.geometry import (
    ALIGN_SECTORS,
    ANCHOR_SECTOR,
    END_ANCHOR_SECTORS,
    MAIN_SEQUENCE_SECTOR,
    SEQUENCE_SECTORS,
)
from hsmfs.volume.parse import Entry, Extent, Logical

Read = Callable[[int, int], bytes]
T = TypeVar("T")
SEQUENCE_SECTORS_MAX: Final = 64
RUNS_CACHED: Final = 128
"""Runs of 64 KiB of metadata that are kept: 8 MiB."""
_SEQUENCE_TAGS: Final = frozenset(
    {
        TagId.PRIMARY,
        TagId.IMPLEMENTATION_USE,
        TagId.PARTITION,
        TagId.LOGICAL,
        TagId.UNALLOCATED,
        TagId.TERMINATING,
    }
)
_METADATA_TYPES: Final = (250, 251)


def exactly(read: Read, sector: int, sectors: int) -> bytes:
    """Read, and MediumError where less comes."""
    data = read(sector, sectors)
    if len(data) != sectors * SECTOR_BYTES:
        raise MediumError(
            f"sector {sector}: found {len(data)} bytes, expected {sectors * SECTOR_BYTES}"
        )
    return bytes(data)


def first_good(attempts: Iterator[Callable[[], T]]) -> T:
    """The first attempt that succeeds; the first error if none does."""
    first: MediumError | None = None
    for attempt in attempts:
        try:
            return attempt()
        except MediumError as error:
            first = first or error
    assert first is not None
    raise first


class Mount:
    """Blocks of one volume; falls back to what is there twice."""

    def __init__(self, read: Read, total_sectors: int | None) -> None:
        self._read = read
        self._total_sectors = total_sectors
        self._runs: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        descriptors = self._descriptors()
        self.logical: Logical = parse.parse_logical(*descriptors[TagId.LOGICAL])
        self.partition_sector, self.partition_sectors = parse.parse_partition(
            descriptors[TagId.PARTITION][0]
        )
        self.copies = list(self._metadata_copies())
        """Main metadata and mirror: first sector and sectors of each."""
        if not self.copies:
            raise MediumError(
                f"partition at sector {self.partition_sector}: neither the metadata file's "
                "entry nor its mirror's can be read; use another copy of the volume"
            )

    # -- volume descriptors ------------------------------------------------------------

    def _anchor_sectors(self) -> list[int]:
        total = self._total_sectors
        ends = [total - 1, total - END_ANCHOR_SECTORS] if total is not None else []
        return [ANCHOR_SECTOR, *(sector for sector in ends if sector > ANCHOR_SECTOR)]

    def _sequences(self) -> Iterator[tuple[int, int]]:
        """Main and reserve sequence of the first anchor that can be read."""
        for sector in self._anchor_sectors():
            try:
                data = exactly(self._read, sector, 1)
                parse.tag_of(data, sector, {TagId.ANCHOR}, f"sector {sector}: anchor")
            except MediumError:
                continue
            yield from parse.parse_anchor(data)
            return
        yield MAIN_SEQUENCE_SECTOR, SEQUENCE_SECTORS

    def _descriptors(self) -> dict[int, tuple[bytes, str]]:
        """Each descriptor from the first sequence that has it undamaged."""
        found: dict[int, tuple[bytes, str]] = {}
        needed = {TagId.PARTITION, TagId.LOGICAL}
        for start, sectors in self._sequences():
            for sector in range(start, start + min(sectors, SEQUENCE_SECTORS_MAX)):
                where = f"sector {sector}: volume descriptor"
                try:
                    data = exactly(self._read, sector, 1)
                    ident = parse.tag_of(data, sector, _SEQUENCE_TAGS, where)
                except MediumError:
                    continue
                if ident == TagId.TERMINATING:
                    break
                found.setdefault(ident, (data, where))
            if needed <= found.keys():
                return found
        raise MediumError(
            "sectors 32 and 256: no UDF volume descriptors in the main or the reserve "
            "sequence; the disc is blank, foreign or badly damaged"
        )

    # -- metadata ------------------------------------------------------------------------

    def _metadata_copies(self) -> Iterator[tuple[int, int]]:
        for block in (self.logical.metadata_entry_block, self.logical.mirror_entry_block):
            where = f"sector {self.partition_sector + block}: metadata file entry"
            try:
                data = exactly(self._read, self.sector_of(block, 1, where), 1)
                parse.tag_of(data, block, parse.FILE_ENTRIES, where)
                entry = parse.parse_entry(data, where)
                yield self._single_extent(entry, where)
            except MediumError:
                continue

    def _single_extent(self, entry: Entry, where: str) -> tuple[int, int]:
        if entry.file_type not in _METADATA_TYPES or len(entry.extents) != 1:
            raise MediumError(f"{where}: expected a metadata file of one extent")
        sectors = entry.extents[0].length // SECTOR_BYTES
        return self.sector_of(entry.extents[0].block, sectors, where), sectors

    def sector_of(self, block: int, sectors: int, where: str) -> int:
        """Sector of a run of the physical partition."""
        if block + sectors > self.partition_sectors:
            raise MediumError(
                f"{where}: blocks {block}-{block + sectors} are outside the partition "
                f"of {self.partition_sectors}"
            )
        return self.partition_sector + block

    def _run(self, copy: int, run: int) -> bytes:
        """A cached run of one copy of the metadata."""
        known = self._runs.get((copy, run))
        if known is None:
            start, sectors = self.copies[copy]
            first = run * ALIGN_SECTORS
            known = exactly(self._read, start + first, min(ALIGN_SECTORS, sectors - first))
            self._runs[copy, run] = known
            if len(self._runs) > RUNS_CACHED:
                self._runs.popitem(last=False)
        return known

    def _block(self, copy: int, block: int) -> bytes:
        start, sectors = self.copies[copy]
        if not 0 <= block < sectors:
            raise MediumError(f"metadata block {block}: outside the metadata of {sectors}")
        run, position = divmod(block, ALIGN_SECTORS)
        try:
            return self._run(copy, run)[position * SECTOR_BYTES : (position + 1) * SECTOR_BYTES]
        except MediumError:
            return exactly(self._read, start + block, 1)

    def _order(self, copy: int) -> list[int]:
        return [copy, *(other for other in range(len(self.copies)) if other != copy)]

    def _span(self, copy: int, block: int, blocks: int) -> bytes:
        """Blocks of one copy, each from the other where it cannot be read."""
        return b"".join(
            first_good(partial(self._block, c, b) for c in self._order(copy))
            for b in range(block, block + blocks)
        )

    def metadata(self, block: int, blocks: int, check: Callable[[bytes, str], T]) -> T:
        """What ``check`` makes of metadata blocks: of the main, else the mirror."""
        if blocks > max(sectors for _, sectors in self.copies):
            raise MediumError(f"metadata block {block}: found {blocks} blocks, more than all")

        def attempt(copy: int) -> T:
            where = f"sector {self.copies[copy][0] + block}"
            return check(self._span(copy, block, blocks), where)

        return first_good(partial(attempt, c) for c in range(len(self.copies)))

    # -- typed reads -----------------------------------------------------------------------

    def root_block(self) -> int:
        """Metadata block of the root directory's entry."""
        block = self.logical.file_set.block

        def check(data: bytes, where: str) -> Extent:
            parse.tag_of(data, block, {TagId.FILE_SET}, f"{where}: file set")
            return parse.parse_file_set(data)

        return self.metadata(block, 1, check).block

    def entry(self, block: int) -> Entry:
        """The file entry at a metadata block."""

        def check(data: bytes, where: str) -> Entry:
            parse.tag_of(data, block, parse.FILE_ENTRIES, f"{where}: file entry")
            return parse.parse_entry(data, where)

        return self.metadata(block, 1, check)
