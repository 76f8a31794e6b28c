"""A library without a robot: a person with one burner does the whole job by the tasks alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.person import Person
from support.sandboxes import Sandbox, differing, write_files

pytestmark = pytest.mark.fuse


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    box = Sandbox(tmp_path / "sb")
    box.start("--library", "manual", "--disc-bytes", "20000000")
    try:
        yield box
    finally:
        box.stop()


def test_a_person_does_the_whole_job_by_the_tasks_alone(sandbox: Sandbox) -> None:
    """Two copies in two boxes, released, read back; wrong discs are put in on the way."""
    made = write_files(sandbox.mnt / "study", 12, 400_000)
    foreign = sandbox.root / "foreign.img"
    foreign.write_bytes(b"\x17" * 2048 * 64)
    for words in (
        ("buy", "holiday", "--image", str(foreign)),
        ("buy", "half", "--image", str(foreign), "--unfinished"),
        ("buy", "tiny", "--disc-bytes", "1000000"),
    ):
        assert sandbox.hsm_plain("emulator", *words).returncode == 0
    with Person(sandbox) as person:
        person.mistakes = ["holiday", "half", "tiny"]
        sandbox.migrate_and_release()
        assert {file["state"] for file in sandbox.files()} == {"migrated"}
        verified = [disc for disc in sandbox.discs() if disc["state"] == "verified"]
        assert sorted(disc["magazine"] for disc in verified) == ["A", "B"]
        sandbox.until(lambda: not sandbox.hsm("tasks")["tasks"])
        person.mistakes = [person.find(lambda d: not d["written"]), "holiday"]
        assert not differing(made)
    said = [task["found"] for task in person.done if task["found"]]
    for words in ("did not write", "not finished", "a blank disc of 1.0 MB", "a blank disc of 2"):
        assert any(words in found for found in said), (words, said)
    assert len(list((sandbox.root / "library" / "discs").glob("*.img"))) == 4
    assert (sandbox.root / "library" / "discs" / "holiday.img").read_bytes() == b"\x17" * 2048 * 64
    written = {d["written"]: d["box"] for d in person.shelf()["discs"] if d["written"]}
    assert written == {disc["barcode"]: disc["magazine"] for disc in verified}
