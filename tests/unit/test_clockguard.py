"""A clock that jumps moves no file and raises one alarm."""

from __future__ import annotations

import pytest

from hsmfs.clock import ManualClock
from hsmfs.daemon.alarms import Alarms
from hsmfs.daemon.clockguard import ClockGuard

DAY_NS = 86_400 * 10**9
YEAR_NS = 365 * DAY_NS
AT_NS = 1_700_000_000 * 10**9


def made(last_ns: int = 0) -> tuple[ManualClock, Alarms, ClockGuard]:
    clock = ManualClock(AT_NS)
    alarms = Alarms(clock)
    return clock, alarms, ClockGuard(clock, alarms, last_ns)


def texts(alarms: Alarms) -> list[str]:
    return [alarm.text for alarm in alarms.active.values()]


@pytest.mark.allow_warnings
@pytest.mark.parametrize("jump_ns", [3 * YEAR_NS, -3 * YEAR_NS, DAY_NS, -DAY_NS])
def test_rules_go_on_by_the_old_time_until_somebody_says_otherwise(jump_ns: int) -> None:
    clock, alarms, guard = made()
    clock.advance(100)
    assert guard.now_ns() == AT_NS + 100 * 10**9 and not guard.jumped
    clock.start_ns += jump_ns
    for passed in (100, 110, 120):
        clock.elapsed_s = passed
        assert guard.now_ns() == AT_NS + passed * 10**9
        assert guard.jumped
    (text,) = texts(alarms)
    assert text.startswith(
        "the clock went " + ("forward" if jump_ns > 0 else "back") + " from 2023-11-14 22:15 to "
    )
    guard.accept()
    assert guard.now_ns() == clock.now_ns()
    assert (guard.jumped, texts(alarms)) == (False, [])


@pytest.mark.allow_warnings
def test_a_clock_that_is_set_right_again_ends_it() -> None:
    clock, alarms, guard = made()
    clock.start_ns += YEAR_NS
    assert guard.now_ns() == AT_NS
    clock.start_ns -= YEAR_NS
    clock.advance(5)
    assert guard.now_ns() == AT_NS + 5 * 10**9
    assert (guard.jumped, texts(alarms)) == (False, [])


def test_ntp_and_long_lives_are_no_jumps() -> None:
    clock, alarms, guard = made()
    for _ in range(1000):
        clock.advance(3600)
        clock.start_ns += 10**10
        assert guard.now_ns() == clock.now_ns()
    assert (guard.jumped, texts(alarms)) == (False, [])


@pytest.mark.allow_warnings
@pytest.mark.parametrize(
    ("last_ns", "jumped"),
    [
        (0, False),
        (AT_NS, False),
        (AT_NS - 20 * DAY_NS, False),
        (AT_NS - 60 * DAY_NS, True),
        (AT_NS - 5 * YEAR_NS, True),
        (AT_NS + DAY_NS, True),
    ],
)
def test_a_jump_while_hsmd_was_away_is_seen_at_its_start(last_ns: int, jumped: bool) -> None:
    clock, _, guard = made(last_ns)
    assert guard.jumped is jumped
    clock.advance(50)
    expected_ns = last_ns if jumped else AT_NS
    assert guard.now_ns() == expected_ns + 50 * 10**9
    assert guard.jumped is jumped
