"""Prometheus metrics of hsmd: counters here, gauges read when scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hsmfs.errors import Kind

RECALL_BUCKETS_S = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 900, 3600, 14400)
BURN_BUCKETS_S = (1, 10, 60, 300, 900, 1800, 3600, 7200, 14400, 28800)

Gauges = Callable[[], Iterable[Metric]]


class _Live(Collector):
    """Gauges computed at the moment of the scrape."""

    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        return self._gauges()


class Metrics:
    """All counters and histograms of hsmd, in one registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        ProcessCollector(registry=r)
        self.recall_seconds = Histogram(
            "hsmd_recall_seconds",
            "From the first request of a file to its last byte.",
            buckets=RECALL_BUCKETS_S,
            registry=r,
        )
        self.burn_seconds = Histogram(
            "hsmd_burn_seconds", "One burn of a volume.", buckets=BURN_BUCKETS_S, registry=r
        )
        self.verify_seconds = Histogram(
            "hsmd_verify_seconds", "One verify of a disc.", buckets=BURN_BUCKETS_S, registry=r
        )
        self.errors = Counter("hsmd_errors", "Errors by kind.", ["kind"], registry=r)
        for kind in Kind:
            self.errors.labels(kind.value)
        self.recalled_files = Counter("hsmd_recalled_files", "Files recalled.", registry=r)
        self.recalled_bytes = Counter("hsmd_recalled_bytes", "Bytes recalled.", registry=r)
        self.migrated_files = Counter("hsmd_migrated_files", "Files premigrated.", registry=r)
        self.migrated_bytes = Counter("hsmd_migrated_bytes", "Bytes premigrated.", registry=r)
        self.released_files = Counter("hsmd_released_files", "Files released.", registry=r)
        self.burned_bytes = Counter("hsmd_burned_bytes", "Bytes written to discs.", registry=r)

    def add_gauges(self, gauges: Gauges) -> None:
        """Register what is read at scrape time."""
        self.registry.register(_Live(gauges))


def gauge(
    name: str, text: str, label: str, values: Iterable[tuple[str, float]]
) -> GaugeMetricFamily:
    """A gauge with one label."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values:
        family.add_metric([key], value)
    return family


def plain(name: str, text: str, value: float) -> GaugeMetricFamily:
    """A gauge without labels."""
    return GaugeMetricFamily(name, text, value=value)
