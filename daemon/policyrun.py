"""Policy in action: rules pick files, migrator and releaser do the rest.

After a start, by hand and when a rule's hours begin all candidates are looked
at. In between each interval takes a part of the index, so that all of it is
seen once in ``SWEEP_S``, and what the namespace's journal says has changed.
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Iterator
from typing import Final

import structlog
import trio

from hsmfs.daemon.candidates import Batch, Candidates
from hsmfs.daemon.catalog import put_number
from hsmfs.daemon.clockguard import ClockGuard
from hsmfs.daemon.core import Core
from hsmfs.daemon.filequeue import WAITING_FILES_MAX
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.migrator import Migrator
from hsmfs.daemon.policy.rules import MigrateRule
from hsmfs.daemon.policyplan import Plan, Planner, minute_of_day
from hsmfs.daemon.releaser import Releaser
from hsmfs.daemon.selection import Chosen, migrate_files
from hsmfs.errors import FsError, HsmError
from hsmfs.namespace.view import NamespaceView
from hsmfs.types import Residency

log = structlog.get_logger(__name__)
SWEEP_S: Final = 3_600.0
"""Each candidate is looked at once in so long, whatever happened to it."""
SLICE_MIN: Final = 100_000
"""So many are looked at in each interval at least: systems with fewer are looked at as a whole."""
CHANGES_MAX: Final = 200_000
"""Changes taken from the journal at once; beyond, all candidates are looked at."""
BELOW_MAX: Final = 20_000
"""Files below a renamed directory that are looked at again; beyond, all candidates are."""
LATER_MAX: Final = 500_000
"""Files that a rate holds back and that are looked at again in the next interval."""
CLOCK_NOTED_S: Final = 600.0
CLOCK_KEY: Final = "clock_ns"


class Scope:
    """Which candidates a pass looks at."""

    def __init__(self) -> None:
        self.everything = True
        self.later: list[int] = []
        """Inodes to look at again."""
        self._after = b""
        self._journal = -1
        """The last number of the journal that was seen; -1: none yet."""

    def batches(self, view: NamespaceView, interval_s: float) -> Iterator[Batch]:
        """Those of this pass."""
        candidates = Candidates(view, Residency.RESIDENT)
        changed = self._changed(view)
        if self.everything:
            self.everything, self._after, self.later = False, b"", []
            yield from candidates.all()
            return
        count = view.bulk.counters().files[Residency.RESIDENT]
        limit = max(SLICE_MIN, int(count * interval_s / SWEEP_S) + 1)
        again, self.later = [*changed, *self.later], []
        self._after, part = candidates.slice(self._after, limit)
        yield from itertools.chain(part, candidates.of(again))

    def _changed(self, view: NamespaceView) -> list[int]:
        """Inodes of which the journal tells since the last pass."""
        latest = view.journal(0, 0)[1]
        if latest == self._journal:
            return []
        known, until, changes = view.journal(max(0, self._journal), CHANGES_MAX)
        if not known or len(changes) >= CHANGES_MAX:
            self.everything, until, changes = True, latest, []
        self._journal = until
        found: dict[int, None] = {}
        for op, ino in changes:
            found[ino] = None
            if op == "exchange" or (op == "rename" and not self._below(view, ino, found)):
                self.everything = True
        return list(found)

    def _below(self, view: NamespaceView, ino: int, found: dict[int, None]) -> bool:
        """Files below a directory have another path now; False where they are too many."""
        record = view.inode(ino)
        if record is None or not stat.S_ISDIR(record.mode):
            return True
        for count, (_, entry) in enumerate(view.walk(ino, b"")):
            if count >= BELOW_MAX:
                return False
            found[entry.ino] = None
        return True


class PolicyRunner:
    """Evaluates the migrate rules at intervals, and all rules on request."""

    def __init__(
        self,
        core: Core,
        migrator: Migrator,
        releaser: Releaser,
    ) -> None:
        self.core = core
        self.migrator = migrator
        self.releaser = releaser
        self.paces = releaser.paces
        self.scope = Scope()
        self._open: frozenset[str] = frozenset()
        self._noted_s = -CLOCK_NOTED_S

    @property
    def guard(self) -> ClockGuard:
        """The time that rules trust."""
        return self.releaser.guard

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(self.core.config.policy.interval_s)
            try:
                await self._note_clock()
                if self.core.link.connected and self.core.policy.migrate and not self.guard.jumped:
                    await self.migrate_part()
            except (HsmError, FsError) as error:
                log.warning("policy waits", why=str(error))

    async def _note_clock(self) -> None:
        """Remember the time, for the next start."""
        now_ns, now_s = self.guard.now_ns(), self.core.clock.monotonic_s()
        if not self.guard.jumped and now_s >= self._noted_s + CLOCK_NOTED_S:
            self._noted_s = now_s
            await self.core.catalog.transact(put_number(CLOCK_KEY, now_ns))

    async def run_once(self, job: Job) -> None:
        """Migrate and release rules, now."""
        self.paces.resume()
        await self.migrate_once(job)
        released = await self.releaser.run_rules()
        job.note = f"{job.files_total} files queued for migration, {released} released"
        if self.guard.jumped:
            job.complain("nothing was migrated: the clock jumped, see hsm status")
        if not job.files_total:
            job.end()

    async def migrate_once(self, job: Job) -> None:
        """Queue all that the migrate rules match."""
        now_ns = self.guard.now_ns()
        if self.guard.jumped:
            return
        await self.core.link.sync()
        rules = self.core.policy.migrate
        chosen = await self.core.namespace.read(
            lambda view: migrate_files(rules, Candidates(view, Residency.RESIDENT).all(), now_ns)
        )
        working = [
            (rule, self._fitting(one))
            for rule, one in zip(rules, chosen, strict=True)
            if self._works(rule, now_ns)
        ]
        job.add(sum(len(one.files) for _, one in working), sum(one.bytes for _, one in working))
        for rule, one in working:
            await self._ask(rule, one, job, bounded=False)

    def _fitting(self, chosen: Chosen) -> Chosen:
        """As many as may wait; a later pass finds the rest."""
        room = self.migrator.queue.room
        if len(chosen.files) <= room:
            return chosen
        log.info("policy leaves files for later", waiting=WAITING_FILES_MAX)
        self.scope.everything = True
        return Chosen(chosen.rule, chosen.files[:room])

    def _works(self, rule: MigrateRule, now_ns: int) -> bool:
        return rule.pace.is_open(minute_of_day(now_ns)) and self.paces.of(rule).may_work()

    async def migrate_part(self) -> None:
        """Queue what the migrate rules match of this interval's candidates."""
        await self.core.link.sync()
        rules, now_ns = self.core.policy.migrate, self.guard.now_ns()
        self._look_at_hours(rules, now_ns)
        interval_s = self.core.config.policy.interval_s
        try:
            chosen = await self.core.namespace.read(
                lambda view: migrate_files(rules, self.scope.batches(view, interval_s), now_ns)
            )
        except BaseException:
            self.scope.everything = True
            raise
        for rule, one in zip(rules, chosen, strict=True):
            if self._works(rule, now_ns):
                await self._begin(rule, one)

    def _look_at_hours(self, rules: tuple[MigrateRule, ...], now_ns: int) -> None:
        """When a rule begins to work, its files were passed over before."""
        working = frozenset(rule.name for rule in rules if self._works(rule, now_ns))
        if working - self._open:
            self.scope.everything = True
        self._open = working

    async def _begin(self, rule: MigrateRule, chosen: Chosen) -> None:
        left = [item for item in chosen.files if not self.migrator.has(item)]
        fresh = {item.ino: item for item in self._fitting(Chosen(rule, left)).files}
        if not fresh:
            return
        files = list(fresh.values())
        taken = self.paces.of(rule).take(files)
        room = max(0, LATER_MAX - len(self.scope.later))
        self.scope.later += [item.ino for item in files[len(taken) :][:room]]
        if not taken:
            return
        job = self.core.jobs.new("policy")
        job.note = f"rule {rule.name}"
        job.add(len(taken), sum(item.size for item in taken))
        await self._ask(rule, Chosen(rule, taken), job, bounded=True)

    async def _ask(self, rule: MigrateRule, chosen: Chosen, job: Job, *, bounded: bool) -> None:
        pace = self.paces.of(rule)
        pace.under_way += len(chosen.files)
        await self.migrator.ask(chosen.files, rule.pool, pace.job(job), urgent=False)

    async def plan(self) -> Plan:
        """What ``run_once`` would do now; changes nothing."""
        fills = await self.releaser.fills()
        planner, now_ns = Planner(self.core.policy, self.core.catalog), self.guard.now_ns()
        return await self.core.namespace.read(lambda view: planner.plan(view, now_ns, fills))
