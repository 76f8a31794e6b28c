"""CPU seconds that processes have used, with all their threads and children."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

DEPTH_MAX: Final = 8
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
CPU_CLOCK: Final = 2
"""The kernel's number of the clock of utime + stime, see clock_getcpuclockid(3)."""


def with_children(pid: int) -> list[int]:
    """A process and what it has started, as far as the kernel tells."""
    found, level = [pid], [pid]
    for _ in range(DEPTH_MAX):
        level = [child for one in level for child in _children(one)]
        found += level
    return found


def _children(pid: int) -> list[int]:
    try:
        files = list(Path(f"/proc/{pid}/task").glob("*/children"))
        return [int(word) for file in files for word in file.read_text().split()]
    except OSError:
        return []


def cpu_s(pids: list[int]) -> float:
    """User and system time of all of them until now."""
    return sum(map(_cpu_s, pids))


def _cpu_s(pid: int) -> float:
    """By the process's clock in ns; where it has none, by /proc in ticks."""
    try:
        return time.clock_gettime_ns(~pid << 3 | CPU_CLOCK) / 1e9
    except OSError:
        pass
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def memory_bytes(pid: int) -> dict[str, int]:
    """VmRSS, its anonymous and its file part (mapped store pages), and the peak."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, rest = line.partition(":")
        if key in ("VmRSS", "RssAnon", "RssFile", "VmHWM"):
            found[key] = int(rest.split()[0]) * 1024
    return found
