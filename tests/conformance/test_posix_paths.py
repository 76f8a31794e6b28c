"""How paths are walked: every system call with a path, against every sort of bad path."""

from __future__ import annotations

import ctypes
import os

import pytest
from support.pathcalls import ALL, KINDS, MAKING, USING, PathCall, libc, make_kind
from support.places import OK, make_file, needs_root, outcome, outcome_as
from support.sides import ALICE

NAME_MAX = 255
PATH_MAX = 4096


def prepare(call: PathCall, path: str) -> None:
    """What the call needs to succeed on this path."""
    make_file("other")
    if call.makes:
        return
    if call.kind == "dir":
        os.mkdir(path)
    elif call.kind == "link":
        os.symlink("target", path)
    else:
        make_file(path, b"12345")


@pytest.fixture(params=ALL, ids=str)
def call(request: pytest.FixtureRequest) -> PathCall:
    return request.param


def test_a_good_path_is_taken(here, call):
    prepare(call, "name")
    assert outcome(call.call, "name") == OK


def test_names_of_255_bytes_are_taken(here, call):
    prepare(call, "n" * NAME_MAX)
    assert outcome(call.call, "n" * NAME_MAX) == OK


def test_names_of_255_bytes_may_be_any_bytes(here, call):
    name = os.fsdecode(bytes(b for b in range(1, 256) if b != ord("/")) + b"x")
    assert len(os.fsencode(name)) == NAME_MAX
    prepare(call, name)
    assert outcome(call.call, name) == OK


@pytest.mark.parametrize("path", ["n" * 256, "n" * 256 + "/x", "dir/" + "n" * 256])
def test_names_of_256_bytes_are_too_long(here, call, path):
    os.mkdir("dir")
    make_file("other")
    assert outcome(call.call, path) == "ENAMETOOLONG"


def test_paths_of_4095_bytes_are_taken(here, call):
    path = "./" * ((PATH_MAX - 6) // 2) + "name"
    path = "." + "/" * (PATH_MAX - 1 - len(path)) + path[1:]
    assert len(path) == PATH_MAX - 1
    prepare(call, "name")
    assert outcome(call.call, path) == OK


def test_paths_of_4096_bytes_are_too_long(here, call):
    prepare(call, "name")
    assert outcome(call.call, "." + "/" * (PATH_MAX - 5) + "name") == "ENAMETOOLONG"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("dir", "symlink")])
def test_what_is_no_directory_has_nothing_below(here, call, kind):
    if os.geteuid() != 0 and kind in ("char", "block"):
        return
    make_file("other")
    make_kind(kind, "odd")
    os.symlink("odd", "link")
    assert outcome(call.call, "odd/name") == "ENOTDIR"
    assert outcome(call.call, "link/name") == "ENOTDIR"


@pytest.mark.parametrize("path", ["gone/name", "dangling/name", "dir/gone/name", ""])
def test_a_missing_directory_is_enoent(here, call, path):
    make_file("other")
    os.mkdir("dir")
    os.symlink("nowhere", "dangling")
    assert outcome(call.call, path) == "ENOENT"


@pytest.mark.parametrize("call", USING, ids=str)
def test_a_missing_name_is_enoent(here, call):
    make_file("other")
    assert outcome(call.call, "gone") == "ENOENT"


