"""An inode record made anew from what is left of the inode elsewhere."""

from __future__ import annotations

import stat
from typing import Final

from hsmfs.fsck.findings import KnownCopies
from hsmfs.fsck.subject import Subject
from hsmfs.namespace import schema
from hsmfs.records import FLAG_SEEN, InodeRecord
from hsmfs.types import ROOT_INODE, Residency

ROOT_MODE: Final = stat.S_IFDIR | 0o755
NODES: Final = (stat.S_IFIFO, stat.S_IFSOCK)
"""What has nothing but its type."""
KINDS: Final = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, *NODES)


def rebuilt(subject: Subject, ino: int, hint: int = 0) -> InodeRecord | None:
    """A new record, not saved; owned by root and private. None: nothing is left.

    ``hint`` is the type that the inode's entry tells.
    """
    if ino == ROOT_INODE:
        return subject.new_record(ino, ROOT_MODE, 0, 2)
    kind = hint if hint in KINDS else _kind_left(subject, ino)
    if kind == stat.S_IFDIR:
        return subject.new_record(ino, stat.S_IFDIR | 0o700, 0, 2)
    if kind == stat.S_IFLNK:
        target = subject.work.get(schema.symlink_key(ino))
        if target is None:
            return None
        return subject.new_record(ino, stat.S_IFLNK | 0o777, len(target))
    if kind in NODES:
        return subject.new_record(ino, kind | 0o600, 0)
    if kind == stat.S_IFREG:
        return _file(subject, ino)
    return None


def named_kind(subject: Subject, ino: int) -> int:
    """The type that an inode's names tell; 0 if it has none."""
    for key, _ in subject.work.scan(*schema.link_range(ino), chunk=16):
        if len(key) > 17:
            value = subject.work.get(b"D" + key[9:])
            if value is not None and len(value) == schema.ENTRY.size:
                found, kind, _ = schema.ENTRY.unpack(value)
                if found == ino and kind in KINDS:
                    return int(kind)
    return 0


def _kind_left(subject: Subject, ino: int) -> int:
    """The type, as the other tables and the cache tell it."""
    named = named_kind(subject, ino)
    if named:
        return named
    if subject.work.has(schema.entry_key(ino, b""), schema.entry_key(ino + 1, b"")):
        return stat.S_IFDIR
    if subject.work.get(schema.symlink_key(ino)) is not None:
        return stat.S_IFLNK
    return stat.S_IFREG


def _file(subject: Subject, ino: int) -> InodeRecord | None:
    """From the cache file, or from the newest version on volumes."""
    size = subject.cache.size(ino)
    known = subject.copies.of(ino)
    newest = known[-1] if known else None
    if newest is not None and _is_stub_of(size, newest):
        record = subject.new_record(ino, stat.S_IFREG | 0o600, newest.size)
        record.state = Residency.MIGRATED
        record.copies = min(newest.copies, 255)
        record.data_version = newest.data_version
        record.head_bytes = size or 0
        record.flags = FLAG_SEEN
        return record
    if size is None:
        return None
    record = subject.new_record(ino, stat.S_IFREG | 0o600, size)
    # The bytes may be newer than what was burned: they get a version of their own.
    record.data_version = newest.data_version + 1 if newest is not None else 1
    return record


def _is_stub_of(size: int | None, newest: KnownCopies) -> bool:
    return newest.copies > 0 and newest.size > (size or 0)


def from_copies(record: InodeRecord, known: KnownCopies) -> None:
    """The cached data is gone or no good, the copies are not: a stub."""
    record.state = Residency.MIGRATED
    record.copies = min(known.copies, 255)
    record.head_bytes = 0
    record.flags |= FLAG_SEEN


def restore(subject: Subject, ino: int, hint: int = 0) -> InodeRecord | None:
    """Make the record anew and store it, if anything is left of the inode."""
    if ino >= subject.next_ino:
        return None  # a number that was never given
    record = rebuilt(subject, ino, hint)
    if record is not None:
        subject.rebuilt.add(ino)
        subject.is_delta_known = False
        subject.made(record)
    return record
