"""Records in and out of the store, with what must change along with them.

Saving an inode keeps the policy index and the counters right; all of one
operation's changes land in one batch, so they are never apart after a crash.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from hsmfs.clock import Clock
from hsmfs.errors import FsError
from hsmfs.namespace import schema
from hsmfs.namespace.model import Attr
from hsmfs.records import InodeRecord
from hsmfs.store.overlay import GroupCommit
from hsmfs.types import Residency

CACHED_INODES_MAX: Final = 50_000
COUNTERS_KEY: Final = b"Mcounters"
NEXT_INO_KEY: Final = b"Mnext_ino"
JOURNAL_KEY: Final = b"Mjournal"
STUBS: Final = (Residency.MIGRATED, Residency.RECALLING)
TRIM_RECORDS: Final = 256
_encode: Final = msgspec.msgpack.Encoder().encode


class Counters(msgspec.Struct):
    """Files and bytes by state, and bytes in the cache."""

    files: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0, 0])
    bytes: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0, 0])
    cached: int = 0
    inodes: int = 0


class _Counted:
    """What a record contributed to index and counters when last saved."""

    __slots__ = ("cached", "index", "size", "state")

    def __init__(self, index: bytes, state: int, size: int, cached: int) -> None:
        self.index = index
        self.state = state
        self.size = size
        self.cached = cached


class Tables:
    """Inodes, entries, links, marks and the journal."""

    def __init__(self, kv: GroupCommit, clock: Clock, journal_records_max: int) -> None:
        self.kv = kv
        self.clock = clock
        self._inodes: dict[int, InodeRecord] = {}
        self._counted: dict[int, _Counted] = {}
        self._journal_max = journal_records_max
        self.is_held: Callable[[int], bool] = lambda ino: False
        """Whether a record is in use (open file, running recall); set by the engine."""
        counters = kv.get(COUNTERS_KEY)
        self.counters = msgspec.msgpack.decode(counters, type=Counters) if counters else Counters()
        self._next_ino = int(kv.get(NEXT_INO_KEY) or b"2")
        first, following = (kv.get(JOURNAL_KEY) or b"1 1").split()
        self._journal_first, self._journal_next = int(first), int(following)

    # -- inodes --------------------------------------------------------------

    def inode(self, ino: int) -> InodeRecord:
        """The record; ESTALE if there is no such inode."""
        record = self._inodes.get(ino)
        if record is None:
            data = self.kv.get(schema.inode_key(ino))
            if data is None:
                raise FsError(errno.ESTALE)
            record = InodeRecord.unpack(data)
            self._remember(record, known=True)
        return record

    def _remember(self, record: InodeRecord, *, known: bool) -> None:
        if len(self._inodes) >= CACHED_INODES_MAX:
            self._make_room()
        self._inodes[record.ino] = record
        if known and stat.S_ISREG(record.mode):
            self._counted[record.ino] = _counted(record)

    def _make_room(self) -> None:
        """Forget the oldest quarter; records that somebody holds stay one object."""
        for ino in list(self._inodes)[: CACHED_INODES_MAX // 4]:
            if not self.is_held(ino):
                del self._inodes[ino]
                self._counted.pop(ino, None)

    def new_inode(self, mode: int, uid: int, gid: int, rdev: int = 0) -> InodeRecord:
        """A fresh record (numbers are never used twice); not saved yet."""
        now_ns = self.clock.now_ns()
        ino, self._next_ino = self._next_ino, self._next_ino + 1
        self.kv.put(NEXT_INO_KEY, b"%d" % self._next_ino)
        record = InodeRecord(ino, 1, mode, uid, gid, 1, rdev, 0, now_ns, now_ns, now_ns, now_ns)
        self.counters.inodes += 1
        self._remember(record, known=False)
        return record

    def save(self, record: InodeRecord) -> None:
        """Write the record as it is now."""
        self._inodes[record.ino] = record
        self.kv.put(schema.inode_key(record.ino), record.pack())
        if stat.S_ISREG(record.mode):
            self._count(record)

    def _count(self, record: InodeRecord) -> None:
        old = self._counted.get(record.ino)
        new = _counted(record)
        self._counted[record.ino] = new
        if old is not None and old.index != new.index:
            self.kv.delete(old.index)
        if old is None or old.index != new.index:
            self.kv.put(new.index, b"")
        self._add(old, -1)
        self._add(new, 1)
        self._save_counters()

    def _add(self, counted: _Counted | None, sign: int) -> None:
        if counted is not None:
            self.counters.files[counted.state] += sign
            self.counters.bytes[counted.state] += sign * counted.size
            self.counters.cached += sign * counted.cached

    def _save_counters(self) -> None:
        self.kv.put(COUNTERS_KEY, _encode(self.counters))

    def drop_inode(self, record: InodeRecord) -> None:
        """Remove the record and all that hangs on it."""
        ino = record.ino
        self.kv.delete(schema.inode_key(ino))
        if stat.S_ISREG(record.mode):
            counted = self._counted.get(ino) or _counted(record)
            self.kv.delete(counted.index)
            self._add(counted, -1)
        self.counters.inodes -= 1
        self._save_counters()
        if stat.S_ISLNK(record.mode):
            self.kv.delete(schema.symlink_key(ino))
        for key, _ in list(self.kv.scan(*schema.xattr_range(ino))):
            self.kv.delete(key)
        self.kv.delete(schema.mark_key(ino))
        self._inodes.pop(ino, None)
        self._counted.pop(ino, None)

    def attr(self, record: InodeRecord) -> Attr:
        """As stat(2) shows it; stubs show the space of their head."""
        size = record.size
        if record.state in STUBS:
            size = min(size, record.head_bytes)
        return Attr(
            record.ino,
            record.generation,
            record.mode,
            record.nlink,
            record.uid,
            record.gid,
            record.rdev,
            record.size,
            (size + 511) // 512,
            record.atime_ns,
            record.mtime_ns,
            record.ctime_ns,
            record.btime_ns,
        )

    # -- entries and links ---------------------------------------------------------

    def entry(self, parent: int, name: bytes) -> int | None:
        """The inode that a name stands for."""
        value = self.kv.get(schema.entry_key(parent, name))
        if value is None:
            return None
        ino: int = schema.ENTRY.unpack(value)[0]
        return ino

    def add_entry(self, parent: int, name: bytes, record: InodeRecord) -> None:
        value = schema.ENTRY.pack(record.ino, stat.S_IFMT(record.mode))
        self.kv.put(schema.entry_key(parent, name), value)
        self.kv.put(schema.link_key(record.ino, parent, name), b"")

    def remove_entry(self, parent: int, name: bytes, ino: int) -> None:
        self.kv.delete(schema.entry_key(parent, name))
        self.kv.delete(schema.link_key(ino, parent, name))

    def entries(self, parent: int) -> Iterator[tuple[bytes, int]]:
        """Names and inodes of a directory, by name."""
        for key, value in self.kv.scan(*schema.entry_range(parent)):
            yield key[9:], schema.ENTRY.unpack(value)[0]

    def is_empty(self, parent: int) -> bool:
        return not any(True for _ in self.kv.scan(*schema.entry_range(parent), limit=1))

    def parent_of(self, ino: int) -> tuple[int, bytes] | None:
        """One place where the inode is linked; a directory has just one."""
        for key, _ in self.kv.scan(*schema.link_range(ino), limit=1):
            return schema.U64.unpack_from(key, 9)[0], key[17:]
        return None

    def path_of(self, ino: int) -> bytes:
        """One full path from the root, without a leading slash; empty if unlinked."""
        names: list[bytes] = []
        while (place := self.parent_of(ino)) is not None:
            ino = place[0]
            names.append(place[1])
        return b"/".join(reversed(names))

    # -- marks and journal --------------------------------------------------------------

    def mark(self, ino: int, kind: bytes) -> None:
        """Something is under way with this inode; see recovery.py."""
        self.kv.put(schema.mark_key(ino), kind)

    def unmark(self, ino: int) -> None:
        self.kv.delete(schema.mark_key(ino))

    def journal(self, op: str, ino: int, *facts: Any) -> None:
        """Note a change of the namespace; the oldest are dropped beyond the bound."""
        value = _encode((self.clock.now_ns(), op, ino, *facts))
        self.kv.put(schema.journal_key(self._journal_next), value)
        self._journal_next += 1
        if self._journal_next - self._journal_first > self._journal_max:
            stop = self._journal_next - self._journal_max
            stop = min(stop, self._journal_first + TRIM_RECORDS)
            for sequence in range(self._journal_first, stop):
                self.kv.delete(schema.journal_key(sequence))
            self._journal_first = stop
        self.kv.put(JOURNAL_KEY, b"%d %d" % (self._journal_first, self._journal_next))

    def touch_parent(self, parent: InodeRecord) -> None:
        """A directory's entries changed."""
        parent.mtime_ns = parent.ctime_ns = self.clock.now_ns()
        self.save(parent)


def _counted(record: InodeRecord) -> _Counted:
    cached = record.size
    if record.state in STUBS:
        cached = min(cached, record.head_bytes)
    index = schema.index_key(record.state, record.pool, record.heat, record.ino)
    return _Counted(index, record.state, record.size, cached)
