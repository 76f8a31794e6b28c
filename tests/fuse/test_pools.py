"""What pools ask for their discs: off-site copies, reclaim, regular reading."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.sandboxes import Sandbox, differing, write_files

pytestmark = pytest.mark.fuse
DISC = "20000000"
MAGAZINE = 3


Box = TypeVar("Box", bound=Sandbox)


def started(root: Path, pool: str, config: str = "", slots: int = 9) -> Sandbox:
    """A sandbox with small magazines and more words in its pool."""
    return set_up(Sandbox(root), pool, config, slots)


def set_up(box: Box, pool: str, config: str, slots: int) -> Box:
    """The same of a sandbox of any kind."""
    root = box.root
    box.start("--drives", "2", "--slots", str(slots), "--disc-bytes", DISC, "--pool-copies", "2")
    box.stop()
    text = (root / "hsmfs.toml").read_text()
    lines = [
        f"magazine_slots = {MAGAZINE}" if line.startswith("magazine_slots") else line
        for line in text.splitlines()
    ]
    written = "\n".join(lines).replace("[policy]", "[policy]\ninterval_s = 0.3")
    (root / "hsmfs.toml").write_text(f"{written}\n{config}")
    library = root / "library" / "library.json"
    facts = json.loads(library.read_text())
    assert "magazine_slots" in facts
    library.write_text(json.dumps(facts | {"magazine_slots": MAGAZINE}))
    policy = root / "policy.hsm"
    policy.write_text(policy.read_text().replace("head 64KiB", f"head 64KiB; {pool}"))
    (root / "state" / "catalog").rename(root / "state" / "catalog of other magazines")
    box.start()
    return box


@pytest.fixture
def boxes() -> Iterator[list[Sandbox]]:
    made: list[Sandbox] = []
    yield made
    for box in made:
        box.stop()


def magazines(box: Sandbox) -> dict[str, dict[str, Any]]:
    return {m["name"]: m for m in box.hsm("magazine", "ls")["magazines"]}


def verified(box: Sandbox) -> dict[str, str]:
    """Magazine by barcode."""
    return {d["barcode"]: d["magazine"] for d in box.discs() if d["state"] == "verified"}


def tasks(box: Sandbox, kind: str) -> list[dict[str, Any]]:
    return [t for t in box.hsm("tasks")["tasks"] if t["kind"] == kind]


def alarms(box: Sandbox, kind: str) -> list[str]:
    return [a["text"] for a in box.hsm("status")["alarms"] if a["kind"] == kind]


# -- off-site -----------------------------------------------------------------------------


def test_a_copy_leaves_and_counts_and_comes_not_back_for_nothing(
    tmp_path: Path, boxes: list[Sandbox]
) -> None:
    box = started(tmp_path / "sb", "offsite 1", "[care]\noffsite_days = 0.0000001\n")
    boxes.append(box)
    made = write_files(box.mnt / "s", 4, 200_000)
    box.migrate_and_release()
    assert {name for name, m in magazines(box).items() if m["offsite"]} == {"M03"}
    places = verified(box)
    assert sorted(places.values()) == ["M01", "M03"]
    found = box.hsm("pool", "show", "main")
    assert (found["offsite"], found["copies_offsite"]) == (1, 1)
    assert (found["offsite_magazines"], found["volumes_without_offsite"]) == (["M03"], [])
    (task,) = box.until(lambda: tasks(box, "take-offsite"))
    assert "Take magazine M03 to the off-site place: its oldest volume" in task["text"]
    done = box.hsm("tasks", "done", str(task["id"]), check=False)
    assert (done.returncode, "still shows magazine M03" in done.stderr) == (1, True)
    assert box.hsm("magazine", "export", "M03")["state"] == "done"
    box.until(lambda: not tasks(box, "take-offsite"))
    assert magazines(box)["M03"]["state"] == "off-site"
    told = box.hsm("magazine", "place", "M03", "bank vault, shelf 3")
    assert (told["location"], told["offsite"]) == ("bank vault, shelf 3", True)
    (label,) = {disc["volume"] for disc in box.discs()} - {""}
    shown = box.hsm("volume", "show", label)
    away = next(code for code, magazine in places.items() if magazine == "M03")
    assert shown["places"][away] == "M03 bank vault, shelf 3"
    assert (shown["verified"], shown["offsite"]) == (2, 1)
    assert not differing(made)  # from the copy at hand, without a task
    assert tasks(box, "bring") == []
    assert verified(box) == places  # nothing was burned in place of what is away
    here = next(code for code, magazine in places.items() if magazine == "M01")
    box.hsm("disc", "quarantine", here)
    box.until(lambda: len(verified(box)) == 2)
    assert verified(box).keys() > {away}
    assert verified(box)[next(iter(verified(box).keys() - {away}))] in ("M01", "M02")
    done = box.hsm("magazine", "place", "M01", "x", check=False)
    assert (done.returncode, "is in library" in done.stderr) == (1, True)


def test_a_full_magazine_leaves_and_marks_are_checked(tmp_path: Path, boxes: list[Sandbox]) -> None:
    box = started(tmp_path / "sb", "offsite 1", "[care]\noffsite_days = 0\n")
    boxes.append(box)
    told = box.hsm("magazine", "offsite", "M02")
    assert (told["offsite"], told["state"]) == (True, "blank")
    for number in range(MAGAZINE):
        assert tasks(box, "take-offsite") == []
        write_files(box.mnt / f"v{number}", 2, 100_000, seed=number)
        box.migrate_and_release()
    assert sorted(verified(box).values()) == ["M01"] * MAGAZINE + ["M02"] * MAGAZINE
    (task,) = box.until(lambda: tasks(box, "take-offsite"))
    assert f"it is full ({MAGAZINE} volumes)" in task["text"]
    done = box.hsm("magazine", "offsite", "M01", check=False)
    assert (done.returncode, "no other copy at hand" in done.stderr) == (1, True)
    box.hsm("magazine", "onsite", "M02")
    box.until(lambda: not tasks(box, "take-offsite"))
    done = box.hsm("magazine", "offsite", "nosuch", check=False)
    assert (done.returncode, "is not known" in done.stderr) == (1, True)
    done = box.hsm("pool", "show", "nosuch", check=False)
    assert (done.returncode, "known: main" in done.stderr) == (1, True)


# -- reclaim --------------------------------------------------------------------------------


def test_a_mostly_dead_volume_is_reclaimed_by_itself(tmp_path: Path, boxes: list[Sandbox]) -> None:
    bound = "[care]\nreclaim_blanks_min = 100\n"
    box = started(tmp_path / "sb", "reclaim when dead > 50%", bound)
    boxes.append(box)
    made = write_files(box.mnt / "s", 6, 300_000)
    box.migrate_and_release()
    (label,) = {disc["volume"] for disc in box.discs()} - {""}
    box.until(lambda: box.hsm("volume", "show", label)["dead_bytes"] == 0)
    for path in list(made)[:5]:
        os.unlink(path)
        del made[path]
    (text,) = box.until(lambda: alarms(box, "reclaim"))
    assert f"volume {label} is" in text and "care.reclaim_blanks_min" in text
    assert box.hsm("volume", "show", label)["dead_bytes"] > 500_000
    assert box.hsm("volume", "show", label)["state"] == "complete"
    box.stop()
    box.configure("reclaim_blanks_min = 100", "reclaim_blanks_min = 2")
    box.start()
    box.until(lambda: box.hsm("volume", "show", label)["state"] == "retired")
    box.until(lambda: {file["state"] for file in box.files()} == {"migrated"})
    assert not differing(made)
    assert alarms(box, "reclaim") == []
    assert len(box.hsm("volume", "ls")["volumes"]) == 2
    box.stop()
    assert box.hsm("fsck", check=False)["findings"] == []


def test_changed_files_are_dead_once_their_new_version_is_on_discs(
    tmp_path: Path, boxes: list[Sandbox]
) -> None:
    box = started(tmp_path / "sb", "reclaim when dead > 60%", "[care]\nreclaim_blanks_min = 0\n")
    boxes.append(box)
    made = write_files(box.mnt / "s", 4, 200_000)
    box.migrate_and_release()
    (label,) = {disc["volume"] for disc in box.discs()} - {""}
    box.until(lambda: box.hsm("volume", "show", label)["dead_bytes"] == 0)
    for path in list(made)[:3]:
        made[path] = os.urandom(150_000)
        Path(path).write_bytes(made[path])
    box.hsm("migrate", "-r", "--wait", str(box.mnt))  # the reclaim may begin at once
    box.until(lambda: box.hsm("volume", "show", label)["state"] == "retired")
    assert not differing(made)


# -- regular reading ------------------------------------------------------------------------


def test_discs_are_read_again_as_their_pool_says(tmp_path: Path, boxes: list[Sandbox]) -> None:
    box = started(tmp_path / "sb", "scrub every 1s sample 50%")
    boxes.append(box)
    write_files(box.mnt / "s", 2, 100_000)
    box.migrate_and_release()
    time.sleep(1.0)
    for barcode in verified(box):

        def scrubbed(code: str = barcode) -> list[dict[str, Any]]:
            entries: list[dict[str, Any]] = box.hsm("disc", "show", code)["history"]
            return [entry for entry in entries if entry["what"] == "scrub"]

        entry = box.until(scrubbed)[0]
        assert (entry["text"], entry["errors"], entry["bytes"] > 0) == ("sample of 50 %", 0, True)
        assert entry["drive"] and entry["seconds"] > 0


# -- recovery data on each disc ----------------------------------------------------------------


def test_a_damaged_disc_without_others_is_made_whole_by_itself(
    tmp_path: Path, boxes: list[Sandbox]
) -> None:
    box = started(tmp_path / "sb", "recovery 10%")
    boxes.append(box)
    made = write_files(box.mnt / "s", 6, 800_000)
    box.migrate_and_release()
    first, second = sorted(verified(box))
    images = [box.root / "library" / "discs" / f"{code}.img" for code in (first, second)]
    before = images[0].read_bytes()
    assert images[1].read_bytes() == before
    at = before.index(next(iter(made.values()))[:2048])
    for image in images:  # the same place on both, so neither helps the other
        with image.open("r+b") as file:
            file.seek(at)
            file.write(bytes(100_000))
    into = tmp_path / "mended.img"
    told = box.hsm("volume", "mend", str(images[0]), "--into", str(into))
    assert (told["lost"], 2 <= told["repaired_blocks"] <= 3) == ([], True)
    assert into.read_bytes() == before
    done = box.hsm("volume", "mend", str(images[0]), "--into", str(into), check=False)
    assert (done.returncode, "is there already" in done.stderr) == (1, True)
    for code in (first, second):
        assert box.hsm("disc", "verify", code, check=False)["state"] == "failed"
    fresh = box.until(lambda: len(verified(box)) == 2 and verified(box))
    for code in fresh:
        assert code not in (first, second)
        assert (box.root / "library" / "discs" / f"{code}.img").read_bytes() == before
    assert not differing(made)
