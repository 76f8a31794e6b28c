"""Release: by hand, and by watermarks; copies are proved anew each time."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Final

import structlog
import trio

from hsmfs.daemon.clockguard import ClockGuard
from hsmfs.daemon.core import Core
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.packing import Found
from hsmfs.daemon.policy.rules import ReleaseRule
from hsmfs.daemon.policyplan import (
    EMERGENCY,
    Fill,
    Planner,
    Proofs,
    RulePlan,
    head_bytes_of,
    why_waits,
)
from hsmfs.daemon.rulepace import Paces
from hsmfs.errors import FsError, TransientError
from hsmfs.namespace.view import NamespaceView
from hsmfs.types import Residency

log = structlog.get_logger(__name__)
BATCH_FILES: Final = 1_000
PAUSE_S: Final = 5.0
PAUSE_MAX_S: Final = 60.0
ROUNDS_MAX: Final = 20
"""Plans of one rule in a row: files that are in use make a further one necessary."""


class Releaser:
    """Frees cache space, never without proved copies."""

    def __init__(self, core: Core, guard: ClockGuard | None = None) -> None:
        self.core = core
        self.guard = guard or ClockGuard(core.clock, core.alarms)
        self.paces = Paces(core.clock, core.alarms)
        self._pause_s = self._rests_until_s = 0.0
        self._begun: set[str] = set()
        """Rules on their way to the low watermark."""

    async def release(self, items: Sequence[Found], job: Job) -> None:
        """Release these files; each is answered in the job."""
        by_head: defaultdict[int, list[Found]] = defaultdict(list)
        proofs = Proofs(self.core.policy, self.core.catalog)
        for item in items:
            if item.state in (Residency.MIGRATED, Residency.RECALLING):
                job.done(item.size)
            elif item.state == Residency.RESIDENT:
                job.fail(f"{os.fsdecode(item.path)}: not migrated yet; run hsm migrate first")
            else:
                self._sort(item, by_head, job, proofs)
        for head_bytes, group in by_head.items():
            for start in range(0, len(group), BATCH_FILES):
                await self._release_batch(group[start : start + BATCH_FILES], head_bytes, job)
        await self.core.link.sync()

    def _sort(self, item: Found, by_head: dict[int, list[Found]], job: Job, proofs: Proofs) -> None:
        pool, copies, wanted = proofs.of(item.file)
        if copies < wanted:
            path = os.fsdecode(item.path)
            job.fail(f"{path}: {copies} proved copies, pool {pool!r} wants {wanted}; kept")
            return
        by_head[head_bytes_of(self.core.policy, pool)].append(item)

    async def _release_batch(self, batch: Sequence[Found], head_bytes: int, job: Job) -> None:
        by_file = {item.file: item for item in batch}
        for result in await self.core.link.release(list(by_file), head_bytes):
            item = by_file[result.file]
            if result.refused:
                job.fail(f"{os.fsdecode(item.path)}: {result.refused}")
            else:
                self.core.metrics.released_files.inc()
                job.done(item.size)

    # -- watermarks --------------------------------------------------------------

    async def run(self) -> None:
        """Watch tiers until cancelled."""
        while True:
            await trio.sleep(min(5.0, self.core.config.policy.interval_s))
            if not self.core.policy.release or not self.core.link.connected:
                continue
            if self.core.clock.monotonic_s() < self._rests_until_s:
                continue
            try:
                await self.run_rules()
            except (TransientError, FsError) as error:
                log.warning("release waits", why=str(error))

    async def run_rules(self) -> int:
        """Apply each release rule once; files released."""
        released = 0
        for rule in self.core.policy.release:
            fill = (await self.fills()).get(rule.tier, Fill(0, 0))
            if self._is_wanted(rule, fill) and self.paces.of(rule).may_work():
                done = await self._make_room(rule, fill)
                self._rest(done)
                released += done
        return released

    def _is_wanted(self, rule: ReleaseRule, fill: Fill) -> bool:
        """From the high watermark to the low one, however long a rate makes it last."""
        if rule.should_start(fill.fraction):
            return True
        if rule.should_stop(fill.fraction):
            self._begun.discard(rule.name)
        is_open = fill.fraction >= EMERGENCY or not why_waits(rule.pace, self.guard.now_ns())
        return rule.name in self._begun and is_open

    def _rest(self, released: int) -> None:
        """Where nothing could go, looking again at once costs much and brings nothing."""
        self._pause_s = 0.0 if released else min(PAUSE_MAX_S, 2 * self._pause_s or PAUSE_S)
        self._rests_until_s = self.core.clock.monotonic_s() + self._pause_s

    async def fills(self) -> dict[str, Fill]:
        """How full the tiers are, as hsmfs counts."""
        tiers = (await self.core.link.status()).tiers
        return {tier.name: Fill(tier.used_bytes, tier.capacity_bytes) for tier in tiers}

    async def _make_room(self, rule: ReleaseRule, fill: Fill) -> int:
        """Release in the rule's order until its low watermark."""
        await self.core.link.sync()
        released, now_ns = 0, self.guard.now_ns()
        for _ in range(ROUNDS_MAX):
            planner = Planner(self.core.policy, self.core.catalog)
            # What one round leaves (files that were open) another does not bring: no harm.
            plan = await self.core.namespace.read(
                partial(_plan_of, planner, rule, now_ns, fill, begun=rule.name in self._begun)
            )
            if plan.waits or not plan.files:
                self._begun.discard(rule.name)
                break
            self._begun.add(rule.name)
            done = await self._release_part(rule, plan.files)
            released += done
            fill = (await self.fills()).get(rule.tier, Fill(0, 0))
            if not done or rule.should_stop(fill.fraction):
                break
        return released

    async def _release_part(self, rule: ReleaseRule, files: list[Found]) -> int:
        pace = self.paces.of(rule)
        now = pace.take(files)
        if not now:
            return 0
        job = self.core.jobs.new("release")
        job.note = f"rule {rule.name}"
        job.add(len(now), sum(item.size for item in now))
        counted = pace.job(job)
        for start in range(0, len(now), BATCH_FILES):
            if not pace.may_work():
                break
            await self.release(now[start : start + BATCH_FILES], counted)
        job.end()
        return job.files_done


def _plan_of(
    planner: Planner,
    rule: ReleaseRule,
    now_ns: int,
    fill: Fill,
    view: NamespaceView,
    *,
    begun: bool,
) -> RulePlan:
    if not begun:
        return planner.release(view, rule, now_ns, fill)
    made = RulePlan("release", rule.name, rule.line, rule.tier)
    return planner.make_room(view, rule, now_ns, fill, made)
