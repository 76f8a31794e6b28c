"""Policy in action: rules pick files, migrator and releaser do the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import structlog
import trio

from hsmfs.daemon.core import Core
from hsmfs.daemon.facts import facts_of
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.migrator import Migrator
from hsmfs.daemon.packing import Found, found
from hsmfs.daemon.releaser import Releaser
from hsmfs.errors import FsError, HsmError
from hsmfs.namespace.view import NamespaceView
from hsmfs.types import ROOT_INODE, Residency

log = structlog.get_logger(__name__)


class PolicyRunner:
    """Evaluates the migrate rules at intervals, and all rules on request."""

    def __init__(self, core: Core, migrator: Migrator, releaser: Releaser) -> None:
        self.core = core
        self.migrator = migrator
        self.releaser = releaser

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(self.core.config.policy.interval_s)
            if not self.core.link.connected or not self.core.policy.migrate:
                continue
            job = self.core.jobs.new("policy")
            try:
                await self.migrate_once(job)
            except (HsmError, FsError) as error:
                log.warning("policy waits", why=str(error))
            if not job.files_total:
                job.end()

    async def run_once(self, job: Job) -> None:
        """Migrate and release rules, now."""
        await self.migrate_once(job)
        released = await self.releaser.run_rules()
        job.note = f"{job.files_total} files queued for migration, {released} released"
        if not job.files_total:
            job.end()

    async def migrate_once(self, job: Job) -> None:
        """Queue what the migrate rules match."""
        await self.core.link.sync()
        chosen = await self.core.namespace.read(self._select)
        by_pool: defaultdict[str, list[Found]] = defaultdict(list)
        for pool, item in chosen:
            by_pool[pool].append(item)
        job.add(len(chosen), sum(item.size for _, item in chosen))
        for pool, items in by_pool.items():
            await self.migrator.ask(items, pool, job, urgent=False)

    def _select(self, view: NamespaceView) -> list[tuple[str, Found]]:
        return list(self._matches(view))

    def _matches(self, view: NamespaceView) -> Iterator[tuple[str, Found]]:
        """In walk order, so that directories stay together on discs."""
        now_ns = self.core.clock.now_ns()
        candidates = {record.ino for record in view.files_in_state(Residency.RESIDENT)}
        if not candidates:
            return
        for path, record in view.walk(ROOT_INODE, b""):
            if record.ino not in candidates:
                continue
            rule = self.core.policy.migrate_rule_for(facts_of(path, record, now_ns), now_ns)
            if rule is not None:
                candidates.discard(record.ino)
                yield rule.pool, found(path, record)
