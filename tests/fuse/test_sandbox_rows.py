"""A sandbox's programs killed: one test a row of docs/crash-safety.md."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sandboxes import Sandbox, differing, write_files

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, dict[str, bytes]]]:
    box = Sandbox(tmp_path_factory.mktemp("rows") / "sb")
    box.start("--drives", "1", "--slots", "4", "--disc-bytes", "20000000", "--pool-copies", "1")
    try:
        made = write_files(box.mnt / "d", 3, 200_000)
        box.migrate_and_release()
        yield box, made
    finally:
        box.stop()
    assert box.hsm("fsck", check=False)["findings"] == []


def test_hsmfs_killed(shared: tuple[Sandbox, dict[str, bytes]]) -> None:
    box, made = shared
    hsmd = box.pid("hsmd")
    box.kill("hsmfs")
    with pytest.raises(OSError):
        os.listdir(box.mnt)
    box.start()
    assert box.pid("hsmd") == hsmd, "what runs is left alone"
    assert not differing(made)


def test_hsmd_killed(shared: tuple[Sandbox, dict[str, bytes]]) -> None:
    box, made = shared
    box.hsm("release", "-r", "--wait", str(box.mnt))
    hsmfs = box.pid("hsmfs")
    box.kill("hsmd")
    fresh = box.mnt / "fresh"
    fresh.write_bytes(b"the mount goes on")
    found: dict[str, bytes] = {}
    first = next(iter(made))
    reader = threading.Thread(
        target=lambda: found.update({first: Path(first).read_bytes()}), daemon=True
    )
    reader.start()
    box.until(lambda: os.getxattr(first, "user.hsm.state") == b"recalling")
    assert not found
    box.start()
    reader.join(90)
    assert found == {first: made[first]}
    assert box.pid("hsmfs") == hsmfs
    assert fresh.read_bytes() == b"the mount goes on"
    fresh.unlink()


def test_machine_restarted(shared: tuple[Sandbox, dict[str, bytes]]) -> None:
    """The pid files are those of the programs before; by now others have their numbers."""
    box, made = shared
    box.stop()
    stale = os.getpid()
    for program in ("hsmfs", "hsmd"):
        (box.root / "run" / f"{program}.pid").write_text(f"{stale}\n")
    box.start()
    assert stale not in (box.pid("hsmfs"), box.pid("hsmd"))
    assert not differing(made)
