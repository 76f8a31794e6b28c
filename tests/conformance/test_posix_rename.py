"""rename(2) and renameat2(2): every type over every type, flags, cycles, links."""

from __future__ import annotations

import os

import pytest
from support import syscalls
from support.pathcalls import KINDS, make_kind
from support.places import OK, content, make_file, needs_root, opened, outcome, outcome_as
from support.sides import User

NOREPLACE, EXCHANGE, WHITEOUT = syscalls.RENAME_NOREPLACE, syscalls.RENAME_EXCHANGE, 4
ALL_KINDS = (*KINDS, "full")
"""``full`` is a directory with something in it."""
DIRECTORIES = ("dir", "full")


def make(kind: str, path: str) -> tuple[int, int]:
    """Make it; what tells it from others."""
    if kind == "full":
        os.mkdir(path)
        make_file(f"{path}/in")
    elif os.geteuid() != 0 and kind in ("char", "block"):
        os.mkfifo(path)
    else:
        make_kind(kind, path)
    return identity(path)


def identity(path: str) -> tuple[int, int]:
    info = os.lstat(path)
    return info.st_ino, info.st_mode


def rename(old: str, new: str, flags: int = 0) -> None:
    if flags:
        syscalls.renameat2(os.fsencode(old), os.fsencode(new), flags)
    else:
        os.rename(old, new)


def expected_over(old: str, new: str) -> str:
    """rename(2)."""
    if old in DIRECTORIES:
        if new not in DIRECTORIES:
            return "ENOTDIR"
        return "ENOTEMPTY" if new == "full" else OK
    return "EISDIR" if new in DIRECTORIES else OK


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("new", ALL_KINDS)
@pytest.mark.parametrize("old", ALL_KINDS)
def test_every_type_over_every_type(here, old, new, across):
    os.mkdir("other")
    target = "other/y" if across else "y"
    moved, replaced = make(old, "x"), make(new, target)
    wanted = expected_over(old, new)
    assert outcome(rename, "x", target, NOREPLACE) == "EEXIST"
    assert outcome(rename, "x", target) == wanted
    if wanted == OK:
        assert identity(target) == moved
        assert not os.path.lexists("x")
    else:
        assert (identity("x"), identity(target)) == (moved, replaced)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("new", ALL_KINDS)
@pytest.mark.parametrize("old", ALL_KINDS)
def test_every_type_is_exchanged_with_every_type(here, old, new, across):
    os.mkdir("other")
    target = "other/y" if across else "y"
    moved, replaced = make(old, "x"), make(new, target)
    links = os.stat(".").st_nlink, os.stat("other").st_nlink
    rename("x", target, EXCHANGE)
    assert (identity(target), identity("x")) == (moved, replaced)
    if across:
        step = (new in DIRECTORIES) - (old in DIRECTORIES)
        assert os.stat(".").st_nlink == links[0] + step
        assert os.stat("other").st_nlink == links[1] - step


@pytest.mark.parametrize("flags", [0, NOREPLACE])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_type_to_a_free_name_and_back(here, kind, flags):
    os.mkdir("other")
    before = make(kind, "x")
    links = os.stat(".").st_nlink, os.stat("other").st_nlink
    rename("x", "y", flags)
    rename("y", "other/x", flags)
    step = 1 if kind in DIRECTORIES else 0
    assert (os.stat(".").st_nlink, os.stat("other").st_nlink) == (links[0] - step, links[1] + step)
    assert identity("other/x") == before
    assert os.listdir("other") == ["x"]
    if kind in DIRECTORIES:
        assert os.stat("other/x/..").st_ino == os.stat("other").st_ino
    rename("other/x", "x", flags)
    assert (os.stat(".").st_nlink, os.stat("other").st_nlink) == links
    assert sorted(os.listdir(".")) == ["other", "x"]


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("a", "a", OK),
        ("a", "a/x", "EINVAL"),
        ("a", "a/b/x", "EINVAL"),
        ("a", "a/b/c/x", "EINVAL"),
        ("a", "a/b/c", "EINVAL"),
        ("a/b", "a/b/c/d", "EINVAL"),
        ("a/b", "a", "ENOTEMPTY"),
        ("a/b/c", "a/b", "ENOTEMPTY"),
        ("a/b/c", "a", "ENOTEMPTY"),
        ("a/b/c", "x", OK),
        ("gone", "a", "ENOENT"),
        ("a", "gone/x", "ENOENT"),
        ("a", "file/x", "ENOTDIR"),
        ("file/x", "a", "ENOTDIR"),
        ("a/.", "x", "EBUSY"),
        ("a/..", "x", "EBUSY"),
        ("file", "a/.", "EBUSY"),
        ("file/", "x", "ENOTDIR"),
        ("file", "x/", "ENOTDIR"),
        ("a", "x/", OK),
        ("a/", "x", OK),
    ],
)
def test_cycles_and_odd_paths(here, old, new, wanted):
    os.makedirs("a/b/c")
    make_file("file")
    assert outcome(rename, old, new) == wanted


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("a", "a/b", "EINVAL"),
        ("a/b", "a", "EINVAL"),
        ("a", "a/b/c", "EINVAL"),
        ("a/b/c", "a", "EINVAL"),
        ("a/b", "z", OK),
        ("a/b", "file", OK),
        ("a", "a", OK),
        ("a", "gone", "ENOENT"),
        ("gone", "a", "ENOENT"),
    ],
)
def test_cycles_by_exchange(here, old, new, wanted):
    os.makedirs("a/b/c")
    os.mkdir("z")
    make_file("file")
    assert outcome(rename, old, new, EXCHANGE) == wanted


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (NOREPLACE | EXCHANGE, "EINVAL"),
        (EXCHANGE | WHITEOUT, "EINVAL"),
        (8, "EINVAL"),
        (1 << 30, "EINVAL"),
    ],
)
def test_bad_flags(here, flags, wanted):
    make_file("x", b"x")
    make_file("y", b"y")
    assert outcome(rename, "x", "y", flags) == wanted
    assert (content("x"), content("y")) == (b"x", b"y")


