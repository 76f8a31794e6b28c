"""The usual decorators over one device's transport, in their order."""

from __future__ import annotations

from hsmfs.changer.transport.interface import Transport
from hsmfs.changer.transport.metrics import CommandMetrics
from hsmfs.changer.transport.retry import Retried
from hsmfs.changer.transport.timeouts import Watched
from hsmfs.changer.transport.trace import Traced
from hsmfs.clock import Clock


class Stack:
    """Retry over trace and metrics over a watch over the device: each try is seen."""

    def __init__(
        self,
        name: str,
        device: Transport,
        clock: Clock,
        metrics: CommandMetrics | None = None,
        *,
        watched: bool = True,
    ) -> None:
        inner = Watched(device, name) if watched else device
        self.name = name
        self.trace = Traced(inner, clock)
        self.top: Transport = Retried(self.trace, clock.sleep)
        if metrics is not None:
            self.trace.watch(metrics.watcher(name))

    def renamed(self, name: str, metrics: CommandMetrics) -> Stack:
        """This one, under the name that was found out; counted from now on."""
        self.name = name
        self.trace.watch(metrics.watcher(name))
        return self
