"""The system made anew from its discs: real programs, real mount, stores gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.lostsystems import facts_of, lose_everything, make_awkward
from support.sandboxes import Sandbox, write_files

from hsmfs.volume.reader import VolumeReader

pytestmark = pytest.mark.fuse
DISC = "20000000"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path / "sb")
    sandbox.start("--drives", "2", "--slots", "12", "--disc-bytes", DISC)
    try:
        yield sandbox
    finally:
        sandbox.stop()


def rebuild(box: Sandbox, *sources: Path, code: int = 0) -> Any:
    words = [word for source in sources for word in ("--from", str(source))]
    done = box.hsm("rebuild", *words, check=False)
    assert isinstance(done, dict), done.stderr
    return done


def library(box: Sandbox) -> Path:
    return box.root / "library"


def images(box: Sandbox, label: str) -> list[Path]:
    discs = [disc["barcode"] for disc in box.discs() if disc["volume"] == label]
    return [library(box) / "discs" / f"{barcode}.img" for barcode in discs]


def states(box: Sandbox) -> dict[str, str]:
    return {disc["barcode"]: disc["state"] for disc in box.discs()}


def test_everything_comes_back_from_the_discs(box: Sandbox) -> None:
    make_awkward(box)
    box.migrate_and_release(box.mnt / "病历")
    os.rename(box.mnt / "病历" / "影像", box.mnt / "moved")
    os.unlink(box.mnt / "moved" / "f0003")
    os.rename(box.mnt / "moved" / "f0004", box.mnt / "moved" / "f0005")
    os.chmod(box.mnt / "moved" / "f0006", 0o600)
    os.setxattr(box.mnt / "moved" / "f0007", "user.late", b"1")
    write_files(box.mnt / "second", 5, 200_000)
    held = box.mnt / "second" / "f0001"
    assert box.hsm("hold", "set", str(held), "--reason", "case 1") == {"done": 1, "refused": []}
    box.migrate_and_release()
    head = box.hsm("log", "head")
    before = facts_of(box.mnt)
    volumes = {disc["volume"] for disc in box.discs()} - {""}
    assert len(volumes) >= 2
    box.stop()
    lose_everything(box)
    done = rebuild(box, library(box))
    assert done["not_whole"] == 0, done
    assert done["changes_complete"], done
    assert set(done["volumes"]) == volumes
    checked = box.hsm("fsck", check=False)
    assert checked["findings"] == []
    box.start()
    assert facts_of(box.mnt) == before
    with pytest.raises(PermissionError):
        held.unlink()
    noted = f"{head['number']}:{head['sha256']}"
    assert box.hsm("log", "verify", "--head", noted)["ok"]
    # and it goes on: new files, new volumes, again from the discs
    write_files(box.mnt / "third", 3, 100_000)
    box.migrate_and_release()
    before = facts_of(box.mnt)
    lose_everything(box)
    assert rebuild(box, library(box))["not_whole"] == 0
    box.start()
    assert facts_of(box.mnt) == before


def test_a_missing_volume_is_named_and_the_rest_is_whole(box: Sandbox, tmp_path: Path) -> None:
    write_files(box.mnt / "one", 4, 100_000, seed=1)
    box.migrate_and_release()
    (label,) = {disc["volume"] for disc in box.discs()} - {""}
    write_files(box.mnt / "two", 4, 100_000, seed=2)
    box.migrate_and_release()
    before = facts_of(box.mnt)
    lost = images(box, label)
    lose_everything(box)
    aside = tmp_path / "aside"
    aside.mkdir()
    for image in lost:
        shutil.move(image, aside)
    done = rebuild(box, library(box))
    assert done["missing_volumes"] == {label: 4}
    assert done["files"] == 4
    assert {line["path"] for line in done["examples"]} == {f"one/f000{n}" for n in range(4)}
    box.start()
    assert set(os.listdir(box.mnt / "one")) == {f"f000{n}" for n in range(4)}
    assert {os.stat(path).st_size for path in (box.mnt / "two").iterdir()} == {
        value[5] for key, value in before.items() if "two/f" in key
    }
    assert (box.mnt / "two" / "f0000").read_bytes() == before["b'two/f0000'"][8]
    # the discs turn up in the library: what waited for them can be read
    for number, image in enumerate(lost):
        shutil.copy(aside / image.name, image)
        done = box.hsm("disc", "identify", image.stem)
        assert f"is a copy of volume {label}" in done["note"]
        box.until(lambda n=number: states(box)[lost[n].stem] == "verified")
    assert (box.mnt / "one" / "f0000").read_bytes() == before["b'one/f0000'"][8]
    done = box.hsm("disc", "identify", lost[0].stem, check=False)
    assert "it is known already" in done["errors"][0]
    for image in lost:
        image.unlink()
    # or from all of them all is whole at once
    lose_everything(box)
    assert rebuild(box, aside, library(box))["not_whole"] == 0
    for image in aside.iterdir():
        shutil.move(image, library(box) / "discs")
    box.start()
    assert facts_of(box.mnt) == before


def test_what_is_in_use_is_not_replaced(box: Sandbox) -> None:
    write_files(box.mnt / "one", 1, 100_000)
    box.migrate_and_release()
    done = box.hsm("rebuild", "--from", str(library(box)), check=False)
    assert done.returncode == 1
    assert "runs" in done.stderr
    box.stop()
    done = box.hsm("rebuild", "--from", str(library(box)), check=False)
    assert done.returncode == 1
    assert "expected none or an empty one" in done.stderr
    shutil.rmtree(box.root / "state" / "namespace")
    shutil.rmtree(box.root / "state" / "catalog")
    done = box.hsm("rebuild", "--from", str(library(box)), check=False)
    assert done.returncode == 1
    assert "found cached data of an earlier namespace" in done.stderr
    shutil.rmtree(box.root / "cache")
    (box.root / "cache").mkdir()
    for source, why in ((box.root / "absent", "found nothing"), (box.root / "run", "no images")):
        done = box.hsm("rebuild", "--from", str(source), check=False)
        assert done.returncode == 1
        assert why in done.stderr
    box.configure('id = "', 'id = "x')
    done = box.hsm("rebuild", "--from", str(library(box)), check=False)
    assert done.returncode == 1
    assert "found a disc of site" in done.stderr
    assert not (box.root / "state" / "namespace").exists()


def test_discs_of_udf_201_are_recalled_and_rebuilt(box: Sandbox) -> None:
    """An older revision of new volumes, beside volumes of 2.50."""
    write_files(box.mnt / "first", 3, 100_000)
    box.migrate_and_release()
    box.stop()
    config = box.root / "hsmfs.toml"
    config.write_text(config.read_text().replace("[burn]\n", '[burn]\nudf = "2.01"\n'))
    box.start()
    make_awkward(box)
    box.migrate_and_release()
    before = facts_of(box.mnt)
    revisions = set()
    for volume in {disc["volume"] for disc in box.discs()} - {""}:
        data = images(box, volume)[0].read_bytes()
        revisions.add(VolumeReader(lambda s, n, d=data: d[s * 2048 : (s + n) * 2048]).header.udf)
    assert revisions == {"2.50", "2.01"}
    lose_everything(box)
    assert rebuild(box, library(box))["not_whole"] == 0
    box.start()
    assert facts_of(box.mnt) == before
