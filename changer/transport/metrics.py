"""Prometheus counters of commands, by device, operation code and outcome."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from hsmfs.changer import cdb as codes
from hsmfs.changer import sense as senses
from hsmfs.changer.transport.interface import CHECK_CONDITION
from hsmfs.changer.transport.trace import Entry, Watcher

BUCKETS_S: Final = (0.001, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 120, 600, 1800)
OTHER: Final = "other"
_KEYS: Final = (
    "no sense", "recovered", "not ready", "medium error", "hardware error", "illegal request",
    "unit attention", "data protect", "blank check", "vendor", "copy aborted", "aborted",
    "0Ch", "volume overflow", "miscompare", "completed",
)  # fmt: skip


class CommandMetrics:
    """Counters in one registry; names and outcomes are few by construction."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._commands = Counter(
            "hsmd_scsi_commands",
            "SCSI commands by device, operation and outcome.",
            ["device", "command", "outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "hsmd_scsi_command_seconds",
            "How long SCSI commands take.",
            ["command"],
            buckets=BUCKETS_S,
            registry=registry,
        )

    def watcher(self, device: str) -> Watcher:
        """Counts what a traced transport does."""

        def count(entry: Entry) -> None:
            command = codes.NAMES.get(entry.cdb[0], OTHER) if entry.cdb else OTHER
            self._commands.labels(device, command, _outcome(entry)).inc()
            self._seconds.labels(command).observe(entry.seconds)

        return count


def _outcome(entry: Entry) -> str:
    """Good, lost, the sense key in words, or another status."""
    if entry.status < 0:
        return "lost"
    if entry.status == CHECK_CONDITION:
        return _KEYS[senses.decode(entry.sense).key]
    return "good" if entry.status == 0 else "busy"
