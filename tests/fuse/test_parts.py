"""Files that are larger than a disc, on the real programs: in parts, and back as one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sandboxes import Sandbox

from hsmfs.tools.rebuild.images import opened
from hsmfs.volume import recover
from hsmfs.volume.source import Part

pytestmark = pytest.mark.fuse
DISC = "20000000"
SIZE = 50_000_000
PART = 16 << 20


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path / "sb")
    sandbox.start("--drives", "2", "--slots", "24", "--disc-bytes", DISC)
    try:
        yield sandbox
    finally:
        sandbox.stop()
        shutil.rmtree(sandbox.root / "library" / "discs", ignore_errors=True)
        shutil.rmtree(sandbox.root / "cache", ignore_errors=True)


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Sandbox]:
    """One copy of each volume, and blank discs for two parts of three."""
    sandbox = Sandbox(tmp_path / "sb")
    sandbox.start("--drives", "2", "--slots", "2", "--disc-bytes", DISC, "--pool-copies", "1")
    try:
        yield sandbox
    finally:
        sandbox.stop()
        shutil.rmtree(sandbox.root / "library" / "discs", ignore_errors=True)
        shutil.rmtree(sandbox.root / "cache", ignore_errors=True)


def add_blanks(box: Sandbox, *barcodes: str) -> None:
    """More slots with blank discs; the system is stopped."""
    path = box.root / "library" / "library.json"
    facts = json.loads(path.read_text())
    facts["slots"] += barcodes
    path.write_text(json.dumps(facts))


def write(path: Path, size: int = SIZE) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = os.urandom(size)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return data


def one(box: Sandbox, name: str) -> dict[str, Any]:
    (found,) = [file for file in box.files() if file["path"].endswith(name)]
    return found


def parts_on(image: Path) -> list[Part]:
    """Of files, as the volume's manifest tells."""
    with opened(image) as reader:
        entries = list(reader.manifest())
    return [e.source.part for e in entries if e.source.part is not None and e.result is not None]


def images(box: Sandbox) -> dict[str, Path]:
    """One image of each volume that is burned."""
    root = box.root / "library" / "discs"
    return {d["volume"]: root / f"{d['barcode']}.img" for d in box.discs() if d["volume"]}


def loads(box: Sandbox) -> dict[str, int]:
    return {disc["barcode"]: disc["loads"] for disc in box.discs()}


def test_a_file_goes_to_three_discs_and_comes_back_as_one(box: Sandbox, tmp_path: Path) -> None:
    big = box.mnt / "影像" / "big.raw"
    data = write(big)
    small = write(box.mnt / "影像" / "small", 300_000)
    os.link(big, box.mnt / "again")
    box.migrate_and_release()
    found = one(box, "big.raw")
    assert (found["state"], found["copies"], len(found["volumes"])) == ("migrated", 2, 3)
    # the last part shares its volume with other files
    assert one(box, "small")["volumes"] == found["volumes"][-1:]
    copies = box.hsm("locate", str(big))["copies"]
    starts = [(copy["start"], copy["size"], copy["total"]) for copy in copies]
    last = SIZE - 2 * PART
    parts = [(0, PART, SIZE), (PART, PART, SIZE), (2 * PART, last, SIZE)]
    assert starts == [part for part in parts for _ in range(2)]
    plan = box.hsm("recall", "--plan", str(big))
    assert (plan["discs"], plan["loads"], plan["bytes"]) == (3, 3, SIZE)
    # readers get what they want from the volume that holds it; each disc is loaded once
    before = loads(box)
    with big.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 100_000, SIZE - 100_000) == data[-100_000:]
        assert os.pread(file.fileno(), 100_000, PART - 50_000) == data[PART - 50_000 :][:100_000]
    assert big.read_bytes() == data
    assert (box.mnt / "again").read_bytes() == data
    assert max(n - before[code] for code, n in loads(box).items()) <= 2
    assert one(box, "big.raw")["state"] == "premigrated"
    # any system joins them, and knows by each part's line what comes of it
    given = images(box)
    wholes = {part.sha256 for volume in found["volumes"] for part in parts_on(given[volume])}
    assert wholes == {hashlib.sha256(data).hexdigest()}
    out = tmp_path / "out"
    for image in given.values():
        subprocess.run(["7z", "x", "-y", f"-o{out}", str(image)], check=True, capture_output=True)
    for name in ("影像/big.raw", "again"):
        joined = subprocess.check_output(f"cat {out}/{name}.part*", shell=True)
        assert joined == data
    assert (out / "影像" / "small").read_bytes() == small
    script = out / ".hsm" / "recover.py"
    words = [sys.executable, "-I", "-S", str(script), "--into", str(tmp_path / "back")]
    subprocess.run([*words, *map(str, given.values())], check=True, capture_output=True)
    assert (tmp_path / "back" / "影像" / "big.raw").read_bytes() == data
    assert os.path.samefile(tmp_path / "back" / "again", tmp_path / "back" / "影像" / "big.raw")
    box.hsm("release", "-r", str(box.mnt))
    box.stop()
    assert box.hsm("fsck", check=False)["findings"] == []


