"""The cache tier against the inodes, both in the order of their numbers."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from functools import partial
from itertools import chain

from hsmfs.fsck.cachefiles import CacheFile
from hsmfs.fsck.findings import Finding, Kind
from hsmfs.fsck.lostfound import LostFound
from hsmfs.fsck.rebuild import from_copies
from hsmfs.fsck.straycheck import Strays
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
        self.strays = Strays(subject, lost)

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
                yield from self.strays.rescue(strays.pop(0))
        while file is not None:
            strays.append(file)
            file = self._next(files, strays)
            while strays:
                yield from self.strays.rescue(strays.pop(0))
        for stray in strays:
            yield from self.strays.rescue(stray)
        yield from self.strays.sides()
        self.strays.end()

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
            if record.state not in STUBS or record.head_bytes:
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
        ino, aside = record.ino, self.strays.new_file(size)
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
        elif size == record.size:
            # A recall comes to this place as a whole, so these are all bytes.
            self.subject.changed_data(record)
            self.subject.save(record)
            todo = "resident again, to be burned anew: no copies are proved"
            yield self.subject.finding(Kind.HEAD, ino, found, expected, todo)
        else:
            yield self.subject.finding(Kind.HEAD, ino, found, expected + "; no copies proved", "")

    def _is_proved(self, record: InodeRecord) -> bool:
        return any(
            known.data_version == record.data_version
            and known.size == record.size
            and known.copies >= max(1, record.copies)
            for known in self.subject.copies.of(record.ino)
        )
