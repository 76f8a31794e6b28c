"""truncate, read, write, append, O_DIRECT, holes, fallocate, copy_file_range."""

from __future__ import annotations

import mmap
import os
import random
import resource
import signal

import pytest
from support import syscalls
from support.pathcalls import KINDS, libc, make_kind
from support.places import OK, content, make_file, opened, outcome
from support.posixusers import child, in_child, receive

BLOCK = 4096
SIZES = (0, 1, 4095, 4096, 4097, 65_536, 70_000, 1_000_003)
HUGE = 1 << 42


def pattern(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("through", ["path", "descriptor"])
@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("before", SIZES)
def test_truncate(here, before, after, through):
    data = pattern(before)
    make_file("x", data)
    if through == "path":
        os.truncate("x", after)
    else:
        with opened("x") as fd:
            os.ftruncate(fd, after)
            assert os.fstat(fd).st_size == after
    assert os.stat("x").st_size == after
    assert content("x") == data[:after] + bytes(max(0, after - before))


@pytest.mark.parametrize("cut", [1, 4095, 4096, 5000])
def test_what_was_cut_off_does_not_come_back(here, cut):
    make_file("x", b"\xff" * 10_000)
    with opened("x") as fd:
        os.ftruncate(fd, cut)
        os.ftruncate(fd, 10_000)
        assert os.pread(fd, 20_000, 0) == b"\xff" * cut + bytes(10_000 - cut)
        os.ftruncate(fd, cut)
        os.pwrite(fd, b"end", 9_997)
    assert content("x") == b"\xff" * cut + bytes(9_997 - cut) + b"end"


@pytest.mark.parametrize(
    ("path", "size", "wanted"),
    [
        ("x", -1, "EINVAL"),
        ("x", -(1 << 63), "EINVAL"),
        ("d", 0, "EISDIR"),
        ("gone", 0, "ENOENT"),
        ("p", 0, "EINVAL"),
        ("s", 0, "EINVAL"),
    ],
)
def test_truncates_that_are_refused(here, path, size, wanted):
    make_file("x", b"123")
    os.mkdir("d")
    os.mkfifo("p")
    make_kind("socket", "s")
    assert outcome(os.truncate, path, size) == wanted
    assert content("x") == b"123"


def test_a_truncate_beyond_all_bounds_is_efbig(here):
    make_file("x", b"123")
    assert outcome(os.truncate, "x", (1 << 63) - 1) == "EFBIG"
    assert content("x") == b"123"


def test_large_sparse_files(here):
    make_file("x")
    os.truncate("x", HUGE)
    with opened("x") as fd:
        os.pwrite(fd, b"end", HUGE - 3)
        os.pwrite(fd, b"middle", HUGE // 2)
        assert os.pread(fd, 10, HUGE - 3) == b"end"
        assert os.pread(fd, 8, HUGE // 2 - 1) == b"\0middle\0"
        assert os.fstat(fd).st_size == HUGE
        assert os.fstat(fd).st_blocks < 10_000


@pytest.mark.parametrize("through", ["write", "truncate", "ftruncate"])
def test_the_limit_of_file_sizes_is_efbig(here, through):
    make_file("x", b"123")

    def work() -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        with opened("x") as fd:
            calls = {
                "write": lambda: os.pwrite(fd, b"x", 8192),
                "truncate": lambda: os.truncate("x", 8193),
                "ftruncate": lambda: os.ftruncate(fd, 8193),
            }
            return outcome(calls[through])

    assert in_child(work) == "EFBIG"
    assert content("x") == b"123"


# -- reading and writing ------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100, 4095, 4096, 4097, 131_072, 1_048_577])
@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, 100_000])
def test_writes_anywhere_are_read_back(here, offset, size):
    base, data = pattern(50_000), pattern(size, 2)
    make_file("x", base)
    with opened("x") as fd:
        assert os.pwrite(fd, data, offset) == size
        wanted = bytearray(base.ljust(offset + size, b"\0"))
        wanted[offset : offset + size] = data
        assert os.pread(fd, 2_000_000, 0) == wanted
    assert content("x") == wanted


def test_positions(here):
    make_file("x", b"0123456789")
    with opened("x") as fd:
        assert os.read(fd, 4) == b"0123"
        assert os.lseek(fd, 0, os.SEEK_CUR) == 4
        assert os.pread(fd, 2, 8) == b"89"
        assert os.lseek(fd, 0, os.SEEK_CUR) == 4
        os.write(fd, b"ab")
        assert os.lseek(fd, -2, os.SEEK_END) == 8
        assert os.read(fd, 100) == b"89"
        assert os.read(fd, 100) == b""
        assert os.lseek(fd, 100, os.SEEK_SET) == 100
        assert os.read(fd, 10) == b""
        assert outcome(os.lseek, fd, -1, os.SEEK_SET) == "EINVAL"
        assert outcome(os.lseek, fd, 0, 77) == "EINVAL"
        assert outcome(os.pread, fd, 1, -1) == "EINVAL"
        assert os.readv(fd, [bytearray(1)]) == 0
        assert os.pwritev(fd, [b"X", b"YZ"], 0) == 3
    assert content("x") == b"XYZ3ab6789"


def test_appends_go_to_the_end(here):
    make_file("x", b"start")
    with opened("x", os.O_RDWR | os.O_APPEND) as fd, opened("x") as other:
        os.write(fd, b"1")
        os.pwrite(other, b"2", 6)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"3")
        assert os.lseek(fd, 0, os.SEEK_CUR) == 8
        os.truncate("x", 2)
        os.write(fd, b"4")
        os.pwrite(fd, b"5", 0)  # Linux appends here too: pwrite(2), BUGS
    assert content("x") == b"st45"


