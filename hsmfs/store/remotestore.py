"""The store on LMDB with its batches committed by a process of their own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec

from hsmfs.errors import CallerError, HsmError, StoreFullError, TransientError
from hsmfs.store.committer import FULL, READY, receive, send
from hsmfs.store.interface import Batch
from hsmfs.store.lmdbstore import LmdbStore, damaged
from hsmfs.store.proof import FATAL

END_TIMEOUT_S: Final = 60.0
"""How long the committer may take for its last batch."""
_encode: Final = msgspec.msgpack.Encoder().encode


class RemoteStore(LmdbStore):
    """Reads here; ``apply`` goes to the committer, which is started when needed."""

    def __init__(self, path: Path, map_bytes: int = 1 << 40) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._map_bytes = map_bytes
        self._path = path
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._one = threading.Lock()
        # First: it waits until no committer of an earlier run is left.
        self._start()
        super().__init__(path, map_bytes)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "hsmfs.store.committer",
                    str(number),
                    str(self._path),
                    str(self._map_bytes),
                ],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        answer = receive(ours)
        if answer != READY:
            ours.close()
            raise self._not_started(answer, self._process.wait())
        self._channel = ours

    def _not_started(self, answer: bytes | None, status: int) -> HsmError:
        if answer:
            return CallerError(answer.decode(errors="replace"))
        if -status in FATAL:
            return damaged(self._path, f"{signal.Signals(-status).name} when its pages were read")
        return CallerError(
            f"{self._path}: the committer ended with exit status {status}; see above"
        )

    def apply(self, batch: Batch) -> None:
        """Durable when it returns; TransientError where it could not be done."""
        with self._one:
            if self._channel is None:
                self._start()
            assert self._channel is not None
            try:
                send(self._channel, _encode(batch))
                answer = receive(self._channel)
            except OSError as error:
                self._end()
                raise TransientError(f"{self._path}: the committer ended ({error})") from error
            if answer is None:
                self._end()
                raise TransientError(f"{self._path}: the committer ended; it is started again")
            if answer.startswith(FULL):
                raise StoreFullError(answer[len(FULL) :].decode(errors="replace"))
            if answer:
                raise TransientError(f"{self._path}: {answer.decode(errors='replace')}")

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            try:
                self._process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the committer and close the environment."""
        with self._one:
            self._end()
        super().close()
