"""The image of a volume, read from its discs into a file, and burned from there.

Copies of a volume are byte-identical, so a fresh disc is made from any proved
one; where each has some damage, from all of them together.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import trio
import xxhash

from hsmfs.changer.burn import Burn
from hsmfs.daemon.catalog import put_history, put_record
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, HistoryRecord, VolumeRecord
from hsmfs.daemon.core import Core
from hsmfs.daemon.discidentity import mark_for
from hsmfs.daemon.discproof import all_files
from hsmfs.daemon.discrecovery import mend
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.errors import DriveError, HsmError, LibraryError, MediumError, TransientError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.discmark import MARK_SECTORS
from hsmfs.volume.recovery import without

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)
READ_SECTORS: Final = 512
FINE_SECTORS: Final = 32
"""Around damage: one error correction cluster."""
Span = tuple[int, int]
"""First sector and the one after the last."""


@dataclass(slots=True)
class Stage:
    """A volume's image on the way into a file."""

    volume: VolumeRecord
    path: Path
    missing: list[Span] = field(default_factory=list)
    """What no disc gave yet."""
    tried: set[str] = field(default_factory=set)
    """Discs that gave all that they can."""
    ready: bool = False

    def begin(self) -> None:
        """An empty file; all is missing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.missing = [(0, self.volume.total_sectors)]
        with self.path.open("wb"):
            pass

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)


@dataclass(slots=True)
class StageJob:
    """Read what is missing from one disc (a ``DriveJob``)."""

    core: Core
    stage: Stage
    disc: DiscRecord
    on_ended: Callable[[StageJob], None]
    _cancelled: bool = False

    async def run(self, unit: DriveUnit) -> None:
        """Load, read, prove."""
        started = self.core.clock.monotonic_s()
        try:
            await self.core.librarian.load(unit, self.disc.barcode)
            before = _sectors(self.stage.missing)
            try:
                await unit.call(self._fill, unit)
            except trio.Cancelled:
                self._cancelled = True
                raise
            await self._prove()
            got = before - _sectors(self.stage.missing)
            await self._note(unit, got, self.core.clock.monotonic_s() - started)
        except MediumError as error:
            # It does not become ready. When it failed twice, others or parity give the image.
            if not self.core.ward.failed_in(self.disc):
                self.stage.tried.add(self.disc.barcode)
            log.warning("image is not read", disc=self.disc.barcode, error=str(error))
        except (DriveError, LibraryError) as error:
            unit.charge(error, for_good=isinstance(error, DriveError))
            log.warning("image is not read", disc=self.disc.barcode, error=str(error))
        except OSError as error:
            why = f"{self.stage.path}: {error.strerror}; make room there (care.stage)"
            self.core.alarms.raise_("stage", why)
            log.warning("image is not read", why=why)
        finally:
            self.on_ended(self)

    def _fill(self, unit: DriveUnit) -> None:
        """In the drive's thread."""
        left: list[Span] = []
        with self.stage.path.open("r+b") as file:
            for start, stop in self.stage.missing:
                for at in range(start, stop, READ_SECTORS):
                    if self._cancelled:
                        raise TransientError("reading an image was cancelled")
                    left += self._piece(unit, file.fileno(), at, min(stop, at + READ_SECTORS))
            os.fsync(file.fileno())
        self.stage.missing = left
        self.stage.tried.add(self.disc.barcode)

    def _piece(self, unit: DriveUnit, file: int, start: int, stop: int) -> list[Span]:
        """Spans of it that cannot be read."""
        try:
            os.pwrite(file, unit.drive.read(start, stop - start), start * SECTOR_BYTES)
            return []
        except MediumError:
            if stop - start <= FINE_SECTORS:
                return [(start, stop)]
        spans = range(start, stop, FINE_SECTORS)
        return [
            bad for at in spans for bad in self._piece(unit, file, at, min(stop, at + FINE_SECTORS))
        ]

    async def _prove(self) -> None:
        """Whole and right, or the spans of damaged files are missing again.

        What this disc did not give is made anew from its recovery data, where it has any.
        """
        if self.stage.missing:
            await self._mend()
        if self.stage.missing:
            return
        self.stage.ready = await self._is_right()
        if not self.stage.ready and await self._mend():
            self.stage.ready = await self._is_right()
        if not self.stage.ready:
            log.warning("image differs", disc=self.disc.barcode, volume=self.stage.volume.label)
            self.stage.missing = [(0, self.stage.volume.total_sectors)]

    async def _mend(self) -> bool:
        """Whether anything was repaired."""
        mended = await trio.to_thread.run_sync(mend, self.stage.path)
        if mended is None:
            return False
        self.stage.missing = list(without(self.stage.missing, mended))
        if mended.repaired:
            label, blocks = self.stage.volume.label, len(mended.repaired)
            log.info("image repaired by its recovery data", volume=label, blocks=blocks)
        return bool(mended.repaired)

    async def _is_right(self) -> bool:
        volume = self.stage.volume
        if not volume.image_xxh3:
            return await trio.to_thread.run_sync(self._files_are_good)
        return await trio.to_thread.run_sync(_hash, self.stage.path) == volume.image_xxh3

    def _files_are_good(self) -> bool:
        """By the hashes of all files, where the image's is not known."""
        with self.stage.path.open("rb") as file:

            def read(sector: int, sectors: int) -> bytes:
                return os.pread(file.fileno(), sectors * SECTOR_BYTES, sector * SECTOR_BYTES)

            extents = self.core.catalog.volume_extents(self.stage.volume.label)
            return not all_files(extents).go_on(read, lambda: None).total

    async def _note(self, unit: DriveUnit, sectors: int, seconds: float) -> None:
        entry = HistoryRecord(
            what="source",
            drive=unit.name,
            volume=self.stage.volume.label,
            seconds=seconds,
            bytes=sectors * SECTOR_BYTES,
            errors=len(self.stage.missing),
            text="its image was read for a fresh copy",
        )
        now_ns = self.core.clock.now_ns()
        await self.core.catalog.transact(put_history(self.disc.barcode, now_ns, entry))


