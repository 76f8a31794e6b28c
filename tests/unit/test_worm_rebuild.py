"""Retention, holds and the audit log on discs, and what a rebuild makes of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engines import ME, Bench, now
from support.volumes import SITE, burn, stopped_system
from support.worms import DAY_S, fails, make, pass_time, tree_of, verified

from hsmfs.daemon.namespaceset import LOG_NAME, SetLog, write_log, write_set
from hsmfs.daemon.ownfiles import NAMESPACE_NAME
from hsmfs.fsck.findings import Summary
from hsmfs.namespace.wormrows import Head, entry_key
from hsmfs.namespace.wormview import WormView
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.fsckcommand import findings
from hsmfs.tools.logcommands import head_of_disc
from hsmfs.tools.rebuild.run import rebuild
from hsmfs.volume.source import FileSource

SIZE = 100


class Burner:
    """Burns what an engine has, with the set of changes since the disc before."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bench = Bench(root / "cache")
        self.until = 0
        self.images: list[Path] = []

    def burn(self, *paths: bytes) -> SetLog:
        """A volume with these files; the head that it carries."""
        now(self.bench.engine.syncfs())
        number = len(self.images) + 1
        own = {}
        with self.bench.store.snapshot() as reader:
            set_file, log_file = self.root / NAMESPACE_NAME, self.root / LOG_NAME
            header = write_set(reader, self.until, SITE, number, set_file)
            assert write_log(reader, header.since, log_file)
        for file in (set_file, log_file):
            own[file.name.encode()] = file.read_bytes()
        entries = [self.source(path) for path in paths]
        image = self.root / f"{number}.img"
        burn(image, f"{SITE}-{number:06d}", entries, own, created_ns=number)
        self.images.append(image)
        self.until = header.until
        assert isinstance(header.log, SetLog)
        return header.log

    def source(self, path: bytes) -> FileSource:
        ino = 1
        for name in path.split(b"/"):
            ino = self.bench.engine.lookup(ino, name).ino
        version = self.bench.engine.tables.inode(ino).data_version
        return FileSource(path=path, ino=ino, data_version=version, size=SIZE)


@pytest.fixture
def burner(tmp_path: Path) -> Iterator[Burner]:
    made = Burner(tmp_path)
    yield made
    made.bench.engine.close()


def rebuilt(burner: Burner, images: list[Path], root: Path) -> Bench:
    """The engine on what the discs make; fsck finds nothing but a log with gaps."""
    config = stopped_system(root)
    rebuild(config, images, lambda what, path, why: None)
    found = [one.found for one in findings(config, False, None, Summary())]
    assert len(found) == (len(images) < 3)
    assert all("hsm log verify" in one for one in found), found
    store = LmdbStore(Path(config.namespace.path), 1 << 30)
    bench = Bench(Path(config.tier[0].path), store=store)
    bench.clock.start_ns = burner.bench.clock.now_ns()
    return bench


def burned(burner: Burner) -> tuple[dict[str, int], SetLog]:
    """Three discs: before anything settles, after, and after a longer date."""
    bench = burner.bench
    top = tree_of(bench)
    below = bench.engine.mkdir(top, b"d", 0o755, ME).ino
    data = b"x" * SIZE
    inodes = {"first": make(bench, below, b"first", data), "held": make(bench, 1, b"held", data)}
    burner.burn(b"archive/d/first", b"held")
    pass_time(bench, DAY_S + 5)
    now(bench.engine.holds.set([inodes["held"]], "case 1", "root"))
    inodes["second"] = make(bench, below, b"second", data)
    burner.burn(b"archive/d/second")
    now(bench.engine.holds.extend([inodes["first"]], "30y", "root"))
    return inodes, burner.burn()


def test_it_all_comes_back(burner: Burner, tmp_path: Path) -> None:
    inodes, head = burned(burner)
    before = burner.bench.engine.retention.settling.kept(inodes["first"])
    assert head_of_disc(burner.images[2]) == Head(head.number, head.sha256)
    bench = rebuilt(burner, burner.images, tmp_path / "new")
    engine = bench.engine
    assert verified(bench) == []
    with bench.store.snapshot() as reader:
        view = WormView(reader)
        assert len(list(view.entries())) == head.number + 1  # and one of the rebuild
        assert engine.tables.kv.get(entry_key(head.number)) is not None
    kept = engine.retention.settling.kept(inodes["first"])
    assert (kept.until_ns, kept.tree) == (before.until_ns, before.tree)
    assert engine.getxattr(inodes["held"], b"user.hsm.hold") == b"case 1"
    for ino in (inodes["first"], inodes["held"]):
        with fails(errno.EPERM, "rebuilt"):
            engine.open(ino, os.O_RDWR, ME)
    place = engine.tables.parent_of(inodes["first"])
    assert place is not None
    with fails(errno.EPERM, "rebuilt"):
        engine.unlink(*place)
    make(bench, place[0], b"new", b"1")
    pass_time(bench, DAY_S + 5)
    for name in (b"second", b"new"):
        with fails(errno.EPERM, "settled after the rebuild"):
            engine.unlink(place[0], name)
    assert verified(bench) == []
    engine.close()


def test_a_clock_set_forward_before_a_rebuild_frees_nothing(burner: Burner, tmp_path: Path) -> None:
    inodes, _ = burned(burner)
    bench = rebuilt(burner, burner.images, tmp_path / "new")
    bench.clock.start_ns += 40 * 365 * 86_400 * 10**9
    pass_time(bench, 10)
    until = bench.engine.retention.settling.kept(inodes["first"]).until_ns
    assert "kept until" in now(bench.engine.holds.confirm([(inodes["first"], until)], "root"))[0]
    bench.engine.close()


def test_a_disc_that_is_missing_shows_in_the_log(burner: Burner, tmp_path: Path) -> None:
    inodes, _ = burned(burner)
    bench = rebuilt(burner, [burner.images[0], burner.images[2]], tmp_path / "new")
    assert any("missing" in fault.why for fault in verified(bench))
    with fails(errno.EPERM, "told by the last set"):
        bench.engine.open(inodes["first"], os.O_RDWR, ME)
    bench.engine.close()
