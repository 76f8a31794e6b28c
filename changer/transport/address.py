"""Device addresses as configuration and commands write them, and their transports.

``sg:/dev/sg3`` (also /dev/sr0, /dev/bsg/0:0:0:0), ``sgio:/dev/sg3``,
``iscsi://HOST[:PORT]/TARGET/LUN``.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from hsmfs.changer.transport.interface import Transport
from hsmfs.changer.transport.iscsi import PORT_DEFAULT, IscsiAddress, IscsiTransport
from hsmfs.changer.transport.sg import SgTransport
from hsmfs.changer.transport.sgio import SgioTransport
from hsmfs.errors import CallerError

FORMS: Final = "sg:/dev/sg3, sgio:/dev/sg3 or iscsi://HOST:PORT/TARGET/LUN"
LUN_MAX: Final = 16_383
_PORTAL: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>\d{1,5}))?")
_ISCSI: Final = re.compile(r"iscsi://(?P<portal>[^/]+)/(?P<target>[^/\s]+)/(?P<lun>\d{1,5})")
_NODE: Final = re.compile(r"(?P<kind>sg|sgio):(?P<path>/dev/[^\0]+)")


class DeviceAddress(NamedTuple):
    """How to reach one device."""

    kind: str
    """sg, sgio or iscsi."""
    path: str = ""
    iscsi: IscsiAddress | None = None


def parse_portal(text: str) -> str:
    """HOST:PORT, with iSCSI's port where none is given."""
    match = _PORTAL.fullmatch(text)
    if match is None or not 0 < int(match["port"] or PORT_DEFAULT) < 1 << 16:
        raise CallerError(f"{text!r}: expected HOST or HOST:PORT")
    return f"{match['host']}:{match['port'] or PORT_DEFAULT}"


def parse_address(text: str, user: str = "", secret: str = "") -> DeviceAddress:
    """CallerError tells what was found and expected."""
    node, unit = _NODE.fullmatch(text), _ISCSI.fullmatch(text)
    if node is not None:
        return DeviceAddress(node["kind"], node["path"])
    if unit is not None and int(unit["lun"]) <= LUN_MAX:
        portal = parse_portal(unit["portal"])
        where = IscsiAddress(portal, unit["target"], int(unit["lun"]), user, secret)
        return DeviceAddress("iscsi", iscsi=where)
    raise CallerError(f"device {text!r}: expected {FORMS}")


def open_transport(address: DeviceAddress) -> Transport:
    """The bare transport; nothing is sent yet."""
    match address.kind:
        case "sg":
            return SgTransport(address.path)
        case "sgio":
            return SgioTransport(address.path)
    assert address.iscsi is not None
    return IscsiTransport(address.iscsi)
