"""Imported trees in the namespace: made and removed in batches, changed by nobody."""

from __future__ import annotations

import errno
import gzip
import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from support.engines import ME, Bench, now

from hsmfs.daemon.namespaceset import write_set
from hsmfs.errors import FsError
from hsmfs.namespace.model import Limit, SetAttr
from hsmfs.rpc.messages import IMPORT_BATCH_MAX, ImportAdd, ImportBegin, ImportEntry
from hsmfs.types import FileVersion

LABEL = "OLD-1"
WHEN_NS = 981_173_106_000_000_000


def entry(path: str, kind: int = stat.S_IFREG, size: int = 7, target: bytes = b"") -> ImportEntry:
    mode = kind | (0o555 if kind == stat.S_IFDIR else 0o444)
    return ImportEntry(path.encode(), mode, 5, 6, size, WHEN_NS, WHEN_NS + 1, WHEN_NS + 2, target)


ENTRIES = [
    entry("file"),
    entry("link", stat.S_IFLNK, target=b"file"),
    entry("d", stat.S_IFDIR),
    entry("d/e", stat.S_IFDIR),
    *(entry(f"d/e/{n}", size=n) for n in range(20)),
    entry("d/last", size=0),
]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def begin(bench: Bench, path: bytes = b"old") -> int:
    return now(bench.engine.imports.begin(ImportBegin(LABEL, path))).ino


def add(bench: Bench, entries: list[ImportEntry]) -> list[FileVersion]:
    results = now(bench.engine.imports.add(ImportAdd(LABEL, entries)))
    assert [result.refused for result in results if result.refused] == []
    return [result.file for result in results]


def imported(bench: Bench) -> dict[str, int]:
    """Inodes by path."""
    begin(bench)
    files = add(bench, ENTRIES)
    now(bench.engine.imports.end(LABEL))
    return {os.fsdecode(one.path): file.ino for one, file in zip(ENTRIES, files, strict=True)}


def walk(bench: Bench, ino: int, path: str = "") -> dict[str, int]:
    found = {}
    for _, child, kind, name in bench.engine.tables.listed(ino, 0, None):
        found[path + os.fsdecode(name)] = child
        if kind == stat.S_IFDIR:
            found |= walk(bench, child, f"{path}{os.fsdecode(name)}/")
    return found


def test_a_tree_of_stubs(bench: Bench) -> None:
    inodes = imported(bench)
    engine = bench.engine
    root = engine.lookup(1, b"old")
    assert walk(bench, root.ino) == inodes
    attr = engine.getattr(inodes["d/e/7"])
    assert (attr.mode, attr.uid, attr.gid, attr.size) == (stat.S_IFREG | 0o444, 5, 6, 7)
    assert (attr.atime_ns, attr.mtime_ns, attr.ctime_ns) == (WHEN_NS, WHEN_NS + 1, WHEN_NS + 2)
    assert engine.getattr(inodes["d"]).mtime_ns == WHEN_NS + 1
    assert engine.getattr(inodes["d"]).nlink == 3
    assert engine.readlink(inodes["link"]) == b"file"
    assert bench.state(inodes["file"]) == "migrated"
    assert engine.getxattr(inodes["file"], b"user.hsm.volumes") == LABEL.encode()
    assert engine.getxattr(inodes["file"], b"user.hsm.copies") == b"1"
    bench.recall(FileVersion(inodes["file"], 1), b"content")
    assert bench.content(inodes["file"]) == b"content"
    assert bench.state(inodes["file"]) == "premigrated"
    bench.reopen()
    assert walk(bench, root.ino) == inodes
    assert bench.content(inodes["file"]) == b"content"


