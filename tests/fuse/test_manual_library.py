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


JUNK = b"\x17" * 2048 * 64


def test_a_person_does_the_whole_job_by_the_tasks_alone(sandbox: Sandbox) -> None:
    """Two copies in two boxes, released, read back; wrong discs are put in on the way."""
    made = write_files(sandbox.mnt / "study", 12, 400_000)
    image = sandbox.root / "image"
    image.write_bytes(JUNK)
    with Person(sandbox) as person:
        person.hands.buy(200_000, "tiny")
        person.hands.buy(20_000_000, "holiday", image)
        person.hands.buy(20_000_000, "unfinished", image, closed=False)
        person.mistakes = ["holiday", "unfinished", "tiny"]
        sandbox.migrate_and_release()
        assert {file["state"] for file in sandbox.files()} == {"migrated"}
        verified = [disc for disc in sandbox.discs() if disc["state"] == "verified"]
        assert sorted(disc["magazine"] for disc in verified) == ["A", "B"]
        sandbox.until(lambda: not person.tasks())
        person.mistakes = ["disc005", "holiday"]
        assert not differing(made)
        said = [task["found"] for task in person.done if task["found"]]
        for words in ("did not write", "not finished", "blank disc of 0.2", "blank disc of 20"):
            assert any(words in found for found in said), (words, said)
        (reading,) = {task["id"] for task in person.done if task["put"].startswith("D")}
        assert any(task["waiting"] for task in person.done if task["id"] == reading)
        discs = person.hands.look().discs
    written = {disc.written: disc.box for disc in discs.values() if disc.written}
    assert written == {disc["barcode"]: disc["magazine"] for disc in verified}
    images = {path.stem: path for path in (sandbox.root / "library" / "discs").glob("*.img")}
    assert images.keys() == {"disc001", "disc002", "holiday", "unfinished"}
    assert images["holiday"].read_bytes() == images["unfinished"].read_bytes() == JUNK
