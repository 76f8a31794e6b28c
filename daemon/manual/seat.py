"""One drive of a manual library: what is known of its tray and of what lies in it."""

from __future__ import annotations

from dataclasses import dataclass

from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.daemon.manual.asks import Ask


@dataclass(frozen=True, slots=True)
class Taken:
    """What a person should take out, and what to do with it."""

    words: str
    disc: str = ""
    """Its number, if it is one of ours."""
    write: str = ""
    """To be written on it with a pen; empty: it is written there."""
    box: str = ""
    """Where it belongs; empty: it does not belong here."""


@dataclass(slots=True)
class Seat:
    """A drive for a person to load; ``unit.disc`` is the disc of ours that lies in it."""

    unit: DriveUnit
    present: bool = False
    is_open: bool = False
    is_looked: bool = False
    """What is present was looked at."""
    is_planned: bool = False
    """The dispatcher knows of it."""
    is_locked: bool = True
    """Perhaps: by a job, or by one of a process that was killed."""
    blank_sectors: int = 0
    """Of a blank disc in it."""
    stranger: str = ""
    """What is in it and is of no use, in words."""
    looked_for: Ask | None = None
    """What was asked for when this was put in."""
    found: str = ""
    """What was put in last and is not what was asked for, until something else is."""
    taken: Taken | None = None
    """It was let go of, and should be taken out."""
    opened_for: Ask | None = None
    """The tray was opened for this; not again, should the person close it empty."""
    problem: str = ""
    """Why the drive does not answer."""

    @property
    def is_usable(self) -> bool:
        """Known well enough to decide what to do with it."""
        return not self.problem and (self.is_looked or not self.present)

    def empty(self) -> None:
        """Nothing is in it any more."""
        self.unit.disc = self.stranger = ""
        self.blank_sectors = 0
        self.is_looked = False
