"""A library without a robot: a person with one burner does the whole job by the tasks alone."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.person import Person
from support.sandboxes import BIN, Sandbox, differing, write_files
from support.tgtd import free_port, needs_libiscsi

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


def test_said_to_be_done_is_looked_at(sandbox: Sandbox) -> None:
    """An empty drive, a wrong disc, a busy one: `hsm tasks done` believes none of them; the
    right disc needs no word. A restart goes on with what lies on the tray."""
    made = write_files(sandbox.mnt / "a", 3, 300_000)
    person = Person(sandbox)
    sandbox.hsm("migrate", "-r", str(sandbox.mnt))
    (task,) = sandbox.until(person.tasks)
    assert (task["kind"], task["put"], task["drive"]) == ("load", "blank", "drive0")
    said = sandbox.hsm("tasks", "done", str(task["id"]), check=False)
    assert said.returncode == 1 and "the drive is empty" in said.stderr, said.stderr
    person.hands.buy(200_000, "tiny")
    person.hands.press("drive0")
    person.hands.put("tiny", "drive0")
    said = sandbox.hsm("tasks", "done", str(task["id"]), check=False)
    assert said.returncode == 1 and "blank disc of 0.2 MB" in said.stderr, said.stderr
    sandbox.until(lambda: person.hands.look().trays[0].is_open)
    (again,) = person.tasks()
    assert again["id"] == task["id"] and again["take"] and not again["box"]
    sandbox.kill("hsmd")
    sandbox.start()
    (again,) = sandbox.until(person.tasks)
    assert again["id"] == task["id"] and again["take"]
    person.do(again)
    sandbox.until(lambda: person.tasks() and person.tasks()[0]["write"] == "D0001")
    with person:
        sandbox.until(lambda: [f["copies"] for f in sandbox.files()] == [2, 2, 2])
    assert not differing(made)


@pytest.mark.long
def test_a_reader_goes_before_a_burn_and_asks_in_its_task(sandbox: Sandbox) -> None:
    """The blank that was asked for is not in yet: the task becomes the reader's, and names him.
    What was put in for the burn is used all the same."""
    made = write_files(sandbox.mnt / "a", 3, 300_000)
    with Person(sandbox) as person:
        sandbox.migrate_and_release()
        sandbox.until(lambda: not person.tasks())
    write_files(sandbox.mnt / "b", 3, 300_000)
    person = Person(sandbox)
    sandbox.hsm("migrate", "-r", str(sandbox.mnt / "b"))
    sandbox.until(lambda: [task["put"] for task in person.tasks()] == ["blank"])
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(differing, made)
        (task,) = sandbox.until(lambda: [t for t in person.tasks() if t["waiting"]])
        assert task["put"].startswith("D") and "a/f0000" in task["waiting"][0]["path"]
        person.hands.put(person.find(lambda name, _: name == "disc003"), "drive0")
        sandbox.until(lambda: (t := person.tasks()) and t[0]["write"] == "D0003")
        assert not reading.done()
        with person:
            assert reading.result(90) == []
            sandbox.until(lambda: {f["copies"] for f in sandbox.files()} == {2})
    assert not [task["found"] for task in person.done if task["found"]]


@pytest.mark.long
def test_a_burn_that_fails_and_boxes_that_went_away(sandbox: Sandbox) -> None:
    """A bad disc is to be marked so, another blank is asked for; a box is back when one of its
    discs is."""
    made = write_files(sandbox.mnt / "a", 3, 300_000)
    sandbox.faults({"device": "disc001", "op": "write", "sense": [3, 12, 0]})
    with Person(sandbox) as person:
        sandbox.migrate_and_release()
        sandbox.until(lambda: not person.tasks())
        sandbox.hsm("magazine", "export", "A")
        sandbox.hsm("magazine", "export", "B")
    assert {m["state"] for m in sandbox.hsm("magazine", "ls")["magazines"]} == {"shelf"}
    discs = {disc.written: name for name, disc in person.hands.look().discs.items()}
    assert discs.pop("BAD D0001") == "disc001"
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(differing, made)
        (task,) = sandbox.until(lambda: [t for t in person.tasks() if t["waiting"]])
        assert (task["kind"], task["drive"]) == ("bring", "")
        homes = {d["barcode"]: d["magazine"] for d in sandbox.discs()}
        wanted = next(d for d in discs if d and homes[d] == task["magazine"])
        person.hands.press("drive0")
        person.hands.put(wanted, "drive0")
        assert reading.result(90) == []
    sandbox.until(lambda: not person.tasks())
    states = {m["name"]: m["state"] for m in sandbox.hsm("magazine", "ls")["magazines"]}
    assert states[task["magazine"]] == "library" and sorted(states.values()) == ["library", "shelf"]


@pytest.mark.long
def test_drives_behind_a_transport_do_as_well(tmp_path: Path) -> None:
    """Two drives, known only by MMC commands over iSCSI: each copy is burned in its own."""
    needs_libiscsi()
    sandbox, port = Sandbox(tmp_path / "sb"), free_port()
    try:
        sandbox.start("--library", "manual", "--disc-bytes", "20000000", "--drives", "2")
        sandbox.stop()
        command = [str(BIN / "hsm"), "emulator", "serve", str(sandbox.root / "library")]
        command += ["--listen", f"127.0.0.1:{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
            try:
                assert served.stdout is not None
                assert "serving" in served.stdout.readline()
                units = [line.split()[0] for line in (served.stdout.readline() for _ in range(2))]
                drives = "".join(f'[[library.drive]]\ndevice = "{unit}"\n' for unit in units)
                sandbox.configure(f'path = "{sandbox.root}/library"\n', "")
                sandbox.configure("[run]", f"{drives}\n[run]")
                sandbox.start()
                made = write_files(sandbox.mnt / "a", 4, 300_000)
                with Person(sandbox) as person:
                    sandbox.migrate_and_release()
                    assert not differing(made)
                blanks = [task["drive"] for task in person.done if task["put"] == "blank"]
                assert sorted(blanks) == ["drive0", "drive1"]
            finally:
                sandbox.stop()
                served.terminate()
    finally:
        sandbox.stop()
