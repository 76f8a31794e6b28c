"""The engine's thread: requests, timers, and what workers have done.

One plain loop on poll(2), so that a fast request costs no scheduler. RPC,
metrics and signals live on trio's thread, and come in by ``run_soon``.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from hsmfs import logs

log = logs.get(__name__)

T = TypeVar("T")
BURST_CALLS_MAX: Final = 64
"""Callbacks run in one turn before requests are looked at again."""


class Timer:
    """A call that will be made later, unless it is cancelled."""

    __slots__ = ("fn",)

    def __init__(self, fn: Callable[[], None]) -> None:
        self.fn: Callable[[], None] | None = fn

    def cancel(self) -> None:
        """Do not make the call."""
        self.fn = None


class Loop:
    """See ``hsmfs.deferred.Executor``; ``run`` is the thread's work."""

    def __init__(self, threads_max: int, bug: Callable[[], None], spin_s: float = 0.0) -> None:
        self._spin_s = spin_s
        self._bug = bug
        self._pool = ThreadPoolExecutor(threads_max, thread_name_prefix="hsmfs-worker")
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread: int | None = None
        self._stopping = False
        self.working = 0

    # -- for the engine ----------------------------------------------------------

    def submit(
        self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Run ``work`` in a worker thread, then ``done`` on this one."""
        self.working += 1
        self._pool.submit(self._work, work, done)

    def _work(
        self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        value: T | None = None
        failure: BaseException | None = None
        try:
            value = work()
        except BaseException as error:
            failure = error

        def tell() -> None:
            self.working -= 1
            done(value, failure)

        self.run_soon(tell)

    def call_later(self, delay_s: float, fn: Callable[[], None]) -> Timer:
        """Run ``fn`` on this thread after a while, unless cancelled."""
        timer = Timer(fn)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._numbers), timer))
        return timer

    def run_soon(self, fn: Callable[[], None]) -> None:
        """From any thread: run ``fn`` on this one."""
        self._calls.append(fn)
        if threading.get_ident() != self._thread:
            os.eventfd_write(self._wake, 1)

    # -- the thread ----------------------------------------------------------------

    def run(self, fd: int, readable: Callable[[], bool]) -> None:
        """Serve until ``readable`` says that the device has ended, or ``stop``.

        Then wait for the work under way and what it leads to.
        """
        self._thread = threading.get_ident()
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        poll = poller.poll
        try:
            while not self._stopping:
                events = self._spin(poll) if self._spin_s else None
                events = events or poll(self._timeout_ms())
                for ready, _ in events:
                    if ready == fd:
                        if not readable():
                            return
                    else:
                        os.eventfd_read(self._wake)
                if self._calls:
                    self._run_calls()
                if self._timers:
                    self._run_timers()
        finally:
            self._drain()
            self._thread = None

    def stop(self) -> None:
        """From any thread: end ``run``."""

        def end() -> None:
            self._stopping = True

        self.run_soon(end)

    def close(self) -> None:
        """After ``run``: no more work."""
        self._pool.shutdown()
        self._run_calls()

    def _spin(self, poll: Callable[[float], list[tuple[int, int]]]) -> list[tuple[int, int]]:
        """Look for the next request for a little while before sleeping.

        To wake a thread on another processor that sleeps costs as much as
        several requests, most of all in a virtual machine.
        """
        end_s = time.perf_counter() + self._spin_s
        while not (events := poll(0)) and time.perf_counter() < end_s:
            os.sched_yield()
        return events

    def _timeout_ms(self) -> float | None:
        if self._calls:
            return 0
        if not self._timers:
            return None
        return max(0.0, (self._timers[0][0] - time.monotonic()) * 1000 + 0.999)

    def _run_calls(self) -> None:
        calls = self._calls
        for _ in range(min(len(calls), BURST_CALLS_MAX)):
            self._guarded(calls.popleft())

    def _run_timers(self) -> None:
        timers, now_s = self._timers, time.monotonic()
        while timers and timers[0][0] <= now_s:
            fn = heapq.heappop(timers)[2].fn
            if fn is not None:
                self._guarded(fn)

    def _drain(self) -> None:
        """Nothing new comes; what workers do ends by itself."""
        poller = select.poll()  # select(2) knows descriptors below 1024 only
        poller.register(self._wake, select.POLLIN)
        while self.working or self._calls:
            if not self._calls:
                poller.poll()
                os.eventfd_read(self._wake)
            self._run_calls()

    def _guarded(self, fn: Callable[..., Any]) -> None:
        try:
            fn()
        except Exception:
            self._bug()
            log.exception("bug: a callback of the engine failed")