def test_two_links_of_one_file_stay(here):
    """rename(2): then it does nothing and reports success."""
    make_file("x", b"x")
    os.link("x", "y")
    os.mkdir("d")
    os.link("x", "d/z")
    os.rename("x", "y")
    os.rename("x", "d/z")
    assert sorted(os.listdir(".")) == ["d", "x", "y"]
    assert os.stat("x").st_nlink == 3
    assert outcome(rename, "x", "y", NOREPLACE) == "EEXIST"
    assert outcome(rename, "x", "y", EXCHANGE) == OK


def test_a_replaced_file_loses_a_link_and_lives_on_while_open(here):
    make_file("new", b"new")
    make_file("old", b"old")
    os.link("old", "second")
    with opened("old") as fd:
        os.rename("new", "old")
        assert os.fstat(fd).st_nlink == 1
        os.unlink("second")
        assert os.fstat(fd).st_nlink == 0
        assert os.pread(fd, 10, 0) == b"old"
        os.pwrite(fd, b"OLD!", 0)
        assert os.pread(fd, 10, 0) == b"OLD!"
    assert content("old") == b"new"


def test_a_replaced_directory_can_still_be_asked(here):
    os.mkdir("new")
    os.mkdir("old")
    with opened("old", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.rename("new", "old")
        assert os.fstat(fd).st_nlink == 0
        assert os.listdir(fd) == []
        assert outcome(os.mkdir, "x", dir_fd=fd) == "ENOENT"


def test_a_renamed_directory_takes_its_open_files_along(here):
    os.makedirs("a/b")
    make_file("a/b/f", b"1")
    with opened("a/b/f") as fd, opened("a/b", os.O_RDONLY) as directory:
        os.rename("a", "z")
        os.pwrite(fd, b"2", 0)
        make_file("z/b/g")
        assert sorted(os.listdir(directory)) == ["f", "g"]
        os.unlink("f", dir_fd=directory)
        assert os.fstat(fd).st_nlink == 0
    assert os.listdir("z/b") == ["g"]
    assert outcome(os.stat, "a") == "ENOENT"


def test_the_working_directory_moves(here):
    os.makedirs("a/b")
    os.chdir("a/b")
    os.rename("../../a", "../../z")
    assert os.getcwd() == f"{here.root}/z/b"
    make_file("f")
    assert os.listdir(f"{here.root}/z/b") == ["f"]


def test_a_symbolic_link_itself_moves_and_is_replaced(here):
    make_file("target", b"t")
    os.symlink("target", "link")
    os.rename("link", "moved")
    assert os.readlink("moved") == "target"
    make_file("new", b"n")
    os.rename("new", "moved")
    assert content("target") == b"t"
    assert content("moved") == b"n"


@needs_root
def test_another_file_system_is_exdev(here):
    make_file("x")
    outside = "/dev/shm/hsmfs-test-exdev"
    assert outcome(os.rename, "x", outside) == "EXDEV"
    assert outcome(os.link, "x", outside) == "EXDEV"
    assert not os.path.exists(outside)


@needs_root
@pytest.mark.parametrize("kind", ["file", "dir", "symlink", "fifo"])
@pytest.mark.parametrize("which", ["from", "to"])
def test_both_directories_must_be_writable(here, kind, which):
    alice = User(1001, 1001, ())
    for name in ("from", "to"):
        os.mkdir(name)
        os.chown(name, 1001, 1001)
    make_kind(kind, "from/x", 0o777)
    os.lchown("from/x", 1001, 1001)
    os.chmod(which, 0o555)
    assert outcome_as(alice, rename, "from/x", "to/x") == "EACCES"
    os.chmod(which, 0o755)
    assert outcome_as(alice, rename, "from/x", "to/x") == OK


@needs_root
def test_a_foreign_directory_moves_only_if_it_may_be_written(here):
    """Its '..' changes: rename(2), EACCES."""
    alice = User(1001, 1001, ())
    os.mkdir("to")
    os.mkdir("x")
    for mode, wanted in ((0o755, "EACCES"), (0o777, OK)):
        os.chmod("x", mode)
        os.chmod("to", 0o777)
        assert outcome_as(alice, rename, "x", "to/x") == wanted
    os.rename("to/x", "x")
    os.chmod("x", 0o755)
    assert outcome_as(alice, rename, "x", "renamed in place") == OK


def test_long_names_move(here):
    make_file("n" * 255, b"1")
    os.rename("n" * 255, "m" * 255)
    assert outcome(os.rename, "m" * 255, "m" * 256) == "ENAMETOOLONG"
    assert os.listdir(".") == ["m" * 255]


@pytest.mark.parametrize("depth", [50, 300])
def test_cycles_are_found_at_depth(here, depth):
    os.mkdir("top")
    os.chdir("top")
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(here.root)
    bottom = "top" + "/d" * depth
    assert outcome(os.rename, "top", f"{bottom}/x") == "EINVAL"
    assert outcome(os.rename, "top/d", f"{bottom}/x") == "EINVAL"
    os.rename(bottom, "x")
    assert sorted(os.listdir(".")) == ["top", "x"]
