"""How often volumes are wanted: counts that fade, to choose which disc keeps its drive."""

from __future__ import annotations

import math
from typing import Final

HALF_LIFE_S: Final = 43_200.0
VOLUMES_MAX: Final = 4_096
"""Volumes remembered; half of them, the coldest, are forgotten at once."""
_PER_S: Final = math.log(2) / HALF_LIFE_S
SHELF_HALF_LIFE_S: Final = 90 * 86_400.0
"""Of the count that says which magazines are cold: kept in the catalog."""


def faded(heat: float, since_ns: int, now_ns: int) -> float:
    """What a count of then is worth now, by ``SHELF_HALF_LIFE_S``."""
    age_s = max(0, now_ns - since_ns) / 1e9
    return float(heat * 2.0 ** (-age_s / SHELF_HALF_LIFE_S))


class VolumeHeat:
    """Forward decay: newer requests weigh more, so nothing has to be aged."""

    def __init__(self) -> None:
        self._start_s: float | None = None
        self._weight: dict[str, float] = {}

    def add(self, volume: str, now_s: float) -> None:
        """It was wanted once more."""
        if self._start_s is None:
            self._start_s = now_s
        age = (now_s - self._start_s) * _PER_S
        if age > 60.0:  # e**60: long before a float is full
            self._rescale(age)
            self._start_s, age = now_s, 0.0
        self._weight[volume] = self._weight.get(volume, 0.0) + math.exp(age)
        if len(self._weight) > VOLUMES_MAX:
            kept = sorted(self._weight.items(), key=lambda item: -item[1])[: VOLUMES_MAX // 2]
            self._weight = dict(kept)

    def _rescale(self, age: float) -> None:
        self._weight = {volume: heat * math.exp(-age) for volume, heat in self._weight.items()}

    def of(self, volume: str) -> float:
        """Comparable among volumes at one moment."""
        return self._weight.get(volume, 0.0)
