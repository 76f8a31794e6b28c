"""From files that should be migrated to volumes that are burned and counted.

Files wait by pool in the order in which they were met (depth first, a
directory's entries by inode number, which is the order ``cp``, ``tar`` and
most importers read in). A volume is planned when the waiting files fill a
disc, when a person asked, or when the oldest has waited ``burn_max_wait_s``.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

import structlog
import trio

from hsmfs.daemon.activevolume import (
    COUNTED,
    ActiveVolume,
    PlanStore,
    StoredPlan,
    activate,
)
from hsmfs.daemon.catalog import Change, put_record
from hsmfs.daemon.catalogrecords import DiscState, SplitRecord, VolumeRecord, VolumeState
from hsmfs.daemon.core import Core
from hsmfs.daemon.discchoice import is_lost_to
from hsmfs.daemon.discrecovery import with_recovery
from hsmfs.daemon.draft import Draft
from hsmfs.daemon.filequeue import FileQueue
from hsmfs.daemon.filling import Filling
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.packing import Found
from hsmfs.daemon.parityset import OVERHEAD_SECTORS
from hsmfs.daemon.policy.evaluate import Pool
from hsmfs.daemon.policyload import default_pool
from hsmfs.daemon.poolcare import parity_at_all
from hsmfs.daemon.splitter import Splitter, file_of, part_of
from hsmfs.daemon.waiting import Waiting
from hsmfs.errors import HsmError, TransientError
from hsmfs.rpc.messages import CopiedFile
from hsmfs.types import SECTOR_BYTES, FileVersion
from hsmfs.volume.layout import FileSource, VolumeHeader
from hsmfs.volume.recovery import room_left
from hsmfs.volume.source import PARTS

log = structlog.get_logger(__name__)
PLANNED_MAX: Final = 4
"""Volumes planned ahead of the drives: bounds claims and memory."""
BATCH_FILES: Final = 4096
"""Claimed, looked up and counted at a time: bounds memory."""
IDLE_S: Final = 1.0
TROUBLE_S: Final = 5.0


class _New(NamedTuple):
    """What is known of a volume before it is filled."""

    pool: Pool
    split: SplitRecord | None
    number: int
    """Of the split's part."""
    header: VolumeHeader
    whole: int
    """Sectors of the disc, with those for recovery data."""
    namespace_until: int
    label_change: Change


