"""chmod, chown, set-user-ID, set-group-ID: who may, and what is cleared when."""

from __future__ import annotations

import os
import stat
import struct

import pytest
from support import syscalls
from support.pathcalls import FORMATS, KINDS, make_kind
from support.places import OK, make_file, needs_root, opened, outcome, outcome_as
from support.posixusers import GROUP_ID, MEMBER, OWNER, STRANGER, in_child
from support.sides import User

pytestmark = needs_root
INSIDER = User(1001, 1001, (GROUP_ID, 2900))
"""OWNER, who is in the file's group, and in one other."""
REAL_KINDS = [kind for kind in KINDS if kind != "symlink"]


def bits(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize(
    "mode", [0, 0o1, 0o10, 0o100, 0o644, 0o755, 0o1000, 0o2000, 0o4000, 0o7777]
)
@pytest.mark.parametrize("kind", REAL_KINDS)
def test_chmod_sets_exactly_the_mode(here, kind, mode):
    make_kind(kind, "x")
    os.chmod("x", mode)
    assert os.lstat("x").st_mode == FORMATS[kind] | mode
    os.symlink("x", "link")
    os.chmod("link", 0o640)
    assert bits("x") == 0o640
    assert bits("link") == 0o777


@pytest.mark.parametrize("kind", REAL_KINDS)
@pytest.mark.parametrize("user", [MEMBER, STRANGER])
def test_chmod_is_for_the_owner(here, kind, user):
    make_kind(kind, "x", 0o666)
    os.chown("x", OWNER.uid, GROUP_ID)
    assert outcome_as(user, os.chmod, "x", 0o600) == "EPERM"
    assert bits("x") == 0o666
    assert outcome_as(OWNER, os.chmod, "x", 0o600) == OK


@pytest.mark.parametrize("through", ["path", "descriptor"])
@pytest.mark.parametrize("mode", [0o2755, 0o2745, 0o6755, 0o2000])
def test_chmod_by_an_outsider_of_the_group_clears_set_gid(here, through, mode):
    def change() -> None:
        if through == "path":
            os.chmod("x", mode)
        else:
            with opened("x") as fd:
                os.fchmod(fd, mode)

    make_file("x", mode=0o644)
    os.chown("x", OWNER.uid, GROUP_ID)
    assert outcome_as(OWNER, change) == OK
    assert bits("x") == mode & ~0o2000
    os.chmod("x", 0o644)
    assert outcome_as(INSIDER, change) == OK
    assert bits("x") == mode
    os.chmod("x", 0o644)
    change()
    assert bits("x") == mode


def test_chmod_by_an_outsider_keeps_set_gid_off_directories_too(here):
    os.mkdir("x")
    os.chown("x", OWNER.uid, GROUP_ID)
    assert outcome_as(OWNER, os.chmod, "x", 0o2755) == OK
    assert bits("x") == 0o755


CHOWNS = [
    # uid, gid, by the owner who is in groups GROUP_ID and 2900
    (-1, -1, OK),
    (OWNER.uid, -1, OK),
    (OWNER.uid, OWNER.gid, OK),
    (-1, OWNER.gid, OK),
    (-1, GROUP_ID, OK),
    (-1, 2900, OK),
    (OWNER.uid, 2900, OK),
    (-1, 2901, "EPERM"),
    (-1, 0, "EPERM"),
    (MEMBER.uid, -1, "EPERM"),
    (0, -1, "EPERM"),
    (MEMBER.uid, 2900, "EPERM"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("uid", "gid", "wanted"), CHOWNS)
def test_chown_by_the_owner(here, kind, uid, gid, wanted):
    make_kind(kind, "x")
    os.lchown("x", OWNER.uid, GROUP_ID)
    assert outcome_as(INSIDER, os.lchown, "x", uid, gid) == wanted
    found = os.lstat("x")
    after = (OWNER.uid if uid == -1 else uid, GROUP_ID if gid == -1 else gid)
    assert (found.st_uid, found.st_gid) == (after if wanted == OK else (OWNER.uid, GROUP_ID))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("user", [MEMBER, STRANGER])
@pytest.mark.parametrize(
    ("uid", "gid", "wanted"),
    [(-1, -1, OK), (OWNER.uid, -1, "EPERM"), (-1, GROUP_ID, "EPERM"), (MEMBER.uid, 2900, "EPERM")],
)
def test_chown_by_others(here, kind, user, uid, gid, wanted):
    make_kind(kind, "x")
    os.lchown("x", OWNER.uid, GROUP_ID)
    assert outcome_as(user, os.lchown, "x", uid, gid) == wanted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ids", [(0, 0), (123, 456), (-1, 456), (123, -1), (2**32 - 2, 2**32 - 2)])
def test_chown_by_root(here, kind, ids):
    make_kind(kind, "x")
    os.lchown("x", OWNER.uid, GROUP_ID)
    os.lchown("x", *ids)
    found = os.lstat("x")
    assert found.st_uid == (OWNER.uid if ids[0] == -1 else ids[0])
    assert found.st_gid == (GROUP_ID if ids[1] == -1 else ids[1])


def test_chown_follows_links_and_lchown_does_not(here):
    make_file("x")
    os.symlink("x", "link")
    os.chown("link", 11, 22)
    assert (os.stat("x").st_uid, os.lstat("link").st_uid) == (11, 0)
    os.lchown("link", 33, 44)
    assert (os.stat("x").st_uid, os.lstat("link").st_uid) == (11, 33)


SET_IDS = (0o6755, 0o4755, 0o2755, 0o2745, 0o6644, 0o7777, 0o2711, 0o4711)


def killed(mode: int) -> int:
    """What is left when privileges are taken: set-gid without x for the group is no privilege."""
    mode &= ~0o4000
    return mode & ~0o2000 if mode & 0o010 else mode


@pytest.mark.parametrize("mode", SET_IDS)
@pytest.mark.parametrize("ids", [(OWNER.uid, -1), (-1, OWNER.gid), (-1, 2900)])
def test_chown_by_the_owner_takes_set_id_from_files(here, mode, ids):
    make_file("x")
    os.chown("x", OWNER.uid, GROUP_ID)
    os.chmod("x", mode)
    assert outcome_as(INSIDER, os.chown, "x", *ids) == OK
    assert bits("x") == killed(mode)


@pytest.mark.parametrize("mode", SET_IDS)
def test_chown_by_root_takes_set_id_from_files(here, mode):
    make_file("x")
    os.chmod("x", mode)
    os.chown("x", 11, 22)
    assert bits("x") == killed(mode)


@pytest.mark.parametrize("mode", SET_IDS)
def test_chown_leaves_set_id_of_directories(here, mode):
    os.mkdir("x")
    os.chown("x", OWNER.uid, GROUP_ID)
    os.chmod("x", mode)
    assert outcome_as(INSIDER, os.chown, "x", -1, 2900) == OK
    os.chown("x", 11, 22)
    assert bits("x") == mode


def _write(fd: int) -> None:
    os.pwrite(fd, b"new", 0)


def _copy(fd: int) -> None:
    with opened("y", os.O_RDONLY) as source:
        os.copy_file_range(source, fd, 3, 0, 0)


CHANGES = {
    "write": _write,
    "truncate": lambda fd: os.truncate("x", 2),
    "ftruncate": lambda fd: os.ftruncate(fd, 2),
    "open_truncate": lambda fd: os.close(os.open("x", os.O_WRONLY | os.O_TRUNC)),
    "append": lambda fd: os.pwrite(fd, b"more", 5),
    "punch": lambda fd: syscalls.fallocate(fd, 3, 0, 2),
    "allocate": lambda fd: syscalls.fallocate(fd, 0, 0, 9000),
    "copy": _copy,
}
WRITES = ("write", "append", "copy")
ALLOCATIONS = ("punch", "allocate")


def change(name: str) -> str:
    with opened("x") as fd:
        return outcome(CHANGES[name], fd)


@pytest.mark.parametrize("mode", [mode | 0o666 for mode in SET_IDS])
@pytest.mark.parametrize("name", CHANGES)
def test_changes_by_users_take_set_id(here, name, mode):
    make_file("x", b"12345")
    make_file("y", b"12345")
    os.chown("x", OWNER.uid, GROUP_ID)
    os.chmod("x", mode)
    wanted = here.expected("fallocate", OK) if name in ALLOCATIONS else OK
    assert in_child(change, name, user=STRANGER) == wanted
    after = killed(mode)
    if not here.lacks("set_gid_without_x"):
        after &= ~0o2000
    assert bits("x") == after or wanted != OK


@pytest.mark.parametrize("mode", SET_IDS)
@pytest.mark.parametrize("name", CHANGES)
def test_changes_by_root_leave_set_id(here, name, mode):
    make_file("x", b"12345")
    make_file("y", b"12345")
    os.chmod("x", mode)
    wanted = here.expected("fallocate", OK) if name in ALLOCATIONS else OK
    assert change(name) == wanted
    cleared = name in WRITES and here.lacks("set_id_for_root")
    assert bits("x") == (killed(mode) if cleared else mode)


def test_a_write_takes_file_capabilities(here):
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    make_file("x", b"12345", 0o777)
    os.setxattr("x", "security.capability", capability)
    assert os.getxattr("x", "security.capability") == capability
    with opened("x") as fd:
        os.write(fd, b"new")
    assert "security.capability" not in os.listxattr("x")


def test_chown_takes_file_capabilities(here):
    make_file("x", b"12345", 0o777)
    os.setxattr("x", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))
    os.chown("x", 11, 22)
    assert "security.capability" not in os.listxattr("x")


# -- what is made in a set-gid directory ----------------------------------------------


def _make(kind: str, mode: int) -> None:
    if kind == "dir":
        os.mkdir("d/x", mode)
    elif kind == "file":
        os.close(os.open("d/x", os.O_CREAT | os.O_WRONLY, mode))
    elif kind == "symlink":
        os.symlink("target", "d/x")
    else:
        os.mknod("d/x", FORMATS[kind] | mode)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o777, 0o640, 0])
