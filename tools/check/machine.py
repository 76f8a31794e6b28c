"""The machine: kernel, FUSE, capabilities, limits, clock."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hsmfs.config import Config
from hsmfs.session import mounting
from hsmfs.tools.check.findings import Check, Level

Found = Iterator[tuple[Level, str, str]]
KERNEL_MIN: Final = (5, 4)
KERNEL_PASSTHROUGH: Final = (6, 9)
CAP_SYS_ADMIN: Final = 21
OPEN_FILES_MIN: Final = 65_536
BUILT_YEAR: Final = 2026
"""No clock is right that is before the program."""
FUSE_CONF: Final = Path("/etc/fuse.conf")
TIME_SERVICES: Final = ("chronyd", "ntpd", "systemd-timesyn", "ptp4l", "phc2sys")


def checks(config: Config) -> list[Check]:
    """All that needs no more than the configuration."""
    return [
        Check("fuse", _fuse),
        Check("kernel", _kernel),
        Check("privileges", lambda: _privileges(config)),
        Check("open files", _open_files),
        Check("clock", _clock),
    ]


def _fuse() -> Found:
    mounting.check_device(mounting.DEVICE)
    yield from ()


def _kernel() -> Found:
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < KERNEL_MIN:
        yield Level.FAULT, f"Linux {platform.release()}", "install Linux 5.4 or newer"
    elif version < KERNEL_PASSTHROUGH:
        yield (
            Level.NOTE,
            f"Linux {platform.release()} has no passthrough: cached data goes through hsmfs",
            "Linux 6.9 or newer gives programs the cache file itself",
        )


def _privileges(config: Config) -> Found:
    status = Path("/proc/self/status").read_text()
    effective = int(re.findall(r"^CapEff:\s*([0-9a-f]+)", status, flags=re.M)[0], 16)
    if effective >> CAP_SYS_ADMIN & 1:
        return
    yield (
        Level.NOTE,
        f"user {os.geteuid()} has no CAP_SYS_ADMIN: no passthrough, mount by fusermount3",
        "run hsmfs by its unit, or as root",
    )
    if shutil.which("fusermount3") is None:
        yield Level.FAULT, "fusermount3 is not installed", "apt-get install fuse3"
    allowed = FUSE_CONF.exists() and re.search(
        r"^\s*user_allow_other\b", FUSE_CONF.read_text(), flags=re.M
    )
    if config.fuse.allow_other and not allowed:
        yield (
            Level.FAULT,
            f"fuse.allow_other, and no user_allow_other in {FUSE_CONF}",
            f"add user_allow_other to {FUSE_CONF}, or set fuse.allow_other = false",
        )


def _open_files() -> Found:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit != resource.RLIM_INFINITY and limit < OPEN_FILES_MIN:
        yield (
            Level.NOTE,
            f"at most {limit} open files",
            f"LimitNOFILE=1048576 in the unit (at least {OPEN_FILES_MIN})",
        )


def _clock() -> Found:
    if time.gmtime().tm_year < BUILT_YEAR:
        yield (
            Level.FAULT,
            f"the clock says {time.strftime('%Y-%m-%d', time.gmtime())}",
            "set it: ages of files, retention and rules go by it",
        )
    running = {_name_of(entry) for entry in Path("/proc").iterdir() if entry.name.isdecimal()}
    if not running.intersection(TIME_SERVICES):
        yield (
            Level.NOTE,
            "nothing keeps the clock (no chronyd, ntpd or systemd-timesyncd runs)",
            "apt-get install chrony",
        )


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return ""
