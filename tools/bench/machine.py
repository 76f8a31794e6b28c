"""Facts of the machine that figures depend on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Final

LIBRARIES: Final = ("lmdb", "pyfuse3", "trio", "msgspec", "numpy")


def facts(directory: Path) -> dict[str, object]:
    """Kernel, processors, memory, disk; never the machine's name."""
    space = os.statvfs(directory)
    return {
        "kernel": platform.release(),
        "processors": len(os.sched_getaffinity(0)),
        "processor": _first(Path("/proc/cpuinfo"), "model name"),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "disk_bytes": space.f_blocks * space.f_frsize,
        "disk_free_bytes": space.f_bavail * space.f_frsize,
        "load_1min": os.getloadavg()[0],
        "root": os.geteuid() == 0,
    }


def versions() -> dict[str, str]:
    """Python, hsmfs and the libraries that matter for speed."""
    found = {"python": platform.python_version()}
    for name in ("hsmfs", *LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _first(path: Path, key: str) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return "unknown"
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(key))
    return next(found, "unknown")