def test_by_hand_each_disc_is_loaded_once(box: Sandbox) -> None:
    data = write(box.mnt / "big")
    box.migrate_and_release()
    before = loads(box)
    box.hsm("recall", "--wait", str(box.mnt / "big"))
    more = sorted(n - before[code] for code, n in loads(box).items())
    assert more[-1] <= 1
    assert sum(more) <= 3
    assert (box.mnt / "big").read_bytes() == data


def test_a_damaged_part_comes_from_its_other_copy(box: Sandbox) -> None:
    data = write(box.mnt / "big")
    box.migrate_and_release()
    copies = box.hsm("locate", str(box.mnt / "big"))["copies"]
    first = next(copy["disc"] for copy in copies if copy["start"] == PART)
    sector = copies[0]["offset"] // 2048 + 3000
    box.faults({"device": first, "op": "read", "lba_from": sector, "sense": [3, 0x11, 5]})
    assert (box.mnt / "big").read_bytes() == data
    # with both copies of a part gone the others are still read, and the loss is told
    box.hsm("release", str(box.mnt / "big"), check=False)
    second = [copy["disc"] for copy in copies if copy["start"] == PART][1]
    if one(box, "big")["state"] != "migrated":
        return  # the damaged disc is not counted any more, so the data was kept
    box.faults(*({"device": code, "op": "read", "sense": [3, 0x11, 5]} for code in (first, second)))
    with (box.mnt / "big").open("rb") as file:
        file.seek(2 * PART)
        assert file.read(1000) == data[2 * PART :][:1000]


def test_parts_on_the_shelf_make_a_task_for_their_magazine(box: Sandbox) -> None:
    data = write(box.mnt / "big")
    box.migrate_and_release()
    for magazine in ("M01", "M02"):
        box.hsm("magazine", "export", magazine, "--wait")
    assert box.hsm("recall", "--plan", str(box.mnt / "big"))["magazines"] == ["M01"]
    reader = subprocess.Popen(["cat", str(box.mnt / "big")], stdout=subprocess.PIPE)
    try:
        task = box.until(lambda: [t for t in box.hsm("tasks")["tasks"] if t["waiting"]])[0]
        assert task["magazine"] in ("M01", "M02")
        box.hsm("magazine", "import", task["magazine"], "--wait")
        out, _ = reader.communicate(timeout=60)
    finally:
        reader.kill()
        reader.wait()
    assert out == data


