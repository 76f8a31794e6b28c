"""In the guest: device nodes of the kernel for the units of an iSCSI target."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from hsmfs.changer.transport.interface import Transport
from hsmfs.changer.transport.sg import SgTransport
from hsmfs.changer.transport.sgio import SgioTransport

GENERIC = Path("/sys/class/scsi_generic")
WAIT_S = 30.0


def kernel_nodes(portal: str, target: str, count: int) -> list[str]:
    """Log the kernel in; names as sg3, by logical unit."""
    before = {path.name for path in GENERIC.glob("*")}
    host, port = portal.rsplit(":", 1)
    command = ["iscsistart", "-i", "iqn.2025-01.org.hsmfs:guest", "-t", target, "-g", "1"]
    subprocess.run([*command, "-a", host, "-p", port], check=True, timeout=60, capture_output=True)
    end = time.monotonic() + WAIT_S
    while len(found := {p.name for p in GENERIC.glob("*")} - before) < count:
        assert time.monotonic() < end, f"{found} of {count} units"
        time.sleep(0.05)
    return sorted(found, key=_lun)


def _lun(name: str) -> int:
    return int((GENERIC / name / "device").resolve().name.rpartition(":")[2])


def node_transport(kind: str, name: str) -> Transport:
    if kind == "sgio":
        return SgioTransport(f"/dev/{name}")
    if kind == "bsg":
        (node,) = (GENERIC / name / "device" / "bsg").iterdir()
        return SgTransport(f"/dev/bsg/{node.name}")
    return SgTransport(f"/dev/{name}")


def drop_nodes(names: list[str]) -> None:
    """Make the kernel forget them, while the target still answers."""
    for name in names:
        (GENERIC / name / "device" / "delete").write_text("1")
