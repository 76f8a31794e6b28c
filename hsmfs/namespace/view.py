"""The namespace as other processes read it: from a snapshot of the store."""

from __future__ import annotations

import stat
from collections.abc import Iterator

import msgspec

from hsmfs.namespace import schema
from hsmfs.namespace.bulk import BulkView
from hsmfs.namespace.tables import JOURNAL_KEY
from hsmfs.records import InodeRecord
from hsmfs.store.interface import Reader


class NamespaceView:
    """Questions to one consistent snapshot; changes nothing."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    @property
    def bulk(self) -> BulkView:
        """The same snapshot by columns."""
        return BulkView(self._reader)

    def inode(self, ino: int) -> InodeRecord | None:
        """The record of an inode."""
        data = self._reader.get(schema.inode_key(ino))
        return InodeRecord.unpack(data) if data is not None else None

    def lookup_path(self, path: bytes) -> int | None:
        """The inode at a path relative to the root; the root for an empty one."""
        ino = 1
        for name in path.split(b"/"):
            if not name:
                continue
            value = self._reader.get(schema.entry_key(ino, name))
            if value is None:
                return None
            ino = schema.ENTRY.unpack(value)[0]
        return ino

    def paths_of(self, ino: int) -> list[bytes]:
        """All full paths of an inode, without a leading slash."""
        found = []
        for key, _ in self._reader.scan(*schema.link_range(ino)):
            parent, name = schema.U64.unpack_from(key, 9)[0], key[17:]
            above = self._directory_path(parent)
            if above is not None:
                found.append(above + b"/" + name if above else name)
        return found

    def _directory_path(self, ino: int) -> bytes | None:
        names: list[bytes] = []
        while ino != 1:
            place = next(iter(self._reader.scan(*schema.link_range(ino), limit=1)), None)
            if place is None:
                return None
            names.append(place[0][17:])
            ino = schema.U64.unpack_from(place[0], 9)[0]
        return b"/".join(reversed(names))

    def children(self, ino: int, limit: int | None = None) -> list[tuple[bytes, int]]:
        """Names and inodes of a directory, in the order of inode numbers; of the ``limit``
        made first."""
        entries = [
            (value[12:], schema.LISTED.unpack_from(value)[0])
            for _, value in self._reader.scan(*schema.listed_range(ino), limit=limit)
        ]
        return sorted(entries, key=lambda entry: entry[1])

    def walk(self, ino: int, prefix: bytes) -> Iterator[tuple[bytes, InodeRecord]]:
        """All entries below a directory, depth first, by inode number within each:
        the order in which cp, tar and most importers read a tree."""
        pending = [iter(self.children(ino))]
        paths = [prefix]
        while pending:
            entry = next(pending[-1], None)
            if entry is None:
                pending.pop()
                paths.pop()
                continue
            name, child = entry
            record = self.inode(child)
            if record is None:
                continue
            path = paths[-1] + b"/" + name if paths[-1] else name
            yield path, record
            if stat.S_ISDIR(record.mode):
                pending.append(iter(self.children(child)))
                paths.append(path)

    def xattrs(self, ino: int) -> dict[bytes, bytes]:
        """Stored extended attributes."""
        found = {key[9:]: value for key, value in self._reader.scan(*schema.xattr_range(ino))}
        found.pop(schema.VOLUMES_XATTR, None)
        return found

    def symlink(self, ino: int) -> bytes | None:
        """The target of a symbolic link."""
        return self._reader.get(schema.symlink_key(ino))

    def volumes(self, ino: int) -> list[str]:
        """Labels of the volumes that hold the file's present version."""
        value = self._reader.get(schema.xattr_key(ino, schema.VOLUMES_XATTR))
        return value.decode().split() if value else []

    def files_in_state(self, state: int, limit: int | None = None) -> Iterator[InodeRecord]:
        """Regular files in a state, by pool and coldest first, from the index."""
        start, stop = b"C" + bytes([state]), b"C" + bytes([state + 1])
        for key, _ in self._reader.scan(start, stop, limit=limit):
            record = self.inode(schema.INDEX.unpack_from(key, 1)[3])
            if record is not None:
                yield record

    def journal(self, since: int, limit: int) -> tuple[bool, int, list[tuple[str, int]]]:
        """Changes after a number of the journal: whether it still reaches back so far (never
        for 0), the number up to which these are, and operation and inode of each."""
        first, following = (int(word) for word in (self._reader.get(JOURNAL_KEY) or b"1 1").split())
        if not since or since + 1 < first:
            return False, following - 1, []
        until = min(following - 1, since + limit)
        keys = schema.journal_key(since + 1), schema.journal_key(until + 1)
        changes = [msgspec.msgpack.decode(value) for _, value in self._reader.scan(*keys)]
        return True, until, [(change[1], change[2]) for change in changes]
