"""Does a signal wait for a process that is inside a file system request?

The binding does not tell of FUSE_INTERRUPT, so ``/proc/PID/status`` is read
instead. A process in a request cannot take a signal: it stays pending until
the request is answered, which is what makes it visible here.
"""

from __future__ import annotations

import signal
from typing import Final

INNOCENT: Final = frozenset(
    {
        signal.SIGCHLD,
        signal.SIGCONT,
        signal.SIGIO,
        signal.SIGPROF,
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGURG,
        signal.SIGVTALRM,
        signal.SIGWINCH,
    }
)
"""Signals that nobody sends to end a read; EINTR for them would surprise programs."""


def _bit(number: int) -> int:
    return 1 << (number - 1)


REAL_TIME_MASK: Final = ((1 << 64) - 1) & ~((1 << 31) - 1)
"""Signals 32 to 64: language runtimes stop their own threads with them."""
INNOCENT_MASK: Final = REAL_TIME_MASK | sum(_bit(number) for number in INNOCENT)
KILL_MASK: Final = _bit(signal.SIGKILL)
FIELDS: Final = (b"SigPnd", b"ShdPnd", b"SigBlk", b"SigIgn")


class ProcessWatch:
    """One process (or thread) that waits for an answer."""

    def __init__(self, pid: int) -> None:
        self.path = f"/proc/{pid}/status"
        # Gone already: somebody else reads through an inherited descriptor,
        # who it is cannot be known, so nobody is watched.
        self.watchable = pid > 0 and _read(self.path) is not None

    def interrupted(self) -> bool:
        """Is the process dying, dead, or about to take a signal?"""
        if not self.watchable:
            return False
        status = _read(self.path)
        return status is None or wants_out(status)


def wants_out(status: bytes) -> bool:
    """Judge the text of ``/proc/PID/status``."""
    fields = dict(line.split(b":", 1) for line in status.splitlines() if b":" in line)
    if fields[b"State"].split()[0] in (b"Z", b"X"):
        return True
    private, shared, blocked, ignored = (int(fields[name], 16) for name in FIELDS)
    pending = private | shared
    return bool(pending & KILL_MASK or pending & ~blocked & ~ignored & ~INNOCENT_MASK)


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:  # ENOENT, or ESRCH when it ends between open and read
        return None
