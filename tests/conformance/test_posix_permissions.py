"""Who may do what: each permission by each class of user, for files and directories."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from support.places import OK, make_file, needs_root, opened, outcome, outcome_as
from support.posixusers import CLASSES, GROUP_ID, OWNER, ROOT, STRANGER, in_child, only_for

pytestmark = needs_root
R, W, X = 4, 2, 1
Path = str


def _open(flags: int) -> Callable[[Path], None]:
    return lambda path: os.close(os.open(path, flags))


def _access(mode: int) -> Callable[[Path], None]:
    def call(path: Path) -> None:
        if not os.access(path, mode, effective_ids=True):
            raise PermissionError(13, "denied")

    return call


def _run(path: Path) -> None:
    """execve(2); an empty file is no program, but what may be run gets that far."""
    try:
        os.execv(path, [path])
    except OSError as error:
        if error.errno != 8:
            raise


ON_FILES = {
    "open_read": (R, _open(os.O_RDONLY)),
    "open_write": (W, _open(os.O_WRONLY)),
    "open_both": (R | W, _open(os.O_RDWR)),
    "open_append": (W, _open(os.O_WRONLY | os.O_APPEND)),
    "open_truncate": (W, _open(os.O_WRONLY | os.O_TRUNC)),
    "open_read_truncate": (R | W, _open(os.O_RDONLY | os.O_TRUNC)),
    "open_create": (W, _open(os.O_WRONLY | os.O_CREAT)),
    "open_path": (0, _open(os.O_PATH)),
    "truncate": (W, lambda path: os.truncate(path, 1)),
    "access_r": (R, _access(os.R_OK)),
    "access_w": (W, _access(os.W_OK)),
    "access_x": (X, _access(os.X_OK)),
    "access_rx": (R | X, _access(os.R_OK | os.X_OK)),
    "run": (X, _run),
    "stat": (0, os.stat),
    "get_xattr": (R, lambda path: os.getxattr(path, "user.a")),
    "set_xattr": (W, lambda path: os.setxattr(path, "user.b", b"1")),
    "list_xattrs": (0, os.listxattr),
}
ON_DIRECTORIES = {
    "list": (R, os.listdir),
    "stat_it": (0, os.stat),
    "go_in": (X, lambda path: os.close(os.open(f"{path}/.", os.O_PATH))),
    "stat_in": (X, lambda path: os.stat(f"{path}/file")),
    "open_in": (X, lambda path: _open(os.O_RDONLY)(f"{path}/file")),
    "create": (W | X, lambda path: make_file(f"{path}/new")),
    "mkdir": (W | X, lambda path: os.mkdir(f"{path}/new")),
    "symlink": (W | X, lambda path: os.symlink("x", f"{path}/new")),
    "mkfifo": (W | X, lambda path: os.mkfifo(f"{path}/new")),
    "link": (W | X, lambda path: os.link("own", f"{path}/new")),
    "unlink": (W | X, lambda path: os.unlink(f"{path}/file")),
    "rmdir": (W | X, lambda path: os.rmdir(f"{path}/dir")),
    "rename_in": (W | X, lambda path: os.rename("own", f"{path}/new")),
    "rename_out": (W | X, lambda path: os.rename(f"{path}/file", "new")),
    "rename_over": (W | X, lambda path: os.rename("own", f"{path}/file")),
    "rename_within": (W | X, lambda path: os.rename(f"{path}/file", f"{path}/new")),
}


@pytest.fixture(params=CLASSES)
def who(request):
    return CLASSES[request.param]


@pytest.mark.parametrize("perm", range(8))
@pytest.mark.parametrize("name", ON_FILES)
def test_the_mode_of_a_file(here, who, name, perm):
    user, shift = who
    make_file("file", b"123")
    os.setxattr("file", "user.a", b"1")
    os.chown("file", OWNER.uid, GROUP_ID)
    os.chmod("file", only_for(shift, perm))
    need, call = ON_FILES[name]
    wanted = OK if perm & need == need else "EACCES"
    if name == "run":
        assert in_child(outcome, call, "file", user=user) == wanted
    else:
        assert outcome_as(user, call, "file") == wanted


@pytest.mark.parametrize("perm", range(8))
@pytest.mark.parametrize("name", ON_DIRECTORIES)
def test_the_mode_of_a_directory(here, who, name, perm):
    user, shift = who
    os.mkdir("d")
    make_file("d/file")
    os.mkdir("d/dir")
    make_file("own")
    os.chown("own", user.uid, user.gid)
    os.chown("d/file", user.uid, user.gid)
    os.chown("d", OWNER.uid, GROUP_ID)
    os.chmod("d", only_for(shift, perm))
    need, call = ON_DIRECTORIES[name]
    wanted = OK if perm & need == need else "EACCES"
    assert outcome_as(user, call, "d") == wanted


@pytest.mark.parametrize("mode", [0, 0o111, 0o444, 0o777])
@pytest.mark.parametrize("name", ON_FILES)
def test_root_may_all_but_run_what_nobody_may(here, name, mode):
    make_file("file", b"123", mode)
    os.setxattr("file", "user.a", b"1")
    os.chown("file", OWNER.uid, GROUP_ID)
    need, call = ON_FILES[name]
    wanted = "EACCES" if need & X and not mode & 0o111 else OK
    result = in_child(outcome, call, "file") if name == "run" else outcome(call, "file")
    assert result == wanted


@pytest.mark.parametrize("name", ON_DIRECTORIES)
def test_root_may_all_in_directories(here, name):
    os.mkdir("d")
    make_file("d/file")
    os.mkdir("d/dir")
    make_file("own")
    os.chown("d", OWNER.uid, GROUP_ID)
    os.chmod("d", 0)
    assert outcome(ON_DIRECTORIES[name][1], "d") == OK


OWNERS_ONLY = {
    "chmod": lambda path: os.chmod(path, 0o600),
    "chgrp": lambda path: os.chown(path, -1, OWNER.gid),
    "set_times": lambda path: os.utime(path, ns=(5, 6)),
    "set_acl": lambda path: os.setxattr(
        path,
        "system.posix_acl_access",
        bytes.fromhex("02000000 01000600ffffffff 04000400ffffffff 20000400ffffffff"),
    ),
    "open_noatime": lambda path: os.close(os.open(path, os.O_RDONLY | os.O_NOATIME)),
}
ROOTS_ONLY = {
    "chown": lambda path: os.chown(path, STRANGER.uid, -1),
    "chown_self_away": lambda path: os.chown(path, ROOT.uid, ROOT.gid),
    "chgrp_foreign": lambda path: os.chown(path, -1, 4711),
    "set_trusted": lambda path: os.setxattr(path, "trusted.a", b"1"),
    "set_security": lambda path: os.setxattr(path, "security.a", b"1"),
    "mknod_device": lambda path: os.mknod(f"{path}.dev", 0o20644, os.makedev(1, 3)),
}


@pytest.mark.parametrize("name", [*OWNERS_ONLY, *ROOTS_ONLY])
def test_what_is_for_the_owner_or_root_only(here, who, name):
    user, _ = who
    make_file("file", mode=0o666)
    os.chown("file", OWNER.uid, GROUP_ID)
    call = OWNERS_ONLY.get(name) or ROOTS_ONLY[name]
    wanted = OK if user == OWNER and name in OWNERS_ONLY else "EPERM"
    assert outcome_as(user, call, "file") == wanted
    os.chown("file", OWNER.uid, GROUP_ID)
    assert outcome(call, "file") == OK


@pytest.mark.parametrize("perm", range(8))
def test_times_are_set_to_now_by_the_owner_or_who_may_write(here, who, perm):
    user, shift = who
    make_file("file")
    os.chown("file", OWNER.uid, GROUP_ID)
    os.chmod("file", only_for(shift, perm))
    wanted = OK if perm & W or user == OWNER else "EACCES"
    assert outcome_as(user, os.utime, "file") == wanted


def test_trusted_attributes_are_hidden_from_users(here):
    make_file("file", mode=0o666)
    os.setxattr("file", "trusted.a", b"1")
    os.setxattr("file", "user.a", b"1")
    assert outcome_as(STRANGER, os.getxattr, "file", "trusted.a") in ("ENODATA", "EPERM")
    assert in_child(os.listxattr, "file", user=STRANGER) == ["user.a"]


def test_a_descriptor_keeps_its_rights(here):
    make_file("file", b"123", 0o600)
    os.chown("file", OWNER.uid, GROUP_ID)

    def work() -> bytes:
        with opened("file") as fd:
            os.chmod("file", 0)
            os.pwrite(fd, b"x", 0)
            os.ftruncate(fd, 2)
            return os.pread(fd, 10, 0)

    assert in_child(work, user=OWNER) == b"x2"


def test_a_new_file_may_be_written_by_who_made_it_though_its_mode_says_no(here):
    def work() -> bytes:
        with opened("new", os.O_RDWR | os.O_CREAT, 0) as fd:
            os.write(fd, b"123")
            return os.pread(fd, 10, 0)

    assert in_child(work, user=STRANGER) == b"123"
    assert outcome_as(STRANGER, _open(os.O_RDONLY), "new") == "EACCES"


@pytest.mark.parametrize("groups", [(), (GROUP_ID,), (*range(5000, 5200), GROUP_ID)])
def test_supplementary_groups_are_counted_however_many(here, groups):
    make_file("file", mode=0o040)
    os.chown("file", OWNER.uid, GROUP_ID)
    user = STRANGER._replace(groups=groups)
    wanted = OK if GROUP_ID in groups else "EACCES"
    assert in_child(outcome, _open(os.O_RDONLY), "file", user=user) == wanted


def test_access_asks_for_the_real_user(here):
    make_file("file", mode=0o600)
    assert in_child(os.access, "file", os.R_OK, user=STRANGER) is False
    assert in_child(os.access, "file", os.R_OK) is True
