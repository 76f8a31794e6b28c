"""From the anchors to blocks: partition, metadata file and its mirror."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume import parse
from hsmfs.volume.descriptor import TagId
from hsmfs.volume.fixedplaces import fixed_places, fixed_sequences
from hsmfs.volume.geometry import (
    ALIGN_SECTORS,
    ANCHOR_SECTOR,
    DIRECTORY_BYTES_MAX,
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
SEQUENCE_TAGS: Final = frozenset(
    {
        TagId.PRIMARY,
        TagId.IMPLEMENTATION_USE,
        TagId.PARTITION,
        TagId.LOGICAL,
        TagId.UNALLOCATED,
        TagId.TERMINATING,
    }
)
DIRECTORY_BLOCKS_MAX: Final = DIRECTORY_BYTES_MAX // SECTOR_BYTES
_METADATA_TYPES: Final = (250, 251)


def exactly(read: Read, sector: int, sectors: int) -> bytes:
    """Read, and MediumError where less comes."""
    data = read(sector, sectors)
    if len(data) != sectors * SECTOR_BYTES:
        raise MediumError(
            f"sector {sector}: found {len(data)} bytes, expected {sectors * SECTOR_BYTES}"
        )
    return bytes(data)


def anchor_sectors(total_sectors: int | None) -> list[int]:
    """Where anchors are; those at the end only where the size is known."""
    ends = (
        [total_sectors - 1, total_sectors - END_ANCHOR_SECTORS] if total_sectors is not None else []
    )
    return [ANCHOR_SECTOR, *(sector for sector in ends if sector > ANCHOR_SECTOR)]


def anchor_at(read: Read, sector: int) -> list[tuple[int, int]]:
    """Sector and length of main and reserve sequence, or MediumError."""
    data = exactly(read, sector, 1)
    parse.tag_of(data, sector, {TagId.ANCHOR}, f"sector {sector}: anchor")
    return parse.parse_anchor(data)


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
        self.descriptors: dict[int, tuple[bytes, str]] = {}
        """Of the volume: each undamaged one with its place."""
        self.logical, self.partition_sector, self.partition_sectors = self._places()
        self.copies = self._metadata_copies()
        """Main metadata and mirror: first sector and sectors of each."""

    # -- volume descriptors ------------------------------------------------------------

    def _places(self) -> tuple[Logical, int, int]:
        """As the descriptors say; where none is left, as they are on each volume of ours."""
        try:
            self.descriptors = self._descriptors()
        except MediumError:
            fixed = fixed_places(self._read, self._total_sectors)
            if fixed is None:
                raise
            return fixed
        logical = parse.parse_logical(*self.descriptors[TagId.LOGICAL])
        return logical, *parse.parse_partition(self.descriptors[TagId.PARTITION][0])

    def sequences(self) -> list[tuple[int, int]]:
        """Main and reserve sequence of the first anchor that can be read."""
        for sector in anchor_sectors(self._total_sectors):
            with suppress(MediumError):
                return anchor_at(self._read, sector)
        return [(MAIN_SEQUENCE_SECTOR, SEQUENCE_SECTORS)]

    def _descriptors(self) -> dict[int, tuple[bytes, str]]:
        """Each descriptor from the first sequence that has it undamaged."""
        found: dict[int, tuple[bytes, str]] = {}
        needed = {TagId.PARTITION, TagId.LOGICAL}
        places = [*self.sequences(), *fixed_sequences(self._total_sectors)]
        for start, sectors in dict.fromkeys(places):
            for sector in range(start, start + min(sectors, SEQUENCE_SECTORS_MAX)):
                where = f"sector {sector}: volume descriptor"
                try:
                    data = exactly(self._read, sector, 1)
                    ident = parse.tag_of(data, sector, SEQUENCE_TAGS, where)
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

    def _metadata_copies(self) -> list[tuple[int, int]]:
        blocks = self.metadata_entry_blocks()
        if not blocks:
            return [(self.partition_sector, self.partition_sectors)]
        copies, errors = [], []
        for block in blocks:
            try:
                copies.append(self.metadata_extent(block))
            except MediumError as error:
                errors.append(str(error))
        if not copies:
            raise MediumError(
                f"neither the metadata file nor its mirror can be read ({'; '.join(errors)}); "
                "use another copy of the volume"
            )
        return copies

    def metadata_entry_blocks(self) -> tuple[int, ...]:
        """Of the metadata file and its mirror, in the physical partition; none where it
        has the file entries itself."""
        logical = self.logical
        if not logical.has_metadata_partition:
            return ()
        return logical.metadata_entry_block, logical.mirror_entry_block

    def metadata_extent(self, block: int) -> tuple[int, int]:
        """First sector and sectors of the metadata whose entry is there."""
        where = f"sector {self.partition_sector + block}: metadata file entry"
        data = exactly(self._read, self.sector_of(block, 1, where), 1)
        parse.tag_of(data, block, parse.FILE_ENTRIES, where)
        return self._run_of_extents(parse.parse_entry(data, where), where)

    def _run_of_extents(self, entry: Entry, where: str) -> tuple[int, int]:
        """Its extents as one: each follows directly on the one before."""
        if entry.file_type not in _METADATA_TYPES or not entry.extents:
            raise MediumError(f"{where}: expected a metadata file, found type {entry.file_type}")
        first, blocks = entry.extents[0].block, 0
        for extent in entry.extents:
            if extent.block != first + blocks or extent.length % SECTOR_BYTES:
                raise MediumError(
                    f"{where}: found an extent of {extent.length} bytes at block {extent.block}, "
                    f"expected whole blocks at {first + blocks}, where the one before ends"
                )
            blocks += extent.length // SECTOR_BYTES
        return self.sector_of(first, blocks, where), blocks

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
        bound = min(DIRECTORY_BLOCKS_MAX, max(sectors for _, sectors in self.copies))
        if blocks > bound:
            raise MediumError(
                f"metadata block {block}: found {blocks} blocks, expected at most {bound}"
            )

        def attempt(copy: int) -> T:
            where = f"sector {self.copies[copy][0] + block}"
            return check(self._span(copy, block, blocks), where)

        return first_good(partial(attempt, c) for c in range(len(self.copies)))

    # -- typed reads -----------------------------------------------------------------------

    @property
    def names_max(self) -> int:
        """No volume has more names: each takes some bytes of the metadata."""
        return max(sectors for _, sectors in self.copies) * SECTOR_BYTES // parse.NAME_BYTES_MIN

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
