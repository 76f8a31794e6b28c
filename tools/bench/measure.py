"""One work measured on one system, inside the child process."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import msgspec

from hsmfs.tools.bench.processcpu import cpu_s
from hsmfs.tools.bench.works import Work

DROP_CACHES: Final = Path("/proc/sys/vm/drop_caches")
PAGES_AND_INODES: Final = "3\n"
SETTLE_S: Final = 0.1
"""What a server does after its answer (a group commit, releases) is its CPU time too."""


class Sample(msgspec.Struct, frozen=True):
    """One run of one work."""

    seconds: float
    amount: float
    """In the work's unit, without the "/s"."""
    ops: int
    server_cpu_s: float

    @property
    def rate(self) -> float:
        """Amount per second."""
        return self.amount / self.seconds


def can_drop_caches() -> bool:
    """Whether cold works can be cold."""
    return os.geteuid() == 0 and os.access(DROP_CACHES, os.W_OK)


def drop_caches() -> None:
    """Nothing of any file is in memory, as far as the kernel can let go of it."""
    os.sync()
    DROP_CACHES.write_text(PAGES_AND_INODES)


def measure(work: Work, pids: list[int], drops: bool) -> Sample:
    """Prepare, run and prove one work."""
    work.prepare()
    os.sync()
    if work.cold and drops:
        drop_caches()
    os.stat(work.dir)
    time.sleep(SETTLE_S)
    cpu_before_s, start_ns = cpu_s(pids), time.perf_counter_ns()
    work.run()
    seconds = (time.perf_counter_ns() - start_ns) / 1e9
    time.sleep(SETTLE_S)
    used_s = cpu_s(pids) - cpu_before_s
    work.verify()
    # Writing back belongs to this work, not to the next system's.
    os.sync()
    return Sample(seconds, work.amount, work.ops, used_s)
