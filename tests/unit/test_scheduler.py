"""The scheduler: a picture in, actions out."""

from __future__ import annotations

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
    Unload,
    Verify,
    VerifyDemand,
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
