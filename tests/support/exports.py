"""File servers of Debian over a mount: Samba's and nfs-ganesha's, on loopback.

Each runs in the foreground with all its state in a directory of its own, and
with the sample configuration that is shipped in ``export/``, of which only
the exported path is replaced.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SAMPLES = Path(__file__).resolve().parents[2] / "export"
HOST = "127.0.0.1"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
CLIENT_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 100
SAMPLE_PATH = "/archive"


def need(*programs: str, packages: str) -> None:
    """Skip where a user has no such servers; where CI runs they must be there."""
    missing = [name for name in programs if shutil.which(name) is None]
    if os.geteuid() == 0 and not missing:
        return
    why = f"needs root and {', '.join(missing or programs)}: apt-get install {packages}"
    assert not os.environ.get("CI"), why
    pytest.skip(why)


def wait_until(true: Callable[[], object]) -> None:
    """Poll a condition; fail when it does not come true."""
    end_s = time.monotonic() + CLIENT_TIMEOUT_S
    while not true():
        assert time.monotonic() < end_s, f"not true within {CLIENT_TIMEOUT_S} s"
        time.sleep(0.02)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server process with its directory, port and log."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.log = directory / "server.log"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir()

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        """Start and wait until it takes connections."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end_s = time.monotonic() + START_TIMEOUT_S
        while not self._listens():
            assert self.process.poll() is None, f"it ended: {self.log_text()}"
            assert time.monotonic() < end_s, f"not up: {self.log_text()}"
            time.sleep(0.05)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")[-5000:]

    def stop(self) -> None:
        """End it and the processes that it made for its clients: smbd leads a group."""
        if self.process is None:
            return
        group = self.process.pid
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        self.process = None


SMB_EXTRA = """
[global]
    interfaces = lo
    bind interfaces only = yes
    smb ports = {port}
    disable netbios = yes
    private dir = {dir}/private
    lock directory = {dir}/lock
    state directory = {dir}/state
    cache directory = {dir}/cache
    pid directory = {dir}/pid
    ncalrpc dir = {dir}/ncalrpc
    log level = 1
    # For the one client whose locks can be held from outside: see SmbShell.
    server min protocol = NT1
    client min protocol = NT1
    unix extensions = yes
"""
SMB_FOLDERS = ("private", "lock", "state", "cache", "pid", "ncalrpc")
PASSWORD = "only-for-this-test"


class Samba(Server):
    """smbd with one user in a password file of its own."""

    def __init__(self, directory: Path, share: Path) -> None:
        super().__init__(directory)
        for name in SMB_FOLDERS:
            (directory / name).mkdir()
        sample = (SAMPLES / "smb.conf").read_text()
        assert f"path = {SAMPLE_PATH}\n" in sample
        text = sample.replace(f"path = {SAMPLE_PATH}\n", f"path = {share}\n")
        self.config = directory / "smb.conf"
        self.config.write_text(text + SMB_EXTRA.format(port=self.port, dir=directory))
        subprocess.run(
            ["smbpasswd", "-c", str(self.config), "-a", "-s", "root"],
            input=f"{PASSWORD}\n{PASSWORD}\n",
            text=True,
            check=True,
            capture_output=True,
            timeout=CLIENT_TIMEOUT_S,
        )

    def command(self) -> list[str]:
        return ["smbd", "-F", "--debug-stdout", "-s", str(self.config)]

    def client_command(self, *options: str) -> list[str]:
        share = f"//{HOST}/archive"
        user = ("-U", f"root%{PASSWORD}")
        where = ("-p", str(self.port), "-t", str(REQUEST_TIMEOUT_S), "-s", str(self.config))
        return ["smbclient", share, *where, *user, *options]

    def client(self, *commands: str, check: bool = True) -> str:
        """Run smbclient with these commands; what it printed."""
        done = subprocess.run(
            self.client_command("-m", "SMB3", "-c", "; ".join(commands)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=CLIENT_TIMEOUT_S,
            check=False,
        )
        failed = done.returncode != 0 or "NT_STATUS_" in done.stdout
        assert not (check and failed), f"{commands}: {done.stdout}\n{self.log_text()}"
        return done.stdout

    def attributes(self, folder: str = "") -> dict[str, str]:
        """What ``ls`` shows of each entry, by name (names without blanks)."""
        shown = {}
        for line in self.client(f'ls "{folder}*"').splitlines():
            words = line.split()
            if line.startswith("  ") and len(words) >= 8:
                shown[words[0]] = words[1]
        return shown


NFS_EXTRA = {
    f'Path = "{SAMPLE_PATH}";': 'Path = "{export}";',
    "NFS_CORE_PARAM {": "NFS_CORE_PARAM {{ NFS_Port = {port}; Bind_addr = 127.0.0.1;",
    "LRU_Run_Interval = 10;": "LRU_Run_Interval = 1;",
    "NFSv4 {": 'NFSv4 {{ Graceless = true; RecoveryRoot = "{dir}/recovery";',
}
"""What replaces what in the sample: a block that comes twice counts only once."""


class Ganesha(Server):
    """nfs-ganesha, NFSv4 only: it needs no rpcbind."""

    def __init__(self, directory: Path, export: Path) -> None:
        super().__init__(directory)
        self.export = export
        (directory / "recovery").mkdir()
        text = (SAMPLES / "ganesha.conf").read_text()
        for old, new in NFS_EXTRA.items():
            assert old in text, old
            text = text.replace(old, new.format(export=export, port=self.port, dir=directory))
        self.config = directory / "ganesha.conf"
        self.config.write_text(text)

    def command(self) -> list[str]:
        files = ["-f", str(self.config), "-L", str(self.log), "-p", str(self.dir / "pid")]
        return ["ganesha.nfsd", "-F", *files]

    def open_files(self) -> list[Path]:
        """The files that it has open, at this moment."""
        assert self.process is not None
        found = []
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(Path(os.readlink(link)))
        return [path for path in found if self.export in path.parents]

    def url(self, path: str = "") -> str:
        """A URL as libnfs's programs take it."""
        return f"nfs://{HOST}/archive{path}?version=4&nfsport={self.port}"


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """The server, started; whatever happens, ended."""
    try:
        server.start()
        yield server
    finally:
        server.stop()
