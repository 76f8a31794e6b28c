"""Table D, the truth about names: entries of directories that stand for inodes.

What only lists (R) and links (L) them is put right on the way.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from hsmfs.errors import FsError
from hsmfs.fsck.findings import Finding, Kind
from hsmfs.fsck.names import Names
from hsmfs.fsck.rebuild import named_kind, restore
from hsmfs.fsck.subject import Subject
from hsmfs.namespace import schema
from hsmfs.namespace.tree import check_name
from hsmfs.types import ROOT_INODE

Entry = tuple[int, int, int]
"""Inode, type and cookie."""
REMOVED = "the name is removed; what it stood for is looked after below"


class EntryCheck:
    """One pass over table D; ``names`` gets what is right."""

    def __init__(self, subject: Subject, names: Names) -> None:
        self.subject = subject
        self.names = names
        self._parent = -1
        self._parent_kind = 0

    def run(self) -> Iterator[Finding]:
        """All entries."""
        for key, value in self.subject.work.scan(b"D", b"E"):
            self.subject.summary.entries += 1
            yield from self._entry(key, value)

    def _entry(self, key: bytes, value: bytes) -> Iterator[Finding]:
        if len(key) < 10 or not is_name(key[9:]):
            yield self._drop_key(key, value)
            return
        parent, name = schema.U64.unpack_from(key, 1)[0], key[9:]
        yield from self._directory(parent)
        if self._parent_kind != stat.S_IFDIR:
            yield self._drop(parent, name, f"an entry of inode {parent}", "an entry of a directory")
            return
        entry: Entry | None = None
        if len(value) == schema.ENTRY.size:
            entry = schema.ENTRY.unpack(value)
        else:
            entry = self._listed(parent, name)
            yield self._decode_finding(parent, name, value, entry)
        if entry is not None:
            yield from self._child(parent, name, entry)

    # -- the directory ------------------------------------------------------------

    def _directory(self, parent: int) -> Iterator[Finding]:
        if parent == self._parent:
            return
        self._parent, self._parent_kind = parent, self.subject.kind_of(parent)
        if self._parent_kind == 0 and self._was_directory(parent):
            restore(self.subject, parent, stat.S_IFDIR)
            self._parent_kind = stat.S_IFDIR
            found, todo = "no inode, but entries", "made anew; owner root, times now"
            yield self.subject.finding(Kind.RECORD, parent, found, "a directory", todo)

    def _was_directory(self, ino: int) -> bool:
        """Whether a missing inode has more of a directory than one entry."""
        if ino >= self.subject.next_ino:
            return False
        kind = named_kind(self.subject, ino)
        lists = self.subject.work.has(*schema.listed_range(ino))
        return kind == stat.S_IFDIR or (kind == 0 and lists)

    # -- its entry ---------------------------------------------------------------

    def _drop_key(self, key: bytes, value: bytes) -> Finding:
        self.subject.work.delete(key)
        if len(value) == schema.ENTRY.size and len(key) >= 9:
            ino, _, cookie = schema.ENTRY.unpack(value)
            parent = schema.U64.unpack_from(key, 1)[0]
            if self._listed_name(parent, cookie) == key[9:]:
                self.subject.work.delete(schema.listed_key(parent, cookie))
            self.subject.work.delete(schema.link_key(ino, parent, key[9:]))
        found, expected = f"name {key[9:]!r}", "1 to 255 bytes without / and zero, not . or .."
        return self.subject.finding(Kind.ENTRY, 0, found, expected, REMOVED, "entries")

    def _drop(self, parent: int, name: bytes, found: str, expected: str) -> Finding:
        where = self.subject.path_in(parent, name)
        self.subject.drop_entry(parent, name)
        return self.subject.finding(Kind.ENTRY, 0, found, expected, REMOVED, where)

    def _listed(self, parent: int, name: bytes) -> Entry | None:
        """The entry as the directory's list has it; put back if it is there."""
        size = schema.LISTED.size
        for key, value in self.subject.work.scan(*schema.listed_range(parent)):
            if value[size:] == name and len(key) == 17:
                ino, kind = schema.LISTED.unpack_from(value)
                cookie = schema.U64.unpack_from(key, 9)[0]
                self.subject.put_entry(parent, name, ino, kind, cookie)
                return ino, kind, cookie
        self.subject.work.delete(schema.entry_key(parent, name))
        return None

    def _decode_finding(
        self, parent: int, name: bytes, value: bytes, entry: Entry | None
    ) -> Finding:
        todo = REMOVED if entry is None else "taken from the directory's list"
        found, expected = f"a value of {len(value)} bytes", f"{schema.ENTRY.size} bytes"
        where = self.subject.path_in(parent, name)
        return self.subject.finding(Kind.ENTRY, 0, found, expected, todo, where)

    # -- what it stands for ---------------------------------------------------------

    def _child(self, parent: int, name: bytes, entry: Entry) -> Iterator[Finding]:
        other = self._outvoted(parent, name, entry)
        if other is not None:
            yield self._correct(parent, name, entry, other)
            entry = other
        ino, kind, cookie = entry
        real = self.subject.kind_of(ino)
        if ino == ROOT_INODE:
            yield self._drop(parent, name, "the root as an entry", "any other inode")
            return
        if real == 0:
            record = restore(self.subject, ino, kind)
            real = stat.S_IFMT(record.mode) if record is not None else 0
            yield self._dangling(parent, name, ino, kind, bool(real))
            if not real:
                return
        if real != kind:
            yield self._kind(parent, name, (ino, kind, cookie), real)
        yield from self._cookie(parent, name, (ino, real, cookie))
        yield from self._link(parent, name, ino)
        self.names.add(parent, ino, real)

    def _outvoted(self, parent: int, name: bytes, entry: Entry) -> Entry | None:
        """What list and link agree on, against the entry."""
        listed = self.subject.work.get(schema.listed_key(parent, entry[2]))
        if listed is None or listed[schema.LISTED.size :] != name:
            return None
        ino, kind = schema.LISTED.unpack_from(listed)
        if ino == entry[0] or self.subject.work.get(schema.link_key(ino, parent, name)) is None:
            return None
        linked = self.subject.work.get(schema.link_key(entry[0], parent, name)) is not None
        return None if linked or not self.subject.kind_of(ino) else (ino, kind, entry[2])

    def _correct(self, parent: int, name: bytes, entry: Entry, other: Entry) -> Finding:
        self.subject.put_entry(parent, name, *other)
        found, expected = f"inode {entry[0]}", f"{other[0]}, as list and link say"
        where = self.subject.path_in(parent, name)
        return self.subject.finding(Kind.ENTRY, other[0], found, expected, "set", where)

    def _dangling(self, parent: int, name: bytes, ino: int, kind: int, made: bool) -> Finding:
        where = self.subject.path_in(parent, name)
        found = f"inode {ino}, which is missing"
        expected = f"an inode of type {kind:o}"
        if made:
            todo = "made anew from entries, cache and catalog; owner root, times now"
            return self.subject.finding(Kind.RECORD, ino, found, expected, todo, where)
        self.subject.drop_entry(parent, name)
        todo = "the name is removed: no data of it is left, in the cache or on volumes"
        return self.subject.finding(Kind.ENTRY, ino, found, expected, todo, where)

    def _kind(self, parent: int, name: bytes, entry: Entry, real: int) -> Finding:
        ino, kind, cookie = entry
        listed = schema.listed_key(parent, cookie)
        if self.subject.work.get(listed) == schema.LISTED.pack(ino, kind) + name:
            self.subject.work.put(listed, schema.LISTED.pack(ino, real) + name)
        value = schema.ENTRY.pack(ino, real, cookie)
        self.subject.work.put(schema.entry_key(parent, name), value)
        where = self.subject.path_in(parent, name)
        return self.subject.finding(
            Kind.ENTRY_TYPE, ino, f"type {kind:o}", f"{real:o}, the inode's", "set", where
        )

    def _cookie(self, parent: int, name: bytes, entry: Entry) -> Iterator[Finding]:
        """The entry is listed once, under its own cookie."""
        ino, kind, cookie = entry
        work, expected = self.subject.work, schema.LISTED.pack(ino, kind) + name
        if not schema.FIRST_INO <= cookie < self.subject.next_ino:
            yield self._new_cookie(parent, name, entry, f"cookie {cookie}")
            return
        listed = work.get(schema.listed_key(parent, cookie))
        if listed == expected:
            return
        where = self.subject.path_in(parent, name)
        other = listed[schema.LISTED.size :] if listed is not None else name
        if other != name and self._owns(parent, other, cookie):
            yield self._new_cookie(parent, name, entry, f"cookie {cookie} of another entry")
            return
        work.put(schema.listed_key(parent, cookie), expected)
        found = "not listed" if listed is None else "listed as something else"
        yield self.subject.finding(
            Kind.LISTING, ino, found, "listed as it is", "listed anew", where
        )

    def _listed_name(self, parent: int, cookie: int) -> bytes:
        listed = self.subject.work.get(schema.listed_key(parent, cookie)) or b""
        return listed[schema.LISTED.size :]

    def _owns(self, parent: int, name: bytes, cookie: int) -> bool:
        """Whether the entry of that name has this cookie."""
        value = self.subject.work.get(schema.entry_key(parent, name)) if name else None
        if value is None or len(value) != schema.ENTRY.size:
            return False
        return bool(schema.ENTRY.unpack(value)[2] == cookie)

    def _new_cookie(self, parent: int, name: bytes, entry: Entry, found: str) -> Finding:
        ino, kind, cookie = entry
        if self._listed_name(parent, cookie) == name:
            self.subject.work.delete(schema.listed_key(parent, cookie))
        self.subject.put_entry(parent, name, ino, kind, self.subject.number())
        expected = f"{schema.FIRST_INO} to {self.subject.next_ino - 2}, each once"
        where = self.subject.path_in(parent, name)
        return self.subject.finding(Kind.COOKIE, ino, found, expected, "gets a new one", where)

    def _link(self, parent: int, name: bytes, ino: int) -> Iterator[Finding]:
        key = schema.link_key(ino, parent, name)
        if self.subject.work.get(key) is None:
            self.subject.work.put(key, b"")
            where = self.subject.path_in(parent, name)
            yield self.subject.finding(
                Kind.LINK, ino, "no link from the inode", "one for each name", "written", where
            )


def is_name(name: bytes) -> bool:
    """Whether an entry may have this name."""
    try:
        check_name(name)
    except FsError:
        return False
    return True
