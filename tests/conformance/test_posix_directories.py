"""Directories: what is listed while entries come and go, positions, many entries, names."""

from __future__ import annotations

import os
import random

import pytest
from support.dirstreams import all_entries, names, next_entries, rewind
from support.pathcalls import FORMATS, KINDS, make_kind
from support.places import OK, make_file, opened, outcome

MANY = 20_000
SOME = 300
SMALL_BUFFER = 400
"""A few entries at a time."""


@pytest.fixture
def full(here):
    """A directory with some entries, open; and their names."""
    os.mkdir("d")
    made = [f"entry-{number:04d}" for number in range(SOME)]
    for name in made:
        make_file(f"d/{name}")
    with opened("d", os.O_RDONLY | os.O_DIRECTORY) as fd:
        yield fd, made


def test_each_entry_is_listed_once(full):
    fd, made = full
    for buffer_bytes in (SMALL_BUFFER, 4_096, 100_000):
        rewind(fd)
        found = all_entries(fd, buffer_bytes)
        assert sorted(names(found)) == made
        assert [entry.name for entry in found].count(".") == 1
        assert [entry.name for entry in found].count("..") == 1
        assert len({entry.after for entry in found}) == len(found)


def test_inode_numbers_and_types(here):
    kinds = [kind for kind in KINDS if os.geteuid() == 0 or kind not in ("char", "block")]
    for kind in kinds:
        make_kind(kind, kind)
    with opened(".", os.O_RDONLY) as fd:
        found = {entry.name: entry for entry in all_entries(fd)}
    assert found["."].ino == os.stat(".").st_ino
    assert found[".."].ino in (os.stat("..").st_ino, os.stat(".").st_ino)
    for kind in kinds:
        assert found[kind].ino == os.lstat(kind).st_ino
        assert found[kind].kind == FORMATS[kind] >> 12


def test_any_position_can_be_gone_back_to(full):
    fd, _ = full
    entries = all_entries(fd, SMALL_BUFFER)
    order = list(range(len(entries) - 1))
    random.Random(5).shuffle(order)
    for index in order[:60]:
        rewind(fd, entries[index].after)
        assert next_entries(fd, SMALL_BUFFER)[0].name == entries[index + 1].name
    rewind(fd, entries[-1].after)
    assert next_entries(fd) == []


def test_positions_hold_in_another_descriptor(full):
    fd, _ = full
    entries = all_entries(fd)
    with opened("d", os.O_RDONLY) as other:
        rewind(other, entries[100].after)
        assert [e.name for e in all_entries(other)] == [e.name for e in entries[101:]]


