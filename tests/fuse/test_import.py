"""Discs that others wrote: imported in a library, read by the robot, proved, forgotten."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.foreigndiscs import WHEN_NS, iso, tree
from support.sandboxes import Sandbox
from support.vatdisc import VatDisc
from support.volumes import burn

from hsmfs.changer.emulated import open_library
from hsmfs.volume.source import FileSource

pytestmark = pytest.mark.fuse
DISC, OTHER = "HSM00003", "HSM00009"


@pytest.fixture(params=["native"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path / "sb")
    options = ("--drives", "2", "--slots", "12", "--disc-bytes", "20000000")
    sandbox.start(*options, "--session", request.param)
    try:
        yield sandbox
    finally:
        sandbox.stop()


def put_in(box: Sandbox, barcode: str, image: Path | bytes) -> None:
    """A person puts somebody else's disc in the place of a blank one."""
    box.stop()
    open_library(box.root / "library").hands.load_foreign(barcode, image)
    box.start()


def disc(box: Sandbox, barcode: str) -> dict[str, Any]:
    return next(one for one in box.discs() if one["barcode"] == barcode)


def compare(source: Path, mounted: Path) -> None:
    """Names, types, modes, owners, times, targets and content are what was burned."""
    found = {os.path.relpath(path, mounted) for path in walk(mounted)}
    assert found == {os.path.relpath(path, source) for path in walk(source)}
    for real in walk(source):
        shown, facts = mounted / os.path.relpath(real, source), os.lstat(real)
        seen = os.lstat(shown)
        mine = (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_mtime_ns)
        if stat.S_ISLNK(facts.st_mode):
            assert os.readlink(shown) == os.readlink(real)
            continue
        assert mine == (facts.st_mode, facts.st_uid, facts.st_gid, facts.st_mtime_ns), real
        if stat.S_ISREG(facts.st_mode):
            assert shown.read_bytes() == Path(real).read_bytes(), real


def walk(root: Path) -> Iterator[str]:
    for folder, names, files in os.walk(root):
        yield from (os.path.join(folder, name) for name in names + files)


@pytest.mark.parametrize("box", ["native", "pyfuse3"], indirect=True)
def test_a_disc_becomes_a_tree_that_nobody_changes(box: Sandbox, tmp_path: Path) -> None:
    source = tree(tmp_path / "source")
    put_in(box, DISC, iso(tmp_path / "x.iso", source, "-R", "-J", "-V", "EXAMS 2001"))
    target = box.mnt / "old"
    assert not target.exists()  # the kernel remembers that there is none
    done = box.hsm("disc", "import", DISC, "--to", str(target))
    assert (done["state"], done["errors"]) == ("done", [])
    label = f"EXAMS_2001_{DISC}"
    assert label in done["note"]
    assert (disc(box, DISC)["state"], disc(box, DISC)["volume"]) == ("imported", label)
    files = box.hsm("ls", "-r", str(target))["files"]
    assert {(one["state"], one["copies"]) for one in files} == {("migrated", 1)}
    assert {tuple(one["volumes"]) for one in files} == {(label,)}
    compare(source, target)
    located = box.hsm("locate", str(target / "big.bin"))["copies"]
    assert [(one["disc"], one["state"], one["hashed"]) for one in located] == [
        (DISC, "imported", True)
    ]
    for act in (
        lambda: (target / "new").write_bytes(b""),
        lambda: (target / "a/new").mkdir(),
        lambda: (target / "empty").unlink(),
        lambda: (target / "big.bin").open("r+b"),
        lambda: os.truncate(target / "big.bin", 0),
        lambda: os.rename(target / "empty", target / "other"),
        lambda: os.rename(target / "empty", box.mnt / "other"),
        lambda: os.chmod(target / "a", 0o777),
        lambda: os.utime(target / "a", (1, 1)),
        lambda: os.rmdir(target),
    ):
        with pytest.raises(OSError) as error:
            act()
        assert error.value.errno == errno.EROFS
    shown = box.hsm("volume", "show", label)
    assert shown["foreign"]["format"] == "ISO 9660 with Rock Ridge"
    assert shown["files"] == len(files) == len(shown["contents"])
    box.stop()
    assert box.hsm("fsck", check=False)["findings"] == []
    box.start()
    compare(source, target)


