"""Residency: the table, and what happens when things come together."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import pytest
from support.engines import HEAD, ME, Bench, now

from hsmfs.cache.paths import claim_path, open_claimed, recall_path
from hsmfs.deferred import Deferred
from hsmfs.errors import FsError
from hsmfs.namespace.engine import SetAttr
from hsmfs.residency import TRANSITIONS, Cause, ForbiddenTransition, after
from hsmfs.rpc.messages import CopiedFile, NoLongerWanted, Wanted
from hsmfs.types import Residency

DATA = bytes(range(256)) * 400


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "cache")


def test_the_table_is_all_there_is() -> None:
    for state, cause in itertools.product(Residency, Cause):
        if (state, cause) in TRANSITIONS:
            assert after(state, cause) in Residency
        else:
            with pytest.raises(ForbiddenTransition):
                after(state, cause)


def test_the_life_of_a_file(bench: Bench) -> None:
    file = bench.make(b"f", DATA)
    assert bench.state(file.ino) == "resident"
    bench.premigrate(file)
    assert bench.state(file.ino) == "premigrated"
    assert bench.engine.getxattr(file.ino, b"user.hsm.volumes") == b"v1"
    now(bench.engine.release_data([file], HEAD))
    assert bench.state(file.ino) == "migrated"
    assert os.stat(bench.engine.tier.path(file.ino)).st_size == HEAD
    assert bench.engine.getattr(file.ino).size == len(DATA)
    bench.engine.recall_begin(file)
    assert bench.state(file.ino) == "recalling"
    bench.recall(file, DATA)
    assert bench.state(file.ino) == "premigrated"
    assert bench.content(file.ino) == DATA


def test_the_head_is_read_without_a_recall(bench: Bench) -> None:
    file = bench.stub(b"f", DATA)
    fh = bench.open(file.ino)
    assert now(bench.engine.read(fh, 0, HEAD)) == DATA[:HEAD]
    assert bench.events == [] and bench.state(file.ino) == "migrated"


def test_readers_wake_when_their_range_has_landed(bench: Bench) -> None:
    file = bench.stub(b"f", DATA)
    fh = bench.open(file.ino)
    late = bench.engine.read(fh, 90_000, 1000)
    early = bench.engine.read(fh, 5_000, 1000)
    assert isinstance(late, Deferred) and isinstance(early, Deferred)
    assert [event.range.start for event in bench.events if isinstance(event, Wanted)] == [
        90_000,
        5_000,
    ]
    bench.land(file, DATA, 80_000, len(DATA))
    assert late.done and late.result() == DATA[90_000:91_000] and not early.done
    spanning = bench.engine.read(fh, 0, 6_000)
    bench.land(file, DATA, HEAD, 80_000)
    assert early.result() == DATA[5_000:6_000]
    assert now(spanning) == DATA[:6_000]


def test_a_stale_version_is_refused_everywhere(bench: Bench) -> None:
    file = bench.make(b"f", DATA)
    now(bench.engine.claim([file]))
    bench.engine.unclaim([file])
    fh = bench.open(file.ino, os.O_RDWR)
    now(bench.engine.write(fh, 0, b"new"))
    bench.engine.release(fh)
    assert now(bench.engine.copied([CopiedFile(file, 2, True, "main", ["v"])]))[0].refused
    assert now(bench.engine.claim([file]))[0].refused
    assert now(bench.engine.release_data([file], HEAD))[0].refused
    with pytest.raises(FsError):
        bench.engine.recall_begin(file)
    assert bench.state(file.ino) == "resident"


def test_an_open_that_writes_nothing_changes_nothing(bench: Bench) -> None:
    file = bench.make(b"f", DATA)
    bench.premigrate(file)
    bench.engine.release(bench.open(file.ino, os.O_RDWR))
    assert bench.state(file.ino) == "premigrated"
    assert not now(bench.engine.release_data([file], HEAD))[0].refused


@pytest.mark.parametrize("how", ["write", "truncate", "empty", "unlink"])
def test_claimed_bytes_stay_for_the_burner(bench: Bench, how: str) -> None:
    file = bench.make(b"f", DATA)
    now(bench.engine.claim([file]))
    if how == "unlink":
        bench.engine.unlink(1, b"f")
    elif how == "write":
        fh = bench.open(file.ino, os.O_RDWR)
        now(bench.engine.write(fh, 10, b"changed"))
        bench.engine.release(fh)
    else:
        size = 100 if how == "truncate" else 0
        now(bench.engine.setattr(file.ino, SetAttr(size=size), None, ME))
    if how == "unlink":
        fd = os.open(claim_path(bench.root, file.ino, 1), os.O_RDONLY)
    else:
        fd = open_claimed(bench.root, file.ino, 1)
    try:
        assert os.pread(fd, len(DATA) + 1, 0) == DATA
    finally:
        os.close(fd)
    bench.engine.unclaim([file])
    assert not os.path.exists(claim_path(bench.root, file.ino, 1))


def test_files_open_for_writing_are_not_claimed(bench: Bench) -> None:
    file = bench.make(b"f", DATA)
    fh = bench.open(file.ino, os.O_WRONLY)
    assert "writing" in now(bench.engine.claim([file]))[0].refused
    bench.engine.release(fh)
    assert not now(bench.engine.claim([file]))[0].refused


@pytest.mark.parametrize("why", ["open", "pinned", "burned", "resident"])
def test_release_is_refused(bench: Bench, why: str) -> None:
    file = bench.make(b"f", DATA)
    if why != "resident":
        bench.premigrate(file)
    if why == "open":
        bench.open(file.ino)
    elif why == "pinned":
        bench.engine.setxattr(file.ino, b"user.hsm.pin", b"1")
    elif why == "burned":
        now(bench.engine.claim([file]))
    assert why in now(bench.engine.release_data([file], HEAD))[0].refused
    assert bench.content(file.ino) == DATA


@pytest.mark.parametrize("how", ["truncate", "unlink", "replace"])
def test_a_recall_of_what_is_no_more_is_dropped(bench: Bench, how: str) -> None:
    file = bench.stub(b"f", DATA)
    bench.make(b"g", b"other")
    fh = bench.open(file.ino)
    waiting = bench.engine.read(fh, 50_000, 10)
    assert isinstance(waiting, Deferred)
    bench.land(file, DATA, 0, 8192)
    late = os.open(recall_path(bench.root, file.ino, 1), os.O_RDWR)
    bench.engine.release(fh)
    if how == "truncate":
        now(bench.engine.setattr(file.ino, SetAttr(size=0), None, ME))
    elif how == "unlink":
        bench.engine.unlink(1, b"f")
    else:
        bench.engine.rename(1, b"g", 1, b"f")
    assert waiting.done
    with pytest.raises(FsError):
        waiting.result()
    assert NoLongerWanted(file, True) in bench.events
    os.pwrite(late, DATA, 0)
    os.close(late)
    with pytest.raises(FsError):
        bench.engine.recalled(file)
    if how == "truncate":
        assert bench.content(file.ino) == b"" and bench.state(file.ino) == "resident"
    elif how == "replace":
        assert bench.content(bench.attr(b"f").ino) == b"other"


def test_a_write_to_a_stub_recalls_it_first(bench: Bench) -> None:
    file = bench.stub(b"f", DATA)
    fh = bench.open(file.ino, os.O_RDWR)
    writing = bench.engine.write(fh, 50_000, b"new")
    assert isinstance(writing, Deferred) and not writing.done
    bench.recall(file, DATA)
    assert writing.result() == 3
    assert bench.state(file.ino) == "resident"
    assert bench.content(file.ino) == DATA[:50_000] + b"new" + DATA[50_003:]


def test_a_reader_who_leaves_ends_the_wish(bench: Bench) -> None:
    file = bench.stub(b"f", DATA)
    fh = bench.open(file.ino)
    waiting = bench.engine.read(fh, 50_000, 10)
    assert isinstance(waiting, Deferred)
    waiting.cancel()
    with pytest.raises(FsError) as caught:
        waiting.result()
    assert caught.value.errno == errno.EINTR
    assert bench.state(file.ino) == "migrated"
    assert NoLongerWanted(file, False) in bench.events


def test_silence_ends_in_etimedout_and_notes_keep_it_alive(bench: Bench) -> None:
    file = bench.stub(b"f", DATA)
    fh = bench.open(file.ino)
    waiting = bench.engine.read(fh, 50_000, 10)
    assert isinstance(waiting, Deferred)
    for _ in range(3):
        bench.clock.advance(40)
        bench.executor.advance(40)
        bench.engine.recall_note(file, "waiting for magazine M01")
    assert not waiting.done
    assert bench.engine.getxattr(file.ino, b"user.hsm.recall") == b"waiting for magazine M01"
    for _ in range(3):
        bench.clock.advance(61)
        bench.executor.advance(61)
    with pytest.raises(FsError) as caught:
        waiting.result()
    assert caught.value.errno == errno.ETIMEDOUT
    assert bench.state(file.ino) == "migrated"


def test_a_failed_recall_tells_its_errno_and_may_be_tried_again(bench: Bench) -> None:
    file = bench.stub(b"f", DATA)
    fh = bench.open(file.ino)
    waiting = bench.engine.read(fh, 50_000, 10)
    assert isinstance(waiting, Deferred)
    bench.engine.failed(file, errno.EIO, "all copies are damaged")
    with pytest.raises(FsError, match="damaged"):
        waiting.result()
    again = bench.engine.read(fh, 50_000, 10)
    bench.recall(file, DATA)
    assert now(again) == DATA[50_000:50_010]


def test_a_new_hsmd_hears_what_is_wanted_and_what_is_not_ends(bench: Bench) -> None:
    wanted, unwanted = bench.stub(b"f", DATA), bench.stub(b"g", DATA)
    claimed = bench.make(b"h", DATA)
    now(bench.engine.claim([claimed]))
    bench.engine.read(bench.open(wanted.ino), 50_000, 10)
    bench.land(unwanted, DATA, 0, 100)
    bench.engine.hold_only([])
    assert [event.file for event in bench.engine.pending_wanted()] == [wanted]
    assert bench.state(unwanted.ino) == "migrated"
    assert bench.engine.status().claims == 0


def test_after_a_crash_recalling_is_migrated_and_releases_are_finished(bench: Bench) -> None:
    file = bench.stub(b"f", DATA)
    bench.engine.read(bench.open(file.ino), 50_000, 10)
    bench.land(file, DATA, 0, 9000)
    now(bench.engine.syncfs())
    bench.reopen()
    assert bench.state(file.ino) == "migrated"
    assert not os.path.exists(recall_path(bench.root, file.ino, 1))
    assert now(bench.engine.read(bench.open(file.ino), 0, HEAD)) == DATA[:HEAD]


def test_counters_follow(bench: Bench) -> None:
    first, second = bench.stub(b"f", DATA), bench.make(b"g", DATA)
    counted = {s.state: (s.files, s.bytes) for s in bench.engine.status().states}
    assert counted["migrated"] == (1, len(DATA)) and counted["resident"] == (1, len(DATA))
    assert bench.engine.tables.counters.cached == HEAD + len(DATA)
    bench.engine.unlink(1, b"f")
    bench.engine.unlink(1, b"g")
    bench.executor.advance(1)
    assert sum(s.files for s in bench.engine.status().states) == 0
    assert bench.engine.tables.counters.cached == 0
    assert not os.path.exists(bench.engine.tier.path(first.ino))
    assert not os.path.exists(bench.engine.tier.path(second.ino))


@pytest.mark.parametrize("how", ["unlink", "replace"])
def test_data_outlives_an_end_that_was_not_committed(bench: Bench, how: str) -> None:
    file = bench.make(b"f", DATA)
    bench.make(b"g", b"other")
    if how == "unlink":
        bench.engine.unlink(1, b"f")
    else:
        bench.engine.rename(1, b"g", 1, b"f")
    bench.reopen()
    assert bench.content(bench.attr(b"f").ino) == DATA
    bench.engine.unlink(1, b"f")
    bench.executor.advance(1)
    assert not os.path.exists(bench.engine.tier.path(file.ino))


def test_a_crash_after_the_commit_of_an_end_leaves_no_data(bench: Bench) -> None:
    file = bench.make(b"f", DATA)
    bench.engine.unlink(1, b"f")
    now(bench.engine.syncfs())
    bench.reopen()
    assert not os.path.exists(bench.engine.tier.path(file.ino))


def test_a_new_version_is_durable_before_its_first_byte(bench: Bench) -> None:
    file = bench.make(b"f", DATA)
    bench.premigrate(file)
    fh = bench.open(file.ino, os.O_RDWR)
    now(bench.engine.write(fh, 0, b"changed"))
    bench.reopen()
    assert bench.state(file.ino) == "resident"
    assert bench.content(file.ino)[:7] == b"changed"
