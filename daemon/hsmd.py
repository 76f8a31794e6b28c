"""The daemon as a whole: parts wired together, and the dispatcher.

The dispatcher makes a picture of drives and demands, asks the scheduler what
to do, and hands jobs to drives. It runs when something changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
import trio

from hsmfs.daemon.activevolume import ActiveVolume
from hsmfs.daemon.audit import Auditor
from hsmfs.daemon.autoreclaim import AutoReclaim
from hsmfs.daemon.blankstock import BlankStock
from hsmfs.daemon.burnjob import BurnSession
from hsmfs.daemon.care import Care
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, VolumeRecord
from hsmfs.daemon.core import Core
from hsmfs.daemon.discchoice import choose_discs, copies_left
from hsmfs.daemon.drivetask import DriveState, DriveUnit
from hsmfs.daemon.floor import BurnFloor
from hsmfs.daemon.hashjob import HashJob
from hsmfs.daemon.importer import Importer
from hsmfs.daemon.magazines import Magazines
from hsmfs.daemon.manual.people import People
from hsmfs.daemon.migrator import Migrator
from hsmfs.daemon.offsite import Offsite
from hsmfs.daemon.packing import founds
from hsmfs.daemon.readjob import ReadJob
from hsmfs.daemon.recaller import Recaller
from hsmfs.daemon.releaser import Releaser
from hsmfs.daemon.resume import resume
from hsmfs.daemon.scheduler import (
    Action,
    Burn,
    BurnDemand,
    DriveView,
    Picture,
    Read,
    StageImage,
    Unload,
    Verify,
    VerifyDemand,
    Work,
    Yield,
    plan,
)
from hsmfs.daemon.supervise import supervise
from hsmfs.daemon.unlabelled import Unlabelled
from hsmfs.errors import DriveError, HsmError, MediumError
from hsmfs.rpc.messages import Event, Wanted

log = structlog.get_logger(__name__)
TICK_S: Final = 0.25
ROBOT_REST_S: Final = 0.5
ROBOT_REST_MAX_S: Final = 60.0
ROBOT_FAILURES_TOLD: Final = 4
"""Failed moves in a row after which those who wait for migration are told."""


class _UnloadJob:
    """Bring a disc home."""

    def __init__(self, core: Core) -> None:
        self.core = core

    async def run(self, unit: DriveUnit) -> None:
        await self.core.librarian.unload(unit)


class _CheckJob:
    """Look at a disc: learn its capacity, or what a cut burn left."""

    def __init__(self, core: Core, disc: DiscRecord, cut: set[str] | None = None) -> None:
        self.core = core
        self.disc = disc
        self.cut = cut if cut is not None else set()
        """Discs that are still to be looked at."""

    async def run(self, unit: DriveUnit) -> None:
        disc = self.disc
        try:
            await self.core.librarian.load(unit, disc.barcode)
            info = await unit.call(unit.drive.disc_info)
            if info.state == "blank":
                disc.capacity_sectors = info.capacity_sectors
            self._judge(info.state)
            await self.core.catalog.save(disc)
            await self.core.librarian.unload(unit)
        except MediumError as error:
            if disc.state == DiscState.BURNING:
                self._judge(str(error))
                await self.core.catalog.save(disc)
            raise
        except DriveError as error:
            unit.charge(error, for_good=True)  # so that it rests before the next try
            raise
        finally:
            if disc.state == DiscState.BURNING:  # drive or robot failed: it is looked at again
                self.cut.add(disc.barcode)
            self.core.reserved.discard(disc.barcode)

    def _judge(self, found: str) -> None:
        disc = self.disc
        if disc.state == DiscState.BURNING and found == "blank":
            disc.become(DiscState.BLANK)
            disc.volume = ""
        elif disc.state == DiscState.BURNING:
            disc.become(DiscState.SUSPECT)
            disc.note = f"its burn was cut (found {found})"
        elif disc.state == DiscState.BLANK and found != "blank":
            disc.become(DiscState.FOREIGN)
            disc.note = f"expected blank, found {found}; nothing was written to it"
            self.core.alarms.raise_(
                "foreign-disc", f"disc {disc.barcode} in magazine {disc.magazine}: {disc.note}"
            )


@dataclass(slots=True)
class Hsmd:
    """All parts; ``run`` keeps them going."""

    core: Core
    migrator: Migrator
    recaller: Recaller
    releaser: Releaser
    magazines: Magazines
    care: Care
    importer: Importer
    offsite: Offsite
    reclaim: AutoReclaim
    stock: BlankStock
    auditor: Auditor
    changed: trio.Event
    cut: set[str]
    """Discs that were burning when hsmd last ended."""
    floor: BurnFloor
    unlabelled: Unlabelled
    people: People | None = None
    """Who load the drives, where there is no robot."""
    failures_told: int = 0
    rest_until_s: float = 0.0
    draining: bool = False
    """hsmd ends soon: nothing but reads is begun."""

    async def on_event(self, event: Event) -> None:
        if isinstance(event, Wanted):
            await self.recaller.on_wanted(event)
        else:
            await self.recaller.on_no_longer_wanted(event)

    async def on_connect(self) -> None:
        """Take up what a restart of either side left."""
        try:
            await self.core.link.sync()
            await resume(self.migrator)
            await self._resume_recalls()
        except HsmError as error:
            log.warning("resume waits for the next connection", error=str(error))
        self.core.wake()

    async def _resume_recalls(self) -> None:
        asked = [ino for ino, _ in self.core.catalog.asked("r")]
        items = await self.core.namespace.read(lambda view: founds(view, asked))
        await self.core.catalog.answer("r", set(asked) - {item.ino for item in items})
        items = [item for item in items if item.file not in self.recaller.requests]
        if items:
            job = self.core.jobs.new("recall")
            job.note = "taken up again after a restart"
            job.add(len(items), sum(item.size for item in items))
            await self.recaller.ask(items, job)

    async def run(self) -> None:
        """Until cancelled."""
        core = self.core
        async with trio.open_nursery() as nursery:

            def start(name: str, work: Callable[[], Awaitable[None]]) -> None:
                nursery.start_soon(supervise, name, work, core.alarms, name=name)

            start("robot", core.librarian.robot.serve)
            await core.librarian.refresh()
            for unit in core.librarian.units:
                start(unit.name, partial(unit.serve, core.wake))
            start("library", core.librarian.watch)
            start("connection", core.link.serve)
            start("migrator", self.migrator.run)
            start("files in parts", self.migrator.splits.hasher.run)
            start("recaller", self.recaller.run)
            start("releaser", self.releaser.run)
            start("magazines", self.magazines.run)
            start("care", self.care.run)
            start("ward", core.ward.run)
            start("imports", self.importer.serve)
            start("offsite", self.offsite.run)
            start("reclaim", self.reclaim.run)
            start("stock", self.stock.run)
            if self.people is not None:
                start("people", self.people.run)
            start("dispatcher", self._dispatch_always)

    async def _dispatch_always(self) -> None:
        while True:
            self.changed = trio.Event()
            self._dispatch()
            with trio.move_on_after(TICK_S):
                await self.changed.wait()

    def wake(self) -> None:
        """Look again soon."""
        self.changed.set()
        self.migrator.wake()

    # -- the dispatcher -----------------------------------------------------------

    def _dispatch(self) -> None:
        if self._robot_rests():
            return
        self._rescue()
        self._give_back()
        if not self.draining and self.people is None:
            self.unlabelled.dispatch()
            self._check_discs()
        decide = plan if self.people is None else self.people.plan
        for action in decide(self._picture(), self.core.clock.monotonic_s()):
            if self._is_possible(action):
                self._start(action)

    def _is_possible(self, action: Action) -> bool:
        """A burn goes to the drive in which its blank disc lies, whatever the plan says; what
        the plan wanted of that drive waits for the next plan."""
        if isinstance(action, Yield | Burn):
            return True
        unit = next(unit for unit in self.core.librarian.units if unit.name == action.drive)
        if unit.busy:
            self.core.wake()
        return not unit.busy

    def _robot_rests(self) -> bool:
        """After failed moves the library gets time, longer each time, up to a bound."""
        librarian = self.core.librarian
        failures = librarian.failures_in_row
        if failures != self.failures_told:
            self.failures_told = failures
            rest_s = min(ROBOT_REST_MAX_S, ROBOT_REST_S * 2 ** min(failures, 10))
            self.rest_until_s = self.core.clock.monotonic_s() + rest_s if failures else 0.0
            if failures:
                self.core.alarms.raise_("library", librarian.problem)
            else:
                self.core.alarms.clear("library")
            if failures >= ROBOT_FAILURES_TOLD:
                self.migrator.tell_everybody(librarian.problem)
        return self.core.clock.monotonic_s() < self.rest_until_s

    def _picture(self) -> Picture:
        now_s = self.core.clock.monotonic_s()
        drives = tuple(self._view(unit) for unit in self.core.librarian.alive_units())
        burns = tuple(self._burn_demands())
        verifies = (
            *self._verify_demands(),
            *self.care.verify_demands(),
            *self.importer.demands(),
            *self.auditor.demands(),
        )
        stages = tuple(self.care.stage_demands())
        if self.draining:
            burns, verifies, stages = (), (), ()
        return Picture(
            drives=drives,
            reads=tuple(self.recaller.demands()),
            burns=burns,
            verifies=verifies,
            stages=stages,
            unloads=self.magazines.leaving_discs(),
            rules=self.core.rules,
            burn_debt_s=self.floor.update(now_s, drives, burns, verifies),
            robot_share=self.core.librarian.robot.busy.of(now_s),
        )

    def _view(self, unit: DriveUnit) -> DriveView:
        disc = self.core.catalog.discs.get(unit.disc)
        return unit.view(self.recaller.heat.of(disc.volume) if disc else 0.0)

    def _burn_demands(self) -> list[BurnDemand]:
        demands = []
        short = ""
        for active in self.migrator.active.values():
            left = self.migrator.copies_left(active)
            if left <= 0 or not active.claimed or self._too_many(active):
                continue
            if active.burning or self._cut_disc_waits(active):
                continue
            discs = self.choose_discs(active.record, left)
            if len(discs) < left and self.offsite.to_mark(active.record) is not None:
                continue  # a magazine for the off-site copy is marked in a moment
            if len(discs) < left:
                short = self._no_blanks(active, left, len(discs))
                continue
            active.hold = ""
            demands.append(BurnDemand(active.record.label, left, active.since_s))
        for record, left in self.care.burn_demands():
            if self.choose_discs(record, 1):
                demands.append(BurnDemand(record.label, 1, self.core.clock.monotonic_s()))
            else:
                short = short or self._blanks_text(record, left, 0)
                self.core.alarms.raise_("no-blank-discs", short)
        self.magazines.blanks_wanted = short
        if not short:
            self.core.alarms.clear("no-blank-discs")
        return demands

    def _cut_disc_waits(self, active: ActiveVolume) -> bool:
        """A disc of the volume was cut and is still to be looked at."""
        discs = self.core.catalog.discs_of(active.record.label)
        present = self.core.librarian.present
        return any(disc.state == DiscState.BURNING and present(disc) for disc in discs)

    def _too_many(self, active: ActiveVolume) -> bool:
        bound = self.core.config.burn.attempts_max * active.record.copies
        return active.record.burn_attempts >= bound

    def _no_blanks(self, active: ActiveVolume, left: int, found: int) -> str:
        text = self._blanks_text(active.record, left, found)
        if active.hold != text:
            active.hold = text
            self.core.alarms.raise_("no-blank-discs", text)
            self.migrator.tell_held(active, text)
        return text

    def _blanks_text(self, record: VolumeRecord, left: int, found: int) -> str:
        if self.core.librarian.by_hand:
            return (
                f"Library {self.core.librarian.config.name}: {left} different boxes wanted for "
                f"copies of volume {record.label}, {found} are at hand. Add boxes, or bring one."
            )
        away = copies_left(self.core, record)[1]
        leaving = f" ({away} of them in one for off-site, see hsm magazine offsite)" if away else ""
        return (
            f"Library {self.core.librarian.config.name}: {left} blank discs in different "
            f"magazines{leaving} wanted, {found} found. Bring a magazine with blank discs."
        )

    def choose_discs(self, record: VolumeRecord, count: int) -> list[DiscRecord]:
        """Blank discs, each in a magazine that has no copy of the volume yet."""
        return choose_discs(self.core, record, count, self.care.parity.blanks_kept())

    def _verify_demands(self) -> list[VerifyDemand]:
        verifying = self._verifying
        return [
            VerifyDemand(
                disc.barcode,
                self.core.ward.failed_in(disc) or disc.burned_in,
                self.migrator.active[disc.volume].since_s,
            )
            for disc in self.core.catalog.discs.values()
            if disc.state == DiscState.BURNED
            and disc.volume in self.migrator.active
            and disc.barcode not in verifying
            and self.core.librarian.present(disc)
        ]

    @property
    def _verifying(self) -> set[str]:
        return self.core.reserved

    def _start(self, action: Action) -> None:
        units = {unit.name: unit for unit in self.core.librarian.units}
        match action:
            case Read(drive, volume, barcode):
                self.recaller.serving.add(volume)
                job = ReadJob(self.recaller, volume, self.core.catalog.discs[barcode])
                units[drive].assign(job, DriveState.READING, Work.READ)
            case Yield(drive):
                units[drive].yields = True
            case Unload(drive):
                units[drive].assign(_UnloadJob(self.core), DriveState.LOADING)
            case Verify(drive, barcode) if barcode in self.importer.wanted:
                reading = self.importer.start(barcode)
                work = Work.VERIFY if isinstance(reading, HashJob) else Work.OTHER
                units[drive].assign(reading, DriveState.READING, work)
            case Verify(drive, barcode) if self.auditor.wants(barcode):
                units[drive].assign(self.auditor.start(barcode), DriveState.READING, Work.SCRUB)
            case Verify(drive, barcode):
                proof = self.care.start_verify(barcode)
                work = Work.SCRUB if barcode in self.care.scrubs else Work.VERIFY
                units[drive].assign(proof, DriveState.VERIFYING, work)
            case StageImage(drive, volume, barcode):
                units[drive].assign(self.care.start_stage(volume, barcode), DriveState.READING)
            case Burn(volume, drives) if volume in self.migrator.active:
                self._start_burn(self.migrator.active[volume], [units[name] for name in drives])
            case Burn(volume, drives):
                blanks = self.choose_discs(self.core.catalog.volumes[volume], 1)
                for unit, blank in self._paired([units[drives[0]]], blanks):
                    copy = self.care.start_burn(volume, blank)
                    unit.assign(copy, DriveState.BURNING, Work.BURN)

    def _start_burn(self, active: ActiveVolume, units: list[DriveUnit]) -> None:
        pairs = self._paired(units, self.choose_discs(active.record, len(units)))
        if not pairs:
            return
        self.core.reserved.update(disc.barcode for _, disc in pairs)
        discs = {unit.name: disc for unit, disc in pairs}
        session = BurnSession(self.core, active, discs, self._burned)
        session.start([unit for unit, _ in pairs])
        for unit, _ in pairs:
            unit.assign(session, DriveState.BURNING, Work.BURN)

    def _paired(
        self, units: list[DriveUnit], discs: list[DiscRecord]
    ) -> list[tuple[DriveUnit, DiscRecord]]:
        """A drive for each disc: one that lies in an idle drive (after a restart) stays there,
        for the robot takes none out of a drive that has not let go of it."""
        pairs, left = [], [unit for unit in units if not unit.busy]
        for disc in discs:
            holder = self.core.librarian.unit_with(disc.barcode)
            if holder is not None and (holder.busy or not holder.alive):
                continue
            if holder is not None:
                left = [unit for unit in left if unit is not holder]
                pairs.append((holder, disc))
        held = {disc.barcode for _, disc in pairs}
        free = [disc for disc in discs if self.core.librarian.unit_with(disc.barcode) is None]
        room = max(0, len(units) - len(pairs))
        pairs += zip(left[:room], (disc for disc in free if disc.barcode not in held), strict=False)
        return pairs

    def _burned(self, session: BurnSession) -> None:
        session.active.since_s = self.core.clock.monotonic_s()
        self.core.wake()

    # -- discs that need a look --------------------------------------------------------

    def _check_discs(self) -> None:
        now_s = self.core.clock.monotonic_s()
        alive = self.core.librarian.alive_units()
        idle = [unit for unit in alive if not unit.busy and unit.rest_until_s <= now_s]
        wanted = [
            self.core.catalog.discs[code]
            for code in sorted(self.cut)
            if self.core.librarian.present(self.core.catalog.discs[code])
        ]
        if not wanted and self.migrator.wants_probe:
            wanted = self.core.librarian.blanks(set(), self.core.reserved)[:1]
        for disc in wanted:
            holder = self.core.librarian.unit_with(disc.barcode)
            unit = holder if holder in idle else (None if holder else next(iter(idle), None))
            if unit is None or disc.barcode in self.core.reserved:
                continue
            self.cut.discard(disc.barcode)
            self.core.reserved.add(disc.barcode)
            idle.remove(unit)
            unit.assign(_CheckJob(self.core, disc, self.cut), DriveState.LOADING)

    def _give_back(self) -> None:
        """After a fault a disc goes home, so that another drive can try it."""
        for unit in self.core.librarian.alive_units():
            if unit.gives_back and not unit.busy:
                unit.gives_back = False
                if unit.disc:
                    unit.assign(_UnloadJob(self.core), DriveState.LOADING)

    def _rescue(self) -> None:
        """A failed drive gives its disc back, if the robot can get it."""
        for unit in self.core.librarian.units:
            if not unit.alive:
                if unit.state == DriveState.FAILED:
                    text = f"drive {unit.name} is out of service: {unit.note}"
                    self.core.alarms.raise_("drive-failed", text)
                if unit.disc and not unit.busy and not unit.rescued:
                    unit.rescued = True
                    unit.assign_rescue(_UnloadJob(self.core))
