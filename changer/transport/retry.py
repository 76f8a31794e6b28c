"""Commands that may be sent twice are, a few times; others never.

Sent again after a lost answer: what only asks or reads. Sent again when the
device was too busy to take it: all but moves. MOVE MEDIUM is sent once,
whatever happens: the changer reads element status and decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from hsmfs.changer import cdb as codes
from hsmfs.changer.transport.interface import (
    BUSY,
    TASK_SET_FULL,
    Reply,
    Transport,
    transfer_bytes_max,
)
from hsmfs.errors import TransientError

log = structlog.get_logger(__name__)
ATTEMPTS_MAX: Final = 3
PAUSE_S: Final = 0.2
HARMLESS: Final = frozenset(
    {
        codes.TEST_UNIT_READY,
        codes.INQUIRY,
        codes.READ_CAPACITY_10,
        codes.READ_10,
        codes.READ_12,
        codes.GET_CONFIGURATION,
        codes.READ_DISC_INFORMATION,
        codes.READ_TRACK_INFORMATION,
        codes.READ_FORMAT_CAPACITIES,
        codes.MODE_SENSE_10,
        codes.READ_ELEMENT_STATUS,
        codes.REPORT_LUNS,
        codes.SYNCHRONIZE_CACHE,
    }
)
"""What changes nothing, or nothing more when it is sent twice."""
NEVER: Final = frozenset({codes.MOVE_MEDIUM, codes.EXCHANGE_MEDIUM})


class Retried:
    """A transport that tries harmless commands again, bounded."""

    def __init__(self, inner: Transport, sleep: Callable[[float], None] = time.sleep) -> None:
        self._inner = inner
        self._sleep = sleep

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
        """The first answer that is none of the above; else the last error or busy reply."""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            last = attempt == ATTEMPTS_MAX
            try:
                reply = self._inner.execute(cdb, data_out, data_in_len, timeout_s)
                busy = reply.status in (BUSY, TASK_SET_FULL) and cdb[0] not in NEVER
                if not busy or last:
                    return reply
                why = f"status {reply.status:02X}h"
            except TransientError as error:
                if cdb[0] not in HARMLESS or last:
                    raise
                why = str(error)
            log.info("command is sent again", command=cdb[0], why=why)
            self._sleep(PAUSE_S * 2 ** (attempt - 1))
        raise AssertionError

    def close(self) -> None:
        """Give the device back."""
        self._inner.close()
