"""Which code can come with which operation, and what then has to happen; docs/sense.md."""

from __future__ import annotations

from collections import defaultdict
from enum import Enum, StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from hsmfs.changer import sense as senses
from hsmfs.changer.sense import Action, Sense
from hsmfs.errors import (
    CallerError,
    DriveError,
    HsmError,
    LibraryError,
    MediumError,
    TransientError,
)

DOC: Final = Path(__file__).parents[2] / "docs" / "sense.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"

ROWS: Final = [
    ("00/00/00", TransientError, Action.ACCEPT),
    ("01/17/01", TransientError, Action.ACCEPT),
    ("02/04/01", TransientError, Action.WAIT),
    ("02/04/04", TransientError, Action.WAIT),
    ("02/04/07", TransientError, Action.WAIT),
    ("02/04/08", TransientError, Action.WAIT),
    ("02/04/03", DriveError, Action.DRIVE_FAULT),
    ("02/04/02", DriveError, Action.DRIVE_FAULT),
    ("02/30/00", MediumError, Action.OTHER_COPY),
    ("02/3A/00", MediumError, Action.RELOAD_STATE),
    ("02/3A/02", MediumError, Action.RELOAD_STATE),
    ("02/05/00", DriveError, Action.DRIVE_FAULT),
    ("03/0C/00", MediumError, Action.FRESH_DISC),
    ("03/11/05", MediumError, Action.OTHER_COPY),
    ("03/73/03", MediumError, Action.FRESH_DISC),
    ("03/02/00", MediumError, Action.OTHER_COPY),
    ("04/15/01", LibraryError, Action.LIBRARY_FAULT),
    ("04/44/00", DriveError, Action.DRIVE_FAULT),
    ("04/53/00", DriveError, Action.DRIVE_FAULT),
    ("04/09/01", DriveError, Action.DRIVE_FAULT),
    ("05/20/00", CallerError, Action.BUG),
    ("05/21/00", MediumError, Action.BUG),
    ("05/21/01", LibraryError, Action.LIBRARY_FAULT),
    ("05/21/02", MediumError, Action.RELOAD_STATE),
    ("05/24/00", CallerError, Action.BUG),
    ("05/30/05", MediumError, Action.FRESH_DISC),
    ("05/3B/0D", LibraryError, Action.LIBRARY_FAULT),
    ("05/3B/0E", LibraryError, Action.LIBRARY_FAULT),
    ("05/3B/12", LibraryError, Action.LIBRARY_FAULT),
    ("05/53/02", LibraryError, Action.ALLOW),
    ("05/63/00", MediumError, Action.VOLUME_FULL),
    ("05/64/00", MediumError, Action.BUG),
    ("05/72/03", MediumError, Action.FRESH_DISC),
    ("05/1A/00", CallerError, Action.BUG),
    ("06/28/00", TransientError, Action.REPEAT),
    ("06/28/01", TransientError, Action.REPEAT),
    ("06/29/00", TransientError, Action.REPEAT),
    ("06/2A/01", TransientError, Action.REPEAT),
    ("07/27/00", MediumError, Action.DISC_CLOSED),
    ("07/00/00", MediumError, Action.DISC_CLOSED),
    ("08/00/00", MediumError, Action.OTHER_COPY),
    ("0B/00/00", TransientError, Action.RETRY),
    ("0D/00/00", MediumError, Action.VOLUME_FULL),
    ("0E/1D/00", DriveError, Action.DRIVE_FAULT),
]
"""Each row of the table by one code or more."""


class Operation(StrEnum):
    """What is asked of a drive or of the changer."""

    READY = "ready"
    INFORMATION = "disc information"
    READ = "read"
    WRITE = "write"
    SYNC = "flush"
    CLOSE = "close"
    LOAD = "load"
    EJECT = "eject"
    STATUS = "element status"
    INITIALIZE = "initialize"
    PREVENT = "lock"
    MOVE = "move"
    MOVE_DONE = "move that was done"


Op = Operation
DRIVE: Final = (Op.READY, Op.INFORMATION, Op.READ, Op.WRITE, Op.SYNC, Op.CLOSE, Op.LOAD, Op.EJECT)
CHANGER: Final = (Op.STATUS, Op.INITIALIZE, Op.PREVENT, Op.MOVE, Op.MOVE_DONE)
MOVES: Final = (Op.MOVE, Op.MOVE_DONE)
ALL: Final = DRIVE + CHANGER
DISC: Final = DRIVE[:-1]
WRITES: Final = (Op.WRITE, Op.SYNC, Op.CLOSE)
NOT_DONE: Final = (Op.MOVE,)
"""A move that was refused was not made."""
PLACES: Final[dict[str, tuple[Operation, ...]]] = {
    "02/04/01": DRIVE + CHANGER[:-1],
    "02/04/04": DRIVE,
    "02/04/07": DRIVE,
    "02/04/08": DRIVE,
    "02/30": (Op.READY, Op.INFORMATION, Op.READ, Op.WRITE, Op.LOAD),
    "02/3A": DRIVE,
    "03/0C": WRITES,
    "03/11": (Op.READY, Op.INFORMATION, Op.READ, Op.LOAD),
    "03/73": (Op.WRITE, Op.CLOSE),
    "03": DISC,
    "04/15": (*DRIVE, Op.STATUS, Op.INITIALIZE, *MOVES),
    "04/53": (Op.READY, Op.LOAD, Op.EJECT, *MOVES),
    "05/21/00": (Op.READ, Op.WRITE),
    "05/21/01": (Op.STATUS, Op.MOVE),
    "05/21/02": (Op.WRITE,),
    "05/30": (*DISC, Op.MOVE),
    "05/3B": NOT_DONE,
    "05/53": (Op.EJECT, Op.MOVE),
    "05/63": (Op.WRITE,),
    "05/64": (Op.READ, *WRITES),
    "05/72": (Op.CLOSE,),
    "05": ALL[:-1],
    "06": ALL[:-1],
    "07": WRITES,
    "08": (Op.READ,),
    "0D": WRITES,
    "": ALL,
}
"""By the beginning of the code, the longest that fits: where it can occur."""


