"""Robots that read no barcodes, and barcodes that are there twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sandboxes import Sandbox, differing, write_files

pytestmark = pytest.mark.fuse


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    box = Sandbox(tmp_path / "sb")
    box.start("--drives", "2", "--slots", "4", "--disc-bytes", "20000000")
    box.stop()
    try:
        yield box
    finally:
        box.stop()


def change(sandbox: Sandbox, **fields: Any) -> dict[str, Any]:
    """Rewrite the stopped library's state; what it was."""
    file = sandbox.root / "library" / "library.json"
    before: dict[str, Any] = json.loads(file.read_text())
    file.write_text(json.dumps(before | fields))
    return before


def forget_discs(sandbox: Sandbox) -> None:
    """As if the library had been bought without a barcode reader."""
    for path in (sandbox.root / "state" / "catalog").iterdir():
        path.unlink()


def test_discs_without_barcodes_are_known_by_what_is_on_them(sandbox: Sandbox) -> None:
    """Numbers are given to blanks, burned behind volumes, and found again when somebody moved
    the discs while nothing ran."""
    change(sandbox, tags=False)
    forget_discs(sandbox)
    sandbox.start()
    sandbox.until(lambda: len(sandbox.discs()) == 4)
    assert {disc["state"] for disc in sandbox.discs()} == {"blank"}
    made = write_files(sandbox.mnt / "a", 4, 300_000)
    sandbox.migrate_and_release()
    burned = {d["barcode"]: d["magazine"] for d in sandbox.discs() if d["state"] == "verified"}
    assert len(burned) == 2 and len(set(burned.values())) == 2
    assert not differing(made)
    sandbox.stop()
    state = change(sandbox)
    slots = list(state["slots"])
    for number, disc in enumerate(state["drive_discs"]):
        if disc:
            slots[slots.index("")] = disc
            state["drive_discs"][number] = ""
    change(sandbox, slots=slots[::-1], drive_discs=state["drive_discs"], sources={})
    sandbox.start()
    sandbox.hsm("release", "-r", "--wait", str(sandbox.mnt))
    assert not differing(made)
    sandbox.until(lambda: {d["barcode"] for d in sandbox.discs() if d["slot"]} >= burned.keys())
    assert all(disc["state"] != "damaged" for disc in sandbox.discs())


def test_a_double_barcode_is_told_and_neither_disc_is_used(sandbox: Sandbox) -> None:
    state = change(sandbox)
    slots = [*state["slots"][:3], state["slots"][0]]
    change(sandbox, slots=slots)
    sandbox.start()
    (alarm,) = sandbox.until(
        lambda: [a for a in sandbox.hsm("status")["alarms"] if a["kind"] == "double-barcode"]
    )
    assert "barcode HSM00001 is read in elements 1024, 1027" in alarm["text"]
    write_files(sandbox.mnt / "a", 2, 300_000)
    sandbox.hsm("migrate", "-r", "--wait", str(sandbox.mnt))
    used = {disc["barcode"] for disc in sandbox.discs() if disc["state"] == "verified"}
    assert used == {"HSM00002", "HSM00003"}
    sandbox.stop()
    change(sandbox, slots=[*change(sandbox)["slots"][:3], state["slots"][3]])
    sandbox.start()
    sandbox.until(
        lambda: not [a for a in sandbox.hsm("status")["alarms"] if a["kind"] == "double-barcode"]
    )
