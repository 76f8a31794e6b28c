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
from hsmfs.daemon.catalog import Change, put_record
from hsmfs.daemon.catalogrecords import DiscState, SplitRecord, VolumeRecord, VolumeState
from hsmfs.daemon.core import Core
from hsmfs.daemon.discchoice import is_lost_to
from hsmfs.daemon.discrecovery import with_recovery
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.packing import Found, pack, parents_of, sources_of
from hsmfs.daemon.parityset import OVERHEAD_SECTORS
from hsmfs.daemon.policy.evaluate import Pool
from hsmfs.daemon.poolcare import parity_at_all
from hsmfs.daemon.splitter import Splitter, file_of, part_of
from hsmfs.daemon.waiting import Waiting
from hsmfs.errors import CallerError, HsmError, TransientError
from hsmfs.namespace.view import NamespaceView
from hsmfs.rpc.messages import CopiedFile
from hsmfs.types import SECTOR_BYTES, FileVersion, Residency
from hsmfs.volume.layout import FileSource, VolumeHeader
from hsmfs.volume.recovery import room_left
from hsmfs.volume.source import PARTS

log = structlog.get_logger(__name__)
PLANNED_MAX: Final = 4
"""Volumes planned ahead of the drives: bounds claims and memory."""
WAITING_FILES_MAX: Final = 2_000_000
IDLE_S: Final = 1.0
TROUBLE_S: Final = 5.0


