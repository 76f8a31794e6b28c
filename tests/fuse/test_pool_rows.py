"""hsmd killed at the rows of docs/crash-safety.md that are about what pools ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuse.test_crash_rows import Crashing, volume_of
from fuse.test_pools import set_up, tasks

from hsmfs.volume.recovery import Mended, mend_image

pytestmark = pytest.mark.fuse
CONFIG = "[care]\noffsite_days = 0.0000001\nreclaim_blanks_min = 0\n"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashing]:
    crashing = Crashing(tmp_path_factory.mktemp("pools") / "sb")
    try:
        set_up(crashing, "offsite 1; recovery 10%", CONFIG, slots=24)
        yield crashing
    finally:
        crashing.stop()


def test_off_site_magazine_marked_task_not_yet_opened(box: Crashing) -> None:
    made = box.fresh()
    box.killed(box.migrating(made), "catalog", "after", table="G", offsite=True)
    left = box.catalog()
    assert [m.name for m in left.magazines.values() if m.offsite] != []
    assert not [task for task in left.tasks.values() if task.kind == "take-offsite"]
    box.start()
    box.until_premigrated(made)
    box.until(lambda: tasks(box, "take-offsite"))


def test_recovery_data_being_made(box: Crashing) -> None:
    made = box.fresh()
    box.killed(box.migrating(made), "hsmfs.volume.recovery:Accumulator.finish", "before")
    left = box.catalog()
    (label,) = [v.label for v in left.volumes.values() if v.state == "planned"]
    assert (box.state / "catalog" / "plans" / f"{label}.own" / "recovery.bin").exists()
    box.start()
    assert box.until_premigrated(made) == label
    code = next(code for code, state in box.discs_of(label).items() if state == "verified")
    copy = box.root / "copy.img"
    copy.write_bytes(box.image(code).read_bytes())
    mended = mend_image(copy)
    assert isinstance(mended, Mended) and (mended.repaired, mended.lost) == ([], [])


def test_dead_bytes_being_counted(box: Crashing) -> None:
    made = box.fresh()
    box.hsm("migrate", "-r", "--wait", str(Path(next(iter(made))).parent))
    label = volume_of(next(iter(made)))
    box.until(lambda: box.hsm("volume", "show", label)["dead_bytes"] == 0)
    gone = next(iter(made))
    box.killed(lambda: os.unlink(gone), "hsmfs.daemon.deadshare:DeadShares._count", "before")
    assert box.catalog().volumes[label].dead_ns == 0
    box.start()
    box.until(lambda: box.hsm("volume", "show", label)["dead_bytes"] == len(made[gone]))
