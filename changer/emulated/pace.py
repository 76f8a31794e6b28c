"""How long a drive's reading and burning take: its buffer, the radius, the layers.

A drive goes on while the host thinks: it reads ahead until its buffer is full, and
burns what is in the buffer. So a host that keeps up on the whole gets the medium's speed,
and one that does not is waited for. A buffer that runs empty during a burn costs
nothing more: drives link where they stopped.

At constant angular velocity the speed goes with the radius, and so with the root
of the recorded area; even layers run outwards, odd ones inwards (opposite track path).
"""

from __future__ import annotations

import math

from hsmfs.changer.emulated.state import Timing
from hsmfs.clock import Clock
from hsmfs.types import SECTOR_BYTES


class Pace:
    """One disc in one drive, as a clock sees it."""

    def __init__(self, timing: Timing, clock: Clock) -> None:
        self._timing = timing
        self._clock = clock
        self._busy_until_s = 0.0
        """When the medium is done with what the host has asked for."""
        self._next = 0
        """The sector that the laser comes to then."""

    def settle(self) -> None:
        """Another disc: nothing in the buffer, the laser at the inside."""
        self._busy_until_s = self._clock.monotonic_s()
        self._next = 0

    def read(self, lba: int, sectors: int) -> None:
        """Sleeps until these are in the buffer."""
        speed = self._speed(lba, self._timing.read_bytes_s)
        stop, now_s = lba + sectors, self._clock.monotonic_s()
        if abs(lba - self._next) * SECTOR_BYTES <= self._timing.buffer_bytes:
            # Read ahead, or read through: only what the laser has not passed yet takes time.
            start_s = max(self._busy_until_s, now_s - self._timing.buffer_bytes / speed)
            start_s += self._crossing_s(self._next, stop)
            new, self._next = max(0, stop - self._next), max(self._next, stop)
        else:
            start_s = now_s + self._timing.seek_s
            new, self._next = sectors, stop
        self._busy_until_s = start_s + new * SECTOR_BYTES / speed
        self._sleep_until(self._busy_until_s)

    def write(self, lba: int, sectors: int) -> None:
        """Sleeps until the buffer has room for these."""
        speed = self._speed(lba, self._timing.write_bytes_s)
        start_s = max(self._busy_until_s, self._clock.monotonic_s())
        start_s += 0.0 if lba == self._next else self._timing.seek_s
        start_s += self._crossing_s(lba, lba + sectors)
        self._next = lba + sectors
        self._busy_until_s = start_s + sectors * SECTOR_BYTES / speed
        self._sleep_until(self._busy_until_s - self._timing.buffer_bytes / speed)

    def flush(self) -> None:
        """Sleeps until all is on the medium."""
        self._sleep_until(self._busy_until_s)

    def _sleep_until(self, at_s: float) -> None:
        self._clock.sleep(max(0.0, at_s - self._clock.monotonic_s()))

    def _speed(self, lba: int, outer_bytes_s: float) -> float:
        inner = self._timing.inner_share
        if inner >= 1.0:
            return outer_bytes_s
        layer, place = divmod(lba * SECTOR_BYTES, self._timing.layer_bytes)
        area = place / self._timing.layer_bytes
        if layer % 2:
            area = 1.0 - area
        return outer_bytes_s * math.sqrt(inner * inner + area * (1.0 - inner * inner))

    def _crossing_s(self, start: int, stop: int) -> float:
        """Layer changes between two sectors."""
        layers = [max(0, at - 1) * SECTOR_BYTES // self._timing.layer_bytes for at in (start, stop)]
        return max(0, layers[1] - layers[0]) * self._timing.layer_change_s
