"""Time that rules may trust: a clock that jumps moves no file.

The wall clock is held against the monotonic one. While they disagree by more
than ``JUMP_S``, rules see the time from before the jump, which goes on by the
monotonic clock, and nothing new is migrated; one alarm tells. It ends when
the clock is right again, or when a person says that it is.
"""

from __future__ import annotations

import time
from typing import Final

import structlog

from hsmfs.clock import Clock
from hsmfs.daemon.alarms import Alarms

log = structlog.get_logger(__name__)
JUMP_S: Final = 900.0
"""NTP and leap seconds move a clock by less between two looks."""
AWAY_MAX_S: Final = 30 * 86_400.0
"""hsmd may have been down for so long without anybody being asked."""
ALARM: Final = "clock"
SECOND_NS: Final = 10**9


class ClockGuard:
    """Compares the clocks at each look; ``last_ns`` is the time of the last look before hsmd
    was started, 0: never."""

    def __init__(self, clock: Clock, alarms: Alarms, last_ns: int = 0) -> None:
        self._clock = clock
        self._alarms = alarms
        self._wall_ns = clock.now_ns()
        self._mono_s = clock.monotonic_s()
        self.jumped = False
        if last_ns and not -JUMP_S <= (self._wall_ns - last_ns) / SECOND_NS <= AWAY_MAX_S:
            self._jump(self._wall_ns, last_ns)
            self._wall_ns = last_ns

    def _trusted(self) -> int:
        elapsed_s = self._clock.monotonic_s() - self._mono_s
        return self._wall_ns + round(elapsed_s * SECOND_NS)

    def now_ns(self) -> int:
        """The time that rules are to go by."""
        wall_ns, trusted_ns = self._clock.now_ns(), self._trusted()
        if abs(wall_ns - trusted_ns) > JUMP_S * SECOND_NS:
            if not self.jumped:
                self._jump(wall_ns, trusted_ns)
            return trusted_ns
        if self.jumped:
            log.info("the clock is right again")
            self._alarms.clear(ALARM)
            self.jumped = False
        self._wall_ns, self._mono_s = wall_ns, self._clock.monotonic_s()
        return wall_ns

    def accept(self) -> None:
        """A person says that the clock is right."""
        self._wall_ns, self._mono_s = self._clock.now_ns(), self._clock.monotonic_s()
        self.jumped = False
        self._alarms.clear(ALARM)

    def _jump(self, wall_ns: int, trusted_ns: int) -> None:
        self.jumped = True
        way = "forward" if wall_ns > trusted_ns else "back"
        self._alarms.raise_(
            ALARM,
            f"the clock went {way} from {_shown(trusted_ns)} to {_shown(wall_ns)}: rules "
            "go by the old time and nothing is migrated by them. Set it right, or say that it is "
            "right: hsm policy accept-clock",
        )


def _shown(time_ns: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.gmtime(time_ns / SECOND_NS))
    except (OverflowError, ValueError):
        return f"{time_ns} ns"
