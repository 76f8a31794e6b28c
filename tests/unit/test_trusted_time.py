"""Trusted time: what the clock may do to it, and what not; and dates."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmfs.errors import CallerError
from hsmfs.namespace import keeping
from hsmfs.namespace.trustedtime import ALARM_NS, CREDIT_PART, DAY_NS, STEP_MAX_NS, TrustedTime

START = 1_700_000_000 * 10**9
YEAR_NS = 365 * DAY_NS
CLOCKS = st.integers(-(10 * YEAR_NS), 100 * YEAR_NS)
RUNS = st.lists(st.tuples(st.booleans(), st.integers(0, 100 * DAY_NS), CLOCKS), max_size=30)


@given(RUNS)
def test_it_never_goes_back_and_never_gains_more_than_its_credit(
    runs: list[tuple[bool, int, int]],
) -> None:
    """Whatever clocks and restarts do: no more than the time that ran, and the credit."""
    time = TrustedTime.begin(START, "0", 0)
    boot, boot_ns, ran_ns, last = 0, 0, 0, START
    for restarts, passed_ns, clock_ns in runs:
        if restarts:
            boot, boot_ns = boot + 1, 0
            time.look(START + clock_ns, str(boot), boot_ns)
        boot_ns += passed_ns
        ran_ns += passed_ns
        time.look(START + clock_ns, str(boot), boot_ns)
        now_ns = time.now_ns(str(boot), boot_ns)
        assert now_ns >= last
        gained = now_ns - START - ran_ns
        assert 0 <= gained <= STEP_MAX_NS + ran_ns // CREDIT_PART
        last = now_ns


def test_without_a_start_of_the_machine_the_clock_is_nothing() -> None:
    time = TrustedTime.begin(START, "a", 0)
    for clock_ns in (START + 20 * YEAR_NS, START - 20 * YEAR_NS, 0):
        time.look(clock_ns, "a", DAY_NS)
        assert time.now_ns("a", DAY_NS) == START + DAY_NS


def test_jumps_are_told_once() -> None:
    time = TrustedTime.begin(START, "a", 0)
    assert time.look(START + ALARM_NS, "a", 0) == []
    assert [jump.what for jump in time.look(START + YEAR_NS, "a", 0)] == ["ahead"]
    assert time.look(START + YEAR_NS, "a", 0) == []
    assert [jump.what for jump in time.look(START - YEAR_NS, "a", 0)] == ["behind"]
    assert [jump.what for jump in time.look(START, "a", 0)] == ["together"]


def test_a_machine_that_was_off_catches_up() -> None:
    time = TrustedTime.begin(START, "a", 0)
    jumps = time.look(START + 3 * DAY_NS, "b", 0)
    assert [(jump.what, jump.by_ns) for jump in jumps] == [("stepped", 3 * DAY_NS)]
    assert time.now_ns("b", 0) == START + 3 * DAY_NS
    time.look(START + 33 * DAY_NS, "c", 0)
    assert time.now_ns("c", 0) == START + 7 * DAY_NS  # the rest is for an administrator to say
    assert time.accept(START + 33 * DAY_NS, "c", 0) == 26 * DAY_NS
    assert time.now_ns("c", 0) == START + 33 * DAY_NS
    assert time.accept(START, "c", 0) == 0


@pytest.mark.parametrize(
    ("start", "keep", "end"),
    [
        ("2024-02-29", "15y", "2039-03-01"),
        ("2024-02-29", "4y", "2028-02-29"),
        ("2026-11-28", "30y", "2056-11-28"),
        ("2026-11-28", "1w", "2026-12-05"),
        ("2026-11-28", "36h", "2026-11-29"),
        ("2200-01-01", "200y", "2262-04-11"),
    ],
)
def test_dates(start: str, keep: str, end: str) -> None:
    moment = int(datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp()) * 10**9
    assert keeping.shown(keeping.after(moment, keeping.check(keep, "keep"))).startswith(end)


@pytest.mark.parametrize("text", ["", "15", "y", "-1y", "0d", "1.5y", "15Y", "1m", "201y", " 1y"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(CallerError, match="keep: found"):
        keeping.check(text, "keep")
