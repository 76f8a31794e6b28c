"""Files as the engine serves them: data, links, attributes, space."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.engines import ME, Bench, now

from hsmfs.errors import FsError
from hsmfs.namespace.engine import Attr, SetAttr
from hsmfs.namespace.model import SIZE_MAX

DAY_S = 86_400


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "cache")
    yield made
    made.engine.close()


@contextmanager
def fails(number: int) -> Iterator[None]:
    with pytest.raises(FsError) as caught:
        yield
    assert errno.errorcode[caught.value.errno] == errno.errorcode[number]


def set_size(bench: Bench, ino: int, size: int) -> Attr:
    return now(bench.engine.setattr(ino, SetAttr(size=size), None, ME))


# -- data ------------------------------------------------------------------------


def test_what_was_written_is_read_in_any_pieces(bench: Bench) -> None:
    opened, attr = bench.engine.create(1, b"f", 0o666, os.O_RDWR, ME)
    assert attr.mode == stat.S_IFREG | 0o644 and attr.size == 0 and attr.nlink == 1
    assert now(bench.engine.write(opened.fh, 3, b"def")) == 3
    assert now(bench.engine.write(opened.fh, 0, b"abc")) == 3
    assert now(bench.engine.read(opened.fh, 0, 100)) == b"abcdef"
    assert now(bench.engine.read(opened.fh, 2, 2)) == b"cd"
    assert now(bench.engine.read(opened.fh, 6, 1)) == b""
    assert now(bench.engine.read(opened.fh, 1 << 40, 1)) == b""
    assert bench.engine.getattr(attr.ino).size == 6


def test_holes_read_as_zeros_and_are_found(bench: Bench) -> None:
    opened, attr = bench.engine.create(1, b"f", 0o644, os.O_RDWR, ME)
    now(bench.engine.write(opened.fh, 1 << 20, b"end"))
    assert bench.engine.getattr(attr.ino).size == (1 << 20) + 3
    assert now(bench.engine.read(opened.fh, (1 << 20) - 2, 4)) == b"\0\0en"
    assert bench.engine.lseek(opened.fh, 0, os.SEEK_DATA) == 1 << 20
    assert bench.engine.lseek(opened.fh, 0, os.SEEK_HOLE) == 0
    assert bench.engine.lseek(opened.fh, 1 << 20, os.SEEK_HOLE) == (1 << 20) + 3
    with fails(errno.ENXIO):
        bench.engine.lseek(opened.fh, (1 << 20) + 3, os.SEEK_DATA)


def test_truncate_cuts_and_grows_with_zeros(bench: Bench) -> None:
    ino = bench.make(b"f", b"abcdef").ino
    assert set_size(bench, ino, 2).size == 2
    assert set_size(bench, ino, 5).size == 5
    assert bench.content(ino) == b"ab\0\0\0"
    assert set_size(bench, ino, 0).size == 0 and bench.content(ino) == b""


def test_truncate_is_refused_where_it_makes_no_sense(bench: Bench) -> None:
    folder = bench.engine.mkdir(1, b"d", 0o755, ME).ino
    fifo = bench.engine.mknod(1, b"p", stat.S_IFIFO | 0o644, 0, ME).ino
    file = bench.make(b"f", b"data").ino
    with fails(errno.EISDIR):
        set_size(bench, folder, 0)
    with fails(errno.EINVAL):
        set_size(bench, fifo, 0)
    with fails(errno.EFBIG):
        set_size(bench, file, SIZE_MAX + 1)
    reading = bench.open(file)
    with fails(errno.EINVAL):
        bench.engine.setattr(file, SetAttr(size=0), reading, ME)
    assert bench.content(file) == b"data"


@pytest.mark.parametrize("way", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_opening_with_o_trunc_empties(bench: Bench, way: int) -> None:
    """For reading too, as Linux does it: the kernel has checked the right to write."""
    ino = bench.make(b"f", b"data").ino
    bench.engine.release(bench.open(ino, way | os.O_TRUNC))
    assert bench.content(ino) == b""


def test_handles_do_only_what_they_were_opened_for(bench: Bench) -> None:
    ino = bench.make(b"f", b"data").ino
    reading, writing = bench.open(ino), bench.open(ino, os.O_WRONLY)
    with fails(errno.EBADF):
        bench.engine.write(reading, 0, b"x")
    with fails(errno.EBADF):
        bench.engine.fallocate(reading, 0, 0, 10)
    with fails(errno.EBADF):
        bench.engine.read(writing, 0, 1)
    bench.engine.flush(writing)
    bench.engine.release(writing)
    for call in (bench.engine.flush, lambda fh: bench.engine.fsync(fh, False)):
        with fails(errno.EBADF):
            call(writing)
    bench.engine.release(writing)
    with fails(errno.EISDIR):
        bench.engine.open(1, os.O_RDONLY, ME)
    with fails(errno.ESTALE):
        bench.engine.open(12345, os.O_RDONLY, ME)


def test_a_write_beyond_the_largest_size_is_refused(bench: Bench) -> None:
    fh = bench.open(bench.make(b"f", b"").ino, os.O_RDWR)
    with fails(errno.EFBIG):
        bench.engine.write(fh, SIZE_MAX, b"x")


def test_fallocate_grows_keeps_and_punches(bench: Bench) -> None:
    ino = bench.make(b"f", b"x" * 8192).ino
    fh = bench.open(ino, os.O_RDWR)
    bench.engine.fallocate(fh, 1, 0, 20_000)
    assert bench.engine.getattr(ino).size == 8192
    bench.engine.fallocate(fh, 0, 0, 20_000)
    assert bench.engine.getattr(ino).size == 20_000
    bench.engine.fallocate(fh, 1 | 2, 0, 4096)
    assert bench.content(ino) == bytes(4096) + b"x" * 4096 + bytes(20_000 - 8192)
    for offset, length in ((-1, 10), (0, 0)):
        with fails(errno.EINVAL):
            bench.engine.fallocate(fh, 0, offset, length)
    with fails(errno.EOPNOTSUPP):
        bench.engine.fallocate(fh, 8, 0, 4096)


def test_copy_file_range_copies_what_there_is(bench: Bench) -> None:
    source = bench.open(bench.make(b"f", b"0123456789").ino)
    target = bench.make(b"g", b"....").ino
    fh = bench.open(target, os.O_RDWR)
    assert now(bench.engine.copy_file_range(source, 4, fh, 2, 100)) == 6
    assert now(bench.engine.copy_file_range(source, 10, fh, 0, 100)) == 0
    assert bench.content(target) == b"..456789"


def test_an_unlinked_file_lives_as_long_as_it_is_open(bench: Bench) -> None:
    ino = bench.make(b"f", b"data").ino
    fh = bench.open(ino, os.O_RDWR)
    bench.engine.unlink(1, b"f")
    assert bench.engine.getattr(ino).nlink == 0
    assert now(bench.engine.write(fh, 4, b"+")) == 1
    now(bench.engine.fsync(fh, False))
    second = bench.open(ino)
    bench.engine.release(fh)
    assert now(bench.engine.read(second, 0, 10)) == b"data+"
    with fails(errno.ENOENT):
        bench.engine.link(ino, 1, b"again")
    bench.engine.release(second)
    with fails(errno.ESTALE):
        bench.engine.getattr(ino)
    bench.executor.advance(1)
    assert not os.path.exists(bench.engine.tier.path(ino))


def test_a_crash_ends_files_that_were_only_open(bench: Bench) -> None:
    ino = bench.make(b"f", b"data").ino
    bench.open(ino)
    bench.engine.unlink(1, b"f")
    now(bench.engine.syncfs())
    bench.reopen()
    with fails(errno.ESTALE):
        bench.engine.getattr(ino)
    assert not os.path.exists(bench.engine.tier.path(ino))
    assert bench.engine.tables.counters.files == [0, 0, 0, 0]


# -- space -----------------------------------------------------------------------


def test_the_capacity_bounds_what_is_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "cache", capacity_bytes=1 << 20)
    assert bench.engine.statfs().f_blocks == 256
    ino = bench.make(b"f", bytes(1 << 19)).ino
    assert bench.engine.statfs().f_bavail <= 128
    fh = bench.open(ino, os.O_RDWR)
    with fails(errno.ENOSPC):
        bench.engine.write(fh, 1 << 19, bytes((1 << 19) + 1))
    assert bench.engine.getattr(ino).size == 1 << 19
    with fails(errno.ENOSPC):
        bench.engine.fallocate(fh, 0, 1 << 19, 1 << 20)
    assert now(bench.engine.write(fh, 1 << 19, bytes(1 << 19))) == 1 << 19
    assert bench.engine.statfs().f_bavail == 0
    bench.engine.release(fh)
    bench.engine.unlink(1, b"f")
    assert bench.engine.statfs().f_bavail == min(256, bench.engine.tier.space().free // 4096)
    bench.make(b"g", bytes(1 << 19))


def test_statfs_tells_of_the_disk_without_a_capacity(bench: Bench) -> None:
    facts = bench.engine.statfs()
    assert 0 < facts.f_bavail <= facts.f_blocks and facts.f_namemax == 255


# -- times -----------------------------------------------------------------------


def atime_after_read(bench: Bench, ino: int, flags: int = os.O_RDONLY) -> int:
    fh = bench.open(ino, flags)
    now(bench.engine.read(fh, 0, 1))
    bench.engine.release(fh)
    return bench.engine.getattr(ino).atime_ns


def test_access_times_are_those_of_relatime(bench: Bench) -> None:
    ino = bench.make(b"f", b"data").ino
    bench.clock.advance(10)
    first = bench.clock.now_ns()
    assert atime_after_read(bench, ino, os.O_NOATIME) < first
    assert atime_after_read(bench, ino) == first
    bench.clock.advance(10)
    assert atime_after_read(bench, ino) == first
    bench.clock.advance(DAY_S + 1)
    assert atime_after_read(bench, ino) == bench.clock.now_ns()
    bench.clock.advance(10)
    set_size(bench, ino, 2)
    assert atime_after_read(bench, ino) == bench.clock.now_ns()


def test_changes_of_data_and_of_attributes_have_their_times(bench: Bench) -> None:
    ino = bench.make(b"f", b"data").ino
    made = bench.engine.getattr(ino)
    bench.clock.advance(5)
    changed = now(bench.engine.setattr(ino, SetAttr(mode=0o600), None, ME))
    assert changed.mode == stat.S_IFREG | 0o600
    assert changed.mtime_ns == made.mtime_ns and changed.ctime_ns == bench.clock.now_ns()
    assert set_size(bench, ino, 1).mtime_ns == bench.clock.now_ns()
    set_by_user = now(bench.engine.setattr(ino, SetAttr(atime_ns=-5, mtime_ns=7), None, ME))
    assert (set_by_user.atime_ns, set_by_user.mtime_ns) == (-5, 7)
    assert set_by_user.btime_ns == made.btime_ns
    now(bench.engine.syncfs())
    bench.reopen()
    assert bench.engine.getattr(ino) == set_by_user
