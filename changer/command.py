"""One command to one device: unit attentions consumed, errors raised."""

from __future__ import annotations

from typing import Final

from hsmfs.changer import sense as senses
from hsmfs.changer.sense import Action, Sense
from hsmfs.changer.transport.interface import CHECK_CONDITION, GOOD, Transport
from hsmfs.errors import TransientError

ATTENTIONS_MAX: Final = 8
"""Unit attentions in a row that are consumed before the command counts as failed."""


class SenseError(Exception):
    """Internal: the sense of a failed command, for those who decide by it."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(str(sense))
        self.sense = sense


def run_raw(
    transport: Transport,
    cdb: bytes,
    data_out: bytes | memoryview = b"",
    data_in_len: int = 0,
    timeout_s: float = 60.0,
) -> bytes:
    """Data of a command; SenseError for what the device refuses."""
    for _ in range(ATTENTIONS_MAX):
        reply = transport.execute(cdb, data_out, data_in_len, timeout_s)
        if reply.status == GOOD:
            return reply.data
        if reply.status != CHECK_CONDITION:
            raise TransientError(f"command {cdb[0]:02X}h: device is busy (status {reply.status})")
        sense = senses.decode(reply.sense)
        if senses.look_up(sense).action is not Action.REPEAT:
            raise SenseError(sense)
    raise TransientError(f"command {cdb[0]:02X}h: {ATTENTIONS_MAX} unit attentions in a row")


def run(
    transport: Transport,
    what: str,
    cdb: bytes,
    data_out: bytes | memoryview = b"",
    data_in_len: int = 0,
    timeout_s: float = 60.0,
) -> bytes:
    """As ``run_raw``, but raises the error that the sense table names."""
    try:
        return run_raw(transport, cdb, data_out, data_in_len, timeout_s)
    except SenseError as error:
        raise senses.error_of(error.sense, what) from None
