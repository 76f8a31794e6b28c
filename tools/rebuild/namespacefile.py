"""The new namespace, written in bulk: all tables of one inode at once."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

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
from hsmfs.tools.rebuild.bulkfile import BulkFile
from hsmfs.types import ROOT_INODE

INODES_SKIPPED: Final = 1 << 24
"""Numbers that discs which nobody gave us may have used are not given again."""
JOURNAL_SKIPPED: Final = 1 << 32
"""The same for numbers of the journal."""
Place = tuple[int, bytes]


class NamespaceFile:
    """An LMDB environment that nobody else has open."""

    def __init__(self, path: Path, map_bytes: int, highest_ino: int) -> None:
        self._file = BulkFile(path, map_bytes)
        self._next_ino = max(schema.FIRST_INO, highest_ino + 1) + INODES_SKIPPED
        self.counters = Counters()
        self.version = schema.SCHEMA_VERSION

    def number(self) -> int:
        """One that was never used, for an inode or a cookie."""
        self._next_ino += 1
        return self._next_ino - 1

    def inode(
        self,
        record: InodeRecord,
        places: Sequence[Place],
        xattrs: dict[bytes, bytes],
        target: bytes = b"",
    ) -> None:
        """One inode with its names; ``record.nlink`` is set by the caller."""
        ino, kind = record.ino, stat.S_IFMT(record.mode)
        items: list[Item] = []
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
            items.append((schema.index_key(record.state, record.pool, record.heat, ino), b""))
            self._count(record)
        self.counters.inodes += ino != ROOT_INODE
        self._file.put(*items)

    def rows(self, *items: Item) -> None:
        """Rows that hang on no inode's record: of retention, holds and the log."""
        self._file.put(*items)
        self.version = schema.WORM_VERSION

    def _count(self, record: InodeRecord) -> None:
        counters = self.counters
        counters.files[record.state] += 1
        counters.bytes[record.state] += record.size
        counters.cached += 0 if record.state in STUBS else record.size

    def close(self, journal_until: int) -> None:
        """The meta table; then all is on disk."""
        following = journal_until + 1 + (JOURNAL_SKIPPED if journal_until else 0)
        self._file.put(
            (VERSION_KEY, b"%d" % self.version),
            (STARTS_KEY, b"1"),
            (NEXT_INO_KEY, b"%d 0 0" % self._next_ino),
            (COUNTERS_KEY, msgspec.msgpack.encode(self.counters)),
            (JOURNAL_KEY, b"%d %d" % (following, following)),
        )
        self._file.close()