def refusals(bench: Bench, inodes: dict[str, int], root: int) -> dict[str, Callable[[], object]]:
    engine, folder, file = bench.engine, inodes["d"], inodes["file"]
    mine = bench.make(b"mine", b"x").ino
    return {
        "create": lambda: engine.create(folder, b"n", 0o644, os.O_RDWR, ME),
        "create there": lambda: engine.create(root, b"file", 0o644, os.O_RDWR, ME),
        "mknod": lambda: engine.mknod(folder, b"n", stat.S_IFIFO, 0, ME),
        "mkdir": lambda: engine.mkdir(folder, b"n", 0o755, ME),
        "mkdir in root": lambda: engine.mkdir(root, b"n", 0o755, ME),
        "symlink": lambda: engine.symlink(folder, b"n", b"x", ME),
        "tmpfile": lambda: engine.tmpfile(folder, 0o644, os.O_RDWR, ME),
        "link in": lambda: engine.link(mine, folder, b"n"),
        "link out": lambda: engine.link(file, 1, b"n"),
        "unlink": lambda: engine.unlink(root, b"file"),
        "rmdir": lambda: engine.rmdir(inodes["d"], b"e"),
        "rmdir root": lambda: engine.rmdir(1, b"old"),
        "rename": lambda: engine.rename(root, b"file", root, b"n"),
        "rename in": lambda: engine.rename(1, b"mine", root, b"n"),
        "rename out": lambda: engine.rename(root, b"file", 1, b"n"),
        "exchange": lambda: engine.rename(1, b"mine", root, b"file", 2),
        "open for writing": lambda: engine.open(file, os.O_WRONLY, ME),
        "open and empty": lambda: engine.open(file, os.O_RDONLY | os.O_TRUNC, ME),
        "truncate": lambda: engine.setattr(file, SetAttr(size=0), None, ME),
        "chmod": lambda: engine.setattr(folder, SetAttr(mode=0o777), None, ME),
        "utimes": lambda: engine.setattr(root, SetAttr(mtime_ns=1), None, ME),
        "setxattr": lambda: engine.setxattr(file, b"user.x", b"1"),
        "removexattr": lambda: engine.removexattr(file, b"user.x"),
    }


def test_nobody_changes_it(bench: Bench) -> None:
    inodes = imported(bench)
    root = bench.engine.lookup(1, b"old").ino
    for what, act in refusals(bench, inodes, root).items():
        with pytest.raises(FsError) as error:
            act()
        assert error.value.errno == errno.EROFS, what
    assert walk(bench, root) == inodes
    bench.engine.setxattr(inodes["file"], b"user.hsm.pin", b"1")
    bench.engine.rename(1, b"old", 1, b"renamed")
    assert walk(bench, bench.engine.lookup(1, b"renamed").ino) == inodes


