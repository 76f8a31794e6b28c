"""After a restart of hsmd: volumes that are not finished, and work asked for by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import structlog
import trio

from hsmfs.daemon.activevolume import ActiveVolume, activate
from hsmfs.daemon.catalogrecords import VolumeRecord, VolumeState
from hsmfs.daemon.migrator import Migrator
from hsmfs.daemon.packing import Found, founds
from hsmfs.errors import CallerError
from hsmfs.namespace.view import NamespaceView

log = structlog.get_logger(__name__)


async def resume(migrator: Migrator) -> None:
    """Take up unfinished volumes and asked files (hsmfs is connected)."""
    for record in list(migrator.core.catalog.volumes.values()):
        unfinished = record.state in (VolumeState.PLANNED, VolumeState.BURNED)
        if unfinished and record.label not in migrator.active:
            await _resume_volume(migrator, record)
    await migrator.splits.resume()
    migrator.plans.drop_others(set(migrator.active))
    await _resume_asked(migrator)


async def _resume_volume(migrator: Migrator, record: VolumeRecord) -> None:
    active = await _activated(migrator, record)
    if active is None:
        await _abandon(migrator, record)
        return
    results = await migrator.core.link.claim(list(active.files))
    stale = [result for result in results if result.refused]
    active.claimed = not stale
    if stale and migrator.counted(record.label) < record.copies:
        await migrator.core.link.unclaim(list(active.files))
        await _abandon(migrator, record)
        return
    if record.state == VolumeState.BURNED:
        # Void files have no extent: they are on no disc.
        extents = migrator.core.catalog.extents
        label = record.label
        active.void = {file for file in active.files if label not in dict(extents(file))}
    migrator.active[record.label] = active
    log.info("volume taken up again", volume=record.label, files=record.files)


async def _activated(migrator: Migrator, record: VolumeRecord) -> ActiveVolume | None:
    """From its plan file; None where that is missing or damaged."""
    own, now_s = migrator.plans.own(record.label), migrator.core.clock.monotonic_s()
    try:
        plan = await trio.to_thread.run_sync(migrator.plans.load, record.label)
        if plan is None:
            return None
        return await trio.to_thread.run_sync(activate, record, plan, now_s, own)
    except CallerError as error:
        why = f"volume {record.label}: its plan cannot be used: {error}"
        migrator.core.alarms.raise_("plan", f"{why}; its files go into a new volume")
        return None


async def _abandon(migrator: Migrator, record: VolumeRecord) -> None:
    """Its bytes cannot be written again: the files go into a new volume."""
    if migrator.core.catalog.discs_of(record.label):
        record.state = VolumeState.SHORT
        record.note = "cut by a restart, and files changed since"
        await migrator.core.catalog.save(record)
    else:
        await migrator.core.catalog.forget_volume(record.label)


async def _resume_asked(migrator: Migrator) -> None:
    asked = migrator.core.catalog.asked("m")
    placed = {
        file.ino
        for active in migrator.active.values()
        # A part of a version that was given up: who asked wants the file as it is now.
        for file in active.files.keys() - (active.parts() - set(migrator.splits.files()))
    }
    job = migrator.core.jobs.new("migrate")
    job.note = "taken up again after a restart"
    by_pool: dict[str, list[int]] = defaultdict(list)
    for ino, pool in asked.items():
        if ino not in placed and not migrator.is_under_way(ino):
            known = pool in migrator.core.policy.pools
            by_pool[pool if known else migrator.default_pool].append(ino)
    for pool, inodes in by_pool.items():
        items = await migrator.core.namespace.read(partial(_founds_of, inodes))
        gone = set(inodes) - {item.ino for item in items}
        await migrator.core.catalog.answer("m", gone)
        job.add(len(items), sum(item.size for item in items))
        await migrator.ask(items, pool, job, urgent=True)
    if not job.files_total:
        job.end()


def _founds_of(inodes: Sequence[int], view: NamespaceView) -> list[Found]:
    return founds(view, inodes)
