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
from hsmfs.errors import HsmError

log = structlog.get_logger(__name__)
T = TypeVar("T")

Fault = Callable[["DriveUnit", HsmError, bool, bool], None]
"""Drive, error, whether it is the drive's as far as the device says, whether that is sure."""


class DriveState(StrEnum):
    """What a drive does, as operators see it."""

    IDLE = "idle"
    LOADING = "loading"
    BURNING = "burning"
    VERIFYING = "verifying"
    READING = "reading"
    FAILED = "failed"
    """It did not answer when hsmd started."""
    QUARANTINED = "quarantined"
    """Out of service for a time."""


OUT: Final = (DriveState.FAILED, DriveState.QUARANTINED)


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
        self.discs_in_row: set[str] = set()
        """Discs that were in it at the faults in a row."""
        self.bugs = 0
        """Jobs in a row that ended in a bug."""
        self.blamed = 0
        """Discs in a row that failed here and worked elsewhere."""
        self.rest_until_s = 0.0
        """Other drives go first until then."""
        self.gives_back = False
        """Its disc should go back to its slot, to be tried elsewhere."""
        self.on_fault: Fault = lambda unit, error, for_good, sure: None
        self.on_success: Callable[[DriveUnit, bool], None] = lambda unit, proved: None
        self.on_bug: Callable[[DriveUnit, str], None] = lambda unit, words: None
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
        return self.state not in OUT

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
        rests = self._clock.monotonic_s() < self.rest_until_s
        return DriveView(
            self.name, self.busy or rests, self.disc, self.idle_since_s, self.read_at_s, self.work,
            self.since_s, self.priority, self.yields, moving=self.moving,
            heat=heat, is_doubtful=self.health.is_doubtful,
        )  # fmt: skip

    def charge(self, error: HsmError, *, for_good: bool, sure: bool = False) -> None:
        """Count a fault once; ``daemon.ward`` decides what comes of it."""
        if error is self._charged:
            return
        self._charged = error
        self.errors += 1
        self.errors_in_row += 1
        self.health.charge()
        self.note = str(error)
        if self.disc:
            self.discs_in_row.add(self.disc)
        self.on_fault(self, error, for_good, sure)

    def take_out(self, why: str) -> None:
        """Out of service, when its present job has ended."""
        log.error("drive taken out of service", drive=self.name, cause=why)
        self.state, self.note, self.rescued = DriveState.QUARANTINED, why, False

    def take_back(self) -> None:
        """In service again, with a clean sheet."""
        self.state, self.note = DriveState.IDLE, ""
        self.errors_in_row = self.bugs = self.blamed = 0
        self.discs_in_row.clear()
        self.rest_until_s, self.gives_back = 0.0, False

    def credit(self, *, proved: bool = False) -> None:
        """Work succeeded: faults in a row are forgotten, the sum is kept; ``proved``: all of
        the disc was written or read."""
        self.errors_in_row = self.bugs = self.blamed = 0
        self.discs_in_row.clear()
        self.gives_back = False
        self.health.credit()
        self.on_success(self, proved)

    def pardon(self) -> None:
        """The disc was to blame for the last fault."""
        self.errors_in_row = max(0, self.errors_in_row - 1)
        self.health.pardon()

    async def serve(self, wake: Callable[[], None]) -> None:
        """Run jobs until cancelled; ``wake`` is called after each."""
        async for job in self._receive:
            try:
                await job.run(self)
            except HsmError as error:
                if self.alive:  # else it tells why the drive is out of service
                    self.note = str(error)
                log.error("drive job failed", drive=self.name, error=str(error))
            except Exception as error:
                self.note = f"bug: {type(error).__name__}: {error}; see the log"
                log.exception("bug: a drive job failed", drive=self.name)
                self.on_bug(self, self.note)
            finally:
                self.busy = False
                self.work, self.moving = Work.NONE, False
                self.idle_since_s = self._clock.monotonic_s()
                if self.alive:
                    self.state = DriveState.IDLE
                wake()
