"""Work that was asked for, with its progress, for ``--wait`` and the API."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from hsmfs.daemon.picture import INFINITE, Priority

JOBS_KEPT_MAX: Final = 1_000
ERRORS_KEPT_MAX: Final = 100


@dataclass(slots=True)
class Job:
    """One request of a person or program; files are counted, not listed."""

    id: int
    kind: str
    files_total: int = 0
    files_done: int = 0
    files_failed: int = 0
    bytes_total: int = 0
    bytes_done: int = 0
    note: str = ""
    details: dict[str, Any] | None = None
    """What a job found, where it is to find things."""
    errors: list[str] = field(default_factory=list)
    ended: bool = False
    priority: Priority = Priority.BULK
    """Of what it recalls."""
    user: str = ""
    """Who asked, for fair shares."""
    deadline_s: float = INFINITE
    """By the monotonic clock: when all should be there."""
    _event: trio.Event = field(default_factory=trio.Event)

    @property
    def state(self) -> str:
        if not self.ended:
            return "running"
        if not self.files_failed and not self.errors:
            return "done"
        return "partial" if self.files_done else "failed"

    def add(self, files: int, size: int) -> None:
        self.files_total += files
        self.bytes_total += size

    def done(self, size: int) -> None:
        """One file went well."""
        self.files_done += 1
        self.bytes_done += size
        self._maybe_end()

    def fail(self, why: str) -> None:
        """One file did not."""
        self.files_failed += 1
        self.complain(why)
        self._maybe_end()

    def complain(self, why: str) -> None:
        if len(self.errors) < ERRORS_KEPT_MAX:
            self.errors.append(why)

    def _maybe_end(self) -> None:
        if self.files_done + self.files_failed >= self.files_total:
            self.end()

    def end(self) -> None:
        self.ended = True
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()

    def as_dict(self) -> dict[str, object]:
        """Fields of the API."""
        return {
            "id": self.id,
            "kind": self.kind,
            "state": self.state,
            "files_total": self.files_total,
            "files_done": self.files_done,
            "files_failed": self.files_failed,
            "bytes_total": self.bytes_total,
            "bytes_done": self.bytes_done,
            "errors": list(self.errors),
            "note": self.note,
            **({"details": self.details} if self.details is not None else {}),
        }


class Jobs:
    """All recent jobs; the oldest ended ones are forgotten."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[int, Job] = OrderedDict()
        self._next = 1

    def new(self, kind: str) -> Job:
        job = Job(self._next, kind, user=f"job {self._next}")
        self._next += 1
        self._jobs[job.id] = job
        while len(self._jobs) > JOBS_KEPT_MAX:
            self._jobs.popitem(last=False)
        return job

    def get(self, number: int) -> Job | None:
        return self._jobs.get(number)
