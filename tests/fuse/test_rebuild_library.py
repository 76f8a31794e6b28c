"""The system made anew by the robot: real programs, real mount, stores and cache gone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.lostsystems import facts_of, lose_everything, make_awkward
from support.sandboxes import BIN, Sandbox, write_files

pytestmark = pytest.mark.fuse
DISC = "20000000"
NAME = "library"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path / "sb")
    sandbox.start("--drives", "2", "--slots", "24", "--disc-bytes", DISC)
    try:
        yield sandbox
    finally:
        sandbox.stop()


def written(box: Sandbox) -> dict[str, Any]:
    """Three volumes of two copies, with what changed between them; the tree at the end."""
    make_awkward(box)
    box.migrate_and_release(box.mnt / "病历")
    os.rename(box.mnt / "病历" / "影像", box.mnt / "moved")
    os.unlink(box.mnt / "moved" / "f0003")
    os.rename(box.mnt / "moved" / "f0004", box.mnt / "moved" / "f0005")
    os.chmod(box.mnt / "moved" / "f0006", 0o600)
    os.setxattr(box.mnt / "moved" / "f0007", "user.late", b"1")
    write_files(box.mnt / "second", 5, 200_000)
    box.migrate_and_release()
    os.unlink(box.mnt / "second" / "f0001")
    os.chown(box.mnt / "second" / "f0002", 77, 88)
    write_files(box.mnt / "third", 5, 200_000, seed=3)
    box.migrate_and_release()
    return facts_of(box.mnt)


def rebuild(box: Sandbox) -> Any:
    done = box.hsm("rebuild", "--from", NAME, check=False)
    assert isinstance(done, dict), done.stderr
    return done


def by_volume(box: Sandbox) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for disc in box.discs():
        if disc["volume"]:
            found.setdefault(disc["volume"], []).append(disc["barcode"])
    return found


def places(box: Sandbox) -> dict[str, tuple[str, int, str, str]]:
    return {
        d["barcode"]: (d["magazine"], d["position"], d["state"], d["volume"] or "")
        for d in box.discs()
    }


def test_everything_comes_back(box: Sandbox) -> None:
    before = written(box)
    known = places(box)
    assert len(by_volume(box)) == 3
    lose_everything(box)
    done = rebuild(box)
    assert (done["not_whole"], done["changes_complete"], done["left_out"]) == (0, True, [])
    assert (done["read"], done["blank"], done["discs"]) == (24, 18, 6)
    assert done["loads"] <= 24
    assert box.hsm("fsck", check=False)["findings"] == []
    box.start()
    assert places(box) == known
    assert facts_of(box.mnt) == before
    # and it goes on
    write_files(box.mnt / "fourth", 3, 100_000)
    box.migrate_and_release()
    before = facts_of(box.mnt)
    lose_everything(box)
    assert rebuild(box)["not_whole"] == 0
    box.start()
    assert facts_of(box.mnt) == before


def test_with_a_destroyed_disc_and_a_drive_that_fails(box: Sandbox) -> None:
    before = written(box)
    first = min(by_volume(box).items())[1][0]
    lose_everything(box)
    image = box.root / "library" / "discs" / f"{first}.img"
    image.write_bytes(random.Random(1).randbytes(image.stat().st_size))
    box.faults({"device": "drive0", "op": "read"}, {"device": "drive0", "op": "load"})
    done = rebuild(box)
    assert done["not_whole"] == 0
    assert [one["image"] for one in done["left_out"]] == [first]
    assert all(problem.startswith("drive0: it failed") for problem in done["problems"])
    box.faults()
    box.start()
    assert facts_of(box.mnt) == before
    assert places(box)[first][2] == "foreign"


def test_with_a_magazine_that_comes_back_later(box: Sandbox) -> None:
    before = written(box)
    out = {code for code, place in places(box).items() if place[0] == "M01" and place[3]}
    assert len(out) == 3  # a copy of each volume
    box.hsm("magazine", "export", "M01")
    lose_everything(box)
    done = rebuild(box)
    assert (done["not_whole"], done["read"], done["discs"]) == (0, 12, 3)
    # what follows shows what a person does, so hsmd makes no fresh copies by itself
    config = box.root / "hsmfs.toml"
    config.write_text(config.read_text() + "\n[care]\nrepair = false\n")
    put_in(box)
    box.start()
    assert facts_of(box.mnt) == before
    box.until(lambda: out <= set(places(box)))
    assert {places(box)[code][2] for code in out} == {"blank"}  # as far as is known
    for code in sorted(out):
        assert "is a copy of volume" in box.hsm("disc", "identify", code)["note"]
    box.until(lambda: {places(box)[code][2] for code in out} == {"verified"})
    assert {places(box)[code][0] for code in out} == {"M02"}
    assert all(len(codes) == 2 for codes in by_volume(box).values())
    assert facts_of(box.mnt) == before


def put_in(box: Sandbox) -> None:
    """By hand, while nothing runs."""
    from hsmfs.changer.emulated import open_library

    library = open_library(box.root / "library")
    for tray in list(library.state.trays):
        library.hands.put_in_magazine(tray.id)


def test_killed_at_random_moments_and_run_again(box: Sandbox) -> None:
    before = written(box)
    lose_everything(box)
    environment = dict(os.environ, HSM_CONFIG=str(box.root / "hsmfs.toml"))
    command = [str(BIN / "hsm"), "rebuild", "--from", NAME, "--json"]
    chance = random.Random(7)
    read, killed = 0, 0
    scratch = box.root / "state" / "namespace.rebuild-discs"
    for _ in range(8):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        aim = read + chance.randint(0, 5)
        while process.poll() is None and len(list(scratch.glob("*.json"))) < aim:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            killed += 1
        now = len(list(scratch.glob("*.json")))
        assert now >= read or not scratch.exists()
        read = now
    assert killed
    done = box.hsm("rebuild", "--from", NAME, check=False)
    if isinstance(done, dict):
        assert done["not_whole"] == 0
        assert done["read_before"] >= read
        assert done["loads"] <= 24 - read
    else:
        assert "found a store in use" in done.stderr
    assert not scratch.exists()
    assert box.hsm("fsck", check=False)["findings"] == []
    box.start()
    assert facts_of(box.mnt) == before