@pytest.mark.parametrize("size", [100, 5000])
def test_two_processes_append(here, size):
    count = 50
    make_file("x")

    def work(letter: bytes):
        def run(pipe) -> None:
            with opened("x", os.O_WRONLY | os.O_APPEND) as fd:
                for _ in range(count):
                    os.write(fd, letter * size)
            pipe.send(OK)

        return run

    with child(work(b"a")) as first, child(work(b"b")) as second:
        assert (receive(first), receive(second)) == (OK, OK)
    data = content("x")
    assert len(data) == 2 * count * size
    for start in range(0, len(data), size):
        assert len(set(data[start : start + size])) == 1
    assert data.count(b"a") == count * size


def test_a_full_page_of_one_process_is_seen_by_another(here):
    make_file("x", bytes(10_000))
    with opened("x") as fd:
        for number in range(1, 20):
            os.pwrite(fd, bytes([number]) * 10_000, 0)
            assert in_child(content, "x") == bytes([number]) * 10_000


@pytest.mark.parametrize("size", [4096, 65_536, 1 << 20])
def test_o_direct(here, size):
    data = pattern(size)
    with mmap.mmap(-1, size) as memory:
        memory[:] = data
        with opened("x", os.O_RDWR | os.O_CREAT | os.O_DIRECT) as fd:
            assert os.pwrite(fd, memory, size) == size
            memory[:] = bytes(size)
            assert os.preadv(fd, [memory], size) == size
            assert memory[:] == data
            assert os.preadv(fd, [memory], 0) == size
            assert memory[:] == bytes(size)
            with opened("x") as buffered:
                assert os.pread(buffered, 3 * size, 0) == bytes(size) + data
                os.pwrite(buffered, b"new", 5)
                assert os.preadv(fd, [memory], 0) == size
                assert memory[:10] == b"\0\0\0\0\0new\0\0"


# -- holes ----------------------------------------------------------------------------


def segments(fd: int) -> list[tuple[int, int]]:
    found, position = [], 0
    while True:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == 6
            return found
        position = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, position))