def test_positions_hold_while_entries_go(full):
    """What went may still be told before a rewind (readdir(3)): the kernel's cache does."""
    fd, _ = full
    entries = all_entries(fd)
    rng = random.Random(3)
    removed = set(rng.sample(names(entries), SOME // 2))
    for name in removed:
        os.unlink(f"d/{name}")
    for index in range(0, len(entries) - 1, 7):
        rewind(fd, entries[index].after)
        found = [e.name for e in all_entries(fd) if e.name not in removed]
        assert found == [e.name for e in entries[index + 1 :] if e.name not in removed]
    rewind(fd)
    assert not removed & set(names(all_entries(fd)))


def test_positions_hold_while_entries_come(full):
    fd, made = full
    entries = all_entries(fd)
    for number in range(SOME):
        make_file(f"d/new-{number}")
    for index in range(0, len(entries) - 1, 13):
        rewind(fd, entries[index].after)
        old = [name for name in names(all_entries(fd)) if name in made]
        assert old == names(entries[index + 1 :])
    rewind(fd)
    assert len(names(all_entries(fd))) == 2 * SOME


@pytest.mark.parametrize("work", ["remove", "rename", "make", "all"])
def test_a_listing_under_way_misses_nothing_that_stays(full, work):
    """readdir(3): what is there all the time comes once, whatever else comes and goes."""
    fd, made = full
    rng = random.Random(work)
    stays = set(rng.sample(made, SOME // 2))
    goes = sorted(set(made) - stays)
    seen: list[str] = []
    number = 0
    while some := next_entries(fd, SMALL_BUFFER):
        seen += names(some)
        if goes and work in ("remove", "all"):
            os.unlink(f"d/{goes.pop()}")
        if goes and work in ("rename", "all"):
            os.rename(f"d/{goes.pop()}", f"d/renamed-{number}")
        if work in ("make", "all"):
            make_file(f"d/made-{number}")
        number += 1
        assert number < 20 * SOME
    counts = {name: seen.count(name) for name in stays}
    assert set(counts.values()) == {1}
    assert len(seen) == len(set(seen))


def test_rm_while_listing(here):
    for number in range(1_000):
        make_file(f"{number}")
    with os.scandir(".") as listing:
        for entry in listing:
            os.unlink(entry.name)
    assert os.listdir(".") == []


def test_many_entries(here):
    os.mkdir("d")
    os.chdir("d")
    for number in range(MANY):
        os.mknod(f"{number}")
    with opened(".", os.O_RDONLY) as fd:
        entries = all_entries(fd)
        assert {name for name in names(entries)} == {str(number) for number in range(MANY)}
        rewind(fd, entries[MANY // 2].after)
        assert next_entries(fd)[0].name == entries[MANY // 2 + 1].name
    assert os.stat(".").st_nlink == 2
    for number in range(0, MANY, 997):
        assert outcome(os.mknod, f"{number}") == "EEXIST"
        os.rename(f"{number}", f"renamed-{number}")
    assert len(os.listdir(".")) == MANY
    assert outcome(os.rmdir, "../d") == "ENOTEMPTY"


@pytest.mark.parametrize("order", ["up", "down", "random"])
def test_trees_are_removed_in_any_order(here, order):
    paths = [f"d/{a}/{b}" for a in range(6) for b in range(6)]
    for path in paths:
        os.makedirs(path)
        make_file(f"{path}/f")
    if order == "down":
        paths.reverse()
    elif order == "random":
        random.Random(1).shuffle(paths)
    for path in paths:
        os.unlink(f"{path}/f")
        os.rmdir(path)
    for a in range(6):
        os.rmdir(f"d/{a}")
    assert os.listdir("d") == []
    assert os.stat("d").st_nlink == 2


NAMES = [
    b"\xff",
    b"\xff\xfe\xfd",
    b"\xc3\x28",
    b"a\nb",
    b"\x01\x02\x7f",
    b" ",
    b"  lead and trail  ",
    b"-rf",
    b"*",
    b"...",
    b"..a",
    b"a\\b",
    b'"quoted"',
    b"$HOME",
    "ä".encode(),
    "a\u0308".encode(),
    "İı".encode(),
    "日本語".encode(),
    b"CON",
    b"a:b",
    b"n" * 255,
    "é".encode() * 127,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_any_bytes(here, name):
    with open(name, "wb") as file:
        file.write(name)
    assert os.listdir(b".") == [name]
    os.mkdir(b"d")
    os.rename(name, b"d/" + name)
    os.link(b"d/" + name, name)
    with open(name, "rb") as file:
        assert file.read() == name
    os.symlink(name, b"s")
    assert os.readlink(b"s") == name
    assert os.stat(b"s").st_nlink == 2


def test_all_names_together_are_apart(here):
    """No case is folded, nothing is normalized."""
    more = [b"a", b"A", b"a ", b"a.", "ä".encode(), "Ä".encode(), "\uff41".encode()]
    for name in {*NAMES, *more}:
        with open(name, "xb") as file:
            file.write(name)
    for name in {*NAMES, *more}:
        with open(name, "rb") as file:
            assert file.read() == name
    assert set(os.listdir(b".")) == {*NAMES, *more}


def test_deep_trees(here):
    depth = 400
    for _ in range(depth):
        os.mkdir("d" * 20)
        os.chdir("d" * 20)
    make_file("bottom")
    with opened("bottom") as fd:
        os.write(fd, b"x")
        assert os.fstat(fd).st_size == 1
    for _ in range(depth):
        assert outcome(os.rmdir, "d" * 20) in ("ENOENT", "ENOTEMPTY")
        os.chdir("..")
    assert os.stat(".").st_ino == os.stat(here.root).st_ino


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (lambda fd: os.lseek(fd, -1, os.SEEK_SET), "EINVAL"),
        (lambda fd: os.read(fd, 10), "EISDIR"),
        (lambda fd: os.write(fd, b"x"), "EBADF"),
        (lambda fd: os.fsync(fd), OK),
        (lambda fd: os.fchdir(fd), OK),
    ],
)
def test_calls_on_an_open_directory(here, call, wanted):
    with opened(".", os.O_RDONLY) as fd:
        assert outcome(call, fd) == wanted


def test_listing_what_is_no_directory(here):
    make_file("f")
    with opened("f", os.O_RDONLY) as fd:
        assert outcome(next_entries, fd) == "ENOTDIR"
    assert outcome(os.listdir, "f") == "ENOTDIR"
