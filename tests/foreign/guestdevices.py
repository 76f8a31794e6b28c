"""Run in the guest: our own transports over the kernel's device nodes; prints what they found."""

from __future__ import annotations

import glob
import json
import random
import sys

from hsmfs.changer.burn import Burn
from hsmfs.changer.discovery import config_text, scan_machine
from hsmfs.changer.drive import Drive
from hsmfs.changer.library import Changer
from hsmfs.changer.transport.address import open_transport, parse_address
from hsmfs.changer.transport.stack import Stack
from hsmfs.clock import SystemClock
from hsmfs.types import SECTOR_BYTES


def bsg(path: str) -> str:
    """The bsg node of an sg node."""
    name = path.rpartition("/")[2]
    (found,) = glob.glob(f"/sys/class/scsi_generic/{name}/device/bsg/*")
    return "/dev/bsg/" + found.rpartition("/")[2]


def work(robot: str, device: str, slot: int) -> dict[str, object]:
    """Move a disc, burn it, load it again and read it; by these addresses."""
    stacks = [
        Stack(address, open_transport(parse_address(address)), SystemClock())
        for address in (robot, device)
    ]
    changer, drive = Changer(stacks[0].top), Drive(stacks[1].top)
    inventory = changer.inventory(refresh=True)
    source, element = inventory.slots[slot].address, inventory.drives[0].address
    changer.move(source, element)
    drive.ready()
    data = random.Random(slot).randbytes(1000 * SECTOR_BYTES)
    burn = Burn(drive, 1000)
    burn.write(data)
    burn.finish()
    drive.eject()
    drive.load()
    drive.ready()
    same = drive.read(0, 1000) == data
    info = drive.disc_info()
    drive.eject()
    changer.move(element, source)
    for stack in stacks:
        stack.top.close()
    senses = {entry.outcome() for stack in stacks for entry in stack.trace.entries()}
    return {"same": same, "state": info.state, "serial": inventory.drives[0].drive_serial,
            "outcomes": sorted(senses)}  # fmt: skip


def main() -> None:
    devices = scan_machine()
    answer: dict[str, object] = {
        "scan": config_text(devices),
        "problems": [d.problem for d in devices],
    }
    robot = next(one.address for one in devices if one.kind == "changer")[3:]
    drive = next(one.address for one in devices if one.kind == "drive")[3:]
    ways = {
        "sg": (f"sg:{robot}", f"sg:{drive}"),
        "bsg": (f"sg:{bsg(robot)}", f"sg:{bsg(drive)}"),
        "sr": (f"sg:{robot}", "sg:/dev/sr0"),
        "sgio": (f"sgio:{robot}", f"sgio:{drive}"),
    }
    for slot, (name, (changer, device)) in enumerate(ways.items(), 3):
        try:
            answer[name] = work(changer, device, slot)
        except Exception as error:
            answer[name] = f"{type(error).__name__}: {error}"
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