class Migrator:
    """Owner of waiting files and of volumes that are not finished."""

    def __init__(self, core: Core, plans: PlanStore) -> None:
        self.core = core
        self.plans = plans
        self.active: dict[str, ActiveVolume] = {}
        self.splits = Splitter(core)
        self.queue = FileQueue(core, self.splits, self.active)
        self._wake = trio.Event()

    def wake(self) -> None:
        self._wake.set()

    @property
    def waiting_files(self) -> int:
        return self.queue.files + len(self.splits.waiting)

    def is_under_way(self, ino: int) -> bool:
        """Whether a file waits, or is in parts that are being burned."""
        return ino in self.core.catalog.splits or ino in self.queue

    def has(self, item: Found) -> bool:
        """Whether a file is under way, in parts or whole."""
        return self.queue.is_on_its_way(item)

    def claims(self) -> list[FileVersion]:
        """Versions whose bytes a burn still needs."""
        planned = [f for active in self.active.values() if active.claimed for f in active.files]
        return [*planned, *self.splits.files()]

    # -- what to migrate ----------------------------------------------------------

    async def ask(
        self, items: Sequence[Found], pool: str, job: Job, *, urgent: bool, again: bool = False
    ) -> None:
        """Queue files (see ``FileQueue``)."""
        await self.queue.ask(items, pool, job, urgent=urgent, again=again)
        self.wake()

    async def remember(self, inodes: array[int], pool: str, job: Job) -> None:
        """Queue any number of files that somebody asked for."""
        await self.queue.remember(inodes, pool, job)
        self.wake()

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
                await self.queue.feed()
                for pool in dict.fromkeys([*self.queue.pools, *self.splits.pools()]):
                    await self._plan_pool(self.core.policy.pools[pool])
                self.core.alarms.clear("migration")
            except TransientError as error:
                log.info("migration waits", why=str(error))
            except (HsmError, OSError) as error:
                self.core.alarms.raise_("migration", str(error))
                await trio.sleep(TROUBLE_S)

    async def _plan_pool(self, pool: Pool) -> None:
        while len(self.active) < PLANNED_MAX:
            split = self.splits.next_of(pool.name)
            capacity = self._capacity_sectors()
            if not capacity or (split is None and not self._due(pool, capacity)):
                return
            if not await self._plan_one(pool, capacity, split):
                return
            self.core.wake()
            await self.queue.feed()

    def _capacity_sectors(self) -> int:
        """Of the blank discs at hand; 0 until one was looked at."""
        less = OVERHEAD_SECTORS if parity_at_all(self.core) else 0
        known = [
            disc.room_sectors
            for disc in self.core.catalog.discs.values()
            if disc.capacity_sectors and disc.state == DiscState.BLANK
        ]
        found = min(known, default=0) or max(
            (disc.room_sectors for disc in self.core.catalog.discs.values()), default=0
        )
        return max(0, found - less)

    @property
    def wants_probe(self) -> bool:
        """No disc's capacity is known, and files wait for it."""
        wanted = bool(self.queue.queued) or bool(self.core.catalog.splits)
        return wanted and not self._capacity_sectors()

    def _due(self, pool: Pool, capacity: int) -> bool:
        files = self.queue.of(pool.name)
        if not len(files) or self.splits.holds(pool.name):
            return False
        oldest = self.core.clock.monotonic_s() - files.oldest_s()
        waited = pool.burn_max_wait_s is not None and oldest >= pool.burn_max_wait_s
        is_full = files.bytes >= capacity * SECTOR_BYTES or self.queue.is_full_by(pool.name)
        return waited or is_full or files.urgent > 0

    async def _plan_one(self, pool: Pool, capacity: int, split: SplitRecord | None) -> bool:
        """One volume from the head of the queue, or with a part of a file; False when none
        came of it."""
        number = split.next_part if split is not None else 0
        whole, capacity = capacity, room_left(capacity, pool.recovery_percent)
        label, label_change = self._new_label(split)
        header = VolumeHeader(
            label=label,
            site=self.core.config.site.id,
            pool=pool.name,
            created_ns=self.core.clock.now_ns(),
            copies=pool.copies,
            udf=self.core.config.burn.udf,
            features=[PARTS] if split is not None else [],
        )
        # Files that come meanwhile are not known to the set of namespace changes.
        files_max = len(self.queue.of(pool.name))
        own, namespace_until = await self._own_files(header, capacity)
        new = _New(pool, split, number, header, whole, namespace_until, label_change)
        path = self.plans.draft(label)
        draft = await trio.to_thread.run_sync(Draft, path, header, capacity, own)
        filling = Filling(self.core, self.queue, draft, pool.name)
        if split is not None and not await self._fits_part(draft, split, number):
            await self._return_part(split, label, capacity)
            return False
        try:
            await filling.fill(self._room_of(split, capacity), files_max)
            if split is None and not draft.files:
                return await self._nothing_fits(filling, header, capacity, own)
            await filling.give_back()
            await self._plan_draft(new, draft)
        except (HsmError, OSError):
            self.core.catalog.volumes.pop(label, None)
            await filling.undo()
            self.plans.drop(label)
            raise
        return True

    def _room_of(self, split: SplitRecord | None, capacity: int) -> int:
        """Bytes for whole files: about a disc full; beside a part of a file only where it
        is the last."""
        room = capacity * SECTOR_BYTES
        if split is None:
            return room
        is_last = split.next_part == len(split.labels)
        return room - part_of(split, split.next_part)[1] if is_last else 0

    async def _fits_part(self, draft: Draft, split: SplitRecord, number: int) -> bool:
        part, above = await self.splits.entries(split, number)
        await trio.to_thread.run_sync(draft.add, above, part)
        return draft.has_part

    async def _nothing_fits(
        self, filling: Filling, header: VolumeHeader, capacity: int, own: Sequence[FileSource]
    ) -> bool:
        """Files were refused, or the only one fits no disc; whether others may be tried."""
        only = filling.only
        if only is None:
            has_left = bool(filling.left)
            await filling.give_back()
            self.plans.drop(header.label)
            return filling.taken > 0 and not has_left
        self.queue.drop(only)
        await self._split(only, header, capacity, own, filling.names)
        self.plans.drop(header.label)
        return True

    async def _plan_draft(self, new: _New, draft: Draft) -> None:
        """What was filled becomes a plan."""
        header, whole, label, pool = new.header, new.whole, new.header.label, new.pool
        record = VolumeRecord(
            label=label,
            pool=pool.name,
            copies=pool.copies,
            created_ns=header.created_ns,
            namespace_until=new.namespace_until,
        )
        chosen: Sequence[FileSource] = await trio.to_thread.run_sync(draft.entries)
        if pool.recovery_percent:
            own_root = self.plans.own(label)
            chosen = await trio.to_thread.run_sync(
                with_recovery, header, chosen, whole, pool.recovery_percent, own_root
            )
        active = await self._activate_new(record, header, whole, chosen)
        draft.drop()
        changes = [new.label_change, put_record(record)]
        if new.split is not None:
            new.split.labels[new.number - 1] = label
            changes.append(put_record(new.split))
        self.core.catalog.volumes[label] = record
        await self.core.catalog.transact(*changes)
        self.active[label] = active
        log.info("volume planned", volume=label, files=record.files, bytes=record.bytes)

    def _new_label(self, split: SplitRecord | None) -> tuple[str, Change]:
        """The next one, or the one that the other parts of a file name."""
        wanted = self.splits.label_of(split) if split is not None else ""
        if wanted:
            return wanted, lambda writer: None
        return self.core.catalog.new_volume_label(self.core.config.site.id)

    async def _split(
        self,
        waiting: Waiting,
        header: VolumeHeader,
        capacity: int,
        own: Sequence[FileSource],
        names: Sequence[FileSource],
    ) -> None:
        """A file that no empty disc takes: in parts, or told why not."""
        why = await self.splits.begin(waiting, header, capacity, own, names)
        if why:
            await self.core.link.unclaim([waiting.item.file])
            waiting.fail(why)
            await self.core.catalog.answer("m", [waiting.item.ino])

    async def _return_part(self, split: SplitRecord, label: str, capacity: int) -> None:
        """A part that does not fit the discs at hand, or whose file is gone."""
        self.plans.drop(label)
        why = (
            f"{os.fsdecode(split.names[0])}: a part of {split.part_bytes} bytes does not fit on a "
            f"disc of {capacity * SECTOR_BYTES} bytes, or the file is gone; it was planned for "
            "larger discs"
        )
        await self.splits.abandon(file_of(split), why)

    async def _activate_new(
        self,
        record: VolumeRecord,
        header: VolumeHeader,
        capacity: int,
        chosen: Sequence[FileSource],
    ) -> ActiveVolume:
        """Plan file and layout; the entries are then read from the file, not kept."""
        label = record.label
        plan = StoredPlan(header=header, capacity_sectors=capacity, entries=chosen)
        await self.plans.save(label, plan)
        stored = await trio.to_thread.run_sync(self.plans.load, label)
        assert stored is not None
        now_s, own = self.core.clock.monotonic_s(), self.plans.own(label)
        active = await trio.to_thread.run_sync(activate, record, stored, now_s, own)
        record.files, record.bytes = len(active.files), active.files.bytes
        record.total_sectors = active.layout.total_sectors
        return active

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

    # -- after a burn --------------------------------------------------------------------

    def counted(self, label: str) -> int:
        """Discs that need no further burn."""
        discs = self.core.catalog.discs_of(label)
        return sum(d.state in COUNTED and not is_lost_to(self.core, d) for d in discs)

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
        parts = active.parts()
        skipped = active.void | parts
        copies = len(self.core.catalog.verified_discs(record.label))
        refused: dict[FileVersion, str] = {}
        for batch in batches(file for file in active.files if file not in skipped):
            results = await self.core.link.copied(
                [CopiedFile(file, copies, True, record.pool, [record.label]) for file in batch]
            )
            refused |= {result.file: result.refused for result in results if result.refused}
        await self._unclaim(active)
        record.state = VolumeState.COMPLETE
        await self.core.catalog.save(record)
        for batch in batches(file for file in active.files if file not in parts):
            await self.core.catalog.answer("m", [file.ino for file in batch])
        self.active.pop(record.label)
        self.plans.drop(record.label)
        await self.core.link.sync()
        await self._tell(active, refused)
        for file in parts - set(self.splits.files()):
            await self.splits.forget_places(file, [record.label])
        for file in parts & active.void:
            await self.splits.abandon(file, "a part could not be read, or its bytes changed")
        await self.splits.settle()
        log.info("volume complete", volume=record.label, copies=copies, files=record.files)
        self.core.wake()

    async def _unclaim(self, active: ActiveVolume) -> None:
        """Its files may change, but for those of which other parts are still to be burned."""
        kept = set(self.splits.files())
        for batch in batches(file for file in active.files if file not in kept):
            await self.core.link.unclaim(batch)

    async def _tell(self, active: ActiveVolume, refused: dict[FileVersion, str]) -> None:
        parts = active.parts()
        for number, (file, source) in enumerate(active.files.items()):
            if number % BATCH_FILES == 0:
                await trio.lowlevel.checkpoint()
            if file in parts:
                continue
            jobs = self.queue.planned.pop(file)
            why = refused.get(file, "")
            if file in active.void:
                why = "could not be read from the cache, or its bytes changed"
                path = os.fsdecode(source.path)
                self.core.alarms.raise_("void-file", f"{path} on {active.record.label}: {why}")
            if not why:
                self.core.metrics.migrated_files.inc()
                self.core.metrics.migrated_bytes.inc(source.size)
            for job in jobs:
                job.fail(f"{os.fsdecode(source.path)}: {why}") if why else job.done(source.size)

    async def give_up(self, active: ActiveVolume, why: str) -> None:
        """Leave the volume as it is; its files may go into another one later."""
        record = active.record
        record.state, record.note = VolumeState.SHORT, why
        await self.core.catalog.save(record)
        self.active.pop(record.label, None)
        self.plans.drop(record.label)
        self.core.alarms.raise_("volume-short", f"volume {record.label}: {why}")
        self.queue.planned.let_go(_paths_of(active), why)
        for file in active.parts():
            await self.splits.abandon(file, f"volume {record.label} with a part of it: {why}")
        if self.core.link.connected:
            await self._unclaim(active)

    def tell_held(self, active: ActiveVolume, why: str) -> None:
        """The volume must wait for people: jobs end, the files stay queued."""
        why = f"stays queued: {why}"
        self.queue.planned.let_go(_paths_of(active), why)
        for file in active.parts():
            self._let_part_go(file, why)

    def _let_part_go(self, file: FileVersion, why: str) -> None:
        waiting = self.splits.waiting.get(file)
        if waiting is not None:
            waiting.fail(why)
            waiting.jobs = []

    def tell_everybody(self, why: str) -> None:
        """The library as a whole fails: jobs end, all files stay queued."""
        for active in self.active.values():
            self.tell_held(active, why)
        self.queue.let_go(f"stays queued: {why}")
        for file in self.splits.waiting:
            self._let_part_go(file, f"stays queued: {why}")

    @property
    def default_pool(self) -> str:
        """The first pool of the policy."""
        return default_pool(self.core.policy, self.core.config)


def _paths_of(active: ActiveVolume) -> Iterator[tuple[FileVersion, bytes]]:
    return ((file, source.path) for file, source in active.files.items())


def batches(files: Iterable[FileVersion]) -> Iterator[list[FileVersion]]:
    """A volume's files, some at a time."""
    rest = iter(files)
    while batch := list(islice(rest, BATCH_FILES)):
        yield batch
