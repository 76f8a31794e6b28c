"""Discs are looked after: proofs, fresh copies, renewal, history."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sandboxes import Sandbox, differing, write_files

pytestmark = pytest.mark.fuse
DISC = "20000000"


@pytest.fixture(params=["2", "1"], ids=["two drives", "one drive"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path / "sb")
    sandbox.start("--drives", request.param, "--slots", "12", "--disc-bytes", DISC)
    try:
        yield sandbox
    finally:
        sandbox.stop()


def of_state(box: Sandbox, state: str) -> list[str]:
    return sorted(disc["barcode"] for disc in box.discs() if disc["state"] == state)


def image(box: Sandbox, barcode: str) -> Path:
    return box.root / "library" / "discs" / f"{barcode}.img"


def spoil(box: Sandbox, barcode: str, data: bytes) -> None:
    """Other bytes where a file lies; the drive reads them without complaint."""
    path = image(box, barcode)
    whole = path.read_bytes()
    at = whole.index(data[:2048])
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(byte ^ 0xFF for byte in data[:100]))


def history(box: Sandbox, barcode: str) -> list[tuple[str, int]]:
    entries: list[dict[str, Any]] = box.hsm("disc", "show", barcode)["history"]
    return [(entry["what"], entry["errors"]) for entry in entries]


def test_verify_finds_damage_and_a_fresh_disc_replaces_it(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 6, 300_000)
    box.migrate_and_release()
    (label,) = {disc["volume"] for disc in box.discs()} - {""}
    first, second = of_state(box, "verified")
    assert box.hsm("volume", "verify", label)["state"] == "done"
    assert box.hsm("disc", "verify", first, "--sample", "10")["state"] == "done"
    assert history(box, first) == [("burn", 0), ("verify", 0), ("verify", 0), ("verify", 0)]
    path, data = next(iter(made.items()))
    spoil(box, first, data)
    done = box.hsm("disc", "verify", first, check=False)
    assert done["state"] == "failed"
    assert f"1 files are damaged: s/{os.path.basename(path)}" in done["errors"][0]
    box.until(lambda: len(of_state(box, "verified")) == 2)
    assert of_state(box, "damaged") == [first]
    (fresh,) = set(of_state(box, "verified")) - {second}
    assert history(box, fresh) == [("copy", 0), ("verify", 0)]
    assert ("source", 0) in history(box, second)
    assert image(box, fresh).read_bytes() == image(box, second).read_bytes()
    places = {disc["barcode"]: disc["magazine"] for disc in box.discs()}
    assert places[fresh] != places[second]
    assert not differing(made)
    assert box.hsm("volume", "repair", label)["state"] == "done"  # there is nothing to do


def test_each_copy_damaged_elsewhere_makes_a_whole_one(box: Sandbox) -> None:
    write_files(box.mnt / "s", 6, 300_000)
    box.migrate_and_release()
    (label,) = {disc["volume"] for disc in box.discs()} - {""}
    first, second = of_state(box, "verified")
    before = image(box, first).read_bytes()
    box.faults(
        {"device": first, "op": "read", "sense": [3, 17, 0], "lba_from": 500, "lba_to": 540},
        {"device": second, "op": "read", "sense": [3, 17, 0], "lba_from": 700, "lba_to": 710},
    )
    for barcode in (first, second):
        assert box.hsm("disc", "verify", barcode, check=False)["state"] == "failed"
    box.until(lambda: len(of_state(box, "verified")) == 2)
    for barcode in of_state(box, "verified"):
        assert barcode not in (first, second)
        assert image(box, barcode).read_bytes() == before
    assert box.hsm("volume", "repair", label)["state"] == "done"


def test_refresh_moves_a_volume_to_new_discs(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 4, 300_000)
    box.migrate_and_release()
    (label,) = {disc["volume"] for disc in box.discs()} - {""}
    old = of_state(box, "verified")
    assert box.hsm("volume", "refresh", label)["state"] == "done"
    assert of_state(box, "retired") == old
    assert len(of_state(box, "verified")) == 2
    for barcode in old:
        assert history(box, barcode)[-1] == ("retire", 0)
        image(box, barcode).write_bytes(b"")
    assert not differing(made)


def test_quarantine_and_back(box: Sandbox) -> None:
    write_files(box.mnt / "s", 2, 100_000)
    box.migrate_and_release()
    first = of_state(box, "verified")[0]
    box.hsm("disc", "quarantine", first, "--why", "scratched")
    box.until(lambda: len(of_state(box, "verified")) == 2)
    assert first in of_state(box, "damaged")
    assert "scratched" in box.hsm("disc", "show", first)["history"][-1]["text"]
    assert box.hsm("disc", "verify", first)["state"] == "done"
    assert len(of_state(box, "verified")) == 3
    done = box.hsm("disc", "quarantine", "nosuch", check=False)
    assert (done.returncode, "disc 'nosuch' is not known" in done.stderr) == (1, True)


def test_all_is_read_again_by_and_by(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 2, 100_000)
    box.migrate_and_release()
    discs = of_state(box, "verified")
    box.stop()
    with (box.root / "hsmfs.toml").open("a") as file:
        file.write("\n[care]\nscrub_years = 0.0000000001\nscrub_percent = 50.0\n")
    box.start()
    for barcode in discs:
        box.until(lambda code=barcode: ("scrub", 0) in history(box, code))
    assert not differing(made)


def test_a_kill_at_any_time_and_the_copy_is_made(box: Sandbox) -> None:
    write_files(box.mnt / "s", 6, 2_000_000)
    box.migrate_and_release()
    (label,) = {disc["volume"] for disc in box.discs()} - {""}
    first, second = of_state(box, "verified")
    before = image(box, second).read_bytes()
    box.hsm("disc", "quarantine", first)
    for _ in range(4):
        box.kill("hsmd")
        box.start()
    box.until(lambda: len(of_state(box, "verified")) == 2)
    (fresh,) = set(of_state(box, "verified")) - {second}
    assert image(box, fresh).read_bytes() == before
    box.stop()
    assert box.hsm("fsck", check=False)["findings"] == []
    shutil.rmtree(box.root / "state" / "catalog" / "stage", ignore_errors=True)
    box.start()
    assert box.hsm("volume", "verify", label, check=False)["files_done"] >= 2


def test_reclaim_takes_what_lives_off_a_volume(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 6, 300_000)
    box.migrate_and_release()
    (label,) = {disc["volume"] for disc in box.discs()} - {""}
    old = of_state(box, "verified")
    for path in list(made)[:4]:
        os.unlink(path)
        del made[path]
    assert box.hsm("volume", "reclaim", label)["state"] == "done"
    assert of_state(box, "retired") == old
    states = {v["label"]: v["state"] for v in box.hsm("volume", "ls")["volumes"]}
    assert states.pop(label) == "retired"
    assert set(states.values()) == {"complete"}
    assert {file["state"] for file in box.files()} == {"migrated"}
    for barcode in old:
        image(box, barcode).write_bytes(b"")
    assert not differing(made)
    done = box.hsm("volume", "reclaim", label, check=False)
    assert (done.returncode, "found state retired" in done.stderr) == (1, True)
    box.stop()
    assert box.hsm("fsck", check=False)["findings"] == []
