"""A file system of every sort of file, with its catalog, to be damaged and checked."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec

from hsmfs.cache.tier import CacheTier
from hsmfs.daemon.catalog import put_extents, put_record
from hsmfs.daemon.catalogcheck import CatalogCheck
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, ExtentRecord, VolumeRecord
from hsmfs.errors import FsError
from hsmfs.fsck.cachefiles import CacheFiles
from hsmfs.fsck.findings import Finding, Summary
from hsmfs.fsck.run import check
from hsmfs.fsck.subject import Subject
from hsmfs.fsck.workspace import Workspace
from hsmfs.namespace import schema
from hsmfs.records import InodeRecord
from hsmfs.rpc.messages import CopiedFile
from hsmfs.store.interface import Writer
from hsmfs.store.memory import MemoryStore
from hsmfs.types import FileVersion, Residency
from support.engines import HEAD, ME, Bench

DATA = bytes(range(256)) * 64
LABELS = ("v1", "v2")


class Checked:
    """A tree, its cache tier and its catalog; the engine is closed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bench = Bench(root)
        self.catalog = MemoryStore()
        self.tier = CacheTier("t", root)
        self.ino: dict[str, int] = {"": 1}
        self._offset = 0
        self._fill()
        self.close()

    def _fill(self) -> None:
        bench = self.bench
        engine = bench.engine
        for name in ("resident", "premigrated", "stub", "empty"):
            data = {"empty": b""}.get(name, DATA + name.encode())
            version = bench.make(name.encode(), data)
            self.ino[name] = version.ino
            if name in ("premigrated", "stub"):
                bench.premigrate(version)
                self.count(version)
                self.burned(version, len(data))
            if name == "stub":
                engine.release_data([version], HEAD)
        self.ino["dir"] = engine.mkdir(1, b"dir", 0o755, ME).ino
        self.ino["dir/sub"] = engine.mkdir(self.ino["dir"], b"sub", 0o755, ME).ino
        self.ino["dir/link"] = engine.link(self.ino["resident"], self.ino["dir"], b"link").ino
        self.ino["symlink"] = engine.symlink(1, b"symlink", b"dir/link", ME).ino
        fifo = stat.S_IFIFO | 0o600
        self.ino["dir/sub/fifo"] = engine.mknod(self.ino["dir/sub"], b"fifo", fifo, 0, ME).ino
        engine.setxattr(self.ino["dir"], b"user.kept", b"value")

    def burned(self, file: FileVersion, size: int) -> None:
        """Two verified discs, one of each volume."""

        def change(writer: Writer) -> None:
            for label in LABELS:
                disc = f"{label}-disc"
                put_record(VolumeRecord(label=label, pool="main"))(writer)
                verified = DiscState.VERIFIED
                record = DiscRecord(
                    barcode=disc,
                    magazine="m",
                    position=1,
                    library="l",
                    state=verified,
                    volume=label,
                )
                put_record(record)(writer)
                extent = ExtentRecord(
                    offset=self._offset, size=size, xxh3_128="", sha256="", chunks=[], path="p"
                )
                put_extents(label, [(file, extent)])(writer)

        self.catalog.transact(change)
        self._offset += size + 1

    def count(self, file: FileVersion) -> None:
        """hsmd tells of the burned copies."""
        copied = CopiedFile(file, len(LABELS), True, "main", list(LABELS))
        self.bench.engine.copied([copied])

    def cached(self) -> list[bytes]:
        """Data of all regular files that are wholly in the cache and have a name."""
        found = []
        with self.bench.store.snapshot() as reader:
            for _, value in reader.scan(b"I", b"J"):
                record = InodeRecord.unpack(value)
                whole = record.state in (Residency.RESIDENT, Residency.PREMIGRATED)
                if stat.S_ISREG(record.mode) and whole and record.nlink and record.size:
                    path = Path(self.tier.path(record.ino))
                    found.append(path.read_bytes() if path.exists() else b"")
        return found

    # -- as stores ---------------------------------------------------------------

    def close(self) -> None:
        self.bench.engine.close()

    def get(self, key: bytes) -> bytes:
        with self.bench.store.snapshot() as reader:
            value = reader.get(key)
        assert value is not None, key
        return value

    def record(self, name: str) -> InodeRecord:
        return InodeRecord.unpack(self.get(schema.inode_key(self.ino[name])))

    def entry(self, parent: int, name: bytes) -> tuple[int, int, int]:
        ino, kind, cookie = schema.ENTRY.unpack(self.get(schema.entry_key(parent, name)))
        return ino, kind, cookie

    def put(self, key: bytes, value: bytes) -> None:
        self.bench.store.transact(lambda writer: writer.put(key, value))

    def delete(self, key: bytes) -> None:
        assert self.bench.store.transact(lambda writer: writer.delete(key)), key

    def change(self, name: str, edit: Callable[[InodeRecord], None]) -> None:
        """Damage a record alone."""
        record = self.record(name)
        edit(record)
        self.put(schema.inode_key(self.ino[name]), record.pack())

    def reindex(self, name: str, edit: Callable[[InodeRecord], None]) -> None:
        """Damage a record as if the engine had meant it: index and counters follow."""
        with self.bench.store.snapshot():
            work = Workspace(self.bench.store, True)
        subject = Subject(
            work, CacheFiles(self.root), CatalogCheck(self._view(False)), 0, Summary()
        )
        record = self.record(name)
        edit(record)
        subject.save(record)
        counters = msgspec.msgpack.decode(self.get(b"Mcounters"))
        for field in ("files", "bytes"):
            counters[field] = [
                a + b for a, b in zip(counters[field], getattr(subject.delta, field), strict=True)
            ]
        counters["cached"] += subject.delta.cached
        work.put(b"Mcounters", msgspec.msgpack.encode(counters))
        work.commit()
        work.close()

    def cache_path(self, name: str) -> str:
        return self.tier.path(self.ino[name])

    # -- checks ------------------------------------------------------------------

    def _view(self, repair: bool) -> Workspace:
        return Workspace(self.catalog, repair)

    def check(self, repair: bool = False) -> list[Finding]:
        """A whole run."""
        catalog = CatalogCheck(self._view(repair))
        found = list(catalog.run())
        summary = Summary()
        work = Workspace(self.bench.store, repair)
        subject = Subject(work, CacheFiles(self.root), catalog, 10**18, summary)
        found += check(subject)
        work.close()
        assert len(found) == summary.found + catalog.found
        return found

    def kinds(self, repair: bool = False) -> list[str]:
        return [finding.kind.value for finding in self.check(repair)]

    # -- what users see -------------------------------------------------------------

    def start(self) -> None:
        self.bench.reopen()

    def tree(self) -> dict[str, bytes]:
        """Paths below the root with a word on each; files that are cached with their data."""
        self.start()
        found: dict[str, bytes] = {}
        self._walk(1, "", found)
        self.close()
        return found

    def _walk(self, ino: int, prefix: str, found: dict[str, bytes]) -> None:
        engine = self.bench.engine
        fh = engine.opendir(ino)
        for name, _, attr in engine.readdir(fh, 2, 1000):
            path = prefix + os.fsdecode(name)
            assert engine.lookup(ino, name).ino == attr.ino
            try:
                found[path] = self._word(attr.ino, attr.mode, attr.size)
            except FsError as error:
                found[path] = str(error).encode()
            if stat.S_ISDIR(attr.mode):
                self._walk(attr.ino, path + "/", found)
        engine.releasedir(fh)

    def _word(self, ino: int, mode: int, size: int) -> bytes:
        engine = self.bench.engine
        if stat.S_ISLNK(mode):
            return engine.readlink(ino)
        if not stat.S_ISREG(mode):
            return b"%o" % stat.S_IFMT(mode)
        if self.bench.state(ino) == "migrated":
            return b"stub of %d" % size
        return self.bench.content(ino)
