"""Gauges of hsmd that tell how it stands, computed from memory when they are scraped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from hsmfs.daemon.catalogrecords import DiscState, VolumeState
from hsmfs.daemon.metrics import gauge, plain
from hsmfs.daemon.poolcare import overdue_discs

if TYPE_CHECKING:
    from hsmfs.daemon.hsmd import Hsmd

NS: Final = 1e9


def gauges(hsmd: Hsmd) -> Iterator[Metric]:
    """All of them: some milliseconds with thousands of discs."""
    yield from _library(hsmd)
    yield from _waiting(hsmd)
    yield from _copies(hsmd)
    kinds = Counter(kind for kind, _ in hsmd.core.alarms.active)
    yield gauge("hsmd_alarms_in_force", "Alarms in force by kind.", "kind", _floats(kinds))
    reads = hsmd.reclaim.shares.followed_s
    age_s = hsmd.core.clock.monotonic_s() - reads
    yield plain(
        "hsmd_journal_followed_age_seconds",
        "Time since the namespace's journal was followed.",
        age_s,
    )


def _library(hsmd: Hsmd) -> Iterator[Metric]:
    librarian = hsmd.core.librarian
    name = librarian.config.name
    up = float(not librarian.failures_in_row and not librarian.problem)
    yield gauge(
        "hsmd_library_up", "1 while the library does what it is told.", "library", [(name, up)]
    )
    drives = [(unit.name, float(unit.alive)) for unit in librarian.units]
    yield gauge("hsmd_drive_up", "1 while a drive is in service.", "drive", drives)
    loads = CounterMetricFamily("hsmd_disc_loads", "Discs loaded.", labels=["drive"])
    for unit in librarian.units:
        loads.add_metric([unit.name], unit.loads)
    yield loads
    moves = librarian.robot.moves
    yield CounterMetricFamily("hsmd_robot_moves", "Discs moved by the robot.", value=moves)
    busy = [(unit.name, float(unit.busy)) for unit in librarian.units]
    yield gauge("hsmd_drive_busy", "1 while a drive has a job.", "drive", busy)


def _waiting(hsmd: Hsmd) -> Iterator[GaugeMetricFamily]:
    now_s, now_ns = hsmd.core.clock.monotonic_s(), hsmd.core.clock.now_ns()
    requests = hsmd.recaller.requests.values()
    in_library = [one.since_s for one in requests if one.waiters and one.offline_since_s is None]
    oldest_s = now_s - min(in_library, default=now_s)
    yield plain(
        "hsmd_recall_oldest_wait_seconds",
        "Longest wait of a reader whose disc is in the library.",
        oldest_s,
    )
    away = sum(1 for one in requests if one.waiters and one.offline_since_s is not None)
    yield plain("hsmd_recalls_for_a_person", "Files whose readers wait for a magazine.", away)
    ages: dict[str, float] = {}
    for task in hsmd.magazines.open_tasks():
        age_s = (now_ns - task.since_ns) / NS
        ages[task.kind] = max(age_s, ages.get(task.kind, 0.0))
    yield gauge(
        "hsmd_operator_task_age_seconds", "Age of the oldest open task.", "kind", ages.items()
    )


def _copies(hsmd: Hsmd) -> Iterator[GaugeMetricFamily]:
    catalog = hsmd.core.catalog
    proved = Counter(
        disc.volume
        for disc in catalog.discs.values()
        if disc.state == DiscState.VERIFIED and not catalog.is_missing(disc)
    )
    lacking = sum(
        max(0, record.copies - proved[record.label])
        for record in catalog.volumes.values()
        if record.state == VolumeState.COMPLETE
    )
    yield plain("hsmd_copies_missing", "Proved copies that volumes lack.", lacking)
    states = Counter(record.state.value for record in catalog.volumes.values())
    yield gauge("hsmd_volumes", "Volumes by state.", "state", _floats(states))
    size = sum(record.bytes for record in catalog.volumes.values())
    yield plain("hsmd_volume_bytes", "Bytes of files on volumes, each counted once.", size)
    dead = sum(record.dead_bytes for record in catalog.volumes.values())
    yield plain(
        "hsmd_volume_dead_bytes", "Bytes on volumes of files deleted or replaced since.", dead
    )
    late = len(overdue_discs(hsmd.core))
    yield plain(
        "hsmd_scrub_overdue_discs", "Discs not read again in one and a half of their time.", late
    )


def _floats(counts: Counter[str]) -> Iterator[tuple[str, float]]:
    return ((key, float(count)) for key, count in counts.items())
