"""Time stamps: what changes which of object and parent, and that failures change none."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from support import syscalls
from support.pathcalls import KINDS, make_kind
from support.places import OK, Place, content, make_file, needs_root, opened, outcome, outcome_as
from support.sides import User

OLD_NS = 1_000_000_000_123_456_789
ALICE = User(1001, 1001, ())
BOB = User(1002, 1002, ())
SECOND_NS = 10**9


def stamps(path: str) -> dict[str, int]:
    info = os.lstat(path)
    return {"a": info.st_atime_ns, "m": info.st_mtime_ns, "c": info.st_ctime_ns}


def changed(before: dict[str, int], after: dict[str, int]) -> str:
    return "".join(name for name in before if before[name] != after[name])


def age(path: str) -> None:
    """Data and attributes were changed long ago; ctime cannot be set back."""
    os.utime(path, ns=(OLD_NS + 1, OLD_NS), follow_symlinks=False)


def tick() -> None:
    """Clocks of file systems are coarse: 4 ms at 250 Hz."""
    time.sleep(0.012)


def setting() -> None:
    """A directory with one of each, and a second one, all with old stamps."""
    for path in ("d", "e"):
        os.mkdir(path)
    make_file("d/file", b"12345")
    make_file("e/other", b"67890")
    os.mkdir("d/dir")
    os.symlink("file", "d/link")
    os.mkfifo("d/fifo")
    os.setxattr("d/file", "user.old", b"1")
    for path in ("d/file", "d/dir", "d/link", "d/fifo", "e/other", "d", "e"):
        age(path)
    tick()


def _fd(path: str, work: Callable[[int], Any], flags: int = os.O_RDWR) -> None:
    with opened(path, flags) as fd:
        work(fd)


ACL = bytes.fromhex("02000000 01000600ffffffff 04000400ffffffff 20000000ffffffff")
# What changes: stamps by path. "e/other" and the directories are always looked at.
EFFECTS: dict[str, tuple[Callable[[], Any], dict[str, str]]] = {
    "chmod": (lambda: os.chmod("d/file", 0o600), {"d/file": "c"}),
    "chmod_same": (lambda: os.chmod("d/file", 0o644), {"d/file": "c"}),
    "fchmod": (lambda: _fd("d/file", lambda fd: os.fchmod(fd, 0o600)), {"d/file": "c"}),
    "chown": (lambda: os.chown("d/file", os.getuid(), os.getgid()), {"d/file": "c"}),
    "lchown": (lambda: os.lchown("d/link", os.getuid(), os.getgid()), {"d/link": "c"}),
    "chmod_dir": (lambda: os.chmod("d/dir", 0o700), {"d/dir": "c"}),
    "setxattr": (lambda: os.setxattr("d/file", "user.a", b"1"), {"d/file": "c"}),
    "removexattr": (lambda: os.removexattr("d/file", "user.old"), {"d/file": "c"}),
    "set_acl": (
        lambda: os.setxattr("d/file", "system.posix_acl_access", ACL),
        {"d/file": "c"},
    ),
    "link": (lambda: os.link("d/file", "e/new"), {"d/file": "c", "e": "mc"}),
    "unlink": (lambda: os.unlink("d/file"), {"d": "mc"}),
    "unlink_one": (
        lambda: (os.link("d/file", "e/new"), tick(), os.unlink("d/file")),
        {"d": "mc", "e": "mc", "e/new": "amc"},
    ),
    "rmdir": (lambda: os.rmdir("d/dir"), {"d": "mc"}),
    "mkdir": (lambda: os.mkdir("d/new"), {"d": "mc"}),
    "mkfifo": (lambda: os.mkfifo("d/new"), {"d": "mc"}),
    "symlink": (lambda: os.symlink("x", "d/new"), {"d": "mc"}),
    "create": (lambda: make_file("d/new"), {"d": "mc"}),
    "rename": (lambda: os.rename("d/file", "d/new"), {"d": "mc"}),
    "rename_away": (lambda: os.rename("d/file", "e/new"), {"d": "mc", "e": "mc"}),
    "rename_dir": (lambda: os.rename("d/dir", "e/new"), {"d": "mc", "e": "mc"}),
    "rename_over": (lambda: os.rename("d/file", "e/other"), {"d": "mc", "e": "mc"}),
    "exchange": (
        lambda: syscalls.renameat2(b"d/file", b"e/other", syscalls.RENAME_EXCHANGE),
        {"d": "mc", "e": "mc"},
    ),
    "truncate": (lambda: os.truncate("d/file", 3), {"d/file": "mc"}),
    "truncate_up": (lambda: os.truncate("d/file", 9000), {"d/file": "mc"}),
    "truncate_same": (lambda: os.truncate("d/file", 5), {"d/file": "mc"}),
    "ftruncate": (lambda: _fd("d/file", lambda fd: os.ftruncate(fd, 3)), {"d/file": "mc"}),
    "ftruncate_same": (lambda: _fd("d/file", lambda fd: os.ftruncate(fd, 5)), {"d/file": "mc"}),
    "open_trunc": (
        lambda: _fd("d/file", lambda fd: None, os.O_WRONLY | os.O_TRUNC),
        {"d/file": "mc"},
    ),
    "open_create_there": (
        lambda: _fd("d/file", lambda fd: None, os.O_WRONLY | os.O_CREAT),
        {},
    ),
    "open": (lambda: _fd("d/file", lambda fd: None), {}),
    "write": (lambda: _fd("d/file", lambda fd: os.write(fd, b"x")), {"d/file": "mc"}),
    "write_nothing": (lambda: _fd("d/file", lambda fd: os.write(fd, b"")), {}),
    "append": (
        lambda: _fd("d/file", lambda fd: os.write(fd, b"x"), os.O_WRONLY | os.O_APPEND),
        {"d/file": "mc"},
    ),
    "read": (lambda: content("d/file"), {"d/file": "a"}),
    "read_noatime": (
        lambda: _fd("d/file", lambda fd: os.read(fd, 5), os.O_RDONLY | os.O_NOATIME),
        {},
    ),
    "stat": (lambda: (os.stat("d/file"), os.lstat("d/link"), os.stat("d")), {}),
    "access": (lambda: os.access("d/file", os.R_OK), {}),
    "getxattr": (lambda: os.getxattr("d/file", "user.old"), {}),
    "listxattr": (lambda: os.listxattr("d/file"), {}),
    "open_path": (lambda: _fd("d/file", os.fstat, os.O_PATH), {}),
    "utime_now": (lambda: os.utime("d/file"), {"d/file": "amc"}),
    "utime_set": (lambda: os.utime("d/file", ns=(5, 6)), {"d/file": "amc"}),
    "utime_dir": (lambda: os.utime("d/dir", ns=(5, 6)), {"d/dir": "amc"}),
    "utime_link": (
        lambda: os.utime("d/link", ns=(5, 6), follow_symlinks=False),
        {"d/link": "amc"},
    ),
}
# Left open by POSIX: the renamed file's own ctime (ext4 and hsmfs both set it),
# and what is read by readdir and readlink (relatime, by the kernel's caches).
RENAMES = ("rename", "rename_away", "rename_dir", "rename_over", "exchange")


@pytest.mark.parametrize("name", EFFECTS)
def test_what_changes(here, name):
    call, effects = EFFECTS[name]
    setting()
    paths = ["d", "e", "d/file", "d/dir", "d/link", "d/fifo", "e/other", "e/new"]
    before = {path: stamps(path) for path in paths if os.path.lexists(path)}
    call()
    for path in paths:
        if not os.path.lexists(path) or (name in RENAMES and path not in ("d", "e")):
            continue
        if path not in before:
            continue
        assert changed(before[path], stamps(path)) == effects.get(path, ""), path


@pytest.mark.parametrize(
    ("call", "old", "new"),
    [
        (lambda: os.rename("d/file", "d/new"), "d/file", "d/new"),
        (lambda: os.rename("d/file", "e/other"), "d/file", "e/other"),
        (lambda: os.rename("d/dir", "e/new"), "d/dir", "e/new"),
        (lambda: os.rename("d/link", "e/new"), "d/link", "e/new"),
        (lambda: os.rename("d/fifo", "e/new"), "d/fifo", "e/new"),
    ],
)
def test_rename_changes_ctime_of_what_moves(here, call, old, new):
    setting()
    before = stamps(old)
    call()
    assert changed(before, stamps(new)) == "c"


def test_rename_to_itself_changes_nothing(here):
    setting()
    os.link("d/file", "d/second")
    age("d")
    tick()
    before = {path: stamps(path) for path in ("d", "d/file")}
    os.rename("d/file", "d/file")
    os.rename("d/file", "d/second")
    assert {path: stamps(path) for path in ("d", "d/file")} == before


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_made_has_the_time_of_now(here, kind):
    if os.geteuid() != 0 and kind in ("char", "block"):
        return
    start_ns = time.time_ns()
    tick()
    make_kind(kind, "x")
    end_ns = time.time_ns()
    for value in stamps("x").values():
        assert start_ns - SECOND_NS // 50 <= value <= end_ns


def test_a_new_file_has_one_time(here):
    make_kind("file", "x")
    info = os.lstat("x")
    assert info.st_mtime_ns <= info.st_ctime_ns
    assert info.st_atime_ns == info.st_mtime_ns


def test_unlink_changes_ctime_of_an_open_file(here):
    make_file("x")
    with opened("x") as fd:
        before = os.fstat(fd)
        tick()
        os.unlink("x")
        after = os.fstat(fd)
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == before.st_mtime_ns


def test_a_stream_of_writes_moves_the_time_on(here):
    with opened("x", os.O_RDWR | os.O_CREAT) as fd:
        seen = []
        for _ in range(3):
            os.write(fd, b"x")
            seen.append(os.fstat(fd).st_mtime_ns)
            tick()
    assert seen == sorted(set(seen))
    assert stamps("x")["m"] == seen[-1]


def test_the_time_set_after_a_write_stays(here):
    """As tar, rsync and cp do: the data, then the stamps, then close."""
    with opened("x", os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"x" * 10_000)
        tick()
        os.utime(fd, ns=(OLD_NS, OLD_NS + 1))
        assert os.fstat(fd).st_mtime_ns == OLD_NS + 1
    tick()
    assert (stamps("x")["a"], stamps("x")["m"]) == (OLD_NS, OLD_NS + 1)


# -- failures ------------------------------------------------------------------------


FAILURES: dict[str, tuple[Callable[[], Any], str]] = {
    "chmod": (lambda: os.chmod("d/file", 0o777), "EPERM"),
    "chown": (lambda: os.chown("d/file", 5, 5), "EPERM"),
    "lchown": (lambda: os.lchown("d/link", 5, 5), "EPERM"),
    "link": (lambda: os.link("e/other", "d/new"), "EACCES"),
    "link_there": (lambda: os.link("e/other", "e/file2"), "EEXIST"),
    "unlink": (lambda: os.unlink("d/file"), "EACCES"),
    "unlink_dir": (lambda: os.unlink("e/sub"), "EISDIR"),
    "rmdir": (lambda: os.rmdir("d/dir"), "EACCES"),
    "rmdir_full": (lambda: os.rmdir("e/sub"), "ENOTEMPTY"),
    "mkdir": (lambda: os.mkdir("d/new"), "EACCES"),
    "mkdir_there": (lambda: os.mkdir("e/sub"), "EEXIST"),
    "mkfifo": (lambda: os.mkfifo("d/new"), "EACCES"),
    "symlink": (lambda: os.symlink("x", "d/new"), "EACCES"),
    "symlink_there": (lambda: os.symlink("x", "e/sub"), "EEXIST"),
    "create": (lambda: make_file("d/new"), "EACCES"),
    "create_there": (
        lambda: os.open("e/other", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        "EEXIST",
    ),
    "rename": (lambda: os.rename("d/file", "d/new"), "EACCES"),
    "rename_full": (lambda: os.rename("e/empty", "e/sub"), "ENOTEMPTY"),
    "rename_below": (lambda: os.rename("e/sub", "e/sub/in/x"), "EINVAL"),
    "rename_there": (
        lambda: syscalls.renameat2(b"e/other", b"e/file2", syscalls.RENAME_NOREPLACE),
        "EEXIST",
    ),
    "truncate": (lambda: os.truncate("d/file", 3), "EACCES"),
    "truncate_minus": (lambda: os.truncate("e/other", -1), "EINVAL"),
    "open_trunc": (lambda: os.open("d/file", os.O_WRONLY | os.O_TRUNC), "EACCES"),
    "utime": (lambda: os.utime("d/file", ns=(5, 6)), "EPERM"),
    "utime_now": (lambda: os.utime("d/file"), "EACCES"),
    "setxattr": (lambda: os.setxattr("d/file", "user.a", b"1"), "EACCES"),
    "setxattr_there": (
        lambda: os.setxattr("e/other", "user.old", b"1", os.XATTR_CREATE),
        "EEXIST",
    ),
    "removexattr": (lambda: os.removexattr("e/other", "user.none"), "ENODATA"),
}


@needs_root
@pytest.mark.parametrize("name", FAILURES)
def test_failures_change_nothing(here, name):
    """d is root's, e and what is in it are the user's."""
    setting()
    make_file("e/file2")
    os.mkdir("e/sub")
    os.mkdir("e/sub/in")
    os.mkdir("e/empty")
    os.setxattr("e/other", "user.old", b"1")
    for path in ("e/other", "e/file2", "e/sub", "e/sub/in", "e/empty", "e"):
        os.chown(path, ALICE.uid, ALICE.gid)
        age(path)
    tick()
    paths = ("d", "e", "d/file", "d/dir", "d/link", "e/other", "e/file2", "e/sub", "e/empty")
    before = [(path, os.lstat(path)) for path in paths]
    call, wanted = FAILURES[name]
    assert outcome_as(ALICE, call) == wanted
    assert [(path, os.lstat(path)) for path in paths] == before


# -- utimensat ------------------------------------------------------------------------


TIMES_NS = {
    "zero": 0,
    "one": 1,
    "nanoseconds": 1_234_567_890_123_456_789,
    "almost_a_second": 1_234_567_890_999_999_999,
    "before_1970": -1_234_567_890_123_456_789,
    "just_before_1970": -1,
    "1902": -(2**31) * SECOND_NS + 86_400 * SECOND_NS,
    "2038": 2**31 * SECOND_NS + 5,
    "2100": 4_102_444_800 * SECOND_NS + 1,
    "2106": 2**32 * SECOND_NS + 7,
    "2262": 2**63 - 2,
}


@pytest.mark.parametrize("name", TIMES_NS)
@pytest.mark.parametrize("kind", ["file", "dir", "symlink", "fifo"])
def test_times_are_kept_to_the_nanosecond(here: Place, kind, name):
    make_kind(kind, "x")
    wanted = (TIMES_NS[name], TIMES_NS[name] + 1)
    os.utime("x", ns=wanted, follow_symlinks=False)
    found = stamps("x")
    assert (found["a"], found["m"]) == wanted


@pytest.mark.parametrize("name", ["2400", "1600", "in a billion years"])
def test_times_that_cannot_be_kept_are_cut_to_the_nearest(here: Place, name):
    """ext4 keeps 1901 to 2446 in 34 bits of seconds, hsmfs 1677 to 2262 in 63 bits of ns."""
    seconds = {"2400": 13_569_465_600, "1600": -11_676_096_000, "in a billion years": 10**16}[name]
    make_file("x", b"12345")
    os.utime("x", (seconds, seconds))
    kept = os.stat("x").st_mtime_ns // SECOND_NS
    if seconds < 0:
        assert kept == (-(2**31) if here.is_reference else -(2**63) // SECOND_NS)
    elif here.is_reference:
        assert kept == min(seconds, 2**34 - 2**31 - 1)
    else:
        assert kept == 2**63 // SECOND_NS
    make_file("y")
    os.sync()
    assert content("x") == b"12345"


UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


@pytest.mark.parametrize("access", ["set", "now", "omit"])
@pytest.mark.parametrize("modification", ["set", "now", "omit"])
def test_now_and_omit(here, access, modification):
    make_file("x")
    age("x")
    tick()
    before, start_ns = stamps("x"), time.time_ns()
    values = {"set": (77, 5), "now": (0, UTIME_NOW), "omit": (0, UTIME_OMIT)}
    syscalls_utimensat("x", values[access], values[modification])
    after = stamps("x")
    for which, choice in (("a", access), ("m", modification)):
        if choice == "set":
            assert after[which] == 77 * SECOND_NS + 5
        elif choice == "omit":
            assert after[which] == before[which]
        else:
            assert start_ns - SECOND_NS // 50 <= after[which] <= time.time_ns()
    both_omitted = (access, modification) == ("omit", "omit")
    assert (after["c"] == before["c"]) == both_omitted


@pytest.mark.parametrize("bad", [-1, 10**9, 2**40])
def test_bad_nanoseconds_are_einval(here, bad):
    make_file("x")
    before = os.lstat("x")
    assert outcome(syscalls_utimensat, "x", (1, bad), (1, 0)) == "EINVAL"
    assert outcome(syscalls_utimensat, "x", (1, 0), (1, bad)) == "EINVAL"
    assert os.lstat("x") == before


def syscalls_utimensat(path: str, access: tuple[int, int], modification: tuple[int, int]) -> None:
    """utimensat(2) as it is: Python knows neither now nor omit."""
    import ctypes

    from support.pathcalls import libc

    times = (ctypes.c_int64 * 4)(*access, *modification)
    if libc.utimensat(-100, os.fsencode(path), times, 0) != 0:
        raise OSError(ctypes.get_errno(), "utimensat")


@needs_root
@pytest.mark.parametrize(
    ("user", "mode", "times", "wanted"),
    [
        (ALICE, 0o444, ((1, 1), (2, 2)), OK),
        (ALICE, 0o444, ((0, UTIME_NOW), (0, UTIME_NOW)), OK),
        (BOB, 0o666, ((1, 1), (2, 2)), "EPERM"),
        (BOB, 0o666, ((0, UTIME_NOW), (0, UTIME_NOW)), OK),
        (BOB, 0o666, ((0, UTIME_NOW), (0, UTIME_OMIT)), "EPERM"),
        (BOB, 0o666, ((0, UTIME_OMIT), (0, UTIME_OMIT)), OK),
        (BOB, 0o444, ((0, UTIME_NOW), (0, UTIME_NOW)), "EACCES"),
        (BOB, 0o444, ((0, UTIME_OMIT), (0, UTIME_OMIT)), OK),
        (BOB, 0o444, ((1, 1), (2, 2)), "EPERM"),
    ],
)
def test_who_may_set_which(here, user, mode, times, wanted):
    make_file("x", mode=mode)
    os.chown("x", ALICE.uid, ALICE.gid)
    assert outcome_as(user, syscalls_utimensat, "x", *times) == wanted


# -- relatime ------------------------------------------------------------------------


def test_relatime(here):
    """mount(8): a read changes atime if it is not later than mtime or ctime, or a day old."""
    make_file("x", b"12345")
    now_ns = time.time_ns()
    os.utime("x", ns=(now_ns + 3600 * SECOND_NS, now_ns))
    before = stamps("x")
    content("x")
    assert stamps("x") == before
    os.utime("x", ns=(now_ns - 2 * 86_400 * SECOND_NS, now_ns - 3 * 86_400 * SECOND_NS))
    tick()
    before = stamps("x")
    content("x")
    if here.lacks("atime_of_cached_reads"):
        assert stamps("x") == before
    else:
        assert stamps("x")["a"] >= now_ns - SECOND_NS // 50