@pytest.mark.parametrize("places", [[], [0], [1], [0, 2, 4], [3, 4, 9], list(range(10))])
def test_holes_are_told(here, places):
    """Data may be told where there is none, but never the other way."""
    unit = 65_536
    make_file("x")
    os.truncate("x", 10 * unit)
    with opened("x") as fd:
        for place in places:
            os.pwrite(fd, b"\1" * unit, place * unit)
        os.fsync(fd)
        found = segments(fd)
        wanted = [(p * unit, (p + 1) * unit) for p in places]
        for start, end in wanted:
            assert any(low <= start and end <= high for low, high in found)
        if not here.lacks("holes"):
            merged = sum(high - low for low, high in found)
            assert merged == len(wanted) * unit
        assert os.lseek(fd, 0, os.SEEK_END) == 10 * unit
        assert outcome(os.lseek, fd, 10 * unit, os.SEEK_DATA) == "ENXIO"
        assert outcome(os.lseek, fd, 10 * unit, os.SEEK_HOLE) == "ENXIO"
        assert outcome(os.lseek, fd, -1, os.SEEK_DATA) == "ENXIO"


# -- fallocate --------------------------------------------------------------------------

KEEP, PUNCH, ZERO = 1, 2, 16
COLLAPSE, INSERT, UNSHARE = 8, 32, 64
MODES = {0: "allocate", KEEP: "keep", PUNCH | KEEP: "punch", ZERO: "zero", ZERO | KEEP: "zero_keep"}


@pytest.mark.parametrize("mode", MODES, ids=MODES.get)
@pytest.mark.parametrize("length", [1, 4096, 5000, 30_000])
@pytest.mark.parametrize("offset", [0, 100, 4096, 19_999, 20_000, 50_000])
def test_fallocate(here, offset, length, mode):
    data = pattern(20_000)
    make_file("x", data)
    with opened("x") as fd:
        wanted = here.expected("fallocate", OK)
        assert outcome(syscalls.fallocate, fd, mode, offset, length) == wanted
    if wanted == OK:
        end = offset + length
        size = 20_000 if mode & KEEP else max(20_000, end)
        changed = bytearray(data.ljust(size, b"\0"))
        if mode & (PUNCH | ZERO):
            stop = min(end, size)
            changed[offset:stop] = bytes(max(0, stop - offset))
        data = bytes(changed)
    assert content("x") == data


@pytest.mark.parametrize(
    ("mode", "offset", "length", "wanted"),
    [
        (0, 0, 0, "EINVAL"),
        (0, -1, 10, "EINVAL"),
        (0, 0, -1, "EINVAL"),
        (PUNCH, 0, 10, "EOPNOTSUPP"),
        (PUNCH | ZERO | KEEP, 0, 10, "EOPNOTSUPP"),
        (1 << 20, 0, 10, "EOPNOTSUPP"),
        (0, (1 << 63) - 10, 100, "EFBIG"),
    ],
)
def test_fallocates_that_are_refused(here, mode, offset, length, wanted):
    make_file("x", b"123")
    with opened("x") as fd:
        assert outcome(syscalls.fallocate, fd, mode, offset, length) == wanted
    assert content("x") == b"123"


@pytest.mark.parametrize("mode", [COLLAPSE, INSERT, UNSHARE])
def test_modes_that_are_not_for_fuse(here, mode):
    make_file("x", pattern(8 * BLOCK))
    with opened("x") as fd:
        wanted = OK if here.is_reference and mode != UNSHARE else "EOPNOTSUPP"
        assert outcome(syscalls.fallocate, fd, mode, BLOCK, BLOCK) == wanted