def test_what_a_person_gets_told_of_a_disc_without_room(tmp_path: Path) -> None:
    box = Sandbox(tmp_path / "sb")
    box.start("--drives", "1", "--slots", "2", "--disc-bytes", "5000000")
    try:
        write(box.mnt / "big", 8_000_000)
        done = box.hsm("migrate", "--wait", str(box.mnt / "big"), check=False)
        assert "8000000 bytes do not fit in parts on discs of" in done["errors"][0]
        assert one(box, "big")["state"] == "resident"
    finally:
        box.stop()


def test_parts_and_a_file_that_is_called_like_one(box: Sandbox, tmp_path: Path) -> None:
    """They are never on one disc."""
    data = write(box.mnt / "big", 30_000_000)
    neighbour = write(box.mnt / "big.part0002", 1000)
    box.migrate_and_release()
    joined, given = b"", images(box)
    for number, volume in enumerate(parts_of(box, box.mnt / "big"), 1):
        out = tmp_path / volume
        words = ["7z", "x", "-y", f"-o{out}", str(given[volume])]
        subprocess.run(words, check=True, capture_output=True)
        joined += (out / f"big.part{number:04d}").read_bytes()
    assert joined == data
    assert (box.mnt / "big").read_bytes() == data
    assert (box.mnt / "big.part0002").read_bytes() == neighbour


def parts_of(box: Sandbox, path: Path) -> list[str]:
    """Volume of each part, in order."""
    copies = box.hsm("locate", str(path))["copies"]
    return [volume for _, volume in sorted({(copy["start"], copy["volume"]) for copy in copies})]


def test_recover_names_the_disc_of_a_missing_part(box: Sandbox, tmp_path: Path) -> None:
    name = "影" * 85
    data = write(box.mnt / name)
    box.migrate_and_release()
    volumes, given = parts_of(box, box.mnt / name), images(box)
    words = [sys.executable, "-I", "-S", recover.__file__, "--into"]
    some = [str(given[volumes[0]]), str(given[volumes[2]])]
    done = subprocess.run([*words, str(tmp_path / "less"), *some], capture_output=True, text=True)
    assert done.returncode == 3
    assert "part 2 of 3 is on none of the discs given" in done.stdout or (
        f"part 2 of 3 is on volume {volumes[1]}, which was not given" in done.stdout
    )
    assert not (tmp_path / "less" / name).exists()
    every = [str(given[volume]) for volume in reversed(volumes)]
    subprocess.run([*words, str(tmp_path / "all"), *every], check=True, capture_output=True)
    assert (tmp_path / "all" / name).read_bytes() == data
    # The name is too long for UDF with a number: all parts are called alike, in order.
    joined = b""
    for volume in volumes:
        out = tmp_path / volume
        words = ["7z", "x", "-y", f"-o{out}", str(given[volume]), "-x!.hsm"]
        subprocess.run(words, check=True, capture_output=True)
        shutil.copytree(out, tmp_path / "together", dirs_exist_ok=True)
    parts = sorted((tmp_path / "together").glob("影*.part*"))
    joined = b"".join(part.read_bytes() for part in parts)
    assert len(parts) == 3 and joined == data


# -- cut in between (docs/crash-safety.md) ------------------------------------------------------


def wait_for_two_parts(box: Sandbox) -> None:
    """The third has no blank disc."""
    box.until(lambda: [d["state"] for d in box.discs()] == ["verified", "verified"])
    volumes = box.hsm("volume", "ls")["volumes"]
    box.until(
        lambda: (
            sorted(v["state"] for v in box.hsm("volume", "ls")["volumes"])
            == ["complete", "complete", "planned"]
        )
    )
    assert len(volumes) == 3