@pytest.mark.parametrize("call", MAKING, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_there_is_not_made_again(here, call, kind):
    if os.geteuid() != 0 and kind in ("char", "block"):
        return
    make_file("other")
    make_kind(kind, "name")
    before = os.lstat("name")
    assert outcome(call.call, "name") == "EEXIST"
    assert os.lstat("name") == before


@pytest.mark.parametrize("path", ["loop/name", "ping/name", "dir/loop/name"])
def test_loops_of_symbolic_links_end(here, call, path):
    make_file("other")
    os.mkdir("dir")
    os.symlink("loop", "loop")
    os.symlink("../loop", "dir/loop")
    os.symlink("pong", "ping")
    os.symlink("ping", "pong")
    assert outcome(call.call, path) == "ELOOP"


@pytest.mark.parametrize("call", [call for call in ALL if call.follows], ids=str)
def test_a_loop_as_the_last_name_is_eloop(here, call):
    make_file("other")
    os.symlink("pong", "ping")
    os.symlink("ping", "pong")
    assert outcome(call.call, "ping") == "ELOOP"


def test_forty_links_are_followed_and_not_one_more(here):
    make_file("end", b"x")
    os.symlink("end", "l1")
    for number in range(2, 42):
        os.symlink(f"l{number - 1}", f"l{number}")
    assert outcome(os.stat, "l40") == OK
    assert outcome(os.stat, "l41") == "ELOOP"


@needs_root
def test_search_permission_is_needed_on_the_way(here, call):
    os.mkdir("dir")
    os.chown("dir", ALICE.uid, ALICE.gid)
    os.chmod("dir", 0o600)
    make_file("other")
    os.chown("other", ALICE.uid, ALICE.gid)
    assert outcome_as(ALICE, call.call, "dir/name") == "EACCES"
    assert outcome_as(ALICE, call.call, "./dir/../other") == "EACCES"


@needs_root
@pytest.mark.parametrize("call", [call for call in ALL if call.parent_write], ids=str)
def test_write_permission_is_needed_where_names_change(here, call):
    os.mkdir("dir")
    os.mkdir("dir/in")
    os.chdir("dir")
    prepare(call, "in/name")
    for path in ("other", "in/name"):
        if os.path.lexists(path):
            os.lchown(path, ALICE.uid, ALICE.gid)
    os.chown(".", ALICE.uid, ALICE.gid)
    os.chown("in", ALICE.uid, ALICE.gid)
    os.chmod("in", 0o500)
    wanted = OK if call.name == "creat" else "EACCES"  # the file is there already
    if call.name == "mknod_device":
        wanted = "EACCES"
    assert outcome_as(ALICE, call.call, "in/name") == wanted
    if wanted == OK:
        os.unlink("in/name")
        assert outcome_as(ALICE, call.call, "in/name") == "EACCES"
    os.chmod("in", 0o700)
    wanted = "EPERM" if call.name == "mknod_device" else OK
    assert outcome_as(ALICE, call.call, "in/name") == wanted


TRAILING = {
    "stat": (OK, "ENOTDIR"),
    "open_read": (OK, "ENOTDIR"),
    "chdir": (OK, "ENOTDIR"),
    "rmdir": (OK, "ENOTDIR"),
    "unlink": ("EISDIR", "ENOTDIR"),
    "readlink": ("EINVAL", "ENOTDIR"),
    "creat": ("EISDIR", "EISDIR"),
    "mkdir": ("EEXIST", "EEXIST"),
    "rename_from": (OK, "ENOTDIR"),
    "truncate": ("EISDIR", "ENOTDIR"),
}


@pytest.mark.parametrize("name", TRAILING)
def test_a_slash_at_the_end_asks_for_a_directory(here, name):
    [call] = [call for call in ALL if call.name == name]
    os.mkdir("dir")
    make_file("file")
    assert outcome(call.call, "file/") == TRAILING[name][1]
    assert outcome(call.call, "dir/") == TRAILING[name][0]


@pytest.mark.parametrize(
    ("call", "path", "expected"),
    [
        (os.rmdir, "dir/.", "EINVAL"),
        (os.rmdir, "dir/..", "ENOTEMPTY"),
        (os.unlink, "dir/.", "EISDIR"),
        (os.unlink, "dir/..", "EISDIR"),
        (os.mkdir, "dir/.", "EEXIST"),
        (os.mkdir, "dir/..", "EEXIST"),
        (os.mkdir, "/", "EEXIST"),
        (os.mkdir, "new/", OK),
        (os.mkfifo, "new/", "ENOENT"),
        (lambda path: os.symlink("x", path), "new/", "ENOENT"),
        (lambda path: os.rename("dir", path), "new/", OK),
        (lambda path: os.rename("file", path), "new/", "ENOTDIR"),
        (lambda path: os.rename(path, "new"), "dir/.", "EBUSY"),
        (lambda path: os.rename(path, "new"), "dir/..", "EBUSY"),
        (lambda path: os.rename("sub", path), "dir/.", "EBUSY"),
        (lambda path: os.rename("sub", path), "dir/..", "EBUSY"),
        (lambda path: os.link("file", path), "dir/.", "EEXIST"),
    ],
)
def test_dots_and_slashes(here, call, path, expected):
    os.mkdir("dir")
    os.mkdir("sub")
    make_file("file")
    assert outcome(call, path) == expected


BAD = ctypes.c_void_p(8)
POINTERS = {
    "open": lambda: libc.open(BAD, os.O_RDONLY),
    "creat": lambda: libc.open(BAD, os.O_CREAT | os.O_WRONLY, 0o644),
    "mkdir": lambda: libc.mkdir(BAD, 0o755),
    "mkfifo": lambda: libc.mkfifo(BAD, 0o755),
    "rmdir": lambda: libc.rmdir(BAD),
    "unlink": lambda: libc.unlink(BAD),
    "chmod": lambda: libc.chmod(BAD, 0o755),
    "chown": lambda: libc.chown(BAD, 0, 0),
    "lchown": lambda: libc.lchown(BAD, 0, 0),
    "truncate": lambda: libc.truncate(BAD, 0),
    "rename_from": lambda: libc.rename(BAD, b"x"),
    "rename_to": lambda: libc.rename(b"file", BAD),
    "link_from": lambda: libc.link(BAD, b"x"),
    "link_to": lambda: libc.link(b"file", BAD),
    "symlink_target": lambda: libc.symlink(BAD, b"x"),
    "symlink_path": lambda: libc.symlink(b"x", BAD),
    "readlink_path": lambda: libc.readlink(BAD, BAD, 10),
    "readlink_buffer": lambda: libc.readlink(b"link", BAD, 10),
    "getxattr": lambda: libc.getxattr(b"file", b"user.a", BAD, 10),
    "setxattr": lambda: libc.setxattr(b"file", b"user.b", BAD, 10, 0),
    "listxattr": lambda: libc.listxattr(b"file", BAD, 100),
    "statfs": lambda: libc.statfs(b"file", BAD),
    "utimensat": lambda: libc.utimensat(-100, b"file", BAD, 0),
}


@pytest.mark.parametrize("name", POINTERS)
def test_pointers_to_nowhere_are_efault(here, name):
    make_file("file", b"12345")
    os.setxattr("file", "user.a", b"12345")
    os.symlink("target", "link")
    assert POINTERS[name]() == -1
    assert ctypes.get_errno() == 14


@pytest.mark.parametrize("name", ["pread", "pwrite"])
def test_reads_and_writes_of_bad_memory_are_efault_and_change_nothing(here, name):
    make_file("file", b"12345")
    fd = os.open("file", os.O_RDWR)
    try:
        call = getattr(libc, name)
        assert call(fd, BAD, ctypes.c_size_t(3), ctypes.c_int64(0)) == -1
        assert ctypes.get_errno() == 14
        assert os.pread(fd, 10, 0) == b"12345"
    finally:
        os.close(fd)
