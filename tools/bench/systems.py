"""What is compared: a plain directory, mergerfs, bindfs, and hsmfs by each session."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from hsmfs.errors import HsmError
from hsmfs.tools import mounts
from hsmfs.tools.bench.hsmfsprocess import HsmfsProcess
from hsmfs.tools.bench.processcpu import with_children

MOUNT_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 10.0
INSTALL_TIMEOUT_S: Final = 300.0
POLL_S: Final = 0.02
SESSIONS: Final = ("native", "pyfuse3")


class LeftOut(HsmError):
    """A system that cannot take part here; the message says why."""


class System(ABC):
    """Something with a directory in which works can be done."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.dir = directory / name

    @property
    @abstractmethod
    def root(self) -> str:
        """Where the works are done."""

    def version(self) -> str:
        """Which program, for the record."""
        return ""

    def pids(self) -> list[int]:
        """Processes that serve it."""
        return []

    def start(self) -> None:
        """Make it ready, or raise HsmError."""
        self.dir.mkdir(parents=True)

    @abstractmethod
    def stop(self) -> None:
        """Leave no process and no mount."""


class Plain(System):
    """The disk itself."""

    @property
    def root(self) -> str:
        return str(self.dir)

    def version(self) -> str:
        """Of the file system that the directory is on."""
        return f"{_said('stat', '-f', '-c', '%T', str(self.dir))}, a plain directory"

    def stop(self) -> None:
        """A directory needs nothing."""


class Stacked(System):
    """A file system in C mounted over a directory of the same disk."""

    COMMANDS: Final = {
        "mergerfs": ["mergerfs", "-f", "-o", "use_ino,minfreespace=0"],
        "bindfs": ["bindfs", "-f"],
    }
    """In the foreground; otherwise as Debian ships them."""

    def __init__(self, name: str, directory: Path) -> None:
        super().__init__(name, directory)
        self.mount = self.dir / "mnt"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> str:
        return str(self.mount)

    def version(self) -> str:
        options = " ".join(self.COMMANDS[self.name][1:])
        version = _said("dpkg-query", "-W", "-f", "${Version}", self.name)
        return f"{version}, options {options}"

    def pids(self) -> list[int]:
        return with_children(self._process.pid) if self._process is not None else []

    def start(self) -> None:
        require_program(self.name)
        source = self.dir / "source"
        for path in (source, self.mount):
            path.mkdir(parents=True)
        with tempfile.TemporaryFile() as output:
            self._process = subprocess.Popen(
                [*self.COMMANDS[self.name], str(source), str(self.mount)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            if not self._mounted(self._process):
                output.seek(0)
                said = output.read().decode(errors="replace").strip()
                raise LeftOut(f"{self.name} did not mount: {said or 'it said nothing'}")

    def _mounted(self, process: subprocess.Popen[bytes]) -> bool:
        end_s = time.monotonic() + MOUNT_TIMEOUT_S
        while time.monotonic() < end_s and process.poll() is None:
            if mounts.is_mounted(self.mount):
                return mounts.answers(self.mount)
            time.sleep(POLL_S)
        return False

    def stop(self) -> None:
        mounts.unmount_lazily(self.mount)
        if self._process is not None:
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Hsmfs(System):
    """hsmfs without hsmd, by one of its sessions."""

    def __init__(self, session: str, directory: Path) -> None:
        super().__init__(session, directory)
        self._hsmfs = HsmfsProcess(self.dir, session)

    @property
    def root(self) -> str:
        return str(self._hsmfs.mount)

    def version(self) -> str:
        return f"hsmfs, session {self.name}"

    def pids(self) -> list[int]:
        return with_children(self._hsmfs.pid)

    def start(self) -> None:
        super().start()
        self._hsmfs.configure()
        self._hsmfs.start()

    def stop(self) -> None:
        self._hsmfs.stop()


NAMES: Final = ("ext4", *Stacked.COMMANDS, *SESSIONS)
"""In the order of the table."""


def make(name: str, directory: Path) -> System:
    """The system of that name, not started."""
    if name in Stacked.COMMANDS:
        return Stacked(name, directory)
    return Hsmfs(name, directory) if name in SESSIONS else Plain(name, directory)


def remove_tree(place: Path) -> None:
    """All that a run has made, unless a mount in it could not be taken away."""
    if str(place.resolve()) not in Path("/proc/self/mountinfo").read_text():
        shutil.rmtree(place, ignore_errors=True)


def _said(*command: str) -> str:
    """What a program printed, for the record."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=STOP_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"


def require_program(name: str) -> None:
    """A Debian package's program, installed when missing and we may."""
    if shutil.which(name):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise LeftOut(f"{name} is not installed; as root: apt-get install {name}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", name]
    for command in (install, ["apt-get", "update", "-qq"], install):
        try:
            subprocess.run(command, env=environment, capture_output=True, timeout=INSTALL_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LeftOut(f"{name} cannot be installed: {error}") from None
        if shutil.which(name):
            return
    raise LeftOut(f"{name} is not installed, and apt-get install {name} failed")
