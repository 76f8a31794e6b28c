"""What hsmfs counts, and the HTTP page that Prometheus reads it from."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve as hypercorn_serve
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hsmfs.errors import Kind

if TYPE_CHECKING:
    from pathlib import Path

    import trio

    from hsmfs.rpc.messages import StatusReply

WAIT_BUCKETS_S: Final = (0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400)
"""A loaded disc answers in seconds, a magazine on the shelf in hours."""
REQUEST_QUEUE_MAX: Final = 16
"""Connections that may wait for the metrics page."""


class FsMetrics:
    """All metrics of hsmfs, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "hsmfs_requests", "File system requests answered.", ["op"], registry=self.registry
        )
        self.request_errors = Counter(
            "hsmfs_request_errors",
            "File system requests answered with an errno.",
            ["op", "errno"],
            registry=self.registry,
        )
        self.errors = Counter("hsmfs_errors", "Faults by kind.", ["kind"], registry=self.registry)
        for kind in Kind:
            self.errors.labels(kind.value)
        self.reader_wait_s = Histogram(
            "hsmfs_reader_wait_seconds",
            "How long readers of stubs waited.",
            buckets=WAIT_BUCKETS_S,
            registry=self.registry,
        )
        self.interrupted = Counter(
            "hsmfs_readers_interrupted",
            "Waiting readers that a signal ended.",
            registry=self.registry,
        )
        self.hsmd_connected = Gauge(
            "hsmfs_hsmd_connected", "1 while hsmd is connected.", registry=self.registry
        )
        self.rpc_calls = Counter(
            "hsmfs_rpc_calls", "Calls by hsmd.", ["call"], registry=self.registry
        )

        ProcessCollector(registry=self.registry)
        self._status = StatusCollector()
        self.registry.register(self._status)

    def show(self, status: StatusReply) -> None:
        """What the next pages tell of residency, tiers and readers."""
        self._status.status = status

    def page(self) -> bytes:
        """The text that a scrape gets."""
        return generate_latest(self.registry)


class StatusCollector(Collector):
    """Gauges made from the engine's status, as of the scrape."""

    def __init__(self) -> None:
        self.status: StatusReply | None = None

    def describe(self) -> Iterator[Metric]:
        """Nothing: names are known without asking the engine."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One gauge family per fact of the status."""
        status = self.status
        if status is None:
            return
        yield from _by_state(status)
        yield from _by_tier(status)
        yield _single("hsmfs_waiting_readers", "Readers waiting for stubs.", status.waiting_readers)
        yield _single("hsmfs_open_files", "Open file handles.", status.open_files)
        yield _single("hsmfs_claims", "File versions claimed for burns.", status.claims)


def _by_state(status: StatusReply) -> Iterator[Metric]:
    files = GaugeMetricFamily("hsmfs_files", "Files by residency.", labels=["state"])
    size = GaugeMetricFamily("hsmfs_file_bytes", "Bytes of files by residency.", labels=["state"])
    for row in status.states:
        files.add_metric([row.state], row.files)
        size.add_metric([row.state], row.bytes)
    yield files
    yield size


def _by_tier(status: StatusReply) -> Iterator[Metric]:
    texts = {
        "used": "Bytes of data in a cache tier.",
        "capacity": "Bytes that a cache tier may hold.",
        "free": "Bytes that are left in a cache tier.",
    }
    for field, text in texts.items():
        family = GaugeMetricFamily(f"hsmfs_tier_{field}_bytes", text, labels=["tier"])
        for tier in status.tiers:
            family.add_metric([tier.name], getattr(tier, f"{field}_bytes"))
        yield family


def _single(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def application(page: Callable[[], Awaitable[bytes]]) -> Starlette:
    """A web application with the one page ``/metrics``."""

    async def metrics(_request: Request) -> Response:
        return Response(await page(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return Starlette(routes=[Route("/metrics", metrics)])


async def serve_page(
    page: Callable[[], Awaitable[bytes]],
    socket_path: Path,
    bind: str,
    until: Callable[[], Awaitable[None]],
    task_status: trio.TaskStatus[list[str]] | None = None,
) -> None:
    """Serve ``/metrics`` on a unix socket, and on ``bind`` unless that is empty."""
    config = HypercornConfig()
    config.bind = [f"unix:{socket_path}", *([bind] if bind else [])]
    config.backlog = REQUEST_QUEUE_MAX
    config.graceful_timeout = 1.0
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    options: dict[str, Any] = {} if task_status is None else {"task_status": task_status}
    await hypercorn_serve(
        application(page),  # type: ignore[arg-type]  # starlette's ASGI types are wider
        config,
        shutdown_trigger=until,
        **options,
    )
