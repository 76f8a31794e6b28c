"""Logical units of the target: the changer is 0, drives follow in their order."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from hsmfs.changer import cdb as codes
from hsmfs.changer import sense as senses
from hsmfs.changer.emulated.device import INVALID_FIELD, Device
from hsmfs.changer.emulated.iscsi.pdu import lun_bytes
from hsmfs.changer.sense import Sense
from hsmfs.changer.transport.interface import CHECK_CONDITION, GOOD, Reply

NO_SUCH_UNIT: Final = Sense(0x05, 0x25, 0x00)
NO_DEVICE: Final = 0x7F
"""Peripheral qualifier and type of a unit that is not there (SPC-4 6.6.2)."""
INQUIRY_BYTES: Final = 36


class Units:
    """All devices of the library by number."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = list(devices)

    def find(self, lun: int) -> Device | None:
        return self.devices[lun] if 0 <= lun < len(self.devices) else None

    def join(self, nexus: str) -> None:
        """A new session."""
        for device in self.devices:
            device.join(nexus)

    def leave(self, nexus: str) -> None:
        """A session has ended."""
        for device in self.devices:
            device.leave(nexus)

    def execute(
        self, lun: int, cdb: bytes, data_out: bytes | memoryview, wanted: int, nexus: str
    ) -> Reply:
        """REPORT LUNS is the target's own; absent units answer INQUIRY and nothing else."""
        if cdb[0] == codes.REPORT_LUNS:
            return self._report(cdb, wanted)
        device = self.find(lun)
        if device is not None:
            return device.execute(cdb, data_out, wanted, nexus)
        if cdb[0] != codes.INQUIRY:
            return _check(NO_SUCH_UNIT, wanted)
        if cdb[1] & 1:
            return _check(INVALID_FIELD, wanted)
        data = bytes([NO_DEVICE, 0, 6, 2, INQUIRY_BYTES - 5]) + bytes(INQUIRY_BYTES - 5)
        return _good(data[: int.from_bytes(cdb[3:5], "big")], wanted)

    def _report(self, cdb: bytes, wanted: int) -> Reply:
        """SPC-4 6.33; there are no well-known logical units."""
        if cdb[2] > 2:
            return _check(INVALID_FIELD, wanted)
        count = 0 if cdb[2] == 1 else len(self.devices)
        body = b"".join(lun_bytes(lun) for lun in range(count))
        data = struct.pack(">I4x", len(body)) + body
        return _good(data[: int.from_bytes(cdb[6:10], "big")], wanted)


def _good(data: bytes, wanted: int) -> Reply:
    data = data[:wanted]
    return Reply(GOOD, b"", data, wanted - len(data))


def _check(sense: Sense, wanted: int) -> Reply:
    return Reply(CHECK_CONDITION, senses.encode(sense), b"", wanted)
