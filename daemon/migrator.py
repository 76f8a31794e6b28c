"""From files that should be migrated to volumes that are burned and counted.

Files wait by pool in the order in which they were met (depth first, a
directory's entries by inode number, which is the order ``cp``, ``tar`` and
most importers read in). A volume is planned when the waiting files fill a
disc, when a person asked, or when the oldest has waited ``burn_max_wait_s``.
"""

from __future__ import annotations

import os
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Final

import structlog
import trio

from hsmfs.daemon.activevolume import (
    COUNTED,
    ActiveVolume,
    PlanStore,
    StoredPlan,
    activate,
)
from hsmfs.daemon.catalogrecords import DiscState, VolumeRecord, VolumeState
from hsmfs.daemon.core import Core
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.packing import Found, founds, parent_paths, parents_of, sources_of
from hsmfs.daemon.parityset import OVERHEAD_SECTORS
from hsmfs.daemon.policy.evaluate import Pool
from hsmfs.daemon.poolcare import parity_at_all
from hsmfs.errors import CallerError, HsmError, TransientError
from hsmfs.namespace.view import NamespaceView
from hsmfs.rpc.messages import CopiedFile
from hsmfs.types import SECTOR_BYTES, FileVersion, Residency
from hsmfs.volume.layout import FileSource, VolumeHeader
from hsmfs.volume.packer import Packer

log = structlog.get_logger(__name__)
PLANNED_MAX: Final = 4
"""Volumes planned ahead of the drives: bounds claims and memory."""
WAITING_FILES_MAX: Final = 2_000_000
IDLE_S: Final = 1.0
TROUBLE_S: Final = 5.0


@dataclass(slots=True)
class Waiting:
    """A file on its way into a volume."""

    item: Found
    since_s: float
    urgent: bool
    jobs: list[Job] = field(default_factory=list)

    def finish(self) -> None:
        for job in self.jobs:
            job.done(self.item.size)

    def fail(self, why: str) -> None:
        for job in self.jobs:
            job.fail(f"{os.fsdecode(self.item.path)}: {why}")


