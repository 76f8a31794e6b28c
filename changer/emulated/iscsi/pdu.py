"""Protocol data units of iSCSI: 48 bytes of header, then data in whole words (RFC 7143 11).

Header digests and data digests are not offered, so neither is ever there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

HEADER_BYTES: Final = 48
RESERVED_TAG: Final = 0xFFFFFFFF
FINAL: Final = 0x80

NOP_OUT, SCSI_COMMAND, TASK_REQUEST, LOGIN_REQUEST = 0x00, 0x01, 0x02, 0x03
TEXT_REQUEST, DATA_OUT, LOGOUT_REQUEST, SNACK_REQUEST = 0x04, 0x05, 0x06, 0x10
NOP_IN, SCSI_RESPONSE, TASK_RESPONSE, LOGIN_RESPONSE = 0x20, 0x21, 0x22, 0x23
TEXT_RESPONSE, DATA_IN, LOGOUT_RESPONSE, READY_TO_TRANSFER, REJECT = 0x24, 0x25, 0x26, 0x31, 0x3F


class ProtocolError(Exception):
    """The other side does not keep to the protocol: the connection ends."""


class Pdu(NamedTuple):
    """One unit as it came."""

    header: bytes
    data: bytes

    @property
    def opcode(self) -> int:
        return self.header[0] & 0x3F

    @property
    def immediate(self) -> bool:
        return bool(self.header[0] & 0x40)

    @property
    def flags(self) -> int:
        return self.header[1]

    @property
    def final(self) -> bool:
        return bool(self.header[1] & FINAL)

    @property
    def lun(self) -> int:
        """Peripheral or flat addressing (SAM-5 4.7); -1 for any other."""
        method, low = self.header[8] >> 6, self.header[9]
        if any(self.header[10:16]) or method > 1 or (method == 0 and self.header[8]):
            return -1
        return (self.header[8] & 0x3F) << 8 | low

    @property
    def tag(self) -> int:
        """Initiator task tag."""
        return self.word(16)

    @property
    def command_number(self) -> int:
        """CmdSN."""
        return self.word(24)

    def word(self, at: int) -> int:
        """Four bytes of the header."""
        return int(struct.unpack_from(">I", self.header, at)[0])


class PduReader:
    """Bytes in, whole units out; what is malformed or too large is refused."""

    def __init__(self, data_bytes_max: int) -> None:
        self._data_bytes_max = data_bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[Pdu]:
        """Units that are complete now; ProtocolError for the first that cannot be."""
        self._buffer += data
        while len(self._buffer) >= HEADER_BYTES:
            extra, size = self._sizes()
            end = HEADER_BYTES + extra + size + -size % 4
            if len(self._buffer) < end:
                return
            start = HEADER_BYTES + extra
            header = bytes(self._buffer[:HEADER_BYTES])
            body = bytes(memoryview(self._buffer)[start : start + size])
            del self._buffer[:end]
            yield Pdu(header, body)

    def _sizes(self) -> tuple[int, int]:
        """Bytes of additional header segments (ignored) and of data."""
        size = int.from_bytes(self._buffer[5:8], "big")
        if size > self._data_bytes_max:
            raise ProtocolError(f"{size} bytes of data in a unit, at most {self._data_bytes_max}")
        return self._buffer[4] * 4, size


def new_header(opcode: int, flags: int, tag: int, lun: bytes = bytes(8)) -> bytearray:
    """The head of an answer; sequence numbers and length are set when it is sent."""
    header = bytearray(HEADER_BYTES)
    header[0], header[1], header[8:16] = opcode, flags, lun
    struct.pack_into(">I", header, 16, tag)
    return header


def pack(header: bytearray, data: bytes | memoryview = b"") -> list[bytes | memoryview]:
    """Buffers to send."""
    header[5:8] = len(data).to_bytes(3, "big")
    return [bytes(header), data, bytes(-len(data) % 4)]


def lun_bytes(lun: int) -> bytes:
    """Eight bytes of a logical unit number."""
    return struct.pack(">H6x", lun if lun < 256 else 0x4000 | lun)
