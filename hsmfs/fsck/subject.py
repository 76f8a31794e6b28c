"""What is checked: records in and out, with what must change along with them."""

from __future__ import annotations

import os
import stat
from typing import Final

import msgspec

from hsmfs.fsck.cachefiles import CacheFiles
from hsmfs.fsck.findings import Copies, Finding, Kind, Summary
from hsmfs.fsck.workspace import Workspace
from hsmfs.namespace import schema
from hsmfs.namespace.tables import NEXT_INO_KEY, Counters
from hsmfs.records import FLAG_SEEN, RECORD_BYTES, InodeRecord
from hsmfs.types import ROOT_INODE, Residency

FILE_TYPES: Final = frozenset(
    {
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
        stat.S_IFCHR,
        stat.S_IFBLK,
    }
)
STATES: Final = frozenset(Residency)
DEPTH_MAX: Final = 4096
MARKS: Final = frozenset(
    {schema.MARK_WRITE, schema.MARK_ORPHAN, schema.MARK_CUT, schema.MARK_DOOMED}
)


class Subject:
    """One namespace with its cache, and what the catalog knows of its files."""

    def __init__(
        self, work: Workspace, cache: CacheFiles, copies: Copies, now_ns: int, summary: Summary
    ) -> None:
        self.work = work
        self.cache = cache
        self.copies = copies
        self.now_ns = now_ns
        self.summary = summary
        self.next_ino: int = schema.FIRST_INO
        self.generation = 1
        self.block = range(0)
        """Numbers kept for regular files that are still to be made."""
        self.next_ino_was_right = True
        self.born = 0
        """Numbers below were in use when the check began."""
        self.delta = Counters()
        """What repairs did to the counters."""
        self.is_delta_known = True
        self.rebuilt: set[int] = set()
        """Inodes whose former record is not known: old index keys may be left."""
        self.relinked: set[int] = set()
        """Inodes whose names a repair changed: their link counts follow."""
        self.marks: dict[int, bytes] = {}
        self.opened: set[int] = set()
        """Inodes for which a marker in the cache stands."""

    # -- findings ----------------------------------------------------------------

    def finding(
        self, kind: Kind, ino: int, found: str, expected: str, repair: str, where: str = ""
    ) -> Finding:
        """One more; the repair itself is the caller's."""
        self.summary.found += 1
        self.summary.repaired += bool(repair) and self.work.repairing
        return Finding(kind, ino, where or self.where(ino), found, expected, repair)

    def where(self, ino: int) -> str:
        """The path of an inode, or its number where it has none."""
        path = self.path_of(ino)
        return f"inode {ino}" if path is None else os.fsdecode(b"/" + path)

    def path_of(self, ino: int) -> bytes | None:
        """One full path without a leading slash; None if it does not lead to the root."""
        names: list[bytes] = []
        for _ in range(DEPTH_MAX):
            if ino == ROOT_INODE:
                return b"/".join(reversed(names))
            place = next(self.work.scan(*schema.link_range(ino), chunk=1), None)
            if place is None or len(place[0]) < 18:
                return None
            names.append(place[0][17:])
            ino = schema.U64.unpack_from(place[0], 9)[0]
        return None

    def path_in(self, parent: int, name: bytes) -> str:
        """The path of an entry."""
        above = self.where(parent).rstrip("/")
        return f"{above}/{os.fsdecode(name)}"

    # -- records -----------------------------------------------------------------

    def record(self, ino: int) -> InodeRecord | None:
        """The record; None if there is none that can be read."""
        value = self.work.get(schema.inode_key(ino))
        if value is None or len(value) != RECORD_BYTES:
            return None
        return InodeRecord.unpack(value)

    def save(self, record: InodeRecord) -> None:
        """Store with what index and counters must say of it."""
        old = record.stored
        self.work.put(schema.inode_key(record.ino), record.pack())
        if not stat.S_ISREG(record.mode):
            return
        if old is not None:
            self.work.delete(schema.index_key(*old[:3], record.ino))
            self._count(old, -1)
        self.work.put(schema.index_key(record.state, record.pool, record.heat, record.ino), b"")
        record.stored = record.facts()
        self._count(record.stored, 1)

    def made(self, record: InodeRecord) -> None:
        """A record where there was none."""
        self.delta.inodes += 1
        self.save(record)

    def _count(self, facts: tuple[int, int, float, int, int], sign: int) -> None:
        state, _, _, size, head = facts
        if state not in STATES:
            self.is_delta_known = False
            return
        self.delta.files[state] += sign
        self.delta.bytes[state] += sign * size
        stub = state in (Residency.MIGRATED, Residency.RECALLING)
        self.delta.cached += sign * (min(size, head) if stub else size)

    def number(self) -> int:
        """One that was never used."""
        # Cache files beyond may be left of a batch that was lost.
        number = self.next_ino
        if number == self.born:
            number = max(number, self.cache.highest() + 1)
        self.next_ino = number + 1
        self.put_numbers()
        return number

    def put_numbers(self) -> None:
        """Store what was given out so far."""
        numbers = self.next_ino, self.block.start, self.block.stop
        self.work.put(NEXT_INO_KEY, b"%d %d %d" % numbers)

    def new_record(self, ino: int, mode: int, size: int, nlink: int = 1) -> InodeRecord:
        """A record for what had none."""
        now_ns = self.now_ns
        return InodeRecord(
            ino, self.generation, mode, 0, 0, nlink, 0, size, now_ns, now_ns, now_ns, now_ns
        )

    def changed_data(self, record: InodeRecord) -> None:
        """The cached bytes are not those that copies have: a version of its own."""
        record.state = Residency.RESIDENT
        record.data_version += 1
        record.copies = 0
        record.flags &= ~FLAG_SEEN
        self.work.delete(schema.xattr_key(record.ino, schema.VOLUMES_XATTR))

    # -- entries -----------------------------------------------------------------

    def kind_of(self, ino: int) -> int:
        """The S_IFMT bits of an inode; 0 if there is none."""
        record = self.record(ino)
        return stat.S_IFMT(record.mode) if record is not None else 0

    def put_entry(self, parent: int, name: bytes, ino: int, kind: int, cookie: int) -> None:
        """A name, listed and linked."""
        put = self.work.put
        put(schema.entry_key(parent, name), schema.ENTRY.pack(ino, kind, cookie))
        put(schema.listed_key(parent, cookie), schema.LISTED.pack(ino, kind) + name)
        put(schema.link_key(ino, parent, name), b"")

    def drop_entry(self, parent: int, name: bytes) -> None:
        """A name, and what lists and links it."""
        value = self.work.get(schema.entry_key(parent, name))
        self.work.delete(schema.entry_key(parent, name))
        if value is None or len(value) != schema.ENTRY.size:
            return
        ino, kind, cookie = schema.ENTRY.unpack(value)
        self.relinked.update((ino, parent) if kind == stat.S_IFDIR else (ino,))
        listed = self.work.get(schema.listed_key(parent, cookie))
        if listed is not None and listed[schema.LISTED.size :] == name:
            self.work.delete(schema.listed_key(parent, cookie))
        self.work.delete(schema.link_key(ino, parent, name))

    def is_marked(self, ino: int) -> bool:
        """Whether the next start will look at this inode."""
        return ino in self.marks or ino in self.opened


def decoded(value: bytes | None) -> Counters | None:
    """The counters; None if they cannot be read."""
    if value is None:
        return None
    try:
        found = msgspec.msgpack.decode(value, type=Counters)
    except msgspec.MsgspecError:
        return None
    return found if len(found.files) == len(found.bytes) == len(STATES) else None
