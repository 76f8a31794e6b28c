"""hsmfs put together: store, cache, engine, session, RPC and metrics."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from hsmfs import logs, servicemanager
from hsmfs.accesslog import AccessLog, access_path
from hsmfs.adoptcalls import AdoptCalls
from hsmfs.cache.hands import RemoteHands
from hsmfs.cache.paths import OPEN
from hsmfs.cache.tier import CacheTier
from hsmfs.clock import SystemClock
from hsmfs.config import Config
from hsmfs.deferred import Executor
from hsmfs.errors import CallerError, Kind
from hsmfs.metrics import FsMetrics, serve_page
from hsmfs.mountoptions import MS_NOATIME, resolve
from hsmfs.namespace.engine import Engine, make_namespace
from hsmfs.namespace.model import EngineSettings, Limit
from hsmfs.namespace.recovery import VERSION_KEY
from hsmfs.namespace.schema import SCANNED
from hsmfs.namespace.tables import counted_cached_bytes
from hsmfs.residencycalls import ResidencyCalls
from hsmfs.rpc.adoptmessages import ADOPT_CALLS
from hsmfs.rpc.messages import Answer, Call, Event, Hello, StatusReply
from hsmfs.rpc.server import Connection
from hsmfs.rpc.server import serve as serve_rpc
from hsmfs.session.executor import TrioExecutor
from hsmfs.session.interface import Session, SessionSettings
from hsmfs.session.native.loop import Loop
from hsmfs.session.native.session import NativeSession
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.store.overlay import GroupCommit
from hsmfs.store.remotestore import RemoteStore

log = logs.get(__name__)

ROOT_MODE: Final = 0o755
"""Of the root directory of a new file system."""
RESTART_S: Final = 1.0
"""A helper service that failed is started again after this time."""
STOP_TIMEOUT_S: Final = 60.0
"""Work that is still under way after this long is left to the next start."""

Start = Callable[..., Awaitable[Any]]


class Service:
    """One running hsmfs."""

    def __init__(
        self,
        config: Config,
        on_ready: Callable[[], None],
        on_stopping: Callable[[], None],
    ) -> None:
        self.config = config
        self.run_path = Path(config.run.path)
        self.metrics = FsMetrics()
        self._on_ready = on_ready
        self._on_stopping = on_stopping
        self._hsmd: Connection | None = None
        self._access: AccessLog | None = None

    async def run(self) -> None:
        """Serve until unmounted or told to stop by SIGTERM or SIGINT."""
        async with trio.open_nursery() as nursery:
            with closing(self._open_store()) as store:
                if self.config.fuse.session == "native":
                    await self._native(store)
                else:
                    await self._pyfuse3(store, nursery)
            nursery.cancel_scope.cancel()

    async def _native(self, store: LmdbStore) -> None:
        """The engine has a thread of its own."""
        bug = self.metrics.errors.labels(Kind.BUG.value).inc
        fuse = self.config.fuse
        loop = Loop(fuse.worker_threads_max, bug, fuse.spin_us / 1e6)
        engine = self._make_engine(store, loop)
        try:
            await self._mounted(engine, NativeSession(engine, self._settings, self.metrics, loop))
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(loop.close)
            engine.close()
            self._access_end()

    async def _pyfuse3(self, store: LmdbStore, nursery: trio.Nursery) -> None:
        """The engine runs on trio's thread, as the binding does."""
        from hsmfs.session.pyfuse3 import Pyfuse3Session

        executor = TrioExecutor(nursery, self.config.fuse.worker_threads_max, self.metrics)
        engine = self._make_engine(store, executor)
        try:
            await self._mounted(engine, Pyfuse3Session(engine, self._settings, self.metrics))
        finally:
            # Readers got their errors; what was written must be kept.
            with trio.move_on_after(STOP_TIMEOUT_S, shield=True):
                await executor.drain()
            engine.close()
            self._access_end()

    def _access_end(self) -> None:
        if self._access is not None:
            self._access.close()

    @property
    def _settings(self) -> SessionSettings:
        return SessionSettings.of(self.config.fuse, self.config.site.id)

    async def _mounted(self, engine: Engine, session: Session) -> None:
        calls = ResidencyCalls(engine, session, self.metrics)
        token = trio.lowlevel.current_trio_token()
        engine.on_event = lambda event: token.run_sync_soon(self._notify, event)
        session.mount()
        try:
            await self._serve(engine, session, calls)
        finally:
            session.close()

    # -- parts ---------------------------------------------------------------

    def _open_store(self) -> LmdbStore:
        namespace = self.config.namespace
        store = RemoteStore(Path(namespace.path), namespace.map_bytes)
        with store.snapshot() as view:
            new = view.get(VERSION_KEY) is None
            cached = counted_cached_bytes(view)
        tier = Path(self.config.tier[0].path)
        if cached and _is_bare(tier):
            store.close()
            raise CallerError(
                f"tier[0].path: {tier}: found an empty directory, expected the {cached} bytes of "
                "cached data that the namespace tells of; is its disk mounted? If that data is "
                f"lost for good: hsm fsck --repair, and mkdir {tier / OPEN}"
            )
        left = _a_file_in(tier) if new else None
        if left is not None:
            store.close()
            raise CallerError(
                f"namespace.path: {namespace.path}: found no namespace, expected the one of the "
                f"files in the cache tier ({left}); restore it from a backup, or empty the tier"
            )
        made = make_namespace(store, os.geteuid(), os.getegid(), ROOT_MODE, SystemClock().now_ns())
        if made:
            log.info("an empty file system was made", path=namespace.path)
        return store

    def _make_engine(self, store: LmdbStore, executor: Executor) -> Engine:
        clock = SystemClock()
        namespace, first = self.config.namespace, self.config.tier[0]
        if len(self.config.tier) > 1:
            log.warning("only the first cache tier is used", tier=first.name)
        cache = CacheTier(first.name, Path(first.path), first.reserve_bytes, first.capacity_bytes)
        settings = EngineSettings(
            recall_timeout_s=self.config.recall.recall_timeout_s,
            journal_records_max=namespace.journal_records_max,
            quotas=tuple(Limit(q.path, q.bytes_max, q.files_max) for q in self.config.quota),
            noatime=bool(resolve(self.config.fuse.options).flags & MS_NOATIME),
        )
        commits = GroupCommit(store, executor, namespace.commit_interval_ms / 1000, clock, SCANNED)
        engine = Engine(commits, cache, clock, executor, settings, RemoteHands(cache.root))
        access = self.config.access
        if access.bytes_max:
            self._access = AccessLog(access_path(self.config), access.bytes_max, clock, executor)
            engine.ops.on_open = self._access.note
        return engine

    # -- running -------------------------------------------------------------

    async def _serve(self, engine: Engine, session: Session, calls: ResidencyCalls) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._stop_on_signal, session)
            adopt = AdoptCalls(engine, session, self.metrics)
            await nursery.start(self._keep, "rpc", partial(self._rpc, calls, adopt))
            await nursery.start(self._keep, "metrics", partial(self._metrics_page, engine, session))
            nursery.start_soon(self._say_ready, session)
            await session.serve()
            self._on_stopping()
            nursery.cancel_scope.cancel()

    async def _say_ready(self, session: Session) -> None:
        await session.wait_ready()
        self._on_ready()
        await servicemanager.keep_watchdog(lambda: session.call(lambda: None))

    async def _stop_on_signal(self, session: Session, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                log.info("stopping", signal=signal.Signals(number).name)
                await session.stop()

    async def _keep(self, name: str, start: Start, task_status: trio.TaskStatus[Any]) -> None:
        """Run a helper service; start it again when it fails later on.

        Its failure must never end the mount. At the first start it is an
        error of the configuration, and does.
        """
        await self._once(start, task_status)
        while True:
            log.error("a service ended; it is started again", service=name)
            await trio.sleep(RESTART_S)
            await self._once(start, trio.TASK_STATUS_IGNORED, restart=True)

    async def _once(
        self, start: Start, task_status: trio.TaskStatus[Any], restart: bool = False
    ) -> None:
        status = _Started(task_status)
        try:
            await start(task_status=status)
        except Exception:
            if not (restart or status.done):
                raise
            self.metrics.errors.labels(Kind.BUG.value).inc()
            log.exception("bug: a service failed")

    async def _metrics_page(
        self, engine: Engine, session: Session, task_status: trio.TaskStatus[Any]
    ) -> None:
        async def page() -> bytes:
            def facts() -> StatusReply:
                session.count()
                return engine.status()

            self.metrics.show(await session.call(facts))
            return self.metrics.page()

        bind = self.config.run.metrics_hsmfs_bind
        path = self.run_path / "hsmfs-metrics.sock"
        try:
            await serve_page(page, path, bind, trio.sleep_forever, task_status=task_status)
        except* OSError as group:
            first = group.exceptions[0]
            raise CallerError(
                f"run.metrics_hsmfs_bind: {bind or path}: {first}; "
                "choose another address or stop what uses it"
            ) from first
        finally:
            path.unlink(missing_ok=True)

    # -- hsmd ----------------------------------------------------------------

    async def _rpc(
        self, calls: ResidencyCalls, adopt: AdoptCalls, task_status: trio.TaskStatus[Any]
    ) -> None:
        async def handle(call: Call, connection: Connection) -> Answer:
            if isinstance(call, ADOPT_CALLS):
                return await adopt.answer(call, connection)
            answer = await calls.answer(call)
            if isinstance(call, Hello):
                await self._welcome(connection, calls)
            return answer

        def gone(connection: Connection) -> None:
            self._gone(connection)
            adopt.gone(connection)

        await serve_rpc(self.run_path / "hsmfs.sock", handle, gone, task_status=task_status)

    async def _welcome(self, connection: Connection, calls: ResidencyCalls) -> None:
        """From now on this connection is hsmd; tell it what waits."""
        self._hsmd = connection
        self.metrics.hsmd_connected.set(1)
        log.info("hsmd is connected")
        for event in await calls.waiting_recalls():
            self._notify(event)

    def _gone(self, connection: Connection) -> None:
        if connection is self._hsmd:
            self._hsmd = None
            self.metrics.hsmd_connected.set(0)
            log.info("hsmd is gone; readers of stubs wait for it")

    def _notify(self, event: Event) -> None:
        """Tell hsmd; while there is none, the engine keeps what waits."""
        if self._hsmd is not None and not self._hsmd.notify(event):
            self.metrics.errors.labels(Kind.TRANSIENT.value).inc()
            log.error("hsmd does not take notices; it gets them when it connects again")


def _is_bare(tier: Path) -> bool:
    """Whether hsmfs never worked there: it makes its directories when it starts."""
    try:
        return not {path.name for path in tier.iterdir()} - {"lost+found"}
    except OSError:
        return False  # what is wrong with it is told when it is opened


def _a_file_in(tier: Path) -> Path | None:
    """Some data in the tier, if there is any."""
    for folder, folders, files in os.walk(tier):
        if "lost+found" in folders:
            folders.remove("lost+found")  # of the disk's own file system
        if files:
            return Path(folder) / files[0]
    return None


class _Started:
    """Passes ``started`` on, and remembers that it was called."""

    def __init__(self, inner: trio.TaskStatus[Any]) -> None:
        self.inner = inner
        self.done = False

    def started(self, value: Any = None) -> None:
        self.done = True
        self.inner.started(value)
