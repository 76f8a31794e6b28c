"""Care for discs: fresh copies for damaged ones, renewal, regular reading.

What is to be done follows from the catalog alone, so that a restart goes on:
a complete volume with fewer proved discs than it should have gets more; discs
named in ``VolumeRecord.refresh`` do not count, and are retired when enough
others are proved. Images that were read into files are read anew after a
restart.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
import trio

from hsmfs.daemon.carecounts import end_alarms, proved_discs, tell_blame, unproved_discs
from hsmfs.daemon.catalog import put_history, put_record
from hsmfs.daemon.catalogrecords import (
    DiscRecord,
    DiscState,
    HistoryRecord,
    VolumeRecord,
    VolumeState,
)
from hsmfs.daemon.core import Core
from hsmfs.daemon.discproof import Proof
from hsmfs.daemon.identifyjob import IdentifyJob
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.paritykeeper import ParityKeeper
from hsmfs.daemon.parityset import FoldJob
from hsmfs.daemon.poolcare import due_disc, scrub_percent
from hsmfs.daemon.scheduler import StageDemand, VerifyDemand
from hsmfs.daemon.stagejob import ImageBurn, Stage, StageJob
from hsmfs.daemon.verifyjob import WHOLE_PERCENT, VerifyJob
from hsmfs.errors import CallerError, MediumError

log = structlog.get_logger(__name__)
LOOK_S: Final = 2.0
REPAIRS_MAX: Final = 2
"""Volumes that get fresh discs at once: bounds the room for images."""
IN_USE: Final = (DiscState.BURNING, DiscState.BURNED, DiscState.VERIFIED)
WHOLE: Final = (DiscState.BURNED, DiscState.VERIFIED)
"""At start; a burn that still counts as running then was cut."""


@dataclass(slots=True)
class _Asked:
    """A proof that a person wants."""

    percent: float
    job: Job


@dataclass(slots=True)
class Care:
    """Owner of volumes that get fresh discs, and of proofs that nobody burned for."""

    core: Core
    stage_root: Path
    stages: dict[str, Stage] = field(default_factory=dict)
    """Images that are read or ready, by volume."""
    busy: set[str] = field(default_factory=set)
    """Volumes whose image is read or burned right now."""
    hopeless: dict[str, str] = field(default_factory=dict)
    """Volumes of which no whole image can be had, and why."""
    asked: dict[str, _Asked] = field(default_factory=dict)
    """By barcode."""
    waiting: dict[str, list[Job]] = field(default_factory=lambda: defaultdict(list))
    """Jobs that end when a volume has its copies."""
    scrubs: set[str] = field(default_factory=set)
    paused: dict[str, tuple[str, float, Proof]] = field(default_factory=dict)
    """Discs whose proof made room for readers, by barcode: volume, sample in percent and how far
    it came. A restart of hsmd, or the disc out of the library, begins anew."""
    unknown: dict[str, Job] = field(default_factory=dict)
    """Discs that people want looked at, by barcode."""
    doubted: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Discs of which a part could not be read just now: in which drive, and when."""
    on_proved: Callable[[str], None] = lambda barcode: None
    """Told of each disc that was proved."""
    parity: ParityKeeper = field(init=False)
    _from_parity: set[str] = field(default_factory=set)
    """Volumes whose discs give no whole image; parity does."""
    _since_s: float = 0.0

    def __post_init__(self) -> None:
        self.parity = ParityKeeper(self.core, self.stage_root / "parity")

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        await trio.to_thread.run_sync(lambda: shutil.rmtree(self.stage_root, ignore_errors=True))
        self._since_s = self.core.clock.monotonic_s()
        await self._forget_unburned_parity()
        while True:
            await self._look()
            await self.parity.look(self.stages, self.stage_root)
            await trio.sleep(LOOK_S)

    async def _forget_unburned_parity(self) -> None:
        """Parity volumes whose image went with the restart; they are made anew."""
        for record in list(self.core.catalog.volumes.values()):
            discs = self.core.catalog.discs_of(record.label)
            if record.parity is None or any(disc.state in WHOLE for disc in discs):
                continue
            if discs:  # what names it stays explained
                record.state = VolumeState.SHORT
                await self.core.catalog.save(record)
            else:
                await self.core.catalog.forget_volume(record.label)

    # -- fresh copies ------------------------------------------------------------------

    async def _look(self) -> None:
        counted = proved_discs(self.core)
        for record in list(self.core.catalog.volumes.values()):
            if record.state != VolumeState.COMPLETE:
                continue
            lacking = record.copies - counted[record.label]
            if lacking <= 0:
                await self._enough(record)
            elif lacking > unproved_discs(self.core, record.label) and self._may_begin(record):
                if any(True for _ in self._sources(record.label)):
                    await self._begin(record)
                elif record.parity is None:
                    self.parity.may_rebuild(record.label)

    def _may_begin(self, record: VolumeRecord) -> bool:
        doubtful = any(disc.barcode in self.doubted for disc in self._sources(record.label))
        return (
            self._may_repair(record)
            and not doubtful
            and record.label not in self.stages
            and len(self.stages) < REPAIRS_MAX
            and not self.parity.rebuilds(record.label)
        )

    def _may_repair(self, record: VolumeRecord) -> bool:
        label = record.label
        wanted = self.core.config.care.repair or record.refresh or label in self.waiting
        return bool(wanted) and label not in self.hopeless and label not in self.parity.impossible

    async def _begin(self, record: VolumeRecord) -> None:
        stage = Stage(record, self.stage_root / f"{record.label}.img")
        await trio.to_thread.run_sync(stage.begin)
        self.stages[record.label] = stage
        log.info("volume gets a fresh disc", volume=record.label)
        self.core.wake()

    def can_come_back(self, label: str) -> bool:
        """Whether a volume without a usable copy gets a fresh one soon."""
        record = self.core.catalog.volumes.get(label)
        if record is None or record.state != VolumeState.COMPLETE or not self._may_repair(record):
            return False
        if proved_discs(self.core)[label] >= record.copies and label not in self.stages:
            return False
        known = label in self.stages or label in self._from_parity or self.parity.rebuilds(label)
        return known or any(True for _ in self._sources(label)) or self.parity.may_rebuild(label)

    def forgotten(self, label: str) -> None:
        """A volume is no more (its import was forgotten)."""
        stage = self.stages.pop(label, None)
        if stage is not None:
            stage.drop()
        self.hopeless.pop(label, None)
        for job in self.waiting.pop(label, []):
            job.fail(f"volume {label} was forgotten")

    def doubt(self, disc: DiscRecord, drive: str) -> None:
        """A part could not be read: the whole disc is read, in another drive if there is one,
        before a fresh one takes its place. One of others has no other copy."""
        if disc.state == DiscState.IMPORTED:
            return
        self.doubted[disc.barcode] = (drive, self.core.clock.monotonic_s())
        self.core.wake()

    def _sources(self, label: str) -> Iterator[DiscRecord]:
        """Discs inside that may give the image: proved ones first. None of a volume whose
        discs were tried in vain."""
        if label in self._from_parity:
            return
        for state in (DiscState.VERIFIED, DiscState.DAMAGED):
            for disc in self.core.catalog.discs_of(label):
                if disc.state == state and self.core.librarian.present(disc):
                    yield disc

    async def _enough(self, record: VolumeRecord) -> None:
        """It has its copies: what they replace is retired, waiting jobs end."""
        stage = self.stages.get(record.label)
        if stage is not None and record.label not in self.busy:
            del self.stages[record.label]
            await trio.to_thread.run_sync(stage.drop)
        self._from_parity.discard(record.label)
        end_alarms(self.core, record.label)
        if record.refresh:
            await self._retire(record)
        for job in self.waiting.pop(record.label, []):
            job.done(record.total_sectors)

    async def _retire(self, record: VolumeRecord) -> None:
        now_ns = self.core.clock.now_ns()
        changes = []
        for barcode in record.refresh:
            disc = self.core.catalog.discs.get(barcode)
            if disc is None or disc.state not in (DiscState.VERIFIED, DiscState.DAMAGED):
                continue
            disc.become(DiscState.RETIRED)
            self.doubted.pop(barcode, None)
            self.paused.pop(barcode, None)
            entry = HistoryRecord(what="retire", volume=record.label, text="fresh discs replace it")
            changes += [put_record(disc), put_history(barcode, now_ns, entry)]
        record.refresh = []
        await self.core.catalog.transact(put_record(record), *changes)

    # -- what drives should do -----------------------------------------------------------

    def stage_demands(self) -> list[StageDemand]:
        """Images to be read, with discs that may give them."""
        return self.parity.demands() + [
            StageDemand(label, tuple(sources), self._since_s)
            for label, stage in list(self.stages.items())
            if not stage.ready and label not in self.busy and (sources := self._untried(stage))
        ]

    def _untried(self, stage: Stage) -> list[str]:
        label = stage.volume.label
        sources = [disc.barcode for disc in self._sources(label)]
        untried = [barcode for barcode in sources if barcode not in stage.tried]
        if sources and not untried:
            self._give_up(stage)
        return untried

    def _give_up(self, stage: Stage) -> None:
        label = stage.volume.label
        self.stages.pop(label)
        stage.drop()
        if stage.volume.parity is None and self.parity.may_rebuild(label):
            self._from_parity.add(label)
            return
        lost = sum(stop - start for start, stop in stage.missing)
        why = (
            f"volume {label}: no whole image can be read from its discs ({lost} sectors are "
            f"missing on all of {', '.join(sorted(stage.tried))}); bring other copies, or rebuild "
            "it from parity"
        )
        self.hopeless[label] = why
        self.core.alarms.raise_("repair-failed", why)
        for job in self.waiting.pop(label, []):
            job.fail(why)

    def burn_demands(self) -> list[tuple[VolumeRecord, int]]:
        """Volumes whose image is ready, and how many discs they lack."""
        found = []
        counted = proved_discs(self.core) if self.stages else Counter[str]()
        for label, stage in self.stages.items():
            under_way = sum(
                disc.state in (DiscState.BURNING, DiscState.BURNED)
                and not self.core.librarian.is_shut_in(disc.barcode)
                for disc in self.core.catalog.discs_of(label)
            )
            lacking = stage.volume.copies - counted[label] - under_way
            if stage.ready and lacking > 0 and label not in self.busy:
                found.append((stage.volume, lacking))
        return found

    def start_stage(self, label: str, barcode: str) -> StageJob | FoldJob:
        """The job for a drive."""
        if self.parity.work is not None and label == self.parity.work.key:
            return self.parity.start(barcode)
        self.busy.add(label)
        return StageJob(
            self.core, self.stages[label], self.core.catalog.discs[barcode], self._staged
        )

    def start_burn(self, label: str, disc: DiscRecord) -> ImageBurn:
        """The job for a drive; ``disc`` is blank, as far as is known."""
        self.busy.add(label)
        self.core.reserved.add(disc.barcode)
        return ImageBurn(self.core, self.stages[label], disc, self._burned)

    def _staged(self, job: StageJob) -> None:
        self.busy.discard(job.stage.volume.label)
        self.core.wake()

    def _burned(self, job: ImageBurn) -> None:
        volume = job.stage.volume
        self.busy.discard(volume.label)
        bound = self.core.config.burn.attempts_max * volume.copies
        if volume.burn_attempts >= bound:
            why = f"volume {volume.label}: {volume.burn_attempts} burns failed: {volume.note}"
            self.hopeless[volume.label] = why
            self.core.alarms.raise_("repair-failed", why)
            if self.stages.pop(volume.label, None) is not None:
                job.stage.drop()
            for waiting in self.waiting.pop(volume.label, []):
                waiting.fail(why)
        self.core.wake()

    # -- proofs ----------------------------------------------------------------------------

    def verify_demands(self) -> list[VerifyDemand]:
        """Fresh copies, then what people asked for, then one disc of the regular reading."""
        catalog = self.core.catalog
        for barcode in [code for code in self.paused if not self._stays(code)]:
            del self.paused[barcode]
        demands = [
            VerifyDemand(
                disc.barcode, self.core.ward.failed_in(disc) or disc.burned_in, self._since_s
            )
            for disc in catalog.discs.values()
            if disc.state == DiscState.BURNED
            and disc.volume in catalog.volumes
            and catalog.volumes[disc.volume].state == VolumeState.COMPLETE
            and self._free(disc)
        ]
        demands += [
            VerifyDemand(barcode, *self.doubted.get(barcode, ("", self._since_s)))
            for barcode in {**self.asked, **dict.fromkeys(sorted(self.doubted))}
            if self._free(catalog.discs[barcode])
        ]
        demands += [
            VerifyDemand(barcode, "", self._since_s)
            for barcode in self.unknown
            if self._free(catalog.discs[barcode])
        ]
        if not demands and not self.scrubs:
            due = self._paused_scrub() or due_disc(self.core, self._free)
            if due is not None:
                since_s = self.core.clock.monotonic_s()
                demands.append(VerifyDemand(due.barcode, "", since_s, is_scrub=True))
        return demands

    def _stays(self, barcode: str) -> bool:
        disc = self.core.catalog.discs.get(barcode)
        return disc is not None and self.core.librarian.present(disc)

    def _paused_scrub(self) -> DiscRecord | None:
        """One that made room for readers goes on before another is begun."""
        discs = self.core.catalog.discs
        known = (discs[code] for code in self.paused if discs[code].state == DiscState.VERIFIED)
        return next((disc for disc in known if self._free(disc)), None)

    def _free(self, disc: DiscRecord) -> bool:
        return disc.barcode not in self.core.reserved and self.core.librarian.present(disc)

    def start_verify(self, barcode: str) -> VerifyJob | IdentifyJob:
        """The job for a drive, for any of the demands."""
        disc = self.core.catalog.discs[barcode]
        if barcode in self.unknown:
            self.core.reserved.add(barcode)
            return IdentifyJob(self.core, disc, self.unknown.pop(barcode), self._identified)
        volume = self.core.catalog.volumes[disc.volume]
        asked = self.asked.get(barcode)
        percent, what = WHOLE_PERCENT, "verify"
        if asked is not None:
            percent = asked.percent
        elif disc.state == DiscState.VERIFIED:
            percent, what = scrub_percent(self.core, volume), "scrub"
            self.scrubs.add(barcode)
        self.core.reserved.add(barcode)
        label, sampled, proof = self.paused.pop(barcode, ("", 0.0, Proof()))
        if (label, sampled) != (volume.label, percent):
            proof = Proof()
        return VerifyJob(self.core, disc, volume, self.verified, percent, what, proof)

    def verified(self, job: VerifyJob) -> None:
        """A proof ended, well or not, or was paused."""
        barcode = job.disc.barcode
        self.core.reserved.discard(barcode)
        self.scrubs.discard(barcode)
        if job.is_paused:
            self.paused[barcode] = (job.volume.label, job.sample_percent, job.proof)
            self.core.wake()
            return
        doubted = self.doubted.pop(barcode, None)
        tell_blame(self.core, job, doubted[0] if doubted is not None else "")
        if job.error is None and job.disc.state == DiscState.VERIFIED:
            self.on_proved(barcode)
        if isinstance(job.error, MediumError) and job.disc.state == DiscState.DAMAGED:
            first = doubted is None and barcode not in self.asked
            if first:
                self.doubt(job.disc, job.drive)
        asked = self.asked.pop(barcode, None)
        if asked is not None and job.error is not None:
            asked.job.fail(str(job.error))
        elif asked is not None:
            asked.job.done(0)
        self.core.wake()

    def _identified(self, job: IdentifyJob) -> None:
        self.core.wake()

    # -- by hand ---------------------------------------------------------------------------------

    def volume(self, label: str) -> VolumeRecord:
        """CallerError for one that is not known or not complete."""
        record = self.core.catalog.volumes.get(label)
        if record is None:
            raise CallerError(f"volume {label!r} is not known; see hsm volume ls")
        if record.state != VolumeState.COMPLETE:
            raise CallerError(
                f"volume {label}: found state {record.state}, expected complete; "
                "wait until its burns are done"
            )
        return record

    def disc(self, barcode: str) -> DiscRecord:
        """CallerError for one that is not known."""
        try:
            return self.core.catalog.discs[barcode]
        except KeyError:
            raise CallerError(f"disc {barcode!r} is not known; see hsm disc ls") from None

    async def verify(self, job: Job, barcodes: list[str], percent: float) -> None:
        """Prove discs; the job ends with the last."""
        job.add(len(barcodes), 0)
        for barcode in barcodes:
            disc = self.disc(barcode)
            where = self.core.librarian.in_words(disc)
            if disc.state not in (DiscState.VERIFIED, DiscState.DAMAGED):
                job.fail(f"disc {barcode} is {disc.state}, expected a burned disc of a volume")
            elif not self.core.librarian.present(disc):
                job.fail(f"disc {barcode} is not in the library ({where}); bring it in first")
            elif barcode in self.asked:
                job.fail(
                    f"disc {barcode} is being verified already (job {self.asked[barcode].job.id})"
                )
            else:
                self.asked[barcode] = _Asked(percent, job)
        self.core.wake()

    async def identify(self, job: Job, barcode: str) -> None:
        """See what a disc is that no burn of ours is known of."""
        disc = self.disc(barcode)
        job.add(1, 0)
        if disc.state not in (DiscState.BLANK, DiscState.FOREIGN):
            job.fail(f"disc {barcode} is {disc.state} (volume {disc.volume}): it is known already")
        elif not self.core.librarian.present(disc):
            job.fail(f"disc {barcode} is not in the library; bring it in first")
        else:
            self.unknown[barcode] = job
        self.core.wake()

    async def repair(self, job: Job, label: str) -> None:
        """Have the copies that it should have; nothing to do is well done."""
        record = self.volume(label)
        job.add(1, 0)
        self.hopeless.pop(label, None)
        self.parity.impossible.pop(label, None)
        self._from_parity.discard(label)
        record.burn_attempts = 0
        if not any(True for _ in self._sources(label)) and not self.parity.may_rebuild(label):
            job.fail(f"volume {label}: none of its discs is in the library; bring one in first")
            return
        self.waiting[label].append(job)

    async def refresh(self, job: Job, label: str) -> None:
        """Fresh discs in place of all that it has."""
        record = self.volume(label)
        record.refresh = [
            disc.barcode
            for disc in self.core.catalog.discs_of(label)
            if disc.state in (DiscState.VERIFIED, DiscState.DAMAGED)
        ]
        await self.core.catalog.save(record)
        await self.repair(job, label)

    async def release(self, barcode: str) -> DiscRecord:
        """Use a disc again that was set aside."""
        disc = self.disc(barcode)
        await self.core.ward.release_disc(disc)
        return disc

    async def quarantine(self, barcode: str, why: str, seconds: float | None = None) -> DiscRecord:
        """It does not count as a copy any more, and is read only if no other can be; a blank
        one is not used for a time, without one until it is released."""
        disc = self.disc(barcode)
        if disc.state == DiscState.BLANK:
            why = f"by hand: {why or 'no reason given'}"
            await self.core.ward.quarantine_disc(disc, why, seconds)
            return disc
        if disc.state != DiscState.VERIFIED:
            raise CallerError(
                f"disc {barcode}: found state {disc.state}, expected verified or blank"
            )
        disc.become(DiscState.DAMAGED)
        disc.note = f"quarantined: {why or 'by hand'}"
        entry = HistoryRecord(what="quarantine", volume=disc.volume, text=disc.note)
        change = put_history(barcode, self.core.clock.now_ns(), entry)
        await self.core.catalog.transact(put_record(disc), change)
        self.core.wake()
        return disc
