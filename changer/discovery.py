"""What devices there are: /dev/sg* of this machine, or all units of an iSCSI portal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from hsmfs.changer import cdb
from hsmfs.changer.command import run
from hsmfs.changer.identity import TYPE_CHANGER, TYPE_DRIVE, DeviceId, identify
from hsmfs.changer.library import Changer, Inventory
from hsmfs.changer.transport.interface import Transport
from hsmfs.changer.transport.iscsi import IscsiAddress, IscsiTransport, discover
from hsmfs.changer.transport.sg import SgTransport
from hsmfs.changer.transport.timeouts import Watched
from hsmfs.errors import HsmError

UNITS_MAX: Final = 1024
"""Devices that one discovery looks at."""
INQUIRY_BYTES: Final = 36
DEVICES: Final = Path("/dev")


class Device(NamedTuple):
    """One drive or changer that answered, or why something did not."""

    address: str
    kind: str
    """changer, drive, or empty if it did not answer."""
    identity: DeviceId
    inventory: Inventory | None
    """Of a changer."""
    problem: str


NOBODY: Final = DeviceId("", "", "", "")


def scan_machine(devices: Path = DEVICES) -> list[Device]:
    """Changers and drives among /dev/sg*."""
    numbers = sorted(
        int(path.name[2:]) for path in devices.glob("sg[0-9]*") if path.name[2:].isdecimal()
    )
    found: list[Device] = []
    for number in numbers[:UNITS_MAX]:
        path = f"{devices}/sg{number}"
        found += _looked_at(f"sg:{path}", SgTransport(path))
    return found


def scan_portal(portal: str, user: str = "", secret: str = "") -> list[Device]:
    """Changers and drives of all targets of HOST:PORT; TransientError if it does not answer."""
    found: list[Device] = []
    for target in discover(portal):
        for address in units_of(IscsiAddress(portal, target, 0, user, secret)):
            if len(found) < UNITS_MAX:
                found += _looked_at(str(address), IscsiTransport(address))
    return found


def units_of(address: IscsiAddress) -> list[IscsiAddress]:
    """All logical units of a target; HsmError if it does not answer."""
    return [address._replace(lun=lun) for lun in _luns(address)]


def _luns(address: IscsiAddress) -> list[int]:
    transport = IscsiTransport(address)
    try:
        command = bytes([cdb.REPORT_LUNS, 0, 0, 0, 0, 0]) + (8 + 8 * UNITS_MAX).to_bytes(4, "big")
        data = run(transport, "REPORT LUNS", command + bytes(2), b"", 8 + 8 * UNITS_MAX)
    finally:
        transport.close()
    size = min(len(data) - 8, int.from_bytes(data[:4], "big"))
    fields = (data[8 + at : 16 + at] for at in range(0, size - 7, 8))
    return [(one[0] & 0x3F) << 8 | one[1] for one in fields if one[0] >> 6 < 2]


def _looked_at(address: str, transport: Transport) -> Iterator[Device]:
    """Nothing for a disk or whatever else; one that hangs is left after its time."""
    watched = Watched(transport, address)
    try:
        data = run(watched, "INQUIRY", cdb.inquiry(INQUIRY_BYTES), b"", INQUIRY_BYTES)
        kind = {TYPE_DRIVE: "drive", TYPE_CHANGER: "changer"}.get(data[0] if data else 0x1F, "")
        if not kind:
            return
        inventory = Changer(watched).inventory() if kind == "changer" else None
        yield Device(address, kind, identify(watched), inventory, "")
    except HsmError as error:
        yield Device(address, "", NOBODY, None, str(error))
    finally:
        watched.close()


def config_text(devices: Sequence[Device]) -> str:
    """``[[library]]`` sections to start from, one for each changer; TOML."""
    drives = [device for device in devices if device.kind == "drive"]
    changers = [device for device in devices if device.kind == "changer"]
    sections = [_section(number, one, drives) for number, one in enumerate(changers, 1)]
    same = _same_serials(changers)
    sections = same + sections
    placed = {
        serial for one in changers if one.inventory for serial in _serials(one.inventory) if serial
    }
    rest = [drive for drive in drives if drive.identity.serial not in placed]
    if rest:
        sections.append("\n".join(["# Drives that no changer says it has:", *map(_comment, rest)]))
    return "\n\n".join(sections) + "\n" if sections else ""


def _same_serials(changers: Sequence[Device]) -> list[str]:
    """A library must be told from all others: two with one serial number cannot both be used."""
    found = []
    for serial in sorted({device.identity.serial for device in changers}):
        same = [device.address for device in changers if device.identity.serial == serial]
        if len(same) > 1:
            where = " and ".join(same)
            found.append(
                f"# {where} say that their serial number is {serial!r}: if it is one library by "
                "two ways, keep one section; if not, its maker must give it a number of its own."
            )
    return found


def _serials(inventory: Inventory) -> list[str | None]:
    return [element.drive_serial for element in inventory.drives]


def _section(number: int, changer: Device, drives: Sequence[Device]) -> str:
    inventory, who = changer.inventory, changer.identity
    assert inventory is not None
    lines = [
        f"# {who.vendor} {who.product} {who.revision}, serial {who.serial}: "
        f"{len(inventory.slots)} slots, {len(inventory.mailslots)} mailslots, "
        f"{len(inventory.drives)} drives",
        "[[library]]",
        f'name = "robot-{number}"',
        'kind = "scsi"',
        f'changer = "{changer.address}"',
        "magazine_slots = 12  # slots of one magazine: set it to your library's",
    ]
    for element in inventory.drives:
        same = [d for d in drives if d.identity.serial == element.drive_serial]
        if element.drive_serial and same:
            lines += ["", _comment(same[0]), "[[library.drive]]", f'device = "{same[0].address}"']
            lines += [f'serial = "{element.drive_serial}"']
        else:
            told = f"serial {element.drive_serial}, no such device" if element.drive_serial else ""
            lines += ["", f"# drive element {element.address}: {told or 'serial not told'}"]
            lines += ["# [[library.drive]]", '# device = "..."', f"# element = {element.address}"]
    return "\n".join(lines)


def _comment(drive: Device) -> str:
    who = drive.identity
    return f"# {who.vendor} {who.product} {who.revision}, serial {who.serial}: {drive.address}"
