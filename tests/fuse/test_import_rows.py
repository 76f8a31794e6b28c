"""hsmd killed while it imports discs of others: one test a row of docs/crash-safety.md."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.crashing import Crashing, running
from support.crashpoints import WRITE_12
from support.foreigndiscs import iso
from support.sandboxes import Sandbox

from hsmfs.changer.emulated import open_library
from hsmfs.daemon.catalogrecords import ImportStage, VolumeRecord

pytestmark = pytest.mark.fuse
LINK = "hsmfs.daemon.fslink:FsLink"
FILES = 700
"""More than one batch."""
DISCS = ("reading", "batches", "told", "forgotten", "first read")


def tree(root: Path, name: str) -> dict[str, bytes]:
    made = {f"{n}": f"{name} {n}".encode() * 50 for n in range(FILES)}
    root.mkdir()
    for path, data in made.items():
        (root / path).write_bytes(data)
    return made


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Crashing, dict[str, tuple[str, dict[str, bytes]]]]]:
    """A library with a disc of others for each test; its barcode and files."""
    root = tmp_path_factory.mktemp("imports")
    found = {}
    with running(root / "sb", "--slots", "24") as box:
        codes = [one["barcode"] for one in box.discs()][::-1]
        box.stop()
        hands = open_library(box.root / "library").hands
        for code, name in zip(codes, DISCS, strict=False):
            made = tree(root / name, name)
            hands.load_foreign(code, iso(root / f"{name}.iso", root / name, "-R", "-V", name))
            found[name] = (code, made)
        box.start()
        yield box, found
        box.stop()
        assert Sandbox.hsm(box, "fsck", check=False)["findings"] == []


class Import:
    """One disc of others, on its way to a directory."""

    def __init__(self, box: Crashing, code: str, made: dict[str, bytes], name: str) -> None:
        self.box, self.code, self.made = box, code, made
        self.target = box.mnt / name

    def begin(self) -> None:
        self.box.hsm(
            "disc", "import", self.code, "--to", str(self.target), "--no-wait", check=False
        )

    def killed(self, point: str, when: str, **more: int) -> None:
        self.box.killed(self.begin, point, when, **more)

    def record(self) -> VolumeRecord | None:
        """As it was left."""
        catalog = self.box.catalog()
        return catalog.volumes.get(catalog.discs[self.code].volume)

    def spool(self, name: str) -> Path:
        return self.box.state / "catalog" / "imports" / name

    def whole(self) -> None:
        """After a start all of it is there."""
        self.box.start()
        self.box.until(lambda: self.stage() == "done")
        assert {path.name for path in self.target.iterdir()} == set(self.made)
        first = next(iter(self.made))
        assert (self.target / first).read_bytes() == self.made[first]
        self.box.until(lambda: not list(self.spool("").iterdir()))

    def stage(self) -> str:
        label = next(d["volume"] for d in self.box.discs() if d["barcode"] == self.code)
        return str(self.box.hsm("volume", "show", label)["foreign"]["stage"]) if label else ""


@pytest.fixture
def importing(
    shared: tuple[Crashing, dict[str, tuple[str, dict[str, bytes]]]],
) -> Callable[[str], Import]:
    box, found = shared
    box.crash.path.unlink(missing_ok=True)
    box.start()
    return lambda name: Import(box, *found[name], name)


def test_import_of_a_disc_of_others_its_tree_being_read(
    importing: Callable[[str], Import],
) -> None:
    one = importing("reading")
    one.killed("hsmfs.daemon.treejob:TreeFile.fill", "after")
    assert one.spool(f"{one.code}.reading").stat().st_size
    assert (one.record(), one.target.exists()) == (None, False)
    one.box.start()
    one.box.until(lambda: not one.spool(f"{one.code}.reading").exists())
    assert one.box.state_of(one.code) in ("blank", "foreign")
    one.begin()
    one.whole()


def test_import_recorded_some_batches_made(importing: Callable[[str], Import]) -> None:
    one = importing("batches")
    one.killed(f"{LINK}.import_add", "before", nth=2)
    record = one.record()
    assert record is not None and record.foreign is not None
    assert record.foreign.stage == ImportStage.IMPORTING
    assert one.spool(f"{record.label}.spool").exists()
    there = list(one.target.iterdir())
    assert 0 < len(there) < FILES
    with pytest.raises(OSError) as error:
        there[0].read_bytes()
    assert error.value.errno == errno.EBUSY
    one.whole()


def test_import_all_made_hsmfs_told_the_catalog_not(importing: Callable[[str], Import]) -> None:
    one = importing("told")
    one.killed(f"{LINK}.import_end", "after")
    record = one.record()
    assert record is not None and record.foreign is not None
    assert record.foreign.stage == ImportStage.IMPORTING
    assert len(list(one.target.iterdir())) == FILES
    one.whole()


def test_import_that_hsmfs_refuses_quota_a_file_in_the_way_or_one_that_is_forgotten(
    importing: Callable[[str], Import],
) -> None:
    one = importing("forgotten")
    one.begin()
    one.whole()
    forget = lambda: one.box.hsm("disc", "forget-import", one.code, "--no-wait", check=False)  # noqa: E731
    one.box.killed(forget, f"{LINK}.import_forget", "after")
    record = one.record()
    assert record is not None and record.foreign is not None
    assert record.foreign.stage == ImportStage.FORGETTING
    one.box.start()
    one.box.until(lambda: one.box.state_of(one.code) == "foreign")
    assert not one.target.exists()
    assert record.label not in one.box.volumes()


@pytest.mark.parametrize("is_burned", [False, True], ids=["none verified", "one verified"])
def test_import_of_an_image_being_burned(
    importing: Callable[[str], Import], tmp_path: Path, is_burned: bool
) -> None:
    one = importing("reading")  # for its box
    box, name = one.box, f"image {is_burned}"
    made = tree(tmp_path / "source", name)
    image = iso(tmp_path / "x.iso", tmp_path / "source", "-R", "-V", f"IMAGE{is_burned:d}")
    words = ("disc", "import", str(image), "--to", str(box.mnt / name), "--copies", "2")
    begin = lambda: box.hsm(*words, "--no-wait", check=False)  # noqa: E731
    if is_burned:
        box.killed(begin, "catalog", "after", table="K", state="verified")
    else:
        box.killed(begin, "scsi", "after", nth=2, op=WRITE_12)
    (record,) = [
        volume
        for volume in box.catalog().volumes.values()
        if volume.foreign is not None and volume.foreign.stage == ImportStage.BURNING
    ]
    assert (box.state / "catalog" / "stage" / f"{record.label}.img").exists()
    image.unlink()
    box.start()
    if not is_burned:
        box.until(lambda: record.label not in box.volumes())
        assert not (box.mnt / name).exists()
        return
    box.until(lambda: box.hsm("volume", "show", record.label)["foreign"]["stage"] == "done")
    assert {path.name for path in (box.mnt / name).iterdir()} == set(made)
    assert (box.mnt / name / "7").read_bytes() == made["7"]


def test_first_read_of_data_of_others_before_its_hash_is_stored(
    importing: Callable[[str], Import],
) -> None:
    one = importing("first read")
    one.begin()
    one.whole()
    path, data = one.target / "9", one.made["9"]
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()), daemon=True)
    one.box.killed(reader.start, "catalog", "before", table="E")
    one.box.start()
    reader.join(90)
    assert found == [data]
    # Who got all before hsmd was gone waits no more: then the next reader brings it back.
    assert path.read_bytes() == data
    one.box.until(lambda: os.getxattr(path, "user.hsm.state") == b"premigrated")
    one.box.hsm("release", str(path))
    assert path.read_bytes() == data
    located = one.box.hsm("locate", str(path))["copies"]
    assert [copy["hashed"] for copy in located] == [True]
