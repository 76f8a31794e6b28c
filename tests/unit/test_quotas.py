"""Quotas by directory tree: what counts, what is refused, what a restart keeps."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.engines import ME, Bench, now

from hsmfs.errors import CallerError, FsError
from hsmfs.namespace.engine import RENAME_EXCHANGE, Engine, SetAttr
from hsmfs.namespace.model import Limit

TREE = Limit("/a/b", 10_000, 5)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "cache", quotas=(TREE,))
    yield made
    made.engine.close()


@contextmanager
def fails(number: int) -> Iterator[None]:
    with pytest.raises(FsError) as caught:
        yield
    assert errno.errorcode[caught.value.errno] == errno.errorcode[number]


def tree(bench: Bench) -> int:
    return find(bench, b"a", b"b")


def find(bench: Bench, *path: bytes) -> int:
    ino = 1
    for name in path:
        ino = bench.engine.lookup(ino, name).ino
    return ino


def make(bench: Bench, folder: int, name: bytes, size: int = 0) -> int:
    opened, attr = bench.engine.create(folder, name, 0o644, os.O_RDWR, ME)
    if size:
        now(bench.engine.write(opened.fh, 0, b"x" * size))
    bench.engine.release(opened.fh)
    return attr.ino


def usage(bench: Bench, path: str = TREE.path) -> tuple[int, int]:
    project = bench.engine.tables.inode(find(bench, *path.encode().split(b"/")[1:])).project
    held = bench.engine.quotas.usage[project]
    return held.bytes, held.files


def counted(bench: Bench, folder: int) -> tuple[int, int]:
    """What a tree holds, by a walk."""
    seen: dict[int, int] = {}
    pending = [folder]
    while pending:
        record = bench.engine.tables.inode(pending.pop())
        if record.ino in seen:
            continue
        seen[record.ino] = record.size if stat.S_ISREG(record.mode) else 0
        if stat.S_ISDIR(record.mode):
            pending += [ino for _, ino, _, _ in bench.engine.tables.listed(record.ino, 0, None)]
    return sum(seen.values()), len(seen)


def test_a_directory_of_a_quota_is_made(bench: Bench) -> None:
    assert usage(bench) == (0, 1)
    assert stat.S_ISDIR(bench.engine.getattr(tree(bench)).mode)


def test_bytes_are_refused_before_they_are_too_many(bench: Bench) -> None:
    ino = make(bench, tree(bench), b"f", 9_000)
    fh = bench.open(ino, os.O_RDWR)
    with fails(errno.EDQUOT):
        bench.engine.write(fh, 9_000, b"x" * 1_001)
    assert now(bench.engine.write(fh, 9_000, b"x" * 1_000)) == 1_000
    assert now(bench.engine.write(fh, 0, b"y" * 10_000)) == 10_000, "nothing more than there was"
    with fails(errno.EDQUOT):
        bench.engine.setattr(ino, SetAttr(size=10_001), None, ME)
    with fails(errno.EDQUOT):
        bench.engine.fallocate(fh, 0, 0, 20_000)
    assert usage(bench) == (10_000, 2)
    now(bench.engine.setattr(ino, SetAttr(size=0), None, ME))
    assert usage(bench) == (0, 2)
    bench.engine.release(fh)


def test_files_of_every_type_count_and_come_back_when_removed(bench: Bench) -> None:
    engine, folder = bench.engine, tree(bench)
    make(bench, folder, b"f", 100)
    engine.mkdir(folder, b"d", 0o755, ME)
    engine.symlink(folder, b"s", b"to", ME)
    inner = find(bench, b"a", b"b", b"d")
    engine.mknod(inner, b"p", stat.S_IFIFO | 0o644, 0, ME)
    assert usage(bench) == (100, 5)
    for attempt in (
        lambda: engine.create(folder, b"g", 0o644, os.O_RDWR, ME),
        lambda: engine.mkdir(inner, b"g", 0o755, ME),
        lambda: engine.symlink(inner, b"g", b"to", ME),
        lambda: engine.tmpfile(folder, 0o644, os.O_RDWR, ME),
    ):
        with fails(errno.EDQUOT):
            attempt()
    engine.link(find(bench, b"a", b"b", b"f"), folder, b"second name")
    engine.unlink(folder, b"f")
    assert usage(bench) == (100, 5)
    engine.unlink(folder, b"second name")
    engine.unlink(inner, b"p")
    engine.rmdir(folder, b"d")
    engine.unlink(folder, b"s")
    assert usage(bench) == (0, 1)
    assert counted(bench, folder) == (0, 1)


def test_names_do_not_cross_the_border(bench: Bench) -> None:
    engine, folder = bench.engine, tree(bench)
    inside, outside = make(bench, folder, b"in"), make(bench, 1, b"out")
    for attempt in (
        lambda: engine.rename(1, b"out", folder, b"x"),
        lambda: engine.rename(folder, b"in", 1, b"x"),
        lambda: engine.rename(folder, b"in", 1, b"out", RENAME_EXCHANGE),
        lambda: engine.link(outside, folder, b"x"),
        lambda: engine.link(inside, 1, b"x"),
    ):
        with fails(errno.EXDEV):
            attempt()
    engine.rename(folder, b"in", folder, b"still in")


def test_usage_is_kept_over_a_crash(bench: Bench) -> None:
    make(bench, tree(bench), b"f", 700)
    bench.executor.advance(1.0)
    bench.reopen()
    assert usage(bench) == (700, 2)


def test_data_that_was_ahead_of_a_crash_is_counted(bench: Bench) -> None:
    ino = make(bench, tree(bench), b"f", 700)
    bench.executor.advance(1.0)
    fh = bench.open(ino, os.O_RDWR)
    bench.executor.advance(1.0)
    now(bench.engine.write(fh, 700, b"x" * 300))
    bench.reopen()
    assert usage(bench) == (1_000, 2)


def test_what_is_there_is_counted_when_a_quota_comes(bench: Bench) -> None:
    make(bench, tree(bench), b"f", 700)
    ino = bench.engine.mkdir(tree(bench), b"inner", 0o755, ME).ino
    make(bench, ino, b"g", 50)
    make(bench, 1, b"outside", 9)
    bench.executor.advance(1.0)
    bench.quotas = (TREE, Limit("a/b/inner/", 0, 3))
    bench.reopen()
    assert usage(bench) == (700, 2), "an inner tree counts for itself"
    assert usage(bench, "/a/b/inner") == (50, 2)
    make(bench, find(bench, b"a", b"b", b"inner"), b"h", 50_000)
    with fails(errno.EDQUOT):
        make(bench, find(bench, b"a", b"b", b"inner"), b"i")


def test_the_bound_may_change_and_go(bench: Bench) -> None:
    make(bench, tree(bench), b"f", 9_000)
    bench.executor.advance(1.0)
    bench.quotas = (Limit("/a/b", 100, 0),)
    bench.reopen()
    with fails(errno.EDQUOT):
        make(bench, tree(bench), b"g", 1)
    bench.executor.advance(1.0)
    bench.quotas = ()
    bench.reopen()
    fh = bench.open(find(bench, b"a", b"b", b"g"), os.O_RDWR)
    assert now(bench.engine.write(fh, 0, b"x" * 50_000)) == 50_000
    bench.engine.release(fh)
    assert usage(bench) == (59_000, 3)


def test_a_quota_on_a_file_is_refused(bench: Bench) -> None:
    make(bench, tree(bench), b"f")
    bench.executor.advance(1.0)
    bench.quotas = (Limit("/a/b/f", 1, 1),)
    with pytest.raises(CallerError, match=r"/a/b/f: found a file, expected a directory"):
        bench.reopen()


NAMES = [b"a", b"b", b"c"]


def step(engine: Engine, chance: random.Random) -> None:
    """One random operation that may fail."""
    folders = [1]
    for path in ((b"a",), (b"a", b"b"), (b"a", b"b", b"c")):
        try:
            folders.append(engine.lookup(folders[-1], path[-1]).ino)
        except FsError:
            break
    folder, other = chance.choice(folders), chance.choice(folders)
    name = chance.choice(NAMES)
    match chance.randrange(8):
        case 0 | 1:
            opened, _ = engine.create(folder, name, 0o644, os.O_RDWR, ME)
            try:
                engine.write(opened.fh, chance.randrange(900), b"x" * chance.randrange(3_000))
            finally:
                engine.release(opened.fh)
        case 2:
            engine.mkdir(folder, name, 0o755, ME)
        case 3:
            engine.unlink(folder, name)
        case 4:
            # The tree itself stays where the configuration has it.
            names = [b"c", b"d"] if folder in folders[:2] or other in folders[:2] else NAMES
            engine.rename(folder, chance.choice(names), other, chance.choice(names))
        case 5:
            ino = engine.lookup(folder, name).ino
            engine.setattr(ino, SetAttr(size=chance.randrange(5_000)), None, ME)
        case 6:
            engine.link(engine.lookup(folder, name).ino, other, chance.choice(NAMES))
        case 7:
            opened = now(engine.open(engine.lookup(folder, name).ino, os.O_RDWR | os.O_TRUNC, ME))
            engine.release(opened.fh)


@given(seed=st.integers(0, 1 << 32))
def test_usage_is_always_what_a_walk_counts(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    chance = random.Random(seed)
    bench = Bench(tmp_path_factory.mktemp("quota"), quotas=(TREE,))
    for _ in range(60):
        try:
            step(bench.engine, chance)
        except (FsError, AssertionError):
            continue
        if chance.random() < 0.05:
            bench.executor.advance(1.0)
            bench.reopen()
        held = usage(bench)
        assert held == counted(bench, tree(bench))
        assert held[0] <= TREE.bytes_max and held[1] <= TREE.files_max
    bench.engine.close()


def test_statfs_below_a_quota_shows_what_it_leaves(bench: Bench) -> None:
    folder = tree(bench)
    make(bench, folder, b"f", 5000)
    whole, facts = bench.engine.statfs(), bench.engine.statfs(folder)
    assert (facts.f_blocks, facts.f_bfree, facts.f_bavail) == (2, 1, 1)
    # The directory itself counts, as everywhere.
    assert (facts.f_files, facts.f_ffree, facts.f_favail) == (5, 3, 3)
    assert whole.f_blocks > facts.f_blocks and whole.f_files > facts.f_files
    assert bench.engine.statfs(find(bench, b"a")).f_blocks == whole.f_blocks


def test_statfs_below_a_quota_larger_than_the_tier_shows_the_tier(tmp_path: Path) -> None:
    made = Bench(tmp_path / "cache", 1 << 20, quotas=(Limit("/a", 1 << 60, 1 << 60),))
    assert made.engine.statfs(find(made, b"a")) == made.engine.statfs()
    made.engine.close()
