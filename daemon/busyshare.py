"""How busy the robot was of late: a share of time that fades."""

from __future__ import annotations

import math
from typing import Final

SPAN_S: Final = 600.0
"""What happened so long ago weighs 1/e of what happens now."""


class BusyShare:
    """0: it stood still; 1: it never did."""

    def __init__(self) -> None:
        self._busy_s = 0.0
        self._last_s = 0.0

    def add(self, busy_s: float, now_s: float) -> None:
        """It worked so long, until now."""
        self._fade(now_s)
        self._busy_s += busy_s

    def of(self, now_s: float) -> float:
        """The share of the last minutes."""
        self._fade(now_s)
        return min(1.0, self._busy_s / SPAN_S)

    def _fade(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._last_s)
        self._busy_s *= math.exp(-passed_s / SPAN_S)
        self._last_s = max(now_s, self._last_s)
