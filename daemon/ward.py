"""Drives and discs that are out of use for a time: who gets there, and who comes back.

A drive is taken out of service (*quarantined*) after ``drive_errors_max`` faults in a row that are
not one disc's, after so many discs that it could not read were read elsewhere, or after so many
bugs; it comes back after ``drive_quarantine_s``, on trial: the next fault takes it out for twice as
long. A disc that failed in two drives, or twice in one, is set aside in the same way while it is
blank; one that was burned is suspect, one that was proved is damaged. By hand both stay until
they are released.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from hsmfs.clock import Clock
from hsmfs.config import Health
from hsmfs.daemon.alarms import Alarms
from hsmfs.daemon.catalog import Catalog, put_drives, put_history, put_record
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, DriveRecord, HistoryRecord
from hsmfs.daemon.drivetask import DriveState, DriveUnit
from hsmfs.daemon.health import Blame, ErrorRate, Verdict
from hsmfs.errors import CallerError, HsmError

log = structlog.get_logger(__name__)
LOOK_S: Final = 2.0
SHOWN_MAX: Final = 100
"""Discs in the metrics."""
DISC_TRIES_MAX: Final = 3
"""Times that a blank disc is set aside before it is suspect for good."""


@dataclass(slots=True)
class Ward:
    """Owner of health and quarantine of one library's drives and discs."""

    config: Health
    units: list[DriveUnit]
    catalog: Catalog
    alarms: Alarms
    clock: Clock
    wake: Callable[[], None]
    blame: Blame = field(default_factory=Blame)
    disc_rates: dict[str, ErrorRate] = field(default_factory=dict)
    """Moving averages, of discs that ever failed since the start."""
    _dirty: set[str] = field(default_factory=set)
    """Discs whose records are to be saved."""
    _drives_dirty: bool = False

    def __post_init__(self) -> None:
        for unit in self.units:
            unit.on_fault, unit.on_success, unit.on_bug = self.fault, self.success, self.bug
            known = self.catalog.drives.get(unit.name)
            if known is not None and unit.alive and known.until_ns > self.clock.now_ns():
                unit.state, unit.note = DriveState.QUARANTINED, known.why
            elif known is not None:
                known.trial = True

    # -- what units tell ----------------------------------------------------------------

    def fault(self, unit: DriveUnit, error: HsmError, for_good: bool, sure: bool) -> None:
        """A fault was charged to a drive; ``sure``: it is not the disc's."""
        if not unit.alive:
            return
        barcode = unit.disc
        verdict = Verdict.OPEN
        if barcode and not sure:
            self.disc_rates.setdefault(barcode, ErrorRate()).charge()
            verdict = self.blame.failed(unit.name, barcode, self.clock.monotonic_s())
        if for_good:
            self._rest(unit)
            if verdict is Verdict.DISC:
                self._disc_is_to_blame(barcode, str(error))
            elif self._is_out(unit, sure=sure):
                self.quarantine(unit, str(error))

    def _is_out(self, unit: DriveUnit, *, sure: bool) -> bool:
        """Whether a drive had its last chance."""
        known = self.catalog.drives.get(unit.name)
        if known is not None and known.trial:
            return True
        many = len(unit.discs_in_row) > 1 or sure
        bound = self.config.drive_errors_max * (1 if many else 2)
        return unit.errors_in_row >= bound

    def _rest(self, unit: DriveUnit) -> None:
        """Others go first for a while, and its disc goes back, to be tried elsewhere."""
        rest_s = self.config.drive_rest_s * 2 ** min(unit.errors_in_row - 1, 6)
        unit.rest_until_s = self.clock.monotonic_s() + rest_s
        unit.gives_back = True

    def success(self, unit: DriveUnit, proved: bool) -> None:
        """Work went well: the drive is in order. So is the disc if all of it was ``proved``;
        where that failed before, the drive is to blame."""
        known = self.catalog.drives.get(unit.name)
        if known is not None and known.trial:
            self.catalog.drives.pop(unit.name)
            self._drives_dirty = True
            self.alarms.clear_text("drive-quarantine", f"drive {unit.name}:")
        if not unit.disc:
            return
        rate = self.disc_rates.get(unit.disc)
        if rate is not None:
            rate.credit()
        for name in self.blame.worked(unit.disc) - {unit.name} if proved else ():
            self._drive_is_to_blame(name, unit.disc)

    def _drive_is_to_blame(self, name: str, barcode: str) -> None:
        unit = next((unit for unit in self.units if unit.name == name), None)
        if unit is None:
            return
        log.info("the drive is to blame", disc=barcode, drive=name)
        unit.blamed += 1
        if unit.alive and unit.blamed >= self.config.drive_errors_max:
            self.quarantine(unit, f"{unit.blamed} discs that failed in it worked in another drive")

    def bug(self, unit: DriveUnit, words: str) -> None:
        """A job ended in a way that nobody thought of: it is not tried without end."""
        self._rest(unit)
        unit.bugs += 1
        now_s = self.clock.monotonic_s()
        if unit.disc and self.blame.failed(unit.name, unit.disc, now_s) is Verdict.DISC:
            self.set_aside(self.catalog.discs[unit.disc], words)
        elif unit.alive and unit.bugs >= self.config.drive_bugs_max:
            self.quarantine(unit, words)

    # -- discs ----------------------------------------------------------------------------

    def _disc_is_to_blame(self, barcode: str, why: str) -> None:
        disc = self.catalog.discs.get(barcode)
        if disc is None:
            return
        for unit in self.units:
            if unit.name in self.blame.drives_of(barcode):
                unit.pardon()
        self.blame.forget_disc(barcode)
        log.warning("the disc is to blame", disc=barcode, why=why)
        if disc.state == DiscState.BLANK:
            self.set_aside(disc, why)
        elif disc.state == DiscState.BURNED:
            disc.become(DiscState.SUSPECT)
            self._note(disc, f"it failed in every drive that tried it: {why}")
        elif disc.state == DiscState.VERIFIED:
            disc.become(DiscState.DAMAGED)
            self._note(disc, f"it failed in every drive that tried it: {why}")

    def failed_in(self, disc: DiscRecord) -> str:
        """A drive that could not read a disc which another one may; empty if two tried."""
        drives = self.blame.drives_of(disc.barcode)
        return next(iter(drives)) if self.blame.times(disc.barcode) == 1 else ""

    def set_aside(self, disc: DiscRecord, why: str) -> None:
        """Not used for a time; a blank one is suspect when that was not enough."""
        disc.quarantines += 1
        if disc.state == DiscState.BLANK and disc.quarantines > DISC_TRIES_MAX:
            disc.become(DiscState.SUSPECT)
            self._note(disc, f"it failed again and again: {why}")
            return
        disc.quarantined_until_ns = self._until_ns(self.config.disc_quarantine_s, disc.quarantines)
        disc.quarantine_why = why
        self._dirty.add(disc.barcode)
        self.alarms.raise_("disc-quarantine", f"disc {disc.barcode}: not used for a time: {why}")
        self.wake()

    def _note(self, disc: DiscRecord, text: str) -> None:
        disc.note = text
        self._dirty.add(disc.barcode)
        self.alarms.raise_("disc-unreadable", f"disc {disc.barcode}: {text}")
        self.wake()

    def is_aside(self, disc: DiscRecord) -> bool:
        """Whether a disc is in quarantine now."""
        return disc.quarantined_until_ns > self.clock.now_ns()

    async def quarantine_disc(self, disc: DiscRecord, why: str, seconds: float | None) -> None:
        """By hand; without a time until it is released."""
        disc.quarantined_until_ns = self._by_hand_ns(seconds)
        disc.quarantine_why = why or "by hand"
        self._dirty.add(disc.barcode)
        await self.save()
        self.wake()

    async def release_disc(self, disc: DiscRecord) -> None:
        """Use it again from now on; CallerError if it is in use."""
        if not self.is_aside(disc):
            raise CallerError(
                f"disc {disc.barcode} is not in quarantine; its state is {disc.state}"
            )
        self._disc_returns(disc)
        disc.quarantines = 0
        await self.save()
        self.wake()

    def _disc_returns(self, disc: DiscRecord) -> None:
        disc.quarantined_until_ns, disc.quarantine_why = 0, ""
        self._dirty.add(disc.barcode)
        self.alarms.clear_text("disc-quarantine", f"disc {disc.barcode}:")

    def unit(self, name: str) -> DriveUnit:
        """CallerError for one that there is not."""
        for unit in self.units:
            if unit.name == name:
                return unit
        known = ", ".join(unit.name for unit in self.units)
        raise CallerError(f"drive {name}: not known, expected one of {known}")

    def until_s(self, unit: DriveUnit) -> float:
        """When a drive comes back, since the epoch; 0: it is in service."""
        known = self.catalog.drives.get(unit.name)
        is_out = known is not None and unit.state == DriveState.QUARANTINED
        return known.until_ns / 1e9 if known is not None and is_out else 0.0

    # -- drives ---------------------------------------------------------------------------

    def quarantine(self, unit: DriveUnit, why: str, seconds: float | None = None) -> None:
        """Out of service until its time has come; ``seconds``: as a person says, 0 for ever."""
        known = self.catalog.drives.get(unit.name) or DriveRecord(name=unit.name)
        self.catalog.drives[unit.name] = known
        known.why, known.trial, known.times = why, False, known.times + (seconds is None)
        known.until_ns = (
            self._until_ns(self.config.drive_quarantine_s, known.times)
            if seconds is None
            else self._by_hand_ns(seconds or None)
        )
        self._drives_dirty = True
        unit.take_out(why)
        self.blame.forget_drive(unit.name)
        self.alarms.raise_(
            "drive-quarantine", f"drive {unit.name}: out of service for a time: {why}"
        )
        self.wake()

    def release(self, unit: DriveUnit) -> None:
        """Back in service; CallerError if it is."""
        if unit.state != DriveState.QUARANTINED:
            raise CallerError(f"drive {unit.name} is not in quarantine; its state is {unit.state}")
        self.catalog.drives.pop(unit.name, None)
        self._drive_returns(unit)
        self.alarms.clear_text("drive-quarantine", f"drive {unit.name}:")

    def _drive_returns(self, unit: DriveUnit) -> None:
        log.info("drive is back in service", drive=unit.name)
        self._drives_dirty = True
        unit.take_back()
        self.wake()

    def _until_ns(self, seconds: float, times: int) -> int:
        """Twice as long each time, up to a bound."""
        for_s = min(self.config.quarantine_max_s, seconds * 2 ** min(times - 1, 30))
        return self.clock.now_ns() + int(for_s * 1e9)

    def _by_hand_ns(self, seconds: float | None) -> int:
        return FOR_EVER_NS if seconds is None else self.clock.now_ns() + int(seconds * 1e9)

    # -- for reports ------------------------------------------------------------------------

    def disc_rate(self, barcode: str) -> float:
        """Moving average of a disc's errors."""
        return self.disc_rates[barcode].rate if barcode in self.disc_rates else 0.0

    def worst_discs(self) -> list[tuple[str, float]]:
        """Of those that failed, the worst first."""
        rates = [(barcode, rate.rate) for barcode, rate in self.disc_rates.items()]
        return sorted(rates, key=lambda one: -one[1])[:SHOWN_MAX]

    def counts(self) -> dict[str, int]:
        """How many are out of use for a time."""
        drives = sum(unit.state == DriveState.QUARANTINED for unit in self.units)
        discs = sum(self.is_aside(disc) for disc in self.catalog.discs.values())
        return {"drives": drives, "discs": discs}

    # -- time passes ------------------------------------------------------------------------

    async def run(self) -> None:
        """Let those return whose time has come, and save what changed; until cancelled."""
        while True:
            now_ns = self.clock.now_ns()
            for unit in self.units:
                known = self.catalog.drives.get(unit.name)
                over = known is not None and known.until_ns <= now_ns
                if known is not None and over and unit.state == DriveState.QUARANTINED:
                    known.trial = True
                    self._drive_returns(unit)
            for disc in self.catalog.discs.values():
                if 0 < disc.quarantined_until_ns <= now_ns:
                    self._disc_returns(disc)
                    self.wake()
            await self.save()
            await trio.sleep(LOOK_S)

    async def save(self) -> None:
        """What changed is durable after."""
        dirty, self._dirty = self._dirty, set()
        changes = []
        for barcode in sorted(dirty):
            disc = self.catalog.discs[barcode]
            text = disc.quarantine_why or disc.note
            entry = HistoryRecord(what="health", volume=disc.volume, text=text)
            changes += [put_record(disc), put_history(barcode, self.clock.now_ns(), entry)]
        if self._drives_dirty:
            self._drives_dirty = False
            changes.append(put_drives(self.catalog.drives))
        if changes:
            await self.catalog.transact(*changes)


FOR_EVER_NS: Final = (1 << 63) - 1
