"""Emulated libraries for tests, and words to look at SCSI replies."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from hsmfs.changer import cdb
from hsmfs.changer.burn import Burn
from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import EmulatedLibrary
from hsmfs.changer.library import Changer
from hsmfs.changer.sense import decode
from hsmfs.changer.transport.interface import CHECK_CONDITION, GOOD, Transport
from hsmfs.clock import ManualClock
from hsmfs.types import SECTOR_BYTES

CLUSTER = 32
CLUSTER_BYTES = CLUSTER * SECTOR_BYTES
DISC_BYTES = 64 * CLUSTER_BYTES
SLOT, DRIVE = 0x0400, 0x0100


def new_library(path: Path, **options: Any) -> EmulatedLibrary:
    """Two drives, six slots in two magazines, discs of 2048 sectors."""
    shape: dict[str, Any] = dict(
        drives=2, slots=6, magazine_slots=3, disc_bytes=DISC_BYTES, clock=ManualClock()
    )
    return EmulatedLibrary.create(path / "library", **(shape | options))


def content(sectors: int, seed: int = 0) -> bytes:
    """Reproducible bytes that differ from sector to sector."""
    return random.Random(seed).randbytes(sectors * SECTOR_BYTES)


def sense_of(
    transport: Transport, command: bytes, data: bytes = b"", length: int = 0
) -> tuple[int, int, int] | None:
    """The sense that a command ends with; None if it is done."""
    reply = transport.execute(command, data, length)
    if reply.status == GOOD:
        return None
    assert reply.status == CHECK_CONDITION
    assert reply.sense[0] == 0x70 and len(reply.sense) == 18 and reply.data == b""
    return tuple(decode(reply.sense))


def data_of(transport: Transport, command: bytes, length: int = 0) -> bytes:
    """Data of a command that must be done."""
    reply = transport.execute(command, b"", length)
    assert reply.status == GOOD, decode(reply.sense)
    assert reply.resid == length - len(reply.data)
    return reply.data


def settle(transport: Transport) -> list[tuple[int, int, int]]:
    """Consume and return the unit attentions that wait."""
    found = []
    while (sense := sense_of(transport, cdb.test_unit_ready())) and sense[0] == 6:
        found.append(sense)
    return found


def loaded(library: EmulatedLibrary, slot: int = 0, number: int = 0) -> Drive:
    """A drive with the disc of a slot in it, ready."""
    Changer(library.changer_transport()).move(SLOT + slot, DRIVE + number)
    drive = Drive(library.drive_transport(number), lambda _seconds: None)
    drive.ready()
    return drive


def burned(library: EmulatedLibrary, data: bytes, slot: int = 0, number: int = 0) -> Drive:
    """As ``loaded``, with the data on the disc and the disc closed."""
    drive = loaded(library, slot, number)
    burn = Burn(drive, len(data) // SECTOR_BYTES)
    burn.write(data)
    burn.finish()
    return drive


def put_faults(library: EmulatedLibrary, *faults: dict[str, Any]) -> None:
    """Write faults.json as an operator would."""
    (library.path / "faults.json").write_text(json.dumps(list(faults)))
