"""Serve all requests of one volume from one loaded disc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
import xxhash

from hsmfs.changer.drive import Drive
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, ExtentRecord
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.daemon.foreigndisc import check_fingerprint
from hsmfs.daemon.recallqueue import Request, chunks_of
from hsmfs.daemon.runs import known_hash, learn, read_range
from hsmfs.errors import (
    CallerError,
    DriveError,
    FsError,
    HsmError,
    LibraryError,
    MediumError,
    TransientError,
)
from hsmfs.types import ByteRange
from hsmfs.volume.reader import VolumeReader

if TYPE_CHECKING:
    from hsmfs.daemon.recaller import Recaller

log = structlog.get_logger(__name__)
LINGER_TURNS: Final = 1


def fetch(drive: Drive, extent: ExtentRecord, chunk: int, span: ByteRange, fd: int) -> int:
    """Read one chunk, prove it, write it (blocking, in the drive's thread); its hash.

    What a disc of others holds is proved from its second reading on. Raises
    MediumError where the bytes are not those that were burned, and FsError
    where the cache cannot take them.
    """
    before = extent.start
    proved = memoryview(read_range(drive.read, extent, span.start - before, span.stop - before))
    digest = xxhash.xxh3_64_intdigest(proved)
    expected = known_hash(extent, chunk - chunks_of(extent)[0])
    if expected is not None and digest != expected:
        raise MediumError(
            f"{extent.path}: bytes {span.start}-{span.stop} read from the disc have xxh3 "
            f"{digest:016x}, expected {expected:016x}"
        )
    offset = span.start
    try:
        while proved:
            written = os.pwrite(fd, proved, offset)
            proved, offset = proved[written:], offset + written
    except OSError as error:
        raise FsError(error.errno or 5, f"cache: {error.strerror}") from error
    return digest


@dataclass(slots=True)
class ReadJob:
    """The drive's part of a recall (a ``DriveJob``)."""

    recaller: Recaller
    label: str
    disc: DiscRecord

    async def run(self, unit: DriveUnit) -> None:
        """Load, make sure it is the right disc, serve until nothing is left."""
        try:
            fresh = unit.disc != self.disc.barcode
            await self.recaller.core.librarian.load(unit, self.disc.barcode)
            if fresh or not self._known(unit):
                await self._identify(unit)
            await self._serve(unit)
        except MediumError as error:
            await self.recaller.disc_failed(self.label, self.disc, error)
        except (DriveError, LibraryError) as error:
            self._charge(unit, error)
        except TransientError as error:
            log.info("recall waits", why=str(error))
        finally:
            unit.read_at_s = self.recaller.core.clock.monotonic_s()
            self.recaller.serving.discard(self.label)

    def _known(self, unit: DriveUnit) -> bool:
        return self.recaller.identified.get(unit.name) == self.disc.barcode

    async def _identify(self, unit: DriveUnit) -> None:
        """The disc says itself which volume it is; barcodes can be wrong."""
        info = await unit.call(unit.drive.disc_info)
        if info.state == "blank":
            raise MediumError(f"disc {self.disc.barcode}: found blank, expected {self.label}")
        volume = self.recaller.core.catalog.volumes.get(self.label)
        if volume is not None and volume.foreign is not None:
            await unit.call(check_fingerprint, unit.drive, self.disc, volume)
            self.recaller.identified[unit.name] = self.disc.barcode
            return

        def label_on_disc() -> str:
            return VolumeReader(unit.drive.read, info.capacity_sectors).label

        found = await unit.call(label_on_disc)
        if found != self.label:
            raise MediumError(
                f"disc {self.disc.barcode}: found volume {found!r}, expected {self.label!r}"
            )
        self.recaller.identified[unit.name] = self.disc.barcode

    async def _serve(self, unit: DriveUnit) -> None:
        position = 0
        while True:
            request = self.recaller.next_request(self.label, self.disc.barcode, position)
            if request is None or self.recaller.must_leave(self.disc) or unit.yields:
                return
            unit.priority = request.priority
            position = request.extent.offset + 1
            try:
                await self._serve_one(unit, request)
            except (FsError, CallerError) as error:
                await self.recaller.give_up(request, error)
            except MediumError as error:
                await self._chunk_failed(unit, request, error)

    async def _serve_one(self, unit: DriveUnit, request: Request) -> None:
        await self.recaller.begin(request)
        self.recaller.say(request, f"reading disc {self.disc.barcode} in drive {unit.name}")
        try:
            await self._fill(unit, request)
        finally:
            if request.learnt:
                await self.recaller.keep_hashes(request)

    async def _fill(self, unit: DriveUnit, request: Request) -> None:
        while not request.complete and request.fd >= 0:
            chunk = request.next_chunk()
            if chunk is None:
                break
            span = request.chunk_range(chunk)
            fd = request.fd
            digest = await unit.call(fetch, unit.drive, request.extent, chunk, span, fd)
            request.learnt |= learn(request.extent, chunk - request.first_chunk, digest)
            unit.credit()
            if request.fd != fd:
                return
            request.landed(chunk)
            await self.recaller.announce(request, span)
        if request.fd >= 0 and request.complete:
            await self.recaller.complete(request)
        elif request.fd >= 0:
            self.recaller.go_on_elsewhere(request)

    async def _chunk_failed(self, unit: DriveUnit, request: Request, error: MediumError) -> None:
        """Another copy goes on from here; drive and disc are charged apart."""
        unit.charge(error, for_good=False)
        self.disc.read_errors += 1
        self.disc.note = str(error)
        request.bad.add(self.disc.barcode)
        request.failure = str(error)
        core = self.recaller.core
        core.metrics.errors.labels(error.kind.value).inc()
        core.alarms.raise_("damaged-copy", f"disc {self.disc.barcode}: {error}")
        if self.disc.state == DiscState.VERIFIED:
            self.disc.become(DiscState.DAMAGED)
        await core.catalog.save(self.disc)
        self.recaller.doubt(self.disc)

    def _charge(self, unit: DriveUnit, error: HsmError) -> None:
        core = self.recaller.core
        core.metrics.errors.labels(error.kind.value).inc()
        if isinstance(error, DriveError):
            unit.charge(error, for_good=True)
        log.warning("recall goes on elsewhere", drive=unit.name, error=str(error))
