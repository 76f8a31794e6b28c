"""The main job on a library of real SCSI devices: here the emulator behind iSCSI."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sandboxes import BIN, Sandbox, differing, write_files
from support.tgtd import free_port, needs_libiscsi

pytestmark = pytest.mark.fuse


class Served:
    """``hsm emulator serve`` on a sandbox's library."""

    def __init__(self, library: Path, port: int) -> None:
        self.portal = f"127.0.0.1:{port}"
        self.library = library
        self.start()

    def start(self) -> None:
        command = [str(BIN / "hsm"), "emulator", "serve", str(self.library)]
        command += ["--listen", self.portal]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert "serving" in self.process.stdout.readline()

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[tuple[Sandbox, Served]]:
    needs_libiscsi()
    sandbox = Sandbox(tmp_path / "sb")
    sandbox.start("--drives", "2", "--slots", "8", "--disc-bytes", "20000000")
    sandbox.stop()
    served = Served(sandbox.root / "library", free_port())
    try:
        configure(sandbox, served.portal)
        sandbox.start()
        yield sandbox, served
    finally:
        sandbox.stop()
        served.stop()


def configure(sandbox: Sandbox, portal: str) -> None:
    """Put what ``hsm library scan`` prints in the place of the emulated library."""
    scan = subprocess.run(
        [str(BIN / "hsm"), "library", "scan", "--portal", portal],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    scan = scan.replace("magazine_slots = 12", "magazine_slots = 4").replace("robot-1", "emulated")
    file = sandbox.root / "hsmfs.toml"
    text = re.sub(r"\[\[library\]\].*?(?=\n\[|\Z)", lambda _: scan, file.read_text(), flags=re.S)
    file.write_text(text)


def test_files_go_to_discs_and_come_back(box: tuple[Sandbox, Served]) -> None:
    sandbox, _served = box
    made = write_files(sandbox.mnt / "study", 20, 500_000)
    sandbox.migrate_and_release()
    assert {file["state"] for file in sandbox.files()} == {"migrated"}
    assert {file["copies"] for file in sandbox.files()} == {2}
    assert not differing(made)
    entries = sandbox.hsm("drive", "trace", "drive0", "-n", "500")["entries"]
    commands = {entry["command"] for entry in entries}
    assert {"WRITE 12", "READ 12", "CLOSE TRACK SESSION", "TEST UNIT READY"} <= commands
    assert all(not entry["data"] for entry in entries if entry["command"] == "WRITE 12")
    moves = sandbox.hsm("drive", "trace", "changer", "-n", "500")["entries"]
    assert "MOVE MEDIUM" in {entry["command"] for entry in moves}
    wrong = sandbox.hsm("drive", "trace", "drive9", check=False)
    assert wrong.returncode == 1 and "expected one of changer, drive0, drive1" in wrong.stderr
    (library,) = sandbox.hsm("library", "ls")["libraries"]
    assert library["kind"] == "scsi" and not library["problem"]


def test_the_library_may_go_away_and_come_back(box: tuple[Sandbox, Served]) -> None:
    sandbox, served = box
    made = write_files(sandbox.mnt / "a", 6, 300_000)
    sandbox.migrate_and_release()
    served.stop(signal.SIGKILL)
    sandbox.until(lambda: sandbox.hsm("library", "ls")["libraries"][0]["problem"])
    served.start()
    sandbox.until(lambda: not sandbox.hsm("library", "ls")["libraries"][0]["problem"])
    assert not differing(made)


def test_a_changed_drive_is_told_before_anything_starts(box: tuple[Sandbox, Served]) -> None:
    sandbox, _served = box
    sandbox.stop()
    for old, new, words in (
        ('serial = "EMUD0001"', 'serial = "OTHER"', "found serial number 'EMUD0001', expected"),
        ('serial = "OTHER"', "element = 256", "element 256 in the configuration, but the library"),
        ("element = 256", "element = 9", "element 9, the library has drives 256, 257"),
    ):
        sandbox.configure(old, new)
        done = subprocess.run(
            [str(BIN / "hsmd"), "--config", str(sandbox.root / "hsmfs.toml")],
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 1 and words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    sandbox.configure("element = 9", "element = 257")


def test_a_drive_that_does_not_answer_is_left_out(box: tuple[Sandbox, Served]) -> None:
    sandbox, _served = box
    sandbox.stop()
    sandbox.configure('emulated/1"', 'emulated/77"')
    sandbox.start()
    found = {drive["name"]: drive["state"] for drive in sandbox.hsm("drive", "ls")["drives"]}
    assert found == {"drive0": "idle", "drive1": "idle"}, "found by its serial number"
    sandbox.stop()
    sandbox.configure('serial = "EMUD0000"', "element = 256")
    sandbox.start()
    states = {drive["name"]: drive["state"] for drive in sandbox.hsm("drive", "ls")["drives"]}
    assert states == {"drive0": "failed", "drive1": "idle"}
    made = write_files(sandbox.mnt / "b", 4, 200_000)
    sandbox.migrate_and_release()
    assert not differing(made)


def test_the_library_is_qualified_and_audited(box: tuple[Sandbox, Served]) -> None:
    sandbox, _served = box
    sandbox.hsm("sandbox", "stop", str(sandbox.root))
    words = ("library", "qualify", "--drive", "EMUD0001", "--scratch", "HSM00003")
    report = sandbox.hsm(*words, "--bytes", "4000000")
    facts = {step["name"]: step["facts"] for step in report["steps"]}
    assert report["passed"] and report["drive"] == "drive1"
    assert facts["mapping"] == {"element": 257, "serial_told": True}
    sandbox.start()
    audit = sandbox.hsm("library", "audit", "--discs")
    assert (audit["findings"], audit["discs_read"]) == ([], 8)
