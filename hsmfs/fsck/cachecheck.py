"""The cache tier against the inodes, both in the order of their numbers."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from functools import partial
from itertools import chain

from hsmfs.fsck.cachefiles import COPY, OPEN, RECALL, CacheFile, SideFile
from hsmfs.fsck.findings import Finding, Kind
from hsmfs.fsck.lostfound import LostFound
from hsmfs.fsck.rebuild import from_copies
from hsmfs.fsck.subject import Subject
from hsmfs.records import FLAG_SEEN, FLAG_SPARSE, RECORD_BYTES, InodeRecord
from hsmfs.residency import Cause, after
from hsmfs.types import Residency

_MODE_AT = 12
STUBS = (Residency.MIGRATED, Residency.RECALLING)


class CacheCheck:
    """A merge of two ordered streams: records of regular files, and cache files."""

    def __init__(self, subject: Subject, lost: LostFound) -> None:
        self.subject = subject
        self.cache = subject.cache
        self.lost = lost
        self._unborn: list[str] = []
        """Files of a batch that was lost: the next start removes them."""

    def run(self) -> Iterator[Finding]:
        """All files of the tier."""
        strays: list[CacheFile] = []
        files = chain(self.cache.walk(), [None])
        file = self._next(files, strays)
        for record in self._records():
            while file is not None and file.ino < record.ino:
                strays.append(file)
                file = self._next(files, strays)
            if file is not None and file.ino == record.ino:
                yield from self._file(record, file.size)
                file = self._next(files, strays)
            else:
                yield from self._file(record, None)
            while strays:
                yield from self._stray(strays.pop(0))
        while file is not None:
            strays.append(file)
            file = self._next(files, strays)
            while strays:
                yield from self._stray(strays.pop(0))
        for stray in strays:
            yield from self._stray(stray)
        yield from self._sides()
        self._end_unborn()

    def _next(self, files: Iterator[CacheFile | None], strays: list[CacheFile]) -> CacheFile | None:
        while (file := next(files)) is not None:
            self.subject.summary.cache_files += 1
            if file.ino >= 0:
                return file
            strays.append(file)
        return None

    def _records(self) -> Iterator[InodeRecord]:
        for _, value in self.subject.work.scan(b"I", b"J"):
            mode = int.from_bytes(value[_MODE_AT : _MODE_AT + 4], "little")
            if stat.S_ISREG(mode) and len(value) == RECORD_BYTES:
                record = InodeRecord.unpack(value)
                if record.ino < self.subject.born:
                    yield record

    # -- a file and its record ---------------------------------------------------------

    def _file(self, record: InodeRecord, size: int | None) -> Iterator[Finding]:
        if record.state == Residency.RECALLING and not self.subject.is_marked(record.ino):
            record.state = after(record.state, Cause.GIVEN_UP)
            self.subject.save(record)
            found, expected = "recalling, but no mark says so", "migrated while nothing runs"
            yield self.subject.finding(Kind.STATE, record.ino, found, expected, "migrated")
        if size is None:
            yield self._missing(record)
        elif self.subject.is_marked(record.ino):
            return
        elif record.state in STUBS:
            yield from self._stub(record, size)
        elif size != record.size:
            yield self._resized(record, size)

    def _missing(self, record: InodeRecord) -> Finding:
        ino, expected = record.ino, f"{self.cache.path(record.ino)}"
        found = f"no cache file of a {Residency(record.state).word} file of {record.size} bytes"
        if record.state in STUBS or record.size == 0:
            record.head_bytes = 0 if record.state in STUBS else record.head_bytes
            return self._emptied(record, found, expected)
        if self._turn_to_stub(record):
            return self._emptied(record, found, expected)
        return self.subject.finding(Kind.LOST, ino, found + ", no copies on volumes", expected, "")

    def _emptied(self, record: InodeRecord, found: str, expected: str) -> Finding:
        ino = record.ino
        self.subject.work.now(lambda: self.cache.make(ino))
        self.subject.save(record)
        todo = "an empty one is made"
        if record.size:
            todo += "; all data comes from the volumes"
        return self.subject.finding(Kind.CACHE_FILE, ino, found, expected, todo)

    def _turn_to_stub(self, record: InodeRecord) -> bool:
        """Where volumes hold just this version."""
        for known in self.subject.copies.of(record.ino):
            same = known.data_version == record.data_version and known.size == record.size
            if same and known.copies:
                from_copies(record, known)
                return True
        return False

    def _resized(self, record: InodeRecord, size: int) -> Finding:
        found = f"{record.size} bytes in the record"
        expected = f"{size} bytes, as the cache file has"
        if record.state != Residency.RESIDENT and self._turn_to_stub(record):
            return self._set_aside(record, size)
        record.size = size
        record.flags |= FLAG_SPARSE
        if record.flags & FLAG_SEEN or record.state != Residency.RESIDENT:
            self.subject.changed_data(record)
        self.subject.save(record)
        return self.subject.finding(Kind.CACHE_SIZE, record.ino, found, expected, "set")

    def _set_aside(self, record: InodeRecord, size: int) -> Finding:
        """The volumes have the right data; what is in the cache is kept as a file."""
        path = self.cache.path(record.ino)
        found, expected = f"{size} bytes in the cache file", f"{record.size}, as on the volumes"
        ino, aside = record.ino, self._new_file(size)
        name = self.lost.place(aside.ino, stat.S_IFREG).decode()
        self.subject.work.now(lambda: self._swap(path, aside.ino, ino))
        self.subject.save(record)
        todo = f"a stub of the volumes' data; the cached bytes are kept as {name}"
        return self.subject.finding(Kind.CACHE_SIZE, ino, found, expected, todo)

    def _swap(self, path: str, aside: int, ino: int) -> None:
        self.cache.adopt(path, aside)
        self.subject.work.then(partial(self.cache.remove, path))
        self.subject.work.then(partial(self.cache.make, ino))

    def _stub(self, record: InodeRecord, size: int) -> Iterator[Finding]:
        head = min(record.head_bytes, record.size)
        if size == head:
            return
        ino, found = record.ino, f"{size} bytes in the cache file of a stub"
        expected = f"{head}, its head"
        if size < head:
            record.head_bytes = size
            self.subject.save(record)
            todo = "the rest comes from the volumes"
            yield self.subject.finding(Kind.HEAD, ino, found, expected, todo)
        elif self._is_proved(record):
            self.subject.work.then(lambda: self.cache.cut(ino, head))
            yield self.subject.finding(Kind.HEAD, ino, found, expected, "cut; copies are proved")
        else:
            yield self.subject.finding(Kind.HEAD, ino, found, expected + "; no copies proved", "")

    def _is_proved(self, record: InodeRecord) -> bool:
        return any(
            known.data_version == record.data_version
            and known.size == record.size
            and known.copies >= max(1, record.copies)
            for known in self.subject.copies.of(record.ino)
        )

    # -- files without an inode ------------------------------------------------------------

    def _new_file(self, size: int) -> InodeRecord:
        record = self.subject.new_record(self.subject.number(), stat.S_IFREG | 0o600, size)
        record.flags = FLAG_SPARSE
        self.subject.made(record)
        return record

    def _stray(self, file: CacheFile) -> Iterator[Finding]:
        if self.subject.is_marked(file.ino):
            return  # removed data that is still to go
        if file.ino >= self.subject.born:
            if self.subject.record(file.ino) is not None:
                return  # made by this very repair
            if self.subject.next_ino_was_right:
                self.subject.summary.pending += 1
                self._unborn.append(file.path)
                return
        found, expected = f"{file.path}, {file.size} bytes", "an inode that it belongs to"
        name = b"#%d" % file.ino if file.ino >= 0 else b""
        there = self.lost.entry(name) if name else 0
        if there and self.cache.is_same(file.path, there):
            self.subject.work.then(lambda: self.cache.remove(file.path))
            todo = "removed: an earlier repair was cut after the file got its name"
            yield self.subject.finding(Kind.STRAY, 0, found, expected, todo, file.path)
            return
        yield self._rescue(file, found, expected)

    def _end_unborn(self) -> None:
        """Once new numbers were given, the next start no longer knows these."""
        if self.subject.next_ino != self.subject.born:
            for path in self._unborn:
                self.subject.work.then(partial(self.cache.remove, path))

    def _rescue(self, file: CacheFile, found: str, expected: str) -> Finding:
        record = self._new_file(file.size)
        record.mtime_ns = file.mtime_ns
        self.subject.save(record)
        name = b"#%d" % file.ino if file.ino >= 0 else b""
        kept = self.lost.place(record.ino, stat.S_IFREG, name).decode()
        self.subject.work.now(lambda: self.cache.adopt(file.path, record.ino))
        self.subject.work.then(lambda: self.cache.remove(file.path))
        todo = f"becomes the file {kept}"
        return self.subject.finding(Kind.STRAY, record.ino, found, expected, todo, file.path)

    # -- what was under way ------------------------------------------------------------------

    def _sides(self) -> Iterator[Finding]:
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
        finding = self._rescue(facts, found, expected)
        return Finding(Kind.LEFTOVER, finding.ino, file.path, found, expected, finding.repair)
