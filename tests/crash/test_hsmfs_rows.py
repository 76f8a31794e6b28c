"""hsmfs killed at each step of docs/crash-safety.md: one test a row, named after it.

Each kills the process exactly there, looks at what is left while nothing of it runs, starts
again and sees it repaired as the row says; ``hsm fsck`` finds nothing after that. The engine
stands on its real store and cache tier (``support.hsmfscuts``). What needs a kernel, a
connection or the helper processes is below, on a mounted hsmfs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support.engines import HEAD, ME, Bench, now
from support.hsmfscuts import APPLY, SYNC_S, Victim, wait, write

from hsmfs.cache.paths import cache_path
from hsmfs.errors import FsError
from hsmfs.namespace import schema
from hsmfs.namespace.model import SetAttr
from hsmfs.types import FileVersion, Residency

OLD, NEW = b"old " * 5000, b"new " * 6000
NAME = b"file"
TIER = "hsmfs.cache.tier:CacheTier"
Change = Callable[[Bench, int], object]


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim(tmp_path)


def resident(victim: Victim, data: bytes = OLD) -> int:
    """A file that was closed and synced long ago."""
    with victim.running() as bench:
        return bench.make(NAME, data).ino


def premigrated(victim: Victim) -> FileVersion:
    """One that copies hold."""
    with victim.running() as bench:
        file = bench.make(NAME, OLD)
        victim.counted(bench, file, len(OLD))
        return file


def stub(victim: Victim) -> FileVersion:
    file = premigrated(victim)
    with victim.running() as bench:
        assert not now(bench.engine.release_data([file], HEAD))[0].refused
    return file


def state(victim: Victim, ino: int) -> Residency:
    record = victim.record(ino)
    assert record is not None
    return Residency(record.state)


def size(victim: Victim, ino: int) -> int:
    record = victim.record(ino)
    assert record is not None
    return record.size


def is_gone(victim: Victim, ino: int) -> None:
    """After a start there is no trace of it."""
    with victim.running() as bench:
        assert victim.data(ino) is None
        with pytest.raises(FsError):
            bench.engine.getattr(ino)
    assert (victim.record(ino), victim.mark(ino), victim.data(ino)) == (None, None, None)


def truncate(length: int) -> Change:
    def change(bench: Bench, ino: int) -> None:
        now(bench.engine.setattr(ino, SetAttr(size=length), None, ME))

    return change


def append(bench: Bench, ino: int) -> None:
    write(bench, ino, NEW, len(OLD))


def overwrite(bench: Bench, ino: int) -> None:
    write(bench, ino, NEW)


CHANGES = [
    pytest.param(append, OLD + NEW, id="append"),
    pytest.param(overwrite, NEW, id="overwrite"),
    pytest.param(truncate(100), OLD[:100], id="shorter"),
    pytest.param(truncate(len(OLD) + 9), OLD + bytes(9), id="longer"),
]


# -- writes --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_committed", [False, True], ids=["not committed", "committed"])
@pytest.mark.parametrize(("change", "after"), CHANGES)
def test_write_or_truncate_its_mark_committed_or_not(
    victim: Victim, change: Change, after: bytes, is_committed: bool
) -> None:
    ino = resident(victim)

    def scene(bench: Bench) -> None:
        if is_committed:
            write(bench, ino, OLD[:1])
            wait(bench)
        change(bench, ino)
        wait(bench)

    victim.killed(scene, APPLY, "before", nth=2 if is_committed else 1)
    assert (size(victim, ino), victim.data(ino)) == (len(OLD), after)
    assert victim.mark(ino) == (schema.MARK_WRITE if is_committed else None)
    assert victim.side("open") == ([] if is_committed else [f"{ino:x}"])
    with victim.running() as bench:
        assert bench.attr(NAME).size == len(after)
        assert bench.content(ino) == after
    assert (victim.mark(ino), victim.side("open")) == (None, [])


def test_close_before_the_disk_has_written_the_data(victim: Victim) -> None:
    ino = resident(victim)

    def scene(bench: Bench) -> None:
        bench.engine.release(write(bench, ino, NEW, len(OLD)))
        wait(bench)
        wait(bench, SYNC_S)

    victim.killed(scene, "hsmfs.namespace.marks:Marks.sync", "before")
    assert (size(victim, ino), victim.mark(ino)) == (len(OLD + NEW), schema.MARK_WRITE)
    left = OLD[:7000]  # of which the disk has some, after a loss of power
    os.truncate(cache_path(victim.tier, ino), len(left))
    with victim.running() as bench:
        assert bench.attr(NAME).size == len(left)
        assert bench.content(ino) == left
    assert victim.mark(ino) is None


# -- new and removed files ---------------------------------------------------------------------


def test_create_before_the_commit(victim: Victim) -> None:
    first = resident(victim)

    def scene(bench: Bench) -> None:
        bench.engine.create(1, b"second", 0o644, os.O_RDWR, ME)
        wait(bench)

    known = victim.cached()
    victim.killed(scene, APPLY, "before")
    born = victim.cached() - known
    assert first not in born
    assert first + 1 in born
    assert victim.named(b"second") is None
    with victim.running() as bench:
        assert victim.cached() == {first}
        with pytest.raises(FsError):
            bench.attr(b"second")
        assert bench.content(first) == OLD


def test_cache_files_made_ahead(victim: Victim) -> None:
    first = resident(victim)

    def scene(bench: Bench) -> None:
        bench.make(b"second", NEW)
        bench.make(b"third", NEW)

    victim.killed(scene, "hsmfs.cache.hands:Hands.make", "after")
    ahead = victim.cached() - {first, first + 1}
    assert len(ahead) >= 16
    assert {victim.data(ino) for ino in ahead} == {b""}
    assert {victim.record(ino) for ino in ahead} == {None}
    with victim.running():
        assert victim.cached() == {first}


@pytest.mark.parametrize("is_known", [False, True], ids=["open", "known to the kernel"])
def test_unlink_or_forget_of_an_open_or_known_file(victim: Victim, is_known: bool) -> None:
    ino = resident(victim)

    def scene(bench: Bench) -> None:
        if is_known:
            bench.engine.keep_until_forgotten()
        else:
            bench.open(ino)
        bench.engine.unlink(1, NAME)
        wait(bench)

    victim.killed(scene, APPLY, "after")
    record = victim.record(ino)
    assert record is not None
    assert (record.nlink, victim.mark(ino)) == (0, schema.MARK_ORPHAN)
    assert (victim.named(NAME), victim.data(ino)) == (None, OLD)
    is_gone(victim, ino)


@pytest.mark.parametrize("data", [b"", NEW], ids=["empty", "written"])
def test_o_tmpfile_before_it_gets_a_name(victim: Victim, data: bytes) -> None:
    first = resident(victim)

    def scene(bench: Bench) -> None:
        opened, _ = bench.engine.tmpfile(1, 0o600, os.O_RDWR, ME)
        if data:
            now(bench.engine.write(opened.fh, 0, data))
        wait(bench)

    victim.killed(scene, APPLY, "after")
    ino = first + 1
    record = victim.record(ino)
    assert record is not None
    mark = schema.MARK_WRITE if data else schema.MARK_ORPHAN
    assert (record.nlink, victim.mark(ino), victim.data(ino)) == (0, mark, data)
    is_gone(victim, ino)


REMOVALS = {
    "unlink": lambda bench: bench.engine.unlink(1, NAME),
    "rename over": lambda bench: bench.engine.rename(1, b"other", 1, NAME),
}


def removing(victim: Victim, how: str) -> tuple[int, Callable[[Bench], None]]:
    """The file that goes, and what lets it go."""
    with victim.running() as bench:
        ino = bench.make(NAME, OLD).ino
        bench.make(b"other", NEW)

    def scene(bench: Bench) -> None:
        REMOVALS[how](bench)
        wait(bench)

    return ino, scene


@pytest.mark.parametrize("how", REMOVALS)
def test_unlink_or_rename_over_before_the_commit(victim: Victim, how: str) -> None:
    ino, scene = removing(victim, how)
    victim.killed(scene, APPLY, "before")
    assert (victim.named(NAME), victim.data(ino)) == (ino, OLD)
    with victim.running() as bench:
        assert bench.content(bench.attr(NAME).ino) == OLD
        assert bench.content(bench.attr(b"other").ino) == NEW


@pytest.mark.parametrize("how", REMOVALS)
def test_unlink_or_rename_over_after_the_commit(victim: Victim, how: str) -> None:
    ino, scene = removing(victim, how)
    victim.killed(scene, "hsmfs.cache.hands:Hands.remove", "before")
    assert (victim.record(ino), victim.mark(ino)) == (None, schema.MARK_DOOMED)
    assert victim.data(ino) == OLD
    is_gone(victim, ino)
    assert (victim.named(NAME) is None) == (how == "unlink")


def test_unlink_the_data_removed_loss_of_power(victim: Victim) -> None:
    ino, scene = removing(victim, "unlink")
    victim.killed(scene, "hsmfs.cache.hands:Hands.remove", "after")
    assert (victim.mark(ino), victim.data(ino)) == (schema.MARK_DOOMED, None)
    Path(cache_path(victim.tier, ino)).write_bytes(OLD)  # the disk's journal was behind
    is_gone(victim, ino)

    def until_synced(bench: Bench) -> None:
        bench.engine.unlink(1, b"other")
        wait(bench)
        wait(bench, SYNC_S)

    other = victim.named(b"other")
    assert other is not None
    victim.killed(until_synced, "hsmfs.namespace.marks:Marks.sync", "before")
    assert victim.mark(other) == schema.MARK_DOOMED
    is_gone(victim, other)


# -- stubs -----------------------------------------------------------------------------------


def releasing(file: FileVersion) -> Callable[[Bench], object]:
    return lambda bench: bench.engine.release_data([file], HEAD)


def test_release_before_the_commit(victim: Victim) -> None:
    file = premigrated(victim)
    victim.killed(releasing(file), APPLY, "before")
    assert (state(victim, file.ino), victim.data(file.ino)) == (Residency.PREMIGRATED, OLD)
    with victim.running() as bench:
        assert bench.content(file.ino) == OLD
    assert state(victim, file.ino) == Residency.PREMIGRATED


def test_release_after_the_commit_before_truncating(victim: Victim) -> None:
    file = premigrated(victim)
    victim.killed(releasing(file), f"{TIER}.truncate_to", "before")
    assert (state(victim, file.ino), victim.data(file.ino)) == (Residency.MIGRATED, OLD)
    with victim.running() as bench:
        assert victim.data(file.ino) == OLD[:HEAD]
        bench.recall(file, OLD)
        assert bench.content(file.ino) == OLD


@pytest.mark.parametrize("when", ["before", "after"])
def test_repair_at_start_loss_of_power(victim: Victim, when: str) -> None:
    file = premigrated(victim)
    victim.killed(releasing(file), f"{TIER}.truncate_to", "before")
    victim.killed_at_start("hsmfs.namespace.recovery:sync_file_system", when)
    assert (victim.data(file.ino), victim.mark(file.ino)) == (OLD[:HEAD], schema.MARK_CUT)
    if when == "before":
        Path(cache_path(victim.tier, file.ino)).write_bytes(OLD)  # it was not on disk yet
    with victim.running():
        assert victim.data(file.ino) == OLD[:HEAD]
    assert victim.mark(file.ino) is None


@pytest.mark.parametrize("when", ["before", "after"], ids=["mark kept", "mark lost"])
def test_repair_at_start_its_marks_go_last(victim: Victim, when: str) -> None:
    """Cut around the commit that lets the marks go."""
    file = premigrated(victim)
    victim.killed(releasing(file), f"{TIER}.truncate_to", "before")
    victim.killed_at_start(APPLY, when)
    assert victim.data(file.ino) == OLD[:HEAD]
    assert victim.mark(file.ino) == (schema.MARK_CUT if when == "before" else None)
    with victim.running():
        assert victim.data(file.ino) == OLD[:HEAD]


def recalling(file: FileVersion) -> Callable[[Bench], object]:
    return lambda bench: bench.recall(file, OLD)


def test_recall_before_the_rename(victim: Victim) -> None:
    file = stub(victim)
    victim.killed(recalling(file), f"{TIER}.adopt_recall", "before")
    assert (state(victim, file.ino), victim.data(file.ino)) == (Residency.RECALLING, OLD[:HEAD])
    assert victim.side("recall") == [f"{file.ino:x}.1"]
    read_again(victim, file)


def test_recall_after_the_rename_before_the_commit(victim: Victim) -> None:
    file = stub(victim)
    victim.killed(recalling(file), f"{TIER}.adopt_recall", "after")
    assert (state(victim, file.ino), victim.data(file.ino)) == (Residency.RECALLING, OLD)
    assert (victim.mark(file.ino), victim.side("recall")) == (schema.MARK_CUT, [])
    read_again(victim, file)


def read_again(victim: Victim, file: FileVersion) -> None:
    """A stub as it was; who reads it asks hsmd anew."""
    with victim.running() as bench:
        assert (bench.state(file.ino), victim.side("recall")) == ("migrated", [])
        assert victim.data(file.ino) == OLD[:HEAD]
        fh = bench.open(file.ino)
        answer = bench.engine.read(fh, 0, len(OLD))
        assert [wanted.file for wanted in bench.engine.pending_wanted()] == [file]
        bench.recall(file, OLD)
        assert now(answer) == OLD
        bench.engine.release(fh)
    assert state(victim, file.ino) == Residency.PREMIGRATED


# -- versions ----------------------------------------------------------------------------------


def claimed_write(ino: int) -> Callable[[Bench], None]:
    """A write to what a burn holds."""

    def scene(bench: Bench) -> None:
        assert not now(bench.engine.claim([FileVersion(ino, 1)]))[0].refused
        write(bench, ino, NEW)

    return scene


@pytest.mark.parametrize(
    ("point", "when"),
    [(f"{TIER}.copy_aside", "after"), (f"{TIER}.adopt_copy", "before")],
    ids=["copied", "old bytes have their name"],
)
def test_first_write_to_a_claimed_version_before_the_rename(
    victim: Victim, point: str, when: str
) -> None:
    ino = resident(victim)
    victim.killed(claimed_write(ino), point, when)
    assert victim.side("copy") == [f"{ino:x}"]
    assert victim.data(ino) == OLD
    with victim.running() as bench:
        assert victim.side("copy") == []
        bench.engine.hold_only([])
        assert victim.side("claim") == []
        assert bench.content(ino) == OLD
    record = victim.record(ino)
    assert record is not None
    assert record.data_version == 1


@pytest.mark.parametrize("is_held", [True, False], ids=["held", "not held"])
def test_first_write_to_a_claimed_version_after(victim: Victim, is_held: bool) -> None:
    ino = resident(victim)
    victim.killed(claimed_write(ino), f"{TIER}.adopt_copy", "after")
    claim = victim.tier / "claim" / f"{ino:x}.1"
    assert claim.read_bytes() == OLD
    assert victim.data(ino) == OLD
    with victim.running() as bench:
        bench.engine.hold_only([FileVersion(ino, 1)] if is_held else [])
        assert victim.side("claim") == ([claim.name] if is_held else [])
        bench.engine.release(write(bench, ino, NEW))
        assert bench.content(ino) == NEW
        if is_held:
            assert claim.read_bytes() == OLD
            bench.engine.unclaim([FileVersion(ino, 1)])
        assert victim.side("claim") == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_first_write_to_a_version_that_copies_hold(victim: Victim, when: str) -> None:
    file = premigrated(victim)
    victim.killed(lambda bench: write(bench, file.ino, NEW), APPLY, when)
    record = victim.record(file.ino)
    assert record is not None
    assert (record.data_version, record.copies) == ((1, 2) if when == "before" else (2, 0))
    assert victim.data(file.ino) == OLD
    with victim.running() as bench:
        assert bench.state(file.ino) == ("premigrated" if when == "before" else "resident")
        assert bench.content(file.ino) == OLD


def test_truncate_to_nothing_of_a_version_that_copies_hold(victim: Victim) -> None:
    file = premigrated(victim)
    cut = truncate(0)
    point = "hsmfs.namespace.versions:Versions._cut_emptied"
    victim.killed(lambda bench: cut(bench, file.ino), point, "before")
    record = victim.record(file.ino)
    assert record is not None
    assert (record.size, record.data_version, record.copies) == (0, 2, 0)
    assert (victim.mark(file.ino), victim.data(file.ino)) == (schema.MARK_CUT, OLD)
    with victim.running() as bench:
        assert victim.data(file.ino) == b""
        assert stat.S_ISREG(bench.attr(NAME).mode)
        assert bench.content(file.ino) == b""
    assert victim.mark(file.ino) is None
