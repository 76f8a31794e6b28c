"""Tables M, J and O, and keys of no table at all."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import msgspec

from hsmfs.errors import CallerError
from hsmfs.fsck.findings import Finding, Kind
from hsmfs.fsck.subject import MARKS, Subject
from hsmfs.namespace import schema
from hsmfs.namespace.recovery import VERSION_KEY
from hsmfs.namespace.tables import JOURNAL_KEY, NEXT_INO_KEY, STARTS_KEY
from hsmfs.records import RECORD_BYTES
from hsmfs.types import ROOT_INODE

TABLES: Final = b"ACDIJLMORSWX"
NUMBER_MAX: Final = (1 << 63) - 1
_INO: Final = struct.Struct("<Q")
_GENERATION: Final = struct.Struct("<I")
_KEY_SHOWN_BYTES: Final = 40


def check_version(subject: Subject) -> Iterator[Finding]:
    """A namespace that this program can read, else CallerError."""
    found = _number(subject.work.get(VERSION_KEY))
    if found is None:
        if not subject.work.has(b"I", b"J"):
            raise CallerError(
                "namespace: found no file system in the store, expected one that hsmfs made; "
                "check namespace.path"
            )
        version = schema.WORM_VERSION if subject.work.has(b"W", b"X") else schema.SCHEMA_VERSION
        subject.work.put(VERSION_KEY, b"%d" % version)
        expected = f"version {version}"
        yield subject.finding(Kind.META, 0, "no version", expected, "written anew", "version")
    elif found not in schema.KNOWN_VERSIONS:
        todo = (
            "install the newer hsmfs that wrote it"
            if found > schema.WORM_VERSION
            else "it was made by an older hsmfs"
        )
        raise CallerError(
            f"namespace: found version {found}, expected {schema.SCHEMA_VERSION}; {todo}"
        )


def check_unknown(subject: Subject) -> Iterator[Finding]:
    """Keys that belong to no table."""
    start = b"\0"
    for table in [*TABLES, 0x100]:
        stop = bytes([table]) if table < 0x100 else b"\xff" * 16
        for key, value in subject.work.scan(start, stop):
            subject.work.delete(key)
            shown = key[:_KEY_SHOWN_BYTES]
            yield subject.finding(
                Kind.UNKNOWN_KEY,
                0,
                f"key {shown!r} with {len(value)} bytes",
                "a key of a table that this version knows",
                "removed; it is in the backup",
                "store",
            )
        start = bytes([min(table + 1, 0xFF)])


def check_numbers(subject: Subject) -> Iterator[Finding]:
    """What was given out so far: inode numbers, cookies, starts."""
    inodes, cookies, generation = _highest(subject)
    subject.generation = max(generation, 1)
    lowest = max(inodes + 1, schema.FIRST_INO)
    value = subject.work.get(NEXT_INO_KEY)
    found = _numbers(value)
    if value is None and inodes <= ROOT_INODE:
        found = [lowest, 0, 0]
    if found and lowest <= found[0] <= NUMBER_MAX:
        subject.next_ino, subject.block = found[0], range(*found[1:3])
    else:
        subject.next_ino_was_right = False
        subject.next_ino = max(lowest, cookies + 1)
        subject.put_numbers()
        told, expected = f"next_ino {value!r}", f"at least {lowest}, all inodes are below it"
        yield subject.finding(Kind.META, 0, told, expected, f"set to {subject.next_ino}", "next")
    yield from _check_block(subject)
    subject.born = subject.next_ino
    yield from _check_starts(subject)


def _check_block(subject: Subject) -> Iterator[Finding]:
    """The numbers kept for new files are not in use."""
    block = subject.block
    start, stop = schema.inode_key(block.start), schema.inode_key(max(block.stop, block.start))
    if block.stop <= subject.next_ino and not subject.work.has(start, stop):
        return
    subject.block = range(0)
    subject.put_numbers()
    found, expected = f"{block.start} to {block.stop} for new files", "numbers without inodes"
    yield subject.finding(Kind.META, 0, found, expected, "another block is used", "next")


def _check_starts(subject: Subject) -> Iterator[Finding]:
    starts = _number(subject.work.get(STARTS_KEY)) or 0
    if starts < subject.generation:
        subject.work.put(STARTS_KEY, b"%d" % subject.generation)
        expected = f"at least {subject.generation}, the newest inode's generation"
        yield subject.finding(Kind.META, 0, f"starts {starts}", expected, "set", "starts")
    subject.generation = max(subject.generation, starts)


def _highest(subject: Subject) -> tuple[int, int, int]:
    """The greatest inode number, cookie and generation in use."""
    inodes = cookies = generation = 0
    for key, value in subject.work.scan(b"I", b"J"):
        if len(key) == 9 and len(value) == RECORD_BYTES:
            ino, number = schema.U64.unpack_from(key, 1)[0], _INO.unpack_from(value)[0]
            inodes = max(inodes, min(ino, number, NUMBER_MAX - 1))
            generation = max(generation, _GENERATION.unpack_from(value, 8)[0])
    for _, value in subject.work.scan(b"D", b"E"):
        if len(value) == schema.ENTRY.size:
            cookie = schema.ENTRY.unpack(value)[2]
            cookies = max(cookies, cookie if cookie < NUMBER_MAX else 0)
    return inodes, cookies, generation


def check_journal(subject: Subject) -> Iterator[Finding]:
    """Records that decode, within the bounds that are noted."""
    lowest, highest = 0, 0
    for key, value in subject.work.scan(b"J", b"K"):
        if len(key) != 9 or not _is_change(value):
            subject.work.delete(key)
            yield subject.finding(
                Kind.JOURNAL,
                0,
                f"record {key[1:].hex()} of {len(value)} bytes",
                "a change in msgpack",
                "removed; it is in the backup",
                "journal",
            )
            continue
        highest = schema.U64.unpack_from(key, 1)[0]
        lowest = lowest or highest
    bounds = (subject.work.get(JOURNAL_KEY) or b"1 1").split()
    first, following = (_number(word) for word in bounds) if len(bounds) == 2 else (None, None)
    known = first is not None and following is not None
    if known and (not highest or (first or 0) <= lowest <= highest < (following or 0)):
        return
    subject.work.put(JOURNAL_KEY, b"%d %d" % (lowest or 1, highest + 1))
    found, expected = f"bounds {b' '.join(bounds)!r}", f"{lowest or 1} to {highest}"
    yield subject.finding(Kind.JOURNAL, 0, found, expected, "set", "journal")


def _is_change(value: bytes) -> bool:
    try:
        change = msgspec.msgpack.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return isinstance(change, list) and len(change) >= 3


def load_marks(subject: Subject) -> Iterator[Finding]:
    """Table O, into memory: it is as long as the work that was cut."""
    for key, value in subject.work.scan(b"O", b"P"):
        if len(key) == 9 and value in MARKS:
            subject.marks[schema.U64.unpack_from(key, 1)[0]] = value
            continue
        subject.work.delete(key)
        yield subject.finding(
            Kind.MARK, 0, f"mark {value!r} at {key!r}", "w, o, t or d", "removed", "marks"
        )
    subject.opened = subject.cache.opened()
    subject.summary.pending = len(subject.opened | subject.marks.keys())


def _number(value: bytes | None) -> int | None:
    if value is None or not value.isdigit() or len(value) > 20:
        return None
    return int(value)


def _numbers(value: bytes | None) -> list[int]:
    """Next number and the block for new files; empty if they cannot be read."""
    words = [_number(word) for word in (value or b"").split()]
    known = [number for number in words if number is not None]
    if len(known) != len(words) or len(words) not in (1, 3):
        return []
    return [*known, 0, 0][:3]
