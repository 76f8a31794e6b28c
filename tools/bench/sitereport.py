"""``make bench-sim``: a day of the reference site, by our scheduler and by order of arrival."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Final

from hsmfs.daemon.picture import Priority, Rules
from hsmfs.daemon.scheduler import plan
from hsmfs.tools.bench.sitebound import Hall, fewest_loads
from hsmfs.tools.bench.sitemodel import HOUR_S, Day, Site, make_day
from hsmfs.tools.bench.sitesim import Decide, Outcome, Simulation, first_come

RULES: Final = Rules(hold_s=1.0)
FINE_S: Final = 60.0
COARSE_S: Final = 1_200.0
"""Slots of the bound: short ones make it a little higher; long windows need long ones."""


@dataclass(frozen=True, slots=True)
class Figures:
    """A run in numbers; waits from the request to its last byte, in seconds."""

    name: str
    loads: int
    loads_least: float
    """What no schedule with the same or shorter waits can go below; not a number: not asked."""
    median_s: float
    p99_s: float
    readers_p99_s: float
    readers_max_s: float
    bulk_max_s: float
    floor_share: float
    """Of drive time that burn work had in spells in which it claimed its floor; 1: it never did."""
    end_s: float
    cpu_s: float
    outcome: Outcome


def run(
    name: str,
    day: Day,
    decide: Decide,
    drives: int,
    *,
    one_by_one: bool = False,
    slot_s: float | None = COARSE_S,
) -> Figures:
    """Simulate, and compute the bound in slots of this length, if one is given."""
    started = time.process_time()
    outcome = Simulation(day, decide, RULES, drives, one_by_one=one_by_one).run()
    cpu_s = time.process_time() - started
    waits = sorted(one.wait_s for one in outcome.served)
    readers = _waits(outcome, Priority.READERS)
    return Figures(
        name,
        outcome.loads,
        least_loads(outcome, drives, day.site, slot_s) if slot_s else math.nan,
        quantile(waits, 0.5),
        quantile(waits, 0.99),
        quantile(readers, 0.99),
        readers[-1],
        _waits(outcome, Priority.BULK)[-1],
        outcome.burn_work_s / outcome.claimed_s if outcome.claimed_s else 1.0,
        outcome.end_s,
        cpu_s,
        outcome,
    )


def least_loads(outcome: Outcome, drives: int, site: Site, slot_s: float) -> float:
    """For the same requests, burns and proofs, each begun no later than it was."""
    windows = [(one.recall.volume, one.recall.at_s, one.begun_s) for one in outcome.served]
    hall = Hall(drives, site.pre_s, site.post_s, site.read_s, slot_s, outcome.end_s)
    return fewest_loads(windows, outcome.works, hall)


def quantile(values: list[float], share: float) -> float:
    """Of sorted values."""
    return values[min(len(values) - 1, int(share * len(values)))]


def _waits(outcome: Outcome, priority: Priority) -> list[float]:
    return sorted(one.wait_s for one in outcome.served if one.recall.priority is priority)


def table(rows: list[Figures]) -> str:
    """Markdown, as in docs/performance.md."""
    head = (
        "| | loads | of the bound | median s | p99 s | readers' p99 s | readers' longest s "
        "| bulk's longest s | burns' share | end h | CPU s |\n"
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    )
    lines = [
        f"| {row.name} | {row.loads:,} | {row.loads / row.loads_least:.2f} | {row.median_s:,.0f} "
        f"| {row.p99_s:,.0f} | {row.readers_p99_s:,.0f} | {row.readers_max_s:,.0f} "
        f"| {row.bulk_max_s:,.0f} | {row.floor_share:.2f} | {row.end_s / HOUR_S:.1f} "
        f"| {row.cpu_s:.1f} |"
        for row in rows
    ]
    return "\n".join([head, *lines])


def main() -> None:
    """Print the table."""
    site = Site()
    day = make_day(site)
    rows = [
        run("scheduler", day, plan, site.drives, slot_s=FINE_S),
        run("first come, first served", day, first_come, site.drives, one_by_one=True),
        run("scheduler, 1 drive of 12", day, plan, 1),
    ]
    print(table(rows))


if __name__ == "__main__":
    main()
