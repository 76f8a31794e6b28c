"""What the namespace says of copies, against the catalog's verified discs."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from hsmfs.fsck.findings import Finding, Kind, KnownCopies
from hsmfs.fsck.subject import Subject
from hsmfs.namespace import schema
from hsmfs.records import FLAG_XATTRS, RECORD_BYTES, InodeRecord
from hsmfs.types import Residency

_MODE_AT = 12
STUBS = (Residency.MIGRATED, Residency.RECALLING)


def check_copies(subject: Subject) -> Iterator[Finding]:
    """Each regular file; those that the next start looks at only if they are stubs."""
    for _, value in subject.work.scan(b"I", b"J"):
        mode = int.from_bytes(value[_MODE_AT : _MODE_AT + 4], "little")
        if not stat.S_ISREG(mode) or len(value) != RECORD_BYTES:
            continue
        record = InodeRecord.unpack(value)
        known = subject.copies.of(record.ino)
        if not known and not record.copies and record.state == Residency.RESIDENT:
            continue
        if record.state in STUBS:
            yield from _stub(subject, record, known)
        elif not subject.is_marked(record.ino):
            yield from _with_data(subject, record, known)


def _this_version(record: InodeRecord, known: list[KnownCopies]) -> KnownCopies:
    for copies in known:
        if copies.data_version == record.data_version:
            return copies
    return KnownCopies(record.data_version, record.size, 0, ())


def _stub(subject: Subject, record: InodeRecord, known: list[KnownCopies]) -> Iterator[Finding]:
    mine, ino = _this_version(record, known), record.ino
    if mine.copies == 0:
        found = f"a stub of {record.size} bytes with no verified copy of version "
        expected = f"{max(1, record.copies)} verified copies"
        yield subject.finding(Kind.LOST, ino, f"{found}{record.data_version}", expected, "")
        return
    if mine.copies < record.copies:
        found, expected = f"{mine.copies} verified copies", f"{record.copies}"
        yield subject.finding(Kind.AT_RISK, ino, found, expected, "")
    if mine.size not in (-1, record.size):
        found, expected = f"size {record.size}", f"{mine.size}, as on the volumes"
        record.size = mine.size
        record.head_bytes = min(record.head_bytes, mine.size)
        subject.save(record)
        yield subject.finding(Kind.COPIES, ino, found, expected, "set")
    if record.copies == 0:
        record.copies = min(mine.copies, 255)
        subject.save(record)
        yield subject.finding(Kind.COPIES, ino, "0 copies", f"{mine.copies}", "set")
    yield from _volumes(subject, record, mine)


def _with_data(
    subject: Subject, record: InodeRecord, known: list[KnownCopies]
) -> Iterator[Finding]:
    mine, ino = _this_version(record, known), record.ino
    newest = known[-1].data_version if known else 0
    if newest > record.data_version:
        found, expected = f"version {record.data_version}", f"above {newest}, which was burned"
        record.data_version = newest
        subject.changed_data(record)
        subject.save(record)
        yield subject.finding(Kind.VERSION, ino, found, expected, f"set to {newest + 1}")
    elif mine.size not in (-1, record.size):
        found = f"version {record.data_version} of {record.size} bytes"
        expected = f"{mine.size} bytes, as on the volumes"
        subject.changed_data(record)
        subject.save(record)
        todo = "a new version, to be burned anew"
        yield subject.finding(Kind.COPIES, ino, found, expected, todo)
    elif mine.copies < record.copies or _is_without_copy(record, mine):
        found, expected = f"{mine.copies} verified copies", f"{max(1, record.copies)}"
        record.copies = min(mine.copies, 255)
        record.state = Residency.RESIDENT
        subject.save(record)
        yield subject.finding(Kind.COPIES, ino, found, expected, "resident, to be burned anew")
    elif record.copies:
        yield from _volumes(subject, record, mine)


def _is_without_copy(record: InodeRecord, mine: KnownCopies) -> bool:
    return record.state == Residency.PREMIGRATED and mine.copies == 0


def _volumes(subject: Subject, record: InodeRecord, mine: KnownCopies) -> Iterator[Finding]:
    """The labels that users see are those of the volumes with copies."""
    key = schema.xattr_key(record.ino, schema.VOLUMES_XATTR)
    listed = (subject.work.get(key) or b"").split()
    wanted = [label.encode() for label in mine.labels]
    if set(wanted) <= set(listed):
        return
    subject.work.put(key, b" ".join(wanted))
    record.flags |= FLAG_XATTRS
    subject.save(record)
    found, expected = b" ".join(listed).decode(errors="replace"), " ".join(mine.labels)
    yield subject.finding(Kind.VOLUMES, record.ino, f"volumes: {found}", expected, "set")
