"""Retention cut at each step of docs/crash-safety.md: one test a row, named after it.

As in ``test_hsmfs_rows``: the engine on its real store, killed exactly there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.engines import ME, Bench, now
from support.hsmfscuts import APPLY, Victim, wait
from support.worms import DAY_S, fails, make, pass_time, tree_of, verified

RETENTION = b"user.hsm.retention"


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim(tmp_path)


def found(bench: Bench, *path: bytes) -> int:
    """The inode of a path."""
    ino = 1
    for name in path:
        ino = bench.engine.lookup(ino, name).ino
    return ino


def told(bench: Bench, *path: bytes) -> bytes:
    """What the file says of its retention; empty: nothing."""
    try:
        return bench.engine.getxattr(found(bench, *path), RETENTION)
    except OSError:
        return b""


def test_retention_set_its_directory_not_yet_taken_in(victim: Victim) -> None:
    with victim.running() as bench:
        top = bench.engine.mkdir(1, b"archive", 0o755, ME).ino
        for number in range(20):
            make(bench, top, b"f%d" % number, b"1")

    def scene(bench: Bench) -> None:
        bench.engine.retention.set_tree(b"archive", "1d", "15y", "root")
        wait(bench)
        pass_time(bench, 10.0)

    victim.killed(scene, APPLY, "after")
    with victim.running() as bench:
        pass_time(bench, 10.0)
        assert all(told(bench, b"archive", b"f%d" % n).startswith(b"settles") for n in range(20))
        pass_time(bench, DAY_S + 10)
        with fails(errno.EPERM, "unlink"):
            bench.engine.unlink(found(bench, b"archive"), b"f7")
        assert verified(bench) == []


CHANGES: dict[str, tuple[Callable[[Bench], object], Callable[[Bench], bool]]] = {
    "settles": (
        lambda bench: pass_time(bench, DAY_S + 10),
        lambda bench: told(bench, b"archive", b"f").startswith(b"settled"),
    ),
    "hold": (
        lambda bench: bench.engine.holds.set([found(bench, b"archive", b"f")], "case", "root"),
        lambda bench: bool(bench.engine.getxattr(found(bench, b"archive", b"f"), b"user.hsm.hold")),
    ),
    "longer date": (
        lambda bench: bench.engine.holds.extend([found(bench, b"archive", b"old")], "9d", "root"),
        lambda bench: b"2023-11-2" in told(bench, b"archive", b"old"),
    ),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_settles_a_hold_a_longer_date_a_confirmed_removal(
    victim: Victim, change: str, when: str
) -> None:
    with victim.running() as bench:
        top = tree_of(bench, keep="2d")
        make(bench, top, b"old", b"1")
        pass_time(bench, DAY_S + 10)
        make(bench, top, b"f", b"1")
    do, is_done = CHANGES[change]

    def scene(bench: Bench) -> None:
        do(bench)
        wait(bench)

    victim.killed(scene, APPLY, when)
    with victim.running() as bench:
        if when == "after":
            assert change == "settles" or is_done(bench)
        assert verified(bench) == []
        with fails(errno.EPERM, "the old file stays"):
            bench.engine.unlink(found(bench, b"archive"), b"old")


def test_write_to_a_file_that_is_to_settle_before_its_close(victim: Victim) -> None:
    with victim.running() as bench:
        make(bench, tree_of(bench), b"f", b"data")

    def scene(bench: Bench) -> None:
        fh = bench.open(found(bench, b"archive", b"f"), os.O_RDWR)
        now(bench.engine.write(fh, 0, b"more"))
        pass_time(bench, DAY_S / 2)

    victim.killed(scene, APPLY, "after")
    with victim.running() as bench:
        assert told(bench, b"archive", b"f").startswith(b"settles")
        pass_time(bench, DAY_S + 10)
        assert told(bench, b"archive", b"f").startswith(b"settled")
        assert verified(bench) == []


def test_trusted_time_before_its_row_is_stored(victim: Victim) -> None:
    with victim.running() as bench:
        make(bench, tree_of(bench), b"f", b"data")
        begun = bench.engine.retention.clock.now_ns()
    victim.killed(lambda bench: pass_time(bench, 120.0, 60.0), APPLY, "before")
    with victim.running() as bench:
        assert bench.engine.retention.clock.now_ns() >= begun
        assert told(bench, b"archive", b"f").startswith(b"settles")
        pass_time(bench, DAY_S + 10)
        assert told(bench, b"archive", b"f").startswith(b"settled")
        assert verified(bench) == []