def test_killed_between_parts_the_rest_is_burned_and_then_counted(short: Sandbox) -> None:
    data = write(short.mnt / "big")
    short.hsm("migrate", "--wait", str(short.mnt / "big"), check=False)
    wait_for_two_parts(short)
    for _ in range(2):
        assert (one(short, "big")["state"], one(short, "big")["copies"]) == ("resident", 0)
        short.kill("hsmd")
        short.start()
    wait_for_two_parts(short)
    done = short.hsm("release", str(short.mnt / "big"), check=False)
    assert "not migrated yet" in done["errors"][0]
    short.stop()
    assert short.hsm("fsck", check=False)["findings"] == []
    add_blanks(short, "FRESH1")
    short.start()
    short.until(lambda: one(short, "big")["state"] == "premigrated")
    assert (one(short, "big")["copies"], len(one(short, "big")["volumes"])) == (1, 3)
    assert {d["state"] for d in short.discs()} == {"verified"}
    short.hsm("release", str(short.mnt / "big"))
    assert (short.mnt / "big").read_bytes() == data


def test_killed_before_the_last_part_is_told_it_is_told_at_start(short: Sandbox) -> None:
    data = write(short.mnt / "big")
    short.hsm("migrate", "--wait", str(short.mnt / "big"), check=False)
    wait_for_two_parts(short)
    short.stop()
    add_blanks(short, "FRESH1")
    short.start()
    short.until(lambda: {d["barcode"]: d["state"] for d in short.discs()}["FRESH1"] != "blank")
    short.kill("hsmfs")
    short.until(lambda: {d["state"] for d in short.discs()} == {"verified"})
    short.kill("hsmd")
    short.start()
    short.until(lambda: one(short, "big")["state"] == "premigrated")
    assert one(short, "big")["copies"] == 1
    short.hsm("release", str(short.mnt / "big"))
    assert (short.mnt / "big").read_bytes() == data


def test_a_part_that_cannot_be_burned_ends_the_others(tmp_path: Path) -> None:
    box = Sandbox(tmp_path / "sb")
    box.start("--drives", "2", "--slots", "16", "--disc-bytes", DISC, "--pool-copies", "1")
    try:
        data = write(box.mnt / "big")
        good = box.discs()[0]["barcode"]
        bad = [disc["barcode"] for disc in box.discs() if disc["barcode"] != good]
        box.faults(*({"device": code, "op": "write", "sense": [3, 0x73, 3]} for code in bad))
        done = box.hsm("migrate", "--wait", str(box.mnt / "big"), check=False, timeout=300)
        assert done["state"] == "failed"
        assert (one(box, "big")["state"], one(box, "big")["copies"]) == ("resident", 0)
        box.until(
            lambda: (
                {v["state"] for v in box.hsm("volume", "ls")["volumes"]} <= {"complete", "short"}
            )
        )
        box.faults()
        box.hsm("migrate", "--wait", str(box.mnt / "big"))
        box.hsm("release", str(box.mnt / "big"))
        assert (box.mnt / "big").read_bytes() == data
        box.stop()
        assert box.hsm("fsck", check=False)["findings"] == []
    finally:
        box.stop()


def test_changed_between_parts_all_of_them_are_dead(short: Sandbox) -> None:
    write(short.mnt / "big")
    short.hsm("migrate", "--wait", str(short.mnt / "big"), check=False)
    wait_for_two_parts(short)
    old = images(short)
    short.kill("hsmd")
    data = write(short.mnt / "big", 40_000_000)
    short.start()
    # the version that was asked for is queued anew, as the one that it is now
    short.until(lambda: len(short.hsm("volume", "ls")["volumes"]) == 5)
    short.stop()
    add_blanks(short, "FRESH1", "FRESH2", "FRESH3")
    short.start()
    short.until(lambda: one(short, "big")["state"] == "premigrated")
    assert one(short, "big")["copies"] == 1
    assert not set(one(short, "big")["volumes"]) & set(old)
    short.hsm("release", str(short.mnt / "big"))
    assert (short.mnt / "big").read_bytes() == data
    short.stop()
    assert short.hsm("fsck", check=False)["findings"] == []


