"""Read all data of a foreign volume: hash what was never read, prove what was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio
import xxhash

from hsmfs.daemon.catalog import put_extents, put_history
from hsmfs.daemon.catalogrecords import DiscRecord, ExtentRecord, HistoryRecord, VolumeRecord
from hsmfs.daemon.core import Core
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.daemon.foreigndisc import check_fingerprint
from hsmfs.daemon.runs import chunk_count, is_hashed, known_hash, learn, read_range
from hsmfs.daemon.treejob import not_ended
from hsmfs.errors import DriveError, HsmError, MediumError
from hsmfs.types import CHUNK_BYTES, FileVersion

log = structlog.get_logger(__name__)
SAVE_FILES: Final = 500
"""Extents whose hashes are stored in one transaction."""
DAMAGED_MAX: Final = 100
"""Damaged files that are named; the others are only counted."""
Located = tuple[FileVersion, ExtentRecord]


class _GaveWay(Exception):
    """Within a file."""


@dataclass(slots=True)
class _OpenFile:
    """How far a file was read."""

    located: Located
    """With what was learnt of it, which is not stored before its end."""
    is_known: bool
    """It was hashed before."""
    next: int = 0
    learnt: bool = False
    whole: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)
    sha: hashlib._Hash = field(default_factory=hashlib.sha256)


@dataclass(slots=True)
class HashJob:
    """The drive's part (a ``DriveJob``); ``ended`` is set when it is over."""

    core: Core
    disc: DiscRecord
    volume: VolumeRecord
    error: HsmError | None = field(default_factory=not_ended)
    hashed: int = 0
    """Files that can be proved from now on."""
    proved: int = 0
    """Files that are as they were when they were hashed."""
    damaged: list[str] = field(default_factory=list)
    damaged_count: int = 0
    bytes: int = 0
    seconds: float = 0.0
    give_way: Callable[[HashJob, bool], bool] = lambda job, told: False
    """Asked between chunks: whether readers want the disc, or the drive (``told``); the job is to
    be run again then, and goes on where it was."""
    ended: trio.Event = field(default_factory=trio.Event)
    _next: int = 0
    _open: _OpenFile | None = None
    """A file that was read in part when the job gave way."""

    async def run(self, unit: DriveUnit) -> None:
        """All files in the order of the disc."""
        started, ended = self.core.clock.monotonic_s(), True
        try:
            await self.core.librarian.load(unit, self.disc.barcode)
            await unit.call(check_fingerprint, unit.drive, self.disc, self.volume)
            ended = await self._all(unit)
            self.seconds += self.core.clock.monotonic_s() - started
            if ended:
                await self._note(unit)
                self.error = None
        except HsmError as error:
            self.error = error
            if isinstance(error, DriveError | MediumError):
                unit.charge(error, for_good=isinstance(error, DriveError))
        finally:
            self.core.reserved.discard(self.disc.barcode)
            if ended:
                self.ended.set()
            self.core.wake()

    async def _all(self, unit: DriveUnit) -> bool:
        """Whether it came to the end, or gave way to readers."""
        catalog, label = self.core.catalog, self.volume.label
        news: list[Located] = []
        located = await trio.to_thread.run_sync(catalog.volume_files, label)
        while self._next < len(located):
            one = self._open.located if self._open is not None else located[self._next]
            try:
                is_news = await self._file(unit, one)
            except _GaveWay:
                await catalog.transact(put_extents(label, news))
                return False
            if is_news:
                news.append(one)
            self._next, self._open = self._next + 1, None
            if len(news) >= SAVE_FILES:
                await catalog.transact(put_extents(label, news))
                news = []
        await catalog.transact(put_extents(label, news))
        unit.credit()
        return True

    async def _file(self, unit: DriveUnit, one: Located) -> bool:
        """Whether something was learnt."""
        extent = one[1]
        if self._open is None:
            is_known = is_hashed(extent) and bool(extent.size or extent.sha256)
            self._open = _OpenFile(one, is_known)
        file = self._open
        try:
            while file.next < chunk_count(extent):
                if (self._next or file.next) and self.give_way(self, unit.yields):
                    raise _GaveWay
                data = await unit.call(_chunk, unit, extent, file.next)
                file.whole.update(data)
                file.sha.update(data)
                file.learnt |= learn(extent, file.next, xxhash.xxh3_64_intdigest(data))
                file.next += 1
                self.bytes += len(data)
        except MediumError as error:
            self._damaged(extent, error)
            return file.learnt
        if file.is_known:
            self.proved += 1
        else:
            self.hashed += 1
        if not extent.sha256:
            extent.xxh3_128, extent.sha256 = file.whole.hexdigest(), file.sha.hexdigest()
            file.learnt = True
        return file.learnt

    def _damaged(self, extent: ExtentRecord, error: MediumError) -> None:
        self.damaged_count += 1
        if len(self.damaged) < DAMAGED_MAX:
            self.damaged.append(f"{extent.path}: {error}")

    async def _note(self, unit: DriveUnit) -> None:
        self.disc.verified_in, self.disc.verified_ns = unit.name, self.core.clock.now_ns()
        self.disc.read_errors += self.damaged_count
        text = f"{self.hashed} files hashed, {self.proved} proved"
        if self.damaged_count:
            self.disc.note = f"{self.damaged_count} files are damaged: {self.damaged[0]}"
            text = f"{text}; {self.disc.note}"
            self.core.alarms.raise_("damaged-copy", f"disc {self.disc.barcode}: {self.disc.note}")
        entry = HistoryRecord(
            what="hash", drive=unit.name, volume=self.volume.label, seconds=self.seconds,
            bytes=self.bytes, errors=self.damaged_count, text=text,
        )  # fmt: skip
        await self.core.catalog.transact(
            put_history(self.disc.barcode, self.core.clock.now_ns(), entry)
        )
        await self.core.catalog.save(self.disc)


def _chunk(unit: DriveUnit, extent: ExtentRecord, chunk: int) -> bytes:
    """In the drive's thread; MediumError where it is not what was hashed before."""
    start = chunk * CHUNK_BYTES
    data = read_range(unit.drive.read, extent, start, min(start + CHUNK_BYTES, extent.size))
    expected = known_hash(extent, chunk)
    if expected is not None and xxhash.xxh3_64_intdigest(data) != expected:
        raise MediumError(
            f"bytes {start} to {start + len(data)} are not those that were hashed before"
        )
    return data
