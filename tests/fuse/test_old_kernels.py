"""A real mount with each optional feature of the kernel left out, as an older one would."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hsmfs.session.native.protocol import WANTED, Init

PROGRAM = """
import sys
from hsmfs.session.native import protocol
protocol.WANTED &= ~protocol.Init({without})
from hsmfs.main import main
sys.exit(main(sys.argv[1:]))
"""
FEATURES = [feature for feature in Init if feature in WANTED]
WITHOUT_PASSTHROUGH = (Init.PASSTHROUGH, Init.INIT_EXT)
SECOND_HALF = Init(~0xFFFFFFFF & (1 << 63) - 1)


def start(system, without: Init) -> None:
    command = [sys.executable, "-c", PROGRAM.format(without=int(without))]
    with system.log.open("a") as log:
        system.process = subprocess.Popen(
            [*command, "--config", str(system.config)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    line = system.process.stdout.readline()
    assert "ready" in line, system.log.read_text()


def work(mnt) -> None:
    (mnt / "d").mkdir(mode=0o750)
    file = mnt / "d" / "f"
    file.write_bytes(b"x" * 300_000)
    file.write_bytes(b"y" * 200_000)  # O_TRUNC
    with file.open("r+b") as opened:
        opened.seek(100_000)
        opened.write(b"z" * 1000)
        os.fsync(opened.fileno())
        opened.truncate(150_000)
    assert file.read_bytes() == b"y" * 100_000 + b"z" * 1000 + b"y" * 49_000
    os.setxattr(file, "user.a", b"value")
    assert os.getxattr(file, "user.a") == b"value"
    (mnt / "d" / "s").symlink_to("f")
    assert (mnt / "d" / "s").read_bytes()[:1] == b"y"
    for number in range(100):
        (mnt / "d" / f"n{number}").touch()
    assert len(list(os.scandir(mnt / "d"))) == 102
    assert sum(entry.stat().st_size for entry in os.scandir(mnt / "d")) == 300_000
    umask = os.umask(0o027)
    try:
        (mnt / "masked").touch(0o666)
    finally:
        os.umask(umask)
    assert (mnt / "masked").stat().st_mode & 0o777 == 0o640
    os.chmod(file, 0o6755)
    with file.open("ab") as opened:
        opened.write(b"more")
    os.rename(file, mnt / "g")
    assert (mnt / "g").stat().st_size == 150_004
    os.unlink(mnt / "g")
    direct = os.open(mnt / "direct", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    os.close(direct)


def check(system, without: Init) -> None:
    start(system, without)
    work(system.mnt)
    assert system.stop() == 0
    system.start()
    assert len(os.listdir(system.mnt / "d")) == 101


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_without(system, feature):
    check(system, feature)
    text = system.log.read_text()
    assert text.count("passthrough is off") == (feature in WITHOUT_PASSTHROUGH)


def test_without_all_of_them(system):
    check(system, WANTED)


def test_with_the_first_half_only(system):
    check(system, SECOND_HALF | Init.INIT_EXT)


def test_a_kernel_that_is_too_old(system):
    start_too_old = PROGRAM.format(without=0).replace("protocol.WANTED", "protocol.MINOR_MIN = 99#")
    done = subprocess.run(
        [sys.executable, "-c", start_too_old, "--config", str(system.config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "found a kernel that speaks FUSE 7." in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("hsmfs: ") == 1, done.stderr
    assert not os.path.ismount(system.mnt)
