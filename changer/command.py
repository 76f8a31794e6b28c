"""One command to one device: unit attentions consumed, errors raised."""

from __future__ import annotations

from typing import Final

import structlog

from hsmfs.changer import sense as senses
from hsmfs.changer.sense import Action, Sense
from hsmfs.changer.transport.interface import CHECK_CONDITION, GOOD, Transport
from hsmfs.changer.transport.timeouts import timeout_of
from hsmfs.errors import HsmError, MediumError, TransientError

log = structlog.get_logger(__name__)
ATTENTIONS_MAX: Final = 8
"""Unit attentions in a row that are consumed before the command counts as failed."""
MEDIUM_CHANGED: Final = (0x06, 0x28)


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
    timeout_s: float | None = None,
    *,
    repeat_aborted: bool = True,
    medium_attention: bool = False,
    repeat_attention: bool = True,
) -> bytes:
    """Data of a command; SenseError for what the device refuses.

    Without ``timeout_s`` the command gets the time of its kind.
    ``repeat_aborted`` is for commands that may be sent twice; ``medium_attention``
    lets "medium may have changed" through to the caller, who would else go on
    with another disc; without ``repeat_attention`` each unit attention goes there.
    """
    if timeout_s is None:
        timeout_s = timeout_of(cdb)
    for _ in range(ATTENTIONS_MAX):
        reply = transport.execute(cdb, data_out, data_in_len, timeout_s)
        if reply.status == GOOD:
            return reply.data
        if reply.status != CHECK_CONDITION:
            raise TransientError(f"command {cdb[0]:02X}h: device is busy (status {reply.status})")
        sense = senses.decode(reply.sense)
        action = senses.look_up(sense).action
        if action is Action.ACCEPT:
            log.info("device recovered by itself", command=cdb[0], sense=str(sense))
            return reply.data
        changed = medium_attention and (sense.key, sense.asc) == MEDIUM_CHANGED
        attention = action is Action.REPEAT and repeat_attention
        again = attention or (action is Action.RETRY and repeat_aborted)
        if changed or not again:
            raise SenseError(sense)
    raise TransientError(
        f"command {cdb[0]:02X}h: {ATTENTIONS_MAX} unit attentions or aborts in a row"
    )


def run(
    transport: Transport,
    what: str,
    cdb: bytes,
    data_out: bytes | memoryview = b"",
    data_in_len: int = 0,
    timeout_s: float | None = None,
    *,
    repeat_aborted: bool = True,
    medium_attention: bool = False,
) -> bytes:
    """As ``run_raw``, but raises the error that the sense table names."""
    try:
        return run_raw(
            transport,
            cdb,
            data_out,
            data_in_len,
            timeout_s,
            repeat_aborted=repeat_aborted,
            medium_attention=medium_attention,
        )
    except SenseError as error:
        raise error_of(error.sense, what) from None


def error_of(sense: Sense, what: str) -> HsmError:
    """As the sense table says; a changed disc that was let through is the medium's."""
    if (sense.key, sense.asc) == MEDIUM_CHANGED:
        return MediumError(f"{what}: the disc was changed meanwhile (sense {sense})")
    return senses.error_of(sense, what)