class Outcome(Enum):
    """What has to come of it."""

    DONE = "done, and noted"
    WAITED = "waited for, then sent again"
    REPEATED = "sent again"
    ALLOWED = "removal is allowed, then sent again"
    LEFT = "left alone"
    LOOKED = "element status is read; sent again if both elements are as before"
    ARRIVED = "element status is read; it tells that the disc arrived"
    MEDIUM = "fault of the disc"
    DRIVE = "fault of the drive"
    LIBRARY = "fault of the library"
    REREAD = "element status is read, then fault of the library"


ERRORS: Final[dict[Outcome, type[HsmError]]] = {
    Outcome.MEDIUM: MediumError,
    Outcome.DRIVE: DriveError,
    Outcome.LIBRARY: LibraryError,
    Outcome.REREAD: LibraryError,
}


class Case(NamedTuple):
    """One code at one operation."""

    code: str
    operation: Operation
    once: Outcome
    """If the device says it once."""
    always: Outcome
    """If it goes on saying it."""

    def __str__(self) -> str:
        return f"{self.code} {self.operation}"


def parse(code: str) -> Sense:
    return Sense(*(int(part, 16) for part in code.split("/")))


def places(code: str) -> tuple[Operation, ...]:
    """Operations with which a code can come."""
    return PLACES[max((known for known in PLACES if code.startswith(known)), key=len)]


def cases() -> list[Case]:
    """All of them."""
    return [
        Case(code, operation, *_outcome(parse(code), action, operation))
        for code, _, action in ROWS
        for operation in places(code)
    ]


def _outcome(sense: Sense, action: Action, operation: Operation) -> tuple[Outcome, Outcome]:
    if action is Action.ACCEPT:
        return Outcome.DONE, Outcome.DONE
    if operation in MOVES:
        return _moved(action, operation)
    fault = Outcome.LIBRARY if operation in CHANGER else Outcome.DRIVE
    if action is Action.WAIT:
        return Outcome.WAITED, fault
    changed = sense[:2] == (0x06, 0x28) and operation in (Op.READ, *WRITES)
    if action is Action.REPEAT and changed:
        return Outcome.MEDIUM, Outcome.MEDIUM
    once_only = action is Action.RETRY and operation in (Op.WRITE, Op.CLOSE)
    if action in (Action.REPEAT, Action.RETRY) and not once_only:
        return Outcome.REPEATED, fault
    if operation is Op.EJECT:
        return _ejected(sense, action)
    unknown = operation is Op.STATUS and sense[:2] in ((0x05, 0x21), (0x05, 0x24))
    if unknown or (operation is Op.PREVENT and sense.key == 0x05):
        return Outcome.LEFT, Outcome.LEFT
    if operation in DRIVE and senses.look_up(sense).error is MediumError:
        return Outcome.MEDIUM, Outcome.MEDIUM
    return fault, fault


def _moved(action: Action, operation: Operation) -> tuple[Outcome, Outcome]:
    if operation is Op.MOVE_DONE:
        return Outcome.ARRIVED, Outcome.ARRIVED
    if action is Action.REPEAT:
        return Outcome.LOOKED, Outcome.REREAD
    return Outcome.REREAD, Outcome.REREAD


def _ejected(sense: Sense, action: Action) -> tuple[Outcome, Outcome]:
    if sense[:2] == (0x02, 0x3A):
        return Outcome.LEFT, Outcome.LEFT
    once = Outcome.ALLOWED if action is Action.ALLOW else Outcome.DRIVE
    return once, Outcome.DRIVE


# -- the document ----------------------------------------------------------------------


def table() -> str:
    """The part of docs/sense.md between the marks."""
    lines = [
        "| code | meaning | action | on | what is done | if it goes on |",
        "|---|---|---|---|---|---|",
    ]
    by_code: dict[str, dict[tuple[Outcome, Outcome], list[Operation]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for case in cases():
        by_code[case.code][case.once, case.always].append(case.operation)
    for code, _, action in ROWS:
        row = senses.look_up(parse(code))
        head = f"`{code}` | {row.meaning} | {action.value}"
        for (once, always), operations in by_code[code].items():
            last = "" if always is once else always.value
            lines.append(f"| {head} | {', '.join(operations)} | {once.value} | {last} |")
            head = " | |"
    return "\n".join(lines) + "\n"


def document() -> tuple[str, str]:
    """The file as it is, and as it should be."""
    text = DOC.read_text()
    before, rest = text.split(BEGIN)
    return text, before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    DOC.write_text(document()[1])
