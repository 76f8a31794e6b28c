"""How a drive fares: a moving average of errors, and who is to blame for one.

A part that cannot be read may be the disc's fault or the drive's: both are charged, and the
disc is read in another drive. If it can be read there, the drive keeps the charge; if not,
the drive is pardoned. A doubtful drive is used after all others, until its work goes well again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ERROR_WEIGHT: Final = 0.2
"""How far one error moves the average towards 1; the second in a row makes a drive doubtful."""
SUCCESS_WEIGHT: Final = 0.02
"""How far one piece of work that went well moves it towards 0."""
DOUBTFUL: Final = 0.3


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
