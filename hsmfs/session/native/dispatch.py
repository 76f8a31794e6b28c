"""From the device's bytes to handlers, and their answers back."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import Any, Final

from hsmfs import logs
from hsmfs.deferred import Deferred
from hsmfs.errors import FsError, StoreDamagedError
from hsmfs.session.native import protocol as p
from hsmfs.session.native.protocol import Op
from hsmfs.session.native.request import Handler, Head
from hsmfs.session.native.shapes import UNANSWERED, is_sound

log = logs.get(__name__)

BUFFER_BYTES: Final = p.MAX_WRITE_BYTES + 4096
"""The kernel wants room for the largest write and its headers."""
JOIN_BYTES: Final = 16_384
"""Up to this size copying beats a second buffer in the system call."""
WAITING_MAX: Final = 60_000
"""Requests that may wait at once; more get EAGAIN."""
LOG_INTERVAL_S: Final = 10.0
UNREAD_MAX: Final = 100
"""Reads of the device that fail in a row, before the session gives up."""


class Dispatch:
    """One device."""

    def __init__(self, device: int, bug: Callable[[], None]) -> None:
        self.device = device
        self.counts = [0] * p.OPCODES
        """Requests by opcode."""
        self.errors: dict[tuple[int, int], int] = {}
        """Answers that are errors, by opcode and errno."""
        self.waits_s: list[float] = []
        """How long requests waited, since somebody last took the list."""
        self.interrupted = 0
        self.stopping = False
        self._unread_count = 0
        self._bug = bug
        self._last_log_s = -LOG_INTERVAL_S
        self._handlers: list[Handler | None] = [None] * p.OPCODES
        self._buffer = bytearray(BUFFER_BYTES)
        self._buffers = [self._buffer]
        self._view = memoryview(self._buffer)
        self._pending: dict[int, tuple[Deferred[Any], int, float]] = {}
        self._head = Head()
        self.add({Op.INTERRUPT: self._interrupt, Op.DESTROY: lambda head, body: b""})

    def add(self, table: dict[int, Handler]) -> None:
        """Handlers by opcode; what has none is answered with ENOSYS."""
        for opcode, handler in table.items():
            self._handlers[opcode] = handler

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet."""
        return len(self._pending)

    # -- requests ------------------------------------------------------------------

    def readable(self) -> bool:
        """Serve one request; False when the mount is gone.

        One: to ask whether there is more costs less by poll(2) than by a read
        that fails, and most often there is not.
        """
        try:
            length = os.readv(self.device, self._buffers)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return True  # the request was withdrawn
            if error.errno == errno.ENODEV:
                return False
            return self._unread(error)
        self._unread_count = 0
        if length >= p.HEADER_BYTES:
            self._serve(length)
        return length > 0

    def _unread(self, error: OSError) -> bool:
        """Another request may be read; but not for ever."""
        self._unread_count += 1
        self._bug()
        log.error("bug: a request could not be read", error=str(error))
        if self._unread_count >= UNREAD_MAX:
            raise error
        return True

    def _serve(self, length: int) -> None:
        head = self._head
        size, opcode, unique, head.node, head.uid, head.gid, head.pid = p.IN_HEADER.unpack_from(
            self._buffer
        )
        head.unique = unique
        handler = None
        if opcode < p.OPCODES:
            self.counts[opcode] += 1
            handler = self._handlers[opcode]
        try:
            if handler is None:
                raise FsError(errno.ENOSYS)
            body = self._view[p.HEADER_BYTES : length]
            if size != length or not is_sound(opcode, body):
                raise FsError(errno.EINVAL)
            answer = handler(head, body)
        except FsError as error:
            self._refuse(unique, opcode, error.errno)
        except StoreDamagedError as error:
            self._damaged(error)
            self._refuse(unique, opcode, errno.EIO)
        except Exception:
            self._failed(opcode)
            self._refuse(unique, opcode, errno.EIO)
        else:
            if answer.__class__ is bytes:
                self.reply(unique, answer)
            elif answer is not None:
                self._wait(unique, opcode, answer)

    def _failed(self, opcode: int) -> None:
        self._bug()
        if self._may_log():
            log.exception("bug: a request was answered with EIO", op=op_name(opcode))

    def _damaged(self, error: StoreDamagedError) -> None:
        if self._may_log():
            log.error("a request was answered with EIO", why=str(error))

    def _may_log(self) -> bool:
        """One line is enough for a while."""
        now_s = time.monotonic()
        if now_s - self._last_log_s < LOG_INTERVAL_S:
            return False
        self._last_log_s = now_s
        return True

    # -- answers ---------------------------------------------------------------------

    def reply(self, unique: int, body: bytes) -> None:
        """Answer a request; one that was withdrawn meanwhile needs none."""
        size = len(body)
        header = p.OUT_HEADER.pack(16 + size, 0, unique)
        try:
            if size < JOIN_BYTES:
                os.write(self.device, header + body)
            else:
                os.writev(self.device, (header, body))
        except OSError as error:
            self._unsent(error)

    def _refuse(self, unique: int, opcode: int, number: int) -> None:
        key = (opcode, number)
        self.errors[key] = self.errors.get(key, 0) + 1
        if opcode in UNANSWERED:
            return
        try:
            os.write(self.device, p.OUT_HEADER.pack(16, -number, unique))
        except OSError as error:
            self._unsent(error)

    def _unsent(self, error: OSError) -> None:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            self._bug()
            log.error("bug: the kernel refused an answer", error=str(error))

    # -- waiting ---------------------------------------------------------------------

    def _wait(self, unique: int, opcode: int, answer: Deferred[Any]) -> None:
        if not answer.done and (self.stopping or len(self._pending) >= WAITING_MAX):
            answer.cancel()
            self._refuse(unique, opcode, errno.ENOTCONN if self.stopping else errno.EAGAIN)
            return
        self._pending[unique] = answer, opcode, time.monotonic()
        answer.then(lambda done: self._settled(unique, done))

    def _settled(self, unique: int, done: Deferred[Any]) -> None:
        entry = self._pending.pop(unique, None)
        if entry is None:
            return
        _, opcode, since_s = entry
        if opcode == Op.READ and len(self.waits_s) < WAITING_MAX:
            self.waits_s.append(time.monotonic() - since_s)
        if done.error is None:
            self.reply(unique, done.result())
        else:
            self._refuse(unique, opcode, done.error.errno)

    def _interrupt(self, _head: Head, body: memoryview) -> None:
        """A signal came for a process that waits: its request ends with EINTR."""
        entry = self._pending.get(p.U64.unpack_from(body)[0])
        if entry is not None:
            self.interrupted += 1
            entry[0].cancel()

    def stop(self) -> None:
        """End every wait, now and from now on; not with EINTR: programs would try again."""
        self.stopping = True
        for unique, (answer, opcode, _) in list(self._pending.items()):
            if self._pending.pop(unique, None) is not None:
                self._refuse(unique, opcode, errno.ENOTCONN)
                answer.cancel()


def op_name(opcode: int) -> str:
    """In words, as metrics and logs have it."""
    try:
        return Op(opcode).name.lower()
    except ValueError:
        return str(opcode)
