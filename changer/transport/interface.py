"""How a SCSI command reaches a device, whatever carries it."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

GOOD: Final = 0x00
CHECK_CONDITION: Final = 0x02
BUSY: Final = 0x08
TASK_SET_FULL: Final = 0x28
TRANSFER_BYTES_DEFAULT: Final = 1 << 20


class Reply(NamedTuple):
    """What came back: SAM status, sense data, data-in, bytes not transferred."""

    status: int
    sense: bytes
    data: bytes
    resid: int = 0


class Transport(Protocol):
    """One device. Calls block; one thread at a time."""

    def execute(
        self,
        cdb: bytes,
        data_out: bytes | memoryview = b"",
        data_in_len: int = 0,
        timeout_s: float = 60.0,
    ) -> Reply:
        """Send one command and wait for its end.

        Raises TransientError if the device does not answer in time, or the way
        to it is cut; what the device answers, errors included, is in the reply.
        """

    def close(self) -> None:
        """Give the device back."""


def transfer_bytes_max(transport: Transport) -> int:
    """The most that one command may carry; some hosts and bridges take little."""
    return int(getattr(transport, "transfer_bytes_max", TRANSFER_BYTES_DEFAULT))
