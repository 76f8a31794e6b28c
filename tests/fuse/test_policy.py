"""Rules on a whole system: what a dry run says is what a run does, and nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sandboxes import Sandbox, differing, write_files

from hsmfs.daemon.catalog import put_number
from hsmfs.daemon.policyrun import CLOCK_KEY
from hsmfs.store.lmdbstore import LmdbStore

pytestmark = pytest.mark.fuse
POOL = 'pool "main" { copies 2 spread magazine; burn when oldest > 0s }\n'
RULES = """
migrate "large" to "main" when size > 150kB and not path ~ "/keep/**"
migrate "pictures" to "main" when mime ~ "image/*" and xattr "user.kind" = "scan"
migrate "later" to "main" when name ~ "*9" between {start} and {stop}
"""
RELEASE = """
pin "kept" when path ~ "/b/f000[0-3]"
release "room" from tier "cache" when tier.used > 20% until tier.used < 10% order by size desc
"""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path / "sb")
    made.start("--drives", "2", "--slots", "6", "--disc-bytes", "20000000", "--pool-copies", "2")
    yield made
    made.stop()
    shutil.rmtree(made.root / "library", ignore_errors=True)


def digest(box: Sandbox) -> dict[str, str]:
    """All files of both stores and of the cache, but for the table of who reads."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("state", "cache", "library")
        for path in sorted((box.root / folder).rglob("*"))
        if path.is_file() and path.name != "lock.mdb"
    }


def states(box: Sandbox) -> dict[str, str]:
    mount = str(box.mnt)
    return {item["path"].removeprefix(mount): item["state"] for item in box.files()}


def planned(box: Sandbox) -> dict[str, dict[str, Any]]:
    """The same twice, and nothing was written."""
    before = digest(box)
    first, second = (box.hsm("policy", "dry-run", "--files", "--disc-price", "4") for _ in "12")
    assert first == second
    assert digest(box) == before
    return {rule["name"]: rule for rule in first["rules"]}


def test_a_run_does_what_the_dry_run_said(box: Sandbox) -> None:
    policy = box.root / "policy.hsm"
    # One minute that is not now: that of twelve hours later.
    now = time.localtime()
    start = (now.tm_hour * 60 + now.tm_min + 720) % 1440
    window = [f"{at // 60:02d}:{at % 60:02d}" for at in (start, (start + 1) % 1440)]
    policy.write_text(POOL + RULES.format(start=window[0], stop=window[1]))
    write_files(box.mnt / "a", 12, 300_000, seed=1)
    write_files(box.mnt / "b", 12, 300_000, seed=2)
    write_files(box.mnt / "keep", 4, 300_000, seed=3)
    for name, kind in (("x.png", b"scan"), ("y.png", b"photo"), ("z.txt", b"scan")):
        (box.mnt / name).write_bytes(b"small")
        os.setxattr(box.mnt / name, "user.kind", kind)
    box.stop()
    box.start()
    rules = planned(box)
    assert rules["pictures"]["paths"] == ["/x.png"]
    assert rules["later"]["waits"] == f"works from {window[0]}"
    said = {path for name in ("large", "pictures") for path in rules[name]["paths"]}
    told = box.hsm("policy", "explain", str(box.mnt / "x.png"))
    assert [rule["name"] for rule in told["rules"] if rule["decides"]] == ["pictures"]
    assert box.hsm("policy", "run", "--wait")["state"] == "done"
    assert {path for path, state in states(box).items() if state != "resident"} == said

    box.stop()
    policy.write_text(POOL + RELEASE)
    box.configure("reserve_bytes", "capacity_bytes = 20000000\nreserve_bytes")
    room = planned(box)["room"]
    assert room["waits"] == "" and 0 < room["files"] < len(said)
    assert not {f"/b/f000{n}" for n in range(4)} & set(room["paths"])
    box.start()
    box.until(lambda: migrated(box) == set(room["paths"]))


def migrated(box: Sandbox) -> set[str]:
    return {path for path, state in states(box).items() if state == "migrated"}


def test_a_jump_of_the_clock_migrates_nothing(box: Sandbox) -> None:
    policy = box.root / "policy.hsm"
    policy.write_text(POOL + 'migrate "all" to "main" when age > 30d\n')
    files = write_files(box.mnt / "a", 3, 50_000)
    old = time.time() - 60 * 86_400
    for path in files:
        os.utime(path, (old, old))
    box.stop()
    store = LmdbStore(box.root / "state" / "catalog")
    years_ago = time.time_ns() - 5 * 365 * 86_400 * 10**9
    store.transact(put_number(CLOCK_KEY, years_ago))
    store.close()
    box.start()
    for _ in range(2):
        assert box.hsm("policy", "run", "--wait", check=False)["errors"] == [
            "nothing was migrated: the clock jumped, see hsm status"
        ]
    (alarm,) = [a["text"] for a in box.hsm("status")["alarms"] if a["kind"] == "clock"]
    assert alarm.startswith("the clock went forward from ")
    assert set(states(box).values()) == {"resident"}
    assert box.hsm("policy", "accept-clock") == {"accepted": True}
    assert [a for a in box.hsm("status")["alarms"] if a["kind"] == "clock"] == []
    assert box.hsm("policy", "run", "--wait")["state"] == "done"
    assert set(states(box).values()) == {"premigrated"}


def test_more_than_the_stock_of_blanks_is_told(box: Sandbox) -> None:
    (box.root / "policy.hsm").write_text(POOL + 'migrate "all" to "main" when always\n')
    write_files(box.mnt / "a", 2, 50_000)
    box.hsm("migrate", "-r", "--wait", str(box.mnt))
    for number in range(4):
        with (box.mnt / f"large{number}").open("wb") as file:
            file.truncate(19_000_000)
    os.sync()
    checked = box.hsm("policy", "check")
    assert checked["warnings"] == [
        "8 discs would be burned, but only 4 are blank: bring more, or migrate less"
    ]


def test_a_study_comes_back_with_its_first_file(box: Sandbox) -> None:
    ahead = 'recall-ahead "studies" up to 20MB when path ~ "/a/*"\n'
    (box.root / "policy.hsm").write_text(POOL + ahead)
    box.stop()
    box.start()
    files = write_files(box.mnt / "a", 30, 200_000, seed=1)
    write_files(box.mnt / "b", 3, 200_000, seed=2)
    box.migrate_and_release()
    moves = box.hsm("library", "ls")["libraries"][0]["moves"]
    first = next(iter(files))
    assert Path(first).read_bytes() == files[first]
    box.until(lambda: {s for p, s in states(box).items() if p[:3] == "/a/"} == {"premigrated"})
    assert {s for p, s in states(box).items() if p[:3] == "/b/"} == {"migrated"}
    assert box.hsm("library", "ls")["libraries"][0]["moves"] <= moves + 2
    assert not differing(files)
    box.stop()
    found = box.hsm("policy", "whatif", str(box.root / "policy.hsm"))
    assert found["happened"]["recalls"] == 1
    assert found["happened"]["opens"] >= len(files)
    assert found["in_force"] == found["tried"]
