"""When blank discs end, by what was burned of late."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import Metric
from support.librarysite import LibrarySite

from hsmfs.daemon.blankstock import ALARM, DAY_NS, BlankStock, forecast
from hsmfs.daemon.catalog import BURN_DAYS_MAX

TODAY = 20_000


def at(day: float) -> int:
    return int(day * DAY_NS)


def test_the_rate_of_late_says_when_it_ends() -> None:
    burned = [(TODAY - n, "ct", 2) for n in range(30)] + [(TODAY - n, "mr", 1) for n in range(15)]
    found = forecast(100, burned, at(TODAY + 0.5), 30)
    assert found.per_day == {"ct": 60 / 29.5, "mr": 15 / 29.5}
    assert found.days_left == 100 / (75 / 29.5)
    # What was burned before the window does not count, but says how old the system is.
    assert forecast(100, [(TODAY - 99, "ct", 500)], at(TODAY), 30).days_left == math.inf
    assert forecast(10, [(TODAY - 99, "x", 9), (TODAY, "x", 3)], at(TODAY), 30).days_left == 100
    assert forecast(0, burned, at(TODAY), 30).days_left == 0
    assert forecast(7, [(TODAY, "x", 1)], at(TODAY + 0.1), 30).days_left == 49


@given(
    st.lists(
        st.tuples(st.integers(0, 3000), st.sampled_from(["a", "b"]), st.integers(0, 9)),
        max_size=20,
    ),
    st.integers(0, 500),
    st.floats(0.5, 400),
    st.integers(0, 3000),
)
def test_more_blanks_last_longer(
    burned: list[tuple[int, str, int]], blanks: int, window: float, now: int
) -> None:
    found = forecast(blanks, burned, at(now), window)
    more = forecast(blanks + 1, burned, at(now), window)
    assert more.days_left >= found.days_left >= 0
    assert found.per_day == more.per_day and all(rate > 0 for rate in found.per_day.values())
    assert math.isinf(found.days_left) == (not found.per_day)
    recent = sum(n for day, _, n in burned if now - window < day <= now)
    assert sum(found.per_day.values()) * window >= recent - 1e-6


def test_counts_are_kept_and_the_alarm_comes_and_goes(tmp_path: Path) -> None:
    site = LibrarySite(tmp_path)
    site.look_once()
    kept = {site.barcodes("M04")[2]}
    stock = BlankStock(site.core, lambda: kept)

    def burn(pool: str, number: int, days_ago: int = 0) -> None:
        now_ns = site.clock.now_ns() - at(days_ago)
        for _ in range(number):
            change = site.catalog.count_burn(pool, now_ns)
            site.run(lambda c=change: site.catalog.transact(c))  # type: ignore[misc]

    assert stock.report()["days_left"] is None
    stock.look()
    assert not site.alarm_texts(ALARM)
    burn("ct", 5, days_ago=29)
    burn("mr", 1)
    found = stock.report()
    assert (found["library"], found["usable"], found["outside"]) == (12, 11, 0)
    assert found["per_day"].keys() == {"ct", "mr"} and 54 < found["days_left"] < 56
    stock.look()
    assert not site.alarm_texts(ALARM)
    burn("mr", 20)
    robot = site.librarian.config
    site.librarian.config = msgspec.structs.replace(robot, kind="manual")
    stock.look()
    assert stock.report()["days_left"] is None and not site.alarm_texts(ALARM)
    site.librarian.config = robot
    before = stock.report()
    site.start()
    site.look_once()
    stock = BlankStock(site.core, lambda: kept)
    assert stock.report() | {"ends": 0} == before | {"ends": 0}
    stock.look()
    stock.look()
    (text,) = site.alarm_texts(ALARM)
    assert "blank discs end in less than 14 days (care.blanks_days_min)" in text
    (alarm,) = site.alarms.active.values()
    assert alarm.count == 1
    site.take_out(0)
    site.look_once()
    assert stock.report()["outside"] == 3
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in stock.gauges()
        if isinstance(family, Metric)
        for sample in family.samples
    }
    assert samples["hsmd_blank_discs", "usable"] == 8
    assert samples["hsmd_blanks_left_seconds",] == stock.report()["days_left"] * 86_400
    site.clock.advance((BURN_DAYS_MAX + 3) * 86_400)
    burn("ct", 1)
    assert len(site.catalog.burned_discs()) == 1
    stock.look()
    site.start()
    assert len(site.catalog.burned_discs()) == 1
