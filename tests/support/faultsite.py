"""hsmfs's engine and hsmd in one process, on an emulated library and a clock that jumps.

All that both programs do but the mount and the HTTP interface: engine, group commits, cache,
RPC over the socket, catalog, scheduler, drives and robot. Waiting costs no time.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import trio
import trio.testing

from hsmfs.cache.tier import CacheTier
from hsmfs.changer.emulated import EmulatedLibrary
from hsmfs.configload import load
from hsmfs.daemon import hsmd as hsmd_module
from hsmfs.daemon import migrator as migrator_module
from hsmfs.daemon import recaller as recaller_module
from hsmfs.daemon.commands import Commands
from hsmfs.daemon.equipment import open_equipment
from hsmfs.daemon.hsmd import Hsmd
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.main import build
from hsmfs.daemon.metrics import Metrics
from hsmfs.daemon.policyrun import PolicyRunner
from hsmfs.deferred import Deferred
from hsmfs.metrics import FsMetrics
from hsmfs.namespace.engine import Caller, Engine, EngineSettings, make_namespace
from hsmfs.namespace.schema import SCANNED
from hsmfs.residencycalls import ResidencyCalls
from hsmfs.rpc.messages import Answer, Call, Event, Hello
from hsmfs.rpc.server import Connection
from hsmfs.rpc.server import serve as serve_rpc
from hsmfs.session.executor import TrioExecutor
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.store.overlay import GroupCommit
from hsmfs.types import ROOT_INODE

T = TypeVar("T")
ME: Final = Caller(uid=0, gid=0, pid=0, umask=0o022)
MAP_BYTES: Final = 1 << 28
IDLE_S: Final = 0.002
"""Of real time in which nothing happens before the clock jumps."""
TICK_S: Final = 2.0
"""Of regular looks at what did not change: fewer jumps of the clock."""
WAIT_S: Final = 1800.0
"""Of the clock's time, for anything that has to come to an end."""
CONFIG: Final = """
[site]
id = "faults"
[namespace]
path = "{dir}/namespace"
[catalog]
path = "{dir}/catalog"
[[tier]]
name = "cache"
path = "{dir}/cache"
reserve_bytes = 1
[fuse]
mount = "{dir}/mnt"
[policy]
file = "{dir}/policy.hsm"
[[library]]
name = "emulated"
kind = "emulated"
path = "{dir}/library"
magazine_slots = {magazine_slots}
[run]
path = "{dir}/run"
{more}
"""
POLICY: Final = 'pool "main" {{ copies {copies} spread magazine; burn when full; head 4KiB }}\n'


class VirtualClock:
    """Trio's mock clock as hsmfs wants a clock; threads that sleep wait until it has jumped."""

    def __init__(self) -> None:
        self.mock = trio.testing.MockClock(autojump_threshold=IDLE_S)

    def now_ns(self) -> int:
        return 1_700_000_000_000_000_000 + int(self.monotonic_s() * 1e9)

    def monotonic_s(self) -> float:
        return self.mock.current_time()

    def sleep(self, seconds: float) -> None:
        until_s = self.monotonic_s() + seconds
        while self.monotonic_s() < until_s:
            time.sleep(IDLE_S / 4)


class _Session:
    """The engine's thread is trio's; there is no kernel to be told anything."""

    async def call(self, fn: Callable[[], T | Deferred[T]]) -> T:
        return await later(fn())

    def names_made(self, names: object) -> None:
        """No kernel knows names."""

    def attributes_changed(self, ino: int) -> None:
        """No cache to drop."""

    def data_changed(self, ino: int) -> None:
        """No pages to write back."""

    def name_changed(self, parent: int, name: bytes) -> None:
        """No cache to drop."""


async def later(value: T | Deferred[T]) -> T:
    """The value, when it is there."""
    if not isinstance(value, Deferred):
        return value
    if not value.done:
        done = trio.Event()
        value.then(lambda _: done.set())
        await done.wait()
    return value.result()


@dataclass(frozen=True)
class Shape:
    """Size of a site."""

    drives: int = 2
    slots: int = 16
    magazine_slots: int = 8
    disc_bytes: int = 12_000_000
    copies: int = 2
    more: str = ""
    """Of the configuration."""


