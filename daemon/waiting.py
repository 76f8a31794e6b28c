"""A file on its way into a volume, and who waits for that."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from hsmfs.daemon.jobs import Job
from hsmfs.daemon.packing import Found


@dataclass(slots=True)
class Waiting:
    """A file on its way into a volume."""

    item: Found
    since_s: float
    urgent: bool
    jobs: list[Job] = field(default_factory=list)

    def finish(self) -> None:
        for job in self.jobs:
            job.done(self.item.size)

    def fail(self, why: str) -> None:
        for job in self.jobs:
            job.fail(f"{os.fsdecode(self.item.path)}: {why}")
