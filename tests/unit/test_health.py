"""Moving averages of errors, and the floor of burns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmfs.daemon.floor import BurnFloor
from hsmfs.daemon.health import REMEMBERED_S, Blame, ErrorRate, Verdict
from hsmfs.daemon.picture import BurnDemand, DriveView, Work
from hsmfs.daemon.volumeheat import HALF_LIFE_S, VOLUMES_MAX, VolumeHeat


def test_two_errors_in_a_row_make_a_drive_doubtful_and_work_brings_it_back() -> None:
    health = ErrorRate()
    health.charge()
    assert not health.is_doubtful
    health.charge()
    assert health.is_doubtful
    for _ in range(20):
        health.credit()
    assert not health.is_doubtful


def test_one_disc_that_fails_in_two_drives_is_to_blame() -> None:
    blame = Blame()
    assert blame.failed("d0", "A", 0.0) is Verdict.OPEN
    assert blame.failed("d1", "A", 1.0) is Verdict.DISC


def test_one_disc_that_fails_twice_in_the_only_drive_is_to_blame() -> None:
    blame = Blame()
    blame.failed("d0", "A", 0.0)
    assert blame.failed("d0", "A", 1.0) is Verdict.DISC


def test_two_discs_that_fail_in_one_drive_accuse_the_drive() -> None:
    blame = Blame()
    blame.failed("d0", "A", 0.0)
    assert blame.failed("d0", "B", 1.0) is Verdict.DRIVE
    assert blame.worked("A") == {"d0"}


def test_old_failures_say_nothing() -> None:
    blame = Blame()
    blame.failed("d0", "A", 0.0)
    assert blame.failed("d1", "A", REMEMBERED_S + 1) is Verdict.OPEN


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("ABC"), st.booleans())))
def test_what_was_proved_is_accused_of_nothing(events: list[tuple[str, str, bool]]) -> None:
    blame = Blame()
    failed: dict[str, set[str]] = {}
    for now_s, (drive, disc, is_good) in enumerate(events):
        if is_good:
            assert blame.worked(disc) == failed.pop(disc, set())
            assert blame.times(disc) == 0
        else:
            verdict = blame.failed(drive, disc, float(now_s))
            known = failed.setdefault(disc, set())
            assert known or verdict is not Verdict.DISC, "no disc is blamed at its first failure"
            known.add(drive)


@given(st.floats(0, 1))
def test_a_pardon_takes_a_charge_back(rate: float) -> None:
    health = ErrorRate(rate)
    health.charge()
    health.pardon()
    assert health.rate == pytest.approx(rate, abs=1e-9)


@given(st.lists(st.booleans()))
def test_a_rate_is_between_never_and_always(errors: list[bool]) -> None:
    health = ErrorRate()
    for is_error in errors:
        health.charge() if is_error else health.credit()
    assert 0.0 <= health.rate <= 1.0


def test_the_floor_is_owed_while_burns_wait_and_paid_by_burning() -> None:
    floor = BurnFloor(0.25)
    idle, burning = DriveView("d0", True), DriveView("d0", True, work=Work.BURN)
    burns = (BurnDemand("v", 1, 0.0),)
    assert floor.update(0.0, (idle,), (), ()) == 0.0
    assert floor.update(100.0, (idle,), burns, ()) == 0.0, "nothing waited until now"
    assert floor.update(200.0, (burning,), (), ()) == 25.0
    assert floor.update(300.0, (idle,), burns, ()) == -50.0
    assert floor.update(500.0, (idle,), burns, ()) == 0.0


def test_heat_fades_and_the_coldest_are_forgotten() -> None:
    heat = VolumeHeat()
    for _ in range(3):
        heat.add("old", 0.0)
    heat.add("new", 2 * HALF_LIFE_S)
    assert heat.of("new") > heat.of("old")
    for number in range(VOLUMES_MAX):
        heat.add(f"v{number}", 200 * HALF_LIFE_S)
    assert heat.of("old") == 0.0
    assert heat.of(f"v{VOLUMES_MAX - 1}") > 0.0
