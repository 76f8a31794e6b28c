"""tgtd (Debian's tgt): a media changer and drives of others over loopback iSCSI."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hsmfs.changer.transport import libiscsi
from hsmfs.errors import CallerError

TARGET = "iqn.2025-01.org.hsmfs.test:jukebox"
START_TIMEOUT_S = 20.0
CHANGER_LUN = 9
FIRST_DRIVE, ARM, FIRST_SLOT = 1, 16, 1024
INSTANCES = range(8, 32_000)
"""Control numbers; by chance, as other runs choose at the same time."""


def needs_libiscsi() -> None:
    """Skip where our iSCSI transport has no library."""
    try:
        libiscsi.library()
    except CallerError as error:
        pytest.skip(str(error))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Tgtd:
    """One daemon under a control number of its own."""

    def __init__(self, work: Path, number: int) -> None:
        self.work = work
        self.number = number
        self.port = free_port()
        self.portal = f"127.0.0.1:{self.port}"
        command = ["tgtd", "-f", "-C", str(number), "--iscsi", f"portal={self.portal}"]
        self.log = (work / "tgtd.log").open("w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def admin(self, op: str, mode: str, *options: str) -> None:
        command = ["tgtadm", "-C", str(self.number), "--lld", "iscsi"]
        command += ["--op", op, "--mode", mode, "--tid", "1", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}".strip())

    def wait(self) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.admin("new", "target", "-T", TARGET)
                return
            except RuntimeError:
                time.sleep(0.1)
        raise RuntimeError((self.work / "tgtd.log").read_text()[-500:] or "tgtd does not start")

    def unit(self, lun: int, *options: str) -> None:
        self.admin("update", "logicalunit", "--lun", str(lun), "--params", ",".join(options))

    def jukebox(self, drives: int, discs: int, disc_bytes: int) -> None:
        """A changer with drives, as tgt's README.dvdjukebox says."""
        for number in range(drives):
            lun = number + 1
            self.admin("new", "logicalunit", "--lun", str(lun), "-Y", "cd")
            self.unit(lun, "vendor_id=STGT_DVD", "product_id=DVD101", f"scsi_sn=TGTDVD{lun:02d}")
            self.unit(lun, "removable=1")
        store = self.work / "smc"
        store.write_bytes(bytes(1024))
        changer = str(CHANGER_LUN)
        self.admin("new", "logicalunit", "--lun", changer, "-b", str(store), "-Y", "changer")
        self.unit(CHANGER_LUN, "vendor_id=STK", "product_id=L700", "scsi_sn=XYZZY_0", "removable=1")
        self.unit(
            CHANGER_LUN, "element_type=4", f"start_address={FIRST_DRIVE}", f"quantity={drives}"
        )
        for number in range(drives):
            self.unit(
                CHANGER_LUN, "element_type=4", f"address={FIRST_DRIVE + number}", "tid=1",
                f"lun={number + 1}",
            )  # fmt: skip
        self.unit(CHANGER_LUN, "element_type=1", f"start_address={ARM}", "quantity=1")
        media = self.work / "media"
        media.mkdir()
        self.unit(CHANGER_LUN, f"media_home={media}")
        self.unit(CHANGER_LUN, "element_type=2", f"start_address={FIRST_SLOT}", f"quantity={discs}")
        for slot in range(discs - 1):
            barcode = f"DVD_{slot:04d}"
            (media / barcode).write_bytes(bytes(disc_bytes))
            self.unit(
                CHANGER_LUN, "element_type=2", f"address={FIRST_SLOT + slot}", f"barcode={barcode}",
                f"volume_tag={barcode}", "sides=1",
            )  # fmt: skip
        self.admin("bind", "target", "-I", "ALL")

    def stop(self) -> None:
        """At once: on SIGTERM it waits for sessions that nobody ends."""
        self.process.kill()
        self.process.wait()
        self.log.close()
        for name in (f"socket.{self.number}", f"socket.{self.number}.lock"):
            Path("/var/run/tgtd", name).unlink(missing_ok=True)


@contextmanager
def jukebox(work: Path, drives: int = 2, slots: int = 6, disc_bytes: int = 1 << 20) -> Iterator:
    """A jukebox of others; skips, with the reason, where tgtd cannot run."""
    needs_libiscsi()
    if shutil.which("tgtd") is None or shutil.which("tgtadm") is None:
        pytest.skip("tgtd is not installed (Debian: tgt)")
    if os.geteuid() != 0:
        pytest.skip("tgtd needs root for its control socket")
    work.mkdir(parents=True, exist_ok=True)
    daemon = Tgtd(work, random.SystemRandom().choice(INSTANCES))
    try:
        try:
            daemon.wait()
        except RuntimeError as error:
            pytest.skip(f"tgtd cannot run here: {error}")
        daemon.jukebox(drives, slots, disc_bytes)
        yield daemon
    finally:
        daemon.stop()
