"""The awkward corpus: through migrate, release, recall, through rebuild, and other readers."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import corpus
from support.corpus import Item, differences, digest, facts_of
from support.damage import libudfread
from support.discreaders import linux, udfclient
from support.sandboxes import Sandbox
from support.sevenzip import needs_7z, seven_zip
from support.udfread import LIBRARY

from hsmfs.volume.names import disc_path

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="owners need root"),
]
DISC = "400000000"
LONG_S = 900.0
READ_STEP = 5
"""Each fifth item is read by a program before all is burned."""
SIZES = [
    pytest.param((500, 300), id="small"),
    pytest.param((corpus.WIDE, 0o10000), id="20,000 entries, all modes", marks=pytest.mark.long),
]


@dataclass(slots=True)
class Tried:
    """A system that went all the way."""

    items: list[Item]
    before: dict[bytes, Any]
    recalled: dict[bytes, Any]
    rebuilt: dict[bytes, Any]
    answer: dict[str, Any]
    image: Path


@pytest.fixture(scope="module", params=SIZES)
def tried(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    box = Sandbox(tmp_path_factory.mktemp("corpus") / "sb")
    box.start("--drives", "1", "--slots", "4", "--disc-bytes", DISC, "--pool-copies", "1")
    try:
        return all_the_way(box, corpus.corpus(*request.param))
    finally:
        box.stop()


def all_the_way(box: Sandbox, items: list[Item]) -> Tried:
    """Written, burned, released, recalled; all but the discs lost, rebuilt, recalled."""
    top = os.fsencode(box.mnt)
    corpus.make(items, top)
    for item in items[::READ_STEP]:
        if item.kind == "file":  # a read's access time goes to the disc as well as a given one
            (box.mnt / os.fsdecode(item.path)).read_bytes()
    before = facts_of(top)
    for words in (("migrate",), ("release",)):
        box.hsm(*words, "-r", "--wait", str(box.mnt), timeout=LONG_S)
    assert {file["state"] for file in box.files()} == {"migrated"}
    box.hsm("recall", "-r", "--wait", str(box.mnt), timeout=LONG_S)
    recalled = facts_of(top)
    box.stop()
    for name in ("state/namespace", "state/catalog", "cache"):
        shutil.rmtree(box.root / name)
    (box.root / "cache").mkdir()
    answer = box.hsm("rebuild", "--from", str(box.root / "library"), timeout=LONG_S)
    assert box.hsm("fsck", check=False, timeout=LONG_S)["findings"] == []
    box.start()
    box.hsm("recall", "-r", "--wait", str(box.mnt), timeout=LONG_S)
    rebuilt = facts_of(top)
    (image,) = (box.root / "library" / "discs").iterdir()
    return Tried(items, before, recalled, rebuilt, answer, image)


def test_the_corpus_is_what_was_asked_for(tried: Tried) -> None:
    read = {item.path for item in tried.items[::READ_STEP] if item.kind == "file"}
    for item in tried.items:
        found = tried.before[item.path]
        if item.kind != "link":
            assert (found["uid"], found["gid"], found["mtime_ns"]) == (
                item.uid, item.gid, item.mtime_ns,
            ), item  # fmt: skip
            if item.path in read and item.size:
                assert found["atime_ns"] > found["ctime_ns"], item
            elif item.path not in read:
                assert found["atime_ns"] == item.atime_ns, item
        if item.kind == "file":
            assert (found["size"], found["content"]) == (item.size, digest(item)), item
            assert stat.S_IMODE(found["mode"]) == item.mode, item
        for name, value in item.xattrs.items():
            assert found["xattrs"][name] == value, item


def test_released_and_recalled_it_is_the_same(tried: Tried) -> None:
    assert differences(tried.before, tried.recalled) == []


def test_rebuilt_from_the_discs_it_is_the_same(tried: Tried) -> None:
    assert differences(tried.before, tried.rebuilt) == []
    assert (tried.answer["not_whole"], tried.answer["unproved"]) == (0, 0)
    assert (tried.answer["damage"], tried.answer["changes_complete"]) == ([], True)


# -- other readers --------------------------------------------------------------------------------


def expected(tried: Tried) -> dict[str, Item]:
    """Files by path on the disc; a link as the file that it is."""
    by_path = {item.path: item for item in tried.items}
    return {
        disc_path(item.path): by_path[item.target] if item.kind == "link" else item
        for item in tried.items
        if item.kind in ("file", "link")
    }


def without_own(found: dict[str, str]) -> dict[str, str]:
    return {path: value for path, value in found.items() if not path.startswith(".hsm/")}


@pytest.mark.skipif(LIBRARY is None, reason="libudfread is not installed")
def test_libudfread_reads_every_file(tried: Tried, tmp_path: Path) -> None:
    found = {
        # Characters beyond U+FFFF are two surrogates in its names.
        os.fsencode(path)
        .decode("utf-8", "surrogatepass")
        .encode("utf-16", "surrogatepass")
        .decode("utf-16"): hashed
        for path, hashed in libudfread(tried.image, tmp_path, {}, LONG_S).items()
    }
    assert without_own(found) == {path: digest(item) for path, item in expected(tried).items()}


@needs_7z
def test_seven_zip_reads_every_file(tried: Tried, tmp_path: Path) -> None:
    seven_zip("x", f"-o{tmp_path / 'out'}", tried.image)
    found = {}
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            hashed = hashlib.sha256(path.read_bytes()).hexdigest()
            found[os.fsencode(path.relative_to(tmp_path / "out")).decode()] = hashed
    found["dots and spaces/ "] = found.pop("dots and spaces/[]")  # its name for one space
    assert without_own(found) == {path: digest(item) for path, item in expected(tried).items()}


def test_udfclient_reads_every_file(tried: Tried, tmp_path: Path) -> None:
    said = udfclient(tried.image, tmp_path / "out", timeout_s=LONG_S)
    assert "error" not in said.lower(), said[-3000:]
    copied = (p for p in (tmp_path / "out" / "disc").rglob("*") if p.is_file())
    found = Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in copied)
    # It shows what is not ASCII by "_" and a checksum: names cannot be compared.
    wanted = Counter(digest(item) for item in expected(tried).values())
    assert not wanted - found


def test_linux_reads_every_file(tried: Tried, tmp_path: Path) -> None:
    found = linux(tried.image, tmp_path, timeout_s=LONG_S)
    assert found["errors"] == []
    assert not [line for line in found["log"] if "INFO Mounting volume" not in line]
    entries = {os.fsdecode(path): facts for path, facts in found["entries"].items()}
    for path, item in expected(tried).items():
        mode, uid, gid, _, size, mtime_ns, hashed = entries.pop(path)
        assert (hashed, stat.S_IMODE(mode), size) == (digest(item), item.mode, item.size), path
        assert (uid, gid) == (item.uid, item.gid), path
        assert mtime_ns == item.mtime_ns // 1000 * 1000, path
    files = {path for path, facts in entries.items() if stat.S_ISREG(facts[0])}
    assert {path for path in files if not path.startswith(".hsm/")} == set()


# -- great files --------------------------------------------------------------------------------


@pytest.mark.long
def test_files_around_one_gib(tmp_path: Path) -> None:
    """Several extents on the disc; sparse in the cache."""
    box = Sandbox(tmp_path / "sb")
    box.start("--drives", "1", "--slots", "4", "--disc-bytes", "4000000000", "--pool-copies", "1")
    try:
        tried = all_the_way(box, corpus.great())
        assert differences(tried.before, tried.recalled) == []
        assert differences(tried.before, tried.rebuilt) == []
        wanted = {disc_path(item.path): digest(item) for item in tried.items}
        assert without_own(libudfread(tried.image, tmp_path, {}, LONG_S)) == wanted
        entries = linux(tried.image, tmp_path / "linux", timeout_s=LONG_S)["entries"]
        assert {path.decode(): facts[6] for path, facts in entries.items() if facts[6]}.items() >= (
            wanted.items()
        )
        said = udfclient(tried.image, tmp_path / "udfclient", timeout_s=LONG_S)
        assert "error" not in said.lower()
        for path, hashed in wanted.items():
            with (tmp_path / "udfclient" / "disc" / path).open("rb") as file:
                assert hashlib.file_digest(file, "sha256").hexdigest() == hashed
        if shutil.which("7z"):
            seven_zip("x", f"-o{tmp_path / 'out'}", tried.image, timeout_s=LONG_S)
            for path, hashed in wanted.items():
                with (tmp_path / "out" / path).open("rb") as file:
                    assert hashlib.file_digest(file, "sha256").hexdigest() == hashed
    finally:
        box.stop()
