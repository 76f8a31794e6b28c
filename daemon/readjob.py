"""Serve all requests of one volume from one loaded disc."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog
import trio
import xxhash

from hsmfs.changer.drive import Drive
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, ExtentRecord
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.daemon.foreigndisc import check_fingerprint
from hsmfs.daemon.recallqueue import Request, chunks_of
from hsmfs.daemon.runs import is_hashed, known_hash, learn, read_range
from hsmfs.errors import (
    CallerError,
    DriveError,
    FsError,
    HsmError,
    LibraryError,
    MediumError,
    TransientError,
)
from hsmfs.types import ByteRange, FileVersion
from hsmfs.volume.reader import VolumeReader

if TYPE_CHECKING:
    from hsmfs.daemon.recaller import Recaller

log = structlog.get_logger(__name__)
READ_AHEAD_MAX: Final = 1
"""Chunks between the drive and what proves and writes them: at most three are in memory."""


def read_chunk(drive: Drive, extent: ExtentRecord, span: ByteRange) -> bytes:
    """These bytes of a file, perhaps more behind them (blocking, in the drive's thread)."""
    return read_range(drive.read, extent, span.start - extent.start, span.stop - extent.start)


def land(data: bytes, extent: ExtentRecord, chunk: int, span: ByteRange, fd: int) -> int:
    """Prove a chunk and write it (blocking, beside the drive's next read); its hash.

    What a disc of others holds is proved from its second reading on. Raises
    MediumError where the bytes are not those that were burned, and FsError
    where the cache cannot take them.
    """
    proved = memoryview(data)[: span.stop - span.start]
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


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Read, not yet proved."""

    request: Request
    extent: ExtentRecord
    number: int
    span: ByteRange
    fd: int
    data: bytes


@dataclass(slots=True)
class ReadJob:
    """The drive's part of a recall (a ``DriveJob``)."""

    recaller: Recaller
    label: str
    disc: DiscRecord
    _nursery: trio.Nursery | None = None
    _ahead: tuple[Request, trio.Event] | None = None
    """The request whose recall file is opened ahead, and when that has ended."""
    _in_flight: Counter[FileVersion] = field(default_factory=Counter)
    """Chunks that were read and have not landed yet."""
    _landed: trio.Event = field(default_factory=trio.Event)
    """Set when nothing is in flight."""

    async def run(self, unit: DriveUnit) -> None:
        """Load, make sure it is the right disc, serve until nothing is left."""
        try:
            fresh = unit.disc != self.disc.barcode
            await self.recaller.core.librarian.load(unit, self.disc.barcode)
            if fresh or not self._known(unit):
                await self._identify(unit)
            await self._serve(unit)
            await self.recaller.was_read(self.label)
        except MediumError as error:
            await self.recaller.disc_failed(self.label, self.disc, unit.name, error)
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
        """The drive reads ahead while what it read is proved, written and announced."""
        failure: HsmError | None = None
        send, receive = trio.open_memory_channel[_Chunk](READ_AHEAD_MAX)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._land_all, unit, receive)
            async with send:
                try:
                    await self._read_all(unit, send)
                except HsmError as error:
                    failure = error
        if failure is not None:
            raise failure

    async def _read_all(self, unit: DriveUnit, send: trio.MemorySendChannel[_Chunk]) -> None:
        position = 0
        while True:
            request = self.recaller.next_request(self.label, self.disc.barcode, position)
            if request is None or self.recaller.must_leave(self.disc) or unit.yields:
                return
            unit.priority = request.priority
            position = request.extent.offset + 1
            if request.fd >= 0 and request.complete and self._in_flight:
                await self._landed.wait()
                continue
            try:
                await self._read_one(unit, request, send)
            except (FsError, CallerError) as error:
                await self.recaller.give_up(request, error)
            except MediumError as error:
                await self._chunk_failed(unit, request, error)

    async def _read_one(
        self, unit: DriveUnit, request: Request, send: trio.MemorySendChannel[_Chunk]
    ) -> None:
        await self._begin(request)
        self._begin_next(request)
        self.recaller.say(request, f"reading disc {self.disc.barcode} in drive {unit.name}")
        if request.fd >= 0 and request.complete:
            await self.recaller.complete(request)
        is_news = not is_hashed(request.extent)
        try:
            await self._read_chunks(unit, request, send)
        finally:
            if is_news:
                await self._settled(request)
            if request.learnt:
                await self.recaller.keep_hashes(request)
        if request.fd >= 0 and not request.complete:
            await self._settled(request)
            if request.fd >= 0 and not request.complete:
                self.recaller.go_on_elsewhere(request)

    async def _settled(self, request: Request) -> None:
        """Nothing of it is on its way to the cache any more."""
        if self._in_flight[request.file]:
            await self._landed.wait()

    async def _read_chunks(
        self, unit: DriveUnit, request: Request, send: trio.MemorySendChannel[_Chunk]
    ) -> None:
        while not request.complete and request.fd >= 0:
            number = request.next_chunk()
            if number is None:
                break
            span, fd = request.chunk_range(number), request.fd
            data = await unit.call(read_chunk, unit.drive, request.extent, span)
            if request.fd != fd:
                return
            request.landed(number)
            self._in_flight[request.file] += 1
            self._landed = trio.Event()
            await send.send(_Chunk(request, request.extent, number, span, fd, data))

    # -- beside the drive ----------------------------------------------------------

    async def _begin(self, request: Request) -> None:
        """Open its recall file, unless that is under way already."""
        if self._ahead is not None and self._ahead[0] is request:
            await self._ahead[1].wait()
        await self.recaller.begin(request)

    def _begin_next(self, request: Request) -> None:
        """While the drive reads one file, hsmfs opens the next."""
        position = request.extent.offset + 1
        coming = self.recaller.next_request(self.label, self.disc.barcode, position)
        busy = self._ahead is not None and not self._ahead[1].is_set()
        if coming is None or coming is request or coming.fd >= 0 or busy:
            return
        assert self._nursery is not None
        done = trio.Event()
        self._ahead = (coming, done)
        self._nursery.start_soon(self._begin_ahead, coming, done)

    async def _begin_ahead(self, request: Request, done: trio.Event) -> None:
        try:
            await self.recaller.begin(request)
        except (FsError, HsmError) as error:
            log.debug("recall file was not opened ahead", path=request.path, error=str(error))
        finally:
            done.set()

    async def _land_all(self, unit: DriveUnit, receive: trio.MemoryReceiveChannel[_Chunk]) -> None:
        async for chunk in receive:
            try:
                await self._land(unit, chunk)
            except (FsError, CallerError) as error:
                await self.recaller.give_up(chunk.request, error)
            except MediumError as error:
                await self._chunk_failed(unit, chunk.request, error)
            except TransientError as error:
                log.info("recall waits", why=str(error))
            finally:
                self._in_flight.subtract([chunk.request.file])
                if not self._in_flight.total():
                    self._in_flight.clear()
                    self._landed.set()

    async def _land(self, unit: DriveUnit, chunk: _Chunk) -> None:
        request = chunk.request
        if request.fd != chunk.fd:
            return
        try:
            digest = await trio.to_thread.run_sync(
                land, chunk.data, chunk.extent, chunk.number, chunk.span, chunk.fd
            )
        except (FsError, MediumError):
            if request.fd == chunk.fd:
                request.have[chunk.number] = 0
            raise
        unit.credit()
        first = chunks_of(chunk.extent)[0]
        request.learnt |= learn(chunk.extent, chunk.number - first, digest)
        if request.fd != chunk.fd:
            return
        await self.recaller.announce(request, chunk.span)
        last = self._in_flight[request.file] == 1
        if request.fd == chunk.fd and request.complete and last:
            await self.recaller.complete(request)

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
        self.recaller.doubt(self.disc, unit.name)

    def _charge(self, unit: DriveUnit, error: HsmError) -> None:
        core = self.recaller.core
        core.metrics.errors.labels(error.kind.value).inc()
        if isinstance(error, DriveError):
            unit.charge(error, for_good=True)
        log.warning("recall goes on elsewhere", drive=unit.name, error=str(error))
