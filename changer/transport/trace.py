"""What was said to a device and what it answered: the last commands, bounded."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from hsmfs.changer import cdb as codes
from hsmfs.changer import sense as senses
from hsmfs.changer.transport.interface import (
    CHECK_CONDITION,
    Reply,
    Transport,
    transfer_bytes_max,
)
from hsmfs.clock import Clock
from hsmfs.errors import HsmError

ENTRIES_MAX: Final = 512
DATA_SHOWN_BYTES: Final = 32
CONTENT: Final = tuple(
    bytes([code]) for code in (codes.READ_10, codes.READ_12, codes.WRITE_10, codes.WRITE_12)
)
"""What these carry is people's files, and is not shown."""


class Entry(NamedTuple):
    """One command."""

    time_ns: int
    """When it was sent."""
    seconds: float
    cdb: bytes
    data_out_len: int
    data_in_len: int
    """Bytes that came."""
    status: int
    """SAM status; -1: no answer."""
    sense: bytes
    data_head: bytes
    """The first bytes that went or came; none of files."""
    error: str

    def outcome(self) -> str:
        """One word for lists and metrics."""
        if self.status < 0:
            return "lost"
        if self.status == CHECK_CONDITION:
            return str(senses.decode(self.sense))
        return "good" if self.status == 0 else f"status {self.status:02X}h"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the API."""
        found = senses.decode(self.sense) if self.status == CHECK_CONDITION else None
        return {
            "time_ns": self.time_ns,
            "seconds": round(self.seconds, 6),
            "command": codes.NAMES.get(self.cdb[0], f"{self.cdb[0]:02X}h") if self.cdb else "",
            "cdb": self.cdb.hex(),
            "sent_bytes": self.data_out_len,
            "received_bytes": self.data_in_len,
            "status": self.status,
            "sense": str(found) if found else "",
            "meaning": senses.look_up(found).meaning if found else "",
            "sense_bytes": self.sense.hex(),
            "data": self.data_head.hex(),
            "error": self.error,
        }


Watcher = Callable[[Entry], None]


class Traced:
    """A transport that keeps its last commands, and tells each to watchers."""

    def __init__(self, inner: Transport, clock: Clock, entries_max: int = ENTRIES_MAX) -> None:
        self._inner = inner
        self._clock = clock
        self._watchers: list[Watcher] = []
        self._entries: deque[Entry] = deque(maxlen=entries_max)
        self._lock = threading.Lock()
        self.total = 0
        """Commands so far, those that are not kept any more too."""

    @property
    def transfer_bytes_max(self) -> int:
        return transfer_bytes_max(self._inner)

    def execute(
        self,
        cdb: bytes,
        data_out: bytes | memoryview = b"",
        data_in_len: int = 0,
        timeout_s: float = 60.0,
    ) -> Reply:
        """As the transport below."""
        time_ns, start_s = self._clock.now_ns(), time.perf_counter()
        status, sense, data, error = -1, b"", b"", ""
        try:
            reply = self._inner.execute(cdb, data_out, data_in_len, timeout_s)
            status, sense, data = reply.status, reply.sense, reply.data
            return reply
        except HsmError as failure:
            error = str(failure)
            raise
        finally:
            head = b""
            if cdb[:1] not in CONTENT:
                head = bytes(memoryview(data_out)[:DATA_SHOWN_BYTES]) or data[:DATA_SHOWN_BYTES]
            self._note(
                Entry(
                    time_ns, time.perf_counter() - start_s, bytes(cdb), len(data_out), len(data),
                    status, sense, head, error,
                )
            )  # fmt: skip

    def watch(self, watcher: Watcher) -> None:
        """Tell another one of each command, from its thread."""
        self._watchers.append(watcher)

    def _note(self, entry: Entry) -> None:
        with self._lock:
            self._entries.append(entry)
            self.total += 1
        for watcher in self._watchers:
            watcher(entry)

    def entries(self) -> list[Entry]:
        """The last commands, the oldest first."""
        with self._lock:
            return list(self._entries)

    def close(self) -> None:
        """Give the device back; what was kept stays."""
        self._inner.close()
