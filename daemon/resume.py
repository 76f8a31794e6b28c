"""After a restart of hsmd: volumes that are not finished, and work asked for by hand."""

from __future__ import annotations

from array import array
from collections import defaultdict
from functools import partial

import numpy as np
import numpy.typing as npt
import structlog
import trio

from hsmfs.daemon.activevolume import ActiveVolume, activate
from hsmfs.daemon.catalogrecords import VolumeRecord, VolumeState
from hsmfs.daemon.migrator import Migrator, batches
from hsmfs.errors import CallerError

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
    is_stale = False
    for batch in batches(active.files):
        results = await migrator.core.link.claim(batch)
        is_stale = is_stale or any(result.refused for result in results)
    active.claimed = not is_stale
    if is_stale and migrator.counted(record.label) < record.copies:
        for batch in batches(active.files):
            await migrator.core.link.unclaim(batch)
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
    placed = _placed(migrator)
    job = migrator.core.jobs.new("migrate")
    job.note = "taken up again after a restart"
    by_pool: dict[str, array[int]] = defaultdict(partial(array, "Q"))
    for ino, pool in asked:
        if not _is_in(placed, ino) and not migrator.is_under_way(ino):
            known = pool in migrator.core.policy.pools
            by_pool[pool if known else migrator.default_pool].append(ino)
    for pool, inodes in by_pool.items():
        job.add(len(inodes), 0)
        migrator.queue.take_up(inodes, pool, job)
    if not job.files_total:
        job.end()
    migrator.wake()


def _placed(migrator: Migrator) -> npt.NDArray[np.uint64]:
    """Inodes that are in planned volumes, sorted."""
    found = array("Q")
    for active in migrator.active.values():
        # A part of a version that was given up: who asked wants the file as it is now.
        given_up = active.parts() - set(migrator.splits.files())
        found.extend(file.ino for file in active.files if file not in given_up)
    return np.sort(np.frombuffer(found, np.uint64)) if found else np.empty(0, np.uint64)


def _is_in(inodes: npt.NDArray[np.uint64], ino: int) -> bool:
    at = int(np.searchsorted(inodes, np.uint64(ino)))
    return at < len(inodes) and int(inodes[at]) == ino
