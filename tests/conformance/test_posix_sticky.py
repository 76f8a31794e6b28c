"""Sticky directories: who may remove, move or replace what, as a full matrix."""

from __future__ import annotations

import itertools
import os

import pytest
from support import syscalls
from support.pathcalls import KINDS, make_kind
from support.places import OK, make_file, needs_root, outcome, outcome_as
from support.sides import User

pytestmark = needs_root
ALICE = User(1001, 1001, ())
BOB = User(1002, 1002, ())
CAROL = User(1003, 1003, (1001, 1002))
ROOT = User(0, 0, ())
USERS = {"alice": ALICE, "bob": BOB, "carol": CAROL, "root": ROOT}


def make_directory(name: str, owner: User, sticky: bool) -> None:
    os.mkdir(name)
    os.chown(name, owner.uid, owner.gid)
    os.chmod(name, 0o1777 if sticky else 0o777)


def make_owned(kind: str, path: str, owner: User) -> None:
    make_kind(kind, path, 0o777 if kind == "dir" else 0o644)
    os.lchown(path, owner.uid, owner.gid)


def expected(actor: User, folder: User, inode: User, sticky: bool) -> str:
    """What unlink(2) says of EPERM: neither the file's nor the directory's owner."""
    return OK if not sticky or actor in (folder, inode) or actor == ROOT else "EPERM"


OWNERS = ("alice", "bob", "root")
MATRIX = list(itertools.product(("alice", "carol", "root"), OWNERS, OWNERS, (True, False)))


@pytest.mark.parametrize(("actor", "folder", "inode", "sticky"), MATRIX)
@pytest.mark.parametrize("kind", KINDS)
def test_remove(here, kind, actor, folder, inode, sticky):
    make_directory("d", USERS[folder], sticky)
    make_owned(kind, "d/x", USERS[inode])
    wanted = expected(USERS[actor], USERS[folder], USERS[inode], sticky)
    call = os.rmdir if kind == "dir" else os.unlink
    assert outcome_as(USERS[actor], call, "d/x") == wanted
    assert os.path.lexists("d/x") == (wanted != OK)


@pytest.mark.parametrize(("actor", "folder", "inode", "sticky"), MATRIX)
@pytest.mark.parametrize("kind", ["file", "dir", "symlink", "fifo"])
def test_move_out(here, kind, actor, folder, inode, sticky):
    make_directory("d", USERS[folder], sticky)
    make_directory("e", USERS["alice"], False)
    make_owned(kind, "d/x", USERS[inode])
    wanted = expected(USERS[actor], USERS[folder], USERS[inode], sticky)
    assert outcome_as(USERS[actor], os.rename, "d/x", "e/x") == wanted
    assert os.path.lexists("e/x") == (wanted == OK)
    assert os.path.lexists("d/x") == (wanted != OK)


@pytest.mark.parametrize(("actor", "folder", "inode", "sticky"), MATRIX)
@pytest.mark.parametrize("kind", ["file", "dir", "symlink"])
def test_move_over(here, kind, actor, folder, inode, sticky):
    make_directory("d", USERS[folder], sticky)
    make_directory("e", USERS["alice"], False)
    make_owned(kind, "d/x", USERS[inode])
    make_owned(kind, "e/new", USERS[actor])
    wanted = expected(USERS[actor], USERS[folder], USERS[inode], sticky)
    before = os.lstat("d/x").st_ino
    assert outcome_as(USERS[actor], os.rename, "e/new", "d/x") == wanted
    assert (os.lstat("d/x").st_ino == before) == (wanted != OK)


@pytest.mark.parametrize(("actor", "folder", "inode", "sticky"), MATRIX)
def test_exchange_needs_both(here, actor, folder, inode, sticky):
    make_directory("d", USERS[folder], sticky)
    make_directory("e", USERS["alice"], False)
    make_owned("file", "d/x", USERS[inode])
    make_owned("dir", "e/y", USERS[actor])
    wanted = expected(USERS[actor], USERS[folder], USERS[inode], sticky)
    for old, new in ((b"d/x", b"e/y"), (b"e/y", b"d/x")):
        result = outcome_as(USERS[actor], syscalls.renameat2, old, new, syscalls.RENAME_EXCHANGE)
        assert result == wanted


@pytest.mark.parametrize("actor", ["alice", "bob", "carol", "root"])
@pytest.mark.parametrize("call", ["link", "create", "mkdir", "move_in"])
def test_sticky_does_not_forbid_to_add(here, actor, call):
    make_directory("d", USERS["bob"], True)
    make_owned("file", "x", USERS[actor])
    calls = {
        "link": lambda: os.link("x", "d/x"),
        "create": lambda: make_file("d/x"),
        "mkdir": lambda: os.mkdir("d/x"),
        "move_in": lambda: os.rename("x", "d/x"),
    }
    assert outcome_as(USERS[actor], calls[call]) == OK


@pytest.mark.parametrize(
    ("folder", "inode", "wanted"),
    [("alice", "alice", OK), ("bob", "alice", "EACCES"), ("alice", "root", "EACCES")],
)
def test_a_directory_of_others_cannot_change_its_parent(here, folder, inode, wanted):
    """Moving a directory rewrites its '..': that needs the right to write to it."""
    make_directory("d", USERS[folder], False)
    make_directory("e", USERS["alice"], False)
    make_owned("dir", "d/x", USERS[inode])
    os.chmod("d/x", 0o755)
    result = outcome_as(ALICE, os.rename, "d/x", "e/x")
    assert result == (OK if inode == "alice" else wanted)


@pytest.mark.parametrize("kind", ["file", "dir", "fifo"])
@pytest.mark.parametrize("actor", ["alice", "root"])
def test_who_may_set_the_sticky_bit(here, actor, kind):
    make_owned(kind, "x", ALICE)
    assert outcome_as(USERS[actor], os.chmod, "x", 0o1755) == OK
    assert os.stat("x").st_mode & 0o7777 == 0o1755


def test_root_removes_all(here):
    make_directory("d", ALICE, True)
    make_owned("file", "d/x", BOB)
    assert outcome(os.unlink, "d/x") == OK
