"""Files larger than a disc: in parts on several volumes, one file for everybody else."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.sandboxes import Sandbox, differing, write_files

import hsmfs.volume.recover as recover_module

pytestmark = pytest.mark.fuse
DISC = "12000000"
SIZE = 30_000_001
"""Four parts of at most 8 MiB each on discs of 12 MB."""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path / "sb")
    sandbox.start("--drives", "2", "--slots", "24", "--disc-bytes", DISC)
    try:
        yield sandbox
    finally:
        sandbox.stop()


def make_large(box: Sandbox, name: str = "影像.dcm", seed: int = 1) -> tuple[Path, bytes]:
    path = box.mnt / "病历" / name
    path.parent.mkdir(exist_ok=True)
    data = random.Random(seed).randbytes(SIZE)
    path.write_bytes(data)
    return path, data


def parts_of(box: Sandbox, path: Path) -> list[tuple[int, int, str]]:
    """Start, size and volume of each part."""
    copies = box.hsm("locate", str(path))["copies"]
    return sorted({(copy["start"], copy["size"], copy["volume"]) for copy in copies})


def images(box: Sandbox) -> dict[str, list[Path]]:
    """Images of verified discs by volume."""
    found: dict[str, list[Path]] = {}
    for disc in box.discs():
        if disc["state"] == "verified":
            image = box.root / "library" / "discs" / f"{disc['barcode']}.img"
            found.setdefault(disc["volume"], []).append(image)
    return found


def entry(box: Sandbox, path: Path) -> dict[str, Any]:
    (found,) = box.hsm("ls", str(path))["files"]
    return found


def test_a_large_file_is_one_again(box: Sandbox) -> None:
    path, data = make_large(box)
    os.link(path, box.mnt / "second name")
    small = write_files(box.mnt / "small", 5, 100_000)
    box.migrate_and_release()
    parts = parts_of(box, path)
    assert len(parts) == 4 and len({volume for _, _, volume in parts}) == 4
    ends = [start + size for start, size, _ in parts]
    assert [start for start, _, _ in parts] == [0, *ends[:-1]] and ends[-1] == SIZE
    assert all(start % (4 << 20) == 0 for start, _, _ in parts)
    facts = entry(box, path)
    assert (facts["state"], facts["copies"], facts["size"]) == ("migrated", 2, SIZE)
    plan = box.hsm("recall", "--plan", str(path))
    assert (plan["discs"], plan["bytes"]) == (4, SIZE)
    with path.open("rb") as file:  # the last part first, then across a border
        file.seek(SIZE - 1000)
        assert file.read() == data[-1000:]
        file.seek(parts[1][0] - 500)
        assert file.read(1000) == data[parts[1][0] - 500 : parts[1][0] + 500]
    assert path.read_bytes() == data and (box.mnt / "second name").read_bytes() == data
    assert not differing(small)
    box.until(lambda: entry(box, path)["state"] == "premigrated")
    # The last part's volume has the small files too; nothing was burned twice.
    assert len(images(box)) == 4 or len(images(box)) == 5
    box.stop()
    done = box.hsm("fsck", check=False)
    assert done["findings"] == [], done


def test_parts_are_plain_files_that_cat_joins(box: Sandbox, tmp_path: Path) -> None:
    path, data = make_large(box)
    os.link(path, box.mnt / "second name")
    write_files(box.mnt / "病历" / "影像.dcm.part0002.d", 1, 1000)
    (box.mnt / "病历" / "影像.dcm.part0003").write_bytes(b"a file that is called so")
    box.migrate_and_release()
    found = images(box)
    first, second = b"", b""
    for number, (_, _, volume) in enumerate(parts_of(box, path), 1):
        out = tmp_path / volume
        command = ["7z", "x", "-y", f"-o{out}", str(found[volume][0]), "-x!.hsm"]
        subprocess.run(command, check=True, capture_output=True)
        first += (out / "病历" / f"影像.dcm.part{number:04d}").read_bytes()
        second += (out / f"second name.part{number:04d}").read_bytes()
    assert first == data and second == data
    neighbour = box.mnt / "病历" / "影像.dcm.part0003"
    assert neighbour.read_bytes() == b"a file that is called so"


def recovered(into: Path, sources: list[Path]) -> subprocess.CompletedProcess[str]:
    script = recover_module.__file__
    command = [sys.executable, "-I", "-S", script, "--into", str(into), *map(str, sources)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_recover_joins_parts_and_names_what_is_missing(box: Sandbox, tmp_path: Path) -> None:
    path, data = make_large(box)
    os.link(path, box.mnt / "second name")
    box.migrate_and_release()
    parts, found = parts_of(box, path), images(box)
    every = [found[volume][0] for _, _, volume in parts]
    done = recovered(tmp_path / "all", every)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = tmp_path / "all" / "病历" / "影像.dcm"
    assert whole.read_bytes() == data and whole.stat().st_nlink == 2
    done = recovered(tmp_path / "less", [every[0], *every[2:]])
    assert done.returncode == 3
    assert "影像.dcm: part 2 of 4 is on volume" in done.stdout, done.stdout
    assert parts[1][2] in done.stdout
    assert not (tmp_path / "less" / "病历" / "影像.dcm").exists()
    extracted = box.hsm("volume", "extract", *map(str, every), "--into", str(tmp_path / "ex"))
    assert extracted["missing"] == {}
    assert (tmp_path / "ex" / "second name").read_bytes() == data


def lose_stores(box: Sandbox) -> None:
    box.stop()
    for name in ("state/namespace", "state/catalog", "cache"):
        shutil.rmtree(box.root / name)
    (box.root / "cache").mkdir()


def test_rebuild_wants_all_parts(box: Sandbox) -> None:
    path, data = make_large(box)
    box.migrate_and_release()
    parts = parts_of(box, path)
    lost = images(box)[parts[1][2]]
    lose_stores(box)
    aside = [image.rename(image.with_suffix(".away")) for image in lost]
    sources = ["--from", str(box.root / "library" / "discs")]
    done = box.hsm("rebuild", *sources, check=False)
    assert done["waiting"] == 1 and done["missing_volumes"] == {parts[1][2]: 1}
    shutil.rmtree(box.root / "state" / "namespace")
    shutil.rmtree(box.root / "state" / "catalog")
    for image in aside:
        image.rename(image.with_suffix(".img"))
    done = box.hsm("rebuild", *sources)
    assert (done["files"], done["not_whole"]) == (1, 0)
    box.start()
    assert (entry(box, path)["state"], entry(box, path)["copies"]) == ("migrated", 2)
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()
    box.stop()
    assert box.hsm("fsck", check=False)["findings"] == []


def test_a_damaged_part_comes_from_its_other_copy(box: Sandbox) -> None:
    path, data = make_large(box)
    box.migrate_and_release()
    start, size, volume = parts_of(box, path)[2]
    first = images(box)[volume][0]
    raw = first.read_bytes()
    at = raw.index(data[start : start + 2048])
    with first.open("r+b") as file:
        file.seek(at + size // 2)
        file.write(bytes(4096))
    assert path.read_bytes() == data


@pytest.mark.parametrize("step", range(6))
def test_a_kill_between_parts_loses_nothing(box: Sandbox, step: int) -> None:
    path, data = make_large(box)
    box.hsm("migrate", str(path))  # does not wait
    states = [
        lambda: box.discs(),
        lambda: [d for d in box.discs() if d["state"] == "burning"],
        lambda: [d for d in box.discs() if d["state"] == "verified"],
        lambda: [d for d in box.discs() if d["state"] == "verified"][3:],
        lambda: [d for d in box.discs() if d["state"] == "verified"][6:],
        lambda: entry(box, path)["copies"] == 2,
    ]
    box.until(lambda: states[step]() or entry(box, path)["copies"] == 2)
    box.kill("hsmd")
    box.start()
    box.until(lambda: entry(box, path)["state"] == "premigrated")
    assert entry(box, path)["copies"] == 2
    box.hsm("release", "--wait", str(path))
    assert path.read_bytes() == data
    box.stop()
    assert box.hsm("fsck", check=False)["findings"] == []


def test_a_file_that_changes_between_parts_is_burned_anew(box: Sandbox) -> None:
    path, data = make_large(box)
    box.hsm("migrate", str(path))
    box.until(lambda: [d for d in box.discs() if d["state"] == "verified"])
    box.kill("hsmd")
    with path.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"new bytes")
    data = data[: SIZE // 2] + b"new bytes" + data[SIZE // 2 + 9 :]
    box.start()
    box.hsm("migrate", "--wait", str(path))
    assert entry(box, path)["copies"] == 2
    box.hsm("release", "--wait", str(path))
    assert path.read_bytes() == data


def test_the_right_magazine_is_asked_for(box: Sandbox) -> None:
    path, data = make_large(box)
    box.migrate_and_release()
    magazines = sorted({disc["magazine"] for disc in box.discs() if disc["state"] == "verified"})
    plan = box.hsm("recall", "--plan", str(path))
    assert plan["magazines"] == []
    assert len(magazines) == 2 and path.read_bytes() == data
