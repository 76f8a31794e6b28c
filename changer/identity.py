"""Who a device says it is (SPC-4 6.6 and 7.8)."""

from __future__ import annotations

from typing import Final, NamedTuple

from hsmfs.changer import cdb
from hsmfs.changer.command import run
from hsmfs.changer.transport.interface import Transport

INQUIRY_BYTES: Final = 96
VPD_BYTES: Final = 252
TIMEOUT_S: Final = 15.0


class DeviceId(NamedTuple):
    """Standard INQUIRY data and the unit serial number."""

    vendor: str
    product: str
    revision: str
    serial: str


def identify(transport: Transport) -> DeviceId:
    """Ask a device."""
    data = run(transport, "INQUIRY", cdb.inquiry(INQUIRY_BYTES), b"", INQUIRY_BYTES, TIMEOUT_S)
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
