"""The engine's executor on trio: workers, timers, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import trio

from hsmfs import logs
from hsmfs.errors import Kind
from hsmfs.metrics import FsMetrics

log = logs.get(__name__)

T = TypeVar("T")

DRAIN_POLL_S: Final = 0.01


class Timer:
    """A call that will be made later, unless it is cancelled."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()

    def cancel(self) -> None:
        """Do not make the call."""
        self.scope.cancel()


class TrioExecutor:
    """Runs work in threads, and everything else on trio's thread.

    ``submit`` and ``call_later`` are for the engine's thread; ``run_soon`` may
    be called from any.
    """

    def __init__(self, nursery: trio.Nursery, threads_max: int, metrics: FsMetrics) -> None:
        self.nursery = nursery
        self.workers = trio.CapacityLimiter(threads_max)
        self.working = 0
        self._metrics = metrics
        self._token = trio.lowlevel.current_trio_token()

    def submit(
        self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Run ``work`` in a worker thread, then ``done`` on this one."""
        self.working += 1
        self.nursery.start_soon(self._work, work, done, name="worker")

    def call_later(self, delay_s: float, fn: Callable[[], None]) -> Timer:
        """Run ``fn`` after a while, unless cancelled."""
        timer = Timer()
        self.nursery.start_soon(self._later, timer, delay_s, fn, name="timer")
        return timer

    def run_soon(self, fn: Callable[[], None]) -> None:
        """From any thread: run ``fn`` on the engine's thread."""
        self._token.run_sync_soon(self._guarded, fn)

    async def drain(self) -> None:
        """Wait for the work under way and what it leads to."""
        while self.working:
            await trio.sleep(DRAIN_POLL_S)

    async def _work(
        self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        value: T | None = None
        failure: BaseException | None = None
        # Work is disk access and ends by itself; what it has done must always
        # be told, so a stop does not cut it.
        with trio.CancelScope(shield=True):
            try:
                value = await trio.to_thread.run_sync(work, limiter=self.workers)
            except BaseException as error:
                failure = error
        self.working -= 1
        self._guarded(done, value, failure)

    async def _later(self, timer: Timer, delay_s: float, fn: Callable[[], None]) -> None:
        with timer.scope:
            await trio.sleep(delay_s)
        if not timer.scope.cancel_called:
            self._guarded(fn)

    def _guarded(self, fn: Callable[..., None], *args: Any) -> None:
        try:
            fn(*args)
        except Exception:
            self._metrics.errors.labels(Kind.BUG.value).inc()
            log.exception("bug: a callback of the engine failed")
