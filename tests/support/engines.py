"""An engine without binding or threads, for tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from hsmfs.cache.tier import CacheTier
from hsmfs.clock import ManualClock
from hsmfs.deferred import Deferred, InlineExecutor
from hsmfs.namespace.engine import Attr, Caller, Engine, EngineSettings, make_namespace
from hsmfs.namespace.model import Limit
from hsmfs.namespace.schema import SCANNED
from hsmfs.rpc.messages import CopiedFile, Event
from hsmfs.store.interface import KVStore
from hsmfs.store.memory import MemoryStore
from hsmfs.store.overlay import GroupCommit
from hsmfs.types import ByteRange, FileVersion

T = TypeVar("T")
ME = Caller(uid=0, gid=0, pid=0, umask=0o022)
HEAD = 4096


def now(value: T | Deferred[T]) -> T:
    """The answer, which must be there."""
    return value.result() if isinstance(value, Deferred) else value


class Bench:
    """An engine and what it stands on; ``reopen`` is a crash and a new start."""

    def __init__(
        self,
        root: Path,
        capacity_bytes: int = 0,
        store: KVStore | None = None,
        quotas: tuple[Limit, ...] = (),
    ) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.store = store or MemoryStore()
        self.clock = ManualClock()
        self.executor = InlineExecutor()
        self.capacity_bytes = capacity_bytes
        self.quotas = quotas
        self.events: list[Event] = []
        make_namespace(self.store, 0, 0, 0o755, self.clock.now_ns())
        self.reopen()

    def reopen(self) -> None:
        self.executor = InlineExecutor()  # what the old engine had planned is gone with it
        kv = GroupCommit(self.store, self.executor, 0.05, None, SCANNED)
        tier = CacheTier("t", self.root, 0, self.capacity_bytes)
        settings = EngineSettings(head_bytes=HEAD, recall_timeout_s=60.0, quotas=self.quotas)
        self.engine = Engine(kv, tier, self.clock, self.executor, settings)
        self.events.clear()
        self.engine.on_event = self.events.append

    def make(self, name: bytes, data: bytes) -> FileVersion:
        opened, attr = self.engine.create(1, name, 0o644, os.O_RDWR, ME)
        assert now(self.engine.write(opened.fh, 0, data)) == len(data)
        now(self.engine.fsync(opened.fh, False))
        self.engine.release(opened.fh)
        return FileVersion(attr.ino, 1)

    def premigrate(self, file: FileVersion) -> None:
        assert not now(self.engine.claim([file]))[0].refused
        self.engine.unclaim([file])
        counted = CopiedFile(file, 2, True, "main", ["v1"])
        assert not now(self.engine.copied([counted]))[0].refused

    def stub(self, name: bytes, data: bytes) -> FileVersion:
        file = self.make(name, data)
        self.premigrate(file)
        assert not now(self.engine.release_data([file], HEAD))[0].refused
        return file

    def open(self, ino: int, flags: int = os.O_RDONLY) -> int:
        return now(self.engine.open(ino, flags, ME)).fh

    def land(self, file: FileVersion, data: bytes, start: int = 0, stop: int | None = None) -> None:
        """Play hsmd for a range."""
        stop = len(data) if stop is None else stop
        begun = self.engine.recall_begin(file)
        with open(begun.path, "r+b") as out:
            out.seek(start)
            out.write(data[start:stop])
        self.engine.landed(file, ByteRange(start, stop))

    def recall(self, file: FileVersion, data: bytes) -> None:
        self.land(file, data)
        now(self.engine.recalled(file))

    def state(self, ino: int) -> str:
        return self.engine.getxattr(ino, b"user.hsm.state").decode()

    def content(self, ino: int) -> bytes:
        fh = self.open(ino)
        try:
            return now(self.engine.read(fh, 0, 1 << 30))
        finally:
            self.engine.release(fh)

    def attr(self, name: bytes) -> Attr:
        return self.engine.lookup(1, name)