@pytest.mark.parametrize("cut", range(len(ENTRIES) + 3))
def test_a_cut_import_is_finished_by_doing_it_again(bench: Bench, cut: int) -> None:
    """After a kill at each step: nothing twice, and no file is opened before the end."""
    begin(bench)
    if cut:
        add(bench, ENTRIES[: cut - 1])
    bench.reopen()
    root = begin(bench)
    files = add(bench, ENTRIES)
    with pytest.raises(FsError) as error:
        bench.open(files[0].ino)
    assert error.value.errno == errno.EBUSY
    bench.reopen()
    assert files == add(bench, ENTRIES)
    now(bench.engine.imports.end(LABEL))
    bench.reopen()
    assert begin(bench) == root
    assert sorted(walk(bench, root).values()) == sorted(file.ino for file in files)
    bench.engine.release(bench.open(files[0].ino))


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_forgetting_in_batches(bench: Bench, cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inodes = imported(bench)
    kept = bench.make(b"kept", b"x")
    before = bench.engine.status().states
    bench.recall(FileVersion(inodes["d/e/7"], 1), b"7654321")
    monkeypatch.setattr("hsmfs.namespace.imports.IMPORT_BATCH_MAX", 7)
    for _ in range(cut):
        assert now(bench.engine.imports.forget(LABEL)).more
    bench.reopen()
    while now(bench.engine.imports.forget(LABEL)).more:
        with pytest.raises(FsError):
            bench.open(inodes["d/last"])
    assert now(bench.engine.imports.forget(LABEL)).more is False  # it is forgotten already
    with pytest.raises(FsError):
        bench.engine.lookup(1, b"old")
    for ino in inodes.values():
        with pytest.raises(FsError):
            bench.engine.getattr(ino)
    after = bench.engine.status().states
    assert [one.files for one in after] == [1, 0, 0, 0]
    assert before[0] == after[0]
    bench.reopen()
    assert bench.content(kept.ino) == b"x"
    monkeypatch.undo()
    assert imported(bench).keys() == inodes.keys()


def test_an_open_file_outlives_its_tree(bench: Bench) -> None:
    inodes = imported(bench)
    bench.recall(FileVersion(inodes["file"], 1), b"content")
    fh = bench.open(inodes["file"])
    while now(bench.engine.imports.forget(LABEL)).more:
        pass
    assert now(bench.engine.read(fh, 0, 100)) == b"content"
    bench.engine.release(fh)
    with pytest.raises(FsError):
        bench.engine.getattr(inodes["file"])


def test_where_a_tree_may_be(bench: Bench) -> None:
    bench.make(b"file", b"x")
    bench.engine.mkdir(1, b"full", 0o755, ME)
    bench.engine.mkdir(bench.attr(b"full").ino, b"x", 0o755, ME)
    bench.engine.mkdir(1, b"empty", 0o755, ME)
    for path, number in (
        (b"file", errno.ENOTDIR),
        (b"full", errno.ENOTEMPTY),
        (b"no/such", errno.ENOENT),
        (b"", errno.EINVAL),
        (b"file/x", errno.ENOTDIR),
    ):
        with pytest.raises(FsError) as error:
            begin(bench, path)
        assert error.value.errno == number
    assert begin(bench, b"empty") == bench.attr(b"empty").ino
    with pytest.raises(FsError) as error:
        now(bench.engine.imports.begin(ImportBegin("OTHER", b"empty/in")))
    assert error.value.errno == errno.EROFS


def test_bad_entries_are_refused_one_by_one(bench: Bench) -> None:
    begin(bench)
    entries = [
        entry("a/b"),
        entry("a", stat.S_IFIFO),
        entry(".."),
        entry("n" * 256),
        entry("good"),
        entry("good", size=8),
        entry("neg", size=-1),
    ]
    results = now(bench.engine.imports.add(ImportAdd(LABEL, entries)))
    assert [bool(result.refused) for result in results] == [True] * 4 + [False, True, True]
    with pytest.raises(FsError):
        bench.engine.imports.add(ImportAdd(LABEL, [entry("x")] * (IMPORT_BATCH_MAX + 1)))
    with pytest.raises(FsError):
        bench.engine.imports.add(ImportAdd("no such", []))


def test_quotas_count_and_bound_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, quotas=(Limit("/q", bytes_max=100, files_max=10),))
    begin(bench, b"q/old")
    usage = next(iter(bench.engine.quotas.usage.values()))
    before = (usage.bytes, usage.files)
    add(bench, [entry("a", size=60)])
    assert (usage.bytes, usage.files) == (before[0] + 60, before[1] + 1)
    with pytest.raises(FsError) as error:
        bench.engine.imports.add(ImportAdd(LABEL, [entry("b", size=60)]))
    assert error.value.errno == errno.EDQUOT
    while now(bench.engine.imports.forget(LABEL)).more:
        pass
    assert (usage.bytes, usage.files) == (0, before[1] - 1)


def test_sets_of_changes_leave_it_out(bench: Bench, tmp_path: Path) -> None:
    """What a disc of others tells is not told by ours; its directory is."""
    kept = bench.make(b"kept", b"x")
    inodes = imported(bench)
    now(bench.engine.syncfs())
    for since in (0, 1):
        out = tmp_path / f"set{since}.gz"
        with bench.store.snapshot() as reader:
            write_set(reader, since, "site", 1, out)
        lines = gzip.decompress(out.read_bytes()).splitlines()[1:]
        told = {msgspec.json.decode(line)["ino"] for line in lines}
        assert not told & set(inodes.values())
        assert bench.engine.lookup(1, b"old").ino in told
        assert since or kept.ino in told
