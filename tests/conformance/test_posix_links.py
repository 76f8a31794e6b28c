"""link, unlink, rmdir: link counts, files without names, O_TMPFILE."""

from __future__ import annotations

import os
import stat

import pytest
from support import syscalls
from support.pathcalls import KINDS, make_kind
from support.places import OK, content, make_file, needs_root, opened, outcome, outcome_as
from support.sides import User

ALICE = User(1001, 1001, ())
NOT_DIRECTORIES = [kind for kind in KINDS if kind != "dir"]


def make(kind: str, path: str) -> None:
    if os.geteuid() != 0 and kind in ("char", "block"):
        kind = "fifo"
    make_kind(kind, path)


@pytest.mark.parametrize("kind", NOT_DIRECTORIES)
def test_links_are_one_inode(here, kind):
    make(kind, "a")
    os.mkdir("d")
    os.link("a", "b", follow_symlinks=False)
    os.link("b", "d/c", follow_symlinks=False)
    facts = [os.lstat(path) for path in ("a", "b", "d/c")]
    assert len({(info.st_ino, info.st_mode, info.st_rdev) for info in facts}) == 1
    assert [info.st_nlink for info in facts] == [3, 3, 3]
    os.unlink("a")
    assert os.lstat("b").st_nlink == 2
    os.unlink("d/c")
    assert os.lstat("b").st_nlink == 1
    os.unlink("b")
    assert os.listdir(".") == ["d"]


def test_attributes_and_data_are_shared_by_links(here):
    make_file("a", b"1")
    os.link("a", "b")
    os.chmod("b", 0o600)
    os.setxattr("b", "user.x", b"1")
    os.truncate("b", 10)
    with opened("b") as fd:
        os.pwrite(fd, b"z", 9)
    assert stat.S_IMODE(os.stat("a").st_mode) == 0o600
    assert os.getxattr("a", "user.x") == b"1"
    assert content("a") == b"1" + bytes(8) + b"z"


def test_link_of_a_symbolic_link(here):
    make_file("target")
    os.symlink("target", "s")
    os.link("s", "to_link", follow_symlinks=False)
    assert os.path.islink("to_link")
    syscalls_link_followed("s", "to_target")
    assert os.stat("to_target").st_ino == os.stat("target").st_ino
    assert os.stat("target").st_nlink == 2


def syscalls_link_followed(old: str, new: str) -> None:
    """linkat(2) with AT_SYMLINK_FOLLOW."""
    with opened(old, os.O_PATH) as fd:
        syscalls.link_open_file(fd, os.fsencode(new))


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("d", "x", "EPERM"),
        (".", "x", "EPERM"),
        ("a", "d", "EEXIST"),
        ("a", "a", "EEXIST"),
        ("a", "d/.", "EEXIST"),
        ("a", "gone/x", "ENOENT"),
        ("gone", "x", "ENOENT"),
        ("a", "x/", "ENOENT"),
        ("a/", "x", "ENOTDIR"),
    ],
)
def test_links_that_are_refused(here, old, new, wanted):
    make_file("a")
    os.mkdir("d")
    assert outcome(os.link, old, new) == wanted
    assert os.stat("a").st_nlink == 1


def test_a_thousand_links(here):
    make_file("a")
    for number in range(1_000):
        os.link("a", f"{number}")
    assert os.stat("a").st_nlink == 1_001
    for number in range(1_000):
        os.unlink(f"{number}")
    assert os.stat("a").st_nlink == 1


@needs_root
def test_links_to_files_of_others(here):
    """fs.protected_hardlinks: only to what one owns or may read and write."""
    os.chmod(".", 0o777)
    make_file("a", mode=0o600)
    with open("/proc/sys/fs/protected_hardlinks") as file:
        protected = file.read().strip() == "1"
    assert outcome_as(ALICE, os.link, "a", "x") == ("EPERM" if protected else OK)
    os.chown("a", ALICE.uid, ALICE.gid)
    assert outcome_as(ALICE, os.link, "a", "y") == OK


# -- unlink and rmdir -----------------------------------------------------------------


@pytest.mark.parametrize("kind", NOT_DIRECTORIES)
def test_unlink(here, kind):
    make(kind, "x")
    assert outcome(os.rmdir, "x") == "ENOTDIR"
    os.unlink("x")
    assert outcome(os.lstat, "x") == "ENOENT"
    assert outcome(os.unlink, "x") == "ENOENT"


@pytest.mark.parametrize("kind", KINDS)
def test_rmdir_only_of_empty_directories(here, kind):
    os.mkdir("d")
    make(kind, "d/x")
    assert outcome(os.rmdir, "d") == "ENOTEMPTY"
    assert outcome(os.unlink, "d") == "EISDIR"
    if kind == "dir":
        os.rmdir("d/x")
    else:
        os.unlink("d/x")
    os.rmdir("d")
    assert outcome(os.rmdir, "d") == "ENOENT"


def test_directories_count_their_directories(here):
    assert os.stat(".").st_nlink == 2
    for number in range(5):
        os.mkdir(f"{number}")
        make_file(f"file{number}")
    assert os.stat(".").st_nlink == 7
    os.mkdir("0/sub")
    assert os.stat("0").st_nlink == 3
    os.rmdir("4")
    assert os.stat(".").st_nlink == 6


