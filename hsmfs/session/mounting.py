"""The mount point: is it fit, is it busy, how is it given back.

Programs that touch the mount (umount, sync) run as processes of their own,
with no descriptor of ours: a thread of the server that waited for the server
would keep a killed server, and with it the mount, from ending.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hsmfs.errors import CallerError, LibraryError
from hsmfs.session.interface import FS_TYPE

DEVICE: Final = Path("/dev/fuse")
CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
UMOUNT_TIMEOUT_S: Final = 30.0
BACKGROUND_REQUESTS_MAX: Final = 4096
"""Read-ahead requests that may be under way; the kernel's default, 12, lets
12 waiting readers stop the read-ahead of everybody."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of the mount table."""

    mount: str
    fs_type: str
    source: str
    device: int
    """``st_dev`` of the files on it."""


def mounted_at(path: Path, table: str = "/proc/self/mountinfo") -> Mounted | None:
    """What is mounted exactly there (the topmost), from the mount table."""
    found = None
    with open(table, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            entry = _parse(line)
            if entry.mount == str(path):
                found = entry
    return found


def _parse(line: str) -> Mounted:
    """A line of mountinfo: see proc(5)."""
    before, after = line.split(" - ", 1)
    _, _, device, _, mount = before.split()[:5]
    fs_type, source = after.split()[:2]
    major, minor = device.split(":")
    return Mounted(_unescape(mount), fs_type, source, os.makedev(int(major), int(minor)))


def _unescape(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def check_device(device: Path = DEVICE) -> None:
    """The kernel's side of FUSE must be there and open to us."""
    if not device.exists():
        raise LibraryError(
            f"{device}: not found, expected the kernel's FUSE device; load it with "
            "'modprobe fuse' (in a container: start it with --device /dev/fuse)"
        )
    if not stat.S_ISCHR(os.stat(device).st_mode):
        raise LibraryError(
            f"{device}: found no character device, expected the kernel's FUSE device; "
            f"remove it and make it anew: 'mknod -m 666 {device} c 10 229'"
        )
    if not os.access(device, os.R_OK | os.W_OK):
        raise LibraryError(
            f"{device}: not readable and writable for user {os.geteuid()}; "
            "run as root or give the user access to it"
        )


def check_mount_point(mount: Path) -> None:
    """An empty directory with nothing mounted; a dead mount of ours is removed."""
    remove_stale(mount)
    try:
        names = os.listdir(mount)
    except FileNotFoundError:
        raise CallerError(
            f"fuse.mount: {mount}: no such directory; create it with 'mkdir -p {mount}'"
        ) from None
    except NotADirectoryError:
        raise CallerError(
            f"fuse.mount: {mount}: found a file, expected a directory; name another one"
        ) from None
    except OSError as error:
        raise CallerError(f"fuse.mount: {mount}: {error.strerror}") from None
    there = mounted_at(mount)
    if there is not None:
        raise CallerError(
            f"fuse.mount: {mount}: busy, {there.fs_type} ({there.source}) is mounted there; "
            f"unmount it with 'umount {mount}' or name another directory"
        )
    if names:
        raise CallerError(
            f"fuse.mount: {mount}: not empty ({len(names)} entries, such as {names[0]!r}), "
            "they would be hidden; move them away or name another directory"
        )


def remove_stale(mount: Path) -> bool:
    """Lazily unmount what a crashed run of ours left; say whether it did."""
    there = mounted_at(mount)
    try:
        # Always asks the server; attributes might come from the kernel's cache.
        os.statvfs(mount)
        return False
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
            return False
    if there is None or there.fs_type != f"fuse.{FS_TYPE}":
        kind = there.fs_type if there else "unknown"
        raise CallerError(
            f"fuse.mount: {mount}: busy, a dead mount of type {kind} is there; "
            f"remove it with 'umount -l {mount}'"
        )
    if not unmount(mount, lazy=True):
        raise LibraryError(
            f"fuse.mount: {mount}: the dead mount of a crashed run cannot be removed; "
            f"try 'umount -l {mount}' as root"
        )
    return True


def unmount(mount: Path, lazy: bool = False) -> bool:
    """Unmount by a process of its own; False when busy or refused."""
    if os.geteuid() == 0:
        command = ["umount", "-i", *(["-l"] if lazy else []), "--", str(mount)]
    else:
        command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(mount)]
    return _run(command)


def sync(mount: Path) -> bool:
    """Write back what programs wrote through memory maps."""
    return _run(["sync", "-f", "--", str(mount)])


def _run(command: list[str]) -> bool:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=UMOUNT_TIMEOUT_S,
            start_new_session=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def raise_background_limit(mount: Path, connections: Path = CONNECTIONS) -> bool:
    """Let many read-aheads be under way at once; possible for root only."""
    there = mounted_at(mount)
    if there is None or os.geteuid() != 0 or not connections.is_dir():
        return False
    if not any(connections.iterdir()):
        _run(["mount", "-t", "fusectl", "fusectl", str(connections)])
    connection = connections / str(os.minor(there.device))
    try:
        (connection / "max_background").write_text(str(BACKGROUND_REQUESTS_MAX))
        (connection / "congestion_threshold").write_text(str(BACKGROUND_REQUESTS_MAX * 3 // 4))
    except OSError:
        return False
    return True
