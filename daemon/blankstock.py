"""The stock of blank discs, and when it ends if burning goes on as of late."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import trio
from prometheus_client.core import GaugeMetricFamily

from hsmfs.daemon.catalogrecords import DiscRecord, DiscState
from hsmfs.daemon.core import Core
from hsmfs.daemon.metrics import gauge, plain

DAY_S: Final = 86_400
DAY_NS: Final = DAY_S * 10**9
LOOK_S: Final = 5.0
FIRST_DAYS_MIN: Final = 7.0
"""A system that is younger than that is taken to be so old: one busy day is no rate."""
ALARM: Final = "blanks-ending"


@dataclass(frozen=True, slots=True)
class Forecast:
    """Discs a day, and days that the stock lasts."""

    per_day: Mapping[str, float] = field(default_factory=dict)
    """By pool; pools that burned nothing are left out."""
    days_left: float = math.inf


def forecast(
    blanks: int, burned: Iterable[tuple[int, str, int]], now_ns: int, window_days: float
) -> Forecast:
    """From discs burned by day (since 1970-01-01, UTC) and pool; all pools share the blanks."""
    now = now_ns / DAY_NS
    rows = [row for row in burned if row[2] > 0 and row[0] <= now]
    counts: Counter[str] = Counter()
    for day, pool, discs in rows:
        if day > now - window_days:
            counts[pool] += discs
    if not counts:
        return Forecast()
    age_days = now - min(day for day, _, _ in rows)
    span = max(min(window_days, FIRST_DAYS_MIN), min(window_days, age_days))
    per_day = {pool: discs / span for pool, discs in sorted(counts.items())}
    return Forecast(per_day, blanks / sum(per_day.values()))


@dataclass(slots=True)
class BlankStock:
    """Looks at the stock, and tells before it ends."""

    core: Core
    kept: Callable[[], set[str]]
    """Blank discs that wait to become parity."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await trio.sleep(LOOK_S)

    def look(self) -> None:
        """The alarm as it should be now."""
        days_min = self.core.config.care.blanks_days_min
        low = self._forecast(self._usable()).days_left < days_min
        text = (
            f"library {self.core.librarian.config.name}: blank discs end in less than "
            f"{days_min:g} days (care.blanks_days_min); bring a magazine of blank discs"
        )
        self.core.alarms.follow(ALARM, [text] if low else [])

    def _usable(self) -> int:
        """Blank discs inside that files can be burned to."""
        inside = {disc.barcode for disc in self._inside()}
        return len(inside - self.kept())

    def _inside(self) -> list[DiscRecord]:
        librarian = self.core.librarian
        return [disc for disc in self._blank() if librarian.present(disc)]

    def _blank(self) -> list[DiscRecord]:
        """All that somebody knows the place of."""
        catalog = self.core.catalog
        discs = [disc for disc in catalog.discs.values() if disc.state == DiscState.BLANK]
        return [disc for disc in discs if not catalog.is_missing(disc)]

    def _forecast(self, usable: int) -> Forecast:
        """Nobody counts the blank discs beside a drive without a robot: no forecast there."""
        days = self.core.config.care.blanks_rate_days
        burned = self.core.catalog.burned_discs()
        found = forecast(usable, burned, self.core.clock.now_ns(), days)
        is_counted = self.core.librarian.config.kind != "manual"
        return found if is_counted else Forecast(found.per_day)

    def report(self) -> dict[str, Any]:
        """For the API; ``days_left`` is null while nothing was burned of late."""
        inside, usable = len(self._inside()), self._usable()
        found = self._forecast(usable)
        ends = found.days_left if math.isfinite(found.days_left) else None
        return {
            "library": inside,
            "usable": usable,
            "outside": len(self._blank()) - inside,
            "rate_days": self.core.config.care.blanks_rate_days,
            "per_day": {pool: round(rate, 3) for pool, rate in found.per_day.items()},
            "days_left": None if ends is None else round(ends, 1),
            "ends": None if ends is None else self.core.clock.now_ns() / 1e9 + ends * DAY_S,
        }

    def gauges(self) -> Iterable[GaugeMetricFamily]:
        """Read when /metrics is scraped."""
        found = self.report()
        places = [(place, float(found[place])) for place in ("library", "usable", "outside")]
        yield gauge("hsmd_blank_discs", "Blank discs by where they are.", "place", places)
        rates = found["per_day"].items()
        yield gauge("hsmd_burned_discs_per_day", "Discs burned a day of late.", "pool", rates)
        days = math.inf if found["days_left"] is None else found["days_left"]
        text = "Time until blank discs end, at the rate of late."
        yield plain("hsmd_blanks_left_seconds", text, days * DAY_S)
