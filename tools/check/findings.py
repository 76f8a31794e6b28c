"""What a check finds, and how each is run: no check ends another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from hsmfs.errors import FsError, HsmError


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    """Works, but not as well as it could."""
    FAULT = "fault"
    """Does not work, or data is at risk."""


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    level: Level
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """Looks at one thing; what it yields is named after it."""

    name: str
    look: Callable[[], Iterator[tuple[Level, str, str]]]


def run(checks: list[Check]) -> list[Finding]:
    """All of them; one that finds nothing wrong says so."""
    return [finding for check in checks for finding in _one(check)]


def _one(check: Check) -> Iterator[Finding]:
    bad = 0
    try:
        for level, text, remedy in check.look():
            bad += level is not Level.OK
            yield Finding(check.name, level, text, remedy)
    except (HsmError, FsError) as error:
        bad += 1
        yield Finding(check.name, Level.FAULT, str(error))
    except OSError as error:
        bad += 1
        where = f"{error.filename}: " if error.filename else ""
        yield Finding(check.name, Level.FAULT, f"{where}{error.strerror}")
    if not bad:
        yield Finding(check.name, Level.OK, "")
