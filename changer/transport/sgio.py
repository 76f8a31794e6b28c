"""cython-sgio, in a helper process per device.

The binding holds the interpreter's lock while the device works and waits for
30 minutes whatever the command: so it runs in a process of its own, which is
ended when a command takes too long. An optional package: ``hsmfs[sgio]``.

Frames on the helper's pipes, big endian. Request: bytes of the command (u8),
of data-out (u32), of data-in wanted (u32); command; data-out. Reply: kind
(u8: 0 a reply, 1 the device is gone, 2 refused), status (u8), bytes of sense
(u8), of data (u32), of text (u16); sense; data; text.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import struct
import subprocess
import sys
import time
from typing import Final

from hsmfs.changer.transport.interface import TRANSFER_BYTES_DEFAULT, Reply
from hsmfs.errors import CallerError, TransientError

REQUEST: Final = struct.Struct(">BII")
REPLY: Final = struct.Struct(">BBBIH")
REPLIED, GONE, REFUSED = 0, 1, 2
START_TIMEOUT_S: Final = 30.0
END_TIMEOUT_S: Final = 2.0


class SgioTransport:
    """One device node; the helper is started by the first command."""

    transfer_bytes_max = TRANSFER_BYTES_DEFAULT

    def __init__(self, path: str) -> None:
        self.path = path
        self._helper: subprocess.Popen[bytes] | None = None

    def execute(
        self,
        cdb: bytes,
        data_out: bytes | memoryview = b"",
        data_in_len: int = 0,
        timeout_s: float = 60.0,
    ) -> Reply:
        """One command; the helper of a late one is ended, and with it the wait."""
        helper = self._helper or self._start()
        end_s = time.monotonic() + timeout_s
        try:
            self._send(helper, REQUEST.pack(len(cdb), len(data_out), data_in_len) + cdb, end_s)
            if len(data_out):
                self._send(helper, memoryview(data_out), end_s)
            head = self._receive(helper, REPLY.size, end_s)
            kind, status, senses, size, words = REPLY.unpack(head)
            rest = self._receive(helper, senses + size + words, end_s)
        except TransientError:
            self._end()
            raise
        sense, data = rest[:senses], rest[senses : senses + size]
        text = rest[senses + size :].decode(errors="replace")
        if kind == GONE:
            self._end()
            raise TransientError(f"{self.path}: {text}")
        if kind == REFUSED:
            raise CallerError(f"{self.path}: {text}")
        return Reply(status, sense, data, data_in_len - size)

    def _start(self) -> subprocess.Popen[bytes]:
        if importlib.util.find_spec("sgio") is None:
            raise CallerError(
                f"sgio:{self.path}: cython-sgio is not installed; "
                "pip install 'hsmfs[sgio]', or write sg: instead of sgio:"
            )
        helper = subprocess.Popen(
            [sys.executable, "-m", "hsmfs.changer.transport.sgiohelper", self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._helper = helper
        assert helper.stdin is not None
        os.set_blocking(helper.stdin.fileno(), False)
        try:
            self._receive(helper, 1, time.monotonic() + START_TIMEOUT_S)
        except TransientError:
            self._end()
            raise
        return helper

    def _send(
        self, helper: subprocess.Popen[bytes], data: bytes | memoryview, end_s: float
    ) -> None:
        assert helper.stdin is not None
        view = memoryview(data).cast("B")
        while view:
            self._wait(helper.stdin.fileno(), select.POLLOUT, end_s)
            try:
                view = view[os.write(helper.stdin.fileno(), view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise TransientError(f"{self.path}: the helper process has ended") from error

    def _receive(self, helper: subprocess.Popen[bytes], size: int, end_s: float) -> bytes:
        assert helper.stdout is not None
        parts = bytearray()
        while len(parts) < size:
            self._wait(helper.stdout.fileno(), select.POLLIN, end_s)
            part = os.read(helper.stdout.fileno(), size - len(parts))
            if not part:
                raise TransientError(f"{self.path}: the helper process has ended")
            parts += part
        return bytes(parts)

    def _wait(self, fd: int, what: int, end_s: float) -> None:
        left_s = end_s - time.monotonic()
        poll = select.poll()
        poll.register(fd, what)
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise TransientError(f"{self.path}: no answer in time; its helper process is ended")

    def _end(self) -> None:
        helper, self._helper = self._helper, None
        if helper is None:
            return
        helper.kill()
        for pipe in (helper.stdin, helper.stdout):
            if pipe is not None:
                pipe.close()
        # One that hangs in the kernel ends when the kernel lets go of it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            helper.wait(END_TIMEOUT_S)

    def close(self) -> None:
        """End the helper."""
        self._end()
