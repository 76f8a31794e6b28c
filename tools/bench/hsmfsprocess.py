"""hsmfs alone, without hsmd, on a small configuration of its own."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from hsmfs.errors import HsmError
from hsmfs.tools import mounts
from hsmfs.tools.bench.processcpu import with_children
from hsmfs.tools.processes import Running, start_ticks, wait_until

FOLDERS: Final = ("namespace", "catalog", "tier", "mnt", "library", "run")
START_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 90.0
HELPERS_TIMEOUT_S: Final = 5.0
LOG_BYTES_SHOWN: Final = 400
CONFIG: Final = """\
[site]
id = "bench"
[namespace]
path = "{dir}/namespace"
[catalog]
path = "{dir}/catalog"
[[tier]]
name = "bench"
path = "{dir}/tier"
reserve_bytes = 1048576
[fuse]
mount = "{dir}/mnt"
session = "{session}"
allow_other = {allow_other}
[policy]
file = "{dir}/policy.hsm"
[[library]]
name = "none"
kind = "emulated"
path = "{dir}/library"
[run]
path = "{dir}/run"
"""


class HsmfsProcess:
    """One hsmfs in one directory; the directory survives stop and kill."""

    def __init__(self, directory: Path, session: str) -> None:
        self.dir = directory.resolve()
        self.session = session
        self.mount = self.dir / "mnt"
        self.config = self.dir / "hsmfs.toml"
        self.log = self.dir / "hsmfs.log"
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self) -> None:
        """Directories and configuration."""
        for name in FOLDERS:
            (self.dir / name).mkdir(parents=True, exist_ok=True)
        (self.dir / "policy.hsm").touch()
        others = "true" if os.geteuid() == 0 else "false"
        text = CONFIG.format(dir=self.dir, session=self.session, allow_other=others)
        self.config.write_text(text)

    def start(self) -> float:
        """Start it; seconds until it says that it is ready."""
        command = [sys.executable, "-m", "hsmfs.main", "--config", str(self.config)]
        begun_s = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        if b"ready" not in self._first_words(self._process):
            self.stop()
            raise HsmError(f"hsmfs did not get ready: {self.last_words()}")
        return time.monotonic() - begun_s

    def _first_words(self, process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None
        poller = select.poll()
        poller.register(process.stdout, select.POLLIN)
        if not poller.poll(START_TIMEOUT_S * 1000):
            return b""
        return process.stdout.readline()

    @property
    def pid(self) -> int:
        """Of the running program."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> float:
        """End it, by force if need be; seconds that it took. No mount is left."""
        begun_s = time.monotonic()
        helpers = self._helpers()
        self._signal(signal.SIGTERM)
        if not self._wait():
            self.kill()
        seconds = time.monotonic() - begun_s
        if not wait_until(lambda: not any(one.alive() for one in helpers), HELPERS_TIMEOUT_S):
            for one in helpers:
                one.signal(signal.SIGKILL)
        mounts.unmount_lazily(self.mount)
        return seconds

    def _helpers(self) -> list[Running]:
        """What it has started itself."""
        pids = with_children(self.pid)[1:] if self.alive else []
        ticks = {pid: start_ticks(pid) for pid in pids}
        return [Running(pid, when) for pid, when in ticks.items() if when is not None]

    def kill(self) -> None:
        """SIGKILL, as a crash; its dead mount stays."""
        self._signal(signal.SIGKILL)
        self._wait()

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _wait(self) -> bool:
        process = self._process
        if process is None:
            return True
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return False
        if process.stdout is not None:
            process.stdout.close()
        return True

    def last_words(self) -> str:
        """The end of its log, for a person."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return text[-LOG_BYTES_SHOWN:].strip() or "it said nothing"
