"""What both kinds of emulated device share: attentions, sense, INQUIRY."""

from __future__ import annotations

import struct
from collections import deque
from typing import Final

from hsmfs.changer import cdb as codes
from hsmfs.changer import sense as senses
from hsmfs.changer.sense import Sense
from hsmfs.changer.transport.interface import CHECK_CONDITION, GOOD, Reply

ATTENTIONS_KEPT_MAX: Final = 8
POWER_ON: Final = Sense(0x06, 0x29, 0x00)
MEDIUM_CHANGED: Final = Sense(0x06, 0x28, 0x00)
INVALID_COMMAND: Final = Sense(0x05, 0x20, 0x00)
INVALID_FIELD: Final = Sense(0x05, 0x24, 0x00)
NO_SENSE: Final = Sense(0x00, 0x00, 0x00)
VENDOR: Final = b"HSMFS   "
REVISION: Final = b"0001"


class CheckCondition(Exception):
    """The command ends with this sense."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(str(sense))
        self.sense = sense


class Device:
    """Common command handling; subclasses implement ``command``."""

    device_type = 0
    product = b"EMULATED        "

    def __init__(self, serial: str) -> None:
        self.serial = serial
        self._attentions: deque[Sense] = deque([POWER_ON], maxlen=ATTENTIONS_KEPT_MAX)
        self._last = NO_SENSE

    def attention(self, sense: Sense) -> None:
        """To be reported once, with the next command."""
        if sense not in self._attentions:
            self._attentions.append(sense)

    def execute(self, cdb: bytes, data_out: bytes | memoryview, data_in_len: int) -> Reply:
        """One command; INQUIRY and REQUEST SENSE ignore attentions (SAM-5 5.14)."""
        try:
            if cdb[0] == codes.INQUIRY:
                data = self._inquiry(cdb)
            elif cdb[0] == codes.REQUEST_SENSE:
                data = senses.encode(self._attentions.popleft() if self._attentions else self._last)
                self._last = NO_SENSE
            else:
                if self._attentions:
                    raise CheckCondition(self._attentions.popleft())
                data = self.command(cdb, data_out)
        except CheckCondition as check:
            self._last = check.sense
            return Reply(CHECK_CONDITION, senses.encode(check.sense), b"", data_in_len)
        data = data[:data_in_len]
        return Reply(GOOD, b"", data, data_in_len - len(data))

    def command(self, cdb: bytes, data_out: bytes | memoryview) -> bytes:
        """Data-in of a command of this kind of device; raises CheckCondition."""
        raise CheckCondition(INVALID_COMMAND)

    def _inquiry(self, cdb: bytes) -> bytes:
        length = int.from_bytes(cdb[3:5], "big")
        if not cdb[1] & 1:
            head = bytes([self.device_type, 0x80, 0x06, 0x02, 31, 0, 0, 0])
            return (head + VENDOR + self.product + REVISION)[:length]
        pages = {
            codes.VPD_SUPPORTED: bytes(
                [codes.VPD_SUPPORTED, codes.VPD_SERIAL, codes.VPD_DEVICE_ID]
            ),
            codes.VPD_SERIAL: self.serial.encode(),
            codes.VPD_DEVICE_ID: self.designator(),
        }
        if cdb[2] not in pages:
            raise CheckCondition(INVALID_FIELD)
        body = pages[cdb[2]]
        return (struct.pack(">BBH", self.device_type, cdb[2], len(body)) + body)[:length]

    def designator(self) -> bytes:
        """T10 vendor id designator in ASCII (SPC-4 7.8.6.4)."""
        text = VENDOR + self.product + self.serial.encode()
        return bytes([0x02, 0x01, 0x00, len(text)]) + text
