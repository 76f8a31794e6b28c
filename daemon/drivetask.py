"""One task per drive: it alone talks to the device, one job at a time."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final, Protocol, TypeVar

import structlog
import trio

from hsmfs.changer.drive import Drive
from hsmfs.clock import Clock
from hsmfs.daemon.health import ErrorRate
from hsmfs.daemon.picture import DriveView, Priority, Work
from hsmfs.errors import CallerError, HsmError

log = structlog.get_logger(__name__)
T = TypeVar("T")

ERRORS_MAX: Final = 3
"""Faults charged to a drive in a row before it is taken out of service."""


class DriveState(StrEnum):
    """What a drive does, as operators see it."""

    IDLE = "idle"
    LOADING = "loading"
    BURNING = "burning"
    VERIFYING = "verifying"
    READING = "reading"
    FAILED = "failed"


class DriveJob(Protocol):
    """Work for one drive; it handles its own errors."""

    async def run(self, unit: DriveUnit) -> None:
        """Do the work on this drive."""


class DriveUnit:
    """A drive, what is in it, and how it fares."""

    def __init__(self, name: str, element: int, drive: Drive, clock: Clock) -> None:
        self.name = name
        self.element = element
        self.drive = drive
        self.state = DriveState.IDLE
        self.disc = ""
        self.note = ""
        self.errors = 0
        self.errors_in_row = 0
        self.health = ErrorRate()
        self.loads = 0
        self.busy = False
        self.ejected = False
        """The disc lies in the drive, but was let go of."""
        self.rescued = False
        """Whether getting the disc out of the failed drive was tried."""
        self.idle_since_s = 0.0
        self.read_at_s = float("-inf")
        self.work = Work.NONE
        self.since_s = 0.0
        """When the present job was handed over."""
        self.priority = Priority.READERS
        """Of what is read."""
        self.moving = False
        """The robot brings its disc, or is asked to."""
        self.yields = False
        """Others wait: what is read or scrubbed should come to an end."""
        self._charged: HsmError | None = None
        self._clock = clock
        self._limiter = trio.CapacityLimiter(1)
        self._send, self._receive = trio.open_memory_channel[DriveJob](1)

    @property
    def alive(self) -> bool:
        return self.state != DriveState.FAILED

    async def call(self, work: Callable[..., T], *args: object) -> T:
        """Run a blocking device call in this drive's own thread slot."""
        return await trio.to_thread.run_sync(work, *args, limiter=self._limiter)

    def assign(self, job: DriveJob, state: DriveState, work: Work = Work.OTHER) -> None:
        """Hand over the next job; the drive must be idle."""
        assert not self.busy and self.alive, f"drive {self.name} is not free"
        self.busy, self.yields = True, False
        self.work, self.since_s = work, self._clock.monotonic_s()
        self.state = state
        self._send.send_nowait(job)

    def assign_rescue(self, job: DriveJob) -> None:
        """A last job for a failed drive: give the disc back."""
        assert not self.busy and not self.alive
        self.busy = True
        self._send.send_nowait(job)

    def view(self, heat: float = 0.0) -> DriveView:
        """What the scheduler should know."""
        return DriveView(
            self.name, self.busy, self.disc, self.idle_since_s, self.read_at_s, self.work,
            self.since_s, self.priority, self.yields, moving=self.moving,
            heat=heat, is_doubtful=self.health.is_doubtful,
        )  # fmt: skip

    def charge(self, error: HsmError, *, for_good: bool) -> None:
        """Count a fault once; a drive that fails too often in a row is left alone."""
        if error is self._charged:
            return
        self._charged = error
        self.errors += 1
        self.errors_in_row += 1
        self.health.charge()
        self.note = str(error)
        if for_good and self.errors_in_row >= ERRORS_MAX and self.alive:
            self.state = DriveState.FAILED
            log.error("drive taken out of service", drive=self.name, cause=str(error))

    def credit(self) -> None:
        """Work succeeded: faults in a row are forgotten, the sum is kept."""
        self.errors_in_row = 0
        self.health.credit()

    def pardon(self) -> None:
        """The disc was to blame for the last fault."""
        self.errors_in_row = max(0, self.errors_in_row - 1)
        self.health.pardon()

    def quarantine(self, why: str) -> None:
        """By hand, until ``take_back`` or the next start of hsmd: no more work than it has now."""
        if not self.alive:
            raise CallerError(f"drive {self.name} is out of service already: {self.note}")
        self.state, self.note = DriveState.FAILED, f"quarantined: {why or 'by hand'}"
        log.info("drive quarantined", drive=self.name, why=why)

    def take_back(self) -> None:
        """It was looked at: its faults are forgotten. CallerError where it cannot be used."""
        if self.alive:
            raise CallerError(f"drive {self.name} is in service ({self.state.value})")
        if self.busy:
            raise CallerError(f"drive {self.name} ends its last work; try again in a moment")
        if self.element < 0:
            raise CallerError(
                f"drive {self.name}: its place in the library is not known ({self.note}); "
                "give its element in [[library.drive]] and restart hsmd"
            )
        self.state, self.note = DriveState.IDLE, ""
        self.errors_in_row, self.health = 0, ErrorRate()
        self.rescued = False
        self.idle_since_s = self._clock.monotonic_s()
        log.info("drive taken back", drive=self.name)

    async def serve(self, wake: Callable[[], None]) -> None:
        """Run jobs until cancelled; ``wake`` is called after each."""
        async for job in self._receive:
            try:
                await job.run(self)
            except HsmError as error:
                self.note = str(error)
                log.error("drive job failed", drive=self.name, error=str(error))
            except Exception as error:
                self.note = f"bug: {type(error).__name__}: {error}"
                log.exception("bug: a drive job failed", drive=self.name)
            finally:
                self.busy = False
                self.work, self.moving = Work.NONE, False
                self.idle_since_s = self._clock.monotonic_s()
                if self.alive:
                    self.state = DriveState.IDLE
                wake()
