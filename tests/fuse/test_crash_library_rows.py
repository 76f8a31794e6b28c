"""hsmd killed while magazines move, discs are audited and qualified, and people load drives.

One test a row of docs/crash-safety.md, named after it, as in ``test_crash_rows``.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.crashing import Crashing, running, state_of
from support.person import Person
from support.sandboxes import BIN, Sandbox, differing, write_files

from hsmfs.changer.emulated import open_library

pytestmark = pytest.mark.fuse
WRITE_12 = 0xAA


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Crashing]:
    with running(tmp_path / "sb", "--slots", "24") as made:
        yield made


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Crashing]:
    """Without a robot."""
    made = Crashing(tmp_path / "sb")
    made.start("--library", "manual", "--disc-bytes", "20000000")
    try:
        yield made
    finally:
        made.stop()


def magazine(box: Crashing, name: str) -> dict[str, Any]:
    (found,) = [m for m in box.hsm("magazine", "ls")["magazines"] if m["name"] == name]
    return dict(found)


def exporting(box: Crashing, name: str) -> Callable[[], object]:
    return lambda: Sandbox.hsm(box, "magazine", "export", name, check=False)


def test_magazine_came_or_left_state_not_yet_stored(box: Crashing) -> None:
    box.killed(exporting(box, "M02"), "catalog", "before", table="G", name="M02", state="shelf")
    assert box.catalog().magazines["M02"].is_seen
    box.start()
    box.until(lambda: magazine(box, "M02")["state"] == "shelf")
    again = lambda: Sandbox.hsm(box, "magazine", "import", "M02", check=False)  # noqa: E731
    box.killed(again, "catalog", "before", table="G", name="M02", state="blank")
    assert not box.catalog().magazines["M02"].is_seen
    box.start()
    box.until(lambda: magazine(box, "M02")["state"] == "blank")


def test_export_or_import_under_way(box: Crashing) -> None:
    box.killed(exporting(box, "M02"), "catalog", "after", table="G", name="M02", exporting=True)
    assert box.catalog().magazines["M02"].exporting
    box.start()
    assert magazine(box, "M02")["exporting"]
    box.hsm("magazine", "export", "M02", "--wait")
    assert magazine(box, "M02")["state"] == "shelf"
    box.killed(
        lambda: Sandbox.hsm(box, "magazine", "import", "M02", check=False),
        "catalog",
        "after",
        table="T",
    )
    box.start()
    box.until(lambda: magazine(box, "M02")["state"] == "blank" or _imports(box))
    box.until(lambda: box.hsm("tasks")["tasks"] == [])


def _imports(box: Crashing) -> bool:
    box.hsm("magazine", "import", "M02", check=False)
    return False


@pytest.mark.parametrize("when", ["before", "after"])
def test_audit_with_repair(box: Crashing, when: str) -> None:
    disc, junk = "HSM00005", box.root / "junk"
    junk.write_bytes(bytes(range(256)) * 512)
    box.stop()
    open_library(box.root / "library").hands.load_foreign(disc, junk)
    box.start()
    asking = lambda: Sandbox.hsm(box, "library", "audit", "--discs", "--repair", check=False)  # noqa: E731
    box.killed(asking, "catalog", when, table="K", barcode=disc, state="foreign")
    assert box.catalog().discs[disc].state == ("blank" if when == "before" else "foreign")
    box.start()
    box.hsm("library", "audit", "--discs", "--repair", check=False)
    assert box.state_of(disc) == "foreign"
    assert box.image(disc).read_bytes() == junk.read_bytes()


def test_hsm_library_qualify_cut_while_it_burns(box: Crashing) -> None:
    made = box.fresh()
    box.stop()
    box.crash.arm("scsi", "after", op=WRITE_12, nth=2)
    command = [str(BIN / "hsm"), "--config", str(box.root / "hsmfs.toml"), "library", "qualify"]
    cut = subprocess.run(
        [*command, "--drive", "drive0", "--scratch", "HSM00001", "--bytes", "8000000"],
        env={**os.environ, **box.crash.environment},
        capture_output=True,
        check=False,
    )
    box.crash.disarm()
    assert cut.returncode == -9 and box.image("HSM00001").stat().st_size
    box.start()
    box.migrating(made)()
    box.until_premigrated(made)
    assert box.state_of("HSM00001") == "foreign"
    assert box.image("HSM00001").read_bytes() != b""


def numbered(desk: Crashing) -> dict[str, str]:
    return {disc["barcode"]: disc["state"] for disc in desk.discs() if disc["state"] != "blank"}


def test_burn_in_a_library_without_a_robot_at_any_step_before_it_is_recorded(
    desk: Crashing,
) -> None:
    made = write_files(desk.mnt / "a", 3, 3_000_000)
    person = Person(desk)

    def begin() -> None:
        Sandbox.hsm(desk, "migrate", "-r", str(desk.mnt), check=False)
        (task,) = desk.until(person.tasks)
        desk.until(lambda: person.do(task))

    desk.killed(begin, "scsi", "after", op=WRITE_12, nth=3)
    desk.start()
    desk.until(lambda: (t := person.tasks()) and "not finished" in t[0]["take"])
    desk.until(lambda: person.hands.look().trays[0].is_open)
    person.hands.take("drive0", "BAD", "A")
    with person:
        desk.until(lambda: {state_of(path) for path in made} == {"premigrated"})
        desk.until(lambda: not person.tasks())
    assert sorted(numbered(desk).values()) == ["suspect", "verified", "verified"]
    assert not differing(made)


def test_a_disc_is_asked_for_or_taken_out_without_a_robot(desk: Crashing) -> None:
    made = write_files(desk.mnt / "a", 3, 300_000)
    person = Person(desk)
    asking = lambda: Sandbox.hsm(desk, "migrate", "-r", str(desk.mnt), check=False)  # noqa: E731
    desk.killed(asking, "catalog", "after", table="T")
    (asked,) = desk.catalog().tasks.values()
    desk.start()
    (task,) = desk.until(person.tasks)
    assert task["id"] == asked.id and task["put"] == "blank"
    person.do(task)
    desk.until(lambda: (t := person.tasks()) and t[0]["take"])
    (taking,) = person.tasks()
    desk.kill("hsmd")
    desk.start()
    (again,) = desk.until(person.tasks)
    assert (again["id"], again["take"]) == (taking["id"], taking["take"])
    with person:
        desk.until(lambda: {state_of(path) for path in made} == {"premigrated"})
        desk.until(lambda: not person.tasks())
    assert sorted(numbered(desk).values()) == ["verified", "verified"]
    assert not differing(made)
