"""Parity across a magazine: P, or P and Q, over the images of its volumes.

A magazine gets its parity when its other discs are proved and only the blanks
for parity are left, or when a person asks. Every member is read once and
folded into one or two files; the parity volumes are made of them as images and
burned like fresh copies. All of it is done anew after a restart: before the
volumes are recorded nothing remains, and afterwards only their image is missing.

A volume of which no whole image can be had is made anew the other way: all
other members and the parity volumes are folded, and what is left is solved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
import trio
import xxhash

from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, VolumeRecord, VolumeState
from hsmfs.daemon.core import Core
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.errors import DriveError, HsmError, LibraryError, MediumError, TransientError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.directfile import write_stream
from hsmfs.volume.layout import plan_volume
from hsmfs.volume.parityfiles import PIECE_BYTES, Sums
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.source import FileSource, ParityInfo, VolumeHeader
from hsmfs.volume.writer import VolumeWriter

log = structlog.get_logger(__name__)
PARITY_FILE: Final = b"parity.bin"
PARITY_POOL: Final = "parity"
OVERHEAD_SECTORS: Final = 2048
"""A parity volume is so much longer than its longest member, at most."""
PIECE_SECTORS: Final = PIECE_BYTES // SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class Part:
    """Something to be folded in: a member's image, or the parity of a parity volume."""

    label: str
    index: int
    kind: str
    """Empty for a member, else ``p`` or ``q``."""
    sectors: int
    xxh3: str


@dataclass(slots=True)
class Work:
    """Sums on their way; ``parts`` are still to be folded."""

    key: str
    sums: Sums
    parts: list[Part]
    info: ParityInfo
    magazine: str = ""
    """Whose parity is made; empty where a lost volume is made anew."""
    lost: dict[int, Path] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    """The sums in use."""
    bad: str = ""
    """A disc that could not be read as a whole."""
    is_spoiled: bool = False
    """A part failed half-way: all has to be done anew."""
    failure: str = ""

    @property
    def rebuilds(self) -> str:
        """Label of the volume that is made anew; empty where parity is made."""
        return "" if self.magazine else self.info.members[next(iter(self.lost))].label


@dataclass(slots=True)
class FoldJob:
    """Read one part from a disc and fold it in (a ``DriveJob``)."""

    core: Core
    work: Work
    part: Part
    disc: DiscRecord
    on_ended: Callable[[FoldJob], None]
    _cancelled: bool = False

    async def run(self, unit: DriveUnit) -> None:
        """The disc is proved on the way."""
        try:
            await self.core.librarian.load(unit, self.disc.barcode)
            try:
                await unit.call(self._fold, unit)
            except trio.Cancelled:
                self._cancelled = True
                raise
            self.work.parts.remove(self.part)
            unit.credit()
        except MediumError as error:
            self.work.failure, self.work.bad = str(error), self.disc.barcode
            self.disc.read_errors += 1
            self.disc.note = str(error)
            if self.disc.state == DiscState.VERIFIED:
                self.disc.become(DiscState.DAMAGED)
            await self.core.catalog.save(self.disc)
            log.warning("a disc of a parity set is damaged", why=str(error))
        except (DriveError, LibraryError) as error:
            self.work.failure, self.work.is_spoiled = str(error), True
            unit.charge(error, for_good=isinstance(error, DriveError))
            log.warning("parity begins anew", disc=self.disc.barcode, why=str(error))
        except OSError as error:
            self.work.failure = f"{error.filename or 'care.stage'}: {error.strerror}"
            self.core.alarms.raise_("stage", self.work.failure)
        finally:
            self.on_ended(self)

    def _fold(self, unit: DriveUnit) -> None:
        """In the drive's thread. What was folded in half cannot be told apart again."""
        start = self._start(unit)
        digest = xxhash.xxh3_128()
        for lba in range(0, self.part.sectors, PIECE_SECTORS):
            if self._cancelled:
                raise TransientError("folding was cancelled")
            data = unit.drive.read(start + lba, min(PIECE_SECTORS, self.part.sectors - lba))
            digest.update(data)
            self.work.is_spoiled = True  # until all of it is in
            self._add(lba, data)
        if self.part.xxh3 and digest.hexdigest() != self.part.xxh3:
            raise MediumError(
                f"disc {self.disc.barcode}: found image xxh3 {digest.hexdigest()}, expected "
                f"{self.part.xxh3}"
            )
        self.work.is_spoiled = False

    def _add(self, lba: int, data: bytes) -> None:
        if self.part.kind:
            self.work.sums.fold_sum(self.part.kind, lba * SECTOR_BYTES, data)
        else:
            self.work.sums.fold(self.part.index, lba * SECTOR_BYTES, data)

    def _start(self, unit: DriveUnit) -> int:
        if not self.part.kind:
            return 0
        reader = VolumeReader(unit.drive.read, unit.drive.disc_info().capacity_sectors)
        return reader.own_sector(PARITY_FILE.decode())


def members_of(core: Core, magazine: str) -> list[VolumeRecord]:
    """Volumes with a proved disc in a magazine, in the order of its slots."""
    discs = [
        disc
        for disc in core.catalog.discs.values()
        if disc.magazine == magazine
        and disc.state == DiscState.VERIFIED
        and disc.volume in core.catalog.volumes
    ]
    discs.sort(key=lambda disc: disc.position)
    records = (core.catalog.volumes[disc.volume] for disc in discs)
    return [r for r in records if r.parity is None and r.image_xxh3]


def sets_with(core: Core, label: str) -> Iterator[VolumeRecord]:
    """Parity volumes that protect a volume."""
    for record in core.catalog.volumes.values():
        if record.parity is not None and any(m.label == label for m in record.parity.members):
            yield record


def write_parity_image(header: VolumeHeader, sums: Path, image: Path) -> tuple[str, int]:
    """A parity volume's image from the file of its sum: XXH3 of 128 bits, and sectors."""
    entry = FileSource(
        path=PARITY_FILE,
        ino=0,
        kind="own",
        size=sums.stat().st_size,
        mode=0o100444,
        mtime_ns=header.created_ns,
        atime_ns=header.created_ns,
        ctime_ns=header.created_ns,
    )
    sectors = entry.size // SECTOR_BYTES + OVERHEAD_SECTORS
    layout = plan_volume(header, [entry], sectors)
    writer = VolumeWriter(layout)
    with image.open("wb") as out:
        write_stream(out.fileno(), writer.stream(lambda source: sums.open("rb", buffering=0)))
        os.fsync(out.fileno())
    if any(result.void for result in writer.results):
        raise HsmError(f"{sums}: could not be read as it was planned")
    assert writer.image_xxh3
    return writer.image_xxh3, layout.total_sectors


def parity_record(header: VolumeHeader, magazine: str, xxh3: str, sectors: int) -> VolumeRecord:
    """The catalog's record of a parity volume that is to be burned."""
    return VolumeRecord(
        label=header.label,
        pool=PARITY_POOL,
        state=VolumeState.COMPLETE,
        copies=1,
        created_ns=header.created_ns,
        total_sectors=sectors,
        image_xxh3=xxh3,
        parity=header.parity,
        magazine=magazine,
    )
