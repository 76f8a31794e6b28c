"""Heat: how often a file is opened, as a forward-decayed count.

A stored score is the log2 of the sum of accesses, each worth twice as much
for every half-life that it is later; so scores of different times compare
without touching old records (Cormode et al., "Forward Decay", ICDE 2009).
"""

from __future__ import annotations

import math
import struct
from typing import Final

_FLOAT: Final = struct.Struct("<f")
HALF_LIFE_S: Final = 30 * 86_400.0


def heated(score: float, now_ns: int, half_life_s: float = HALF_LIFE_S) -> float:
    """The score after one more access."""
    now = now_ns / 1e9 / half_life_s
    if score <= 0.0:
        return _stored(now)
    high, low = max(score, now), min(score, now)
    return _stored(high + math.log2(1.0 + 2.0 ** (low - high)))


def _stored(score: float) -> float:
    """As the inode record keeps it: what is read back must sort the same."""
    rounded: float = _FLOAT.unpack(_FLOAT.pack(score))[0]
    return rounded


def heat_now(score: float, now_ns: int, half_life_s: float = HALF_LIFE_S) -> float:
    """Accesses as they count now: 1.0 just after the first, 0.5 a half-life later."""
    if score <= 0.0:
        return 0.0
    return float(2.0 ** min(64.0, score - now_ns / 1e9 / half_life_s))