def test_fallocate_of_what_is_no_file(here):
    os.mkfifo("p")
    make_file("x", b"123")
    with opened("x", os.O_RDONLY) as fd:
        assert outcome(syscalls.fallocate, fd, 0, 0, 10) == "EBADF"
    with opened("p", os.O_RDWR) as fd:
        assert outcome(syscalls.fallocate, fd, 0, 0, 10) == "ESPIPE"
    with opened(".", os.O_RDONLY) as fd:
        assert outcome(syscalls.fallocate, fd, 0, 0, 10) == "EBADF"


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (0, 10_000), (5, 5), (10_000, 10_000)])
def test_posix_fallocate(here, offset, length):
    """glibc writes where the file system has no allocation: it works anywhere."""
    make_file("x", b"12345")
    with opened("x") as fd:
        os.posix_fallocate(fd, offset, length)
        assert os.fstat(fd).st_size == max(5, offset + length)
        assert outcome(os.posix_fallocate, fd, 0, 0) == "EINVAL"
    assert content("x") == b"12345".ljust(max(5, offset + length), b"\0")


def test_punched_space_is_given_back(here):
    make_file("x", b"\1" * (1 << 20))
    with opened("x") as fd:
        os.fsync(fd)
        before = os.fstat(fd).st_blocks
        if outcome(syscalls.fallocate, fd, PUNCH | KEEP, 0, 1 << 19) == OK:
            os.fsync(fd)
            assert os.fstat(fd).st_blocks <= before - (1 << 19) // 512
            assert segments(fd) == [(1 << 19, 1 << 20)]


# -- copy_file_range ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5000, 100_000, 3_000_000])
@pytest.mark.parametrize(("source", "target"), [(0, 0), (100, 0), (0, 4097), (4096, 8192)])
def test_copy_file_range(here, size, source, target):
    data = pattern(size)
    make_file("x", data)
    make_file("y", b"\xff" * 10_000)
    with opened("x") as old, opened("y") as new:
        done = 0
        while count := os.copy_file_range(old, new, 1 << 30, source + done, target + done):
            done += count
        assert done == max(0, size - source)
    wanted = bytearray((b"\xff" * 10_000).ljust(target + done if done else 0, b"\0"))
    wanted[target : target + done] = data[source:]
    assert content("y") == wanted


def test_copy_file_range_within_a_file(here):
    make_file("x", b"0123456789")
    with opened("x") as fd:
        assert os.copy_file_range(fd, fd, 3, 0, 5) == 3
        assert outcome(os.copy_file_range, fd, fd, 5, 0, 2) == "EINVAL"
        assert outcome(os.copy_file_range, fd, fd, 3, 100, 0) == OK
    assert content("x") == b"0123401289"


def test_copy_file_range_refused(here):
    make_file("x", b"0123456789")
    make_file("y")
    with opened("x", os.O_RDONLY) as reads, opened("y", os.O_WRONLY) as writes:
        assert outcome(os.copy_file_range, writes, writes, 3) == "EBADF"
        assert outcome(os.copy_file_range, reads, reads, 3) == "EBADF"
        with opened(".", os.O_RDONLY) as directory:
            assert outcome(os.copy_file_range, directory, writes, 3) == "EISDIR"
    with opened("x", os.O_RDONLY) as reads, opened("y", os.O_WRONLY | os.O_APPEND) as appends:
        assert outcome(os.copy_file_range, reads, appends, 3) == "EBADF"


def test_sendfile(here):
    data = pattern(300_000)
    make_file("x", data)
    with opened("x", os.O_RDONLY) as source, opened("y", os.O_RDWR | os.O_CREAT) as target:
        done = 0
        while count := os.sendfile(target, source, done, 1 << 20):
            done += count
        assert os.pread(target, 1 << 20, 0) == data


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ("file", "dir")])
@pytest.mark.parametrize("call", ["fsync", "fdatasync", "syncfs", "sync_file_range"])
def test_syncing(here, kind, call):
    make_kind(kind, "x")
    with opened("x", os.O_RDONLY) as fd:
        calls = {
            "fsync": lambda: os.fsync(fd),
            "fdatasync": lambda: os.fdatasync(fd),
            "syncfs": lambda: libc.syncfs(fd),
            "sync_file_range": lambda: libc.sync_file_range(fd, 0, 0, 7),
        }
        assert not calls[call]()
