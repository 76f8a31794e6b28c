"""A store in memory, for tests and simulations: nothing survives the process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from sortedcontainers import SortedDict

from hsmfs.store.interface import KEY_BYTES_MAX, Batch, Item, Reader, StoreStat, T, Writer, apply_to


class _View:
    """Reads and writes on one sorted dictionary."""

    def __init__(self, items: SortedDict[bytes, bytes]) -> None:
        self._items = items

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._items.get(key)
        return value

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._items.get(key) for key in keys]

    def scan(
        self, start: bytes, stop: bytes, reverse: bool = False, limit: int | None = None
    ) -> Iterator[Item]:
        if start >= stop:
            return
        keys = self._items.irange(start, stop, inclusive=(True, False), reverse=reverse)
        for count, key in enumerate(list(keys)):
            if limit is not None and count >= limit:
                return
            value = self._items.get(key)
            if value is not None:
                yield key, value

    def keys(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        return [key for key, _ in self.scan(start, stop, limit=limit)]

    def values(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        return [value for _, value in self.scan(start, stop, limit=limit)]

    def first_keys(self, starts: Sequence[bytes]) -> list[bytes]:
        return [next(iter(self._items.irange(start)), b"") for start in starts]

    def put(self, key: bytes, value: bytes) -> None:
        if not 0 < len(key) <= KEY_BYTES_MAX:
            raise ValueError(f"key of {len(key)} bytes, expected 1 to {KEY_BYTES_MAX}")
        self._items[bytes(key)] = bytes(value)

    def delete(self, key: bytes) -> bool:
        return self._items.pop(key, None) is not None


class MemoryStore:
    """Snapshots are copies: right, and small enough for tests."""

    def __init__(self) -> None:
        self._items: SortedDict[bytes, bytes] = SortedDict()
        self._lock = threading.Lock()

    @contextmanager
    def snapshot(self) -> Iterator[Reader]:
        """A view as of now."""
        with self._lock:
            items = self._items
        yield _View(items)

    def transact(self, fn: Callable[[Writer], T]) -> T:
        """All of ``fn``'s changes, or none."""
        with self._lock:
            changed = self._items.copy()
            result = fn(_View(changed))
            self._items = changed
            return result

    def apply(self, batch: Batch) -> None:
        """All of a batch in one transaction, in the order of its keys."""
        self.transact(lambda writer: apply_to(writer, batch))

    def backup(self, path: Path) -> None:
        """All items as msgpack into a file."""
        path.write_bytes(msgspec.msgpack.encode(list(self._items.items())))

    def stat(self) -> StoreStat:
        """Entries and the bytes of keys and values."""
        size = sum(len(key) + len(value) for key, value in self._items.items())
        return StoreStat(len(self._items), size)

    def close(self) -> None:
        """Forget everything."""
        self._items = SortedDict()
