"""Rates, bounds and suspension of rules."""

from __future__ import annotations

import pytest

from hsmfs.clock import ManualClock
from hsmfs.daemon.alarms import Alarms
from hsmfs.daemon.jobs import Jobs
from hsmfs.daemon.packing import Found
from hsmfs.daemon.policy.rules import Pace
from hsmfs.daemon.rulepace import BURST_S, SAMPLE_MIN, SUSPENDED_S, RulePace
from hsmfs.types import Residency


def made(pace: Pace) -> tuple[ManualClock, Alarms, RulePace]:
    clock = ManualClock()
    alarms = Alarms(clock)
    return clock, alarms, RulePace("r", pace, clock, alarms)


def files(count: int, size: int = 10) -> list[Found]:
    return [Found(b"f%d" % n, n + 1, 1, size, Residency.RESIDENT) for n in range(count)]


def test_a_rate_of_files_saves_up_for_a_minute_only() -> None:
    clock, _, pace = made(Pace(files_per_s=5))
    assert len(pace.take(files(1000))) == 5 * BURST_S
    assert pace.take(files(1000)) == []
    clock.advance(2)
    assert len(pace.take(files(1000))) == 10
    clock.advance(10_000)
    assert len(pace.take(files(1000))) == 5 * BURST_S


def test_a_rate_of_bytes_pays_a_large_file_back() -> None:
    clock, _, pace = made(Pace(bytes_per_s=100))
    large = files(3, 12_000)
    assert len(pace.take(large)) == 1
    clock.advance(59)
    assert pace.take(large) == []
    clock.advance(2)
    assert len(pace.take(large)) == 1


@pytest.mark.parametrize("rate", [1 / 3600, 1 / 86_400])
def test_a_rate_of_less_than_one_in_a_minute_still_works(rate: float) -> None:
    clock, _, pace = made(Pace(files_per_s=rate))
    taken = 0
    for _ in range(300):
        clock.advance(0.01 / rate)
        taken += len(pace.take(files(9)))
    assert 2 <= taken <= 4


def test_so_many_at_once() -> None:
    _, _, pace = made(Pace(at_once=3))
    first = pace.take(files(9))
    assert len(first) == 3
    pace.under_way += 3
    assert pace.take(files(9)) == []
    pace.ended(well=True)
    assert len(pace.take(files(9))) == 1


@pytest.mark.allow_warnings
def test_a_rule_that_fails_is_suspended_with_one_alarm() -> None:
    clock, alarms, pace = made(Pace(errors=0.2))
    job = Jobs().new("policy")
    job.add(1000, 0)
    counted = pace.job(job)
    for number in range(SAMPLE_MIN * 2):
        (counted.fail("f: broken") if number % 3 == 0 else counted.done(1))
    assert not pace.may_work()
    (alarm,) = alarms.active.values()
    assert alarm.text.startswith("rule 'r' is suspended for an hour: ")
    assert (job.files_done + job.files_failed, alarm.count) == (SAMPLE_MIN * 2, 1)
    clock.advance(SUSPENDED_S)
    assert pace.may_work()
    assert not alarms.active


@pytest.mark.allow_warnings
def test_a_person_resumes_it() -> None:
    _, alarms, pace = made(Pace(errors=0.2))
    for _ in range(SAMPLE_MIN):
        pace.ended(well=False)
    assert not pace.may_work()
    pace.resume()
    assert pace.may_work() and not alarms.active


def test_files_that_wait_for_people_are_no_errors() -> None:
    _, alarms, pace = made(Pace(errors=0.2))
    job = Jobs().new("policy")
    counted = pace.job(job)
    pace.under_way = 1000
    for _ in range(1000):
        counted.fail("f: stays queued: 2 blank discs wanted")
    assert pace.may_work() and not alarms.active
    assert pace.under_way == 0
