"""flock, POSIX record locks and open-file-description locks, between processes."""

from __future__ import annotations

import fcntl
import os
import struct
import time

import pytest
from support.places import OK, make_file, opened, outcome
from support.posixusers import child, in_child, receive

SH, EX, UN, NB = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN, fcntl.LOCK_NB
RD, WR, UNL = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
OFD_GETLK, OFD_SETLK = 36, 37
FLOCK = struct.Struct("hhqqi4x")
BUSY = "EAGAIN"


def record_lock(fd: int, kind: int, start: int, length: int, command: int = fcntl.F_SETLK) -> None:
    fcntl.fcntl(fd, command, FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def holder(fd: int, kind: int, start: int, length: int) -> tuple[int, int, int, int]:
    """F_GETLK: kind, start, length and process of a lock that is in the way."""
    asked = FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
    kind, _, start, length, pid = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return kind, start, length, pid


def elsewhere(call, *arguments) -> str:
    """The outcome in another process, on its own descriptor of the file."""

    def work() -> str:
        with opened("x") as fd:
            return outcome(call, fd, *arguments)

    return in_child(work)


@pytest.fixture
def fd(here):
    make_file("x", bytes(1000))
    with opened("x") as descriptor:
        yield descriptor


# -- flock ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [(SH, SH, OK), (SH, EX, BUSY), (EX, SH, BUSY), (EX, EX, BUSY), (UN, EX, OK)],
)
def test_flock_between_processes(fd, first, second, wanted):
    fcntl.flock(fd, first | NB)
    assert elsewhere(fcntl.flock, second | NB) == wanted
    fcntl.flock(fd, UN)
    assert elsewhere(fcntl.flock, EX | NB) == OK


@pytest.mark.parametrize(
    ("first", "second", "wanted"), [(SH, SH, OK), (SH, EX, BUSY), (EX, SH, BUSY), (EX, EX, BUSY)]
)
def test_flock_is_of_the_open_file_not_of_the_process(fd, first, second, wanted):
    with opened("x") as other:
        fcntl.flock(fd, first | NB)
        assert outcome(fcntl.flock, other, second | NB) == wanted
        copy = os.dup(fd)
        fcntl.flock(copy, second | NB)
        os.close(copy)


def test_flock_is_given_back_by_the_last_close(fd):
    with opened("x") as other:
        fcntl.flock(other, EX)
        copy = os.dup(other)
    assert elsewhere(fcntl.flock, SH | NB) == BUSY
    os.close(copy)
    assert elsewhere(fcntl.flock, SH | NB) == OK


def test_flock_of_who_died_is_given_back(fd):
    def work(pipe) -> None:
        own = os.open("x", os.O_RDWR)
        fcntl.flock(own, EX)
        pipe.send(OK)
        pipe.recv()

    with child(work) as pipe:
        receive(pipe)
        assert outcome(fcntl.flock, fd, EX | NB) == BUSY
        pipe.send(OK)
    assert outcome(fcntl.flock, fd, EX | NB) == OK


@pytest.mark.parametrize("path", [".", "p"])
def test_flock_of_other_things(here, path):
    os.mkfifo("p")
    flags = os.O_RDONLY | os.O_NONBLOCK
    with opened(path, flags) as one, opened(path, flags) as two:
        fcntl.flock(one, EX | NB)
        assert outcome(fcntl.flock, two, SH | NB) == BUSY


# -- record locks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "wanted"), [(RD, RD, OK), (RD, WR, BUSY), (WR, RD, BUSY), (WR, WR, BUSY)]
)
@pytest.mark.parametrize(
    ("mine", "theirs", "meets"),
    [
        ((0, 10), (0, 10), True),
        ((0, 10), (10, 10), False),
        ((0, 10), (9, 1), True),
        ((10, 10), (0, 10), False),
        ((0, 0), (1 << 40, 1), True),
        ((100, 0), (0, 100), False),
        ((5_000, 10), (5_009, 5), True),
    ],
)
def test_record_locks_between_processes(fd, first, second, wanted, mine, theirs, meets):
    record_lock(fd, first, *mine)
    assert elsewhere(record_lock, second, *theirs) == (wanted if meets else OK)


def test_who_holds_a_record_lock_is_told(fd):
    record_lock(fd, WR, 10, 20)

    def ask() -> tuple[int, int, int, int]:
        with opened("x") as own:
            return holder(own, RD, 0, 100)

    assert in_child(ask) == (WR, 10, 20, os.getpid())
    assert holder(fd, WR, 0, 100)[0] == UNL


