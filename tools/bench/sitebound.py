"""A lower bound of loads that no schedule can beat, however much it knows in advance.

Each request i of a volume has a window [a_i, d_i]: it comes at a_i and must be begun at
d_i at the latest. A volume's disc lies in a drive for some *stays*; each window must meet a stay.
So between the end e of a stay and the start s of the next no whole window may lie:
s <= min(d_i : a_i > e). A stay costs one load and its length in drive time, plus the
time of the load itself. In no hour can all stays together have more drive time than there is.
These bounds are relaxed with a price p(h) for each second of hour h (Lagrange); for any p >= 0

    sum over volumes of min(stays + cost of their drive time) - cost of all drive time

is at most the fewest loads (weak duality). We try prices in proportion to powers of the
requests in each hour, and take the best. The minimum for one volume is
exact, by dynamic programming over its requests. What is ignored makes the bound lower: that
at no moment more discs than drives can be in drives, the one robot, times of reading.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
HOUR_S: Final = 3_600.0
PRICES: Final = tuple(10 ** (-5 + step / 6) for step in range(18))
"""Loads for a second of drive time in the busiest hour."""
POWERS: Final = (0.0, 0.5, 1.0)
Window = tuple[int, float, float]
"""Volume, moment of the request, latest moment at which it is begun."""


def fewest_loads(windows: Sequence[Window], drive_s: Sequence[float], cycle_s: float) -> float:
    """Loads that any schedule needs for these requests; drive time is given by hour.

    ``cycle_s`` of drive time go with each load; they are priced as the cheapest hour is.
    """
    by_volume: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for volume, start_s, end_s in windows:
        by_volume[volume].append((start_s, end_s))
    volumes = [_sorted(spans) for spans in by_volume.values()]
    count = np.bincount([int(start_s // HOUR_S) for _, start_s, _ in windows], None, len(drive_s))
    best = float(len(volumes))
    for power in POWERS:
        shape = (count / count.max()) ** power
        for price in PRICES:
            best = max(best, _dual(volumes, shape * price, np.array(drive_s), cycle_s))
    return best


def _dual(
    volumes: list[tuple[Floats, Floats]], prices: Floats, drive_s: Floats, cycle_s: float
) -> float:
    paid = np.concatenate(([0.0], np.cumsum(prices * HOUR_S)))
    hours = np.arange(len(paid)) * HOUR_S
    load = 1.0 + float(prices.min()) * cycle_s
    least = 0.0
    for starts, ends in volumes:
        least += _least(starts, ends, np.interp(starts, hours, paid),
                        np.interp(ends, hours, paid), load)  # fmt: skip
    return least - float(prices @ drive_s)


def _sorted(spans: list[tuple[float, float]]) -> tuple[Floats, Floats]:
    """Starts ascending, and for each the earliest end of it and all later ones."""
    spans.sort()
    starts = np.array([start_s for start_s, _ in spans])
    ends = np.array([end_s for _, end_s in spans])
    return starts, np.minimum.accumulate(ends[::-1])[::-1]


def _least(
    starts: Floats, ends: Floats, paid_starts: Floats, paid_ends: Floats, load: float
) -> float:
    """Least cost of stays that meet all windows of one volume; ``paid_*``: price until then."""
    count = len(starts)
    rest = np.zeros(count + 1)
    afters = np.searchsorted(starts, ends, side="right")
    for first in range(count - 1, -1, -1):
        after = int(afters[first])
        cost = rest[after]
        if after < count:
            longer = paid_starts[after:] - paid_ends[first] + rest[after + 1 :]
            cost = min(cost, float(longer.min()))
        rest[first] = load + cost
    return float(rest[0])
