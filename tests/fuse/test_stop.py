"""hsmd is told to stop while it burns: the discs are not wasted."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sandboxes import Sandbox, differing, write_files

TIMING = dict(move_s=0.1, load_s=0.1, seek_s=0.0, read_bytes_s=1e9, write_bytes_s=4e6)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Sandbox]:
    """Drives that burn for some seconds."""
    box = Sandbox(tmp_path / "box")
    try:
        box.start("--drives", "2", "--slots", "24", "--disc-bytes", "100000000")
        box.stop()
        library = box.root / "library" / "library.json"
        state = json.loads(library.read_text())
        state["timing"] = TIMING
        library.write_text(json.dumps(state))
        box.configure('speed = "instant"', 'speed = "realistic"')
        box.start()
        yield box
    finally:
        box.stop()


def burning(box: Sandbox) -> list[str]:
    return [one["barcode"] for one in box.discs() if one["state"] == "burning"]


def begin(box: Sandbox) -> dict[str, bytes]:
    made = write_files(box.mnt / "s", 12, 1_500_000)
    box.hsm("migrate", "-r", str(box.mnt))
    box.until(lambda: len(burning(box)) == 2)
    return made


def test_burns_under_way_are_finished_and_nothing_else_is_begun(slow: Sandbox) -> None:
    made = begin(slow)
    slow.kill("hsmd", signal.SIGTERM)
    slow.start()
    slow.until(lambda: {one["state"] for one in slow.files() if one["size"]} == {"premigrated"})
    states = [one["state"] for one in slow.discs() if one["state"] != "blank"]
    assert states == ["verified", "verified"]
    assert not differing(made)


def test_a_second_signal_cuts_them_and_other_discs_are_burned(slow: Sandbox) -> None:
    made = begin(slow)
    pid = slow.pid("hsmd")
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.3)
    slow.kill("hsmd", signal.SIGTERM)
    slow.start()
    slow.until(lambda: {one["state"] for one in slow.files() if one["size"]} == {"premigrated"})
    states = sorted(one["state"] for one in slow.discs() if one["state"] != "blank")
    assert states == ["suspect", "suspect", "verified", "verified"]
    assert not differing(made)
