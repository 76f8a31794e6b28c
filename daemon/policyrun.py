"""Policy in action: rules pick files, migrator and releaser do the rest."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Final

import structlog
import trio

from hsmfs.daemon.core import Core
from hsmfs.daemon.facts import facts_of
from hsmfs.daemon.filequeue import WAITING_FILES_MAX
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.migrator import Migrator
from hsmfs.daemon.packing import Found, found
from hsmfs.daemon.releaser import Releaser
from hsmfs.errors import FsError, HsmError
from hsmfs.namespace.view import NamespaceView
from hsmfs.types import ROOT_INODE, Residency

log = structlog.get_logger(__name__)
OFFERED_FILES: Final = 1000
"""Handed over at a time."""


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
        """Queue what the migrate rules match and is not on its way; as much as may wait, the
        next run finds the rest."""
        await self.core.link.sync()
        await self.core.namespace.read(partial(self._queue_matches, job))
        self.migrator.wake()

    def _queue_matches(self, job: Job, view: NamespaceView) -> None:
        """In a worker thread; the queue is asked in its own."""
        matches = self._matches(view)
        while batch := list(islice(matches, OFFERED_FILES)):
            if not trio.from_thread.run_sync(self.migrator.queue.offer, batch, job):
                log.info("policy leaves files for later", waiting=WAITING_FILES_MAX)
                return

    def _matches(self, view: NamespaceView) -> Iterator[tuple[str, Found]]:
        """In walk order, so that directories stay together on discs."""
        now_ns = self.core.clock.now_ns()
        if next(iter(view.files_in_state(Residency.RESIDENT)), None) is None:
            return
        seen: set[int] = set()
        for path, record in view.walk(ROOT_INODE, b""):
            if record.state != Residency.RESIDENT or not stat.S_ISREG(record.mode):
                continue
            if record.ino in seen:
                continue
            rule = self.core.policy.migrate_rule_for(facts_of(path, record, now_ns), now_ns)
            if rule is not None:
                if record.nlink > 1:
                    seen.add(record.ino)
                yield rule.pool, found(path, record)
