"""The session on the pyfuse3 binding and trio."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import pyfuse3
import trio

from hsmfs import logs
from hsmfs.deferred import Deferred
from hsmfs.errors import LibraryError
from hsmfs.metrics import FsMetrics
from hsmfs.namespace.engine import Engine
from hsmfs.session import mounting
from hsmfs.session.convert import Entries
from hsmfs.session.interface import FS_TYPE, SessionSettings
from hsmfs.session.operations import Operations
from hsmfs.session.waiting import Waiting

log = logs.get(__name__)

T = TypeVar("T")

IDLE_TASKS: Final = 8
TASKS_MAX: Final = 10_000
"""Requests under way at once. More than ``waiting.WAITING_MAX``, so that some
are always left for requests that do not wait."""
WAKE_S: Final = 0.5
"""How long a request's sudden death may keep the loop; see ``_wake_regularly``."""
READY_POLL_S: Final = 0.01


class Pyfuse3Session:
    """One mount; see ``hsmfs.session.interface.Session``."""

    def __init__(self, engine: Engine, settings: SessionSettings, metrics: FsMetrics) -> None:
        self.settings = settings
        self.waiting = Waiting(metrics)
        entries = Entries(settings.attr_timeout_s, settings.entry_timeout_s)
        self.operations = Operations(engine, self.waiting, entries, metrics)
        self._serving = False
        self._notifier = ThreadPoolExecutor(1, thread_name_prefix="hsmfs-notify")

    def mount(self) -> None:
        """Mount; raises ``LibraryError`` that says what is wrong."""
        try:
            pyfuse3.init(self.operations, str(self.settings.mount), self._options())
        except (RuntimeError, OSError) as error:
            raise LibraryError(
                f"fuse.mount: {self.settings.mount}: the kernel or fusermount3 refused the mount "
                f"({error}); see the line above, 'dmesg', and whether /etc/fuse.conf has "
                "user_allow_other (needed for fuse.allow_other unless run as root)"
            ) from error
        self._serving = True
        if os.geteuid() == 0 and not mounting.raise_background_limit(self.settings.mount):
            log.info("the kernel's limit of background requests stays as it is")

    def _options(self) -> set[str]:
        source = self.settings.source.replace(",", "_")
        options = {f"fsname={source}", f"subtype={FS_TYPE}", "default_permissions"}
        if self.settings.allow_other:
            options.add("allow_other")
        options.update(self.settings.options.helper)
        return options

    async def serve(self) -> None:
        """Answer requests until the file system is unmounted or stopped."""
        with _wake_regularly():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.waiting.watch)
                await pyfuse3.main(min_tasks=IDLE_TASKS, max_tasks=TASKS_MAX)
                self._serving = False
                nursery.cancel_scope.cancel()

    async def wait_ready(self) -> None:
        """Return when the kernel has accepted the session."""
        while not self.operations.accepted:
            await trio.sleep(READY_POLL_S)

    async def stop(self) -> None:
        """Unmount; when busy end the waits, write back, and detach the mount."""
        if not self._serving:
            return
        mount = self.settings.mount
        if await trio.to_thread.run_sync(mounting.unmount, mount):
            return
        log.warning("the mount is busy: it is detached, open files get errors", mount=str(mount))
        self.waiting.stop()
        await trio.to_thread.run_sync(mounting.sync, mount)
        await trio.to_thread.run_sync(mounting.unmount, mount, True)
        if self._serving:
            pyfuse3.terminate()

    def close(self) -> None:
        """Give the device back."""
        self.waiting.stop()
        self._notifier.shutdown(wait=False, cancel_futures=True)
        pyfuse3.close(unmount=True)

    async def call(self, fn: Callable[[], T | Deferred[T]]) -> T:
        """The engine runs on trio's thread."""
        value = fn()
        return await self.waiting.brief(value) if isinstance(value, Deferred) else value

    def count(self) -> None:
        """Requests are counted as they come."""

    def attributes_changed(self, ino: int) -> None:
        """Forget what the kernel caches of an inode's attributes."""
        if self._serving:
            try:
                pyfuse3.invalidate_inode(ino, attr_only=True)
            except OSError:
                return  # the kernel does not know this inode

    def data_changed(self, ino: int) -> None:
        """The kernel writes what it has of a file's data, and forgets it.

        By a thread of its own: the kernel waits for writes that this one answers.
        """
        if self._serving:
            self._notifier.submit(_forget_data, ino)

    def name_changed(self, parent: int, name: bytes) -> None:
        """Forget what the kernel caches of a name, and of what is below it."""
        if self._serving:
            pyfuse3.invalidate_entry_async(
                pyfuse3.InodeT(parent), pyfuse3.FileNameT(name), ignore_enoent=True
            )
            self.attributes_changed(parent)

    def names_made(self, names: Sequence[tuple[int, bytes]]) -> None:
        """Forget names known as missing, and listings of their directories."""
        if not self._serving:
            return
        for parent, name in names:
            pyfuse3.invalidate_entry_async(parent, name, ignore_enoent=True)
        for parent in dict.fromkeys(parent for parent, _ in names):
            try:
                pyfuse3.invalidate_inode(parent, attr_only=False)
            except OSError:
                continue  # the kernel does not know this directory


@contextmanager
def _wake_regularly() -> Iterator[None]:
    """Interrupt the thread's system calls now and then while in here.

    The binding reads the device when it is readable, but a request whose
    process is killed at that moment is withdrawn, and the read then blocks
    the whole process until the next request comes. A signal ends that read
    with EINTR, which the binding takes as "try again".
    """
    before = signal.signal(signal.SIGALRM, _nothing)
    signal.setitimer(signal.ITIMER_REAL, WAKE_S, WAKE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _nothing(_number: int, _frame: Any) -> None:
    pass


def check(mount: Path) -> None:
    """Whether a mount can be made here; raises with what is wrong."""
    mounting.check_device()
    mounting.check_mount_point(mount)


def _forget_data(ino: int) -> None:
    with suppress(OSError):  # the kernel does not know this inode, or the mount is gone
        pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=False)
