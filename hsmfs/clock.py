"""Time as a parameter, so that tests and simulations own it."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """What everything that needs time is given."""

    def now_ns(self) -> int:
        """Wall-clock time in nanoseconds since the epoch."""

    def monotonic_s(self) -> float:
        """Seconds that never go back."""

    def sleep(self, seconds: float) -> None:
        """Wait in the calling thread (emulated devices only)."""

    def boot(self) -> tuple[str, int]:
        """Which run of the machine this is, and nanoseconds since it began, sleep
        included: what no setting of the clock changes."""


class SystemClock:
    """The machine's own clock."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def boot(self) -> tuple[str, int]:
        return _boot_id(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class ManualClock:
    """A clock that stands until it is moved; sleeping moves it."""

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self.start_ns = start_ns
        self.elapsed_s = 0.0
        self.boot_id = "manual"

    def now_ns(self) -> int:
        return self.start_ns + int(self.elapsed_s * 1e9)

    def monotonic_s(self) -> float:
        return self.elapsed_s

    def sleep(self, seconds: float) -> None:
        self.elapsed_s += max(0.0, seconds)

    def boot(self) -> tuple[str, int]:
        return self.boot_id, int(self.elapsed_s * 1e9)

    advance = sleep


@functools.cache
def _boot_id() -> str:
    """random(4): made anew at each start of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
