"""Records in and out of the store, with what must change along with them.

Inodes that were saved are packed once for each commit, together with what they
change in the policy index and the counters; all of one operation's changes
land in one batch, so they are never apart after a crash.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from hsmfs.cache.paths import FILES_BITS
from hsmfs.clock import Clock
from hsmfs.errors import FsError, StoreFullError
from hsmfs.namespace import schema
from hsmfs.namespace.model import Attr
from hsmfs.namespace.readonly import Guard
from hsmfs.records import FLAG_SPARSE, FLAG_WORM, FLAG_XATTRS, FROZEN, InodeRecord
from hsmfs.store.interface import Reader
from hsmfs.store.overlay import GroupCommit
from hsmfs.types import Residency

CACHED_INODES_MAX: Final = 50_000
COUNTERS_KEY: Final = b"Mcounters"
NEXT_INO_KEY: Final = b"Mnext_ino"
JOURNAL_KEY: Final = b"Mjournal"
STARTS_KEY: Final = b"Mstarts"
STUBS: Final = (Residency.MIGRATED, Residency.RECALLING)
BLOCK_FILES: Final = 1 << FILES_BITS
TRIM_RECORDS: Final = 4096
"""Old journal records dropped in one commit."""
_encode: Final = msgspec.msgpack.Encoder().encode


class Counters(msgspec.Struct):
    """Files and bytes by state, and bytes in the cache."""

    files: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0, 0])
    bytes: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0, 0])
    cached: int = 0
    inodes: int = 0


def counted_cached_bytes(reader: Reader) -> int:
    """Bytes in the cache, as the last commit counted them."""
    counters = reader.get(COUNTERS_KEY)
    return msgspec.msgpack.decode(counters, type=Counters).cached if counters else 0


class Tables:
    """Inodes, entries, links, marks and the journal."""

    def __init__(self, kv: GroupCommit, clock: Clock, journal_records_max: int) -> None:
        self.kv = kv
        self.clock = clock
        self._inodes: dict[int, InodeRecord] = {}
        self._dirty: dict[int, InodeRecord] = {}
        self._journal_max = journal_records_max
        self.is_held: Callable[[int], bool] = lambda ino: False
        """Whether a record is in use (open file, running recall); set by the engine."""
        self.guard = Guard()
        """Who knows trees with a retention; set by the engine."""
        self.live: dict[int, Callable[[], None]] = {}
        """Inodes whose cache file programs change directly, and what brings
        the record up to date."""
        self.quotas_save: Callable[[], None] = lambda: None
        """Puts the usage of quotas into the batch."""
        self.settled: Callable[[], None] = lambda: None
        """Told when the counters are right again."""
        self.blocks_of: Callable[[InodeRecord], int] = lambda record: record.size >> 9
        """Blocks that a sparse cache file has; set by the engine."""
        counters = kv.get(COUNTERS_KEY)
        self.counters = msgspec.msgpack.decode(counters, type=Counters) if counters else Counters()
        numbers = [int(word) for word in (kv.get(NEXT_INO_KEY) or b"").split()]
        self._next_ino = numbers[0] if numbers else schema.FIRST_INO
        self.file_next, self.file_stop = numbers[1:3] if len(numbers) == 3 else (0, 0)
        self.generation = int(kv.get(STARTS_KEY) or b"1")
        first, following = (kv.get(JOURNAL_KEY) or b"1 1").split()
        self._journal_first, self._journal_next = int(first), int(following)
        kv.before_commit = self.settle

    # -- inodes --------------------------------------------------------------

    def inode(self, ino: int) -> InodeRecord:
        """The record; ESTALE if there is no such inode."""
        record = self._inodes.get(ino)
        if record is None:
            data = self.kv.get(schema.inode_key(ino))
            if data is None:
                raise FsError(errno.ESTALE)
            record = InodeRecord.unpack(data)
            self._remember(record)
        return record

    def _remember(self, record: InodeRecord) -> None:
        if len(self._inodes) >= CACHED_INODES_MAX:
            self._make_room()
        self._inodes[record.ino] = record

    def _make_room(self) -> None:
        """Forget the oldest quarter; records that somebody holds stay one object."""
        for ino in list(self._inodes)[: CACHED_INODES_MAX // 4]:
            record = self._inodes.pop(ino)
            if ino in self._dirty or record.nlink == 0 or self.is_held(ino):
                self._inodes[ino] = record

    def number(self) -> int:
        """One that was never used, for an inode or a cookie."""
        number = self._next_ino
        self._next_ino = number + 1
        return number

    def file_number(self) -> int:
        """For a regular file: from a block of numbers that share a directory of the tier."""
        if self.file_next >= self.file_stop:
            self.file_next = -(-self._next_ino // BLOCK_FILES) * BLOCK_FILES
            self.file_stop = self._next_ino = self.file_next + BLOCK_FILES
        number = self.file_next
        self.file_next = number + 1
        return number

    def file_block(self) -> range:
        """A block of numbers for regular files, with a directory of the tier of its own."""
        first = -(-self._next_ino // BLOCK_FILES) * BLOCK_FILES
        self._next_ino = first + BLOCK_FILES
        return range(first, self._next_ino)

    @property
    def journal_next(self) -> int:
        """The number of the next change."""
        return self._journal_next

    @property
    def next_ino(self) -> int:
        """All numbers so far are smaller."""
        return self._next_ino

    def check_commits(self) -> None:
        """Before something is added: ENOSPC (or EIO) while commits fail.

        Removing goes on: it makes room.
        """
        failing = self.kv.failing
        if failing is not None:
            full = isinstance(failing, StoreFullError)
            raise FsError(errno.ENOSPC if full else errno.EIO, str(failing))

    def new_inode(self, mode: int, uid: int, gid: int, rdev: int = 0) -> InodeRecord:
        """A fresh record; not saved yet."""
        self.check_commits()
        now_ns = self.clock.now_ns()
        ino = self.file_number() if stat.S_ISREG(mode) else self.number()
        record = InodeRecord(
            ino, self.generation, mode, uid, gid, 1, rdev, 0, now_ns, now_ns, now_ns, now_ns
        )
        self.counters.inodes += 1
        self._remember(record)
        return record

    def take_in(self, record: InodeRecord) -> None:
        """A record that was filled in elsewhere, under a number of its own."""
        self.check_commits()
        self.counters.inodes += 1
        self._remember(record)
        self.save(record)

    def save(self, record: InodeRecord) -> None:
        """The record as it is at the next commit will be stored."""
        ino = record.ino
        self._inodes[ino] = record
        self._dirty[ino] = record
        self.kv.touch()

    def settle(self) -> None:
        """Put what was saved into the batch, with index and counters."""
        dirty, self._dirty = self._dirty, {}
        if not dirty and not self.kv.has_active:
            return
        put = self.kv.put
        for ino, record in dirty.items():
            put(schema.inode_key(ino), record.pack())
            if stat.S_ISREG(record.mode):
                facts = record.facts()
                if facts != record.stored:
                    self._recount(record, facts)
        self._trim_journal()
        self.quotas_save()
        put(NEXT_INO_KEY, b"%d %d %d" % (self._next_ino, self.file_next, self.file_stop))
        put(COUNTERS_KEY, _encode(self.counters))
        put(JOURNAL_KEY, b"%d %d" % (self._journal_first, self._journal_next))
        self.settled()

    def _recount(self, record: InodeRecord, facts: tuple[int, int, float, int, int]) -> None:
        index = schema.index_key(record.state, record.pool, record.heat, record.ino)
        old = record.stored
        record.stored = facts
        if old is not None:
            before = schema.index_key(old[0], old[1], old[2], record.ino)
            if before != index:
                self.kv.drop(before)
                self.kv.put(index, b"")
            self._add(old, -1)
        else:
            self.kv.put(index, b"")
        self._add(facts, 1)

    def _add(self, facts: tuple[int, int, float, int, int], sign: int) -> None:
        state, _, _, size, head = facts
        self.counters.files[state] += sign
        self.counters.bytes[state] += sign * size
        self.counters.cached += sign * (min(size, head) if state in STUBS else size)

    def drop_inode(self, record: InodeRecord) -> None:
        """Remove the record and all that hangs on it."""
        ino = record.ino
        if record.flags & (FLAG_WORM | FROZEN):
            self.guard.dropped(record)
        self._dirty.pop(ino, None)
        self._inodes.pop(ino, None)
        self.live.pop(ino, None)
        self.kv.drop(schema.inode_key(ino))
        if record.stored is not None and stat.S_ISREG(record.mode):
            state, pool, heat = record.stored[:3]
            self.kv.drop(schema.index_key(state, pool, heat, ino))
            self._add(record.stored, -1)
            record.stored = None
        self.counters.inodes -= 1
        if stat.S_ISLNK(record.mode):
            self.kv.drop(schema.symlink_key(ino))
        if record.flags & FLAG_XATTRS:
            for key, _ in list(self.kv.scan(*schema.xattr_range(ino))):
                self.kv.drop(key)
        self.kv.drop(schema.mark_key(ino))

    def attr(self, record: InodeRecord) -> Attr:
        """As stat(2) shows it; stubs show the space of their head."""
        if record.ino in self.live:
            self.live[record.ino]()
        return self.attr_of(record)

    def attr_of(self, record: InodeRecord) -> Attr:
        """As the record has it, for one that nobody else can have changed."""
        size = record.size
        if record.state in STUBS:
            size = min(size, record.head_bytes)
        blocks = (size + 4095 >> 12) << 3
        if record.flags & FLAG_SPARSE:
            blocks = min(blocks, self.blocks_of(record))
        return Attr(
            record.ino,
            record.generation,
            record.mode,
            record.nlink,
            record.uid,
            record.gid,
            record.rdev,
            record.size,
            blocks,
            record.atime_ns,
            record.mtime_ns,
            record.ctime_ns,
            record.btime_ns,
        )

    # -- entries ---------------------------------------------------------------

    def entry(self, parent: int, name: bytes) -> int | None:
        """The inode that a name stands for."""
        value = self.kv.get(schema.entry_key(parent, name))
        if value is None:
            return None
        return int.from_bytes(value[:8], "big")

    def add_entry(
        self, parent: int, name: bytes, record: InodeRecord, cookie: int | None = None
    ) -> None:
        """A name; listed last in its directory, or where ``cookie`` says."""
        cookie = cookie or self.number()
        kind = stat.S_IFMT(record.mode)
        put = self.kv.put
        put(schema.entry_key(parent, name), schema.ENTRY.pack(record.ino, kind, cookie))
        put(schema.listed_key(parent, cookie), schema.LISTED.pack(record.ino, kind) + name)
        put(schema.link_key(record.ino, parent, name), b"")

    def remove_entry(self, parent: int, name: bytes, ino: int) -> int:
        """Forget a name; its cookie."""
        key = schema.entry_key(parent, name)
        value = self.kv.get(key)
        assert value is not None
        cookie: int = schema.ENTRY.unpack(value)[2]
        self.kv.drop(key)
        self.kv.drop(schema.listed_key(parent, cookie))
        self.kv.drop(schema.link_key(ino, parent, name))
        return cookie

    def listed(
        self, parent: int, after: int, limit: int | None
    ) -> Iterator[tuple[int, int, int, bytes]]:
        """Cookie, inode, file type and name of the entries after a cookie."""
        for key, value in self.kv.scan(*schema.listed_range(parent, after), limit=limit):
            ino, kind = schema.LISTED.unpack_from(value)
            yield int.from_bytes(key[9:], "big"), ino, kind, value[12:]

    # -- extended attributes ---------------------------------------------------

    def xattr(self, record: InodeRecord, name: bytes) -> bytes | None:
        """A stored attribute."""
        if not record.flags & FLAG_XATTRS:
            return None
        return self.kv.get(schema.xattr_key(record.ino, name))

    def put_xattr(self, record: InodeRecord, name: bytes, value: bytes) -> None:
        """Store or replace; the record is to be saved by the caller."""
        self.check_commits()
        record.flags |= FLAG_XATTRS
        self.kv.put(schema.xattr_key(record.ino, name), value)

    def drop_xattr(self, record: InodeRecord, name: bytes) -> bool:
        """Remove; False if there was none."""
        if not record.flags & FLAG_XATTRS:
            return False
        return self.kv.delete(schema.xattr_key(record.ino, name))

    # -- directories -----------------------------------------------------------

    def is_empty(self, parent: int) -> bool:
        return not any(True for _ in self.kv.scan(*schema.listed_range(parent), limit=1))

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

    def marked(self, ino: int) -> bytes | None:
        """The mark of an inode."""
        return self.kv.get(schema.mark_key(ino))

    def unmark(self, ino: int) -> None:
        self.kv.delete(schema.mark_key(ino))

    def journal(self, op: str, ino: int, *facts: Any) -> None:
        """Note a change of the namespace; the oldest are dropped beyond the bound."""
        value = _encode((self.clock.now_ns(), op, ino, *facts))
        self.kv.put(schema.journal_key(self._journal_next), value)
        self._journal_next += 1

    def _trim_journal(self) -> None:
        stop = min(self._journal_next - self._journal_max, self._journal_first + TRIM_RECORDS)
        for sequence in range(self._journal_first, stop):
            self.kv.drop(schema.journal_key(sequence))
        self._journal_first = max(self._journal_first, stop)

    def touch_parent(self, parent: InodeRecord) -> None:
        """A directory's entries changed."""
        parent.mtime_ns = parent.ctime_ns = self.clock.now_ns()
        self.save(parent)


def cached_bytes(record: InodeRecord) -> int:
    """Bytes that the data of a file has in the cache."""
    return min(record.size, record.head_bytes) if record.state in STUBS else record.size
