"""Who a device says it is (SPC-4 6.6 and 7.8)."""

from __future__ import annotations

from typing import Final, NamedTuple

from hsmfs.changer import cdb
from hsmfs.changer.command import run
from hsmfs.changer.transport.interface import Transport
from hsmfs.errors import CallerError, TransientError

INQUIRY_BYTES: Final = 96
VPD_BYTES: Final = 252
TIMEOUT_S: Final = 15.0
TYPE_DRIVE, TYPE_CHANGER = 5, 8
NOT_THERE: Final = 3
"""Peripheral qualifier of a logical unit that could be, but is not."""
_TYPES: Final = {TYPE_DRIVE: "a disc drive", TYPE_CHANGER: "a media changer"}


class DeviceId(NamedTuple):
    """Standard INQUIRY data and the unit serial number."""

    vendor: str
    product: str
    revision: str
    serial: str


def identify(transport: Transport, expected: int | None = None) -> DeviceId:
    """Ask a device; CallerError if it is of another type than ``expected``.

    TransientError if there is an address, but no device behind it now.
    """
    data = run(transport, "INQUIRY", cdb.inquiry(INQUIRY_BYTES), b"", INQUIRY_BYTES, TIMEOUT_S)
    if not data or data[0] >> 5 == NOT_THERE:
        raise TransientError("INQUIRY: no device at this logical unit")
    if expected is not None and data[0] & 0x1F != expected:
        raise CallerError(
            f"INQUIRY: device type {data[0] & 0x1F}, expected {expected} ({_TYPES[expected]})"
        )
    page = run(
        transport,
        "INQUIRY 80h",
        cdb.inquiry(VPD_BYTES, cdb.VPD_SERIAL),
        b"",
        VPD_BYTES,
        TIMEOUT_S,
    )
    serial = page[4 : 4 + int.from_bytes(page[2:4], "big")]
    return DeviceId(_text(data[8:16]), _text(data[16:32]), _text(data[32:36]), _text(serial))


def _text(data: bytes) -> str:
    return data.decode("ascii", "replace").strip(" \0")
