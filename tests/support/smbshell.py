"""An smbclient that stays: its open files and locks last until it is closed.

Locks are only among smbclient's commands for the UNIX extensions of SMB1;
smbd takes them the same way for every protocol.
"""

from __future__ import annotations

import select
import subprocess

END = "end-of-answer"
NUDGE_S = 0.05
READ_BYTES = 65536


class SmbShell:
    """An interactive smbclient, one command at a time."""

    def __init__(self, command: list[str]) -> None:
        # Without stdbuf its answers stay in its buffer.
        self._process = subprocess.Popen(
            ["stdbuf", "-o0", *command, "-m", "NT1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        self.say("posix")

    def say(self, command: str) -> str:
        """Give a command; what it printed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{command}\n!echo {END}\n".encode())
        said = b""
        while END.encode() not in said:
            if select.select([self._process.stdout], [], [], NUDGE_S)[0]:
                more = self._process.stdout.read(READ_BYTES)
                assert more, f"smbclient ended: {said!r}"
                said += more
            else:
                # It takes one line each time that something comes, however
                # many it has read: an empty one brings the next.
                self._process.stdin.write(b"\n")
        return said.decode(errors="replace").removesuffix(f"{END}\n")

    def open(self, name: str) -> str:
        """The number of a file opened for reading and writing."""
        answer = self.say(f"posix_open {name} 0644")
        assert " fnum " in answer, answer
        return answer.split()[-1]

    def lock(self, file: str, start: int, size: int) -> bool:
        """Whether an exclusive lock was granted."""
        answer = self.say(f"lock {file} w {start:x} {size:x}")
        assert not answer or "lock failed" in answer, answer
        return not answer

    def unlock(self, file: str, start: int, size: int) -> None:
        answer = self.say(f"unlock {file} {start:x} {size:x}")
        assert not answer, answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
