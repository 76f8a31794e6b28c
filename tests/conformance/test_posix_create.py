"""open, mkdir, mknod, mkfifo, symlink: what is made, and how opens fail."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys

import pytest
from support.pathcalls import FORMATS, KINDS, make_kind
from support.places import OK, content, make_file, needs_root, opened, outcome, outcome_as
from support.posixusers import OWNER, in_child
from support.sides import User

ALICE = User(1001, 1001, ())


def _open(path: str, flags: int, mode: int = 0o644) -> None:
    os.close(os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode))


# flags by what is there: "" for nothing
W, RW, R, C, E, T = os.O_WRONLY, os.O_RDWR, os.O_RDONLY, os.O_CREAT, os.O_EXCL, os.O_TRUNC
D, N = os.O_DIRECTORY, os.O_NOFOLLOW
OPENS = [
    ("none", R, "ENOENT"),
    ("none", W, "ENOENT"),
    ("none", RW | T, "ENOENT"),
    ("none", W | C, OK),
    ("none", R | C, OK),
    ("none", RW | C | E, OK),
    ("none", W | C | T, OK),
    ("none", R | D, "ENOENT"),
    ("file", R, OK),
    ("file", RW | C, OK),
    ("file", RW | C | E, "EEXIST"),
    ("file", R | D, "ENOTDIR"),
    ("file", R | N, OK),
    ("dir", R, OK),
    ("dir", R | D, OK),
    ("dir", R | D | N, OK),
    ("dir", W, "EISDIR"),
    ("dir", RW, "EISDIR"),
    ("dir", R | T, "EISDIR"),
    ("dir", W | T, "EISDIR"),
    ("dir", R | C, "EISDIR"),
    ("dir", W | C | E, "EEXIST"),
    ("symlink", R, "ENOENT"),
    ("symlink", R | N, "ELOOP"),
    ("symlink", W | N, "ELOOP"),
    ("symlink", R | C | E, "EEXIST"),
    ("symlink", W | C | N, "ELOOP"),
    ("symlink", os.O_PATH | N, OK),
    ("symlink", R | D | N, "ENOTDIR"),
    ("fifo", R, OK),
    ("fifo", W, "ENXIO"),
    ("fifo", RW, OK),
    ("fifo", R | D, "ENOTDIR"),
    ("fifo", R | C | E, "EEXIST"),
    ("socket", R, "ENXIO"),
    ("socket", W, "ENXIO"),
    ("socket", os.O_PATH, OK),
    ("link_to_file", R, OK),
    ("link_to_file", R | N, "ELOOP"),
    ("link_to_file", W | C, OK),
    ("link_to_file", W | C | E, "EEXIST"),
    ("link_to_dir", R | D, OK),
    ("link_to_dir", R | D | N, "ENOTDIR"),
    ("link_to_dir", W, "EISDIR"),
]


@pytest.mark.parametrize(("kind", "flags", "wanted"), OPENS)
def test_open(here, kind, flags, wanted):
    if kind.startswith("link_to"):
        make_kind(kind.removeprefix("link_to_"), "real")
        os.symlink("real", "x")
    elif kind != "none":
        make_kind(kind, "x")
    assert outcome(_open, "x", flags) == wanted


def test_open_makes_what_a_dangling_link_points_to(here):
    os.mkdir("d")
    os.symlink("d/new", "link")
    _open("link", W | C)
    assert stat.S_ISREG(os.lstat("d/new").st_mode)
    assert os.readlink("link") == "d/new"


@pytest.mark.parametrize("access", [W, RW, R])
def test_o_trunc_empties(here, access):
    make_file("x", b"12345")
    _open("x", access | T)
    assert os.stat("x").st_size == 0


def test_o_excl_leaves_what_is_there(here):
    make_file("x", b"12345")
    assert outcome(_open, "x", W | C | E | T) == "EEXIST"
    assert content("x") == b"12345"


def test_the_access_mode_of_a_descriptor_holds(here):
    make_file("x", b"12345")
    with opened("x", R) as fd:
        assert outcome(os.write, fd, b"x") == "EBADF"
        assert outcome(os.ftruncate, fd, 0) == "EINVAL"
    with opened("x", W) as fd:
        assert outcome(os.read, fd, 5) == "EBADF"
    with opened("x", os.O_PATH) as fd:
        assert outcome(os.read, fd, 5) == "EBADF"
        assert outcome(os.fchmod, fd, 0o600) == "EBADF"
        assert os.fstat(fd).st_size == 5
    with opened(".", R) as fd:
        assert outcome(os.read, fd, 5) == "EISDIR"
        assert outcome(os.pread, fd, 5, 0) == "EISDIR"
        assert outcome(os.ftruncate, fd, 5) == "EINVAL"


@pytest.mark.parametrize("umask", [0, 0o022, 0o027, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0, 0o400, 0o644, 0o755, 0o777])
def test_umask(here, mode, umask):
    os.umask(umask)
    _open("f", W | C, mode)
    os.mkdir("d", mode)
    os.mkfifo("p", mode)
    os.mknod("n", stat.S_IFREG | mode)
    os.mknod("s", stat.S_IFSOCK | mode)
    os.symlink("x", "l")
    for name in "fdpns":
        assert stat.S_IMODE(os.lstat(name).st_mode) == mode & ~umask, name
    assert stat.S_IMODE(os.lstat("l").st_mode) == 0o777


@needs_root
@pytest.mark.parametrize("kind", ["file", "dir", "fifo", "socket", "symlink"])
def test_what_is_made_belongs_to_who_made_it(here, kind):
    user = User(4001, 4002, (1, 2, 3))
    assert outcome_as(user, make_kind, kind, "x") == OK
    info = os.lstat("x")
    assert (info.st_uid, info.st_gid, stat.S_IFMT(info.st_mode)) == (4001, 4002, FORMATS[kind])


@needs_root
@pytest.mark.parametrize("kind", ["char", "block"])
@pytest.mark.parametrize(("major", "minor"), [(1, 3), (8, 17), (255, 255), (4095, 1048575)])
def test_device_numbers_are_kept(here, kind, major, minor):
    os.mknod("x", FORMATS[kind] | 0o600, os.makedev(major, minor))
    info = os.lstat("x")
    assert stat.S_IFMT(info.st_mode) == FORMATS[kind]
    assert (os.major(info.st_rdev), os.minor(info.st_rdev)) == (major, minor)


@needs_root
def test_devices_are_not_opened_where_the_mount_says_nodev(here):
    """FUSE mounts have nodev unless root asks for dev."""
    make_kind("char", "x")
    wanted = OK if here.is_reference else "EACCES"
    assert outcome(_open, "x", R) == wanted


@needs_root
@pytest.mark.parametrize("kind", ["char", "block"])
def test_users_make_no_devices(here, kind):
    assert outcome_as(ALICE, make_kind, kind, "x") == "EPERM"


def test_mknod_of_no_sort_makes_a_file(here):
    os.mknod("x", 0o640)
    assert os.lstat("x").st_mode == stat.S_IFREG | 0o640
    assert outcome(os.mknod, "y", stat.S_IFDIR | 0o755) == "EPERM"
    assert outcome(os.mknod, "y", stat.S_IFLNK | 0o755) == "EINVAL"


@pytest.mark.parametrize("kind", KINDS)
def test_first_facts_of_what_is_made(here, kind):
    if os.geteuid() != 0 and kind in ("char", "block"):
        return
    links = os.stat(".").st_nlink
    make_kind(kind, "x")
    info = os.lstat("x")
    assert info.st_nlink == (2 if kind == "dir" else 1)
    assert info.st_ino > 0
    assert info.st_dev == os.stat(".").st_dev
    assert os.stat(".").st_nlink == links + (kind == "dir")
    if kind in ("file", "fifo", "socket"):
        assert (info.st_size, info.st_blocks) == (0, 0)
    with os.scandir(".") as listing:
        [entry] = listing
    assert entry.inode() == info.st_ino
    assert entry.is_dir(follow_symlinks=False) == (kind == "dir")
    assert entry.is_symlink() == (kind == "symlink")


@pytest.mark.parametrize("length", [1, 59, 60, 255, 1024, 4095])
def test_targets_of_symbolic_links(here, length):
    target = ("t/" * length)[:length]
    os.symlink(target, "x")
    assert os.readlink("x") == target
    assert os.lstat("x").st_size == length


@pytest.mark.parametrize("target", [b"\xff\xfe\x01", b" ", b"..", b"/", b"a//b/", b"\n"])
def test_targets_are_bytes(here, target):
    os.symlink(target, b"x")
    assert os.readlink(b"x") == target


def test_bad_targets(here):
    assert outcome(os.symlink, "t" * 4096, "x") == "ENAMETOOLONG"
    assert outcome(os.symlink, "", "x") == "ENOENT"
    make_file("f")
    os.mkdir("d")
    assert outcome(os.readlink, "f") == "EINVAL"
    assert outcome(os.readlink, "d") == "EINVAL"
    assert os.path.lexists("x") is False


def test_paths_through_symbolic_links(here):
    os.makedirs("a/b")
    make_file("a/b/f", b"1")
    os.symlink("a/b", "rel")
    os.symlink(f"{here.root}/a", "abs")
    os.symlink("../..", "a/b/up")
    assert content("rel/f") == b"1"
    assert content("abs/b/f") == b"1"
    assert content("rel/up/abs/b/up/rel/f") == b"1"
    make_file("rel/g", b"2")
    assert content("a/b/g") == b"2"


# -- special files at work ---------------------------------------------------------


def test_a_fifo_carries_data(here):
    os.mkfifo("p")
    with opened("p", os.O_RDWR) as both:
        os.write(both, b"through")
        assert os.read(both, 100) == b"through"
    assert os.stat("p").st_size == 0


def test_a_socket_is_bound_and_reached(here):
    unix = socket.AF_UNIX
    with socket.socket(unix) as server, socket.socket(unix) as client, socket.socket(unix) as late:
        server.bind("s")
        server.listen()
        client.connect("s")
        assert stat.S_ISSOCK(os.lstat("s").st_mode)
        assert outcome(late.bind, "s") == "EADDRINUSE"


def test_a_running_program_is_not_written(here):
    """ETXTBSY, both ways."""
    shutil.copy(shutil.which("sleep") or "/bin/sleep", "prog")
    os.chmod("prog", 0o755)
    pid = os.posix_spawn("./prog", ["prog", "30"], os.environ)
    try:
        for _ in range(200):
            if outcome(_open, "prog", W) == "ETXTBSY":
                break
        assert outcome(_open, "prog", W) == "ETXTBSY"
        assert outcome(os.truncate, "prog", 0) == "ETXTBSY"
        assert outcome(_open, "prog", R) == OK
        os.rename("prog", "moved")
        os.unlink("moved")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_a_file_that_is_written_is_not_run(here):
    shutil.copy(shutil.which("true") or "/bin/true", "prog")
    os.chmod("prog", 0o755)

    def run() -> str:
        return outcome(os.execv, "./prog", ["prog"])

    with opened("prog", os.O_WRONLY):
        assert in_child(run) == "ETXTBSY"


def test_programs_and_scripts_run(here):
    shutil.copy(shutil.which("true") or "/bin/true", "prog")
    make_file("script", f"#!{sys.executable}\nraise SystemExit(3)\n".encode(), 0o755)
    os.chmod("prog", 0o755)
    for name, status in (("prog", 0), ("script", 3)):
        pid = os.posix_spawn(f"./{name}", [name], os.environ)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status


@needs_root
def test_set_user_id_works_unless_the_mount_says_nosuid(here):
    shutil.copy(shutil.which("id") or "/usr/bin/id", "prog")
    os.chown("prog", OWNER.uid, OWNER.gid)
    os.chmod("prog", 0o4755)
    read, write = os.pipe()
    pid = os.posix_spawn(
        "./prog", ["prog", "-u"], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)]
    )
    os.waitpid(pid, 0)
    os.close(write)
    said = os.read(read, 100).strip()
    os.close(read)
    assert said == (b"%d" % OWNER.uid if here.is_reference else b"0")
