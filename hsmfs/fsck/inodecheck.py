"""Table I: every record can be read, and says what can be."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from typing import Final

from hsmfs.fsck.findings import Finding, Kind
from hsmfs.fsck.rebuild import restore
from hsmfs.fsck.subject import FILE_TYPES, STATES, Subject
from hsmfs.namespace import schema
from hsmfs.records import RECORD_BYTES, InodeRecord
from hsmfs.types import ROOT_INODE, Residency

FIELDS: Final = ("the number", "state", "heat")
"""Faults of one field, the others are kept."""
ROOT_EXPECTED: Final = "a directory, inode 1"


def check_records(subject: Subject) -> Iterator[Finding]:
    """Damaged records are made anew from the other tables, cache and catalog."""
    for key, value in subject.work.scan(b"I", b"J"):
        fault = _fault(key, value)
        if fault:
            yield _repair(subject, key, value, fault)
    root = subject.record(ROOT_INODE)
    if root is None or not stat.S_ISDIR(root.mode):
        found = "no root" if root is None else f"a root of mode {root.mode:o}"
        restore(subject, ROOT_INODE)
        yield subject.finding(Kind.RECORD, ROOT_INODE, found, ROOT_EXPECTED, "made anew", "/")


def _fault(key: bytes, value: bytes) -> str:
    """What is wrong with a record; empty if nothing is."""
    if len(key) != 9:
        return f"a key of {len(key)} bytes"
    if len(value) != RECORD_BYTES:
        return f"a record of {len(value)} bytes"
    record = InodeRecord.unpack(value)
    if stat.S_IFMT(record.mode) not in FILE_TYPES:
        return f"mode {record.mode:o}"
    if record.ino != schema.U64.unpack_from(key, 1)[0]:
        return f"the number {record.ino} in the record"
    if record.state not in STATES:
        return f"state {record.state}"
    if not math.isfinite(record.heat):
        return f"heat {record.heat}"
    return ""


def _repair(subject: Subject, key: bytes, value: bytes, fault: str) -> Finding:
    expected = f"a record of {RECORD_BYTES} bytes of its inode"
    if len(key) != 9:
        subject.work.delete(key)
        todo = "removed; it is in the backup"
        return subject.finding(Kind.RECORD, 0, fault, expected, todo, "inodes")
    ino = schema.U64.unpack_from(key, 1)[0]
    if fault.startswith("the number"):
        record = InodeRecord.unpack(value)
        if _is_misplaced(subject, record.ino):
            subject.work.delete(key)
            _mend(subject, record, record.ino)
            todo = f"moved to {record.ino}, which has none"
            return subject.finding(Kind.RECORD, ino, fault, expected, todo, f"inode {ino}")
    if fault.startswith(FIELDS) and ino < subject.next_ino:
        _mend(subject, InodeRecord.unpack(value), ino)
        return subject.finding(Kind.RECORD, ino, fault, expected, "the field is put right")
    subject.work.delete(key)
    subject.is_delta_known = False
    made = restore(subject, ino) is not None
    todo = (
        "made anew from entries, cache and catalog; owner root, times now"
        if made
        else "removed: nothing of it is left"
    )
    return subject.finding(Kind.RECORD, ino, fault, expected, todo)


def _is_misplaced(subject: Subject, ino: int) -> bool:
    """Whether a record's own number has a name, but no record."""
    if subject.work.get(schema.inode_key(ino)) is not None:
        return False
    return subject.work.has(*schema.link_range(ino))


def _mend(subject: Subject, record: InodeRecord, ino: int) -> None:
    """Only a field is wrong."""
    record.ino = ino
    if not math.isfinite(record.heat):
        record.heat, record.stored = 0.0, None
        subject.is_delta_known = False
    if record.state not in STATES:
        size = subject.cache.size(ino)
        stub = size is not None and size < record.size and record.copies
        record.state = Residency.MIGRATED if stub else Residency.RESIDENT
        subject.is_delta_known = False
        record.stored = None
    subject.rebuilt.add(ino)
    subject.save(record)
