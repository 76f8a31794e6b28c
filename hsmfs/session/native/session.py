"""The native session: our own on /dev/fuse; see ``hsmfs.session.interface.Session``."""

from __future__ import annotations

import errno
import gc
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import trio

from hsmfs import logs
from hsmfs.deferred import Deferred
from hsmfs.errors import FsError, Kind, LibraryError
from hsmfs.metrics import FsMetrics
from hsmfs.namespace.engine import Engine
from hsmfs.session import mounting
from hsmfs.session.interface import SessionSettings
from hsmfs.session.native import device
from hsmfs.session.native import protocol as p
from hsmfs.session.native.backing import Backings
from hsmfs.session.native.codec import Codec
from hsmfs.session.native.directories import DirectoryRequests
from hsmfs.session.native.dispatch import Dispatch, op_name
from hsmfs.session.native.files import FileRequests
from hsmfs.session.native.loop import Loop
from hsmfs.session.native.names import NameRequests
from hsmfs.session.native.negotiation import Agreement, agree
from hsmfs.session.native.protocol import Init, Op
from hsmfs.session.native.request import Answer, Head

log = logs.get(__name__)

T = TypeVar("T")
SWITCH_INTERVAL_S: Final = 0.0005
"""How long another Python thread may keep the engine's from running."""
GC_THRESHOLDS: Final = (50_000, 20, 100)