@pytest.mark.parametrize("set_gid", [True, False])
@pytest.mark.parametrize("kind", ["file", "dir", "fifo", "socket", "symlink"])
def test_owner_group_and_mode_of_what_is_made(here, kind, set_gid, mode, umask):
    os.mkdir("d")
    os.chown("d", OWNER.uid, GROUP_ID)
    os.chmod("d", 0o2777 if set_gid else 0o777)
    assert outcome_as(STRANGER, _make, kind, mode, umask=umask) == OK
    found = os.lstat("d/x")
    wanted = 0o777 if kind == "symlink" else mode & ~umask
    if set_gid and kind == "dir":
        wanted |= 0o2000
    assert found.st_mode == FORMATS[kind] | wanted
    assert found.st_uid == STRANGER.uid
    assert found.st_gid == (GROUP_ID if set_gid else STRANGER.gid)


@pytest.mark.parametrize("mode", [0o2770, 0o6770, 0o2760, 0o4770, 0o1777])
@pytest.mark.parametrize("user", [STRANGER, MEMBER, User(1001, 1001, (GROUP_ID,))])
def test_set_id_bits_of_a_new_file_in_a_set_gid_directory(here, user, mode):
    """Who is not in the group makes no program that runs as the group."""
    os.mkdir("d")
    os.chown("d", OWNER.uid, GROUP_ID)
    os.chmod("d", 0o2777)
    assert outcome_as(user, _make, "file", mode, umask=0) == OK
    inside = GROUP_ID in (user.gid, *user.groups)
    wanted = mode if inside or not mode & 0o010 else mode & ~0o2000
    assert bits("d/x") == wanted


@pytest.mark.parametrize("mode", [0o1777, 0o2777, 0o4777, 0o7777])
def test_set_id_and_sticky_bits_in_mkdir_and_creat(here, mode):
    os.umask(0)
    os.mkdir("d", mode)
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, mode))
    os.mkfifo("p", mode)
    assert bits("d") == mode & 0o1777
    assert bits("f") == mode
    assert bits("p") == mode


def test_root_makes_anything_in_a_set_gid_directory(here):
    os.mkdir("d")
    os.chown("d", OWNER.uid, GROUP_ID)
    os.chmod("d", 0o2777)
    os.umask(0)
    _make("file", 0o2770)
    assert bits("d/x") == 0o2770
    assert os.stat("d/x").st_gid == GROUP_ID
