"""kill -9 of a process that burns and moves, at random moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.libraries import CLUSTER, SLOT, content, new_library, sense_of, settle

from hsmfs.changer import cdb
from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import EmulatedLibrary, open_library
from hsmfs.changer.library import Changer
from hsmfs.clock import ManualClock
from hsmfs.errors import MediumError

UNIT = 2 * CLUSTER
DISC_BYTES = 64 << 20
CHILD_WAIT_S = 30.0
FIRST_DRIVE = 0x0100

BURNER = """
import sys
from pathlib import Path
from hsmfs.changer.burn import Burn
from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import open_library
from hsmfs.changer.library import Changer
library = open_library(Path(sys.argv[1]))
Changer(library.changer_transport()).move(0x0400, 0x0100)
drive = Drive(library.drive_transport(0))
drive.ready()
unit = Path(sys.argv[2]).read_bytes()
for lba in range(0, 32768, len(unit) // 2048):
    drive.write(lba, unit)
    print(lba + len(unit) // 2048, flush=True)
drive.sync()
drive.close_session()
print("closed", flush=True)
"""

MOVER = """
import sys
from pathlib import Path
from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import open_library
from hsmfs.changer.library import Changer
library = open_library(Path(sys.argv[1]))
changer = Changer(library.changer_transport())
while True:
    for slot in range(6):
        changer.move(0x0400 + slot, 0x0100)
        print(slot, flush=True)
        Drive(library.drive_transport(0)).eject()
        changer.move(0x0100, 0x0400 + slot)
    tray = library.hands.take_out_magazine(slot % 2)
    library.hands.put_in_magazine(tray)
"""


def run_and_kill(script: str, lines: int, *arguments: Path) -> list[str]:
    """Let it print so many lines, then kill it; all lines it printed."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = [child.stdout.readline().strip() for _ in range(lines)]
        os.kill(child.pid, signal.SIGKILL)
        rest, _ = child.communicate(timeout=CHILD_WAIT_S)
    return [line for line in (*said, *rest.split()) if line]


def reopen(library: EmulatedLibrary) -> EmulatedLibrary:
    return open_library(library.path, ManualClock())


@pytest.mark.parametrize("round", range(4))
def test_a_burn_that_was_killed(tmp_path: Path, round: int) -> None:
    library = new_library(tmp_path, disc_bytes=DISC_BYTES)
    unit = tmp_path / "unit"
    unit.write_bytes(content(UNIT))
    said = run_and_kill(BURNER, random.Random(round).randint(1, 200), library.path, unit)
    drive = Drive(reopen(library).drive_transport(0))
    drive.ready()
    info = drive.disc_info()
    assert info.state == "incomplete"
    assert info.next_writable >= int(said[-1])
    for lba in range(0, info.next_writable, UNIT):
        count = min(UNIT, info.next_writable - lba)
        assert drive.read(lba, count) == content(UNIT)[: count * 2048]
    with pytest.raises(MediumError):
        drive.read(info.next_writable, 1)
    with pytest.raises(MediumError):
        drive.write(info.next_writable + CLUSTER, content(CLUSTER))
    drive.write(info.next_writable, content(CLUSTER, 9))
    assert drive.read(info.next_writable, CLUSTER) == content(CLUSTER, 9)


def test_a_burn_that_was_killed_after_its_close_is_complete(tmp_path: Path) -> None:
    library = new_library(tmp_path, disc_bytes=DISC_BYTES)
    unit = tmp_path / "unit"
    unit.write_bytes(content(512))
    said = run_and_kill(BURNER, DISC_BYTES // (512 * 2048) + 1, library.path, unit)
    assert said[-1] == "closed"
    device = reopen(library).drive_transport(0)
    info = Drive(device).disc_info()
    assert (info.state, info.capacity_sectors) == ("complete", DISC_BYTES // 2048)
    assert sense_of(device, cdb.write_12(0, 1), bytes(2048)) == (7, 0x27, 0)


@pytest.mark.parametrize("round", range(4))
def test_moves_that_were_killed(tmp_path: Path, round: int) -> None:
    library = new_library(tmp_path)
    run_and_kill(MOVER, random.Random(round).randint(1, 15), library.path)
    again = reopen(library)
    found = Changer(again.changer_transport()).inventory()
    inside = [e.barcode for e in (*found.slots, *found.drives) if e.full]
    outside = [code for tray in again.state.trays for code in tray.discs if code]
    assert sorted([*map(str, inside), *outside]) == [f"HSM{n:05d}" for n in range(1, 7)]
    assert len(outside) in (0, 3)
    for drive in found.drives:
        if drive.full:
            Drive(again.drive_transport(drive.address - FIRST_DRIVE)).eject()
            assert drive.source is not None and drive.source >= SLOT
            Changer(again.changer_transport()).move(drive.address, drive.source)
    settle(again.changer_transport())
