"""Residency as one table: where a file's data is, and what may happen to it."""

from __future__ import annotations

from enum import Enum
from typing import Final

from hsmfs.types import Residency


class Cause(Enum):
    """What changes a file's residency."""

    COPIED = "the last copy was verified"
    CHANGED = "opened for write, truncated"
    RELEASED = "cached data dropped"
    WANTED = "read, written or recalled"
    COMPLETE = "all data is back"
    GIVEN_UP = "failed, cancelled, crashed"
    EMPTIED = "truncated to nothing"


TRANSITIONS: Final[dict[tuple[Residency, Cause], Residency]] = {
    (Residency.RESIDENT, Cause.COPIED): Residency.PREMIGRATED,
    (Residency.PREMIGRATED, Cause.COPIED): Residency.PREMIGRATED,
    (Residency.RESIDENT, Cause.CHANGED): Residency.RESIDENT,
    (Residency.PREMIGRATED, Cause.CHANGED): Residency.RESIDENT,
    (Residency.PREMIGRATED, Cause.RELEASED): Residency.MIGRATED,
    (Residency.MIGRATED, Cause.WANTED): Residency.RECALLING,
    (Residency.RECALLING, Cause.WANTED): Residency.RECALLING,
    (Residency.RECALLING, Cause.COMPLETE): Residency.PREMIGRATED,
    (Residency.RECALLING, Cause.GIVEN_UP): Residency.MIGRATED,
    (Residency.RESIDENT, Cause.EMPTIED): Residency.RESIDENT,
    (Residency.PREMIGRATED, Cause.EMPTIED): Residency.RESIDENT,
    (Residency.MIGRATED, Cause.EMPTIED): Residency.RESIDENT,
    (Residency.RECALLING, Cause.EMPTIED): Residency.RESIDENT,
}


class ForbiddenTransition(AssertionError):
    """A bug: the table does not allow this."""


def after(state: int, cause: Cause) -> Residency:
    """The state that follows; raises ForbiddenTransition for anything else."""
    try:
        return TRANSITIONS[Residency(state), cause]
    except KeyError:
        word = Residency(state).word
        raise ForbiddenTransition(f"{word} files cannot be: {cause.value}") from None


STUB_STATES: Final = (Residency.MIGRATED, Residency.RECALLING)
