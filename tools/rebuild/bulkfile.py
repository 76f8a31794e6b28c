"""An LMDB environment written in bulk by one process: sorted batches, little memory.

The pages that LMDB maps count as the process's memory until they are unmapped,
so the environment is opened anew from time to time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import lmdb

from hsmfs.store.interface import Item

BATCH_ITEMS: Final = 50_000
"""Items in memory before they are put."""
READ_ITEMS: Final = 1000
"""Items of one read transaction."""
ITEMS_OPEN: Final = 200_000
"""Items put or read between two openings."""


class BulkFile:
    """Items are put in any order, and can be read after ``flush``. Durable after ``close``."""

    def __init__(self, path: Path, map_bytes: int) -> None:
        path.mkdir(parents=True)
        self._path, self._map_bytes = str(path), map_bytes
        self._items: list[Item] = []
        self._used = 0
        self._env: Any = self._open()

    def _open(self) -> Any:
        return lmdb.open(
            self._path, map_size=self._map_bytes, sync=False, metasync=False, readahead=False
        )

    def _fresh(self, items: int) -> Any:
        """The environment, its pages unmapped now and then; no transaction may be open."""
        self._used += items
        if self._used >= ITEMS_OPEN:
            self._used = 0
            self._env.close()
            self._env = self._open()
        return self._env

    def put(self, *items: Item) -> None:
        """A few more."""
        self._items += items
        if len(self._items) >= BATCH_ITEMS:
            self.flush()

    def flush(self) -> None:
        """What was put can be read."""
        self._items.sort()
        with self._fresh(len(self._items)).begin(write=True) as txn:
            txn.cursor().putmulti(self._items)
        self._items = []

    def delete(self, *keys: bytes) -> None:
        """What was flushed."""
        with self._fresh(len(keys)).begin(write=True) as txn:
            for key in keys:
                txn.delete(key)

    def scan(self, start: bytes, stop: bytes) -> Iterator[Item]:
        """Items with ``start <= key < stop``, ascending; nothing may be flushed meanwhile."""
        while True:
            found = self._some(start, stop)
            yield from found
            if len(found) < READ_ITEMS:
                return
            start = found[-1][0] + b"\0"

    def _some(self, start: bytes, stop: bytes) -> list[Item]:
        with self._fresh(READ_ITEMS).begin() as txn:
            cursor = txn.cursor()
            found: list[Item] = []
            if cursor.set_range(start):
                for item in cursor.iternext(keys=True, values=True):
                    if item[0] >= stop or len(found) == READ_ITEMS:
                        break
                    found.append(item)
            return found

    def close(self) -> None:
        """All is on disk."""
        self.flush()
        self._env.sync(True)
        self._env.close()
