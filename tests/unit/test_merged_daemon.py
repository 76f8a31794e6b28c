"""Parts of hsmd that were made apart and meet: what one of them does, the others know."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from hsmfs.clock import ManualClock
from hsmfs.config import Health
from hsmfs.daemon.alarms import Alarms
from hsmfs.daemon.care import Care
from hsmfs.daemon.catalog import Catalog as CatalogStore
from hsmfs.daemon.catalogrecords import (
    DiscRecord,
    DiscState,
    MagazineRecord,
    MagazineState,
    VolumeRecord,
    VolumeState,
)
from hsmfs.daemon.drivetask import DriveState, DriveUnit
from hsmfs.daemon.hsmd import _CheckJob
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.manual.people import People
from hsmfs.daemon.manual.seat import Seat
from hsmfs.daemon.metrics import Metrics
from hsmfs.daemon.packing import Found
from hsmfs.daemon.picture import Work
from hsmfs.daemon.policy.rules import Pace
from hsmfs.daemon.rulepace import RulePace
from hsmfs.daemon.stagejob import ImageBurn, Stage, StageJob
from hsmfs.daemon.statusmetrics import _copies
from hsmfs.daemon.stopping import _burning
from hsmfs.daemon.unlabelled import Unlabelled
from hsmfs.daemon.verifyjob import VerifyJob
from hsmfs.daemon.waiting import JobSets, PlannedFor, Waiting, WaitingFiles
from hsmfs.daemon.ward import Ward
from hsmfs.errors import DriveError, HsmError, MediumError
from hsmfs.types import FileVersion, Residency


def disc_of(state: DiscState, volume: str = "") -> DiscRecord:
    return DiscRecord(
        barcode="D1", magazine="M01", position=0, library="lib", state=state, volume=volume
    )


class Job_:
    async def run(self, unit: DriveUnit) -> None:
        """Is handed over and never begun."""


def unit_of(clock: ManualClock, name: str = "d0", element: int = 100) -> DriveUnit:
    return DriveUnit(name, element, SimpleNamespace(), clock)  # type: ignore[arg-type]


class Catalog:
    """Records in memory; counts what was stored."""

    def __init__(self, *discs: DiscRecord) -> None:
        self.discs = {disc.barcode: disc for disc in discs}
        self.drives: dict[str, Any] = {}
        self.stored = 0

    async def transact(self, *changes: Any) -> None:
        self.stored += len(changes)

    async def save(self, *records: Any) -> None:
        self.stored += len(records)


def core_of(catalog: Catalog, load_fails: HsmError | None = None) -> Any:
    """What a drive's job needs of hsmd."""

    async def load(unit: DriveUnit, barcode: str) -> None:
        if load_fails is not None:
            unit.charge(load_fails, for_good=True)
            raise load_fails

    clock = ManualClock()
    return SimpleNamespace(
        catalog=catalog,
        clock=clock,
        alarms=Alarms(clock),
        librarian=SimpleNamespace(load=load, alive_units=list),
        reserved=set[str](),
        wake=lambda: None,
    )


def test_two_rules_of_one_run_keep_their_files_apart() -> None:
    """``hsm policy run`` has one job; each rule counts what it asked for."""
    clock = ManualClock()
    paces = [RulePace(name, Pace(), clock, Alarms(clock)) for name in ("a", "b")]
    parent = Job(1, "policy")
    jobs = [pace.job(parent) for pace in paces]
    sets = JobSets()
    queue, planned = WaitingFiles(sets), PlannedFor(sets)
    for ino in range(1, 1001):  # several blocks
        pace, job = paces[ino % 2], jobs[ino % 2]
        pace.under_way += 1
        item = Found(b"f%d" % ino, ino, 1, 1, Residency.RESIDENT)
        queue.append(Waiting(item, 0.0, False, [job]))
    while len(queue):
        waiting = queue.pop()
        planned.add(waiting.item.file, waiting.jobs)
    for ino in range(1, 1001):
        for done in planned.pop(FileVersion(ino, 1)):
            done.done(1)
    assert [pace.under_way for pace in paces] == [0, 0]


def test_a_disc_set_aside_by_hand_is_stored() -> None:
    disc, clock = disc_of(DiscState.BLANK), ManualClock()
    catalog, woken = Catalog(disc), list[int]()
    ward = Ward(Health(), [], catalog, Alarms(clock), clock, lambda: woken.append(1))  # type: ignore[arg-type]
    trio.run(ward.quarantine_disc, disc, "scratched", None)
    assert ward.is_aside(disc)
    assert catalog.stored == 2, "the record and its history"
    assert woken


def test_a_stop_waits_for_the_burn_of_a_drive_that_was_taken_out_of_service() -> None:
    unit = unit_of(ManualClock())
    unit.assign(Job_(), DriveState.BURNING, Work.BURN)
    unit.take_out("by hand")
    hsmd: Any = SimpleNamespace(core=SimpleNamespace(librarian=SimpleNamespace(units=[unit])))
    assert _burning(hsmd) == ["d0"]