class Migrator:
    """Owner of waiting files and of volumes that are not finished."""

    def __init__(self, core: Core, plans: PlanStore) -> None:
        self.core = core
        self.plans = plans
        self.active: dict[str, ActiveVolume] = {}
        self._waiting: dict[str, OrderedDict[int, Waiting]] = defaultdict(OrderedDict)
        self._placed: dict[FileVersion, Waiting] = {}
        self._wake = trio.Event()

    def wake(self) -> None:
        self._wake.set()

    @property
    def waiting_files(self) -> int:
        return sum(len(files) for files in self._waiting.values()) + len(self._placed)

    def claims(self) -> list[FileVersion]:
        """Versions whose bytes a burn still needs."""
        return [file for active in self.active.values() if active.claimed for file in active.files]

    # -- what to migrate ----------------------------------------------------------

    async def ask(
        self, items: Sequence[Found], pool: str, job: Job, *, urgent: bool, again: bool = False
    ) -> None:
        """Queue files; those that have enough copies already count as done, unless they
        are to be burned ``again``."""
        fresh = []
        for item in items:
            if item.state != Residency.RESIDENT and not (
                again and item.state == Residency.PREMIGRATED
            ):
                job.done(item.size)
                continue
            waiting = self._known(item)
            if waiting is not None:
                waiting.jobs.append(job)
                waiting.urgent = waiting.urgent or urgent
            elif self.waiting_files >= WAITING_FILES_MAX:
                job.fail(f"{os.fsdecode(item.path)}: {WAITING_FILES_MAX} files wait already")
            else:
                now_s = self.core.clock.monotonic_s()
                self._waiting[pool][item.ino] = Waiting(item, now_s, urgent, [job])
                fresh.append(item.ino)
        if urgent and fresh:
            await self.core.catalog.ask("m", fresh, pool)
        self.wake()

    def _known(self, item: Found) -> Waiting | None:
        placed = self._placed.get(item.file)
        if placed is not None:
            return placed
        for files in self._waiting.values():
            if item.ino in files:
                return files[item.ino]
        return None

    # -- planning -------------------------------------------------------------------

    async def run(self) -> None:
        """Plan and finish volumes until cancelled."""
        while True:
            with trio.move_on_after(IDLE_S):
                await self._wake.wait()
            self._wake = trio.Event()
            if not self.core.link.connected:
                continue
            try:
                await self._finish_ready()
                for pool in list(self._waiting):
                    await self._plan_pool(self.core.policy.pools[pool])
            except TransientError as error:
                log.info("migration waits", why=str(error))
            except HsmError as error:
                self.core.alarms.raise_("migration", str(error))
                await trio.sleep(TROUBLE_S)

    async def _plan_pool(self, pool: Pool) -> None:
        while self._waiting[pool.name] and len(self.active) < PLANNED_MAX:
            capacity = self._capacity_sectors()
            if not capacity or not self._due(pool, capacity):
                return
            if not await self._plan_one(pool, capacity):
                return
            self.core.wake()

    def _capacity_sectors(self) -> int:
        """Of the blank discs at hand; 0 until one was looked at."""
        less = OVERHEAD_SECTORS if parity_at_all(self.core) else 0
        known = [
            disc.capacity_sectors
            for disc in self.core.catalog.discs.values()
            if disc.capacity_sectors and disc.state == DiscState.BLANK
        ]
        found = min(known, default=0) or max(
            (disc.capacity_sectors for disc in self.core.catalog.discs.values()), default=0
        )
        return max(0, found - less)

    @property
    def wants_probe(self) -> bool:
        """No disc's capacity is known, and files wait for it."""
        return any(self._waiting.values()) and not self._capacity_sectors()

    def _due(self, pool: Pool, capacity: int) -> bool:
        files = self._waiting[pool.name].values()
        oldest = self.core.clock.monotonic_s() - next(iter(files)).since_s
        waited = pool.burn_max_wait_s is not None and oldest >= pool.burn_max_wait_s
        if waited or any(waiting.urgent for waiting in files):
            return True
        return sum(waiting.item.size for waiting in files) >= capacity * SECTOR_BYTES

    async def _plan_one(self, pool: Pool, capacity: int) -> bool:
        """One volume from the head of the queue; False when none came of it."""
        head = self._take_head(pool.name, capacity)
        claimed = await self._claim(head, pool.name)
        if not claimed:
            return bool(head)
        label, label_change = self.core.catalog.new_volume_label(self.core.config.site.id)
        header = VolumeHeader(
            label=label,
            site=self.core.config.site.id,
            pool=pool.name,
            created_ns=self.core.clock.now_ns(),
            copies=pool.copies,
        )
        entries, parents = await self._entries(claimed)
        own, namespace_until = await self._own_files(header, capacity)
        chosen, left = self._pack(header, capacity, own, parents, entries)
        await self._give_back(pool.name, capacity, claimed, left)
        if all(entry.kind == "own" for entry in chosen):
            self.plans.drop(label)
            return True
        record = VolumeRecord(
            label=label,
            pool=pool.name,
            copies=pool.copies,
            created_ns=header.created_ns,
            namespace_until=namespace_until,
        )
        plan = StoredPlan(header=header, capacity_sectors=capacity, entries=chosen)
        active = activate(record, plan, self.core.clock.monotonic_s(), self.plans.own(label))
        record.files = len(active.files)
        record.bytes = sum(source.size for source in active.files.values())
        record.total_sectors = active.layout.total_sectors
        await self.plans.save(label, plan)
        self.core.catalog.volumes[label] = record
        await self.core.catalog.transact(label_change)
        await self.core.catalog.save(record)
        for waiting in claimed:
            if waiting.item.file in active.files:
                self._placed[waiting.item.file] = waiting
        self.active[label] = active
        log.info("volume planned", volume=label, files=record.files, bytes=record.bytes)
        return True

    def _take_head(self, pool: str, capacity: int) -> list[Waiting]:
        """About a disc full, in order (they leave the queue)."""
        files = self._waiting[pool]
        head: list[Waiting] = []
        room = capacity * SECTOR_BYTES
        while files and room > 0:
            _, waiting = files.popitem(last=False)
            room -= waiting.item.size
            head.append(waiting)
        return head

    async def _claim(self, head: list[Waiting], pool: str) -> list[Waiting]:
        """Those that stand still from now on; the others are answered."""
        by_file = {waiting.item.file: waiting for waiting in head}
        try:
            results = await self.core.link.claim(list(by_file))
        except HsmError:
            self._requeue(head, pool)
            raise
        claimed, refused = [], []
        for result in results:
            waiting = by_file[result.file]
            if result.refused:
                waiting.fail(result.refused)
                refused.append(waiting.item.ino)
            else:
                claimed.append(waiting)
        if refused:
            await self.core.catalog.answer("m", refused)
        return claimed

    def _requeue(self, waiting: Sequence[Waiting], pool: str) -> None:
        """Back to the head of the queue, in their order."""
        for item in reversed(waiting):
            self._waiting[pool][item.item.ino] = item
            self._waiting[pool].move_to_end(item.item.ino, last=False)

    async def _entries(
        self, claimed: Sequence[Waiting]
    ) -> tuple[list[FileSource], list[FileSource]]:
        inodes = [waiting.item.ino for waiting in claimed]

        def query(view: NamespaceView) -> tuple[list[FileSource], list[FileSource]]:
            entries = sources_of(view, inodes)
            return entries, parents_of(view, [entry.path for entry in entries])

        return await self.core.namespace.read(query)

    async def _own_files(self, header: VolumeHeader, capacity: int) -> tuple[list[FileSource], int]:
        """What the volume carries besides data, put into the plan's directory; and up to
        where the namespace's changes are in it (0: they are not)."""
        volumes = self.core.catalog.volumes.values()
        burned = [
            record
            for record in volumes
            if record.pool == header.pool and record.state != VolumeState.PLANNED
        ]
        burned.sort(key=lambda record: record.created_ns, reverse=True)
        proved = (
            record.namespace_until
            for record in volumes
            if self.core.catalog.verified_discs(record.label)
        )
        return await self.core.own_files.gather(
            self.plans.own(header.label),
            [record.label for record in burned],
            header,
            capacity * SECTOR_BYTES,
            max(proved, default=0),
        )

    def _pack(
        self,
        header: VolumeHeader,
        capacity: int,
        own: Sequence[FileSource],
        parents: Sequence[FileSource],
        entries: Sequence[FileSource],
    ) -> tuple[list[FileSource], set[int]]:
        """What fits, in order, with the parents it needs; inodes left over."""
        packer = Packer(header, capacity)
        directories = {entry.path: entry for entry in parents}
        chosen = [entry for entry in own if packer.add(entry)]
        left: set[int] = set()
        for _, group in groupby(entries, key=lambda entry: entry.ino):
            # All names of a file go together: on a disc, links are to its own files.
            names = list(group)
            paths = dict.fromkeys(path for name in names for path in parent_paths(name.path))
            needed = [directories[path] for path in paths if path in directories]
            if not packer.add_all([*needed, *names]):
                left.add(names[0].ino)
                continue
            for parent in needed:
                del directories[parent.path]
            chosen += [*needed, *names]
        return chosen, left

    async def _give_back(
        self, pool: str, capacity: int, claimed: list[Waiting], left: set[int]
    ) -> None:
        """Files that did not fit wait for the next disc; too large ones fail."""
        back = [waiting for waiting in claimed if waiting.item.ino in left]
        if not back:
            return
        await self.core.link.unclaim([waiting.item.file for waiting in back])
        if len(back) == len(claimed) == 1:
            waiting = back[0]
            waiting.fail(
                f"{waiting.item.size} bytes do not fit on one disc of "
                f"{capacity * SECTOR_BYTES} bytes; use larger discs, this release splits no files"
            )
            await self.core.catalog.answer("m", [waiting.item.ino])
            return
        self._requeue(back, pool)

    # -- after a burn --------------------------------------------------------------------

    def counted(self, label: str) -> int:
        """Discs of a volume that need no further burn."""
        return sum(1 for disc in self.core.catalog.discs_of(label) if disc.state in COUNTED)

    def copies_left(self, active: ActiveVolume) -> int:
        return active.record.copies - self.counted(active.record.label) - active.burning

    async def _finish_ready(self) -> None:
        for active in list(self.active.values()):
            record = active.record
            if len(self.core.catalog.verified_discs(record.label)) >= record.copies:
                await self._finish(active)
            elif self._burned_too_often(active):
                await self.give_up(active, f"{record.burn_attempts} burns failed: {record.note}")

    def _burned_too_often(self, active: ActiveVolume) -> bool:
        bound = self.core.config.burn.attempts_max * active.record.copies
        return active.record.burn_attempts >= bound and not active.burning

    async def _finish(self, active: ActiveVolume) -> None:
        """Enough proved copies: count them, then let the claims go."""
        record = active.record
        counted = [file for file in active.files if file not in active.void]
        copies = len(self.core.catalog.verified_discs(record.label))
        results = await self.core.link.copied(
            [CopiedFile(file, copies, True, record.pool, [record.label]) for file in counted]
        )
        refused = {result.file: result.refused for result in results if result.refused}
        await self.core.link.unclaim(list(active.files))
        record.state = VolumeState.COMPLETE
        await self.core.catalog.save(record)
        await self.core.catalog.answer("m", [file.ino for file in active.files])
        self.active.pop(record.label)
        self.plans.drop(record.label)
        await self.core.link.sync()
        self._tell(active, refused)
        log.info("volume complete", volume=record.label, copies=copies, files=len(counted))
        self.core.wake()

    def _tell(self, active: ActiveVolume, refused: dict[FileVersion, str]) -> None:
        for file, source in active.files.items():
            waiting = self._placed.pop(file, None)
            why = refused.get(file, "")
            if file in active.void:
                why = "could not be read from the cache, or its bytes changed"
                path = os.fsdecode(source.path)
                self.core.alarms.raise_("void-file", f"{path} on {active.record.label}: {why}")
            if not why:
                self.core.metrics.migrated_files.inc()
                self.core.metrics.migrated_bytes.inc(source.size)
            if waiting is not None:
                waiting.fail(why) if why else waiting.finish()

    async def give_up(self, active: ActiveVolume, why: str) -> None:
        """Leave the volume as it is; its files may go into another one later."""
        record = active.record
        record.state, record.note = VolumeState.SHORT, why
        await self.core.catalog.save(record)
        self.active.pop(record.label, None)
        self.plans.drop(record.label)
        self.core.alarms.raise_("volume-short", f"volume {record.label}: {why}")
        for file in active.files:
            waiting = self._placed.pop(file, None)
            if waiting is not None:
                waiting.fail(why)
        if self.core.link.connected:
            await self.core.link.unclaim(list(active.files))

    def tell_held(self, active: ActiveVolume, why: str) -> None:
        """The volume must wait for people: jobs end, the files stay queued."""
        for file in active.files:
            waiting = self._placed.get(file)
            if waiting is not None:
                waiting.fail(f"stays queued: {why}")
                waiting.jobs = []

    def tell_everybody(self, why: str) -> None:
        """The library as a whole fails: jobs end, all files stay queued."""
        everybody = [w for files in self._waiting.values() for w in files.values()]
        for waiting in [*everybody, *self._placed.values()]:
            waiting.fail(f"stays queued: {why}")
            waiting.jobs = []

    # -- after a restart ---------------------------------------------------------------------

    async def resume(self) -> None:
        """Take up unfinished volumes and asked files (hsmfs is connected)."""
        for record in list(self.core.catalog.volumes.values()):
            unfinished = record.state in (VolumeState.PLANNED, VolumeState.BURNED)
            if unfinished and record.label not in self.active:
                await self._resume_volume(record)
        self.plans.drop_others(set(self.active))
        await self._resume_asked()

    async def _resume_volume(self, record: VolumeRecord) -> None:
        plan = self.plans.load(record.label)
        if plan is None:
            await self._abandon(record)
            return
        now_s = self.core.clock.monotonic_s()
        active = activate(record, plan, now_s, self.plans.own(record.label))
        results = await self.core.link.claim(list(active.files))
        stale = [result for result in results if result.refused]
        active.claimed = not stale
        if stale and self.counted(record.label) < record.copies:
            await self.core.link.unclaim(list(active.files))
            await self._abandon(record)
            return
        if record.state == VolumeState.BURNED:
            # Void files have no extent: they are on no disc.
            extents = self.core.catalog.extents
            label = record.label
            active.void = {file for file in active.files if label not in dict(extents(file))}
        self.active[record.label] = active
        log.info("volume taken up again", volume=record.label, files=record.files)

    async def _abandon(self, record: VolumeRecord) -> None:
        """Its bytes cannot be written again: the files go into a new volume."""
        if self.core.catalog.discs_of(record.label):
            record.state = VolumeState.SHORT
            record.note = "cut by a restart, and files changed since"
            await self.core.catalog.save(record)
        else:
            await self.core.catalog.forget_volume(record.label)

    async def _resume_asked(self) -> None:
        asked = self.core.catalog.asked("m")
        placed = {file.ino for active in self.active.values() for file in active.files}
        job = self.core.jobs.new("migrate")
        job.note = "taken up again after a restart"
        by_pool: dict[str, list[int]] = defaultdict(list)
        for ino, pool in asked.items():
            if ino not in placed and not any(ino in files for files in self._waiting.values()):
                by_pool[pool if pool in self.core.policy.pools else self.default_pool].append(ino)
        for pool, inodes in by_pool.items():
            items = await self.core.namespace.read(partial(_founds_of, inodes))
            gone = set(inodes) - {item.ino for item in items}
            await self.core.catalog.answer("m", gone)
            job.add(len(items), sum(item.size for item in items))
            await self.ask(items, pool, job, urgent=True)
        if not job.files_total:
            job.end()

    @property
    def default_pool(self) -> str:
        """The first pool of the policy."""
        try:
            return next(iter(self.core.policy.pools))
        except StopIteration:
            raise CallerError(
                f"policy {self.core.config.policy.file}: no pool, expected at least one; "
                'add: pool "main" { copies 2 spread magazine }'
            ) from None


def _founds_of(inodes: Sequence[int], view: NamespaceView) -> list[Found]:
    return founds(view, inodes)
