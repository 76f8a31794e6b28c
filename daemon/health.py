"""How drives and discs fare: moving averages of errors, and who is to blame for them.

A part that cannot be read may be the disc's fault or the drive's: both are charged, and the
disc is tried in another drive. If it works there, the drive keeps the charge; if not,
the drive is pardoned. A doubtful drive is used after all others, until its work goes well again.
Plain values; ``daemon.ward`` draws the consequences.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

ERROR_WEIGHT: Final = 0.2
"""How far one error moves the average towards 1; the second in a row makes a drive doubtful."""
SUCCESS_WEIGHT: Final = 0.02
"""How far one piece of work that went well moves it towards 0."""
DOUBTFUL: Final = 0.3
PAIRS_MAX: Final = 4096
"""Drives with discs that failed there which are remembered; the oldest are forgotten."""
REMEMBERED_S: Final = 86_400.0
"""How long a failure speaks against drive and disc."""


@dataclass(slots=True)
class ErrorRate:
    """0: never an error; 1: nothing else."""

    rate: float = 0.0

    def charge(self) -> None:
        self.rate += ERROR_WEIGHT * (1.0 - self.rate)

    def credit(self) -> None:
        self.rate -= SUCCESS_WEIGHT * self.rate

    def pardon(self) -> None:
        """As if the last charge had not been; what went well since then stays counted."""
        self.rate = max(0.0, (self.rate - ERROR_WEIGHT) / (1.0 - ERROR_WEIGHT))

    @property
    def is_doubtful(self) -> bool:
        return self.rate > DOUBTFUL


class Verdict(Enum):
    """Whose fault a failure is, as far as can be told."""

    OPEN = "open"
    DISC = "disc"
    DRIVE = "drive"


@dataclass(slots=True)
class Blame:
    """Failures of which nobody knows yet whether the drive or the disc is to blame."""

    _failures: OrderedDict[tuple[str, str], list[float]] = field(default_factory=OrderedDict)
    """When (s), by drive and disc; none of these discs was proved since."""

    def failed(self, drive: str, disc: str, now_s: float) -> Verdict:
        """Two discs in one drive: the drive. One disc in two drives, or twice: the disc."""
        self._forget_old(now_s)
        times = self._failures.setdefault((drive, disc), [])
        times.append(now_s)
        self._failures.move_to_end((drive, disc))
        discs = {other for name, other in self._failures if name == drive}
        drives = self.drives_of(disc)
        if len(discs) > 1 and len(discs) > len(drives):
            return Verdict.DRIVE
        return Verdict.DISC if self.times(disc) > 1 else Verdict.OPEN

    def _forget_old(self, now_s: float) -> None:
        while self._failures:
            pair, times = next(iter(self._failures.items()))
            if len(self._failures) <= PAIRS_MAX and times[-1] >= now_s - REMEMBERED_S:
                return
            del self._failures[pair]

    def worked(self, disc: str) -> set[str]:
        """A disc was proved: the drives in which it failed are to blame."""
        drives = self.drives_of(disc)
        self.forget_disc(disc)
        return drives

    def drives_of(self, disc: str) -> set[str]:
        """In which a disc failed."""
        return {name for name, other in self._failures if other == disc}

    def times(self, disc: str) -> int:
        """How often a disc failed, in all drives."""
        return sum(len(times) for (_, other), times in self._failures.items() if other == disc)

    def forget_disc(self, disc: str) -> None:
        for pair in [pair for pair in self._failures if pair[1] == disc]:
            del self._failures[pair]

    def forget_drive(self, drive: str) -> None:
        """It is out of service: what failed in it says nothing of the discs."""
        for pair in [pair for pair in self._failures if pair[0] == drive]:
            del self._failures[pair]
