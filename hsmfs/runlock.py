"""One program of a sort for each run directory: ``NAME.lock`` held by flock(2) for life."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from hsmfs.errors import CallerError

LOCK_WAIT_S: Final = 2.0
"""How long a run that was just killed may take to let go."""
LOCK_POLL_S: Final = 0.05


@contextlib.contextmanager
def only_one(
    run: Path, program: str, wait_s: Callable[[], float] = lambda: LOCK_WAIT_S
) -> Iterator[None]:
    """Hold the lock, with our process id in ``NAME.pid``; CallerError if another has it.

    ``wait_s`` is asked again and again how long the other one may take to end.
    """
    pid_file = run / f"{program}.pid"
    with _opened(run / f"{program}.lock") as descriptor:
        if not _locked(descriptor, wait_s):
            pid = holder(run, program)
            user = f"{program} runs already with process id {pid}" if pid else "hsm fsck works"
            raise CallerError(
                f"run.path: {run}: in use, {user}; "
                "stop it first, or give each system a run.path of its own"
            )
        pid_file.write_text(f"{os.getpid()}\n")
        try:
            yield
        finally:
            pid_file.unlink(missing_ok=True)


@contextlib.contextmanager
def at_rest(run: Path, program: str) -> Iterator[None]:
    """Hold the lock so that the program does not start; CallerError if it runs."""
    with _opened(run / f"{program}.lock") as descriptor:
        if not _locked(descriptor, lambda: 0.0):
            raise CallerError(
                f"{run}: {program} runs, or another hsm fsck; stop it, fsck wants a system at rest"
            )
        yield


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CallerError(
            f"{path}: {error.strerror}; remove it if another user left it there"
        ) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def holder(run: Path, program: str) -> int:
    """The process id of the program that runs here; 0: none that has said so."""
    try:
        pid = int((run / f"{program}.pid").read_text())
    except (OSError, ValueError):
        return 0
    return pid if Path(f"/proc/{pid}").exists() else 0


def _locked(descriptor: int, wait_s: Callable[[], float]) -> bool:
    start_s = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() - start_s >= wait_s():
                return False
            time.sleep(LOCK_POLL_S)