@needs_root
def test_a_mount_point_is_busy(here):
    assert outcome(os.rmdir, "/proc") == "EBUSY"
    assert outcome(os.rmdir, "/") == "EBUSY"


# -- files without names ----------------------------------------------------------------


def test_an_unlinked_file_works_until_it_is_closed(here):
    with opened("x", os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"before")
        os.unlink("x")
        assert os.fstat(fd).st_nlink == 0
        os.pwrite(fd, b"after!", 3)
        assert os.pread(fd, 100, 0) == b"befafter!"
        os.ftruncate(fd, 100_000)
        os.fchmod(fd, 0o600)
        os.setxattr(fd, "user.x", b"1")
        os.utime(fd, ns=(1, 2))
        os.fsync(fd)
        assert os.getxattr(fd, "user.x") == b"1"
        assert (os.fstat(fd).st_size, os.fstat(fd).st_mtime_ns) == (100_000, 2)
        assert outcome(syscalls.link_open_file, fd, b"again") == "ENOENT"
        make_file("x", b"another")
        assert os.pread(fd, 9, 0) == b"befafter!"
    assert content("x") == b"another"


def test_an_unlinked_file_is_reopened_through_proc(here):
    with opened("x", os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"data")
        os.unlink("x")
        with opened(f"/proc/self/fd/{fd}") as second:
            os.pwrite(second, b"D", 0)
        assert os.pread(fd, 10, 0) == b"Data"


def test_a_removed_directory_is_empty_and_takes_nothing(here):
    os.mkdir("d")
    with opened("d", os.O_RDONLY) as fd:
        os.rmdir("d")
        assert os.fstat(fd).st_nlink == 0
        assert os.listdir(fd) == []
        for call in (os.mkdir, os.mkfifo):
            assert outcome(call, "x", dir_fd=fd) == "ENOENT"
        assert outcome(lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)) == "ENOENT"
        assert outcome(lambda: os.symlink("t", "x", dir_fd=fd)) == "ENOENT"


def test_the_working_directory_may_be_removed(here):
    os.mkdir("d")
    os.chdir("d")
    os.rmdir("../d")
    assert os.listdir(".") == []
    assert outcome(os.getcwd) == "ENOENT"
    assert outcome(os.mkdir, "x") == "ENOENT"


def test_inode_numbers_are_not_shared_by_a_new_file(here):
    """A file that is open without a name keeps its number for itself."""
    with opened("x", os.O_RDWR | os.O_CREAT) as fd:
        os.unlink("x")
        for number in range(50):
            make_file(f"{number}")
        numbers = {os.stat(f"{number}").st_ino for number in range(50)}
        assert os.fstat(fd).st_ino not in numbers
        assert len(numbers) == 50


# -- O_TMPFILE ---------------------------------------------------------------------------


def test_a_temporary_file(here):
    lack = here.lacks("tmpfile")
    if lack:
        assert outcome(os.open, ".", os.O_TMPFILE | os.O_RDWR) == lack.outcome
        return
    with opened(".", os.O_TMPFILE | os.O_RDWR, 0o640) as fd:
        assert os.listdir(".") == []
        info = os.fstat(fd)
        assert (info.st_nlink, info.st_mode) == (0, stat.S_IFREG | 0o640)
        os.write(fd, b"data")
        syscalls.link_open_file(fd, b"named")
        assert os.fstat(fd).st_nlink == 1
        assert content("named") == b"data"
        syscalls.link_open_file(fd, b"second")
        assert outcome(syscalls.link_open_file, fd, b"named") == "EEXIST"
        os.unlink("named")
        os.unlink("second")
        assert os.pread(fd, 10, 0) == b"data"


TMPFILES = [
    (os.O_TMPFILE | os.O_RDONLY, ".", "EINVAL"),
    (os.O_TMPFILE | os.O_WRONLY, ".", OK),
    (os.O_TMPFILE | os.O_RDWR, "file", "ENOTDIR"),
    (os.O_TMPFILE | os.O_RDWR, "gone", "ENOENT"),
    (os.O_TMPFILE | os.O_RDWR, "link", OK),
]


@pytest.mark.parametrize(("flags", "path", "wanted"), TMPFILES)
def test_opens_of_temporary_files(here, flags, path, wanted):
    make_file("file")
    os.mkdir("d")
    os.symlink("d", "link")
    if wanted == OK:
        wanted = here.expected("tmpfile", OK)
    assert outcome(lambda: os.close(os.open(path, flags, 0o600))) == wanted
    assert sorted(os.listdir(".")) == ["d", "file", "link"]


def test_a_temporary_file_for_good_with_o_excl(here):
    flags = os.O_TMPFILE | os.O_RDWR | os.O_EXCL
    lack = here.lacks("tmpfile")
    if lack:
        assert outcome(os.open, ".", flags) == lack.outcome
        return
    with opened(".", flags) as fd:
        assert outcome(syscalls.link_open_file, fd, b"x") == "ENOENT"
