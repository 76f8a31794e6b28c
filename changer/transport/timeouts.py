"""How long each command may take, and a watch over transports that hang.

The kernel and libiscsi have time-outs of their own; a driver that does not
keep them must not take the device's task with it.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from typing import Final

from hsmfs.changer import cdb as codes
from hsmfs.changer.transport.interface import Reply, Transport, transfer_bytes_max
from hsmfs.errors import TransientError

DEFAULT_S: Final = 60.0
GRACE_S: Final = 10.0
"""What a transport may take beyond the command's time before it counts as hung."""
TIMEOUT_S: Final[dict[int, float]] = {
    codes.TEST_UNIT_READY: 15.0,
    codes.REQUEST_SENSE: 15.0,
    codes.INQUIRY: 15.0,
    codes.READ_ELEMENT_STATUS: 120.0,
    codes.INITIALIZE_ELEMENT_STATUS: 1800.0,
    codes.MOVE_MEDIUM: 300.0,
    codes.START_STOP_UNIT: 120.0,
    codes.READ_10: 120.0,
    codes.READ_12: 120.0,
    codes.WRITE_10: 180.0,
    codes.WRITE_12: 180.0,
    codes.SYNCHRONIZE_CACHE: 600.0,
    codes.CLOSE_TRACK_SESSION: 1800.0,
    codes.FORMAT_UNIT: 600.0,
}
"""docs/hardware.md has this table too."""


def timeout_of(cdb: bytes) -> float:
    """Seconds that a command may take."""
    return TIMEOUT_S.get(cdb[0], DEFAULT_S) if cdb else DEFAULT_S


@dataclass(slots=True)
class _Call:
    cdb: bytes
    data_out: bytes | memoryview
    data_in_len: int
    timeout_s: float
    done: threading.Event = field(default_factory=threading.Event)
    reply: Reply | None = None
    error: BaseException | None = None


class Watched:
    """A transport whose calls end in time, whatever the one below does.

    Calls run in a thread of the device's own. One that hangs is left there;
    until it ends the device is given no other.
    """

    def __init__(self, inner: Transport, name: str, grace_s: float = GRACE_S) -> None:
        self._inner = inner
        self._name = name
        self._grace_s = grace_s
        self._calls: queue.Queue[_Call | None] = queue.Queue(maxsize=1)
        self._thread: threading.Thread | None = None
        self._hung: _Call | None = None

    @property
    def transfer_bytes_max(self) -> int:
        return transfer_bytes_max(self._inner)

    def execute(
        self,
        cdb: bytes,
        data_out: bytes | memoryview = b"",
        data_in_len: int = 0,
        timeout_s: float = DEFAULT_S,
    ) -> Reply:
        """As the transport below, but TransientError once time and grace are over."""
        if self._hung is not None:
            if not self._hung.done.is_set():
                raise TransientError(
                    f"{self._name}: still hangs in command {self._hung.cdb[:1].hex()}h"
                )
            self._hung = None
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name=f"scsi-{self._name}", daemon=True
            )
            self._thread.start()
        call = _Call(cdb, data_out, data_in_len, timeout_s)
        self._calls.put_nowait(call)
        if not call.done.wait(timeout_s + self._grace_s):
            self._hung = call
            raise TransientError(
                f"{self._name}: command {cdb[:1].hex()}h hangs, no end after {timeout_s:g} s"
            )
        if call.error is not None:
            raise call.error
        assert call.reply is not None
        return call.reply

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call.reply = self._inner.execute(
                    call.cdb, call.data_out, call.data_in_len, call.timeout_s
                )
            except BaseException as error:
                call.error = error
            call.done.set()
            del call

    def close(self) -> None:
        """Give the device back; one that hangs is left alone."""
        if self._hung is not None and not self._hung.done.is_set():
            return
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join(self._grace_s)
            self._thread = None
        self._inner.close()
