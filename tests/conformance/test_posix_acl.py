"""POSIX ACLs: who gets which right, what chmod does to the mask, what is inherited."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess

import pytest
from support.acls import ACCESS, DEFAULT, acl, get_acl, set_acl
from support.places import OK, Place, make_file, needs_root, outcome, outcome_as
from support.sides import User

pytestmark = needs_root
OWNER = User(1001, 1001, ())
NAMED = User(1002, 1002, ())
IN_GROUP = User(1003, 3000, ())
IN_NAMED_GROUP = User(1004, 1004, (3001,))
IN_BOTH = User(1005, 1005, (3000, 3001))
STRANGER = User(1006, 1006, ())
FILE_GROUP = 3000


def bits(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def classes(mode: int) -> tuple[str, str, str]:
    """0o754: rwx, r-x, r--."""
    text = stat.filemode(mode)
    return text[1:4], text[4:7], text[7:]


def rights(user: User, path: str) -> str:
    """Which of r, w, x ``open`` and ``access`` give."""
    found = ""
    for char, mode in (("r", os.R_OK), ("w", os.W_OK), ("x", os.X_OK)):

        def call(mode: int = mode) -> None:
            if not os.access(path, mode, effective_ids=True):
                raise PermissionError(13, "denied")

        given = outcome_as(user, call) == OK
        if char != "x":
            flags = os.O_RDONLY if char == "r" else os.O_WRONLY
            opens = outcome_as(user, lambda f=flags: os.close(os.open(path, f)))
            assert (opens == OK) == given
        found += char if given else "-"
    return found


CASES = [
    ("u::rw-,u:1002:rw-,g::r--,m::rw-,o::---", "rw-", "rw-", "r--", "---", "---"),
    ("u::rw-,u:1002:rw-,g::r--,m::r--,o::---", "rw-", "r--", "r--", "---", "---"),
    ("u::rw-,u:1002:rwx,g::rwx,m::---,o::---", "rw-", "---", "---", "---", "---"),
    ("u::---,u:1002:r--,g::r--,m::rwx,o::r--", "---", "r--", "r--", "r--", "r--"),
    ("u::rw-,g::---,g:3001:rw-,m::rwx,o::r--", "rw-", "r--", "---", "rw-", "r--"),
    ("u::rw-,g::r--,g:3001:-w-,m::rw-,o::rwx", "rw-", "rwx", "r--", "-w-", "rwx"),
    ("u::rw-,u:1002:---,g::r--,g:3001:---,m::rwx,o::rwx", "rw-", "---", "r--", "---", "rwx"),
    ("u::rwx,u:1001:---,g::---,m::rwx,o::---", "rwx", "---", "---", "---", "---"),
    ("u::rw-,u:1002:--x,g::--x,g:3001:--x,m::--x,o::--x", "rw-", "--x", "--x", "--x", "--x"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_who_may_what(here, case):
    make_file("x")
    os.chown("x", OWNER.uid, FILE_GROUP)
    set_acl("x", case[0])
    users = (OWNER, NAMED, IN_GROUP, IN_NAMED_GROUP, STRANGER)
    assert tuple(rights(user, "x") for user in users) == case[1:]


@pytest.mark.parametrize(
    ("own", "named", "wanted"),
    [("r--", "-w-", "rw-"), ("---", "r--", "r--"), ("rwx", "---", "rwx"), ("---", "---", "---")],
)
def test_one_of_the_groups_that_gives_the_right_is_enough(here, own, named, wanted):
    make_file("x")
    os.chown("x", OWNER.uid, FILE_GROUP)
    set_acl("x", f"u::rw-,g::{own},g:3001:{named},m::rwx,o::---")
    assert rights(IN_BOTH, "x") == wanted


def test_directories(here):
    os.mkdir("d")
    make_file("d/f")
    os.chown("d", OWNER.uid, FILE_GROUP)
    set_acl("d", "u::rwx,u:1002:-wx,g::r-x,m::rwx,o::---")
    assert outcome_as(NAMED, make_file, "d/new") == OK
    assert outcome_as(NAMED, os.listdir, "d") == "EACCES"
    assert outcome_as(IN_GROUP, os.listdir, "d") == OK
    assert outcome_as(IN_GROUP, make_file, "d/other") == "EACCES"
    assert outcome_as(STRANGER, os.stat, "d/f") == "EACCES"


# -- mode and mask ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("short", "mode"),
    [
        ("u::rwx,g::r-x,o::r--", 0o754),
        ("u::rw-,u:1002:rwx,g::---,m::r-x,o::---", 0o650),
        ("u::---,g::rwx,g:3001:---,m::-w-,o::--x", 0o021),
    ],
)
@pytest.mark.parametrize("kind", ["file", "dir"])
def test_an_acl_sets_the_mode(here, kind, short, mode):
    if kind == "file":
        make_file("x")
    else:
        os.mkdir("x")
    set_acl("x", short)
    assert bits("x") == mode
    # One that says no more than the mode is not kept.
    assert (get_acl("x") == "") == ("m:" not in short)


@pytest.mark.parametrize("mode", [0o000, 0o770, 0o741, 0o640, 0o777, 0o604])
def test_chmod_changes_the_mask_and_not_the_group(here, mode):
    make_file("x")
    set_acl("x", "u::rw-,u:1002:rwx,g::r-x,m::rwx,o::r--")
    os.chmod("x", mode)
    user, mask, other = classes(mode)
    assert get_acl("x") == f"u::{user},u:1002:rwx,g::r-x,m::{mask},o::{other}"
    assert bits("x") == mode


def test_chmod_without_a_mask_changes_the_group(here):
    make_file("x")
    set_acl("x", "u::rw-,g::r-x,o::r--")
    os.chmod("x", 0o731)
    assert bits("x") == 0o731
    assert get_acl("x") == ""


def test_removing_an_acl_leaves_the_mode(here):
    make_file("x")
    set_acl("x", "u::rw-,u:1002:rwx,g::r--,m::rwx,o::---")
    os.removexattr("x", ACCESS)
    assert bits("x") == 0o670
    assert get_acl("x") == ""
    assert outcome(os.removexattr, "x", ACCESS) in (OK, "ENODATA")


def test_acls_are_listed(here):
    os.mkdir("d")
    set_acl("d", "u::rw-,u:1002:rwx,g::r--,m::rwx,o::---")
    set_acl("d", "u::rw-,g::r--,o::---", DEFAULT)
    assert sorted(os.listxattr("d")) == [ACCESS, DEFAULT]


@pytest.mark.parametrize("mode", [0o2755, 0o2775])
def test_an_outsider_who_sets_an_acl_loses_set_gid(here, mode):
    make_file("x")
    os.chown("x", OWNER.uid, FILE_GROUP)
    os.chmod("x", mode)
    short = "u::rwx,u:1002:r-x,g::r-x,m::r-x,o::r-x"
    assert outcome_as(OWNER, set_acl, "x", short) == OK
    assert bits("x") == 0o755
    os.chmod("x", mode)
    insider = OWNER._replace(groups=(FILE_GROUP,))
    assert outcome_as(insider, set_acl, "x", short) == OK
    assert bits("x") == 0o2755


# -- bad ones and rights to set them -------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        b"123",
        struct.pack("<I", 2) + b"123",
        struct.pack("<I", 2) + struct.pack("<HHI", 1, 7, 0xFFFFFFFF),
        acl("u::rwx,g::rwx,o::rwx,u:1002:rwx"),
        acl("u::rwx,g::rwx,o::rwx,o::rwx"),
        acl("u::rwx,g::rwx"),
        struct.pack("<I", 2) + struct.pack("<HHI", 1, 15, 0xFFFFFFFF) + acl("g::r--,o::r--")[4:],
    ],
)
@pytest.mark.parametrize("name", [ACCESS, DEFAULT])
def test_what_is_no_acl_is_einval(here, value, name):
    os.mkdir("x", 0o750)
    assert outcome(os.setxattr, "x", name, value) == "EINVAL"
    assert bits("x") == 0o750
    assert os.listxattr("x") == []


def test_another_version_is_not_supported(here):
    make_file("x")
    value = struct.pack("<I", 3) + acl("u::rwx,g::rwx,o::rwx")[4:]
    assert outcome(os.setxattr, "x", ACCESS, value) == "EOPNOTSUPP"


@pytest.mark.parametrize(("user", "wanted"), [(OWNER, OK), (IN_GROUP, "EPERM"), (NAMED, "EPERM")])
def test_only_the_owner_sets_acls(here, user, wanted):
    os.mkdir("x")
    os.chown("x", OWNER.uid, FILE_GROUP)
    set_acl("x", "u::rwx,u:1002:rwx,g::rwx,m::rwx,o::rwx")
    for name in (ACCESS, DEFAULT):
        assert outcome_as(user, set_acl, "x", "u::rw-,g::r--,o::r--", name) == wanted
        set_acl("x", "u::rwx,u:1002:rwx,g::rwx,m::rwx,o::rwx", name)
        assert outcome_as(user, os.removexattr, "x", name) == wanted


def test_only_directories_have_a_default(here):
    make_file("x")
    short = "u::rwx,g::r-x,o::---"
    assert outcome(set_acl, "x", short, DEFAULT) == "EACCES"
    os.symlink("x", "s")
    value = acl(short)
    assert outcome(os.setxattr, "s", ACCESS, value, follow_symlinks=False) == "EOPNOTSUPP"


# -- inheritance ----------------------------------------------------------------------------


DEFAULTS = "u::rwx,u:1002:rwx,g::r-x,m::rwx,o::r--"


@pytest.mark.parametrize("umask", [0, 0o077])
@pytest.mark.parametrize("asked", [0o777, 0o666, 0o640, 0])
@pytest.mark.parametrize("kind", ["file", "dir", "fifo", "node"])
def test_what_is_made_inherits(here, kind, asked, umask):
    """The umask has no say where there is a default ACL: acl(5)."""
    os.mkdir("d")
    set_acl("d", DEFAULTS, DEFAULT)
    os.umask(umask)
    match kind:
        case "file":
            os.close(os.open("d/x", os.O_CREAT | os.O_WRONLY, asked))
        case "dir":
            os.mkdir("d/x", asked)
        case "fifo":
            os.mkfifo("d/x", asked)
        case _:
            os.mknod("d/x", stat.S_IFREG | asked)
    mode = without_umask(here, asked, umask) & 0o774
    user, mask, other = classes(mode)
    assert bits("d/x") == mode
    assert get_acl("d/x") == f"u::{user},u:1002:rwx,g::r-x,m::{mask},o::{other}"
    assert get_acl("d/x", DEFAULT) == (DEFAULTS if kind == "dir" else "")


def without_umask(here: Place, mode: int, umask: int) -> int:
    return mode & ~umask if here.lacks("default_acl_instead_of_umask") else mode


def test_a_short_default_only_sets_the_mode(here):
    os.mkdir("d")
    set_acl("d", "u::rwx,g::rwx,o::r-x", DEFAULT)
    os.umask(0o077)
    make = os.open("d/x", os.O_CREAT | os.O_WRONLY, 0o666)
    os.close(make)
    assert bits("d/x") == without_umask(here, 0o664, 0o077)
    assert get_acl("d/x") == ""
    os.mkdir("d/e", 0o777)
    assert bits("d/e") == without_umask(here, 0o775, 0o077)
    assert get_acl("d/e", DEFAULT) == "u::rwx,g::rwx,o::r-x"


def test_symbolic_links_and_links_inherit_nothing(here):
    os.mkdir("d")
    set_acl("d", DEFAULTS, DEFAULT)
    os.symlink("x", "d/s")
    make_file("f", mode=0o600)
    os.link("f", "d/f")
    os.rename("f", "d/g")
    assert os.lstat("d/s").st_mode & 0o777 == 0o777
    assert bits("d/f") == 0o600
    assert get_acl("d/f") == ""


def test_rights_that_are_inherited_count(here):
    os.mkdir("d")
    os.chmod("d", 0o755)
    set_acl("d", DEFAULTS, DEFAULT)
    os.umask(0)
    os.close(os.open("d/x", os.O_CREAT | os.O_WRONLY, 0o660))
    assert rights(NAMED, "d/x") == "rw-"
    assert rights(STRANGER, "d/x") == "---"


def test_a_removed_default_is_inherited_no_more(here):
    os.mkdir("d")
    set_acl("d", DEFAULTS, DEFAULT)
    os.removexattr("d", DEFAULT)
    os.umask(0o022)
    os.mkdir("d/x", 0o777)
    assert bits("d/x") == 0o755
    assert get_acl("d/x") == ""


def test_setfacl_and_getfacl(here):
    if shutil.which("setfacl") is None:
        return
    os.makedirs("d/e")
    make_file("d/f")
    subprocess.run(["setfacl", "-R", "-m", "u:1002:rX,d:g:3001:rwx", "d"], check=True)
    said = subprocess.run(
        ["getfacl", "-R", "-n", "-c", "d"], check=True, capture_output=True, text=True
    ).stdout
    assert said.count("user:1002:r-x") == 2
    assert said.count("user:1002:r--") == 1
    assert said.count("default:group:3001:rwx") == 2
    subprocess.run(["setfacl", "-R", "-b", "d"], check=True)
    assert os.listxattr("d/e") == []
    subprocess.run(["setfacl", "-m", "u:1002:rw", "d/f"], check=True)
    subprocess.run(["cp", "-a", "d/f", "d/copy"], check=True)
    assert get_acl("d/copy") == get_acl("d/f") != ""
