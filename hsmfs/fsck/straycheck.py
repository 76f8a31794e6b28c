"""Files of the cache tier that no inode has: data gets a name in lost+found."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from functools import partial

from hsmfs.fsck.cachefiles import COPY, OPEN, RECALL, CacheFile, SideFile
from hsmfs.fsck.findings import Finding, Kind
from hsmfs.fsck.lostfound import LostFound
from hsmfs.fsck.subject import Subject
from hsmfs.records import FLAG_SPARSE, InodeRecord


class Strays:
    """What is found, and what the next start would remove by itself."""

    def __init__(self, subject: Subject, lost: LostFound) -> None:
        self.subject = subject
        self.cache = subject.cache
        self.lost = lost
        self._unborn: list[str] = []
        """Files of a batch that was lost: the next start removes them."""

    # -- files without an inode ------------------------------------------------------------

    def new_file(self, size: int) -> InodeRecord:
        """The record of a file for what is found; it still wants a name."""
        record = self.subject.new_record(self.subject.number(), stat.S_IFREG | 0o600, size)
        record.flags = FLAG_SPARSE
        self.subject.made(record)
        return record

    def rescue(self, file: CacheFile) -> Iterator[Finding]:
        """A data file that no record knows."""
        if self.subject.is_marked(file.ino):
            return  # removed data that is still to go
        if file.ino in self.subject.block:
            self.subject.summary.pending += 1
            return  # made ahead; the next start removes it
        if file.ino >= self.subject.born:
            if self.subject.record(file.ino) is not None:
                return  # made by this very repair
            if self.subject.next_ino_was_right:
                self.subject.summary.pending += 1
                self._unborn.append(file.path)
                return
        found, expected = f"{file.path}, {file.size} bytes", "an inode that it belongs to"
        if file.size == 0:
            self.subject.work.then(partial(self.cache.remove, file.path))
            todo = "removed, it is empty"
            yield self.subject.finding(Kind.STRAY, 0, found, expected, todo, file.path)
            return
        name = b"#%d" % file.ino if file.ino >= 0 else b""
        there = self.lost.entry(name) if name else 0
        if there not in (0, file.ino) and self.cache.is_same(file.path, there):
            self.subject.work.then(lambda: self.cache.remove(file.path))
            todo = "removed: an earlier repair was cut after the file got its name"
            yield self.subject.finding(Kind.STRAY, 0, found, expected, todo, file.path)
            return
        yield self._adopt(file, found, expected)

    def end(self) -> None:
        """Once new numbers were given, the next start no longer knows these."""
        if self.subject.next_ino != self.subject.born:
            for path in self._unborn:
                self.subject.work.then(partial(self.cache.remove, path))

    def _adopt(self, file: CacheFile, found: str, expected: str) -> Finding:
        record = self.new_file(file.size)
        record.mtime_ns = file.mtime_ns
        self.subject.save(record)
        name = b"#%d" % file.ino if file.ino >= 0 else b""
        kept = self.lost.place(record.ino, stat.S_IFREG, name).decode()
        self.subject.work.now(lambda: self.cache.adopt(file.path, record.ino))
        self.subject.work.then(lambda: self.cache.remove(file.path))
        todo = f"becomes the file {kept}"
        return self.subject.finding(Kind.STRAY, record.ino, found, expected, todo, file.path)

    # -- what was under way ------------------------------------------------------------------

    def sides(self) -> Iterator[Finding]:
        """Recalls, copies, claims and markers of the run before."""
        for file in self.cache.sides():
            if file.ino < 0:
                found, expected = f"a strange file {file.path}", "INODE.VERSION or INODE"
                yield self._keep_side(file, found, expected)
            elif file.side in (RECALL, COPY):
                yield from self._leftover(file)
            elif file.side == OPEN and self.subject.record(file.ino) is None:
                self.subject.summary.pending += 1

    def _leftover(self, file: SideFile) -> Iterator[Finding]:
        """The next start removes it; whether it is all there is, is found here."""
        record = self.subject.record(file.ino)
        if self.subject.is_marked(file.ino) or record is not None:
            self.subject.summary.pending += 1
            return
        found, expected = f"{file.path}", "an inode that it belongs to"
        versions = {known.data_version for known in self.subject.copies.of(file.ino)}
        if file.side == RECALL and file.data_version in versions:
            self.subject.work.then(lambda: self.cache.remove(file.path))
            todo = "removed: its data is on volumes"
            yield self.subject.finding(Kind.LEFTOVER, 0, found, expected, todo, file.path)
        else:
            yield self._keep_side(file, found, expected)

    def _keep_side(self, file: SideFile, found: str, expected: str) -> Finding:
        facts = self.cache.facts(file.path)
        finding = self._adopt(facts, found, expected)
        return Finding(Kind.LEFTOVER, finding.ino, file.path, found, expected, finding.repair)
