"""Read a disc back, all of it or a sample, and compare with what was sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog
import trio

from hsmfs.daemon.catalog import VolumeExtents, put_history, put_record
from hsmfs.daemon.catalogrecords import (
    DiscRecord,
    DiscState,
    HistoryRecord,
    VolumeRecord,
)
from hsmfs.daemon.core import Core
from hsmfs.daemon.discproof import Damage, ImageProof, Proof, ProofPaused, all_files, sample
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.errors import DriveError, HsmError, MediumError, TransientError
from hsmfs.types import SECTOR_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)
WHOLE_PERCENT: Final = 100.0
NAMED_MAX: Final = 5
"""Damaged files in an alarm; the disc's history counts all."""


@dataclass(slots=True)
class VerifyJob:
    """Prove one disc; its state says the result.

    With ``sample_percent`` below 100 chunks are chosen by chance; that proves
    nothing of the others, so it never makes a disc verified that was not.
    """

    core: Core
    disc: DiscRecord
    volume: VolumeRecord
    on_ended: Callable[[VerifyJob], None]
    sample_percent: float = WHOLE_PERCENT
    what: str = "verify"
    """``verify`` or ``scrub``, for the disc's history."""
    proof: Proof = field(default_factory=Proof)
    """Where it begins: what an earlier job proved of the disc before it was paused."""
    is_paused: bool = False
    """Readers got the drive; another job goes on with ``proof``."""
    _cancelled: bool = False
    _damaged: int = 0
    """Files that were found damaged."""
    _unit: DriveUnit | None = None
    error: HsmError | None = field(default=None)

    async def run(self, unit: DriveUnit) -> None:
        """The drive's part (a ``DriveJob``)."""
        started = self.core.clock.monotonic_s()
        self._unit = unit
        try:
            await self.core.librarian.load(unit, self.disc.barcode)
            size = await self._prove(unit)
            seconds = self._passed(started)
            self.core.metrics.verify_seconds.observe(seconds)
            await self._succeeded(unit, seconds, size)
        except ProofPaused as error:
            self.is_paused = True
            self.proof.seconds = self._passed(started)
            log.info("a proof is paused", disc=self.disc.barcode, why=str(error))
        except HsmError as error:
            self.error = error
            await self._failed(unit, error, self._passed(started))
        finally:
            self.on_ended(self)

    def _passed(self, started_s: float) -> float:
        """Seconds of drive time, with those of earlier pieces."""
        return self.proof.seconds + self.core.clock.monotonic_s() - started_s

    @property
    def drive(self) -> str:
        """Where it was read; empty before."""
        return self._unit.name if self._unit is not None else ""

    async def _prove(self, unit: DriveUnit) -> int:
        """Bytes that were read; MediumError where the disc is not what it should be."""
        info = await unit.call(unit.drive.disc_info)
        if info.state != "complete":
            raise MediumError(
                f"disc {self.disc.barcode}: found {info.state}, expected a closed disc"
            )
        try:
            if self.sample_percent < WHOLE_PERCENT:
                return await self._prove_sample(unit)
            return await self._prove_whole(unit)
        except trio.Cancelled:
            self._cancelled = True
            raise

    async def _prove_whole(self, unit: DriveUnit) -> int:
        total, proof = self.volume.total_sectors, self.proof
        if proof.image is None:
            proof.image = ImageProof(total)
        digest = "" if proof.why else await self._image(unit, proof.image)
        if proof.why:
            found = await self._files(unit)
            self._damaged = found.total
            raise MediumError(f"disc {self.disc.barcode}: {proof.why}; {_damage_words(found)}")
        if self.volume.image_xxh3:
            return total * SECTOR_BYTES
        # The image's hash is not known (after a rebuild): by all files' hashes.
        found = await self._files(unit)
        self._refuse(found)
        self.volume.image_xxh3 = digest
        await self.core.catalog.save(self.volume)
        return total * SECTOR_BYTES + found.bytes

    async def _image(self, unit: DriveUnit, image: ImageProof) -> str:
        """Its hash; where it is not what was burned, ``proof.why`` says so."""
        expected = self.volume.image_xxh3
        try:
            digest = await unit.call(image.go_on, unit.drive.read, self._check)
        except MediumError as error:
            self.proof.why = str(error)
            return ""
        if expected and digest != expected:
            why = f"found xxh3 {digest}, expected {expected}"
            self.proof.why = f"what was read back differs from volume {self.volume.label} ({why})"
        return digest

    async def _files(self, unit: DriveUnit) -> Damage:
        """Which files are hit."""
        if self.proof.files is None:
            self.proof.files = all_files(self._extents())
        return await unit.call(self.proof.files.go_on, unit.drive.read, self._check)

    async def _prove_sample(self, unit: DriveUnit) -> int:
        if self.proof.files is None:
            seed = self.core.clock.now_ns()
            self.proof.files = await trio.to_thread.run_sync(
                sample, self._extents(), self.sample_percent, seed
            )
        found = await unit.call(self.proof.files.go_on, unit.drive.read, self._check)
        self._refuse(found)
        return found.bytes

    def _refuse(self, found: Damage) -> None:
        self._damaged = found.total
        if found.total:
            raise MediumError(f"disc {self.disc.barcode}: {_damage_words(found)}")

    def _extents(self) -> VolumeExtents:
        return self.core.catalog.volume_extents(self.volume.label)

    def _check(self) -> None:
        if self._cancelled:
            raise TransientError("verify was cancelled")
        if self._unit is not None and self._unit.yields:
            raise ProofPaused(f"drive {self._unit.name} makes room for recalls")

    # -- the result ------------------------------------------------------------------

    async def _succeeded(self, unit: DriveUnit, seconds: float, size: int) -> None:
        whole = self.sample_percent >= WHOLE_PERCENT
        unit.credit(proved=whole)
        if whole and self.disc.state != DiscState.RETIRED:  # by fresh copies, meanwhile
            self.disc.become(DiscState.VERIFIED)
        self.disc.verified_in = unit.name
        self.disc.verified_ns = self.core.clock.now_ns()
        await self._record(unit, HistoryRecord(
            what=self.what, drive=unit.name, volume=self.volume.label, seconds=seconds, bytes=size,
            text="whole" if whole else f"sample of {self.sample_percent:g} %",
        ))  # fmt: skip

    async def _record(self, unit: DriveUnit, entry: HistoryRecord) -> None:
        change = put_history(self.disc.barcode, self.core.clock.now_ns(), entry)
        await self.core.catalog.transact(put_record(self.disc), change)

    async def _failed(self, unit: DriveUnit, error: HsmError, seconds: float) -> None:
        self.core.metrics.errors.labels(error.kind.value).inc()
        if isinstance(error, DriveError | MediumError):
            unit.charge(error, for_good=isinstance(error, DriveError))
        if isinstance(error, MediumError) and self._another_may_read(unit):
            self.disc.read_errors += 1
            self.disc.note = str(error)
            await self._record(unit, HistoryRecord(
                what=self.what, drive=unit.name, volume=self.volume.label, seconds=seconds,
                errors=max(1, self._damaged), text=f"read again in another drive: {error}",
            ))  # fmt: skip
        elif isinstance(error, MediumError):
            self.disc.read_errors += 1
            self.disc.note = str(error)
            if self.disc.state != DiscState.RETIRED:
                known = self.disc.state in (DiscState.VERIFIED, DiscState.DAMAGED)
                self.disc.become(DiscState.DAMAGED if known else DiscState.SUSPECT)
                self.core.alarms.raise_("verify-failed", str(error))
            await self._record(unit, HistoryRecord(
                what=self.what, drive=unit.name, volume=self.volume.label, seconds=seconds,
                errors=max(1, self._damaged), text=str(error),
            ))  # fmt: skip
        log.warning("verify failed", disc=self.disc.barcode, drive=unit.name, error=str(error))

    def _another_may_read(self, unit: DriveUnit) -> bool:
        """Of a fresh disc: whether no other drive had its turn. It is proved there before it
        is given up."""
        others = any(other is not unit for other in self.core.librarian.alive_units())
        known = self.core.ward.failed_in(self.disc)
        return self.disc.state == DiscState.BURNED and others and known == unit.name


def _damage_words(found: Damage) -> str:
    if not found.total:
        return "no file is damaged"
    shown = ", ".join(found.files[:NAMED_MAX])
    more = f" and {found.total - NAMED_MAX} more" if found.total > NAMED_MAX else ""
    return f"{found.total} files are damaged: {shown}{more}"
