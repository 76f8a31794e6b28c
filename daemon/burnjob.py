"""One pass over the cache that feeds one or more drives.

Crash points (see docs/crash-safety.md): a disc is recorded as *burning*
before its first sector, and as *burned* only with the extents of the volume
in the same transaction; what is cut in between is found at start and becomes
*suspect*.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog
import trio

from hsmfs.cache.paths import claim_path, open_claimed
from hsmfs.changer.burn import Burn
from hsmfs.daemon.activevolume import ActiveVolume
from hsmfs.daemon.catalog import put_extents, put_history, put_record
from hsmfs.daemon.catalogrecords import (
    DiscRecord,
    DiscState,
    ExtentRecord,
    HistoryRecord,
    VolumeState,
)
from hsmfs.daemon.core import Core
from hsmfs.daemon.discidentity import mark_for
from hsmfs.daemon.discrecovery import recovery_of, summed
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.daemon.sources import ClaimedSource
from hsmfs.daemon.stagejob import is_blank
from hsmfs.errors import DriveError, HsmError, LibraryError, MediumError, TransientError
from hsmfs.types import SECTOR_BYTES, FileVersion
from hsmfs.volume.layout import FileSource
from hsmfs.volume.manifest import FileResult
from hsmfs.volume.recovery import Accumulator
from hsmfs.volume.writer import Source, VolumeWriter

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)
CHUNK_BYTES_ABOUT: Final = 1024 * 1024
POLL_S: Final = 0.2


class _Cut(TransientError):
    """The stream ended early: nothing after this point may be finished."""


@dataclass(slots=True)
class _Lane:
    """A drive's bounded share of the stream."""

    unit: DriveUnit
    disc: DiscRecord
    chunks: queue.Queue[bytes | None]
    dead: bool = False
    cut: bool = False
    error: HsmError | None = None
    others: Callable[[], list[_Lane]] = list
    """The lanes that share the stream."""
    patience_s: float = float("inf")

    def put(self, chunk: bytes | None) -> None:
        """Waits while the drive is behind, but not while it alone holds up the others."""
        alone_s = 0.0
        while not self.dead and not self.cut:
            try:
                self.chunks.put(chunk, timeout=POLL_S)
                return
            except queue.Full:
                alone_s = alone_s + POLL_S if self._holds_up_others() else 0.0
            if alone_s >= self.patience_s:
                self.error = DriveError(
                    f"drive {self.unit.name}: took no data for {alone_s:.0f} s while the other "
                    "drives of the burn waited for it; it is left out"
                )
                self.cut = True

    def _holds_up_others(self) -> bool:
        others = [lane for lane in self.others() if lane is not self and not lane.dead]
        others = [lane for lane in others if not lane.cut]
        return bool(others) and all(lane.chunks.empty() for lane in others)

    def drain_into(self, burn: Burn) -> None:
        """Write what comes, then close the disc (in the drive's thread)."""
        try:
            while (chunk := self._next()) is not None:
                burn.write(chunk)
            burn.finish()
        finally:
            self.dead = True

    def _next(self) -> bytes | None:
        while True:
            if self.cut:
                raise _Cut("the burn was cut")
            try:
                return self.chunks.get(timeout=POLL_S)
            except queue.Empty:
                continue


