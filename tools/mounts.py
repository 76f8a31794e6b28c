"""Whether a directory is mounted, whether the mount answers, and taking it away."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from pathlib import Path
from typing import Final

STAT_TIMEOUT_S: Final = 2.0
STACKED_MAX: Final = 8
UNMOUNT_TIMEOUT_S: Final = 10.0


def is_mounted(path: Path) -> bool:
    """Whether something is mounted there; never touches the mount itself."""
    wanted = str(path.parent.resolve() / path.name)
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return any(_unescape(line.split()[4]) == wanted for line in lines)


def _unescape(field: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field


def answers(path: Path) -> bool:
    """Whether the mounted file system answers; a hung one counts as dead."""
    found: list[bool] = []

    def ask() -> None:
        try:
            os.statvfs(path)
            found.append(True)
        except OSError as error:
            found.append(error.errno not in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO))

    # A daemon thread: a call that hangs in a dead mount must not hold this program.
    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    asker.join(STAT_TIMEOUT_S)
    return bool(found and found[0])


def unmount_lazily(path: Path) -> bool:
    """Take away all mounts at this path, dead or alive; whether none is left."""
    for _ in range(STACKED_MAX):
        if not is_mounted(path):
            return True
        commands = [["fusermount3", "-u", "-z", str(path)]]
        if os.geteuid() == 0:
            commands.insert(0, ["umount", "-l", str(path)])
        for command in commands:
            if _quietly(command):
                break
    return not is_mounted(path)


def _quietly(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=UNMOUNT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
