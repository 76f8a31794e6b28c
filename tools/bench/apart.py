"""One piece of work in a child process: nothing of the parent is in its timing.

The child can be ended when a mount hangs, with all that it has started.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from hsmfs.errors import HsmError

PIPE_BYTES: Final = 65_536
KILL_WAIT_S: Final = 5.0
POLL_S: Final = 0.01


class WorkFailed(HsmError):
    """The work ended with an error, did something else than it says, or hung."""


def run_apart(work: Callable[[], Any], timeout_s: float) -> Any:
    """What ``work`` returns in a child of its own, as plain values."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _serve(work, writing)
    os.close(writing)
    try:
        answer = _read_all(reading, time.monotonic() + timeout_s)
    finally:
        os.close(reading)
        _end(child)
    if answer is None:
        raise WorkFailed(f"no end after {timeout_s:.0f} s")
    if not answer:
        raise WorkFailed("its process was killed")
    value, error = msgspec.json.decode(answer)
    if error:
        raise WorkFailed(error)
    return value


def _serve(work: Callable[[], Any], writing: int) -> None:
    """The child: never returns, whatever happens."""
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.disable()
        try:
            answer: tuple[Any, str] = work(), ""
        except Exception as error:
            answer = None, describe(error)
        data = msgspec.json.encode(answer)
        while data:
            data = data[os.write(writing, data) :]
    finally:
        os._exit(0)


def describe(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and error.errno is not None:
        code = errno.errorcode.get(error.errno, str(error.errno))
        name = os.fsdecode(error.filename) if error.filename is not None else ""
        return f"{code}: {error.strerror}" + (f": {name}" if name else "")
    return str(error) or type(error).__name__


def _read_all(reading: int, end_s: float) -> bytes | None:
    """All until the other end is closed; None when the time is over."""
    poller = select.poll()
    poller.register(reading, select.POLLIN)
    parts: list[bytes] = []
    while (left_s := end_s - time.monotonic()) > 0:
        if not poller.poll(left_s * 1000):
            return None
        part = os.read(reading, PIPE_BYTES)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return None


def _end(child: int) -> None:
    """No child is left; one that hangs inside a dead mount is left to the kernel."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    end_s = time.monotonic() + KILL_WAIT_S
    while time.monotonic() < end_s:
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(POLL_S)


def in_parallel(jobs: list[Callable[[], None]]) -> None:
    """Each job in a process of its own, inside the child; all succeed or it raises."""
    children = []
    for job in jobs:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                job()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        raise WorkFailed("one of the parallel jobs failed")