def test_first_read_hashes_and_a_changed_byte_is_found_later(box: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("one", "two", "three"):
        (source / name).write_bytes(name.encode() * 1_000_000)
    put_in(box, DISC, iso(tmp_path / "x.iso", source, "-R"))
    target = box.mnt / "in" / "it"
    (box.mnt / "in").mkdir()
    box.hsm("disc", "import", DISC, "--to", str(target))
    assert (target / "one").read_bytes() == (source / "one").read_bytes()
    box.hsm("release", "-r", "--wait", str(target))
    assert (target / "one").read_bytes() == (source / "one").read_bytes()
    box.hsm("release", "-r", "--wait", str(target))
    box.stop()  # so that the disc is not in a drive, and nothing is remembered
    image = box.root / "library" / "discs" / f"{DISC}.img"
    data = bytearray(image.read_bytes())
    data[data.index(b"oneone") + 2_000_000] ^= 1
    image.write_bytes(data)
    box.start()
    with pytest.raises(OSError) as error:
        (target / "one").read_bytes()
    assert error.value.errno == errno.EIO
    assert (target / "two").read_bytes() == (source / "two").read_bytes()
    done = box.hsm("disc", "verify", DISC, check=False)
    assert done["state"] == "partial"
    assert "one: bytes 0 to 3000000 are not those that were hashed before" in done["errors"][0]
    assert disc(box, DISC)["state"] == "imported"
    assert "1 files are damaged" in box.hsm("disc", "show", DISC)["history"][-1]["text"]


def test_hashed_at_once_and_forgotten(box: Sandbox, tmp_path: Path) -> None:
    files = {f"病人/{n} 😀": os.urandom(n * 977) for n in range(30)} | {"at the top": b"x"}
    put_in(box, DISC, VatDisc(0x0201).image(files))
    target = box.mnt / "old"
    target.mkdir()
    assert os.listdir(target) == []
    done = box.hsm("disc", "import", DISC, "--to", str(target), "--hash")
    assert done["state"] == "done", done
    assert "31 files hashed, 0 proved" in box.hsm("disc", "show", DISC)["history"][-1]["text"]
    label = disc(box, DISC)["volume"]
    assert box.hsm("volume", "verify", label)["note"].endswith("0 files hashed, 31 proved")
    located = box.hsm("locate", str(target / "病人/29 😀"))["copies"][0]
    assert located["hashed"] and len(located["sha256"]) == 64
    for path, data in files.items():
        assert (target / path).read_bytes() == data
        assert (target / path).stat().st_mtime_ns == 1_000_000_000_000_000_000
    with (target / "at the top").open("rb") as still_open:
        assert box.hsm("disc", "forget-import", DISC)["state"] == "done"
        assert not target.exists()
        assert still_open.read() == b"x"
    assert (disc(box, DISC)["state"], disc(box, DISC)["volume"]) == ("foreign", "")
    assert label not in {one["label"] for one in box.hsm("volume", "ls")["volumes"]}
    box.hsm("disc", "import", DISC, "--to", str(target))
    assert (target / "病人/29 😀").read_bytes() == files["病人/29 😀"]
    box.stop()
    assert box.hsm("fsck", check=False)["findings"] == []


def test_an_image_is_burned_and_shown(box: Sandbox, tmp_path: Path) -> None:
    source = tree(tmp_path / "source")
    image = iso(tmp_path / "x.iso", source, "-R", "-udf", "-V", "EXAMS")
    target = box.mnt / "old"
    done = box.hsm("disc", "import", str(image), "--to", str(target), "--hash", "--copies", "2")
    assert (done["state"], done["errors"]) == ("done", [])
    burned = [one for one in box.discs() if one["state"] == "verified"]
    assert len(burned) == 2
    assert burned[0]["magazine"] != burned[1]["magazine"]
    (label,) = {one["volume"] for one in burned}
    for one in burned:
        data = (box.root / "library" / "discs" / f"{one['barcode']}.img").read_bytes()
        assert data.rstrip(b"\0") == image.read_bytes().rstrip(b"\0")
    image.unlink()
    compare(source, target)
    files = box.hsm("ls", "-r", str(target))["files"]
    assert {one["copies"] for one in files} == {2}
    box.hsm("release", "-r", "--wait", str(target))
    lost = box.root / "library" / "discs" / f"{burned[0]['barcode']}.img"
    box.stop()
    lost.write_bytes(bytes(lost.stat().st_size))
    box.start()
    compare(source, target)  # from the other copy
    box.hsm("volume", "repair", label)
    assert sum(one["state"] == "verified" for one in box.discs()) == 2
    assert box.hsm("volume", "verify", label, check=False)["files_done"] == 2
    box.stop()
    assert box.hsm("fsck", check=False)["findings"] == []
    box.start()
    assert box.hsm("disc", "forget-import", label)["state"] == "done"
    assert not target.exists()
    assert {one["volume"] for one in box.discs()} == {""}
    box.stop()
    assert box.hsm("fsck", check=False)["findings"] == []


def test_an_image_that_was_not_burned_is_forgotten(box: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(os.urandom(25_000_000))  # more than a disc here holds
    image = iso(tmp_path / "x.iso", source, "-R")
    target = box.mnt / "old"
    box.hsm("disc", "import", str(image), "--to", str(target), "--no-wait")
    box.until(lambda: box.hsm("volume", "ls")["volumes"])
    box.kill("hsmd")
    box.start()
    box.until(lambda: not box.hsm("volume", "ls")["volumes"])
    assert not target.exists()
    assert {one["state"] for one in box.discs()} == {"blank"}
    box.stop()
    assert not list((box.root / "state" / "catalog" / "imports").iterdir())
    assert box.hsm("fsck", check=False)["findings"] == []


def test_what_is_refused_and_why(box: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"x")
    image = iso(tmp_path / "x.iso", source, "-R")
    burn(tmp_path / "own.img", "OWN", [FileSource(path=b"a", ino=20, size=3000)])
    (tmp_path / "noise.img").write_bytes(os.urandom(2_048_000))
    box.stop()
    hands = open_library(box.root / "library").hands
    for barcode, what in (
        (DISC, image),
        (OTHER, image),
        ("HSM00004", tmp_path / "own.img"),
        ("HSM00005", tmp_path / "noise.img"),
    ):
        hands.load_foreign(barcode, what)
    box.start()
    (box.mnt / "full").mkdir()
    (box.mnt / "full" / "x").touch()
    (box.mnt / "file").touch()

    def refused(barcode: str, where: str) -> str:
        done = box.hsm("disc", "import", barcode, "--to", where, check=False)
        return done.stderr if hasattr(done, "stderr") else "; ".join(done["errors"])

    new = str(box.mnt / "new")
    assert "disc HSM00006 is blank" in refused("HSM00006", new)
    assert "found volume 'OWN' of hsmfs's own format" in refused("HSM00004", new)
    assert "no file system that is known" in refused("HSM00005", new)
    assert "disc 'NOSUCH' is not known" in refused("NOSUCH", new)
    assert "is not inside the mount" in refused(DISC, "/tmp/elsewhere")
    assert "root of the mount" in refused(DISC, str(box.mnt))
    assert "full is not empty" in refused(DISC, str(box.mnt / "full"))
    assert "file is not a directory" in refused(DISC, str(box.mnt / "file"))
    assert "found no directory above it" in refused(DISC, str(box.mnt / "no" / "such"))
    assert not (box.mnt / "new").exists()
    assert box.hsm("volume", "ls")["volumes"] == []
    assert box.hsm("disc", "import", DISC, "--to", new)["state"] == "done"
    assert "is imported already" in refused(DISC, str(box.mnt / "again"))
    assert f"the same volume 'CDROM' that disc {DISC} holds" in refused(OTHER, str(box.mnt / "b"))
    done = box.hsm("disc", "forget-import", OTHER, check=False)
    assert "is no imported disc" in done.stderr


def test_a_kill_at_any_time_and_the_import_is_whole_or_gone(box: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(1500):
        path = source / f"d{number % 7}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
        os.utime(path, ns=(WHEN_NS, WHEN_NS))
    for number in range(7):
        os.utime(source / f"d{number}", ns=(WHEN_NS, WHEN_NS))
    put_in(box, DISC, iso(tmp_path / "x.iso", source, "-R"))
    target = box.mnt / "old"
    for attempt in range(4):
        if disc(box, DISC)["state"] != "imported":
            box.hsm("disc", "import", DISC, "--to", str(target), "--no-wait")
        program = "hsmd" if attempt % 2 else "hsmfs"
        time.sleep(0.1 * attempt)
        box.kill(program)
        box.start()
    box.until(lambda: disc(box, DISC)["volume"] or import_again(box, target))
    label = disc(box, DISC)["volume"]
    box.until(lambda: box.hsm("volume", "show", label)["foreign"]["stage"] == "done")
    compare(source, target)
    box.hsm("disc", "forget-import", DISC, "--no-wait")
    box.kill("hsmd")
    box.start()
    box.until(lambda: disc(box, DISC)["state"] == "foreign" and not target.exists())
    box.stop()
    assert box.hsm("fsck", check=False)["findings"] == []


def import_again(box: Sandbox, target: Path) -> bool:
    return bool(box.hsm("disc", "import", DISC, "--to", str(target))["state"] == "done")
