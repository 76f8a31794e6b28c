"""Which magazines get parity, and which volumes are made anew from it."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
import trio
import xxhash

from hsmfs.daemon.catalog import put_record
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, VolumeRecord, VolumeState
from hsmfs.daemon.core import Core
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.parityset import (
    PARITY_POOL,
    FoldJob,
    Part,
    Work,
    members_of,
    parity_record,
    sets_with,
    write_parity_image,
)
from hsmfs.daemon.poolcare import parity_of, parity_wanted
from hsmfs.daemon.scheduler import StageDemand
from hsmfs.daemon.stagejob import Stage
from hsmfs.errors import CallerError, MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.parity import MEMBERS_MAX
from hsmfs.volume.parityfiles import PIECE_BYTES, Sums
from hsmfs.volume.source import ParityInfo, ParityMember, VolumeHeader

log = structlog.get_logger(__name__)
MEMBERS_MIN: Final = 2
KINDS: Final = ("p", "q")
FAILURES_MAX: Final = 5
UNSETTLED: Final = (DiscState.BURNING, DiscState.BURNED)


@dataclass(slots=True)
class ParityKeeper:
    """Owner of sums on their way; one at a time, for each reads many discs."""

    core: Core
    root: Path
    work: Work | None = None
    busy: bool = False
    failures: int = 0
    """Of drives and robot, in a row, while a lost volume was made anew."""
    waiting: dict[str, list[Job]] = field(default_factory=lambda: defaultdict(list))
    """Jobs by magazine."""
    impossible: dict[str, str] = field(default_factory=dict)
    """Volumes that cannot be made anew now, and why."""
    _since_s: float = 0.0

    # -- making parity -------------------------------------------------------------------

    def blanks_kept(self) -> set[str]:
        """Blank discs that wait to become parity: the last of each magazine."""
        blanks: dict[str, list[DiscRecord]] = defaultdict(list)
        for disc in self.core.catalog.discs.values():
            if disc.state == DiscState.BLANK:
                blanks[disc.magazine].append(disc)
        return {
            disc.barcode
            for magazine, discs in blanks.items()
            if (lacking := len(self._lacking(magazine)))
            for disc in sorted(discs, key=lambda one: one.position)[-lacking:]
        }

    def _parity_volumes(self, magazine: str) -> list[VolumeRecord]:
        volumes = self.core.catalog.volumes.values()
        return [
            record
            for record in volumes
            if record.parity is not None
            and record.magazine == magazine
            and record.state == VolumeState.COMPLETE
        ]

    def _lacking(self, magazine: str) -> tuple[str, ...]:
        """Which of P and Q a magazine should have and no volume is: both of one that has
        none yet, one where a restart cut the burns of the other."""
        made = {r.parity.kind for r in self._parity_volumes(magazine) if r.parity is not None}
        wanted = KINDS[: parity_wanted(self.core, magazine)]
        return tuple(kind for kind in wanted if kind not in made)

    def _due(self) -> str | None:
        """A magazine whose other discs are proved and whose blanks are for parity."""
        asked = next(iter(self.waiting), None)
        if asked is not None:
            return asked
        for name, magazine in self.core.catalog.magazines.items():
            lacking = self._lacking(name)
            if not magazine.present or not lacking:
                continue
            discs = [d for d in self.core.catalog.discs.values() if d.magazine == name]
            blank = sum(disc.state == DiscState.BLANK for disc in discs)
            settled = not any(disc.state in UNSETTLED for disc in discs)
            if self._parity_volumes(name):
                if settled and blank >= len(lacking) and self._members_readable(name):
                    return name
            elif settled and blank == len(lacking) and len(self._members(name)) >= MEMBERS_MIN:
                return name
        return None

    def _members(self, magazine: str) -> list[VolumeRecord]:
        """Volumes that parity is made over: those whose pools ask for it, or all of them
        where no pool does and a person asked."""
        members = members_of(self.core, magazine)
        return [r for r in members if parity_of(self.core, r)] or members

    def _members_readable(self, magazine: str) -> bool:
        """Whether all members of the set that a magazine has are at hand."""
        info = self._parity_volumes(magazine)[0].parity
        assert info is not None
        return all(self.readable(member.label) for member in info.members)

    async def ask(self, job: Job, magazine: str) -> None:
        """Parity for what is in a magazine now."""
        job.add(1, 0)
        if magazine not in self.core.catalog.magazines:
            raise CallerError(f"magazine {magazine!r} is not known; see hsm magazine ls")
        if self._parity_volumes(magazine):
            raise CallerError(f"magazine {magazine} has parity already; see hsm volume ls")
        members = self._members(magazine)
        if not MEMBERS_MIN <= len(members) <= MEMBERS_MAX:
            raise CallerError(
                f"magazine {magazine}: found {len(members)} volumes on proved discs, expected "
                f"{MEMBERS_MIN} to {MEMBERS_MAX}"
            )
        discs = self.core.catalog.discs.values()
        if not any(d.magazine == magazine and d.state == DiscState.BLANK for d in discs):
            raise CallerError(f"magazine {magazine}: found no blank disc for parity in it")
        self.waiting[magazine].append(job)

    def _begin_making(self, magazine: str) -> None:
        made = self._parity_volumes(magazine)
        if made and made[0].parity is not None:
            self._start_making(magazine, made[0].parity, self._lacking(magazine))
            return
        members = self._members(magazine)[:MEMBERS_MAX]
        discs = self.core.catalog.discs.values()
        blanks = sum(d.magazine == magazine and d.state == DiscState.BLANK for d in discs)
        count = min(max(1, parity_wanted(self.core, magazine)), blanks)
        info = ParityInfo(
            set=f"{self.core.config.site.id}:{magazine}:{self.core.clock.now_ns()}",
            kind="",
            members=[
                ParityMember(label=r.label, sectors=r.total_sectors, xxh3=r.image_xxh3)
                for r in members
            ],
        )
        self._start_making(magazine, info, KINDS[:count])

    def _start_making(self, magazine: str, info: ParityInfo, kinds: tuple[str, ...]) -> None:
        parts = [
            Part(member.label, index, "", member.sectors, member.xxh3)
            for index, member in enumerate(info.members)
        ]
        self._start(f"parity {magazine}", parts, info, kinds, magazine=magazine)

    def _start(
        self,
        key: str,
        parts: list[Part],
        info: ParityInfo,
        kinds: tuple[str, ...],
        magazine: str = "",
        lost: dict[int, Path] | None = None,
    ) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        sums = Sums(*(self.root / kind if kind in kinds else None for kind in KINDS))
        self.work = Work(key, sums, parts, info, magazine, lost or {}, kinds)
        self._since_s = self.core.clock.monotonic_s()
        log.info("parity begins", what=key, parts=len(parts), kinds=kinds)

    # -- a lost volume -----------------------------------------------------------------------

    def rebuilds(self, label: str) -> bool:
        """Whether a volume is being made anew."""
        return self.work is not None and self.work.rebuilds == label

    def may_rebuild(self, label: str) -> bool:
        """Whether enough of a set of the volume is at hand; begins where nothing else runs."""
        for record in sets_with(self.core, label):
            chosen = self._rebuild_plan(record, label)
            if chosen is None:
                continue
            if self.work is None:
                info, parts, kinds, lost = chosen
                self._start(f"rebuild {label}", parts, info, kinds, lost=lost)
            return True
        return False

    def _rebuild_plan(
        self, record: VolumeRecord, label: str
    ) -> tuple[ParityInfo, list[Part], tuple[str, ...], dict[int, Path]] | None:
        info = record.parity
        assert info is not None
        sums = {
            one.parity.kind: one
            for one in self.core.catalog.volumes.values()
            if one.parity is not None and one.parity.set == info.set and self.readable(one.label)
        }
        lost = [
            index
            for index, member in enumerate(info.members)
            if member.label == label or not self.readable(member.label)
        ]
        if len(lost) > len(sums):
            return None
        kinds = tuple(sorted(sums))[: len(lost)]
        longest = max(member.sectors for member in info.members)
        parts = [Part(sums[kind].label, 0, kind, longest, "") for kind in kinds]
        parts += [
            Part(member.label, index, "", member.sectors, member.xxh3)
            for index, member in enumerate(info.members)
            if index not in lost
        ]
        wanted = next(i for i in lost if info.members[i].label == label)
        order = [wanted, *(index for index in lost if index != wanted)]
        return info, parts, kinds, {index: self.root / f"{index}.img" for index in order}

    def readable(self, label: str) -> bool:
        """Whether a proved disc of a volume is in the library."""
        return bool(self._discs(label))

    def _discs(self, label: str) -> list[str]:
        return [
            disc.barcode
            for disc in self.core.catalog.discs_of(label)
            if disc.state in (DiscState.VERIFIED, DiscState.RETIRED)
            and self.core.librarian.present(disc)
        ]

    # -- what drives should do ---------------------------------------------------------------

    def demands(self) -> list[StageDemand]:
        """The next part to be folded."""
        work = self.work
        if work is None or self.busy or work.is_spoiled:
            return []
        for part in work.parts:
            discs = self._discs(part.label)
            if discs:
                return [StageDemand(work.key, tuple(discs), self._since_s)]
        return []

    def start(self, barcode: str) -> FoldJob:
        """The job for a drive."""
        assert self.work is not None
        disc = self.core.catalog.discs[barcode]
        part = next(part for part in self.work.parts if part.label == disc.volume)
        self.busy = True
        return FoldJob(self.core, self.work, part, disc, self._folded)

    def _folded(self, job: FoldJob) -> None:
        self.busy = False
        self.core.wake()

    # -- what comes of it -----------------------------------------------------------------------

    async def look(self, hand_over: dict[str, Stage], stage_root: Path) -> None:
        """Begin, finish or give up; images that are ready go to ``hand_over`` by volume."""
        work = self.work
        if work is None:
            magazine = self._due()
            if magazine is not None:
                self._begin_making(magazine)
                self.core.wake()
            return
        if self.busy:
            return
        if work.bad or work.is_spoiled or any(not self._discs(p.label) for p in work.parts):
            self._again(work)
        elif not work.parts and work.magazine:
            await self._finish_making(work, hand_over, stage_root)
        elif not work.parts:
            await self._finish_rebuild(work, hand_over, stage_root)

    def _again(self, work: Work) -> None:
        """Without the disc that failed, as long as that can do."""
        self.failures += not work.bad
        label, why = work.rebuilds, work.failure or "a disc that is needed left the library"
        if self.failures > FAILURES_MAX or work.magazine:
            self._give_up(why)
            return
        self._end()
        if not self.may_rebuild(label):
            self.impossible[label] = why
            self.core.alarms.raise_("parity", f"rebuild {label}: {why}")

    def _give_up(self, why: str) -> None:
        work = self.work
        assert work is not None
        self.failures = 0
        log.warning("parity is given up", what=work.key, why=why)
        self.core.alarms.raise_("parity", f"{work.key}: {why}")
        if work.magazine:
            for job in self.waiting.pop(work.magazine, []):
                job.fail(why)
        else:
            self.impossible[work.rebuilds] = why
        self._end()

    def _end(self) -> None:
        assert self.work is not None
        self.work.sums.close()
        self.work = None
        shutil.rmtree(self.root, ignore_errors=True)
        self.core.wake()

    async def _finish_making(
        self, work: Work, hand_over: dict[str, Stage], stage_root: Path
    ) -> None:
        for kind in work.kinds:
            label, change = self.core.catalog.new_volume_label(self.core.config.site.id)
            header = VolumeHeader(
                label=label,
                site=self.core.config.site.id,
                pool=PARITY_POOL,
                created_ns=self.core.clock.now_ns(),
                parity=ParityInfo(set=work.info.set, kind=kind, members=work.info.members),
                udf=self.core.config.burn.udf,
            )
            image = stage_root / f"{label}.img"
            sums = work.sums.paths[kind]
            assert sums is not None
            try:
                xxh3, sectors = await trio.to_thread.run_sync(
                    write_parity_image, header, sums, image
                )
            except OSError as error:
                self._give_up(f"{image}: {error.strerror}; make room there (care.stage)")
                return
            record = parity_record(header, work.magazine, xxh3, sectors)
            self.core.catalog.volumes[label] = record
            await self.core.catalog.transact(change, put_record(record))
            hand_over[label] = Stage(record, image, ready=True)
        for job in self.waiting.pop(work.magazine, []):
            job.done(0)
        self._end()

    async def _finish_rebuild(
        self, work: Work, hand_over: dict[str, Stage], stage_root: Path
    ) -> None:
        label, members = work.rebuilds, work.info.members
        record = self.core.catalog.volumes[label]
        lost = {
            index: (path, members[index].sectors * SECTOR_BYTES)
            for index, path in work.lost.items()
        }
        index = next(i for i in lost if members[i].label == label)
        target = stage_root / f"{label}.img"
        try:
            await trio.to_thread.run_sync(work.sums.solve, lost, work.kinds)
            found = await trio.to_thread.run_sync(_hash, lost[index][0])
            if found != members[index].xxh3:
                raise MediumError(f"found xxh3 {found}, expected {members[index].xxh3}")
            os.replace(lost[index][0], target)
        except (OSError, CallerError, MediumError) as error:
            self._give_up(str(error))
            return
        hand_over[label] = Stage(record, target, ready=True)
        log.info("volume made anew from parity", volume=label)
        self.failures = 0
        self._end()


def _hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
