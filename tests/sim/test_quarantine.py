"""Drives and discs that go out of use and come back, in a whole system on a clock that jumps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from support.faultsite import Shape, Site, VirtualClock, running

from hsmfs.changer.emulated import Fault
from hsmfs.daemon.catalogrecords import DiscState
from hsmfs.daemon.drivetask import DriveState, DriveUnit
from hsmfs.daemon.ward import DISC_TRIES_MAX
from hsmfs.errors import CallerError

pytestmark = pytest.mark.allow_warnings
DEAD = (4, 0x44, 0)
SHORT = "[health]\ndrive_quarantine_s = 60.0\ndisc_quarantine_s = 60.0\n"
SMALL = Shape(slots=8, magazine_slots=4, more=SHORT)
Story = Callable[[Site], Awaitable[None]]


def play(root: Path, *stories: Story, shape: Shape = SMALL) -> None:
    """Each story in a run of the system of its own."""
    clock = VirtualClock()

    async def main() -> None:
        for story in stories:
            async with running(root, clock, shape) as site:
                await story(site)

    trio.run(main, clock=clock.mock)


def states(site: Site) -> list[str]:
    return [unit.state.value for unit in site.hsmd.core.librarian.units]


def disc_state(site: Site, barcode: str) -> DiscState:
    return site.hsmd.core.catalog.discs[barcode].state


async def migrated(site: Site, name: str) -> None:
    await site.write(name, name.encode() * 5000)
    job = await site.migrate()
    assert job.state == "done", job.as_dict()


def test_a_dead_drive_goes_out_and_comes_back_on_trial(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        site.library.faults.set([Fault(device="drive0", sense=DEAD)])
        for name in "abcdef":
            await migrated(site, name)
            await trio.sleep(15)
            if states(site)[0] == "quarantined":
                break
        assert states(site) == ["quarantined", "idle"]
        assert site.hsmd.core.ward.counts()["drives"] == 1
        assert any(kind == "drive-quarantine" for kind, _ in site.hsmd.core.alarms.active)
        site.library.faults.set([])
        await site.until(lambda: states(site) == ["idle", "idle"], "drive0 is back")
        assert site.hsmd.core.catalog.drives["drive0"].trial
        for name in "ghi":
            await migrated(site, name)
        assert "drive0" not in site.hsmd.core.catalog.drives
        assert not any(kind == "drive-quarantine" for kind, _ in site.hsmd.core.alarms.active)

    play(tmp_path, story, shape=Shape(slots=32, magazine_slots=16, more=SHORT))


def test_by_hand_a_drive_stays_out_over_a_restart(tmp_path: Path) -> None:
    async def first(site: Site) -> None:
        ward = site.hsmd.core.ward
        ward.quarantine(ward.unit("drive1"), "by hand: noisy", 0.0)
        await ward.save()
        await migrated(site, "a")
        assert states(site) == ["idle", "quarantined"]

    async def second(site: Site) -> None:
        ward = site.hsmd.core.ward
        assert states(site) == ["idle", "quarantined"]
        assert site.hsmd.core.librarian.units[1].note == "by hand: noisy"
        ward.release(ward.unit("drive1"))
        assert states(site) == ["idle", "idle"]
        with pytest.raises(CallerError, match="not in quarantine"):
            ward.release(ward.unit("drive1"))
        with pytest.raises(CallerError, match="expected one of drive0, drive1"):
            ward.unit("drive7")

    play(tmp_path, first, second)


def test_a_blank_disc_that_no_drive_takes_is_set_aside_then_suspect(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        site.library.faults.set([Fault(device="HSM00001", op="load", sense=(2, 0x30, 0))])
        await migrated(site, "a")
        core = site.hsmd.core
        disc = core.catalog.discs["HSM00001"]
        assert core.ward.is_aside(disc) and disc.state == DiscState.BLANK
        assert set(states(site)) == {"idle"}, "no drive is to blame"
        for name in "bcd"[:DISC_TRIES_MAX]:
            await trio.sleep(8 * core.config.health.disc_quarantine_s)
            assert not core.ward.is_aside(disc) or disc.state != DiscState.BLANK
            await migrated(site, name)
        assert disc.state == DiscState.SUSPECT

    play(tmp_path, story, shape=Shape(slots=16, magazine_slots=8, more=SHORT))


def test_a_fresh_disc_is_proved_in_another_drive_before_it_is_given_up(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        site.library.faults.set([Fault(device="drive0", op="read", sense=(3, 0x11, 5))])
        await migrated(site, "a")
        catalog = site.hsmd.core.catalog
        burned = [disc for disc in catalog.discs.values() if disc.state != DiscState.BLANK]
        assert [disc.state for disc in burned] == [DiscState.VERIFIED] * 2, site.words()
        assert {disc.verified_in for disc in burned} == {"drive1"}

    play(tmp_path, story)


def test_a_disc_shut_in_a_dead_drive_does_not_hold_up_its_volume(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await migrated(site, "a")
        await site.write("b", b"b" * 50_000)
        site.library.faults.set([Fault(device="drive0", effect="lost", op="eject")])
        await migrated(site, "b")

    play(tmp_path, story)


def test_a_reader_waits_for_the_proof_of_copies_that_failed_in_bad_drives(tmp_path: Path) -> None:
    """Both copies had failed, were proved since, and nobody told the reader's request."""

    async def story(site: Site) -> None:
        await migrated(site, "a")
        await site.release()
        faults = [Fault(device=f"drive{n}", op="read", sense=(3, 0x11, 5), count=1) for n in (0, 1)]
        site.library.faults.set(faults)
        data = None
        with trio.move_on_after(1800):
            data = await site.read("a")
        assert data == b"a" * 5000, site.words()

    play(tmp_path, story)


def test_a_bug_in_a_drives_job_is_not_tried_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    async def story(site: Site) -> None:
        bad = "HSM00001"
        load = site.hsmd.core.librarian.load

        async def buggy(unit: DriveUnit, barcode: str) -> None:
            await load(unit, barcode)
            if barcode == bad:
                tried.append(unit.name)
                raise ZeroDivisionError("a bug")

        monkeypatch.setattr(site.hsmd.core.librarian, "load", buggy)
        await migrated(site, "a")
        assert len(tried) <= 4
        assert site.hsmd.core.ward.is_aside(site.hsmd.core.catalog.discs[bad])
        assert DriveState.QUARANTINED.value not in states(site)

    play(tmp_path, story, shape=Shape(slots=16, magazine_slots=8, more=SHORT))
