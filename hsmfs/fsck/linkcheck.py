"""Tables R and L: what only repeats table D, from two other sides.

Where D has no such name, the name comes back if its inode would else have too
few; all other remains are taken away.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from hsmfs.fsck.entrycheck import is_name
from hsmfs.fsck.findings import Finding, Kind
from hsmfs.fsck.names import Counts, Names
from hsmfs.fsck.subject import Subject
from hsmfs.namespace import schema
from hsmfs.types import ROOT_INODE

LISTED_KEY_BYTES = 17
LINK_KEY_BYTES_MIN = 18
STALE = "removed: no such entry"


class LinkCheck:
    """One pass over R, one over L, after that over D."""

    def __init__(self, subject: Subject, names: Names) -> None:
        self.subject = subject
        self.names = names
        self._counts: Counts | None = None
        self._given: dict[int, int] = {}

    def run(self) -> Iterator[Finding]:
        """Both tables."""
        for key, value in self.subject.work.scan(b"R", b"S"):
            finding = self._listed(key, value)
            if finding is not None:
                yield finding
        for key, value in self.subject.work.scan(b"L", b"M"):
            finding = self._linked(key, value)
            if finding is not None:
                yield finding

    def _entry(self, parent: int, name: bytes) -> tuple[int, int, int] | None:
        value = self.subject.work.get(schema.entry_key(parent, name))
        if value is None or len(value) != schema.ENTRY.size:
            return None
        ino, kind, cookie = schema.ENTRY.unpack(value)
        return ino, kind, cookie

    # -- lists ---------------------------------------------------------------------

    def _listed(self, key: bytes, value: bytes) -> Finding | None:
        size = schema.LISTED.size
        if len(key) != LISTED_KEY_BYTES or len(value) <= size:
            self.subject.work.delete(key)
            found, expected = f"key of {len(key)}, value of {len(value)} bytes", "17, 13 to 267"
            return self.subject.finding(Kind.LISTING, 0, found, expected, "removed", "lists")
        parent, cookie = schema.TWO_U64.unpack_from(key, 1)
        ino, name = schema.LISTED.unpack_from(value)[0], value[size:]
        entry = self._entry(parent, name)
        if entry is not None and entry[2] == cookie:
            return None
        where = self.subject.path_in(parent, name)
        if entry is None and self._is_wanted(parent, name, ino):
            right = schema.FIRST_INO <= cookie < self.subject.next_ino
            self._give(parent, name, ino, cookie if right else self.subject.number())
            if not right:
                self.subject.work.delete(key)
            return self._gave(ino, "in the directory's list only", where)
        self.subject.work.delete(key)
        found = f"listed with cookie {cookie}"
        expected = "no such entry" if entry is None else f"cookie {entry[2]}"
        return self.subject.finding(Kind.LISTING, ino, found, expected, STALE, where)

    # -- links ---------------------------------------------------------------------

    def _linked(self, key: bytes, value: bytes) -> Finding | None:
        if len(key) < LINK_KEY_BYTES_MIN:
            self.subject.work.delete(key)
            found = f"a key of {len(key)} bytes"
            return self.subject.finding(Kind.LINK, 0, found, "18 or more", "removed", "links")
        ino, parent = schema.TWO_U64.unpack_from(key, 1)
        name = key[17:]
        entry = self._entry(parent, name)
        if entry is not None and entry[0] == ino:
            if not value:
                return None
            self.subject.work.put(key, b"")
            found = f"a value of {len(value)} bytes"
            return self.subject.finding(Kind.LINK, ino, found, "none", "emptied")
        where = self.subject.path_in(parent, name)
        if entry is None and self._is_wanted(parent, name, ino):
            self._give(parent, name, ino, self.subject.number())
            return self._gave(ino, "in the inode's links only", where)
        self.subject.work.delete(key)
        found = f"a link of inode {ino}"
        expected = "no such entry" if entry is None else f"inode {entry[0]}"
        return self.subject.finding(Kind.LINK, ino, found, expected, STALE, where)

    # -- names that come back --------------------------------------------------------

    def _is_wanted(self, parent: int, name: bytes, ino: int) -> bool:
        """Whether the inode is there and has fewer names than it should."""
        record = self.subject.record(ino)
        if record is None or ino == ROOT_INODE or not is_name(name):
            return False
        if self.subject.kind_of(parent) != stat.S_IFDIR:
            return False
        if self._counts is None:
            self._counts = self.names.counts()
        have = self._counts.of(ino) + self._given.get(ino, 0)
        return have < (1 if stat.S_ISDIR(record.mode) else record.nlink)

    def _give(self, parent: int, name: bytes, ino: int, cookie: int) -> None:
        kind = self.subject.kind_of(ino)
        self.subject.put_entry(parent, name, ino, kind, cookie)
        self.names.add(parent, ino, kind)
        self._given[ino] = self._given.get(ino, 0) + 1

    def _gave(self, ino: int, found: str, where: str) -> Finding:
        todo = "the entry is written again"
        return self.subject.finding(Kind.ENTRY, ino, found, "an entry", todo, where)