def test_record_locks_split_and_join(fd):
    record_lock(fd, WR, 0, 100)
    record_lock(fd, UNL, 40, 20)
    for start, wanted in ((0, BUSY), (39, BUSY), (40, OK), (59, OK), (60, BUSY), (100, OK)):
        assert elsewhere(record_lock, WR, start, 1) == wanted
    record_lock(fd, RD, 0, 10)
    assert elsewhere(record_lock, RD, 0, 10) == OK
    assert elsewhere(record_lock, RD, 10, 1) == BUSY


def test_any_close_gives_record_locks_back(fd):
    """fcntl(2): also that of another descriptor of the process."""
    record_lock(fd, WR, 0, 10)
    with opened("x"):
        assert elsewhere(record_lock, WR, 0, 10) == BUSY
    assert elsewhere(record_lock, WR, 0, 10) == OK


def test_record_locks_are_not_inherited(fd):
    record_lock(fd, WR, 0, 10)
    assert in_child(lambda: outcome(record_lock, fd, WR, 0, 10)) == BUSY


def test_record_locks_need_the_right_to_do_it(fd):
    with opened("x", os.O_RDONLY) as reads, opened("x", os.O_WRONLY) as writes:
        assert outcome(record_lock, reads, WR, 0, 1) == "EBADF"
        assert outcome(record_lock, writes, RD, 0, 1) == "EBADF"
        assert outcome(record_lock, reads, RD, -1, 1) == "EINVAL"


def test_waiting_for_a_record_lock(fd):
    def work(pipe) -> None:
        with opened("x") as own:
            record_lock(own, WR, 0, 10)
            pipe.send(OK)
            pipe.recv()
            time.sleep(0.05)

    with child(work) as pipe:
        receive(pipe)
        start_s = time.monotonic()
        pipe.send(OK)
        record_lock(fd, WR, 5, 10, fcntl.F_SETLKW)
        assert time.monotonic() - start_s >= 0.04


def test_a_deadlock_is_told(fd):
    def work(pipe) -> None:
        with opened("x") as own:
            record_lock(own, WR, 0, 1)
            pipe.send(OK)
            pipe.recv()
            record_lock(own, WR, 1, 1, fcntl.F_SETLKW)

    with child(work) as pipe:
        receive(pipe)
        record_lock(fd, WR, 1, 1)
        pipe.send(OK)
        time.sleep(0.1)
        assert outcome(record_lock, fd, WR, 0, 1, fcntl.F_SETLKW) == "EDEADLK"
        record_lock(fd, UNL, 0, 0)


# -- locks of open file descriptions ----------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "wanted"), [(RD, RD, OK), (RD, WR, BUSY), (WR, RD, BUSY), (WR, WR, BUSY)]
)
def test_description_locks(fd, first, second, wanted):
    with opened("x") as other:
        record_lock(fd, first, 0, 10, OFD_SETLK)
        assert outcome(record_lock, other, second, 5, 10, OFD_SETLK) == wanted
        assert outcome(record_lock, other, second, 10, 10, OFD_SETLK) == OK
        assert elsewhere(record_lock, second, 5, 1, OFD_SETLK) == wanted
        assert elsewhere(record_lock, second, 5, 1) == wanted


def test_description_locks_stay_when_another_descriptor_closes(fd):
    record_lock(fd, WR, 0, 10, OFD_SETLK)
    with opened("x"):
        pass
    assert elsewhere(record_lock, RD, 0, 1) == BUSY
    assert in_child(lambda: outcome(record_lock, fd, WR, 0, 10, OFD_SETLK)) == OK


def test_lockf_and_flock_are_apart(fd):
    fcntl.flock(fd, EX)
    assert elsewhere(record_lock, WR, 0, 10) == OK
    fcntl.lockf(fd, EX | NB, 10, 0)
    assert elsewhere(record_lock, RD, 0, 1) == BUSY


@pytest.mark.parametrize("kind", [fcntl.F_RDLCK, fcntl.F_WRLCK])
def test_leases(here, kind):
    """Leases are for files that nobody else has open."""
    make_file("x")
    flags = os.O_RDONLY if kind == fcntl.F_RDLCK else os.O_RDWR
    with opened("x", flags) as fd:
        assert outcome(fcntl.fcntl, fd, fcntl.F_SETLEASE, kind) == OK
        assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == kind
        fcntl.fcntl(fd, fcntl.F_SETLEASE, UNL)
