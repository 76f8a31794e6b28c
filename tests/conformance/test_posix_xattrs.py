"""Extended attributes: name spaces, flags, limits, which kinds of inode take them."""

from __future__ import annotations

import os

import pytest
from support.pathcalls import KINDS, make_kind
from support.places import OK, make_file, needs_root, opened, outcome, outcome_as
from support.sides import User

CREATE, REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE
ALICE = User(1001, 1001, ())
VALUE_MAX = 65_536
NAME_MAX = 255


@pytest.mark.parametrize(
    ("there", "flags", "wanted"),
    [
        (False, 0, OK),
        (False, CREATE, OK),
        (False, REPLACE, "ENODATA"),
        (True, 0, OK),
        (True, CREATE, "EEXIST"),
        (True, REPLACE, OK),
        (False, CREATE | REPLACE, "ENODATA"),
        (True, CREATE | REPLACE, "EEXIST"),
        (True, 4, "EINVAL"),
    ],
)
def test_flags(here, there, flags, wanted):
    make_file("x")
    if there:
        os.setxattr("x", "user.a", b"old")
    if flags == CREATE | REPLACE and not there:
        wanted = here.expected("create_and_replace", wanted)
    assert outcome(os.setxattr, "x", "user.a", b"new", flags) == wanted
    if wanted == OK:
        assert os.getxattr("x", "user.a") == b"new"
    elif there:
        assert os.getxattr("x", "user.a") == b"old"
    else:
        assert os.listxattr("x") == []


@pytest.mark.parametrize("through", ["path", "descriptor", "directory"])
@pytest.mark.parametrize("size", [0, 1, 100, 1_000])
def test_values(here, through, size):
    value = bytes(range(256)) * 4
    value = value[:size]
    if through == "directory":
        os.mkdir("x")
    else:
        make_file("x")
    with opened("x", os.O_RDONLY) as fd:
        target = fd if through == "descriptor" else "x"
        os.setxattr(target, "user.a", value)
        os.setxattr(target, "user.b", b"other")
        assert os.getxattr(target, "user.a") == value
        assert sorted(os.listxattr(target)) == ["user.a", "user.b"]
        os.setxattr(target, "user.a", b"shorter")
        assert os.getxattr(target, "user.a") == b"shorter"
        os.removexattr(target, "user.a")
        assert os.listxattr(target) == ["user.b"]
        assert outcome(os.removexattr, target, "user.a") == "ENODATA"
        assert outcome(os.getxattr, target, "user.a") == "ENODATA"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("user." + "n" * (NAME_MAX - 5), OK),
        ("user." + "n" * (NAME_MAX - 4), "ERANGE"),
        ("", "ERANGE"),
        ("user.", "EINVAL"),
        ("odd.a", "EOPNOTSUPP"),
        ("nodot", "EOPNOTSUPP"),
        ("user.with space and ä", OK),
        ("user.a.b.c", OK),
        ("user.A", OK),
        ("trusted.a", OK),
        ("trusted.", "EINVAL"),
        ("system.odd", "EOPNOTSUPP"),
    ],
)
@needs_root
def test_names(here, name, wanted):
    make_file("x")
    assert outcome(os.setxattr, "x", name, b"1") == wanted
    if wanted == OK:
        assert os.listxattr("x") == [name]
        assert os.getxattr("x", name) == b"1"
        os.removexattr("x", name)
    else:
        assert outcome(os.getxattr, "x", name) == wanted
        assert outcome(os.removexattr, "x", name) == wanted
    assert os.listxattr("x") == []


def test_names_are_bytes_and_tell_cases_apart(here):
    make_file("x")
    names = [b"user.\xff\xfe", b"user.a", b"user.A"]
    for name in names:
        os.setxattr("x", name, name)
    for name in names:
        assert os.getxattr("x", name) == name
    assert sorted(map(os.fsencode, os.listxattr("x"))) == sorted(names)


def test_limits_of_values(here):
    make_file("x")
    assert outcome(os.setxattr, "x", "user.a", bytes(VALUE_MAX + 1)) == "E2BIG"
    if here.is_reference:
        return  # ext4 has one block for all, unless made with ea_inode
    value = os.urandom(VALUE_MAX)
    os.setxattr("x", "user.a", value)
    assert os.getxattr("x", "user.a") == value


def test_many(here):
    make_file("x")
    count = 30 if here.is_reference else 1_000
    for number in range(count):
        os.setxattr("x", f"user.{number}", b"%d" % number)
    assert sorted(os.listxattr("x")) == sorted(f"user.{number}" for number in range(count))
    for number in range(count):
        assert os.getxattr("x", f"user.{number}") == b"%d" % number


@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_which_kinds_take_which(here, kind):
    """xattr(7): user. only on files and directories, trusted. on all."""
    make_kind(kind, "x")
    wanted = OK if kind in ("file", "dir") else "EPERM"
    assert outcome(os.setxattr, "x", "user.a", b"1", follow_symlinks=False) == wanted
    os.setxattr("x", "trusted.a", b"1", follow_symlinks=False)
    assert os.getxattr("x", "trusted.a", follow_symlinks=False) == b"1"
    names = ["trusted.a", "user.a"] if wanted == OK else ["trusted.a"]
    assert sorted(os.listxattr("x", follow_symlinks=False)) == names
    missing = "ENODATA"
    assert outcome(os.getxattr, "x", "user.b", follow_symlinks=False) == missing


@needs_root
@pytest.mark.parametrize("sticky", [True, False])
def test_user_attributes_of_sticky_directories_are_for_the_owner(here, sticky):
    os.mkdir("d")
    os.chmod("d", 0o1777 if sticky else 0o777)
    wanted = "EPERM" if sticky else OK
    assert outcome_as(ALICE, os.setxattr, "d", "user.a", b"1") == wanted


def test_attributes_go_with_the_inode(here):
    make_file("x")
    os.setxattr("x", "user.a", b"1")
    os.link("x", "y")
    os.rename("x", "z")
    assert os.getxattr("y", "user.a") == b"1"
    assert os.getxattr("z", "user.a") == b"1"
    os.unlink("y")
    os.unlink("z")
    make_file("x")
    assert os.listxattr("x") == []


def test_too_small_buffers_are_erange(here):
    from ctypes import create_string_buffer, get_errno

    from support.pathcalls import libc

    make_file("x")
    os.setxattr("x", "user.a", b"12345")
    buffer = create_string_buffer(4)
    assert libc.getxattr(b"x", b"user.a", buffer, 4) == -1
    assert get_errno() == 34
    assert libc.getxattr(b"x", b"user.a", None, 0) == 5
    assert libc.listxattr(b"x", buffer, 4) == -1
    assert get_errno() == 34
    assert libc.listxattr(b"x", None, 0) == 7
