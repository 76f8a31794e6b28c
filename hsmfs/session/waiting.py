"""Requests that wait: for recalls, commits and workers, with a bound.

One task looks after all of them, so that a thousand waiting readers cost no
more than a bounded number of looks at ``/proc`` a second.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import Any, Final, TypeVar

import trio

from hsmfs.deferred import Deferred
from hsmfs.errors import FsError
from hsmfs.metrics import FsMetrics
from hsmfs.session.signals import ProcessWatch

T = TypeVar("T")

INTERRUPT_POLL_S: Final = 0.1
"""How often a waiting reader's process is looked at for signals."""
LOOKS_MAX: Final = 250
"""Processes looked at per poll (about 10 ms of CPU); the next poll goes on."""
WAITING_MAX: Final = 9_000
"""Requests that may wait at once; more get EAGAIN, so that the session's
workers (10,000) are never all taken by waiting readers."""


class _Waiter:
    """One waiting request."""

    __slots__ = ("deferred", "watch")

    def __init__(self, deferred: Deferred[Any], watch: ProcessWatch) -> None:
        self.deferred = deferred
        self.watch = watch


class Waiting:
    """All requests that wait now."""

    def __init__(self, metrics: FsMetrics) -> None:
        self.metrics = metrics
        self.count = 0
        self.stopping = False
        self._watched: deque[_Waiter] = deque()
        self._some = trio.Event()
        self._all: set[Deferred[Any]] = set()

    async def brief(self, value: Deferred[T]) -> T:
        """The outcome of work that ends by itself (commits, workers)."""
        if not value.done:
            await self._done(value)
        return value.result()

    async def interruptible(self, value: T | Deferred[T], pid: int) -> T:
        """The outcome, or EINTR as soon as the process wants out."""
        if not isinstance(value, Deferred):
            return value
        if not value.done:
            self._watch(value, pid)
            start_s = trio.current_time()
            try:
                await self._done(value)
            finally:
                self.metrics.reader_wait_s.observe(trio.current_time() - start_s)
            if self.stopping:
                # Not EINTR: programs would try again.
                raise FsError(errno.ENOTCONN, "hsmfs is being stopped")
        return value.result()

    async def watch(self) -> None:
        """Look at waiting processes for ever; run as a task."""
        while True:
            await self._some.wait()
            await trio.sleep(INTERRUPT_POLL_S)
            self._look()
            if not self._watched:
                self._some = trio.Event()

    def stop(self) -> None:
        """End every wait, now and from now on: the file system is stopped."""
        self.stopping = True
        for deferred in list(self._all):
            deferred.cancel()

    def _watch(self, deferred: Deferred[Any], pid: int) -> None:
        if self.stopping:
            deferred.cancel()
            return
        if self.count >= WAITING_MAX:
            deferred.cancel()
            raise FsError(errno.EAGAIN, f"{WAITING_MAX} requests wait for recalls already")
        watch = ProcessWatch(pid)
        if watch.watchable:
            self._watched.append(_Waiter(deferred, watch))
            self._some.set()

    def _look(self) -> None:
        for _ in range(min(LOOKS_MAX, len(self._watched))):
            waiter = self._watched.popleft()
            if waiter.deferred.done:
                continue
            if waiter.watch.interrupted():
                self.metrics.interrupted.inc()
                waiter.deferred.cancel()
            else:
                self._watched.append(waiter)

    async def _done(self, deferred: Deferred[Any]) -> None:
        event = trio.Event()
        deferred.then(lambda _: event.set())
        self.count += 1
        self._all.add(deferred)
        try:
            await event.wait()
        except trio.Cancelled:
            deferred.cancel()
            raise
        finally:
            self._all.discard(deferred)
            self.count -= 1
