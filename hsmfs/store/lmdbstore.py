"""The store on LMDB: memory-mapped, one writer, readers in any process."""

from __future__ import annotations

import errno
import os
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

import lmdb
import structlog

from hsmfs.errors import CallerError, StoreDamagedError, StoreFullError, TransientError
from hsmfs.store.interface import Batch, Item, Reader, StoreStat, T, Writer, apply_to

log = structlog.get_logger(__name__)
MAP_DOUBLINGS_MAX: Final = 8
READERS_MAX: Final = 126
FULL_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT)
MAX_KEY_BYTES: Final = 511
START_TABLES: Final = (b"M", b"O")
"""Tables of the namespace that each start reads in full."""
PROBE_VALUE_BYTES: Final = 1 << 16
PROBE_BYTES: Final = 1 << 20
"""More than LMDB writes at once."""


def damaged(path: Path, why: str) -> StoreDamagedError:
    """What a user is told of a store whose pages cannot be read."""
    return StoreDamagedError(
        f"{path}: found a damaged LMDB file ({why}), expected one whose pages can be read; "
        "restore it from a backup"
    )


class _View:
    """Reads and writes inside one transaction."""

    def __init__(self, txn: Any, path: Path) -> None:
        self._txn = txn
        self._path = path

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._txn.get(key)
        except lmdb.Error as error:
            raise damaged(self._path, str(error)) from error
        return value

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        get = self._txn.get
        try:
            return [get(key) for key in keys]
        except lmdb.Error as error:
            raise damaged(self._path, str(error)) from error

    def scan(
        self, start: bytes, stop: bytes, reverse: bool = False, limit: int | None = None
    ) -> Iterator[Item]:
        if start >= stop:
            return
        left = -1 if limit is None else limit
        with self._txn.cursor() as cursor:
            try:
                for item in _walk(cursor, start, stop, reverse):
                    if left == 0:
                        return
                    left -= 1
                    yield item
            except lmdb.Error as error:
                raise damaged(self._path, str(error)) from error

    def keys(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        with self._txn.cursor() as cursor:
            try:
                if not cursor.set_range(start):
                    return []
                found = list(islice(cursor.iternext(keys=True, values=False), limit))
            except lmdb.Error as error:
                raise damaged(self._path, str(error)) from error
        if found and found[-1] >= stop:
            del found[bisect_left(found, stop) :]
        return found

    def values(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        with self._txn.cursor() as cursor:
            try:
                if not cursor.set_range(start):
                    return []
                found = list(islice(cursor.iternext(keys=False, values=True), limit))
                # Values do not tell where to stop: the place that was reached does.
                if len(found) == limit and (not cursor.key() or cursor.key() < stop):
                    return found
            except lmdb.Error as error:
                raise damaged(self._path, str(error)) from error
        return found[: len(self.keys(start, stop, limit))]

    def first_keys(self, starts: Sequence[bytes]) -> list[bytes]:
        with self._txn.cursor() as cursor:
            try:
                seek, key = cursor.set_range, cursor.key
                return [key() if seek(start) else b"" for start in starts]
            except lmdb.Error as error:
                raise damaged(self._path, str(error)) from error

    def put(self, key: bytes, value: bytes) -> None:
        self._txn.put(key, value)

    def delete(self, key: bytes) -> bool:
        return bool(self._txn.delete(key))


def _walk(cursor: Any, start: bytes, stop: bytes, reverse: bool) -> Iterator[Item]:
    if not reverse:
        found = cursor.set_range(start)
        while found and cursor.key() < stop:
            yield cursor.item()
            found = cursor.next()
        return
    found = cursor.prev() if cursor.set_range(stop) else cursor.last()
    while found and cursor.key() >= start:
        yield cursor.item()
        found = cursor.prev()


class LmdbStore:
    """One environment in a directory.

    Raises CallerError where the directory holds no usable environment, and
    TransientError where the disk is full (nothing of the transaction stays).
    """

    def __init__(self, path: Path, map_bytes: int = 1 << 40, read_only: bool = False) -> None:
        self.path = path
        self._lock = threading.Lock()
        if not read_only:
            path.mkdir(parents=True, exist_ok=True)
        try:
            self._env = lmdb.open(
                str(path),
                map_size=map_bytes,
                readonly=read_only,
                create=not read_only,
                readahead=False,
                max_spare_txns=4,
                max_readers=READERS_MAX,
            )
        except lmdb.Error as error:
            raise CallerError(
                f"{path}: found no usable store ({error}), expected an LMDB environment; "
                "restore it from a backup"
            ) from error

    @contextmanager
    def snapshot(self) -> Iterator[Reader]:
        """A view as of now; keep it short, it holds old pages."""
        try:
            txn = self._env.begin()
        except lmdb.MapResizedError:
            self._env.set_mapsize(0)
            txn = self._env.begin()
        with txn:
            yield _View(txn, self.path)

    def transact(self, fn: Callable[[Writer], T]) -> T:
        """One write transaction; a full map is doubled and ``fn`` run again."""
        with self._lock:
            for _ in range(MAP_DOUBLINGS_MAX):
                try:
                    with self._env.begin(write=True) as txn:
                        return fn(_View(txn, self.path))
                except lmdb.MapFullError:
                    self._grow()
                except lmdb.Error as error:
                    # A write that was cut for want of room is EIO, which has no class.
                    cut = type(error) is lmdb.Error and self._disk_is_full()
                    if cut or isinstance(error, lmdb.DiskError):
                        why = f"{self.path}: {error}; make room on its disk"
                        raise StoreFullError(why) from error
                    raise
            raise TransientError(f"{self.path}: map full after {MAP_DOUBLINGS_MAX} doublings")

    def prove(self, tables: Sequence[bytes] = START_TABLES) -> None:
        """Touch what a start will touch (of the namespace, if nothing else is said);
        CallerError where the file is damaged.

        To be done in a process of its own: reading pages beyond the end of a
        file that was cut ends the process.
        """
        try:
            with self.snapshot() as view:
                if self._seems_cut():
                    log.info("a store is shorter than its pages: it is read", path=str(self.path))
                    for _ in view.scan(b"", b"\xff" * MAX_KEY_BYTES):
                        pass
                for prefix in tables:
                    for _ in view.scan(prefix, prefix[:-1] + bytes([prefix[-1] + 1])):
                        pass
            with self._env.begin(write=True) as txn:
                txn.put(b"~probe", bytes(PROBE_VALUE_BYTES))  # takes pages from the free list
                txn.abort()
        except lmdb.DiskError:
            return
        except lmdb.Error as error:
            raise damaged(self.path, str(error)) from error

    def _seems_cut(self) -> bool:
        """Pages at the end that were never written are no fault, but worth a look at all."""
        pages = self._env.info()["last_pgno"] + 1
        size = os.stat(self.path / "data.mdb").st_size
        return bool(size < pages * self._env.stat()["psize"])

    def _disk_is_full(self) -> bool:
        """Asks the disk: LMDB itself does not tell."""
        try:
            probe = os.open(self.path, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC)
        except OSError as error:
            return error.errno in FULL_ERRORS
        try:
            os.posix_fallocate(probe, 0, PROBE_BYTES)
        except OSError as error:
            return error.errno in FULL_ERRORS
        finally:
            os.close(probe)
        return False

    def _grow(self) -> None:
        size = self._env.info()["map_size"] * 2
        log.info("store map grows", path=str(self.path), bytes=size)
        self._env.set_mapsize(size)

    def apply(self, batch: Batch) -> None:
        """All of a batch in one transaction, in the order of its keys."""
        self.transact(lambda writer: apply_to(writer, batch))

    def backup(self, path: Path) -> None:
        """A compacted copy into a new directory."""
        path.mkdir(parents=True)
        self._env.copy(str(path), compact=True)

    def stat(self) -> StoreStat:
        """Entries, and bytes of the pages in use."""
        stat = self._env.stat()
        info = self._env.info()
        return StoreStat(stat["entries"], (info["last_pgno"] + 1) * stat["psize"])

    def close(self) -> None:
        """Close the environment."""
        self._env.close()
