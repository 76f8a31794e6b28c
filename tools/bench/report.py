"""From samples to medians, ratios and a table; no input, no output inside."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

import msgspec

from hsmfs.tools.bench.measure import Sample

PLAIN: Final = "ext4"
IN_C: Final = ("mergerfs", "bindfs")
OURS: Final = "native"
PORTABLE: Final = "pyfuse3"
Samples = dict[str, list[Sample]]
"""By system; a system that failed at this work has none."""


class Result(msgspec.Struct, frozen=True):
    """One work on all systems, over all counted rounds."""

    work: str
    unit: str
    op: str
    rounds: Samples
    median: dict[str, float]
    """Rate by system, in ``unit``."""
    to_ext4: dict[str, float]
    """Rate by system over that of the plain directory."""
    best_to_ext4: dict[str, float]
    """The same of the best rounds: a shared disk is slow for a while now and then."""
    server_cpu_us_per_op: dict[str, float]
    native_to_c: float | None
    """Native session over the better of mergerfs and bindfs."""
    native_to_pyfuse3: float | None


def result(work: str, unit: str, op: str, samples: Samples) -> Result:
    """Medians and ratios of one work."""
    counted = {name: taken for name, taken in samples.items() if taken}
    median = {name: statistics.median(one.rate for one in all_) for name, all_ in counted.items()}
    best = {name: max(one.rate for one in all_) for name, all_ in counted.items()}
    plain = median.get(PLAIN)
    return Result(
        work,
        unit,
        op,
        counted,
        median,
        {name: rate / plain for name, rate in median.items()} if plain else {},
        {name: rate / best[PLAIN] for name, rate in best.items()} if plain else {},
        {name: cpu_us_per_op(taken) for name, taken in counted.items() if name != PLAIN},
        _ratio(median, OURS, IN_C),
        _ratio(median, OURS, (PORTABLE,)),
    )


def cpu_us_per_op(samples: Sequence[Sample]) -> float:
    """The server's time for one operation; median of the rounds."""
    return statistics.median(one.server_cpu_s / one.ops * 1e6 for one in samples)


def _ratio(median: dict[str, float], name: str, others: Sequence[str]) -> float | None:
    """Over the best of the others; None where one side is missing."""
    best = max((median[other] for other in others if other in median), default=0.0)
    return median[name] / best if best and name in median else None


def rate_rows(results: Sequence[Result], systems: Sequence[str]) -> list[list[str]]:
    """Rates with their ratio to the plain directory, and what is asked of the native one."""
    rows = []
    for one in results:
        cells = [_cell(one, name) for name in systems]
        ratios = [
            _times(one.best_to_ext4.get(OURS)),
            _times(one.native_to_c),
            _times(one.native_to_pyfuse3),
        ]
        rows.append([one.work, one.unit, *cells, *ratios])
    return rows


def _cell(one: Result, name: str) -> str:
    if name not in one.median:
        return "-"
    rate = f"{one.median[name]:,.0f}"
    if name == PLAIN or name not in one.to_ext4:
        return rate
    return f"{rate} {one.to_ext4[name]:5.2f}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def cpu_rows(results: Sequence[Result], systems: Sequence[str]) -> list[list[str]]:
    """Server CPU microseconds for one operation."""
    rows = []
    for one in results:
        used = one.server_cpu_us_per_op
        rows.append([one.work, one.op, *(f"{used[n]:.1f}" if n in used else "-" for n in systems)])
    return rows


def rotated(names: Sequence[str], round_number: int) -> list[str]:
    """The order of one round: nobody is always first."""
    if not names:
        return []
    start = round_number % len(names)
    return [*names[start:], *names[:start]]
