"""Write-once trees: what settles, what is refused, what holds and dates do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.engines import ME, Bench, now
from support.worms import DAY_S, YEAR_S, fails, make, pass_time, snapshot, tree_of, verified

from hsmfs.errors import CallerError
from hsmfs.fsck.cachefiles import CacheFiles
from hsmfs.fsck.findings import NoCopies, Summary
from hsmfs.fsck.run import check
from hsmfs.fsck.subject import Subject
from hsmfs.fsck.workspace import Workspace
from hsmfs.namespace.engine import RENAME_EXCHANGE, SetAttr
from hsmfs.namespace.fileops import FALLOC_PUNCH_HOLE
from hsmfs.records import InodeRecord
from hsmfs.store.memory import MemoryStore

ACL = b"system.posix_acl_access"
VALUE = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff \0\4\0\xff\xff\xff\xff"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "cache")
    yield made
    made.engine.close()


def settled(bench: Bench, name: bytes = b"f", data: bytes = b"data") -> tuple[int, int]:
    """A tree with a settled file in it."""
    top = tree_of(bench)
    ino = make(bench, top, name, data)
    pass_time(bench, DAY_S + 2)
    assert bench.engine.getxattr(ino, b"user.hsm.retention").startswith(b"settled until 2038-11")
    return top, ino


def test_a_file_settles_after_its_time_without_a_change(bench: Bench) -> None:
    top = tree_of(bench)
    ino = make(bench, top, b"f", b"data")
    pass_time(bench, DAY_S - 10)
    fh = bench.open(ino, os.O_RDWR)
    now(bench.engine.write(fh, 0, b"more"))
    bench.engine.release(fh)
    pass_time(bench, DAY_S - 10)
    assert b"settles after" in bench.engine.getxattr(ino, b"user.hsm.retention")
    now(bench.engine.setattr(ino, SetAttr(mode=0o600), None, ME))
    pass_time(bench, DAY_S - 10)
    assert b"settles after" in bench.engine.getxattr(ino, b"user.hsm.retention")
    pass_time(bench, 20)
    assert b"settled until" in bench.engine.getxattr(ino, b"user.hsm.retention")
    assert verified(bench) == []


def changes(bench: Bench, top: int, ino: int) -> dict[str, Callable[[], Any]]:
    engine = bench.engine
    return {
        "open to write": lambda: engine.open(ino, os.O_WRONLY, ME),
        "open to read and write": lambda: engine.open(ino, os.O_RDWR, ME),
        "O_TRUNC": lambda: engine.open(ino, os.O_RDONLY | os.O_TRUNC, ME),
        "create": lambda: engine.create(top, b"f", 0o644, os.O_RDWR, ME),
        "truncate": lambda: engine.setattr(ino, SetAttr(size=0), None, ME),
        "truncate longer": lambda: engine.setattr(ino, SetAttr(size=99), None, ME),
        "chmod": lambda: engine.setattr(ino, SetAttr(mode=0o777), None, ME),
        "chown": lambda: engine.setattr(ino, SetAttr(uid=1), None, ME),
        "utimes": lambda: engine.setattr(ino, SetAttr(mtime_ns=1), None, ME),
        "setxattr": lambda: engine.setxattr(ino, b"user.a", b"1"),
        "trusted": lambda: engine.setxattr(ino, b"trusted.a", b"1"),
        "own names": lambda: engine.setxattr(ino, b"user.hsm.retention", b"none"),
        "own hold": lambda: engine.removexattr(ino, b"user.hsm.hold"),
        "acl": lambda: engine.setxattr(ino, ACL, VALUE),
        "removexattr": lambda: engine.removexattr(ino, b"user.kept"),
        "unlink": lambda: engine.unlink(top, b"f"),
        "rename": lambda: engine.rename(top, b"f", top, b"g"),
        "exchange": lambda: engine.rename(top, b"f", top, b"new", RENAME_EXCHANGE),
        "exchanged": lambda: engine.rename(top, b"new", top, b"f", RENAME_EXCHANGE),
        "rename over": lambda: engine.rename(top, b"new", top, b"f"),
        "link": lambda: engine.link(ino, top, b"l"),
    }


NAMES = [
    "open to write", "open to read and write", "O_TRUNC", "create", "truncate", "truncate longer",
    "chmod", "chown", "utimes", "setxattr", "trusted", "own names", "own hold", "acl",
    "removexattr", "unlink", "rename", "exchange", "exchanged", "rename over", "link",
]  # fmt: skip


@pytest.mark.parametrize("state", ["settled", "held", "stub"])
def test_nothing_changes_a_settled_or_held_file(bench: Bench, state: str) -> None:
    top = tree_of(bench)
    ino = make(bench, top, b"f", b"data" * 5000)
    bench.engine.setxattr(ino, b"user.kept", b"1")
    if state == "held":
        assert now(bench.engine.holds.set([ino], "case 1", "root")) == [""]
    else:
        pass_time(bench, DAY_S + 2)
    if state == "stub":
        from hsmfs.types import FileVersion

        bench.premigrate(FileVersion(ino, 1))
        assert not now(bench.engine.release_data([FileVersion(ino, 1)], 4096))[0].refused
    make(bench, top, b"new", b"x")
    before = bench.engine.getattr(ino), snapshot(bench, ino)
    calls = changes(bench, top, ino)
    assert list(calls) == NAMES
    for name, call in calls.items():
        with fails(errno.EPERM, name):
            call()
    assert (bench.engine.getattr(ino), snapshot(bench, ino)) == before
    bench.engine.setxattr(ino, b"user.hsm.pin", b"1")  # where its data is, is no part of it
    assert bench.engine.getattr(ino).ctime_ns == before[0].ctime_ns
    assert verified(bench) == []


def test_a_handle_from_before_writes_no_more(bench: Bench) -> None:
    top = tree_of(bench)
    ino = make(bench, top, b"f", b"data")
    told: list[int] = []
    bench.engine.retention.settling.flush_kernel = told.append
    fh = bench.open(ino, os.O_RDWR)
    pass_time(bench, DAY_S + 5)
    assert told == [ino]  # pages of maps are asked for before it settles
    other = bench.open(make(bench, top, b"g", b"other"))
    for call in (
        lambda: bench.engine.write(fh, 0, b"x"),
        lambda: bench.engine.fallocate(fh, 0, 0, 100),
        lambda: bench.engine.fallocate(fh, FALLOC_PUNCH_HOLE, 0, 2),
        lambda: bench.engine.copy_file_range(other, 0, fh, 0, 3),
        lambda: bench.engine.setattr(ino, SetAttr(size=1), fh, ME),
    ):
        with fails(errno.EPERM, "write"):
            now(call())
    assert now(bench.engine.read(fh, 0, 10)) == b"data"
    assert len(told) > 1  # and forgotten after a write that was refused


def test_writes_of_a_tree_never_pass(bench: Bench) -> None:
    top = tree_of(bench)
    ino = make(bench, top, b"f", b"data")
    record = bench.engine.tables.inode(ino)
    assert bench.engine.ops.through._must_see(record)


def test_new_files_and_directories_stay_possible(bench: Bench) -> None:
    top, _ = settled(bench)
    folder = bench.engine.mkdir(top, b"d", 0o755, ME).ino
    make(bench, folder, b"x", b"1")
    bench.engine.unlink(folder, b"x")
    bench.engine.rmdir(top, b"d")
    bench.engine.setattr(top, SetAttr(mode=0o700), None, ME)


def test_directories_keep_the_paths_of_what_is_settled(bench: Bench) -> None:
    top = tree_of(bench)
    folder = bench.engine.mkdir(top, b"d", 0o755, ME).ino
    bench.engine.rename(top, b"d", top, b"e")
    make(bench, folder, b"x", b"1")
    bench.engine.rename(top, b"e", top, b"f")
    pass_time(bench, DAY_S + 2)
    with fails(errno.EPERM, "directory"):
        bench.engine.rename(top, b"f", top, b"g")
    with fails(errno.EPERM, "the tree"):
        bench.engine.rename(1, b"archive", 1, b"other")
    with fails(errno.EPERM, "above"):
        bench.engine.mkdir(1, b"up", 0o755, ME)
        bench.engine.mkdir(bench.attr(b"up").ino, b"deep", 0o755, ME)
        now(bench.engine.retention.set_tree(b"up/deep", "1d", "1y", "root"))
        bench.engine.rename(1, b"up", 1, b"down")


def test_names_do_not_leave_or_enter(bench: Bench) -> None:
    top = tree_of(bench)
    outside = bench.engine.mkdir(1, b"outside", 0o755, ME).ino
    ino = make(bench, top, b"f", b"1")
    other = make(bench, outside, b"o", b"1")
    opened, attr = bench.engine.tmpfile(outside, 0o644, os.O_RDWR, ME)
    for call in (
        lambda: bench.engine.rename(top, b"f", outside, b"f"),
        lambda: bench.engine.rename(outside, b"o", top, b"o"),
        lambda: bench.engine.rename(outside, b"o", top, b"f", RENAME_EXCHANGE),
        lambda: bench.engine.link(ino, outside, b"l"),
        lambda: bench.engine.link(other, top, b"l"),
        lambda: bench.engine.link(attr.ino, top, b"t"),
    ):
        with fails(errno.EXDEV, "across"):
            call()
    bench.engine.release(opened.fh)
    bench.engine.link(ino, top, b"l")
    opened, attr = bench.engine.tmpfile(top, 0o644, os.O_RDWR, ME)
    bench.engine.link(attr.ino, top, b"t")
    bench.engine.release(opened.fh)
    pass_time(bench, DAY_S + 2)
    for name in (b"f", b"l", b"t"):
        with fails(errno.EPERM, "settled"):
            bench.engine.unlink(top, name)


def test_what_was_there_before_is_taken_in(bench: Bench) -> None:
    folder = bench.engine.mkdir(1, b"archive", 0o755, ME).ino
    inodes = [make(bench, folder, b"%d" % number, b"1") for number in range(1200)]
    below = bench.engine.mkdir(folder, b"d", 0o755, ME).ino
    inodes.append(make(bench, below, b"x", b"1"))
    taking = bench.engine.retention.set_tree(b"archive", "1d", "15y", "root")
    assert not taking.done
    with fails(errno.EBUSY, "at work"):
        bench.engine.retention.set_tree(b"archive", "1d", "15y", "root")
    with fails(errno.EBUSY, "not reached yet"):
        bench.engine.rename(folder, b"1199", folder, b"0")
    now(bench.engine.syncfs())
    bench.reopen()  # cut: the next start goes on with it
    bench.executor.advance(1.0)
    pass_time(bench, DAY_S + 60)
    assert not bench.engine.ops.through.no_writes
    for ino in inodes:
        assert b"settled" in bench.engine.getxattr(ino, b"user.hsm.retention")
    assert verified(bench) == []


def test_a_retention_that_ends_frees_nothing(bench: Bench) -> None:
    top, _ = settled(bench)
    ino = make(bench, top, b"later", b"1")
    now(bench.engine.retention.clear_tree(b"archive", "root"))
    pass_time(bench, 3 * DAY_S)
    bench.engine.unlink(top, b"later")
    with fails(errno.EPERM, "settled"):
        bench.engine.unlink(top, b"f")
    assert ino not in [entry[2] for entry in bench.engine.tables.listed(top, 0, None)]


def test_an_empty_tree_that_ended_can_be_removed(bench: Bench) -> None:
    top = tree_of(bench)
    with fails(errno.EPERM, "a tree"):
        bench.engine.rmdir(1, b"archive")
    make(bench, top, b"f", b"1")
    now(bench.engine.retention.clear_tree(b"archive", "root"))
    bench.engine.rename(1, b"archive", 1, b"old")
    bench.engine.unlink(top, b"f")
    bench.engine.rmdir(1, b"old")
    assert damaged(bench, lambda store: None) == []
    assert not bench.engine.retention.trees


def test_removal_is_proposed_and_confirmed(bench: Bench) -> None:
    top, ino = settled(bench)
    holds, until = bench.engine.holds, bench.engine.retention.settling.kept(ino).until_ns
    assert "kept until" in now(holds.confirm([(ino, until)], "root"))[0]
    pass_time(bench, 15 * YEAR_S + DAY_S, step_s=YEAR_S)
    with fails(errno.EPERM, "nothing expires by itself"):
        bench.engine.unlink(top, b"f")
    assert "not as listed" in now(holds.confirm([(ino, until - 1)], "root"))[0]
    assert now(holds.set([ino], "case 1", "root")) == [""]
    assert now(holds.set([ino], "case 2", "root")) == [""]
    assert "hold" in now(holds.confirm([(ino, until)], "root"))[0]
    assert now(holds.clear([ino], "case 1", "root")) == [""]
    assert "hold" in now(holds.confirm([(ino, until)], "root"))[0]
    assert bench.engine.getxattr(ino, b"user.hsm.hold") == b"case 2"
    assert "no hold" in now(holds.clear([ino], "case 1", "root"))[0]
    assert now(holds.clear([ino], "", "root")) == [""]
    assert now(holds.confirm([(ino, until)], "root")) == [""]
    assert "removed" in now(holds.confirm([(ino, until)], "root"))[0]
    with fails(errno.ENOENT, "gone"):
        bench.engine.lookup(top, b"f")
    assert not list(bench.engine.tables.kv.scan(b"We", b"Wf"))
    assert verified(bench) == []


def test_dates_only_grow(bench: Bench) -> None:
    _, ino = settled(bench)
    assert "later" in now(bench.engine.holds.extend([ino], "1y", "root"))[0]
    assert now(bench.engine.holds.extend([ino], "30y", "root")) == [""]
    assert bench.engine.getxattr(ino, b"user.hsm.retention").startswith(b"settled until 2053-11")


def test_the_clock_frees_nothing(bench: Bench) -> None:
    """Set forward or back, over restarts of hsmfs and of the machine."""
    top, ino = settled(bench)
    for step_ns in (20 * 365 * 86_400 * 10**9, -60 * 365 * 86_400 * 10**9):
        for restart in ("", "hsmfs", "machine"):
            bench.clock.start_ns += step_ns
            if restart:
                now(bench.engine.syncfs())
                bench.clock.boot_id += "x" if restart == "machine" else ""
                bench.reopen()
            pass_time(bench, 10)
            until = bench.engine.retention.settling.kept(ino).until_ns
            refused = now(bench.engine.holds.confirm([(ino, until)], "root"))[0]
            assert "is kept until 2038-11" in refused
            with fails(errno.EPERM, "settled"):
                bench.engine.unlink(top, b"f")
    assert verified(bench) == []


def test_a_clock_set_back_does_not_stop_settling(bench: Bench) -> None:
    top = tree_of(bench)
    ino = make(bench, top, b"f", b"1")
    bench.clock.start_ns -= 30 * 365 * 86_400 * 10**9
    pass_time(bench, DAY_S + 5)
    assert b"settled until 2038" in bench.engine.getxattr(ino, b"user.hsm.retention")


def test_state_survives_a_crash(bench: Bench) -> None:
    top, ino = settled(bench)
    held = make(bench, 1, b"held", b"1")
    now(bench.engine.holds.set([held], "case", "root"))
    bench.reopen()
    for call in (lambda: bench.engine.unlink(top, b"f"), lambda: bench.engine.unlink(1, b"held")):
        with fails(errno.EPERM, "after a crash"):
            call()
    assert bench.engine.getxattr(ino, b"user.hsm.retention").startswith(b"settled")
    assert verified(bench) == []


def test_refusals_are_told_within_a_bound(bench: Bench) -> None:
    top, ino = settled(bench)
    number = bench.engine.retention.clock.audit.head.number
    for _ in range(500):
        with fails(errno.EPERM, "settled"):
            bench.engine.unlink(top, b"f")
    assert bench.engine.retention.clock.audit.head.number == number + 1
    for name in range(300):
        bench.engine.retention.refusals.tell(ino, 1, str(name), "settled")
    assert bench.engine.retention.clock.audit.head.number == number + 100


@pytest.mark.parametrize(
    ("settle", "keep"), [("", "15y"), ("1d", "0y"), ("1d", "15"), ("1m", "15y"), ("1d", "201y")]
)
def test_bad_settings_are_refused(bench: Bench, settle: str, keep: str) -> None:
    bench.engine.mkdir(1, b"archive", 0o755, ME)
    with fails(errno.EINVAL, "settings"):
        bench.engine.retention.set_tree(b"archive", settle, keep, "root")
    with fails(errno.ENOENT, "path"):
        bench.engine.retention.set_tree(b"nothing", "1d", "15y", "root")
    make(bench, 1, b"file", b"1")
    with fails(errno.ENOTDIR, "file"):
        bench.engine.retention.set_tree(b"file", "1d", "15y", "root")
    assert not bench.engine.retention.clock.is_running  # nothing begins by a mistake


def test_damaged_rows_are_told(bench: Bench) -> None:
    tree_of(bench)
    bench.engine.tables.kv.put(b"Wc", b"\xff")
    now(bench.engine.syncfs())
    with pytest.raises(CallerError, match="fsck --repair"):
        bench.reopen()
    bench.engine.tables.kv.drop(b"Wc")


def damaged(bench: Bench, damage: Callable[[MemoryStore], None]) -> list[str]:
    """What fsck --repair finds after a stop and a damage; the engine runs again then."""
    bench.engine.close()
    damage(bench.store)
    work = Workspace(bench.store, True)
    summary = Summary()
    subject = Subject(work, CacheFiles(bench.root), NoCopies(), bench.clock.now_ns(), summary)
    found = [f"{one.kind}: {one.found}" for one in check(subject)]
    bench.reopen()
    return found


def flags_gone(store: MemoryStore) -> None:
    def change(writer: Any) -> None:
        for key, value in list(writer.scan(b"I", b"J")):
            record = InodeRecord.unpack(value)
            record.flags &= ~(64 | 128 | 256)
            writer.put(key, record.pack())

    store.transact(change)


def gone(*prefixes: bytes) -> Callable[[MemoryStore], None]:
    def change(writer: Any) -> None:
        for prefix in prefixes:
            for key, _ in list(writer.scan(prefix, prefix + b"\xff" * 20)):
                writer.delete(key)

    return lambda store: store.transact(change)


def garbage(*prefixes: bytes) -> Callable[[MemoryStore], None]:
    def change(writer: Any) -> None:
        for prefix in prefixes:
            for key, _ in list(writer.scan(prefix, prefix + b"\xff" * 20)):
                writer.put(key, b"\xff\xd9")

    return lambda store: store.transact(change)


DAMAGES = {
    "nothing": lambda store: None,
    "flags": flags_gone,
    "rows": gone(b"Wi", b"We", b"Wp", b"Wh"),
    "everything but the log": lambda store: (flags_gone(store), gone(b"W")(store)),
    "unreadable": garbage(b"Wi", b"Wh", b"Wt", b"Wc"),
    "the log": gone(b"A", b"Mlog"),
    "all rows and the log": gone(b"A", b"Mlog", b"W"),
    "inodes": garbage(b"I"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_repair_frees_nothing(bench: Bench, name: str) -> None:
    top, ino = settled(bench)
    held = make(bench, 1, b"held", b"1")
    waiting = make(bench, top, b"waiting", b"1")
    now(bench.engine.holds.set([held], "case", "root"))
    found = damaged(bench, DAMAGES[name])
    assert bool(found) == (name != "nothing"), found
    for inode in (ino, held):
        with fails(errno.EPERM, name):
            bench.engine.open(inode, os.O_RDWR, ME)
        with fails(errno.EPERM, name):
            bench.engine.setattr(inode, SetAttr(mode=0o777), None, ME)
    until = bench.engine.retention.settling.kept(ino).until_ns
    assert until > bench.clock.now_ns() + 14 * 365 * 86_400 * 10**9
    refused = now(bench.engine.holds.confirm([(ino, until)], "root"))[0]
    assert "kept until" in refused
    pass_time(bench, 3 * DAY_S)
    with fails(errno.EPERM, "settles after the repair"):
        bench.engine.open(waiting, os.O_RDWR, ME)


@pytest.mark.parametrize("durable", [False, True], ids=["lost batch", "committed"])
@pytest.mark.parametrize("cut", range(7))
def test_cut_after_each_step(bench: Bench, cut: int, durable: bool) -> None:
    """Row and flag, order and log are there together or not at all: fsck finds nothing."""
    engine = bench.engine
    top = engine.mkdir(1, b"archive", 0o755, ME).ino
    inodes = [make(bench, top, name, b"1") for name in (b"a", b"b")]
    now(engine.syncfs())
    holds = engine.holds
    steps: list[Callable[[], Any]] = [
        lambda: engine.retention.set_tree(b"archive", "1d", "2d", "root"),
        lambda: pass_time(bench, DAY_S + 5),
        lambda: holds.set(inodes[:1], "case", "root"),
        lambda: holds.extend(inodes, "3d", "root"),
        lambda: (bench.clock.advance(4 * DAY_S), holds.clear(inodes[:1], "case", "root")),
        lambda: holds.confirm([(inodes[1], engine.retention.settling.kept(inodes[1]).until_ns)],
                              "root"),
        lambda: engine.retention.clear_tree(b"archive", "root"),
    ]  # fmt: skip
    for step in steps[: cut + 1]:
        step()
        if durable:
            now(engine.syncfs())
    bench.reopen()
    bench.executor.advance(3.0)
    assert verified(bench) == []
    assert damaged(bench, lambda store: None) == []
