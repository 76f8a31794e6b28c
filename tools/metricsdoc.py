"""docs/metrics.md, made from the registries of both programs.

``python -m hsmfs.tools.metricsdoc > docs/metrics.md``. The gauges of hsmd are computed by its
parts, so an hsmd on an empty emulated library is built for the moment, and never started.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from hsmfs.changer.emulated import EmulatedLibrary
from hsmfs.clock import SystemClock
from hsmfs.configload import load
from hsmfs.daemon.commands import Commands
from hsmfs.daemon.equipment import open_equipment
from hsmfs.daemon.hsmd import Hsmd
from hsmfs.daemon.main import build
from hsmfs.daemon.metrics import Metrics
from hsmfs.daemon.policyrun import PolicyRunner
from hsmfs.daemon.report import Report
from hsmfs.metrics import FsMetrics
from hsmfs.rpc.messages import StatusReply
from hsmfs.store.lmdbstore import LmdbStore

MAP_BYTES: Final = 1 << 24
CONFIG: Final = """\
[site]
id = "metrics"
[namespace]
path = "{dir}/namespace"
map_bytes = {map}
[catalog]
path = "{dir}/catalog"
map_bytes = {map}
[[tier]]
name = "cache"
path = "{dir}/cache"
[fuse]
mount = "{dir}/mnt"
[policy]
file = "{dir}/policy.hsm"
[[library]]
name = "emulated"
kind = "emulated"
path = "{dir}/library"
[run]
path = "{dir}/run"
"""
HEAD: Final = """\
# Metrics

Made from the programs by `python -m hsmfs.tools.metricsdoc`; do not edit.

Units are seconds and bytes. A histogram has a `_bucket` (label `le`), a `_sum` and a `_count`.
Both programs have the usual `process_…` metrics besides (processor, memory, open files, start).
How to scrape them: [operation](operate.md#look); rules, alerts and a dashboard are in
`monitoring/`. What the label `kind` of `hsmd_alarms_in_force` says: [alarms](alarms.md).
"""
SUFFIX: Final = {"counter": "_total"}


class Row(NamedTuple):
    """One metric as the table has it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str

    def samples(self) -> tuple[str, ...]:
        """The names under which Prometheus keeps it."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{end}" for end in ("bucket", "sum", "count"))
        return (self.name,)


def rows() -> dict[str, list[Row]]:
    """By program, sorted by name; without those of the Python client, whose texts are its own."""
    return {"hsmfs": _rows(_hsmfs()), "hsmd": _rows(_hsmd())}


def page() -> str:
    """The document."""
    return HEAD + "".join(_chapter(program, found) for program, found in rows().items())


def _chapter(program: str, found: Iterable[Row]) -> str:
    lines = [f"\n## {program}\n", "| metric | type | labels | meaning |", "|---|---|---|---|"]
    for row in found:
        labels = ", ".join(f"`{label}`" for label in row.labels)
        lines.append(f"| `{row.name}` | {row.kind} | {labels} | {row.text} |")
    return "\n".join(lines) + "\n"


def _rows(registry: CollectorRegistry) -> list[Row]:
    """The library tells label names of its own classes nowhere but in these attributes."""
    collectors: list[Any] = [c for c in registry._collector_to_names if hasattr(c, "_labelnames")]
    known = {one._name: tuple(one._labelnames) for one in collectors}
    found = sorted(_row(family, known) for family in registry.collect())
    return [row for row in found if not row.name.startswith("process_")]


def _row(family: Metric, known: dict[str, tuple[str, ...]]) -> Row:
    """Families made at a scrape know their labels themselves."""
    labels = getattr(family, "_labelnames", None)
    if labels is None:
        labels = known.get(family.name, ())
    name = family.name + SUFFIX.get(family.type, "")
    return Row(name, family.type, tuple(labels), family.documentation)


def _hsmfs() -> CollectorRegistry:
    metrics = FsMetrics()
    metrics.show(StatusReply(states=[], tiers=[], waiting_readers=0, open_files=0, claims=0))
    return metrics.registry


def _hsmd() -> CollectorRegistry:
    """A registry whose gauges were read already: what they tell does not need hsmd any more."""
    with tempfile.TemporaryDirectory(prefix="hsmfs-metrics-") as made:
        return trio.run(_collected, Path(made))


async def _collected(place: Path) -> CollectorRegistry:
    config = load(_site(place))
    metrics = Metrics()
    store = LmdbStore(place / "catalog", map_bytes=MAP_BYTES)
    namespace = LmdbStore(place / "namespace", map_bytes=MAP_BYTES)
    equipment = open_equipment(config.library[0], metrics.registry)
    try:
        hsmd = build(config, store, namespace, metrics, equipment, SystemClock())
        gauges = await _gauges(hsmd)
    finally:
        equipment.close()
        namespace.close()
        store.close()
    metrics.add_gauges(lambda: gauges)
    return metrics.registry


async def _gauges(hsmd: Hsmd) -> list[Metric]:
    async with trio.open_nursery() as nursery:
        runner = PolicyRunner(hsmd.core, hsmd.migrator, hsmd.releaser)
        report = Report(hsmd, Commands(hsmd, runner, nursery))
        return [*report.gauges(), *hsmd.stock.gauges()]
    raise AssertionError("unreachable")


def _site(place: Path) -> Path:
    """Configuration, rules and an empty library."""
    for name in ("namespace", "catalog", "cache", "mnt", "run"):
        (place / name).mkdir()
    EmulatedLibrary.create(place / "library", drives=1, slots=2, magazine_slots=2)
    (place / "policy.hsm").write_text('pool "main" { copies 1 }\n')
    path = place / "hsmfs.toml"
    path.write_text(CONFIG.format(dir=place, map=MAP_BYTES))
    return path


if __name__ == "__main__":
    sys.stdout.write(page())