def test_killed_again_and_again_it_is_counted_in_the_end(box: Sandbox) -> None:
    data = write(box.mnt / "big", 30_000_000)
    write(box.mnt / "small", 100_000)
    box.hsm("migrate", "-r", str(box.mnt), check=False)
    for _ in range(5):
        box.kill("hsmd")
        box.start()
    box.until(lambda: {file["state"] for file in box.files()} == {"premigrated"})
    assert {file["copies"] for file in box.files()} == {2}
    box.hsm("release", "-r", str(box.mnt))
    assert (box.mnt / "big").read_bytes() == data
    box.stop()
    assert box.hsm("fsck", check=False)["findings"] == []


# -- care and recovery --------------------------------------------------------------------------


def test_reclaim_of_one_part_takes_the_whole_file(box: Sandbox) -> None:
    data = write(box.mnt / "big", 30_000_000)
    box.migrate_and_release()
    first, second = one(box, "big")["volumes"]
    assert box.hsm("volume", "reclaim", first)["state"] == "done"
    states = {v["label"]: v["state"] for v in box.hsm("volume", "ls")["volumes"]}
    assert (states[first], states[second]) == ("retired", "complete")
    assert one(box, "big")["state"] == "migrated"
    assert (box.mnt / "big").read_bytes() == data
    box.stop()
    assert box.hsm("fsck", check=False)["findings"] == []


def test_release_is_refused_while_a_part_has_too_few_copies(box: Sandbox) -> None:
    box.stop()
    text = (box.root / "hsmfs.toml").read_text()
    (box.root / "hsmfs.toml").write_text(f"{text}\n[care]\nrepair = false\n")
    box.start()
    write(box.mnt / "big", 30_000_000)
    box.hsm("migrate", "--wait", str(box.mnt / "big"))
    copies = box.hsm("locate", str(box.mnt / "big"))["copies"]
    box.hsm("disc", "quarantine", copies[-1]["disc"])
    assert one(box, "big")["copies"] == 1
    done = box.hsm("release", str(box.mnt / "big"), check=False)
    assert "1 proved copies, pool 'main' wants 2; kept" in done["errors"][0]


def lose_everything(box: Sandbox) -> None:
    """But the discs and the configuration."""
    box.stop()
    for name in ("state/namespace", "state/catalog", "cache"):
        shutil.rmtree(box.root / name)
    (box.root / "cache").mkdir()


def test_rebuild_wants_all_parts(box: Sandbox, tmp_path: Path) -> None:
    data = write(box.mnt / "d" / "big")
    write(box.mnt / "small", 100_000)
    box.migrate_and_release()
    volumes = one(box, "big")["volumes"]
    discs = {d["barcode"]: d["volume"] for d in box.discs() if d["volume"]}
    lose_everything(box)
    middle = [code for code, label in discs.items() if label == volumes[1]]
    for code in middle:
        shutil.move(box.root / "library" / "discs" / f"{code}.img", tmp_path)
    done = box.hsm("rebuild", "--from", str(box.root / "library"), check=False)
    assert done["missing_volumes"] == {volumes[1]: 1}
    assert (done["waiting"], done["files"]) == (1, 1)
    (told,) = done["examples"]
    assert (told["path"], told["why"]) == ("d/big", f"for volume {volumes[1]}")
    # with all of them it is whole
    for code in middle:
        shutil.move(tmp_path / f"{code}.img", box.root / "library" / "discs")
    for name in ("state/namespace", "state/catalog", "cache"):
        shutil.rmtree(box.root / name)
    (box.root / "cache").mkdir()
    done = box.hsm("rebuild", "--from", str(box.root / "library"))
    assert done["not_whole"] == 0
    assert box.hsm("fsck", check=False)["findings"] == []
    box.start()
    assert (one(box, "big")["state"], one(box, "big")["size"]) == ("migrated", SIZE)
    assert one(box, "big")["copies"] == 2
    assert (box.mnt / "d" / "big").read_bytes() == data
