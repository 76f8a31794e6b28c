"""Requests for files on discs: a queue per volume, one load for all of them.

Readers and people ask; the dispatcher asks ``demands`` and hands a
``ReadJob`` to a drive; ``maintain`` tells readers what they wait for and
ends what waited too long.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog
import trio

from hsmfs.daemon.catalog import put_extents
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, MagazineState
from hsmfs.daemon.core import Core
from hsmfs.daemon.coverage import copies_of
from hsmfs.daemon.exportfacts import note_read
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.packing import Found
from hsmfs.daemon.picture import ReadDemand
from hsmfs.daemon.recallqueue import Request, VolumeQueue, Waiter
from hsmfs.daemon.volumeheat import VolumeHeat
from hsmfs.errors import FsError, HsmError, TransientError
from hsmfs.rpc.messages import NoLongerWanted, Wanted
from hsmfs.types import ByteRange, FileVersion, Residency

log = structlog.get_logger(__name__)
NOTE_S: Final = 3.0
MAINTAIN_S: Final = 0.5
SYNCS_MAX: Final = 4
USABLE: Final = (DiscState.VERIFIED, DiscState.IMPORTED, DiscState.DAMAGED)


class Recaller:
    """Owner of all requests."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.requests: dict[FileVersion, Request] = {}
        self.queues: defaultdict[str, VolumeQueue] = defaultdict(VolumeQueue)
        self.serving: set[str] = set()
        self.identified: dict[str, str] = {}
        """Disc that was checked to be what its barcode says, by drive."""
        self.can_come_back: Callable[[str], bool] = lambda label: False
        """Whether a volume without a readable copy gets a fresh one soon."""
        self.doubt: Callable[[DiscRecord, str], None] = lambda disc, drive: None
        """Told of a disc of which a part could not be read, and in which drive."""
        self.on_reader: Callable[[Wanted], None] = lambda event: None
        """Told of each reader that waits."""
        self.heat = VolumeHeat()
        self._syncs = trio.CapacityLimiter(SYNCS_MAX)
        self._nursery: trio.Nursery | None = None

    # -- requests come and go ----------------------------------------------------

    async def on_wanted(self, event: Wanted) -> None:
        """A reader waits for a range of a stub."""
        request = await self._request(event.file, event.path)
        if request is None:
            return
        request.waiters[event.pid] = Waiter(event.path, event.pid, event.uid, event.program)
        request.wanted.append(event.range)
        if not request.completing:
            self._place(request)
        self.on_reader(event)
        self.core.wake()

    async def _request(self, file: FileVersion, path: str) -> Request | None:
        known = self.requests.get(file)
        if known is not None:
            return known
        extents = dict(self.core.catalog.extents(file))
        extents = {label: extent for label, extent in extents.items() if self._discs(label, USABLE)}
        if not copies_of((extent, 1) for extent in extents.values()):
            await self._fail_unknown(file, path)
            return None
        request = Request(file, path, extents, "", self.core.clock.monotonic_s())
        self.requests[file] = request
        self._route(request)
        self.heat.add(request.label, request.since_s)
        return request

    async def _fail_unknown(self, file: FileVersion, path: str) -> None:
        why = f"{path}: the catalog knows no verified copy of version {file.data_version}"
        self.core.alarms.raise_("no-copy", why)
        try:
            await self.core.link.failed(file, errno.EIO, why)
        except HsmError as error:
            log.warning("could not tell hsmfs", error=str(error))

    async def ask(self, items: Sequence[Found], job: Job) -> None:
        """By hand: bring these files back."""
        wanted = []
        for item in items:
            if item.state in (Residency.RESIDENT, Residency.PREMIGRATED):
                job.done(item.size)
                continue
            request = await self._request(item.file, os.fsdecode(item.path))
            if request is None:
                job.fail(f"{os.fsdecode(item.path)}: no verified copy is known")
                continue
            request.jobs.append(job)
            if not request.completing:
                self.queues[request.label].put(request)
            wanted.append(item.ino)
        if wanted:
            await self.core.catalog.ask("r", wanted)
        self.core.wake()

    async def on_no_longer_wanted(self, event: NoLongerWanted) -> None:
        """The stub changed or went, or all its readers left."""
        request = self.requests.get(event.file)
        if request is None:
            return
        request.waiters.clear()
        request.wanted.clear()
        if event.dropped:
            await self._end(request, "the file was changed or removed meanwhile")
        elif not request.jobs and self._rests(request):
            await self.give_up(request, FsError(errno.EINTR, "no reader waits any more"))
        elif not request.completing:
            self.queues[request.label].put(request)

    def _rests(self, request: Request) -> bool:
        """Not being read; its recall file may be open all the same, since it was to be next."""
        return not request.completing and (request.fd < 0 or request.label not in self.serving)

    def reset(self) -> None:
        """A new connection: hsmfs says anew who waits."""
        for request in list(self.requests.values()):
            self._close(request)
            request.waiters.clear()
            request.wanted.clear()
            self.queues[request.label].drop(request)
            if request.jobs:
                self.queues[request.label].put(request)
            else:
                del self.requests[request.file]

    # -- which copy -------------------------------------------------------------------

    def _discs(self, label: str, states: tuple[DiscState, ...]) -> list[DiscRecord]:
        discs = [disc for disc in self.core.catalog.discs_of(label) if disc.state in states]
        return sorted(discs, key=lambda disc: (states.index(disc.state), disc.read_errors))

    def usable(self, request: Request, label: str) -> list[DiscRecord]:
        """Copies inside that did not fail this request, best first."""
        librarian = self.core.librarian
        discs = [
            disc
            for disc in self._discs(label, USABLE)
            if disc.barcode not in request.bad and librarian.present(disc)
        ]
        loaded = {unit.disc for unit in librarian.alive_units()}
        # A disc whose magazine is about to go to another place is left there.
        return sorted(discs, key=lambda d: (d.barcode not in loaded, self._is_offsite(d)))

    def _is_offsite(self, disc: DiscRecord) -> bool:
        magazine = self.core.catalog.magazines.get(disc.magazine)
        return magazine is not None and magazine.offsite

    def _route(self, request: Request) -> None:
        """Choose the volume: one that can be served now, else any untried."""
        if request.label:
            self.queues[request.label].drop(request)
        request.turn_chunks = 0
        labels = request.labels()
        ready = [label for label in labels if self.usable(request, label)]
        request.label = (ready or labels)[0]
        self.queues[request.label].put(request)

    def _place(self, request: Request) -> None:
        """Where it belongs now; while it is read the volume stays."""
        if self._rests(request):
            self._route(request)
        else:
            self.queues[request.label].put(request)

    def go_on_elsewhere(self, request: Request) -> None:
        """This volume has no more of what is needed: a file in parts goes on with another."""
        self._route(request)
        self.core.wake()

    def demands(self) -> list[ReadDemand]:
        """What the scheduler should know."""
        if not self.core.link.connected:
            return []
        found = []
        rules = self.core.rules
        for label, queue in list(self.queues.items()):
            first = queue.first()
            if first is None:
                del self.queues[label]
                continue
            discs = tuple(disc.barcode for disc in self.usable(first, label))
            if discs and label not in self.serving:
                found.append(queue.demand(label, discs, rules))
        return found

    def has_readers(self, label: str) -> bool:
        """Whether somebody waits for data of this volume."""
        return label in self.queues and self.queues[label].has_readers

    def next_request(self, label: str, disc: str, position: int) -> Request | None:
        """For a drive that holds this disc: what to read next, or nothing."""
        if label not in self.queues:
            return None
        return self.queues[label].after(position, disc)

    def must_leave(self, disc: DiscRecord) -> bool:
        """The magazine is wanted outside."""
        magazine = self.core.catalog.magazines.get(disc.magazine)
        return magazine is not None and magazine.exporting

    async def disc_failed(self, label: str, disc: DiscRecord, drive: str, error: HsmError) -> None:
        """The disc as a whole is of no use: all its requests go elsewhere, and another drive
        tells whose fault it is."""
        self.core.metrics.errors.labels(error.kind.value).inc()
        self.core.alarms.raise_("disc-unreadable", str(error))
        disc.read_errors += 1
        disc.note = str(error)
        if disc.state == DiscState.VERIFIED:
            disc.become(DiscState.DAMAGED)
        await self.core.catalog.save(disc)
        self.doubt(disc, drive)
        for request in list(self.queues[label]):
            request.bad.add(disc.barcode)
            request.failure = str(error)

    def proved(self, barcode: str) -> None:
        """A disc that had failed was read whole: the drive was to blame, it may be read again."""
        for request in list(self.requests.values()):
            if barcode in request.bad and request.chances_left > 0:
                request.chances_left -= 1
                request.bad.discard(barcode)
                if not request.completing:
                    self._place(request)

    # -- serving (called by ReadJob) ------------------------------------------------------

    async def begin(self, request: Request) -> None:
        """Have a recall file open to write to."""
        if request.fd >= 0:
            return
        answer = await self.core.link.recall_begin(request.file)
        try:
            fd = await trio.to_thread.run_sync(os.open, Path(answer.path), os.O_RDWR)
        except OSError as error:
            raise FsError(error.errno or errno.EIO, f"cache: {error}") from error
        request.begin(fd, answer.landed)

    async def announce(self, request: Request, span: ByteRange) -> None:
        """Let readers have what was just proved and written."""
        self.core.metrics.recalled_bytes.inc(span.stop - span.start)
        for job in request.jobs:
            job.bytes_done += span.stop - span.start
        await self.core.link.landed(request.file, span)

    async def was_read(self, label: str) -> None:
        """A disc of it served readers: what is read stays in the library."""
        record = self.core.catalog.volumes.get(label)
        if record is not None:
            note_read(record, self.core.clock.now_ns())
            await self.core.catalog.save(record)

    async def keep_hashes(self, request: Request) -> None:
        """Of data of others that was read for the first time."""
        request.learnt = False
        located = [(request.file, request.extent)]
        with trio.CancelScope(shield=True):
            await self.core.catalog.transact(put_extents(request.label, located))

    async def complete(self, request: Request) -> None:
        """All is there: make it durable beside the drive's next work."""
        self.queues[request.label].drop(request)
        assert self._nursery is not None
        fd, request.fd, request.completing = request.fd, -1, True
        self._nursery.start_soon(self._complete, request, fd)

    async def _complete(self, request: Request, fd: int) -> None:
        try:
            try:
                await trio.to_thread.run_sync(os.fsync, fd, limiter=self._syncs)
            finally:
                os.close(fd)
            await self.core.link.recalled(request.file)
        except (TransientError, FsError, OSError) as error:
            await self._completion_failed(request, error)
            return
        self.core.metrics.recalled_files.inc()
        waited = self.core.clock.monotonic_s() - request.since_s
        self.core.metrics.recall_seconds.observe(waited)
        self.requests.pop(request.file, None)
        await self.core.catalog.answer("r", [request.file.ino])
        for job in request.jobs:
            job.done(0)

    async def _completion_failed(self, request: Request, error: Exception) -> None:
        request.completing = False
        if isinstance(error, TransientError) and request.jobs:
            self.queues[request.label].put(request)
        else:
            await self._end(request, str(error))

    def say(self, request: Request, text: str) -> None:
        """What the readers wait for, in words; sent by ``maintain``."""
        if request.note != text:
            request.note, request.noted_s = text, float("-inf")

    # -- endings ----------------------------------------------------------------------------

    async def give_up(self, request: Request, error: Exception) -> None:
        """Tell readers and jobs that the file does not come."""
        number = error.errno if isinstance(error, FsError | HsmError) else errno.EIO
        why = str(error)
        try:
            await self.core.link.failed(request.file, number, why)
        except (HsmError, FsError) as gone:
            log.info("hsmfs no longer waits", why=str(gone))
        await self._end(request, why)

    async def _end(self, request: Request, why: str) -> None:
        self._close(request)
        if request.label in self.queues:
            self.queues[request.label].drop(request)
        if self.requests.get(request.file) is request:
            del self.requests[request.file]
        jobs, request.jobs = request.jobs, []
        if jobs:
            await self.core.catalog.answer("r", [request.file.ino])
        for job in jobs:
            job.fail(f"{request.path}: {why}")

    def _close(self, request: Request) -> None:
        """The descriptor may be in use by a drive's thread: it sees fd < 0 and stops."""
        if request.fd >= 0:
            fd, request.fd = request.fd, -1
            if request.label in self.serving and self._nursery is not None:
                self._nursery.start_soon(self._close_later, request.label, fd)
            else:
                os.close(fd)

    async def _close_later(self, label: str, fd: int) -> None:
        with trio.move_on_after(self.core.config.library[0].load_timeout_s):
            while label in self.serving:
                await trio.sleep(MAINTAIN_S)
        os.close(fd)

    # -- upkeep --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Notes, waits and lost copies, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            while True:
                await trio.sleep(MAINTAIN_S)
                if self.core.link.connected:
                    for request in list(self.requests.values()):
                        await self._maintain(request)

    async def _maintain(self, request: Request) -> None:
        now_s = self.core.clock.monotonic_s()
        if request.label in self.serving or request.completing:
            await self._send_note(request, now_s)
            return
        if not self.usable(request, request.label):
            # Another volume lays the file elsewhere, in the same chunks: what landed stays.
            self._route(request)
        if self.usable(request, request.label):
            request.offline_since_s = None
            await self._maintain_nearline(request, now_s)
        elif self.offline_magazines(request) and not self._waits_for_fresh(request):
            await self._maintain_offline(request, now_s)
        elif self.can_come_back(request.label):
            request.stuck_since_s = None
            self.say(request, f"volume {request.label} gets a fresh disc; waiting for it")
            await self._send_note(request, now_s)
        elif request.bad:
            why = request.failure or "all copies are damaged"
            await self.give_up(request, FsError(errno.EIO, f"no copy can be read: {why}"))
        else:
            await self._maintain_stuck(request, now_s, "no copy can be reached")

    async def _maintain_nearline(self, request: Request, now_s: float) -> None:
        librarian = self.core.librarian
        if not librarian.alive_units():
            await self._maintain_stuck(request, now_s, "no drive works")
        elif librarian.problem:
            await self._maintain_stuck(request, now_s, librarian.problem)
        elif librarian.by_hand:
            await self._maintain_by_hand(request, now_s)
        else:
            request.stuck_since_s = None
            disc = self.usable(request, request.label)[0].barcode
            self.say(request, f"waiting for a drive to load disc {disc}")
            await self._send_note(request, now_s)

    async def _maintain_by_hand(self, request: Request, now_s: float) -> None:
        """A person is asked for the disc; not for ever."""
        disc = self.usable(request, request.label)[0]
        librarian = self.core.librarian
        if request.stuck_since_s is None or librarian.unit_with(disc.barcode) is not None:
            request.stuck_since_s = now_s
        where = f"disc {disc.barcode} ({librarian.in_words(disc)})"
        if now_s - request.stuck_since_s > self.core.config.recall.offline_wait_s:
            await self.give_up(request, FsError(errno.ENOMEDIUM, f"nobody loaded {where}"))
            return
        self.say(request, f"waiting for a person to load {where}, see hsm tasks")
        await self._send_note(request, now_s)

    async def _maintain_stuck(self, request: Request, now_s: float, why: str) -> None:
        """No notes: hsmfs's own time-out runs for readers."""
        if request.stuck_since_s is None:
            request.stuck_since_s = now_s
        if now_s - request.stuck_since_s > self.core.config.recall.recall_timeout_s:
            await self.give_up(request, FsError(errno.ETIMEDOUT, why))

    async def _maintain_offline(self, request: Request, now_s: float) -> None:
        if request.offline_since_s is None:
            request.offline_since_s = now_s
        magazines = ", ".join(self.offline_magazines(request))
        if now_s - request.offline_since_s > self.core.config.recall.offline_wait_s:
            stand = "missing" if self._only_missing(request) else "on the shelf"
            why = f"all copies are {stand} (magazine {magazines})"
            await self.give_up(request, FsError(errno.ENOMEDIUM, why))
            return
        self.say(request, f"waiting for an operator to bring magazine {magazines}")
        await self._send_note(request, now_s)

    def offline_magazines(self, request: Request) -> list[str]:
        """Magazines outside that hold a copy not yet found bad, the nearest first."""
        is_missing = self.core.catalog.is_missing
        names = {
            (is_missing(disc), self._is_offsite(disc), disc.magazine)
            for label in request.labels()
            for disc in self._discs(label, USABLE)
            if disc.barcode not in request.bad and not self._magazine_inside(disc)
        }
        return [name for *_, name in sorted(names)]

    def _only_missing(self, request: Request) -> bool:
        """No copy is outside but in magazines of which nobody knows where they are."""
        names = self.offline_magazines(request)
        known = [self.core.catalog.magazines.get(name) for name in names]
        return all(one is not None and one.state == MagazineState.MISSING for one in known)

    def _waits_for_fresh(self, request: Request) -> bool:
        return self._only_missing(request) and self.can_come_back(request.label)

    def _magazine_inside(self, disc: DiscRecord) -> bool:
        magazine = self.core.catalog.magazines.get(disc.magazine)
        return magazine is not None and magazine.present and not magazine.exporting

    async def _send_note(self, request: Request, now_s: float) -> None:
        if now_s - request.noted_s < NOTE_S:
            return
        request.noted_s = now_s
        try:
            await self.core.link.note(request.file, request.note)
        except (HsmError, FsError) as error:
            log.debug("note not taken", error=str(error))

    def offline_demand(self) -> dict[str, list[Request]]:
        """Requests that wait for people, by magazine (the first will do)."""
        demand: defaultdict[str, list[Request]] = defaultdict(list)
        for request in self.requests.values():
            waits = request.offline_since_s is not None
            if waits and not any(self.usable(request, label) for label in request.labels()):
                magazines = self.offline_magazines(request)
                if magazines:
                    demand[magazines[0]].append(request)
        return demand
