"""The new namespace, written in bulk: all tables of one inode at once."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

from hsmfs.namespace import schema
from hsmfs.namespace.recovery import VERSION_KEY
from hsmfs.namespace.tables import (
    COUNTERS_KEY,
    JOURNAL_KEY,
    NEXT_INO_KEY,
    STARTS_KEY,
    STUBS,
    Counters,
)
from hsmfs.records import FLAG_XATTRS, InodeRecord
from hsmfs.store.interface import Item
from hsmfs.types import ROOT_INODE

BATCH_ITEMS: Final = 100_000
INODES_SKIPPED: Final = 1 << 24
"""Numbers that discs which nobody gave us may have used are not given again."""
JOURNAL_SKIPPED: Final = 1 << 32
"""The same for numbers of the journal."""
Place = tuple[int, bytes]


class NamespaceFile:
    """An LMDB environment that nobody else has open."""

    def __init__(self, path: Path, map_bytes: int, highest_ino: int) -> None:
        path.mkdir(parents=True)
        self._path, self._map_bytes = str(path), map_bytes
        self._env: Any = self._open()
        self._items: list[Item] = []
        self._next_ino = max(schema.FIRST_INO, highest_ino + 1) + INODES_SKIPPED
        self.counters = Counters()

    def _open(self) -> Any:
        return lmdb.open(self._path, map_size=self._map_bytes, sync=False, metasync=False)

    def number(self) -> int:
        """One that was never used, for an inode or a cookie."""
        self._next_ino += 1
        return self._next_ino - 1

    def is_taken(self, place: Place) -> bool:
        """Whether a name is given already."""
        self.flush()
        with self._env.begin() as txn:
            return txn.get(schema.entry_key(*place)) is not None

    def inode(
        self,
        record: InodeRecord,
        places: Sequence[Place],
        xattrs: dict[bytes, bytes],
        target: bytes = b"",
    ) -> None:
        """One inode with its names; ``record.nlink`` is set by the caller."""
        items, ino, kind = self._items, record.ino, stat.S_IFMT(record.mode)
        for parent, name in places:
            cookie = self.number()
            items += (
                (schema.entry_key(parent, name), schema.ENTRY.pack(ino, kind, cookie)),
                (schema.listed_key(parent, cookie), schema.LISTED.pack(ino, kind) + name),
                (schema.link_key(ino, parent, name), b""),
            )
        if xattrs:
            record.flags |= FLAG_XATTRS
            items += [(schema.xattr_key(ino, name), value) for name, value in xattrs.items()]
        if kind == stat.S_IFLNK:
            items.append((schema.symlink_key(ino), target))
        items.append((schema.inode_key(ino), record.pack()))
        if kind == stat.S_IFREG:
            self._count(record)
        self.counters.inodes += ino != ROOT_INODE
        if len(items) >= BATCH_ITEMS:
            self.flush()

    def _count(self, record: InodeRecord) -> None:
        index = schema.index_key(record.state, record.pool, record.heat, record.ino)
        self._items.append((index, b""))
        counters = self.counters
        counters.files[record.state] += 1
        counters.bytes[record.state] += record.size
        counters.cached += 0 if record.state in STUBS else record.size

    def flush(self) -> None:
        """What was put can be read."""
        self._items.sort()
        with self._env.begin(write=True) as txn:
            txn.cursor().putmulti(self._items)
        self._items = []

    def close(self, journal_until: int) -> None:
        """The meta table; then all is on disk."""
        self.flush()
        following = journal_until + 1 + (JOURNAL_SKIPPED if journal_until else 0)
        with self._env.begin(write=True) as txn:
            txn.put(VERSION_KEY, b"%d" % schema.SCHEMA_VERSION)
            txn.put(STARTS_KEY, b"1")
            txn.put(NEXT_INO_KEY, b"%d 0 0" % self._next_ino)
            txn.put(COUNTERS_KEY, msgspec.msgpack.encode(self.counters))
            txn.put(JOURNAL_KEY, b"%d %d" % (following, following))
        self._env.sync(True)
        self._env.close()
