"""What the scheduler sees and says: drives, demands, rules, actions; plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

INFINITE: Final = float("inf")
URGENT_SHARE: Final = 0.5
"""A request goes before all others when so much of its bound is gone."""


class Priority(IntEnum):
    """Whose request it is; lower goes first."""

    READERS = 0
    BULK = 1
    """Asked for by hand or by rule: nobody sits before it."""
    BACKGROUND = 2


class Work(StrEnum):
    """What a busy drive does."""

    NONE = "none"
    READ = "read"
    BURN = "burn"
    VERIFY = "verify"
    SCRUB = "scrub"
    OTHER = "other"


ENDLESS: Final = frozenset({Work.BURN, Work.OTHER})
"""Work that cannot be broken off; a proof goes on later where it was."""
LONG_WORK: Final = frozenset({Work.BURN, Work.VERIFY, Work.SCRUB, Work.OTHER})
"""Work that holds a drive for long, of which recalls are kept some drives free."""
BURN_WORK: Final = frozenset({Work.BURN, Work.VERIFY})
"""Work that gets the share of ``Rules.burn_floor``: copies count when they are proved."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Bounds that the site's configuration gives."""

    readers_wait_max_s: float = 3_600.0
    bulk_wait_max_s: float = 28_800.0
    background_wait_max_s: float = 86_400.0
    hold_s: float = 0.0
    """How long a disc that was just read keeps its drive."""
    turn_s: float = 120.0
    """How long a disc is read at least before it makes room for others that wait."""
    loads_ahead: int = 1
    """Recalls that may wait for the robot; later ones are decided when it is free: by then
    more requests have come for a disc, and discs stay in drives until then."""
    spare_s: float = 30.0
    """A recall waits so long for a drive that reads, rather than take one whose disc is wanted
    ``spare_factor`` times as often."""
    spare_factor: float = 2.0
    gather_s: float = 300.0
    """While the robot is busy, a recall by hand waits so long for others of the same disc."""
    gather_from: float = 0.3
    """The robot is busy when it moved for such a share of the last minutes (``BusyShare``)."""
    equal_s: float = 300.0
    """Recalls by hand that waited so long go with readers, by what they waited since."""
    reserved: float = 0.25
    """Share of the drives, rounded down, that long work leaves to recalls."""
    quiet_below: float = 0.1
    """A burn takes the last drive, beyond the floor, only while the robot moves less than this
    share of the last minutes: nobody can break it off."""
    burn_floor: float = 0.2
    """Share of drive time that burning and proving get while there is such work."""
    burn_floor_wait_s: float = 600.0
    """Burns that waited for so long claim their floor."""

    def wait_max_s(self, priority: Priority) -> float:
        """The promise to requests of this class."""
        bounds = (self.readers_wait_max_s, self.bulk_wait_max_s, self.background_wait_max_s)
        return bounds[priority]

    def patience_s(self, priority: Priority) -> float:
        """How long a request of this class lets others go first."""
        return self.wait_max_s(priority) * URGENT_SHARE

    def urgent_before_s(self, deadline_s: float) -> float:
        """When a request with a deadline of its own becomes urgent."""
        return deadline_s - self.readers_wait_max_s * (1 - URGENT_SHARE)


@dataclass(frozen=True, slots=True)
class DriveView:
    """One drive that lives."""

    name: str
    busy: bool
    disc: str = ""
    idle_since_s: float = 0.0
    read_at_s: float = float("-inf")
    """When it last served readers: their next requests may follow soon."""
    work: Work = Work.NONE
    since_s: float = 0.0
    """When the present work began."""
    priority: Priority = Priority.READERS
    """Of what a reading drive serves now."""
    yields: bool = False
    """It was told to come to an end."""
    moving: bool = False
    """The robot brings its disc, or is asked to."""
    is_doubtful: bool = False
    """It had errors of late: used when no other drive is free."""
    heat: float = 0.0
    """How often its disc's volume was wanted of late (``heat.VolumeHeat``)."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one user waits for on one volume."""

    user: str
    files: int
    since_sum_s: float
    """Sum of the moments at which they were asked for."""


@dataclass(frozen=True, slots=True)
class ReadDemand:
    """Requests for one volume; ``discs`` are usable copies, best first."""

    volume: str
    discs: tuple[str, ...]
    since_s: float
    """Of the oldest of its best class."""
    priority: Priority = Priority.READERS
    """The best of its requests."""
    shares: tuple[Share, ...] = ()
    """Empty: one user, one file."""
    urgent_s: float = INFINITE
    """When its first request becomes urgent, where ``since_s`` and the class say it later."""


@dataclass(frozen=True, slots=True)
class BurnDemand:
    """A volume that lacks ``copies_left`` discs."""

    volume: str
    copies_left: int
    since_s: float


@dataclass(frozen=True, slots=True)
class VerifyDemand:
    """A disc to be read and proved, in another drive than ``burned_in`` if there is one."""

    disc: str
    burned_in: str
    since_s: float
    is_scrub: bool = False
    """Nobody waits for it: only when nothing else is to be done."""


@dataclass(frozen=True, slots=True)
class StageDemand:
    """A volume whose image is wanted in a file; ``discs`` may give it, best first."""

    volume: str
    discs: tuple[str, ...]
    since_s: float


@dataclass(frozen=True, slots=True)
class Picture:
    """All that a decision needs."""

    drives: tuple[DriveView, ...]
    reads: tuple[ReadDemand, ...] = ()
    burns: tuple[BurnDemand, ...] = ()
    verifies: tuple[VerifyDemand, ...] = ()
    stages: tuple[StageDemand, ...] = ()
    unloads: tuple[str, ...] = ()
    """Discs that must go back to their slots (their magazine leaves)."""
    rules: Rules = Rules()
    burn_debt_s: float = 0.0
    """Drive seconds that burn work is short of its floor (``floor.BurnFloor``)."""
    robot_share: float = 0.0
    """How much of the last minutes the robot moved (``busyshare.BusyShare``)."""


@dataclass(frozen=True, slots=True)
class Read:
    drive: str
    volume: str
    disc: str


@dataclass(frozen=True, slots=True)
class Burn:
    volume: str
    drives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verify:
    drive: str
    disc: str


@dataclass(frozen=True, slots=True)
class StageImage:
    drive: str
    volume: str
    disc: str


@dataclass(frozen=True, slots=True)
class Unload:
    drive: str


@dataclass(frozen=True, slots=True)
class Yield:
    """A drive that reads or scrubs should end after the present file: others wait."""

    drive: str


Action = Read | Burn | Verify | StageImage | Unload | Yield
