"""Refused changes, in the audit log: each file and operation once an hour, within a bound."""

from __future__ import annotations

from typing import Final

from hsmfs.namespace.wormclock import WormClock

HOUR_NS: Final = 3_600 * 10**9
ENTRIES_MAX: Final = 100
"""In one hour; the others are counted, and told with the next entry."""


class Refusals:
    """What was refused lately."""

    def __init__(self, clock: WormClock) -> None:
        self.clock = clock
        self._told: set[tuple[int, str]] = set()
        self._since_ns = 0
        self._left_out = 0

    def tell(self, ino: int, version: int, what: str, why: str) -> None:
        """Note one."""
        if not self.clock.is_running:
            return  # rows are lost, which fsck tells
        now_ns = self.clock.now_ns()
        if not 0 <= now_ns - self._since_ns < HOUR_NS:
            self._since_ns = now_ns
            self._told.clear()
        if (ino, what) in self._told:
            return
        if len(self._told) >= ENTRIES_MAX:
            self._left_out += 1
            return
        self._told.add((ino, what))
        left_out, self._left_out = self._left_out, 0
        self.clock.tell("refuse", ino=ino, version=version, what=what, why=why, left_out=left_out)
