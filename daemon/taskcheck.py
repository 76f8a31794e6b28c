"""What people did instead of what a task says, by what element status showed since."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from hsmfs.daemon.catalogrecords import (
    MagazineEvent,
    MagazineRecord,
    MagazineState,
    TaskRecord,
)
from hsmfs.daemon.magazinebelief import LEFT_UNASKED

BRING: Final = ("bring", "find")
TAKE_OUT: Final = "take-out"
BLANKS: Final = "blanks"
FILL: Final = "fill-mailslots"
_OUTSIDE: Final = (MagazineState.SHELF, MagazineState.OFFSITE, MagazineState.MISSING)


def problem_of(
    task: TaskRecord, magazines: Collection[MagazineRecord], tasks: Iterable[TaskRecord]
) -> str:
    """Empty while nothing wrong was done. ``tasks`` are all, done ones too."""
    if task.kind in BRING:
        return _wrong_one_brought(task, magazines, list(tasks))
    if task.kind == TAKE_OUT:
        return _wrong_one_taken(task, magazines)
    return ""


def _wrong_one_brought(
    task: TaskRecord, magazines: Collection[MagazineRecord], tasks: list[TaskRecord]
) -> str:
    for other in magazines:
        event = _arrival(other)
        if other.name == task.magazine or event is None or event.time_ns <= task.since_ns:
            continue
        if other.is_seen and not any(_asked_for(other, event, one) for one in tasks):
            return (
                f"magazine {other.name} was put in (slots from {other.first_slot} on), expected "
                f"{task.magazine}; take {other.name} out again and put {task.magazine} in"
            )
    return ""


def _asked_for(magazine: MagazineRecord, event: MagazineEvent, task: TaskRecord) -> bool:
    """Whether a task that was open then asked for it."""
    if task.since_ns > event.time_ns or 0 < task.done_ns < event.time_ns:
        return False
    if task.kind == BLANKS:
        return event.state == MagazineState.BLANK
    return task.kind in BRING and task.magazine == magazine.name


def _wrong_one_taken(task: TaskRecord, magazines: Collection[MagazineRecord]) -> str:
    for other in magazines:
        event = other.history[-1] if other.history else None
        if other.name == task.magazine or event is None or event.time_ns <= task.since_ns:
            continue
        if event.state in _OUTSIDE and event.text == LEFT_UNASKED:
            return (
                f"magazine {other.name} was taken out, expected {task.magazine}; put "
                f"{other.name} back and take {task.magazine} out"
            )
    return ""


def _arrival(magazine: MagazineRecord) -> MagazineEvent | None:
    """When it was last seen to come in."""
    known = magazine.history
    for before, event in zip([None, *known[:-1]][::-1], known[::-1], strict=True):
        came = before is None or before.state in _OUTSIDE
        if came and event.state not in _OUTSIDE:
            return event
    return None
