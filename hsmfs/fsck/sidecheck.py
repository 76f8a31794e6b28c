"""Tables S and X: targets of symbolic links and extended attributes."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from hsmfs.fsck.findings import Finding, Kind
from hsmfs.fsck.rebuild import restore
from hsmfs.fsck.subject import Subject
from hsmfs.namespace import schema
from hsmfs.namespace.model import SYMLINK_BYTES_MAX
from hsmfs.records import FLAG_XATTRS, RECORD_BYTES

IN_BACKUP = "removed; it is in the backup"
_MODE_AT = 12


def check_lost_links(subject: Subject) -> Iterator[Finding]:
    """Targets whose inode is gone, before names are looked at."""
    for key, _ in subject.work.scan(b"S", b"T"):
        if len(key) == 9:
            ino = schema.U64.unpack_from(key, 1)[0]
            if subject.record(ino) is None and restore(subject, ino, stat.S_IFLNK) is not None:
                found, todo = "no inode, but a target", "made anew; owner root, times now"
                yield subject.finding(Kind.RECORD, ino, found, "a symbolic link", todo)


def check_targets(subject: Subject) -> Iterator[Finding]:
    """Each symbolic link has its target, and nothing else has one."""
    for key, target in subject.work.scan(b"S", b"T"):
        ino = schema.U64.unpack_from(key, 1)[0] if len(key) == 9 else 0
        record = subject.record(ino)
        if record is None or not stat.S_ISLNK(record.mode):
            subject.work.delete(key)
            found = f"a target of {len(target)} bytes"
            yield subject.finding(
                Kind.SYMLINK, ino, found, "none, it is no symbolic link", IN_BACKUP
            )
        elif record.size != len(target):
            found, expected = f"size {record.size}", f"{len(target)}, the target's length"
            record.size = len(target)
            subject.save(record)
            yield subject.finding(Kind.SYMLINK, ino, found, expected, "set")
    for key, value in subject.work.scan(b"I", b"J"):
        if len(value) == RECORD_BYTES:
            mode = int.from_bytes(value[_MODE_AT : _MODE_AT + 4], "little")
            if stat.S_ISLNK(mode) and subject.work.get(b"S" + key[1:]) is None:
                ino = schema.U64.unpack_from(key, 1)[0]
                expected = f"a target of 1 to {SYMLINK_BYTES_MAX} bytes"
                yield subject.finding(Kind.LOST, ino, "no target", expected, "")


def check_xattrs(subject: Subject) -> Iterator[Finding]:
    """Attributes belong to inodes, and the inodes know that they have some."""
    last, there = -1, False
    for key, _ in subject.work.scan(b"X", b"Y"):
        ino = schema.U64.unpack_from(key, 1)[0] if len(key) > 9 else 0
        if ino == last and there:
            continue
        last, there = ino, False
        record = subject.record(ino)
        if record is None:
            subject.work.delete(key)
            found = f"attribute {key[9:]!r}"
            yield subject.finding(Kind.XATTR, ino, found, "an inode that has it", IN_BACKUP)
            continue
        there = True
        if not record.flags & FLAG_XATTRS:
            record.flags |= FLAG_XATTRS
            subject.save(record)
            if ino not in subject.rebuilt:
                found, expected = "attributes nobody looks for", "the flag that there are some"
                yield subject.finding(Kind.XATTR, ino, found, expected, "set")
