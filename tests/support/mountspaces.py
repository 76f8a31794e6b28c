"""Mount namespaces in which a test may change what the machine has in /dev, /sbin and /etc.

All that runs inside ends, and all mounts go, when the first process does. For root only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

TIMEOUT_S = 120.0
UNSHARE = ("unshare", "-m", "-p", "-f", "--mount-proc", "--kill-child")
NOBODY = 65534
FUSE_DEVICE = os.makedev(10, 229)
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


class Space:
    """A mount and process namespace."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        scratch.mkdir()
        # The first process of the namespace says that it is there, then waits for its end.
        self._unshare = subprocess.Popen(
            [*UNSHARE, "sh", "-c", "echo there; exec sleep infinity"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._unshare.stdout is not None
        assert self._unshare.stdout.readline() == "there\n"
        [self.first] = _children(self._unshare.pid)

    def inside(self, command: Sequence[object]) -> list[str]:
        """A command line that does this one inside."""
        return ["nsenter", "-t", str(self.first), "-m", "-p", "--", *map(str, command)]

    def run(self, *command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Do it and wait."""
        done = subprocess.run(
            self.inside(command), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert not check or done.returncode == 0, (command, done)
        return done

    def mounted(self, path: Path) -> str:
        """Type, source and options of what is mounted there, or nothing."""
        columns = "FSTYPE,SOURCE,OPTIONS"
        done = self.run("findmnt", "-n", "-r", "-o", columns, "-M", path, check=False)
        return done.stdout.strip()

    def let_users_run_python(self) -> None:
        """The interpreter may be in root's home."""
        home = Path("/root")
        real = Path(sys.executable).resolve()
        if home in real.parents:
            kept = self.scratch / "home"
            kept.mkdir()
            part = home / real.relative_to(home).parts[0]
            self.run("mount", "--bind", part, kept)
            self.run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", home)
            self.run("mkdir", part)
            self.run("mount", "--bind", kept, part)

    def put_device(self, kind: int = stat.S_IFCHR, number: int = FUSE_DEVICE) -> None:
        """Another /dev/fuse, open to all."""
        device = self.scratch / "fuse"
        os.mknod(device, kind | 0o666, number)
        device.chmod(0o666)
        self.run("mount", "--bind", device, "/dev/fuse")

    def drop_device(self) -> None:
        """A /dev without it."""
        folder = self.scratch / "dev"
        folder.mkdir()
        self.run("mount", "-t", "tmpfs", "tmpfs", folder)
        for name, number in (("null", 3), ("zero", 5), ("urandom", 9)):
            self.run("mknod", "-m", "666", folder / name, "c", 1, number)
        self.run("mount", "--move", folder, "/dev")

    def add_mount_helper(self) -> None:
        """``mount -t hsmfs``: the program beside this Python, as if it were installed."""
        folder = self.scratch / "sbin"
        folder.mkdir()
        (folder / "mount.hsmfs").symlink_to(Path(sys.executable).parent / "mount.hsmfs")
        sbin = os.path.realpath("/sbin")
        self.run(
            *("mount", "-t", "overlay", "-o", f"lowerdir={folder}:{sbin}", "overlay"),
            sbin,
        )

    def write(self, path: str, text: str) -> None:
        """Another content for a file of the machine."""
        own = self.scratch / path.replace("/", "_")
        own.write_text(text)
        self.run("mount", "--bind", own, path)

    def close(self) -> None:
        """End all that runs inside."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.first, signal.SIGKILL)
        self._unshare.wait(TIMEOUT_S)
        assert self._unshare.stdout is not None
        self._unshare.stdout.close()


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


@contextlib.contextmanager
def space(scratch: Path) -> Iterator[Space]:
    made = Space(scratch)
    try:
        yield made
    finally:
        made.close()