@dataclass(slots=True)
class ImageBurn:
    """Burn a staged image to one blank disc (a ``DriveJob``)."""

    core: Core
    stage: Stage
    disc: DiscRecord
    on_ended: Callable[[ImageBurn], None]
    _cancelled: bool = False

    async def run(self, unit: DriveUnit) -> None:
        """Load, look, burn; the disc is verified afterwards like any other."""
        started = self.core.clock.monotonic_s()
        volume, disc = self.stage.volume, self.disc
        try:
            await self.core.librarian.load(unit, disc.barcode)
            if not await is_blank(self.core, unit, disc, volume.total_sectors):
                return
            mark = mark_for(self.core, disc, volume, volume.total_sectors)
            burn = await unit.call(Burn, unit.drive, volume.total_sectors, mark)
            disc.volume = volume.label
            disc.become(DiscState.BURNING)
            await self.core.catalog.save(disc)
            await self._burn(unit, burn)
            disc.become(DiscState.BURNED)
            disc.burned_in, disc.used_sectors = unit.name, volume.total_sectors
            await self._record(unit, self.core.clock.monotonic_s() - started, "")
            unit.credit()
            await self.core.librarian.unload(unit)
        except HsmError as error:
            self.core.metrics.errors.labels(error.kind.value).inc()
            log.warning("copy failed", volume=volume.label, error=str(error))
            if isinstance(error, DriveError | MediumError):
                unit.charge(error, for_good=isinstance(error, DriveError))
            if disc.state == DiscState.BURNING:
                disc.become(DiscState.SUSPECT)
                disc.write_errors += 1
                disc.note = volume.note = str(error)
                volume.burn_attempts += 1
                await self._record(unit, self.core.clock.monotonic_s() - started, str(error))
        finally:
            self.core.reserved.discard(disc.barcode)
            self.on_ended(self)

    async def _burn(self, unit: DriveUnit, burn: Burn) -> None:
        try:
            await unit.call(self._pour, burn)
        except trio.Cancelled:
            self._cancelled = True
            raise

    def _pour(self, burn: Burn) -> None:
        """In the drive's thread."""
        with self.stage.path.open("rb") as file:
            while piece := file.read(READ_SECTORS * SECTOR_BYTES):
                if self._cancelled:
                    raise TransientError("the burn was cancelled")
                burn.write(piece)
        burn.finish()

    async def _record(self, unit: DriveUnit, seconds: float, problem: str) -> None:
        volume = self.stage.volume
        entry = HistoryRecord(
            what="copy",
            drive=unit.name,
            volume=volume.label,
            seconds=seconds,
            bytes=volume.total_sectors * SECTOR_BYTES,
            errors=int(bool(problem)),
            text=problem or "burned from the image of another disc",
        )
        now_ns = self.core.clock.now_ns()
        change = put_history(self.disc.barcode, now_ns, entry)
        used = self.core.catalog.count_burn(volume.pool, now_ns, failed=bool(problem))
        await self.core.catalog.transact(put_record(volume), put_record(self.disc), change, used)


async def is_blank(core: Core, unit: DriveUnit, disc: DiscRecord, needed_sectors: int) -> bool:
    """Whether the loaded disc is blank and large enough; else that is noted, and it goes home."""
    needed_sectors += MARK_SECTORS if disc.is_numbered else 0
    info = await unit.call(unit.drive.disc_info)
    if info.state == "blank":
        disc.capacity_sectors = info.capacity_sectors
    if info.state == "blank" and info.capacity_sectors >= needed_sectors:
        return True
    if info.state == "blank":
        disc.note = f"holds {info.capacity_sectors} sectors, volume needs {needed_sectors}"
    else:
        disc.note = f"expected blank, found {info.state}; nothing was written to it"
        disc.become(DiscState.FOREIGN)
        text = f"disc {disc.barcode} in magazine {disc.magazine}: {disc.note}"
        core.alarms.raise_("foreign-disc", text)
    await core.catalog.save(disc)
    await core.librarian.unload(unit)
    return False


def _sectors(spans: list[Span]) -> int:
    return sum(stop - start for start, stop in spans)


def _hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(READ_SECTORS * SECTOR_BYTES):
            digest.update(piece)
    return digest.hexdigest()
