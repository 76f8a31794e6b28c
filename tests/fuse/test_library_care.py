"""Audit, plans of export and forecasts on a whole system."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sandboxes import BIN, Sandbox, differing, write_files

from hsmfs.changer.emulated import open_library

pytestmark = pytest.mark.fuse


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path / "sb")
    sandbox.start("--drives", "2", "--slots", "24", "--disc-bytes", "20000000")
    try:
        yield sandbox
    finally:
        sandbox.stop()


def audit(box: Sandbox, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and findings."""
    done = subprocess.run(
        [str(BIN / "hsm"), "--config", str(box.root / "hsmfs.toml"), "library", "audit", "--json",
         *options],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)["findings"]


def test_wrong_discs_are_told_and_nothing_is_lost(box: Sandbox, tmp_path: Path) -> None:
    made = write_files(box.mnt / "study", 6, 300_000)
    box.migrate_and_release()
    assert audit(box, "--discs") == (0, [])
    blanks = box.hsm("status")["blanks"]
    assert blanks["library"] == 22 and blanks["per_day"] and blanks["days_left"] > 14
    assert box.hsm("magazine", "ls")["blanks"]["library"] == 22
    plan = box.hsm("magazine", "plan-export", "--count", "2")
    (chosen,) = plan["take"]
    assert chosen["name"] in ("M01", "M02") and len(chosen["kept_in"]) == 1
    box.hsm("sandbox", "stop", str(box.root))
    copies = sorted(disc for disc in (box.root / "library" / "discs").glob("*.img"))
    assert len(copies) == 2
    library = open_library(box.root / "library")
    library.hands.replace_disc(copies[0].stem)  # a blank one under its label
    library.hands.load_foreign("HSM00005", copies[1])  # a copy where a blank is expected
    box.start()
    code, found = audit(box, "--discs")
    assert code == 3
    assert {(one["kind"], one["disc"]) for one in found} == {
        ("blank", copies[0].stem),
        ("not-blank", "HSM00005"),
    }
    code, found = audit(box, "--discs", "--repair")
    assert code == 0 and all(one["repaired"] for one in found)
    assert not differing(made)
    box.until(lambda: _states(box)["HSM00005"] == "verified")
    assert _states(box)[copies[0].stem] == "foreign"
    assert audit(box, "--discs") == (0, [])


def _states(box: Sandbox) -> dict[str, str]:
    return {disc["barcode"]: disc["state"] for disc in box.discs()}


def test_labels_of_what_is_there(box: Sandbox, tmp_path: Path) -> None:
    out = tmp_path / "labels.svg"
    made = box.hsm("magazine", "labels", "M01", "M02", "--out", str(out))
    assert made["labels"] == 26 and len(made["files"]) == 2
    text = "".join(Path(file).read_text() for file in made["files"])
    assert all(f">{code}<" in text for code in ("M01", "M02", "HSM00001", "HSM00024"))
    shown = box.hsm("magazine", "show", "M02")
    assert (shown["state"], len(shown["contents"]), len(shown["history"])) == ("blank", 12, 1)


def test_a_library_is_qualified_before_and_between_its_work(box: Sandbox) -> None:
    made = write_files(box.mnt / "study", 3, 200_000)
    box.migrate_and_release()
    burned = next(disc["barcode"] for disc in box.discs() if disc["state"] == "verified")
    words = ("library", "qualify", "--drive", "drive1", "--scratch")
    running = box.hsm(*words, "HSM00020", check=False)
    assert running.returncode == 1 and "hsmd runs already" in running.stderr
    box.hsm("sandbox", "stop", str(box.root))
    refused = box.hsm(*words, burned, check=False)
    assert f"disc {burned} is verified in the catalog, volume" in refused.stderr
    report = box.hsm(*words, "HSM00020", "--bytes", "4000000")
    assert report["passed"] and {step["result"] for step in report["steps"]} == {"pass"}
    again = box.hsm(*words, "HSM00020", check=False)
    assert "disc HSM00020 is foreign in the catalog" in again.stderr
    unknown = box.hsm("library", "qualify", "--drive", "x", "--scratch", "HSM00021", check=False)
    assert "expected one of drive0, drive1" in unknown.stderr
    box.start()
    assert _states(box)["HSM00020"] == "foreign"
    assert not differing(made)
