"""The scheduler: a picture in, actions out."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hsmfs.daemon.scheduler import (
    BURN_PATIENCE_S,
    Burn,
    BurnDemand,
    DriveView,
    Picture,
    Priority,
    Read,
    ReadDemand,
    Rules,
    Share,
    Unload,
    Verify,
    VerifyDemand,
    Work,
    Yield,
    plan,
)

IDLE = (DriveView("d0", False), DriveView("d1", False))


def test_a_disc_in_an_idle_drive_is_read_there() -> None:
    drives = (DriveView("d0", False), DriveView("d1", False, "A", 1.0))
    picture = Picture(drives, reads=(ReadDemand("v", ("B", "A"), 0.0),))
    assert plan(picture, 10.0) == [Read("d1", "v", "A")]


def test_an_empty_drive_is_taken_before_one_with_a_disc() -> None:
    drives = (DriveView("d0", False, "X", 0.0), DriveView("d1", False))
    picture = Picture(drives, reads=(ReadDemand("v", ("A",), 0.0),))
    assert plan(picture, 10.0) == [Read("d1", "v", "A")]


def test_a_doubtful_drive_is_used_when_no_other_is_free() -> None:
    doubtful = DriveView("d0", False, is_doubtful=True)
    reads = (ReadDemand("v", ("A",), 0.0),)
    both = (doubtful, DriveView("d1", False, "X"))
    assert plan(Picture(both, reads), 10.0) == [Read("d1", "v", "A")]
    assert plan(Picture((doubtful,), reads), 10.0) == [Read("d0", "v", "A")]


def test_the_disc_wanted_least_leaves() -> None:
    drives = (DriveView("d0", False, "X", heat=5.0), DriveView("d1", False, "Y", 9.0, heat=1.0))
    picture = Picture(drives, reads=(ReadDemand("v", ("A",), 0.0),))
    assert plan(picture, 10.0) == [Read("d1", "v", "A")]


def test_recalls_beyond_what_the_robot_can_do_wait() -> None:
    drives = (DriveView("d0", True, moving=True), *(DriveView(f"d{n}", False) for n in (1, 2, 3)))
    reads = tuple(ReadDemand(f"v{n}", (f"A{n}",), float(n)) for n in range(3))
    assert plan(Picture(drives, reads, rules=Rules(loads_ahead=2)), 9.0) == [Read("d1", "v0", "A0")]


def test_one_user_with_many_requests_does_not_outweigh_another() -> None:
    drives = (DriveView("d0", False),)
    many = tuple(
        ReadDemand(f"m{n}", (f"M{n}",), 0.0, shares=(Share("x", 10, 0.0),)) for n in range(5)
    )
    one = ReadDemand("v", ("A",), 5.0, shares=(Share("y", 1, 5.0),))
    assert plan(Picture(drives, (*many, one)), 10.0) == [Read("d0", "v", "A")]


def test_urgent_requests_go_before_readers() -> None:
    drives = (DriveView("d0", False),)
    old = ReadDemand("bulk", ("B",), 0.0, Priority.BULK)
    fresh = ReadDemand("v", ("A",), 9_990.0)
    rules = Rules(equal_s=1e6)
    assert plan(Picture(drives, (old, fresh), rules=rules), 10_000.0) == [Read("d0", "v", "A")]
    fresh = replace(fresh, since_s=14_390.0)
    assert plan(Picture(drives, (old, fresh), rules=rules), 14_400.0) == [Read("d0", "bulk", "B")]


def test_requests_by_hand_that_waited_go_with_readers() -> None:
    drives = (DriveView("d0", False),)
    by_hand = ReadDemand("bulk", ("B",), 0.0, Priority.BULK)
    picture = Picture(drives, (by_hand, ReadDemand("v", ("A",), 250.0)))
    assert plan(picture, 299.0) == [Read("d0", "v", "A")]
    picture = Picture(drives, (by_hand, ReadDemand("v", ("A",), 305.0)))
    assert plan(picture, 310.0) == [Read("d0", "bulk", "B")]


def test_requests_by_hand_gather_only_while_the_robot_is_busy() -> None:
    by_hand = (ReadDemand("bulk", ("B",), 0.0, Priority.BULK),)
    busy = Picture((DriveView("d0", False),), by_hand, robot_share=0.5)
    assert plan(busy, 10.0) == []
    assert plan(busy, 300.0) == [Read("d0", "bulk", "B")]
    assert plan(replace(busy, robot_share=0.1), 10.0) == [Read("d0", "bulk", "B")]
    inside = replace(busy, drives=(DriveView("d0", False, "B"),))
    assert plan(inside, 10.0) == [Read("d0", "bulk", "B")]


def test_a_disc_wanted_often_stays_while_another_drive_is_free_in_a_moment() -> None:
    reads = (ReadDemand("v", ("A",), 0.0),)
    hot = DriveView("d0", False, "X", heat=5.0)
    cold = DriveView("d1", True, "Y", work=Work.READ, heat=1.0)
    assert plan(Picture((hot, cold), reads), 10.0) == []
    assert plan(Picture((hot, cold), reads), 30.0) == [Read("d0", "v", "A")]
    alike = replace(cold, heat=3.0)
    assert plan(Picture((hot, alike), reads), 10.0) == [Read("d0", "v", "A")]


def test_a_burn_behind_its_floor_goes_before_recalls() -> None:
    reads = (ReadDemand("v", ("A",), 990.0),)
    burns = (BurnDemand("b", 1, 0.0),)
    one = (DriveView("d0", False),)
    assert plan(Picture(one, reads, burns), 1_000.0) == [Read("d0", "v", "A")]
    assert plan(Picture(one, reads, burns, burn_debt_s=1.0), 1_000.0) == [Burn("b", ("d0",))]


def test_a_scrub_makes_room_at_once_and_a_reading_drive_after_its_turn() -> None:
    reads = (ReadDemand("v", ("A",), 990.0),)
    scrubs = DriveView("d0", True, "S", work=Work.SCRUB, since_s=999.0)
    bulk = DriveView("d1", True, "B", work=Work.READ, since_s=900.0, priority=Priority.BULK)
    assert plan(Picture((bulk, scrubs), reads), 1_000.0) == [Yield("d0")]
    assert plan(Picture((bulk,), reads), 1_000.0) == []
    assert plan(Picture((bulk,), reads), 1_020.0) == [Yield("d1")]


def test_a_disc_just_served_is_held() -> None:
    drives = (DriveView("d0", False, "X", 9.0, read_at_s=9.0),)
    reads = (ReadDemand("v", ("A",), 0.0),)
    assert plan(Picture(drives, reads=reads, rules=Rules(hold_s=2.0)), 10.0) == []
    assert plan(Picture(drives, reads=reads, rules=Rules(hold_s=0.5)), 10.0) == [
        Read("d0", "v", "A")
    ]


def test_the_other_copy_serves_while_one_is_in_a_busy_drive() -> None:
    drives = (DriveView("d0", True, "A"), DriveView("d1", False))
    picture = Picture(drives, reads=(ReadDemand("v", ("A", "B"), 0.0),))
    assert plan(picture, 1.0) == [Read("d1", "v", "B")]


def test_readers_go_before_requests_by_hand() -> None:
    reads = (ReadDemand("bulk", ("A",), 0.0, Priority.BULK), ReadDemand("v", ("B",), 5.0))
    assert plan(Picture((DriveView("d0", False),), reads=reads), 9.0) == [Read("d0", "v", "B")]


def test_a_burn_takes_one_drive_for_each_copy_by_one_read() -> None:
    picture = Picture(IDLE, burns=(BurnDemand("v", 2, 0.0),))
    assert plan(picture, 1.0) == [Burn("v", ("d0", "d1"))]


def test_a_burn_waits_for_its_drives_but_not_for_ever() -> None:
    drives = (DriveView("d0", True), DriveView("d1", False))
    picture = Picture(drives, burns=(BurnDemand("v", 2, 0.0),))
    assert plan(picture, 1.0) == []
    assert plan(picture, BURN_PATIENCE_S + 1) == [Burn("v", ("d1",))]


def test_a_burn_goes_on_with_the_one_drive_that_lives() -> None:
    picture = Picture((DriveView("d0", False),), burns=(BurnDemand("v", 2, 0.0),))
    assert plan(picture, 1.0) == [Burn("v", ("d0",))]


def test_verify_prefers_another_drive() -> None:
    picture = Picture(IDLE, verifies=(VerifyDemand("A", "d0", 0.0),))
    assert plan(picture, 1.0) == [Verify("d1", "A")]
    alone = Picture((DriveView("d0", False),), verifies=(VerifyDemand("A", "d0", 0.0),))
    assert plan(alone, 1.0) == [Verify("d0", "A")]


def test_a_disc_in_its_burner_is_unloaded_for_the_other_drive() -> None:
    drives = (DriveView("d0", False, "A"), DriveView("d1", False))
    assert plan(Picture(drives, verifies=(VerifyDemand("A", "d0", 0.0),)), 1.0) == [Unload("d0")]


def test_discs_that_leave_are_unloaded_first() -> None:
    drives = (DriveView("d0", False, "A"),)
    picture = Picture(drives, reads=(ReadDemand("v", ("A",), 0.0),), unloads=("A",))
    assert plan(picture, 1.0) == [Unload("d0")]


names = st.sampled_from(["A", "B", "C", "D"])


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    discs = draw(st.lists(names, unique=True, max_size=3))
    drives = tuple(
        DriveView(f"d{i}", draw(st.booleans()), discs[i] if i < len(discs) else "", 0.0)
        for i in range(3)
    )
    reads = tuple(
        ReadDemand(f"r{i}", tuple(draw(st.lists(names, unique=True, min_size=1))), float(i))
        for i in range(draw(st.integers(0, 3)))
    )
    burns = tuple(BurnDemand(f"b{i}", 2, 0.0) for i in range(draw(st.integers(0, 2))))
    verifies = tuple(VerifyDemand(disc, "d0", 0.0) for disc in draw(st.sets(names, max_size=2)))
    return Picture(drives, reads, burns, verifies)


@given(pictures())
def test_no_drive_and_no_disc_is_used_twice(picture: Picture) -> None:
    used: list[str] = []
    holder = {view.disc: view for view in picture.drives if view.disc}
    for action in plan(picture, 1000.0):
        match action:
            case Burn(_, drives):
                used += drives
            case Read(drive, _, disc) | Verify(drive, disc):
                used.append(drive)
                if disc in holder:
                    assert holder[disc].name == drive
            case Unload(drive):
                used.append(drive)
    busy = {view.name for view in picture.drives if view.busy}
    assert len(used) == len(set(used))
    assert not busy & set(used)


@given(pictures())
def test_something_starts_whenever_a_drive_is_free_and_a_disc_is_wanted(picture: Picture) -> None:
    busy_discs = {view.disc for view in picture.drives if view.busy}
    servable = [read for read in picture.reads if not set(read.discs) <= busy_discs]
    idle = [view for view in picture.drives if not view.busy]
    reads = [action for action in plan(picture, 1000.0) if isinstance(action, Read)]
    assert bool(reads) == bool(servable and idle)
