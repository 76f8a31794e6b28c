"""Rebuild from damaged discs, and from discs whose sets of changes have gaps."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from support.volumes import SITE, burn, changes, content, paths_of, stopped_system

from hsmfs.daemon.namespaceset import SetLine
from hsmfs.errors import CallerError, MediumError
from hsmfs.fsck.findings import Summary
from hsmfs.tools.fsckcommand import findings
from hsmfs.tools.rebuild.collect import Collected
from hsmfs.tools.rebuild.images import find, opened
from hsmfs.tools.rebuild.run import rebuild
from hsmfs.tools.rebuild.tree import Outcome
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.source import FileSource

ONE, TWO, THREE = (f"{SITE}-{number:06d}" for number in (1, 2, 3))
ROOT = SetLine(ino=1, mode=0o40755)
GZIP = b"\x1f\x8b\x08"


def source(ino: int, path: bytes) -> FileSource:
    return FileSource(path=path, ino=ino, data_version=1, size=100)


FILES = [source(20 + n, b"f%d" % n) for n in range(5)]
ALL = {b"f%d" % n: 20 + n for n in range(5)}


def file(ino: int, name: str, parent: int = 1) -> SetLine:
    return SetLine(ino=ino, names=[[parent, name]], mode=0o100644, size=100, data_version=1)


def folder(ino: int, name: str, parent: int = 1) -> SetLine:
    return SetLine(ino=ino, names=[[parent, name]], mode=0o40750)


def rebuilt(root: Path, images: Sequence[Path]) -> tuple[dict[bytes, int], Collected, Outcome]:
    """Paths with inodes; fsck finds nothing."""
    config = stopped_system(root / "system")
    _, _, collected, outcome = rebuild(config, images, lambda what, path, why: None)
    assert [one for one in findings(config, False, None, Summary())] == []
    return paths_of(config), collected, outcome


def hurt(whole: Path, image: Path, mark: bytes) -> Path:
    """A copy with a changed byte."""
    data = bytearray(whole.read_bytes())
    data[data.rindex(mark)] ^= 0xFF
    image.write_bytes(data)
    return image


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    image = tmp_path / "B.img"
    burn(image, ONE, FILES, changes(0, 10, ROOT, *(file(20 + n, f"f{n}") for n in range(5))))
    return image


@pytest.mark.parametrize(
    "mark", [b'"path":"f2"', b'"kind":"end"', GZIP], ids=["line", "end", "set"]
)
def test_a_copy_with_a_damaged_manifest_is_made_up_for_by_another(
    tmp_path: Path, whole: Path, mark: bytes
) -> None:
    found, collected, outcome = rebuilt(tmp_path, [hurt(whole, tmp_path / "A.img", mark), whole])
    assert found == ALL
    assert collected.is_complete()
    assert len(collected.notes) == 1
    assert outcome.files == 5


def test_a_damaged_manifest_is_made_up_for_by_a_later_volume(tmp_path: Path, whole: Path) -> None:
    with opened(whole) as reader:
        manifest = gzip.compress(reader.read_file("/.hsm/manifest.jsonl"))
    later = tmp_path / "C.img"
    burn(later, TWO, [], {b"manifests/%s.jsonl.gz" % ONE.encode(): manifest}, created_ns=2)
    damaged = hurt(whole, tmp_path / "A.img", b'"path":"f2"')
    found, collected, outcome = rebuilt(tmp_path, [damaged, later])
    assert found == ALL
    assert (outcome.files, dict(outcome.waiting), collected.missing) == (5, {}, {})


def test_without_sets_a_file_of_a_damaged_line_becomes_a_new_inode(tmp_path: Path) -> None:
    whole = tmp_path / "B.img"
    burn(whole, ONE, FILES)
    damaged = hurt(whole, tmp_path / "A.img", b'"path":"f2"')
    found, collected, outcome = rebuilt(tmp_path, [damaged])
    new = found.pop(b"f2")
    assert new > 1 << 24
    assert found == {path: ino for path, ino in ALL.items() if path != b"f2"}
    assert any("1 pieces of the manifest" in note for note in collected.notes)
    assert (outcome.files, outcome.unproved) == (5, 1)


def erased(whole: Path, image: Path) -> Path:
    """A copy without its manifest."""
    data = whole.read_bytes()
    with opened(whole) as reader:
        manifest = b"".join(reader.stream_manifest())
    at = data.rindex(manifest)
    image.write_bytes(data[:at] + bytes(len(manifest)) + data[at + len(manifest) :])
    return image


@pytest.mark.parametrize("is_lost", [False, True], ids=["a line", "all lines"])
def test_sets_tell_the_inode_of_a_file_that_only_the_tree_has(
    tmp_path: Path, whole: Path, is_lost: bool
) -> None:
    """Also where it was renamed after the burn."""
    later = tmp_path / "C.img"
    burn(later, TWO, [], changes(10, 20_000, file(22, "renamed")), created_ns=20_000)
    mark = b'"path":"f2"'
    image = tmp_path / "A.img"
    damaged = erased(whole, image) if is_lost else hurt(whole, image, mark)
    found, collected, outcome = rebuilt(tmp_path, [later, damaged])
    assert found == {p: n for p, n in ALL.items() if p != b"f2"} | {b"renamed": 22}
    assert collected.is_complete()
    assert (outcome.files, outcome.unproved) == (5, 5 if is_lost else 1)
    assert any("taken in by the UDF tree" in note for note in collected.notes)


def test_a_changed_file_is_not_taken_for_an_inode(tmp_path: Path) -> None:
    """The sets know all, and no inode had this size and time at the burn."""
    image = tmp_path / "B.img"
    inodes = [file(20 + n, f"f{n}") for n in range(5)]
    inodes[2].size = 7
    burn(image, ONE, FILES, changes(0, 10, ROOT, *inodes))
    found, collected, outcome = rebuilt(tmp_path, [hurt(image, tmp_path / "A.img", b'"path":"f2"')])
    assert b"f2" not in found
    assert (outcome.files, outcome.unproved, outcome.lost) == (4, 0, 1)
    assert any("1 files of the UDF tree are no file's newest" in note for note in collected.notes)


def test_a_proved_place_of_the_same_version_counts_alone(tmp_path: Path, whole: Path) -> None:
    """Damaged in line and data: the bytes of the other volume are right."""
    other = tmp_path / "C.img"
    burn(other, TWO, FILES[2:3], created_ns=20)
    damaged = hurt(whole, tmp_path / "A.img", b'"path":"f2"')
    data = bytearray(damaged.read_bytes())
    data[data.index(content(FILES[2]))] ^= 1
    damaged.write_bytes(data)
    config = stopped_system(tmp_path / "system")
    told: list[tuple[str, str]] = []
    _, _, _, outcome = rebuild(config, [damaged, other], lambda what, path, why: told.append(
        (what, path)))  # fmt: skip
    assert told == []
    assert (outcome.files, outcome.unproved) == (5, 0)
    assert [one for one in findings(config, False, None, Summary())] == []


def test_each_copy_with_another_damaged_line_makes_a_whole_one(tmp_path: Path, whole: Path) -> None:
    one = hurt(whole, tmp_path / "A.img", b'"path":"f2"')
    other = hurt(whole, tmp_path / "C.img", b'"path":"f3"')
    found, collected, outcome = rebuilt(tmp_path, [one, other])
    assert found == ALL
    assert (outcome.files, outcome.unproved) == (5, 0)
    assert len([note for note in collected.notes if ".img: " in note]) == 2


def test_a_damaged_first_line_is_made_up_for(tmp_path: Path, whole: Path) -> None:
    """By another copy; by an earlier volume of the pool; else the pool is not known."""
    hurt_one = hurt(whole, tmp_path / "A.img", b'"kind":"hsm-manifest"')
    found, left_out = find([hurt_one, whole], SITE)
    assert left_out == []
    assert (found[ONE].header.pool, found[ONE].is_guessed) == ("main", False)
    found, _ = find([hurt_one], SITE)
    assert (found[ONE].header.pool, found[ONE].is_guessed) == ("", True)
    with opened(whole) as reader:
        manifest = gzip.compress(reader.read_file("/.hsm/manifest.jsonl"))
    later = tmp_path / "C.img"
    burn(later, TWO, [], {b"manifests/%s.jsonl.gz" % ONE.encode(): manifest}, created_ns=20)
    second = hurt(later, tmp_path / "D.img", b'"kind":"hsm-manifest"')
    tree, collected, outcome = rebuilt(tmp_path, [hurt_one, second])
    assert tree == ALL
    assert (outcome.files, outcome.unproved) == (5, 0)
    assert any("taken are pool 'main'" in note for note in collected.notes)


def test_two_volumes_of_one_label_are_refused(tmp_path: Path, whole: Path) -> None:
    """Other headers; other contents under one header; and a damaged one of another time."""
    config = stopped_system(tmp_path / "system")
    other = tmp_path / "C.img"
    burn(other, ONE, FILES, changes(0, 10, ROOT), created_ns=9_000)
    same = tmp_path / "D.img"
    changed = [source(20 + n, b"g%d" % n) for n in range(5)]
    burn(same, ONE, changed, changes(0, 10, ROOT, *(file(20 + n, f"f{n}") for n in range(5))))
    cut = hurt(other, tmp_path / "E.img", b'"kind":"hsm-manifest"')
    for second in (other, same, cut):
        with pytest.raises(CallerError, match=f"found two different .* {ONE}"):
            rebuild(config, [whole, second], lambda what, path, why: None)


def test_a_newer_format_and_another_site_are_left_out(tmp_path: Path, whole: Path) -> None:
    newer = tmp_path / "C.img"
    newer.write_bytes(whole.read_bytes().replace(b'"format":2,', b'"format":9,'))
    foreign, hurt_foreign = tmp_path / "D.img", tmp_path / "E.img"
    burn(foreign, TWO, FILES, site="elsewhere")
    hurt(foreign, hurt_foreign, b'"kind":"hsm-manifest"')
    found, left_out = find([whole, newer, foreign, hurt_foreign], SITE)
    assert list(found) == [ONE]
    why = dict(left_out)
    assert "newer than this reader" in why[str(newer)]
    assert "disc of site 'elsewhere'" in why[str(foreign)]
    assert "disc of site 'elsewhere'" in why[str(hurt_foreign)]


def test_unreadable_sectors_of_a_manifest_cost_their_lines(tmp_path: Path) -> None:
    image = tmp_path / "B.img"
    many = [source(100 + n, b"%04d" % n) for n in range(400)]
    burn(image, ONE, many)
    data = image.read_bytes()
    bad = data.index(b'"path":"0200"') // SECTOR_BYTES

    def read(sector: int, sectors: int) -> bytes:
        if sector <= bad < sector + sectors:
            raise MediumError(f"sector {bad}: unreadable")
        return data[sector * SECTOR_BYTES : (sector + sectors) * SECTOR_BYTES]

    reader = VolumeReader(read, len(data) // SECTOR_BYTES)
    with pytest.raises(MediumError):
        reader.prove_manifest()
    lines: list[Any] = list(reader.manifest_around_damage())
    paths = [one.source.path for one in lines if not isinstance(one, MediumError)]
    damage = [one for one in lines if isinstance(one, MediumError)]
    assert set(paths) < {one.path for one in many}
    assert {b"0000", b"0150", b"0250", b"0399"} < set(paths)
    assert 1 <= len(damage) <= 3
    assert len(paths) > 380


def rebuilt_with_a_gap(
    root: Path, before: list[SetLine], after: list[SetLine], files: list[FileSource]
) -> tuple[dict[bytes, int], Outcome]:
    """The second of three sets of changes is missing."""
    first, third = root / "A.img", root / "C.img"
    burn(first, ONE, files, changes(0, 10, ROOT, *before), created_ns=1)
    burn(third, THREE, [], changes(20, 30, *after), created_ns=3)
    found, collected, outcome = rebuilt(root, [third, first])
    assert not collected.is_complete()
    return found, outcome


def test_of_two_files_with_one_path_the_newest_set_decides(tmp_path: Path) -> None:
    files = [source(20, b"x"), source(18, b"b")]
    before, after = [file(20, "x"), file(18, "b")], [file(18, "x")]
    found, outcome = rebuilt_with_a_gap(tmp_path, before, after, files)
    assert found == {b"x": 18}
    assert outcome.superseded == 1


def test_a_directory_that_a_newer_file_replaced_is_in_lost_found(tmp_path: Path) -> None:
    before = [folder(20, "x"), file(21, "in", 20), file(18, "b")]
    files = [source(21, b"x/in"), source(18, b"b")]
    found, outcome = rebuilt_with_a_gap(tmp_path, before, [file(18, "x")], files)
    assert (found[b"x"], found[b"lost+found/20/in"]) == (18, 21)
    assert outcome.moved == 1


def test_a_directory_that_a_newer_one_replaced_is_in_lost_found(tmp_path: Path) -> None:
    before = [folder(22, "x"), folder(23, "in", 22)]
    after = [folder(20, "x"), folder(21, "in", 20)]
    found, _ = rebuilt_with_a_gap(tmp_path, before, after, [])
    assert (found[b"x"], found[b"x/in"]) == (20, 21)
    assert (found[b"lost+found/22"], found[b"lost+found/22/in"]) == (22, 23)


def test_a_disc_read_in_a_drive_waits_to_be_identified(tmp_path: Path) -> None:
    """A drive tells no barcode, so the catalog cannot know which disc it was."""
    config = stopped_system(tmp_path)
    image = tmp_path / "D1.img"
    burn(image, "sandbox-000001", [FileSource(path=b"f", ino=20, data_version=1, size=9)])
    found, _ = find([image], SITE)
    found["sandbox-000001"].barcodes.clear()
    with patch("hsmfs.tools.rebuild.run.find", return_value=(found, [])):
        _, _, _, outcome = rebuild(config, [image], lambda what, path, why: None)
    assert (outcome.files, outcome.waiting) == (0, {"sandbox-000001": 1})
