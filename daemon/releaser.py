"""Release: by hand, and by watermarks; copies are proved anew each time."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import structlog
import trio

from hsmfs.daemon.core import Core
from hsmfs.daemon.coverage import copies_of
from hsmfs.daemon.facts import files_with_facts
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.packing import Found
from hsmfs.daemon.policy.evaluate import Facts, ReleaseRule
from hsmfs.errors import FsError, TransientError
from hsmfs.types import FileVersion, Residency

log = structlog.get_logger(__name__)
BATCH_FILES: Final = 1_000


class Releaser:
    """Frees cache space, never without proved copies."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def _proved(self, file: FileVersion) -> tuple[str, int, int]:
        """Pool, verified copies and copies that the pool wants."""
        wanted, pool, places = 1, "", []
        for label, extent in self.core.catalog.extents(file):
            record = self.core.catalog.volumes[label]
            places.append((extent, len(self.core.catalog.verified_discs(label))))
            known = self.core.policy.pools.get(record.pool)
            wanted, pool = (known.copies if known else record.copies), record.pool
        return pool, copies_of(places), wanted

    async def release(self, items: Sequence[Found], job: Job) -> None:
        """Release these files; each is answered in the job."""
        by_head: defaultdict[int, list[Found]] = defaultdict(list)
        for item in items:
            if item.state in (Residency.MIGRATED, Residency.RECALLING):
                job.done(item.size)
            elif item.state == Residency.RESIDENT:
                job.fail(f"{os.fsdecode(item.path)}: not migrated yet; run hsm migrate first")
            else:
                self._sort(item, by_head, job)
        for head_bytes, group in by_head.items():
            for start in range(0, len(group), BATCH_FILES):
                await self._release_batch(group[start : start + BATCH_FILES], head_bytes, job)
        await self.core.link.sync()

    def _sort(self, item: Found, by_head: dict[int, list[Found]], job: Job) -> None:
        pool, copies, wanted = self._proved(item.file)
        if copies < wanted:
            path = os.fsdecode(item.path)
            job.fail(f"{path}: {copies} proved copies, pool {pool!r} wants {wanted}; kept")
            return
        known = self.core.policy.pools.get(pool)
        by_head[known.head_bytes if known else 65536].append(item)

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
            try:
                await self.run_rules()
            except (TransientError, FsError) as error:
                log.warning("release waits", why=str(error))

    async def run_rules(self) -> int:
        """Apply each release rule once; files released."""
        released = 0
        for rule in self.core.policy.release:
            used = await self._used_fraction(rule.tier)
            if rule.should_start(used):
                released += await self._make_room(rule)
        return released

    async def _used_fraction(self, tier: str) -> float:
        for status in (await self.core.link.status()).tiers:
            if status.name == tier and status.capacity_bytes:
                return status.used_bytes / status.capacity_bytes
        return 0.0

    async def _make_room(self, rule: ReleaseRule) -> int:
        """Release in the rule's order until its low watermark."""
        await self.core.link.sync()
        candidates = await self._candidates()
        candidates.sort(key=lambda pair: rule.order_key(pair[1]))
        released = 0
        for start in range(0, len(candidates), BATCH_FILES // 10):
            if rule.should_stop(await self._used_fraction(rule.tier)):
                break
            batch = [item for item, _ in candidates[start : start + BATCH_FILES // 10]]
            job = self.core.jobs.new("release")
            job.note = f"rule {rule.name}"
            job.add(len(batch), sum(item.size for item in batch))
            await self.release(batch, job)
            released += job.files_done
        return released

    async def _candidates(self) -> list[tuple[Found, Facts]]:
        now_ns = self.core.clock.now_ns()
        pairs = await self.core.namespace.read(
            lambda view: list(files_with_facts(view, Residency.PREMIGRATED, now_ns))
        )
        return [pair for pair in pairs if self.core.policy.is_pinned(pair[1], now_ns) is None]
