"""Link counts, inodes without a name, and marks, from the names that are right now."""

from __future__ import annotations

import stat
from collections.abc import Iterator

import numpy as np

from hsmfs.fsck.findings import Finding, Kind
from hsmfs.fsck.lostfound import LostFound
from hsmfs.fsck.names import Names
from hsmfs.fsck.subject import Subject
from hsmfs.namespace import schema
from hsmfs.records import DTYPE, InodeRecord
from hsmfs.types import ROOT_INODE


class NodeCheck:
    """One pass over the inodes."""

    def __init__(self, subject: Subject, names: Names, lost: LostFound) -> None:
        self.subject = subject
        self.names = names
        self.lost = lost
        self.counts = names.counts()
        self.below = names.subdirectories()

    def run(self) -> Iterator[Finding]:
        """Marks first: they tell which inodes may be without a name."""
        yield from self._marks()
        for items in self.subject.work.chunks(b"I", b"J"):
            records = np.frombuffer(b"".join(value for _, value in items), dtype=DTYPE)
            self.subject.summary.inodes += len(items)
            inodes = records["ino"].astype(np.uint64)
            named = self.counts.of_many(inodes)
            folders = records["mode"] & 0o170000 == stat.S_IFDIR
            links = np.where(folders, 2 + self.below.of_many(inodes), named)
            wrong = (records["nlink"] != links) | (named == 0)
            for at in np.nonzero(wrong)[0].tolist():
                yield from self._inode(int(inodes[at]))

    # -- marks ---------------------------------------------------------------------

    def _marks(self) -> Iterator[Finding]:
        for ino, mark in sorted(self.subject.marks.items()):
            fault = self._mark_fault(ino, mark)
            if fault:
                where = self.subject.where(ino)
                self.subject.work.delete(schema.mark_key(ino))
                del self.subject.marks[ino]
                expected = "a mark of work that was cut"
                yield self.subject.finding(
                    Kind.MARK, ino, f"mark {mark.decode()} {fault}", expected, "removed", where
                )

    def _mark_fault(self, ino: int, mark: bytes) -> str:
        there = self.subject.record(ino) is not None
        if mark == schema.MARK_DOOMED:
            return "(data to be removed) of an inode that is there" if there else ""
        if not there:
            return "of a missing inode"
        if mark == schema.MARK_ORPHAN and (ino == ROOT_INODE or self.counts.of(ino)):
            return "(no name) of an inode that has one"
        return ""

    # -- names and links ---------------------------------------------------------------

    def _inode(self, ino: int) -> Iterator[Finding]:
        record = self.subject.record(ino)
        assert record is not None
        if ino != ROOT_INODE and self.counts.of(ino) == 0:
            if record.nlink or not self.subject.is_marked(ino):
                yield self._nameless(record)
            return
        links = self._links(record)
        if links == record.nlink:
            return
        found, expected = f"link count {record.nlink}", f"{links} as there are names"
        record.nlink = links
        self.subject.save(record)
        if ino not in self.subject.rebuilt and ino not in self.subject.relinked:
            yield self.subject.finding(Kind.LINK_COUNT, ino, found, expected, "set")

    def _links(self, record: InodeRecord) -> int:
        if stat.S_ISDIR(record.mode):
            return 2 + self.below.of(record.ino)
        return self.counts.of(record.ino)

    def _nameless(self, record: InodeRecord) -> Finding:
        ino = record.ino
        placed = self.lost.place(ino, stat.S_IFMT(record.mode)).decode()
        record.nlink = self._links(record)
        self.subject.save(record)
        if self.subject.marks.get(ino) == schema.MARK_ORPHAN:
            self.subject.work.delete(schema.mark_key(ino))
            del self.subject.marks[ino]
        found, todo = "no name leads to it", f"gets the name {placed}"
        where = f"inode {ino}"
        return self.subject.finding(Kind.NAMELESS, ino, found, "at least one", todo, where)
