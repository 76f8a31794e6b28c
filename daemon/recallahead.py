"""Recall-ahead: a reader who opens a study gets the rest of it along with the first file."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
import structlog
import trio

from hsmfs.daemon.clockguard import ClockGuard
from hsmfs.daemon.core import Core
from hsmfs.daemon.facts import facts_in
from hsmfs.daemon.packing import Found, found
from hsmfs.daemon.policy.rules import RecallAheadRule
from hsmfs.daemon.recaller import Recaller
from hsmfs.errors import FsError, HsmError
from hsmfs.namespace.view import NamespaceView
from hsmfs.rpc.messages import Wanted
from hsmfs.types import Residency

log = structlog.get_logger(__name__)
WAITING_MAX: Final = 100
"""Readers whose directories are still to be looked at; those beyond recall file by file."""
ENTRIES_MAX: Final = 20_000
"""Entries of a directory that are looked at."""
AGAIN_S: Final = 60.0
"""A directory is not asked for twice within so long."""
REMEMBERED_MAX: Final = 10_000


class RecallAhead:
    """Asks for the siblings of files that readers wait for, by the policy's rules."""

    def __init__(self, core: Core, recaller: Recaller, guard: ClockGuard) -> None:
        self.core = core
        self.recaller = recaller
        self.guard = guard
        self._asked: OrderedDict[int, float] = OrderedDict()
        self._send, self._receive = trio.open_memory_channel[Wanted](WAITING_MAX)

    def on_wanted(self, event: Wanted) -> None:
        """A reader waits for a stub."""
        if not self.core.policy.recall_ahead:
            return
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            log.info("recall-ahead passes over a reader: too many at once", path=event.path)

    async def run(self) -> None:
        """Until cancelled."""
        async for event in self._receive:
            try:
                await self._ahead(event)
            except (HsmError, FsError) as error:
                log.info("recall-ahead leaves a directory", path=event.path, why=str(error))

    async def _ahead(self, event: Wanted) -> None:
        rule, parent, items = await self.core.namespace.read(
            lambda view: self._siblings(view, event.file.ino)
        )
        if rule is None or not items or self._was_asked(parent):
            return
        job = self.core.jobs.new("recall")
        job.note = f"rule {rule.name}: with {os.path.basename(event.path)}"
        job.user = f"uid {event.uid}"
        job.add(len(items), sum(item.size for item in items))
        await self.recaller.ask(items, job)

    def _was_asked(self, parent: int) -> bool:
        now_s = self.core.clock.monotonic_s()
        before_s = self._asked.pop(parent, None)
        self._asked[parent] = now_s
        while len(self._asked) > REMEMBERED_MAX:
            self._asked.popitem(last=False)
        return before_s is not None and now_s < before_s + AGAIN_S

    def _siblings(
        self, view: NamespaceView, ino: int
    ) -> tuple[RecallAheadRule | None, int, Sequence[Found]]:
        """The rule that matches the file, its directory, and the stubs beside it that the rule
        matches too, as many as it allows."""
        none: tuple[None, int, Sequence[Found]] = None, 0, ()
        links, parents = view.bulk.links(np.array([ino], dtype=np.uint64))
        record = view.inode(ino)
        paths = view.paths_of(ino)
        if record is None or not paths:
            return none
        now_ns, path = self.guard.now_ns(), paths[0]
        facts = facts_in(view, path, record, now_ns)
        rules = self.core.policy.recall_ahead
        rule = next((one for one in rules if one.matches(facts, now_ns)), None)
        if rule is None:
            return none
        parent = int(parents[0])
        items, room = [], rule.bytes_max - record.size
        for name, child in view.children(parent, ENTRIES_MAX):
            entry = view.inode(child)
            if entry is None or child == ino or entry.state != Residency.MIGRATED:
                continue
            beside = path[: len(path) - len(links[0][17:])] + name
            if not rule.matches(facts_in(view, beside, entry, now_ns), now_ns):
                continue
            room -= entry.size
            if room < 0:
                break
            items.append(found(beside, entry))
        return rule, parent, items
