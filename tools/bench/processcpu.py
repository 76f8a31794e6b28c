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

MEMORY_KEYS: Final = ("VmRSS:", "RssAnon:", "RssFile:", "VmHWM:", "Pss:")


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
    """Of a process and its children: resident (shared pages counted for each), its
    anonymous and file part (mapped store pages), the peak, and Pss: shared pages once."""
    found: dict[str, int] = {}
    for one in with_children(pid):
        for file in ("status", "smaps_rollup"):
            for key, size in _sizes(Path(f"/proc/{one}/{file}")):
                found[key] = found.get(key, 0) + size
    return found


def _sizes(path: Path) -> list[tuple[str, int]]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    pairs = [line.split()[:2] for line in lines if line.startswith(MEMORY_KEYS)]
    return [(key.rstrip(":"), int(size) * 1024) for key, size in pairs]
