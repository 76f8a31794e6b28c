"""Random work on files beside a model in memory; shared memory maps."""

from __future__ import annotations

import mmap
import os
import signal

import pytest
from support.fsx import Difference, Fsx
from support.places import OK, content, make_file, opened, outcome
from support.posixusers import child, in_child, receive

SEEDS = range(6)
STEPS = 2_000
PAGE = mmap.PAGESIZE


@pytest.mark.parametrize("seed", SEEDS)
def test_random_work_agrees_with_a_model(here, seed):
    work = Fsx("file", seed, allocates=not here.lacks("fallocate"))
    try:
        work.run(STEPS)
    finally:
        work.close()


def test_random_work_on_an_unlinked_file(here):
    work = Fsx("file", 99, allocates=False)
    keep = f"/proc/self/fd/{work.fd}"
    os.unlink("file")
    work.path = keep
    work.operations.remove(work.reopen)
    try:
        work.run(STEPS // 4)
    finally:
        work.close()


def test_the_model_would_notice(here):
    work = Fsx("file", 1, allocates=False)
    try:
        work.run(20)
        with opened("file") as fd:
            os.pwrite(fd, bytes([work.model[5] ^ 1]), 5)
        with pytest.raises(Difference, match="first difference at 5"):
            work.check()
    finally:
        work.close()


# -- maps -----------------------------------------------------------------------------


def test_a_shared_map_is_seen_by_reads_of_others_and_theirs_by_it(here):
    make_file("x", bytes(3 * PAGE))
    with opened("x") as fd, mmap.mmap(fd, 3 * PAGE) as view:
        for number in range(1, 10):
            place = number * 1_234 % (2 * PAGE)
            view[place : place + 3] = b"map"
            assert in_child(lambda p=place: content("x")[p : p + 3]) == b"map"

            def write(place: int = place) -> None:
                with opened("x") as other:
                    os.pwrite(other, b"write", place)

            in_child(write)
            assert view[place : place + 5] == b"write"


def test_two_processes_share_a_map(here):
    make_file("x", bytes(PAGE))

    def add(pipe) -> None:
        with opened("x") as fd, mmap.mmap(fd, PAGE) as view:
            for number in range(100):
                assert pipe.recv() == number
                assert view[number] == number
                view[number] = number + 1
                pipe.send(number)

    with opened("x") as fd, mmap.mmap(fd, PAGE) as view, child(add) as pipe:
        for number in range(100):
            view[number] = number
            pipe.send(number)
            assert receive(pipe) == number
            assert view[number] == number + 1


def test_a_map_outlives_descriptor_and_name(here):
    make_file("x", b"0123456789")
    with opened("x") as fd:
        view = mmap.mmap(fd, 10)
    os.unlink("x")
    view[0:3] = b"new"
    view.flush()
    assert view[:] == b"new3456789"
    view.close()


def test_what_a_map_wrote_is_there_after_close(here):
    make_file("x", bytes(10 * PAGE))
    with opened("x") as fd:
        view = mmap.mmap(fd, 10 * PAGE)
    view[5 * PAGE : 5 * PAGE + 4] = b"late"
    view.close()
    assert content("x")[5 * PAGE : 5 * PAGE + 4] == b"late"


def test_beyond_the_end_of_a_map_is_sigbus(here):
    make_file("x", b"123")

    def touch() -> None:
        with opened("x") as fd, mmap.mmap(fd, 3) as view:
            assert view[:3] == b"123"
            os.ftruncate(fd, 0)
            view[0]

    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        touch()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGBUS


def test_the_rest_of_the_last_page_is_zero_and_not_written(here):
    make_file("x", b"123")
    with opened("x") as fd, mmap.mmap(fd, 3) as view:
        view[0:3] = b"abc"
        view.flush()
        os.ftruncate(fd, PAGE)
        assert os.pread(fd, 2 * PAGE, 0) == b"abc" + bytes(PAGE - 3)


@pytest.mark.parametrize(
    ("flags", "access", "wanted"),
    [
        (os.O_RDONLY, mmap.ACCESS_READ, OK),
        (os.O_RDONLY, mmap.ACCESS_WRITE, "EACCES"),
        (os.O_RDONLY, mmap.ACCESS_COPY, OK),
        (os.O_WRONLY, mmap.ACCESS_READ, "EACCES"),
        (os.O_WRONLY, mmap.ACCESS_WRITE, "EACCES"),
        (os.O_RDWR, mmap.ACCESS_WRITE, OK),
    ],
)
def test_rights_of_maps(here, flags, access, wanted):
    make_file("x", b"123")
    with opened("x", flags) as fd:
        assert outcome(lambda: mmap.mmap(fd, 3, access=access).close()) == wanted


def test_a_directory_is_not_mapped(here):
    with opened(".", os.O_RDONLY) as fd:
        assert outcome(mmap.mmap, fd, 10, mmap.MAP_PRIVATE, mmap.PROT_READ) == "ENODEV"


def test_a_map_changes_mtime_by_the_time_it_is_synced(here):
    make_file("x", bytes(PAGE))
    os.utime("x", ns=(5, 5))
    with opened("x") as fd, mmap.mmap(fd, PAGE) as view:
        view[0] = 1
        view.flush()
        os.fsync(fd)
    assert os.stat("x").st_mtime_ns != 5
