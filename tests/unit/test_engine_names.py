"""Names and attributes as the engine keeps them: links, renames, xattrs, listings."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.engines import HEAD, ME, Bench, now

from hsmfs.errors import FsError
from hsmfs.namespace.engine import RENAME_EXCHANGE, RENAME_NOREPLACE, Caller, SetAttr

USER = Caller(uid=1000, gid=100, pid=0, umask=0o027)


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


def names(bench: Bench, ino: int) -> list[bytes]:
    fh = bench.engine.opendir(ino)
    found = [name for name, _, _ in bench.engine.readdir(fh, 0, 10_000)]
    bench.engine.releasedir(fh)
    assert found[:2] == [b".", b".."]
    return found[2:]


# -- links -----------------------------------------------------------------------


def test_all_links_are_the_same_file(bench: Bench) -> None:
    ino = bench.make(b"f", b"data").ino
    folder = bench.engine.mkdir(1, b"d", 0o755, ME).ino
    assert bench.engine.link(ino, folder, b"g").nlink == 2
    assert bench.engine.lookup(folder, b"g").ino == ino
    bench.engine.unlink(1, b"f")
    assert bench.engine.getattr(ino).nlink == 1 and bench.content(ino) == b"data"
    with fails(errno.EEXIST):
        bench.engine.link(ino, folder, b"g")
    with fails(errno.EPERM):
        bench.engine.link(folder, 1, b"e")
    bench.engine.unlink(folder, b"g")
    with fails(errno.ESTALE):
        bench.engine.getattr(ino)


def test_symbolic_links_keep_their_target(bench: Bench) -> None:
    attr = bench.engine.symlink(1, b"s", b"../any\xff", USER)
    assert attr.mode == stat.S_IFLNK | 0o777 and attr.size == 7 and attr.uid == 1000
    assert bench.engine.readlink(attr.ino) == b"../any\xff"
    with fails(errno.EINVAL):
        bench.engine.readlink(1)
    with fails(errno.ENAMETOOLONG):
        bench.engine.symlink(1, b"t", b"x" * 4096, USER)
    bench.engine.unlink(1, b"s")
    with fails(errno.ESTALE):
        bench.engine.readlink(attr.ino)


def test_special_files_keep_what_they_are(bench: Bench) -> None:
    made = bench.engine.mknod(1, b"tty", stat.S_IFCHR | 0o666, 0x0501, USER)
    assert made.mode == stat.S_IFCHR | 0o640 and made.rdev == 0x0501
    with fails(errno.EPERM):
        bench.engine.mknod(1, b"d", stat.S_IFDIR | 0o755, 0, USER)
    with fails(errno.EEXIST):
        bench.engine.create(1, b"tty", 0o644, os.O_RDWR | os.O_EXCL, USER)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b"])
def test_what_is_no_name_is_refused(bench: Bench, name: bytes) -> None:
    with fails(errno.EINVAL):
        bench.engine.mkdir(1, name, 0o755, ME)


def test_names_have_255_bytes_at_most(bench: Bench) -> None:
    bench.engine.mkdir(1, b"n" * 255, 0o755, ME)
    assert names(bench, 1) == [b"n" * 255]
    for call in (
        lambda: bench.engine.mkdir(1, b"n" * 256, 0o755, ME),
        lambda: bench.engine.lookup(1, b"n" * 256),
        lambda: bench.engine.rename(1, b"n" * 255, 1, b"n" * 256),
    ):
        with fails(errno.ENAMETOOLONG):
            call()


def test_a_set_gid_directory_hands_down_its_group(bench: Bench) -> None:
    folder = bench.engine.mkdir(1, b"d", 0o755, ME).ino
    now(bench.engine.setattr(folder, SetAttr(mode=0o2775, gid=77), None, ME))
    below = bench.engine.mkdir(folder, b"e", 0o755, USER)
    _, file = bench.engine.create(folder, b"f", 0o644, os.O_RDWR, USER)
    assert below.gid == file.gid == 77
    assert below.mode & stat.S_ISGID and not file.mode & stat.S_ISGID


def test_set_id_bits_do_not_survive_a_new_owner(bench: Bench) -> None:
    ino = bench.make(b"f", b"#!").ino
    now(bench.engine.setattr(ino, SetAttr(mode=0o6755), None, ME))
    changed = now(bench.engine.setattr(ino, SetAttr(uid=5, gid=6), None, ME))
    assert (changed.uid, changed.gid, stat.S_IMODE(changed.mode)) == (5, 6, 0o755)


# -- directories -------------------------------------------------------------------


def test_directories_count_their_children(bench: Bench) -> None:
    outer = bench.engine.mkdir(1, b"d", 0o755, ME).ino
    inner = bench.engine.mkdir(outer, b"e", 0o755, ME).ino
    assert bench.engine.getattr(outer).nlink == 3
    assert bench.engine.lookup(inner, b"..").ino == outer
    assert bench.engine.lookup(inner, b".").ino == inner
    assert bench.engine.lookup(1, b"..").ino == 1
    with fails(errno.ENOTEMPTY):
        bench.engine.rmdir(1, b"d")
    bench.engine.rename(outer, b"e", 1, b"e")
    assert bench.engine.getattr(outer).nlink == 2 and bench.engine.getattr(1).nlink == 4
    assert bench.engine.lookup(inner, b"..").ino == 1
    fh = bench.engine.opendir(outer)
    bench.engine.rmdir(1, b"d")
    assert bench.engine.readdir(fh, 0, 100) == []
    with fails(errno.ESTALE):
        bench.engine.mkdir(outer, b"x", 0o755, ME)


def test_a_listing_goes_on_where_it_stood(bench: Bench) -> None:
    for number in range(20):
        bench.engine.mkdir(1, b"%02d" % number, 0o755, ME)
    fh, cookie, found, cookies = bench.engine.opendir(1), 0, [], []
    while entries := bench.engine.readdir(fh, cookie, 3):
        found += [name for name, _, _ in entries]
        cookies += [number for _, number, _ in entries]
        cookie = entries[-1][1]
        if len(found) == 9:
            bench.engine.rmdir(1, b"00")
            bench.engine.rmdir(1, b"15")
            bench.engine.rename(1, b"16", 1, b"zz")
            bench.engine.mkdir(1, b"new", 0o755, ME)
    expected = {b"%02d" % n for n in range(20)} - {b"15", b"16"}
    assert len(found) == len(set(found)) and expected <= set(found)
    assert b"new" not in found
    assert [n for n, _, _ in bench.engine.readdir(fh, cookies[10], 2)] == found[11:13]
    assert b"zz" in names(bench, 1) and b"00" not in names(bench, 1)
    bench.engine.releasedir(fh)
    with fails(errno.EBADF):
        bench.engine.readdir(fh, 0, 1)
    with fails(errno.ENOTDIR):
        bench.engine.opendir(bench.make(b"f", b"").ino)


# -- renames -----------------------------------------------------------------------


def test_a_rename_replaces_and_the_replaced_lives_while_open(bench: Bench) -> None:
    old, new = bench.make(b"f", b"old").ino, bench.make(b"g", b"new").ino
    fh = bench.open(old)
    bench.engine.rename(1, b"g", 1, b"f")
    assert names(bench, 1) == [b"f"] and bench.attr(b"f").ino == new
    assert now(bench.engine.read(fh, 0, 10)) == b"old"
    bench.engine.release(fh)
    with fails(errno.ESTALE):
        bench.engine.getattr(old)


def test_rename_flags(bench: Bench) -> None:
    first, folder = bench.make(b"f", b"1").ino, bench.engine.mkdir(1, b"d", 0o755, ME).ino
    inner = bench.make(b"g", b"2").ino
    bench.engine.rename(1, b"g", folder, b"g", RENAME_NOREPLACE)
    with fails(errno.EEXIST):
        bench.engine.rename(1, b"f", folder, b"g", RENAME_NOREPLACE)
    with fails(errno.ENOENT):
        bench.engine.rename(1, b"f", folder, b"none", RENAME_EXCHANGE)
    for flags in (RENAME_NOREPLACE | RENAME_EXCHANGE, 4):
        with fails(errno.EINVAL):
            bench.engine.rename(1, b"f", 1, b"h", flags)
    bench.engine.rename(1, b"f", folder, b"g", RENAME_EXCHANGE)
    assert bench.attr(b"f").ino == inner and bench.engine.lookup(folder, b"g").ino == first
    with fails(errno.EINVAL):
        bench.engine.rename(folder, b"g", 1, b"d", RENAME_EXCHANGE)


def test_links_of_one_file_are_not_renamed_over_each_other(bench: Bench) -> None:
    ino = bench.make(b"f", b"1").ino
    bench.engine.link(ino, 1, b"g")
    bench.engine.rename(1, b"f", 1, b"g")
    bench.engine.rename(1, b"f", 1, b"g", RENAME_EXCHANGE)
    assert names(bench, 1) == [b"f", b"g"] and bench.engine.getattr(ino).nlink == 2


# -- extended attributes -------------------------------------------------------------


def test_extended_attributes_are_stored_as_they_are(bench: Bench) -> None:
    ino = bench.make(b"f", b"").ino
    engine = bench.engine
    engine.setxattr(ino, b"user.a", b"\0\xff")
    engine.setxattr(ino, b"security.b", b"")
    engine.setxattr(ino, b"user.big", bytes(65_536))
    assert (
        engine.getxattr(ino, b"user.a") == b"\0\xff" and engine.getxattr(ino, b"security.b") == b""
    )
    assert engine.listxattr(ino) == [b"security.b", b"user.a", b"user.big"]
    for name, value, flags, number in (
        (b"user.a", b"", 1, errno.EEXIST),
        (b"user.n", b"", 2, errno.ENODATA),
        (b"other.n", b"", 0, errno.EOPNOTSUPP),
        (b"user." + b"n" * 251, b"", 0, errno.ERANGE),
        (b"user.n", bytes(65_537), 0, errno.E2BIG),
    ):
        with fails(number):
            engine.setxattr(ino, name, value, flags)
    engine.setxattr(ino, b"user.a", b"2", 2)
    engine.removexattr(ino, b"user.big")
    for call in (engine.getxattr, engine.removexattr):
        with fails(errno.ENODATA):
            call(ino, b"user.big")
    engine.unlink(1, b"f")
    assert not list(engine.tables.kv.scan(b"X", b"Y"))


def test_what_tells_of_residency_is_for_who_asks_by_name(bench: Bench) -> None:
    ino = bench.stub(b"f", bytes(3 * HEAD)).ino
    engine = bench.engine
    assert engine.listxattr(ino) == []
    asked = (b"state", b"copies", b"volumes", b"pin")
    told = [engine.getxattr(ino, b"user.hsm." + name) for name in asked]
    assert told == [b"migrated", b"2", b"v1", b"0"]
    assert engine.getxattr(ino, b"user.DOSATTRIB") == b"0x1000"
    assert engine.getattr(ino).blocks == HEAD // 512
    for name, value, number in (
        (b"user.hsm.state", b"resident", errno.EPERM),
        (b"user.hsm.pin", b"maybe", errno.EINVAL),
    ):
        with fails(number):
            engine.setxattr(ino, name, value)
    for name, number in (
        (b"user.hsm.recall", errno.ENODATA),
        (b"\0hsm.volumes", errno.EOPNOTSUPP),
    ):
        with fails(number):
            engine.getxattr(ino, name)
    engine.setxattr(ino, b"user.hsm.pin", b"1\n")
    assert engine.getxattr(ino, b"user.hsm.pin") == b"1"
    engine.removexattr(ino, b"user.hsm.pin")
    assert engine.getxattr(ino, b"user.hsm.pin") == b"0"
