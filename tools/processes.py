"""Background processes of a sandbox: start, recognise, end.

A pid counts only while its command line is that program with that
configuration, and is signalled only while its start time is what it was; so a
pid that the system gave to another process is never taken for ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hsmfs.errors import HsmError

POLL_S: Final = 0.05
LOG_LINES_SHOWN: Final = 15
START_TIME_FIELD: Final = 22
"""Of ``/proc/PID/stat``, see proc(5)."""
PROGRAM_WORDS: Final = 4
"""The program is among these first words, behind an interpreter and its options."""
DETACH: Final = 'cd / && "$@" </dev/null >>"$LOG" 2>&1 & echo $!'
"""The shell leaves at once, so the program is nobody's child and no job."""


@dataclass(frozen=True, slots=True)
class Running:
    """One process that is alive now."""

    pid: int
    start_ticks: int

    def alive(self) -> bool:
        return start_ticks(self.pid) == self.start_ticks

    def signal(self, number: int) -> None:
        """Send a signal, if the pid still is this process."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def start_ticks(pid: int) -> int | None:
    """When a process started; None if there is none, or only its exit status is left."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        return None
    return int(fields[START_TIME_FIELD - 3])


@dataclass(frozen=True, slots=True)
class Program:
    """One of the two programs of a sandbox, with its pid file and log."""

    name: str
    module: str
    config: Path
    pid_file: Path
    log: Path

    def command(self) -> list[str]:
        """The installed program beside this Python, else the module itself."""
        script = Path(sys.executable).parent / self.name
        program = [str(script)] if script.exists() else [sys.executable, "-m", self.module]
        return [*program, "--config", str(self.config)]

    def running(self) -> Running | None:
        """The live process: by the pid file, else started by hand for this configuration."""
        return self._noted() or self._found()

    def _noted(self) -> Running | None:
        try:
            pid = int(self.pid_file.read_text())
        except (OSError, ValueError):
            return None
        return self._ours(Path(f"/proc/{pid}"))

    def _found(self) -> Running | None:
        entries = (entry for entry in Path("/proc").iterdir() if entry.name.isdecimal())
        return next(filter(None, map(self._ours, entries)), None)

    def _ours(self, process: Path) -> Running | None:
        """The process behind a directory of /proc, if it is this program."""
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return None
        names = {os.fsencode(self.name), os.fsencode(self.module)}
        named = any(os.path.basename(word) in names for word in words[:PROGRAM_WORDS])
        if not named or os.fsencode(self.config) not in words:
            return None
        ticks = start_ticks(int(process.name))
        return None if ticks is None else Running(int(process.name), ticks)

    def start(self) -> Running:
        """Start it detached, with its output in its log."""
        shell = subprocess.run(
            ["/bin/sh", "-c", DETACH, "sh", *self.command()],
            env={**os.environ, "LOG": str(self.log)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            check=True,
        )
        pid = int(shell.stdout)
        ticks = start_ticks(pid)
        if ticks is None:
            raise HsmError(f"{self.name} ended as soon as it was started\n{self.last_words()}")
        self.pid_file.write_text(f"{pid}\n")
        return Running(pid, ticks)

    def stop(self, timeout_s: float) -> str:
        """Ask it to end, wait, then force it; returns how it went in a word."""
        process = self.running()
        if process is None:
            self.pid_file.unlink(missing_ok=True)
            return "was not running"
        process.signal(signal.SIGTERM)
        ended = wait_until(lambda: not process.alive(), timeout_s)
        if not ended:
            process.signal(signal.SIGKILL)
            wait_until(lambda: not process.alive(), timeout_s)
        self.pid_file.unlink(missing_ok=True)
        return "stopped" if ended else f"killed: it did not end within {timeout_s:.0f} s"

    def last_words(self) -> str:
        """The end of its log, for a person."""
        try:
            with self.log.open(encoding="utf-8", errors="replace") as lines:
                last = list(deque(lines, LOG_LINES_SHOWN))
        except OSError:
            last = []
        return f"last lines of {self.log}:\n" + "".join(f"  {line}" for line in last)


def wait_until(true: Callable[[], bool], timeout_s: float) -> bool:
    """Whether the condition came true within the time."""
    end = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() >= end:
            return False
        time.sleep(POLL_S)
    return True
