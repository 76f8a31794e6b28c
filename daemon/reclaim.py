"""Take the live files off a volume, so that it can go.

Live are the versions that the namespace still has. They are recalled, burned
into new volumes of the same pool, and when each has its proved copies there the
old volume is retired: its extents go from the catalog, its discs are used no
more. Until then nothing of it changes, so a cut at any time costs only work.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from hsmfs.daemon.catalog import drop_extents, put_history, put_record
from hsmfs.daemon.catalogrecords import DiscState, HistoryRecord, VolumeRecord, VolumeState
from hsmfs.daemon.core import Core
from hsmfs.daemon.coverage import copies_of
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.migrator import Migrator
from hsmfs.daemon.packing import Found, founds
from hsmfs.daemon.recaller import Recaller
from hsmfs.daemon.releaser import Releaser
from hsmfs.errors import CallerError, TransientError
from hsmfs.namespace.view import NamespaceView
from hsmfs.types import FileVersion, Residency

log = structlog.get_logger(__name__)
ROOM_SHARE: Final = 2
"""Live files may take one part of so many of the tier's free bytes."""
NAMED_MAX: Final = 5


@dataclass(slots=True)
class Reclaimer:
    """Does one volume at a time for each job."""

    core: Core
    migrator: Migrator
    recaller: Recaller
    releaser: Releaser

    async def run(self, job: Job, record: VolumeRecord) -> None:
        """Recall, burn anew, retire; CallerError where that cannot be done."""
        if record.parity is not None:
            raise CallerError(f"volume {record.label} holds parity, no files; it is not reclaimed")
        if record.pool not in self.core.policy.pools:
            raise CallerError(
                f"volume {record.label}: its pool {record.pool!r} is not in the policy"
            )
        live = await self._live(record.label)
        size = sum(item.size for item in live)
        job.add(len(live) + 1, size)
        await self._check_room(record.label, size)
        were_stubs = [item for item in live if item.state == Residency.MIGRATED]
        await self._part("recall", were_stubs, lambda items, part: self.recaller.ask(items, part))
        live = await self._live(record.label)
        await self._part("migrate", live, lambda items, part: self._burn(items, part, record.pool))
        left = [
            item for item in await self._live(record.label) if not self._is_elsewhere(item, record)
        ]
        if left:
            names = ", ".join(os.fsdecode(item.path) for item in left[:NAMED_MAX])
            raise CallerError(
                f"volume {record.label}: {len(left)} live files have not enough copies elsewhere "
                f"({names}); it stays in use, try again"
            )
        await self._retire(record)
        for item in live:
            job.done(item.size)
        again = await self._found([item.ino for item in were_stubs])
        await self._part("release", again, lambda items, part: self.releaser.release(items, part))
        job.done(0)

    async def _part(
        self, kind: str, items: list[Found], work: Callable[[list[Found], Job], Awaitable[None]]
    ) -> None:
        """One step as a job of its own; its errors end the whole."""
        if not items:
            return
        part = self.core.jobs.new(kind)
        part.note = "for a reclaim"
        part.add(len(items), sum(item.size for item in items))
        await work(items, part)
        await part.wait()
        if part.files_failed and kind != "release":
            raise CallerError(f"{kind}: {part.errors[0] if part.errors else part.state}")

    async def _burn(self, items: Sequence[Found], part: Job, pool: str) -> None:
        await self.migrator.ask(items, pool, part, urgent=True, again=True)

    async def _live(self, label: str) -> list[Found]:
        contents = await trio.to_thread.run_sync(self.core.catalog.contents, label)
        wanted = {file for file, _ in contents}
        return [item for item in await self._found([f.ino for f in wanted]) if item.file in wanted]

    async def _found(self, inodes: Sequence[int]) -> list[Found]:
        def query(view: NamespaceView) -> list[Found]:
            return founds(view, inodes)

        await self.core.link.sync()
        return await self.core.namespace.read(query)

    async def _check_room(self, label: str, size: int) -> None:
        status = await self.core.link.status()
        free = min((tier.free_bytes for tier in status.tiers), default=0)
        if size > free // ROOM_SHARE:
            raise CallerError(
                f"volume {label}: its live files have {size} bytes, the cache tier has {free} "
                f"free; expected {ROOM_SHARE} times as much room"
            )

    def _is_elsewhere(self, item: Found, record: VolumeRecord) -> bool:
        others = [
            (extent, len(self.core.catalog.verified_discs(label)))
            for label, extent in self.core.catalog.extents(item.file)
            if label != record.label
        ]
        return copies_of(others) >= self.core.policy.pools[record.pool].copies

    async def _retire(self, record: VolumeRecord) -> None:
        catalog, now_ns = self.core.catalog, self.core.clock.now_ns()
        contents = catalog.contents(record.label)
        if any(self._is_wanted(file, record.label) for file, _ in contents):
            raise TransientError(f"volume {record.label}: a file of it is being read; try again")
        changes = [drop_extents(record.label, contents)]
        for disc in catalog.discs_of(record.label):
            if disc.state in (DiscState.VERIFIED, DiscState.DAMAGED):
                disc.become(DiscState.RETIRED)
                entry = HistoryRecord(what="retire", volume=record.label, text="reclaimed")
                changes += [put_record(disc), put_history(disc.barcode, now_ns, entry)]
        record.state, record.note = VolumeState.RETIRED, "reclaimed"
        await catalog.transact(put_record(record), *changes)
        log.info("volume reclaimed", volume=record.label)

    def _is_wanted(self, file: FileVersion, label: str) -> bool:
        request = self.recaller.requests.get(file)
        return request is not None and request.label == label
