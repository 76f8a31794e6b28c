"""Sense data: what a device says went wrong, as a table (SPC-4 section 4.5)."""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from hsmfs.errors import (
    CallerError,
    DriveError,
    HsmError,
    LibraryError,
    MediumError,
    TransientError,
)

FIXED_SENSE_BYTES: Final = 18


class Sense(NamedTuple):
    """Sense key, additional sense code and its qualifier."""

    key: int
    asc: int
    ascq: int

    def __str__(self) -> str:
        return f"{self.key:02X}/{self.asc:02X}/{self.ascq:02X}"


class Action(Enum):
    """What the one who sent the command does."""

    ACCEPT = "done; note it"
    WAIT = "wait, bounded"
    REPEAT = "consume and repeat"
    RETRY = "retry, bounded; never a move, write or close"
    RELOAD_STATE = "re-read the state"
    OTHER_COPY = "another copy, charge drive and disc"
    FRESH_DISC = "medium suspect, fresh disc, charge drive and disc"
    VOLUME_FULL = "volume is full"
    DISC_CLOSED = "disc is closed"
    DRIVE_FAULT = "charge the drive"
    LIBRARY_FAULT = "re-read element status, then decide"
    ALLOW = "allow removal, or wait"
    BUG = "a bug or stale inventory"


class Row(NamedTuple):
    """One row of the table."""

    meaning: str
    error: type[HsmError]
    action: Action


ANY: Final = -1
TABLE: Final[dict[tuple[int, int, int], Row]] = {
    (0x00, ANY, ANY): Row("no error", TransientError, Action.ACCEPT),
    (0x01, ANY, ANY): Row("recovered error", TransientError, Action.ACCEPT),
    (0x02, 0x04, 0x01): Row("becoming ready", TransientError, Action.WAIT),
    (0x02, 0x04, 0x04): Row("format in progress", TransientError, Action.WAIT),
    (0x02, 0x04, 0x07): Row("operation in progress", TransientError, Action.WAIT),
    (0x02, 0x04, 0x08): Row("long write in progress", TransientError, Action.WAIT),
    (0x02, 0x04, 0x03): Row("a person must look at the drive", DriveError, Action.DRIVE_FAULT),
    (0x02, 0x04, ANY): Row("not ready", DriveError, Action.DRIVE_FAULT),
    (0x02, 0x30, ANY): Row("incompatible medium", MediumError, Action.OTHER_COPY),
    (0x02, 0x3A, ANY): Row("no medium", MediumError, Action.RELOAD_STATE),
    (0x02, ANY, ANY): Row("not ready", DriveError, Action.DRIVE_FAULT),
    (0x03, 0x0C, ANY): Row("write error", MediumError, Action.FRESH_DISC),
    (0x03, 0x11, ANY): Row("unreadable sector", MediumError, Action.OTHER_COPY),
    (0x03, 0x73, ANY): Row("laser power calibration failed", MediumError, Action.FRESH_DISC),
    (0x03, ANY, ANY): Row("medium error", MediumError, Action.OTHER_COPY),
    (0x04, 0x15, ANY): Row("mechanical positioning error", LibraryError, Action.LIBRARY_FAULT),
    (0x04, 0x44, ANY): Row("internal failure of the device", DriveError, Action.DRIVE_FAULT),
    (0x04, 0x53, ANY): Row("disc cannot be loaded or ejected", DriveError, Action.DRIVE_FAULT),
    (0x04, ANY, ANY): Row("hardware error", DriveError, Action.DRIVE_FAULT),
    (0x05, 0x20, 0x00): Row("command not supported", CallerError, Action.BUG),
    (0x05, 0x21, 0x00): Row("sector out of range", MediumError, Action.BUG),
    (0x05, 0x21, 0x01): Row("invalid element address", LibraryError, Action.LIBRARY_FAULT),
    (0x05, 0x21, 0x02): Row("not the next writable sector", MediumError, Action.RELOAD_STATE),
    (0x05, 0x24, 0x00): Row("invalid field in command", CallerError, Action.BUG),
    (0x05, 0x30, ANY): Row("incompatible medium", MediumError, Action.FRESH_DISC),
    (0x05, 0x3B, 0x0D): Row("destination element full", LibraryError, Action.LIBRARY_FAULT),
    (0x05, 0x3B, 0x0E): Row("source element empty", LibraryError, Action.LIBRARY_FAULT),
    (0x05, 0x3B, ANY): Row("element cannot be reached", LibraryError, Action.LIBRARY_FAULT),
    (0x05, 0x53, 0x02): Row("medium removal prevented", LibraryError, Action.ALLOW),
    (0x05, 0x63, 0x00): Row("end of user area on this track", MediumError, Action.VOLUME_FULL),
    (0x05, 0x64, 0x00): Row("illegal mode for this track", MediumError, Action.BUG),
    (0x05, 0x72, ANY): Row("session cannot be closed", MediumError, Action.FRESH_DISC),
    (0x05, ANY, ANY): Row("illegal request", CallerError, Action.BUG),
    (0x06, 0x28, ANY): Row("medium may have changed", TransientError, Action.REPEAT),
    (0x06, 0x29, ANY): Row("power on or reset", TransientError, Action.REPEAT),
    (0x06, ANY, ANY): Row("unit attention", TransientError, Action.REPEAT),
    (0x07, 0x27, ANY): Row("write protected", MediumError, Action.DISC_CLOSED),
    (0x07, ANY, ANY): Row("data protect", MediumError, Action.DISC_CLOSED),
    (0x08, ANY, ANY): Row("nothing is recorded here", MediumError, Action.OTHER_COPY),
    (0x0B, ANY, ANY): Row("aborted command", TransientError, Action.RETRY),
    (0x0D, ANY, ANY): Row("end of medium", MediumError, Action.VOLUME_FULL),
}
UNKNOWN: Final = Row("unknown error", DriveError, Action.DRIVE_FAULT)


def decode(data: bytes) -> Sense:
    """From fixed (70h, 71h) or descriptor (72h, 73h) format; SPC-4 4.5.2 and 4.5.3."""
    if len(data) >= 14 and data[0] & 0x7F in (0x70, 0x71):
        return Sense(data[2] & 0x0F, data[12], data[13])
    if len(data) >= 4 and data[0] & 0x7F in (0x72, 0x73):
        return Sense(data[1] & 0x0F, data[2], data[3])
    return Sense(0x0B, 0x00, 0x00)


def encode(sense: Sense) -> bytes:
    """Fixed format, current error."""
    data = bytearray(FIXED_SENSE_BYTES)
    data[0], data[2], data[7] = 0x70, sense.key, FIXED_SENSE_BYTES - 8
    data[12], data[13] = sense.asc, sense.ascq
    return bytes(data)


def look_up(sense: Sense) -> Row:
    """The most specific row."""
    for key in (
        (sense.key, sense.asc, sense.ascq),
        (sense.key, sense.asc, ANY),
        (sense.key, ANY, ANY),
    ):
        if key in TABLE:
            return TABLE[key]
    return UNKNOWN


def error_of(sense: Sense, what: str) -> HsmError:
    """The exception for a sense, saying what was tried."""
    row = look_up(sense)
    return row.error(f"{what}: {row.meaning} (sense {sense}); {row.action.value}")