@dataclass(slots=True)
class BurnSession:
    """Burn one volume to one disc in each of the drives, by one read."""

    core: Core
    active: ActiveVolume
    discs: dict[str, DiscRecord]
    """Chosen blank disc by drive name."""
    on_ended: Callable[[BurnSession], None]
    _lanes: list[_Lane] = field(default_factory=list)
    _waiting: int = 0
    _prepared: trio.Event = field(default_factory=trio.Event)
    _streamed: trio.Event = field(default_factory=trio.Event)
    _writer: VolumeWriter | None = None
    _recovery: Accumulator | None = None
    _stream_error: HsmError | None = None
    _left: int = 0

    def start(self, units: Sequence[DriveUnit]) -> None:
        """Number of drives to wait for; each then runs ``run``."""
        self._waiting = self._left = len(units)
        self.active.burning += len(units)

    async def run(self, unit: DriveUnit) -> None:
        """This drive's part of the burn (a ``DriveJob``)."""
        disc = self.discs[unit.name]
        try:
            burn = await self._prepare(unit, disc)
            if burn is not None:
                await self._write(unit, disc, burn)
                await self.core.librarian.unload(unit)
        except HsmError as error:
            self.core.metrics.errors.labels(error.kind.value).inc()
            self.active.record.note = str(error)
            log.warning("burn failed", volume=self.active.record.label, error=str(error))
        finally:
            self.core.reserved.discard(disc.barcode)
            self.active.burning -= 1
            self._left -= 1
            if self._left == 0:
                self.on_ended(self)

    # -- before the first sector -------------------------------------------------

    async def _prepare(self, unit: DriveUnit, disc: DiscRecord) -> Burn | None:
        lane: _Lane | None = None
        try:
            await self.core.librarian.load(unit, disc.barcode)
            if await is_blank(self.core, unit, disc, self.active.layout.total_sectors):
                total = self.active.layout.total_sectors
                mark = mark_for(self.core, disc, self.active.record, total)
                burn = await unit.call(Burn, unit.drive, total, mark)
                disc.volume = self.active.record.label
                disc.become(DiscState.BURNING)
                await self.core.catalog.save(disc)
                size = max(2, self.core.config.burn.buffer_bytes // CHUNK_BYTES_ABOUT)
                patience_s = self.core.config.burn.slow_drive_s
                lane = _Lane(unit, disc, queue.Queue(maxsize=size), patience_s=patience_s)
                lane.others = lambda: self._lanes
                self._lanes.append(lane)
                return burn
            return None
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                self._prepared.set()

    # -- the stream ------------------------------------------------------------------

    async def _write(self, unit: DriveUnit, disc: DiscRecord, burn: Burn) -> None:
        await self._prepared.wait()
        lane = next(lane for lane in self._lanes if lane.unit is unit)
        started = self.core.clock.monotonic_s()
        async with trio.open_nursery() as nursery:
            if lane is self._lanes[0]:
                nursery.start_soon(self._feed)
            await self._drain(lane, burn)
            await self._streamed.wait()
        if lane.error is None:
            lane.error = self._stream_error
        if lane.error is None:
            lane.error = await self._settle_burned(lane, self.core.clock.monotonic_s() - started)
        if lane.error is not None:
            await self._settle_failed(lane, lane.error)
            raise lane.error
        unit.credit(proved=True)
        self.core.metrics.burn_seconds.observe(self.core.clock.monotonic_s() - started)
        self.core.metrics.burned_bytes.inc(self.active.bytes)

    async def _drain(self, lane: _Lane, burn: Burn) -> None:
        try:
            with trio.CancelScope(shield=True):
                await lane.unit.call(lane.drain_into, burn)
        except HsmError as error:
            lane.error = lane.error or error

    async def _feed(self) -> None:
        try:
            await trio.to_thread.run_sync(self._produce, abandon_on_cancel=True)
        except HsmError as error:
            self._stream_error = error
        except trio.Cancelled:
            self._cut()
            raise
        finally:
            self._streamed.set()

    def _cut(self) -> None:
        for lane in self._lanes:
            lane.cut = True

    def _produce(self) -> None:
        """Read, hash and hand out chunks (in a worker thread)."""
        self._writer = VolumeWriter(self.active.layout, self.active.own.parent)
        self._recovery = recovery_of(self.active.layout, self.active.own)
        try:
            for chunk in summed(self._writer.stream(self._open), self._recovery):
                for lane in self._lanes:
                    lane.put(chunk)
                if all(lane.dead or lane.cut for lane in self._lanes):
                    raise _Cut("all drives of the burn gave up")
            for lane in self._lanes:
                lane.put(None)
        except BaseException:
            self._cut()
            raise
        self._keep_manifest(self._writer)

    def _keep_manifest(self, writer: VolumeWriter) -> None:
        """For later discs of the pool; without it they only do not repeat it."""
        label = self.active.record.label
        try:
            self.core.own_files.keep_manifest(label, writer.manifest())
        except OSError as error:
            log.warning("manifest is not kept for later discs", volume=label, error=str(error))

    def _open(self, source: FileSource) -> Source:
        if source.is_recovery and self._recovery is not None:
            self._recovery.finish()
        if source.kind == "own":
            return (self.active.own / os.fsdecode(source.path)).open("rb", buffering=0)
        for root in self.core.cache_roots:
            try:
                fd = open_claimed(root, source.ino, source.data_version)
            except FileNotFoundError:
                continue
            claim = claim_path(root, source.ino, source.data_version)
            return ClaimedSource(fd, claim, source.part, source.size)
        raise FileNotFoundError(f"no cache file of inode {source.ino}")

    # -- after the last sector -----------------------------------------------------------

    async def _settle_burned(self, lane: _Lane, seconds: float) -> HsmError | None:
        """Record the disc with the contents; an error if copies differ."""
        assert self._writer is not None
        record, disc = self.active.record, lane.disc
        image = self._writer.image_xxh3
        if record.image_xxh3 and record.image_xxh3 != image:
            return MediumError(f"volume {record.label}: a later copy differs from the first")
        changes = []
        if not record.image_xxh3:
            record.image_xxh3 = image
            record.state = VolumeState.BURNED
            record.total_sectors = self.active.layout.total_sectors
            self._tell_voids(self._writer)
            changes.append(put_extents(record.label, BurnedExtents(self._writer)))
        disc.become(DiscState.BURNED)
        disc.burned_in = lane.unit.name
        disc.used_sectors = self.active.layout.total_sectors
        entry = HistoryRecord(
            what="burn",
            drive=lane.unit.name,
            volume=record.label,
            seconds=seconds,
            bytes=self.active.bytes,
        )
        changes += [put_record(record), put_record(disc)]
        now_ns = self.core.clock.now_ns()
        changes.append(put_history(disc.barcode, now_ns, entry))
        changes.append(self.core.catalog.count_burn(record.pool, now_ns))
        await self.core.catalog.transact(*changes)
        return None

    def _tell_voids(self, writer: VolumeWriter) -> None:
        for entry in writer.results.void_entries():
            if entry.kind == "own":
                label, path = self.active.record.label, os.fsdecode(entry.path)
                self.core.alarms.raise_("void-file", f"volume {label}: own file {path} is void")
            else:
                self.active.void.add(FileVersion(entry.ino, entry.data_version))

    async def _settle_failed(self, lane: _Lane, error: HsmError) -> None:
        record, disc = self.active.record, lane.disc
        record.burn_attempts += 1
        disc.become(DiscState.SUSPECT)
        disc.write_errors += 1
        disc.note = str(error)
        if isinstance(error, DriveError | MediumError):
            lane.unit.charge(error, for_good=isinstance(error, DriveError))
        entry = HistoryRecord(
            what="burn", drive=lane.unit.name, volume=record.label, errors=1, text=str(error)
        )
        now_ns = self.core.clock.now_ns()
        change = put_history(disc.barcode, now_ns, entry)
        used = self.core.catalog.count_burn(record.pool, now_ns, failed=True)
        await self.core.catalog.transact(put_record(record), put_record(disc), change, used)
        with trio.move_on_after(self.core.config.library[0].load_timeout_s):
            try:
                await self.core.librarian.unload(lane.unit)
            except (DriveError, LibraryError) as stuck:
                log.warning("disc stays in the drive", drive=lane.unit.name, error=str(stuck))


class BurnedExtents:
    """Where each good file of a burned volume is; made anew each time it is gone through,
    which the store does in its own thread."""

    def __init__(self, writer: VolumeWriter) -> None:
        self._results = writer.results

    def __iter__(self) -> Iterator[tuple[FileVersion, ExtentRecord]]:
        for entry, result in self._results.with_entries():
            if result is not None and entry.kind != "own" and not result.void:
                yield FileVersion(entry.ino, entry.data_version), _extent(entry, result)


def _extent(entry: FileSource, result: FileResult) -> ExtentRecord:
    path, part = entry.key.decode("utf-8", "surrogateescape"), entry.part
    return ExtentRecord(
        offset=result.offset_bytes,
        size=result.size,
        xxh3_128=result.xxh3_128,
        sha256=result.sha256,
        chunks=list(result.chunk_xxh3),
        path=path.encode("utf-8", "backslashreplace").decode(),
        start=part.start if part is not None else 0,
        total=part.total if part is not None else 0,
    )


def disc_bytes(sectors: int) -> int:
    """Sectors in bytes."""
    return sectors * SECTOR_BYTES
