"""The floor of burns: how far they are behind the share of drive time that is theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hsmfs.daemon.picture import BURN_WORK, BurnDemand, DriveView, VerifyDemand


@dataclass(slots=True)
class BurnFloor:
    """Counts drive seconds while burn work waits; nothing is saved up for later."""

    share: float
    debt_s: float = 0.0
    _last_s: float | None = None
    _at_work: int = 0
    _alive: int = 0

    def update(
        self,
        now_s: float,
        drives: Sequence[DriveView],
        burns: Sequence[BurnDemand],
        verifies: Sequence[VerifyDemand],
    ) -> float:
        """What was true since the last call is counted, then the facts are taken.

        Returns the debt in drive seconds: more than 0, burns are behind. A long
        burn may run it far below 0; recalls then have the drives until it is back.
        """
        passed_s = 0.0 if self._last_s is None else now_s - self._last_s
        self.debt_s += (self.share * self._alive - self._at_work) * passed_s
        self._at_work = sum(view.busy and view.work in BURN_WORK for view in drives)
        self._alive = len(drives)
        if not self._at_work and not burns and all(demand.is_scrub for demand in verifies):
            self.debt_s = min(0.0, self.debt_s)
        self._last_s = now_s
        return self.debt_s