def test_a_disc_that_does_not_become_ready_twice_gives_nothing_of_an_image() -> None:
    disc, clock = disc_of(DiscState.VERIFIED, "V1"), ManualClock()
    catalog = Catalog(disc)
    units = [unit_of(clock, "d0"), unit_of(clock, "d1")]
    ward = Ward(Health(), units, catalog, Alarms(clock), clock, lambda: None)  # type: ignore[arg-type]
    stage, tried = Stage(VolumeRecord(label="V1", pool="p"), Path("V1.img")), list[set[str]]()
    for unit in units:
        core = core_of(catalog, MediumError("no reference position found"))
        core.ward, unit.disc = ward, "D1"
        trio.run(StageJob(core, stage, disc, lambda job: None).run, unit)
        tried.append(set(stage.tried))
    assert tried == [set(), {"D1"}]
    assert disc.state == DiscState.DAMAGED


@pytest.mark.parametrize(
    ("error", "state", "is_cut"),
    [
        (DriveError("d0: no answer"), DiscState.BURNING, True),
        (MediumError("d0: not ready"), DiscState.SUSPECT, False),
    ],
)
def test_a_cut_disc_that_was_not_seen_is_looked_at_again(
    error: HsmError, state: DiscState, is_cut: bool
) -> None:
    disc, cut = disc_of(DiscState.BURNING, "V1"), set[str]()
    core = core_of(Catalog(disc), error)
    core.reserved.add("D1")
    with pytest.raises(type(error)):
        trio.run(_CheckJob(core, disc, cut).run, unit_of(core.clock))
    assert (disc.state, bool(cut), core.reserved) == (state, is_cut, set())


@pytest.mark.parametrize("error", [None, MediumError("disc D1: damaged")])
def test_a_disc_may_be_retired_while_it_is_proved(error: HsmError | None) -> None:
    disc = disc_of(DiscState.RETIRED, "V1")
    core = core_of(Catalog(disc))
    core.metrics = Metrics()
    core.ward = SimpleNamespace(failed_in=lambda disc: "")
    job = VerifyJob(core, disc, VolumeRecord(label="V1", pool="p"), lambda job: None)
    unit = unit_of(core.clock)
    if error is None:
        trio.run(job._succeeded, unit, 1.0, 1)
    else:
        trio.run(job._failed, unit, error, 1.0)
    assert disc.state == DiscState.RETIRED
    assert not core.alarms.active


def test_a_drive_that_rests_looks_at_no_disc() -> None:
    core = core_of(Catalog())
    units = [unit_of(core.clock, "d0", 100), unit_of(core.clock, "d1", 101)]
    core.librarian = SimpleNamespace(
        units=units, unknown_places=lambda: [1, 2], alive_units=lambda: units
    )
    units[0].rest_until_s = core.clock.monotonic_s() + 5.0
    Unlabelled(core).dispatch()
    assert [unit.busy for unit in units] == [False, True]


@pytest.mark.parametrize(
    ("state", "lacking"), [(MagazineState.SHELF, 0), (MagazineState.MISSING, 1)]
)
def test_copies_in_a_missing_magazine_are_told_as_lacking(
    state: MagazineState, lacking: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hsmfs.daemon.statusmetrics.overdue_discs", lambda core: [])
    catalog = CatalogStore.__new__(CatalogStore)
    catalog.discs = {"D1": disc_of(DiscState.VERIFIED, "V1")}
    catalog.magazines = {
        "M01": MagazineRecord(name="M01", library="lib", first_slot=0, state=state)
    }
    record = VolumeRecord(label="V1", pool="p", copies=1, state=VolumeState.COMPLETE)
    catalog.volumes = {"V1": record}
    hsmd: Any = SimpleNamespace(core=SimpleNamespace(catalog=catalog))
    told = {metric.name: metric.samples for metric in _copies(hsmd)}
    assert told["hsmd_copies_missing"][0].value == lacking


def test_nothing_stays_asked_for_at_a_manual_drive_that_is_out_of_service() -> None:
    people = People.__new__(People)
    seat = Seat(unit_of(ManualClock()), problem="drive d0: no answer")
    assert people._is_loading(seat)
    seat.unit.take_out("by hand")
    assert not people._is_loading(seat)


def test_the_image_of_a_volume_whose_burns_failed_is_removed(tmp_path: Path) -> None:
    disc = disc_of(DiscState.SUSPECT)
    core = core_of(Catalog(disc))
    core.config = SimpleNamespace(burn=SimpleNamespace(attempts_max=1))
    care = Care(core, tmp_path)
    stage = Stage(VolumeRecord(label="V1", pool="p", copies=1, burn_attempts=1), tmp_path / "i")
    stage.begin()
    care.stages["V1"] = stage
    care._burned(ImageBurn(core, stage, disc, care._burned))
    assert not care.stages
    assert not stage.path.exists()