class NativeSession:
    """One mount. The engine runs on the loop's thread."""

    def __init__(
        self, engine: Engine, settings: SessionSettings, metrics: FsMetrics, loop: Loop
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.metrics = metrics
        self.loop = loop
        self._dispatch: Dispatch | None = None
        self._accepted = threading.Event()
        self._refused: str = ""
        self._backings: Backings | None = None
        self._notifier = ThreadPoolExecutor(1, thread_name_prefix="hsmfs-notify")
        self._counted = [0] * p.OPCODES
        self._counted_errors: dict[tuple[int, int], int] = {}
        codec = Codec(settings.attr_timeout_s, settings.entry_timeout_s)
        self._names = NameRequests(engine, codec)
        self._files = FileRequests(engine, codec)
        self._directories = DirectoryRequests(engine, codec)
        engine.keep_until_forgotten()

    def mount(self) -> None:
        """Mount; raises ``LibraryError`` that says what is wrong."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        # What lives now lives on; a full collection in mid-request is felt.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self.attach(device.mount(self.settings))

    def attach(self, fd: int) -> None:
        """Serve this device, which does not block."""
        dispatch = Dispatch(fd, self._bug)
        for requests in (self._names, self._files, self._directories):
            dispatch.add(requests.table())
        dispatch.add({Op.INIT: self._init})
        self._dispatch = dispatch

    def _bug(self) -> None:
        self.metrics.errors.labels(Kind.BUG.value).inc()

    # -- the first request ---------------------------------------------------------

    def _init(self, _head: Head, body: memoryview) -> Answer:
        try:
            agreed = agree(body)
        except LibraryError as error:
            self._refused = str(error)
            raise FsError(errno.EPROTO) from None
        if agreed.settled and not self._accepted.is_set():
            self._directories.setxattr_extended = agreed.has(Init.SETXATTR_EXT)
            self._pass_through(agreed)
            self._accepted.set()
        return agreed.reply

    def _pass_through(self, agreed: Agreement) -> None:
        if agreed.has(Init.PASSTHROUGH) and self._dispatch is not None:
            self._backings = Backings(self._dispatch.device)
            self.engine.pass_through(self._backings)
        else:
            log.warning("passthrough is off, the kernel does not offer it", fuse=agreed.version)

    # -- running -----------------------------------------------------------------

    async def serve(self) -> None:
        """Answer requests until the file system is unmounted or stopped."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_cancelled)
            await trio.to_thread.run_sync(self.run, limiter=trio.CapacityLimiter(1))
            nursery.cancel_scope.cancel()

    def run(self) -> None:
        """The work of the engine's thread."""
        dispatch = self._dispatch
        assert dispatch is not None
        self.loop.run(dispatch.device, dispatch.readable)

    async def _stop_when_cancelled(self) -> None:
        """A thread is not cancelled by itself."""
        try:
            await trio.sleep_forever()
        finally:
            self.loop.stop()

    async def wait_ready(self) -> None:
        """Return when the kernel has accepted the session."""
        while not self._accepted.is_set():
            if self._refused:
                raise LibraryError(f"fuse.mount: {self.settings.mount}: {self._refused}")
            await trio.sleep(0.005)

    async def call(self, fn: Callable[[], T | Deferred[T]]) -> T:
        """Run on the engine's thread; the value, also where it comes later."""
        token = trio.lowlevel.current_trio_token()
        done = trio.Event()
        found: list[Any] = []

        def finish(value: Any, error: BaseException | None) -> None:
            found.append((value, error))
            token.run_sync_soon(done.set)

        def run() -> None:
            try:
                value = fn()
            except BaseException as error:
                finish(None, error)
                return
            if isinstance(value, Deferred):
                value.then(lambda d: finish(d.result() if d.error is None else None, d.error))
            else:
                finish(value, None)

        self.loop.run_soon(run)
        await done.wait()
        value, error = found[0]
        if error is not None:
            raise error
        answer: T = value
        return answer

    async def stop(self) -> None:
        """Unmount; when busy end the waits, write back, and detach the mount."""
        mount = self.settings.mount
        if self._dispatch is None:
            return
        if await trio.to_thread.run_sync(mounting.unmount, mount):
            return
        log.warning("the mount is busy: it is detached, open files get errors", mount=str(mount))
        self.loop.run_soon(self._dispatch.stop)
        await trio.to_thread.run_sync(mounting.sync, mount)
        await trio.to_thread.run_sync(mounting.unmount, mount, True)
        self.loop.stop()

    def close(self) -> None:
        """Give the device back; after ``serve`` has ended."""
        if self._dispatch is None:
            return
        dispatch, self._dispatch = self._dispatch, None
        dispatch.stop()
        if self._backings is not None:
            self._backings.ended = True
        self._notifier.shutdown()
        mounting.unmount(self.settings.mount, lazy=True)
        os.close(dispatch.device)

    # -- the kernel's caches -------------------------------------------------------

    def attributes_changed(self, ino: int) -> None:
        """Forget what the kernel caches of an inode's attributes.

        By a thread of its own: the kernel may wait for a request that only the
        engine's thread can answer.
        """
        dispatch = self._dispatch
        if dispatch is None:
            return
        self._notifier.submit(_notify, dispatch.device, _inode_message(ino, -1))

    def data_changed(self, ino: int) -> None:
        """The kernel writes what it has of a file's data, and forgets it."""
        dispatch = self._dispatch
        if dispatch is not None:
            self._notifier.submit(_notify, dispatch.device, _inode_message(ino, 0))

    def names_made(self, names: Sequence[tuple[int, bytes]]) -> None:
        """Forget names known as missing, and listings of their directories."""
        dispatch = self._dispatch
        if dispatch is None:
            return
        folders = dict.fromkeys(parent for parent, _ in names)
        messages = [_entry_message(parent, name) for parent, name in names]
        messages += [_inode_message(parent, 0) for parent in folders]
        self._notifier.submit(_notify_all, dispatch.device, messages)

    def name_changed(self, parent: int, name: bytes) -> None:
        """Forget what the kernel caches of a name, and of what is below it."""
        dispatch = self._dispatch
        if dispatch is None:
            return
        self._notifier.submit(_notify, dispatch.device, _entry_message(parent, name))
        self.attributes_changed(parent)

    # -- metrics -------------------------------------------------------------------

    def count(self) -> None:
        """Bring the counters of requests up to date; on the engine's thread."""
        dispatch = self._dispatch
        if dispatch is None:
            return
        for opcode, count in enumerate(dispatch.counts):
            if count > self._counted[opcode]:
                self.metrics.requests.labels(op_name(opcode)).inc(count - self._counted[opcode])
                self._counted[opcode] = count
        for key, count in dispatch.errors.items():
            before = self._counted_errors.get(key, 0)
            word = errno.errorcode.get(key[1], str(key[1]))
            self.metrics.request_errors.labels(op_name(key[0]), word).inc(count - before)
            self._counted_errors[key] = count
        waits_s, dispatch.waits_s = dispatch.waits_s, []
        for wait_s in waits_s:
            self.metrics.reader_wait_s.observe(wait_s)
        self.metrics.interrupted.inc(dispatch.interrupted)
        dispatch.interrupted = 0


def _inode_message(ino: int, offset: int) -> bytes:
    """Forget attributes; from offset 0 on pages too, in which a directory's listing is."""
    body = p.INVAL_INODE.pack(ino, offset, 0)
    return p.OUT_HEADER.pack(p.OUT_HEADER.size + len(body), p.NOTIFY_INVAL_INODE, 0) + body


def _entry_message(parent: int, name: bytes) -> bytes:
    body = p.INVAL_ENTRY.pack(parent, len(name), 0) + name + b"\0"
    return p.OUT_HEADER.pack(p.OUT_HEADER.size + len(body), p.NOTIFY_INVAL_ENTRY, 0) + body


def _notify_all(fd: int, messages: Sequence[bytes]) -> None:
    for message in messages:
        _notify(fd, message)


def _notify(fd: int, message: bytes) -> None:
    try:
        os.write(fd, message)
    except OSError:
        return  # the kernel does not know this inode, or the mount is gone
