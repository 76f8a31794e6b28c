"""``hsm library audit``: belief against element status, and against discs that are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog
import trio

from hsmfs.daemon.auditcheck import READ, Belief, DiscFound, Finding, Kind, compare, judge
from hsmfs.daemon.auditcheck import known_volume as volume_of
from hsmfs.daemon.catalog import put_history, put_record
from hsmfs.daemon.catalogrecords import (
    DISC_TRANSITIONS,
    DiscRecord,
    DiscState,
    HistoryRecord,
    VolumeRecord,
    VolumeState,
)
from hsmfs.daemon.core import Core
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.picture import VerifyDemand
from hsmfs.errors import CallerError, DriveError, HsmError, LibraryError, MediumError
from hsmfs.volume.reader import VolumeReader

log = structlog.get_logger(__name__)
LOOK_S: Final = 0.5
AGAIN_S: Final = 3.0
"""While drives work, what is still so after so long is a difference, not a disc on its way."""
COPIES: Final = (VolumeState.COMPLETE, VolumeState.SHORT)
"""Volumes to which a disc that turns up may be counted."""


@dataclass(slots=True)
class _Run:
    """One audit with discs."""

    job: Job
    repair: bool
    findings: list[Finding]
    waiting: set[str] = field(default_factory=set)
    """Discs that are still to be read."""
    reading: set[str] = field(default_factory=set)
    discs_read: int = 0


@dataclass(slots=True)
class Auditor:
    """One audit at a time; discs are read in drives that nothing else wants."""

    core: Core
    _run: _Run | None = None

    async def audit(self, job: Job, *, discs: bool, repair: bool, rescan: bool) -> None:
        """The job's details tell all; differences are no failure of the job."""
        if self.core.librarian.config.kind == "manual":
            name = self.core.librarian.config.name
            raise CallerError(f"library {name} has no robot, nothing sees where its discs are")
        if self._run is not None:
            raise CallerError(f"an audit runs already (job {self._run.job.id})")
        run = self._run = _Run(job, repair, [])
        try:
            job.add(1, 0)
            if rescan:
                job.note = "the robot looks into all elements"
                await self.core.librarian.robot.initialize()
            await self._compare(run)
            if discs:
                await self._read_discs(run)
            job.note = ""
            job.details = self._details(run)
            job.done(0)
        finally:
            self._run = None

    def _details(self, run: _Run) -> dict[str, Any]:
        return {
            "findings": [msgspec.to_builtins(finding) for finding in run.findings],
            "repaired": sum(bool(finding.repaired) for finding in run.findings),
            "discs_read": run.discs_read,
        }

    # -- element status ------------------------------------------------------------

    async def _compare(self, run: _Run) -> None:
        librarian = self.core.librarian
        run.findings += await self._differences()
        if any(unit.busy for unit in librarian.units) and run.findings:
            await trio.sleep(AGAIN_S)
            again = await self._differences()
            run.findings = [finding for finding in run.findings if finding in again]
        if run.repair:
            await librarian.refresh()
            for finding in run.findings:
                if finding.kind == Kind.PLACE:
                    finding.repaired = "hsmd believes what element status shows"

    async def _differences(self) -> list[Finding]:
        belief = self._belief()
        return compare(belief, await self.core.librarian.robot.inventory(refresh=True))

    def _belief(self) -> Belief:
        librarian, catalog = self.core.librarian, self.core.catalog
        units = librarian.units
        return Belief(
            place=dict(librarian.place),
            in_drives={unit.element: unit.disc for unit in units if not unit.busy},
            used_drives=frozenset(unit.element for unit in units),
            busy=frozenset(self.core.reserved).union(u.disc for u in units if u.busy and u.disc),
            discs=dict(catalog.discs),
            magazines=dict(catalog.magazines),
            library=librarian.config.name,
        )

    # -- discs -----------------------------------------------------------------------

    async def _read_discs(self, run: _Run) -> None:
        present = self.core.librarian.present
        run.waiting = {
            disc.barcode
            for disc in self.core.catalog.discs.values()
            if disc.state in READ and present(disc)
        }
        run.job.add(len(run.waiting), 0)
        self.core.wake()
        while run.waiting:
            run.job.note = f"{len(run.waiting)} discs are still to be read in idle drives"
            for barcode in sorted(run.waiting - run.reading):
                self._drop_absent(run, self.core.catalog.discs[barcode])
            await trio.sleep(LOOK_S)

    def _drop_absent(self, run: _Run, disc: DiscRecord) -> None:
        if self.core.librarian.present(disc) and self.core.librarian.alive_units():
            return
        why = "its magazine left, or no drive works"
        self._not_read(run, disc, why)
        run.waiting.discard(disc.barcode)
        run.job.done(0)

    def _not_read(self, run: _Run, disc: DiscRecord, why: str) -> None:
        place = f"magazine {disc.magazine}"
        todo = "put it right and audit again"
        run.findings.append(Finding(Kind.NOT_READ, disc.barcode, place, why, "a disc", todo))

    def demands(self) -> list[VerifyDemand]:
        """Discs to be read when nothing else is to be done."""
        run = self._run
        if run is None:
            return []
        now_s = self.core.clock.monotonic_s()
        return [
            VerifyDemand(barcode, "", now_s, is_scrub=True)
            for barcode in sorted(run.waiting - run.reading)
            if barcode not in self.core.reserved
            and self.core.librarian.present(self.core.catalog.discs[barcode])
        ]

    def wants(self, barcode: str) -> bool:
        """Whether a drive should look at this disc for an audit."""
        run = self._run
        return run is not None and barcode in run.waiting - run.reading

    def start(self, barcode: str) -> _LookJob:
        """The job for a drive."""
        assert self._run is not None
        self._run.reading.add(barcode)
        self.core.reserved.add(barcode)
        return _LookJob(self.core, self.core.catalog.discs[barcode], self._looked)

    async def _looked(self, disc: DiscRecord, found: DiscFound | None, why: str) -> None:
        run = self._run
        self.core.reserved.discard(disc.barcode)
        if run is None or disc.barcode not in run.waiting:
            return
        run.waiting.discard(disc.barcode)
        run.reading.discard(disc.barcode)
        run.job.done(0)
        if found is None:
            self._not_read(run, disc, why)
            return
        run.discs_read += 1
        finding = judge(disc, found, self.core.catalog.volumes, self.core.config.site.id)
        if finding is None:
            return
        run.findings.append(finding)
        log.info("audit: a disc is not what it should be", disc=disc.barcode, found=finding.found)
        if run.repair:
            await self._repair(disc, found, finding)

    # -- what is provable ----------------------------------------------------------------

    async def _repair(self, disc: DiscRecord, found: DiscFound, finding: Finding) -> None:
        """Count the disc as what it is; nothing is ever written to it for that."""
        record = volume_of(found, self.core.catalog.volumes, self.core.config.site.id)
        if record is not None and record.state not in COPIES:
            record = None
        before = f"{disc.state} {disc.volume}".strip()
        if disc.state != DiscState.FOREIGN:
            if DiscState.FOREIGN not in DISC_TRANSITIONS[disc.state]:
                return
            disc.become(DiscState.FOREIGN)
        disc.volume, disc.used_sectors = "", 0
        disc.note = f"audit: found {finding.found}, expected {finding.expected}"
        finding.repaired = "it counts as a disc of others"
        if record is not None:
            disc.become(DiscState.BURNED)
            disc.volume, disc.used_sectors = record.label, record.total_sectors
            finding.repaired = f"it counts as a copy of {record.label} when it is proved"
        await self._save(disc, record, f"{finding.repaired}; it was {before}")
        self.core.wake()

    async def _save(self, disc: DiscRecord, record: VolumeRecord | None, text: str) -> None:
        entry = HistoryRecord(what="audit", volume=disc.volume, text=text)
        change = put_history(disc.barcode, self.core.clock.now_ns(), entry)
        records = [put_record(disc)]
        if record is not None:
            record.state = VolumeState.COMPLETE
            records.append(put_record(record))
        await self.core.catalog.transact(*records, change)


@dataclass(slots=True)
class _LookJob:
    """See what a disc is (a ``DriveJob``); nothing is written to it."""

    core: Core
    disc: DiscRecord
    on_ended: Callable[[DiscRecord, DiscFound | None, str], Any]

    async def run(self, unit: DriveUnit) -> None:
        found, why = None, ""
        try:
            await self.core.librarian.load(unit, self.disc.barcode)
            found = await self._look(unit)
            unit.credit()
        except MediumError as error:
            why = str(error)
        except (DriveError, LibraryError) as error:
            why = str(error)
            if isinstance(error, DriveError):
                unit.charge(error, for_good=True)
        except HsmError as error:
            why = str(error)
        finally:
            with trio.CancelScope(shield=True):
                await self.on_ended(self.disc, found, why)

    async def _look(self, unit: DriveUnit) -> DiscFound:
        info = await unit.call(unit.drive.disc_info)
        if info.state == "blank":
            return DiscFound("blank")
        sectors = await unit.call(unit.drive.total_sectors)
        try:
            reader = await unit.call(lambda: VolumeReader(unit.drive.read, sectors))
            return DiscFound(info.state, await unit.call(lambda: reader.header))
        except MediumError as error:
            return DiscFound(info.state, None, str(error))