class Migrator:
    """Owner of waiting files and of volumes that are not finished."""

    def __init__(self, core: Core, plans: PlanStore) -> None:
        self.core = core
        self.plans = plans
        self.active: dict[str, ActiveVolume] = {}
        self._waiting: dict[str, OrderedDict[int, Waiting]] = defaultdict(OrderedDict)
        self._placed: dict[FileVersion, Waiting] = {}
        self.splits = Splitter(core)
        self._wake = trio.Event()

    def wake(self) -> None:
        self._wake.set()

    @property
    def waiting_files(self) -> int:
        queued = sum(len(files) for files in self._waiting.values())
        return queued + len(self._placed) + len(self.splits.waiting)

    def is_under_way(self, ino: int) -> bool:
        """Whether a file waits, or is in parts that are being burned."""
        return ino in self.core.catalog.splits or any(
            ino in files for files in self._waiting.values()
        )

    def claims(self) -> list[FileVersion]:
        """Versions whose bytes a burn still needs."""
        planned = [f for active in self.active.values() if active.claimed for f in active.files]
        return [*planned, *self.splits.files()]

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
        placed = self._placed.get(item.file) or self.splits.waiting.get(item.file)
        if placed is not None:
            return placed
        if self.splits.get(item.file) is not None:
            return self._taken_up(item, self.splits.waiting)
        if any(item.file in active.files for active in self.active.values()):
            return self._taken_up(item, self._placed)
        for files in self._waiting.values():
            if item.ino in files:
                return files[item.ino]
        return None

    def _taken_up(self, item: Found, place: dict[FileVersion, Waiting]) -> Waiting:
        """Planned before a restart: from now on somebody waits for it again."""
        waiting = place[item.file] = Waiting(item, self.core.clock.monotonic_s(), False)
        return waiting

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
                for pool in dict.fromkeys([*self._waiting, *self.splits.pools()]):
                    await self._plan_pool(self.core.policy.pools[pool])
            except TransientError as error:
                log.info("migration waits", why=str(error))
            except HsmError as error:
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
        wanted = any(self._waiting.values()) or bool(self.core.catalog.splits)
        return wanted and not self._capacity_sectors()

    def _due(self, pool: Pool, capacity: int) -> bool:
        files = self._waiting[pool.name].values()
        if not files:
            return False
        oldest = self.core.clock.monotonic_s() - next(iter(files)).since_s
        waited = pool.burn_max_wait_s is not None and oldest >= pool.burn_max_wait_s
        if waited or any(waiting.urgent for waiting in files):
            return True
        return sum(waiting.item.size for waiting in files) >= capacity * SECTOR_BYTES

    async def _plan_one(self, pool: Pool, capacity: int, split: SplitRecord | None) -> bool:
        """One volume from the head of the queue, or with a part of a file; False when none
        came of it."""
        number = split.next_part if split is not None else 0
        whole, capacity = capacity, room_left(capacity, pool.recovery_percent)
        head = self._take_head(pool.name, capacity, split)
        claimed = await self._claim(head, pool.name)
        if not claimed and split is None:
            return bool(head)
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
        entries, parents = await self._entries(claimed)
        if split is not None:
            part, above = await self.splits.entries(split, number)
            entries, parents = [*part, *entries], [*above, *parents]
        own, namespace_until = await self._own_files(header, capacity)
        chosen, left = await trio.to_thread.run_sync(pack, header, capacity, own, parents, entries)
        if split is not None and not any(entry.part is not None for entry in chosen):
            await self._return_part(pool.name, split, claimed, label, capacity)
            return False
        if len(left) == len(claimed) == 1 and split is None:
            await self._split(claimed[0], header, capacity, own, [*parents, *entries])
            self.plans.drop(label)
            return True
        await self._give_back(pool.name, claimed, left)
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
        if pool.recovery_percent:
            own_root = self.plans.own(label)
            chosen = await trio.to_thread.run_sync(
                with_recovery, header, chosen, whole, pool.recovery_percent, own_root
            )
        active = await self._activate_new(record, header, whole, chosen)
        changes = [label_change, put_record(record)]
        if split is not None:
            split.labels[number - 1] = label
            changes.append(put_record(split))
        self.core.catalog.volumes[label] = record
        await self.core.catalog.transact(*changes)
        for waiting in claimed:
            if waiting.item.file in active.files:
                self._placed[waiting.item.file] = waiting
        self.active[label] = active
        log.info("volume planned", volume=label, files=record.files, bytes=record.bytes)
        return True

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

    async def _return_part(
        self, pool: str, split: SplitRecord, claimed: list[Waiting], label: str, capacity: int
    ) -> None:
        """A part that does not fit the discs at hand, or whose file is gone."""
        self.plans.drop(label)
        await self._give_back(pool, claimed, {waiting.item.ino for waiting in claimed})
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

    def _take_head(self, pool: str, capacity: int, split: SplitRecord | None) -> list[Waiting]:
        """About a disc full, in order (they leave the queue); beside a part of a file only
        where it is the last."""
        files = self._waiting[pool]
        head: list[Waiting] = []
        room = capacity * SECTOR_BYTES
        if split is not None:
            is_last = split.next_part == len(split.labels)
            room = room - part_of(split, split.next_part)[1] if is_last else 0
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

    async def _give_back(self, pool: str, claimed: list[Waiting], left: set[int]) -> None:
        """Files that did not fit wait for the next disc."""
        back = [waiting for waiting in claimed if waiting.item.ino in left]
        if not back:
            return
        await self.core.link.unclaim([waiting.item.file for waiting in back])
        self._requeue(back, pool)

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
        counted = [file for file in active.files if file not in active.void | parts]
        copies = len(self.core.catalog.verified_discs(record.label))
        results = await self.core.link.copied(
            [CopiedFile(file, copies, True, record.pool, [record.label]) for file in counted]
        )
        refused = {result.file: result.refused for result in results if result.refused}
        await self._unclaim(active)
        record.state = VolumeState.COMPLETE
        await self.core.catalog.save(record)
        await self.core.catalog.answer("m", [f.ino for f in active.files if f not in parts])
        self.active.pop(record.label)
        self.plans.drop(record.label)
        await self.core.link.sync()
        self._tell(active, refused)
        for file in parts - set(self.splits.files()):
            await self.splits.forget_places(file, [record.label])
        for file in parts & active.void:
            await self.splits.abandon(file, "a part could not be read, or its bytes changed")
        await self.splits.settle()
        log.info("volume complete", volume=record.label, copies=copies, files=len(counted))
        self.core.wake()

    async def _unclaim(self, active: ActiveVolume) -> None:
        """Its files may change, but for those of which other parts are still to be burned."""
        kept = set(self.splits.files())
        await self.core.link.unclaim([file for file in active.files if file not in kept])

    def _tell(self, active: ActiveVolume, refused: dict[FileVersion, str]) -> None:
        parts = active.parts()
        for file, source in active.files.items():
            if file in parts:
                continue
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
        for file in active.parts():
            await self.splits.abandon(file, f"volume {record.label} with a part of it: {why}")
        if self.core.link.connected:
            await self._unclaim(active)

    def tell_held(self, active: ActiveVolume, why: str) -> None:
        """The volume must wait for people: jobs end, the files stay queued."""
        for file in active.files:
            waiting = self._placed.get(file) or self.splits.waiting.get(file)
            if waiting is not None:
                waiting.fail(f"stays queued: {why}")
                waiting.jobs = []

    def tell_everybody(self, why: str) -> None:
        """The library as a whole fails: jobs end, all files stay queued."""
        everybody = [w for files in self._waiting.values() for w in files.values()]
        for waiting in [*everybody, *self._placed.values(), *self.splits.waiting.values()]:
            waiting.fail(f"stays queued: {why}")
            waiting.jobs = []

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
