"""hsmfs's engine on real stores, in a process that is killed at a step; and what it leaves.

The process is a child of the test: an engine as in ``support.engines``, on LMDB and a cache
tier, whose functions are wrapped as ``crashsite`` wraps those of programs. Time moves only
where a scene says so, so that each step is reached by just one way.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fuse.conftest import System

from hsmfs.cache.paths import SIDES, cache_path
from hsmfs.configload import load
from hsmfs.daemon.catalog import put_extents, put_record
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, ExtentRecord, VolumeRecord
from hsmfs.fsck.findings import Summary
from hsmfs.namespace import schema
from hsmfs.namespace.view import NamespaceView
from hsmfs.records import InodeRecord
from hsmfs.store.interface import Reader, Writer
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools import fsckcommand
from hsmfs.types import FileVersion
from support.crashpoints import CrashFile
from support.crashsite import sitecustomize
from support.engines import Bench, now

MAP_BYTES = 1 << 28
COMMIT_S = 0.1
"""More than the engine's commit interval and its marks' wait."""
SYNC_S = 31.0
"""More than the time after which closed files are synced."""
APPLY = "hsmfs.store.lmdbstore:LmdbStore.apply"
"""The commit of a batch."""
VOLUME = "v1"
"""The one of ``Bench.premigrate``."""
Scene = Callable[[Bench], object]


class Victim:
    """A system at rest between cuts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.system = System(root)
        self.crash = CrashFile(root / "crash")
        self.store = root / "namespace"
        self.tier = root / "tier"

    @contextmanager
    def running(self) -> Iterator[Bench]:
        """Started, and stopped in the end; then nothing is left to repair."""
        store = LmdbStore(self.store, MAP_BYTES)
        try:
            bench = Bench(self.tier, store=store)
            yield bench
            bench.engine.close()
        finally:
            store.close()
        check_fsck(self.system)

    def killed(self, scene: Scene, point: str, when: str, nth: int = 1) -> None:
        """A run that plays a scene ends by SIGKILL at this step of it."""
        assert self._end_of(scene, point, when, nth) == -signal.SIGKILL
        self.crash.disarm()

    def killed_at_start(self, point: str, when: str) -> None:
        """A run ends by SIGKILL while it repairs what the one before left."""
        self.crash.arm(point, when)
        assert self._status(lambda bench: None) == -signal.SIGKILL
        self.crash.disarm()

    def _end_of(self, scene: Scene, point: str, when: str, nth: int) -> int:
        def armed(bench: Bench) -> None:
            self.crash.arm(point, when, nth)
            scene(bench)

        return self._status(armed)

    def _status(self, scene: Scene) -> int:
        def play() -> None:
            scene(Bench(self.tier, store=LmdbStore(self.store, MAP_BYTES)))

        return in_a_child(self.crash, play)

    def counted(self, bench: Bench, file: FileVersion, size: int) -> None:
        """Two verified discs hold it; hsmfs is told."""

        def put(writer: Writer) -> None:
            put_record(VolumeRecord(label=VOLUME, pool="main"))(writer)
            for number in range(2):
                disc = DiscRecord(
                    barcode=f"D{number}",
                    magazine="m",
                    position=number,
                    library="l",
                    state=DiscState.VERIFIED,
                    volume=VOLUME,
                )
                put_record(disc)(writer)
            extent = ExtentRecord(offset=0, size=size, xxh3_128="", sha256="", chunks=[], path="p")
            put_extents(VOLUME, [(file, extent)])(writer)

        store = LmdbStore(self.root / "catalog", MAP_BYTES)
        store.transact(put)
        store.close()
        bench.premigrate(file)

    # -- what is left -------------------------------------------------------------------

    def record(self, ino: int) -> InodeRecord | None:
        """As it is in the store."""
        with self._reader() as reader:
            return NamespaceView(reader).inode(ino)

    def named(self, name: bytes) -> int | None:
        """The inode of a name in the top directory, as it is in the store."""
        with self._reader() as reader:
            return NamespaceView(reader).lookup_path(name)

    def mark(self, ino: int) -> bytes | None:
        with self._reader() as reader:
            return reader.get(schema.mark_key(ino))

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        store = LmdbStore(self.store, MAP_BYTES, read_only=True)
        try:
            with store.snapshot() as reader:
                yield reader
        finally:
            store.close()

    def data(self, ino: int) -> bytes | None:
        """Of the cache file."""
        try:
            return Path(cache_path(self.tier, ino)).read_bytes()
        except FileNotFoundError:
            return None

    def cached(self) -> set[int]:
        """Inodes that have a cache file."""
        return {
            int(path.name, 16)
            for path in self.tier.rglob("*")
            if path.is_file() and path.relative_to(self.tier).parts[0] not in SIDES
        }

    def side(self, name: str) -> list[str]:
        """What is under way, by the tier."""
        return sorted(os.listdir(self.tier / name))


def in_a_child(crash: CrashFile, work: Callable[[], object]) -> int:
    """Do it in a child that can be killed at a step; its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.environ |= crash.environment
            for name in sitecustomize.WRAPPED & sys.modules.keys():
                sitecustomize.wrap(sys.modules[name])
            sys.meta_path.insert(0, sitecustomize.Finder())  # for what is imported later
            sitecustomize.watch_renames()
            work()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check_fsck(system: System) -> None:
    """``hsm fsck`` has nothing to say of a system at rest."""
    config = load(system.config)
    with fsckcommand.stopped(config):
        found = list(fsckcommand.findings(config, False, None, Summary()))
    assert not found, "\n".join(map(str, found))


def write(bench: Bench, ino: int, data: bytes, offset: int = 0) -> int:
    """By a handle that stays open; returns it."""
    fh = bench.open(ino, os.O_RDWR)
    assert now(bench.engine.write(fh, offset, data)) == len(data)
    return fh


def wait(bench: Bench, seconds: float = COMMIT_S) -> None:
    """Let time pass."""
    bench.executor.advance(seconds)