class Site:
    """One running system; made by ``running``."""

    def __init__(self, root: Path, clock: VirtualClock, engine: Engine, hsmd: Hsmd) -> None:
        self.root = root
        self.clock = clock
        self.engine = engine
        self.hsmd = hsmd
        self.library: EmulatedLibrary
        self.commands: Commands

    # -- what programs do ------------------------------------------------------------

    async def write(self, name: str, data: bytes) -> None:
        """Make a file, or write it anew."""
        found = self.engine.lookup_or_none(ROOT_INODE, name.encode())
        if found is None:
            opened, _ = self.engine.create(ROOT_INODE, name.encode(), 0o644, os.O_RDWR, ME)
        else:
            opened = await later(self.engine.open(found.ino, os.O_RDWR | os.O_TRUNC, ME))
        at = 0
        while at < len(data):
            at += await later(self.engine.write(opened.fh, at, data[at : at + (1 << 20)]))
        await later(self.engine.fsync(opened.fh, False))
        self.engine.release(opened.fh)

    async def read(self, name: str) -> bytes:
        """All of a file; raises FsError, as a reader gets it."""
        attr = self.engine.lookup(ROOT_INODE, name.encode())
        opened = await later(self.engine.open(attr.ino, os.O_RDONLY, ME))
        try:
            parts = []
            for at in range(0, attr.size, 1 << 20):
                size = min(1 << 20, attr.size - at)
                parts.append(await later(self.engine.read(opened.fh, at, size)))
            return b"".join(parts)
        finally:
            self.engine.release(opened.fh)

    def state(self, name: str) -> str:
        attr = self.engine.lookup(ROOT_INODE, name.encode())
        return self.engine.getxattr(attr.ino, b"user.hsm.state").decode()

    # -- what operators do -----------------------------------------------------------

    async def migrate(self) -> Job:
        return await self.ended(await self.commands.migrate([self.mount], recursive=True))

    async def release(self) -> Job:
        return await self.ended(await self.commands.release([self.mount], recursive=True))

    async def recall(self) -> Job:
        return await self.ended(await self.commands.recall([self.mount], recursive=True))

    async def ended(self, job: Job) -> Job:
        with trio.move_on_after(WAIT_S):
            await job.wait()
        assert job.ended, f"never ends: {job.as_dict()}\n{self.words()}"
        return job

    async def until(self, true: Callable[[], bool], what: str) -> None:
        """Look once a second of the clock's time."""
        end_s = self.clock.monotonic_s() + WAIT_S
        while not true():
            assert self.clock.monotonic_s() < end_s, f"never came: {what}\n{self.words()}"
            await trio.sleep(1.0)

    @property
    def mount(self) -> str:
        return str(self.root / "mnt")

    def words(self) -> str:
        """What it looks like now, for a failed test."""
        core = self.hsmd.core
        lines = [f"problem {core.librarian.problem!r}"]
        lines += [f"{u.name} {u.state} {u.disc} {u.note}" for u in core.librarian.units]
        lines += [
            f"{d.barcode} {d.state} {d.volume} {d.note}"
            for d in core.catalog.discs.values()
            if d.state != "blank" or d.note
        ]
        recaller = self.hsmd.recaller
        lines += [
            f"serving {recaller.serving} doubted {self.hsmd.care.doubted} "
            f"reserved {core.reserved} stages {list(self.hsmd.care.stages)}"
        ]
        lines += [
            f"request {r.path} {r.label} bad {r.bad} {r.note} fd {r.fd} {r.completing} "
            f"have {bytes(r.have)!r} {r.failure}"
            for r in recaller.requests.values()
        ]
        lines += [
            f"{u.name} busy {u.busy} rest {u.rest_until_s} now {self.clock.monotonic_s()} "
            f"yields {u.yields} work {u.work} {u.errors_in_row}"
            for u in core.librarian.units
        ]
        lines += [f"{v.label} {v.state} {v.note}" for v in core.catalog.volumes.values()]
        lines += [f"alarm {a.kind} {a.text} x{a.count}" for a in core.alarms.active.values()]
        return "\n".join(lines)


@asynccontextmanager
async def running(root: Path, clock: VirtualClock, shape: Shape = Shape()) -> AsyncIterator[Site]:
    """hsmfs and hsmd at work; a directory that has a site goes on with it."""
    config = _configured(root, shape)
    hsmd_module.TICK_S = recaller_module.MAINTAIN_S = migrator_module.IDLE_S = TICK_S  # type: ignore[misc]
    names = LmdbStore(root / "namespace", MAP_BYTES)
    catalog = LmdbStore(root / "catalog", MAP_BYTES)
    make_namespace(names, 0, 0, 0o755, clock.now_ns())
    metrics, fs_metrics = Metrics(), FsMetrics()
    equipment = await trio.to_thread.run_sync(
        open_equipment, config.library[0], metrics.registry, clock
    )
    try:
        async with trio.open_nursery() as nursery:
            executor = TrioExecutor(nursery, 4, fs_metrics)
            tier = CacheTier("cache", root / "cache", 1, 0)
            kv = GroupCommit(names, executor, 0.05, clock, SCANNED)
            settings = EngineSettings(recall_timeout_s=config.recall.recall_timeout_s)
            engine = Engine(kv, tier, clock, executor, settings)
            await _serve_rpc(nursery, engine, root / "run" / "hsmfs.sock", fs_metrics)
            hsmd = build(config, catalog, names, metrics, equipment, clock)
            site = Site(root, clock, engine, hsmd)
            assert equipment.emulated is not None
            site.library = equipment.emulated
            runner = PolicyRunner(hsmd.core, hsmd.migrator, hsmd.releaser)
            site.commands = Commands(hsmd, runner, nursery)
            nursery.start_soon(hsmd.run)
            await hsmd.core.link.wait_connected()
            yield site
            nursery.cancel_scope.cancel()
        engine.close()
    finally:
        equipment.close()
        names.close()
        catalog.close()


def _configured(root: Path, shape: Shape):
    file = root / "hsmfs.toml"
    if not file.exists():
        for folder in ("namespace", "catalog", "cache", "mnt", "run"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        text = CONFIG.format(dir=root, magazine_slots=shape.magazine_slots, more=shape.more)
        file.write_text(text)
        (root / "policy.hsm").write_text(POLICY.format(copies=shape.copies))
        EmulatedLibrary.create(
            root / "library",
            drives=shape.drives,
            slots=shape.slots,
            magazine_slots=shape.magazine_slots,
            disc_bytes=shape.disc_bytes,
        )
    return load(file)


async def _serve_rpc(
    nursery: trio.Nursery, engine: Engine, socket: Path, metrics: FsMetrics
) -> None:
    calls = ResidencyCalls(engine, _Session(), metrics)  # type: ignore[arg-type]
    peer: list[Connection] = []

    def tell(event: Event) -> None:
        if peer:
            peer[-1].notify(event)

    async def handle(call: Call, connection: Connection) -> Answer:
        answer = await calls.answer(call)
        if isinstance(call, Hello):
            peer.append(connection)
            for event in await calls.waiting_recalls():
                tell(event)
        return answer

    def gone(connection: Connection) -> None:
        if connection in peer:
            peer.remove(connection)

    engine.on_event = tell
    await nursery.start(serve_rpc, socket, handle, gone)
