"""What changed in the namespace, as each volume carries it: ``.hsm/namespace.jsonl.gz``.

JSON Lines in gzip (docs/disc-format.md). The first line says which part of the
journal the set covers; each other line is an inode as it is now, with all its
names, or says that it is gone. Inode numbers are never used again, so that
sets are put together by taking of each inode the newest line.

Run as a program it writes a set; hsmd has that done by a process of its own,
for a full set of millions of inodes takes a minute of processor.
"""

from __future__ import annotations

import base64
import gzip
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from hsmfs.errors import CallerError
from hsmfs.namespace import schema
from hsmfs.namespace.audit import head_of, parsed
from hsmfs.namespace.tables import JOURNAL_KEY
from hsmfs.namespace.trustedtime import TimeRow
from hsmfs.namespace.view import NamespaceView
from hsmfs.namespace.wormrows import (
    ENTRIES,
    HEAD_KEY,
    TIME_KEY,
    decode_holds,
    decode_kept,
    decode_tree,
    hold_key,
    kept_key,
    tree_key,
)
from hsmfs.records import FLAG_FOREIGN, FLAG_IMPORT, FLAG_WORM, FROZEN, InodeRecord
from hsmfs.store.interface import Reader
from hsmfs.store.lmdbstore import LmdbStore

KIND: Final = "hsm-namespace"
LOG_NAME: Final = "log.jsonl.gz"
FORMAT: Final = 1
GZIP_LEVEL: Final = 6
PARENTS_AT: Final = {
    "make": (3,),
    "link": (3,),
    "unlink": (3,),
    "rmdir": (3,),
    "rename": (3, 5),
    "exchange": (3, 5, 7),
}
"""Where in a journal record stand other inodes that the change touched: directories, whose
times it moved, and the second of an exchange."""
_encode: Final = msgspec.json.Encoder().encode


class SetLog(msgspec.Struct, kw_only=True):
    """The head of the audit log, and trusted time."""

    number: int
    sha256: str
    time_ns: int


class SetKept(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A file in a tree with a retention."""

    base_ns: int
    settled_ns: int = 0
    until_ns: int = 0


class SetTree(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What holds below a directory with a retention."""

    settle: str
    keep: str
    off: bool = False


class SetHold(msgspec.Struct, kw_only=True):
    """A legal hold of a file."""

    reason: str
    by: str
    set_ns: int


class SetHeader(msgspec.Struct, kw_only=True):
    """The first line. The set covers the journal's numbers ``since < n <= until``."""

    kind: str = KIND
    format: int = FORMAT
    site: str
    full: bool
    """All inodes are in it: what is not listed is gone."""
    since: int
    until: int
    time_ns: int
    log: SetLog | msgspec.UnsetType = msgspec.UNSET
    """Where the audit log ends; unset without one."""


class SetLine(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One inode; ``names`` are ``[parent, name]``, or ``[parent, "", base64]``."""

    ino: int
    gone: bool = False
    names: list[list[Any]] = []
    mode: int = 0
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    size: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    btime_ns: int = 0
    data_version: int = 0
    target: str = ""
    target_b64: str = ""
    xattrs: dict[str, str] = {}
    kept: SetKept | None = None
    retention: SetTree | None = None
    holds: list[SetHold] = []

    def places(self) -> list[tuple[int, bytes]]:
        """Parent and name of each link."""
        return [
            (int(name[0]), base64.b64decode(name[2]) if len(name) > 2 else name[1].encode())
            for name in self.names
        ]

    def target_bytes(self) -> bytes:
        """Where a symbolic link points to."""
        return base64.b64decode(self.target_b64) if self.target_b64 else self.target.encode()

    def xattr_bytes(self) -> dict[bytes, bytes]:
        """Names and values of the extended attributes."""
        return {unquote_to_bytes(name): base64.b64decode(v) for name, v in self.xattrs.items()}


def write_set(reader: Reader, since: int, site: str, time_ns: int, out: Path) -> SetHeader:
    """The set of all changes after ``since``; a full one where the journal is shorter."""
    first, following = (int(word) for word in (reader.get(JOURNAL_KEY) or b"1 1").split())
    full = since + 1 < first or since == 0
    until = following - 1
    header = SetHeader(
        site=site, full=full, since=0 if full else since, until=until, time_ns=time_ns,
        log=_log_of(reader),
    )  # fmt: skip
    view = NamespaceView(reader)
    write_lines(out, header, _all(reader, view) if full else _changed(reader, view, since, until))
    return header


def _log_of(reader: Reader) -> SetLog | msgspec.UnsetType:
    head, time = head_of(reader.get(HEAD_KEY)), reader.get(TIME_KEY)
    if head is None or time is None:
        return msgspec.UNSET
    row = msgspec.msgpack.decode(time, type=TimeRow)
    return SetLog(number=head.number, sha256=head.sha256, time_ns=row.trusted_ns)


def write_log(reader: Reader, since: int, out: Path) -> bool:
    """Entries of the audit log that came with changes after ``since``; whether there are any."""
    numbers = []
    for key, entry in reader.scan(*ENTRIES, reverse=True):
        journal = (parsed(entry) or {}).get("journal")
        if isinstance(journal, int) and journal <= since:
            break
        numbers.append(key)
    if not numbers:
        return False
    with out.open("wb") as file:
        with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed:
            for key in reversed(numbers):
                packed.write((reader.get(key) or b"") + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return True


def write_lines(out: Path, header: SetHeader, lines: Iterable[SetLine]) -> None:
    """One set; on disk when it returns."""
    with out.open("wb") as file:
        with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed:
            packed.write(_encode(header) + b"\n")
            for line in lines:
                packed.write(_encode(line) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _all(reader: Reader, view: NamespaceView) -> Iterator[SetLine]:
    for _, value in reader.scan(b"I", b"J"):
        record = InodeRecord.unpack(value)
        if record.nlink and not _is_imported(record):
            yield line_of(reader, view, record)


def _changed(reader: Reader, view: NamespaceView, since: int, until: int) -> Iterator[SetLine]:
    inodes: set[int] = set()
    start, stop = schema.journal_key(since + 1), schema.journal_key(until + 1)
    for _, value in reader.scan(start, stop):
        change = msgspec.msgpack.decode(value)
        op = change[1]
        inodes.add(change[2])
        inodes.update(change[at] for at in PARENTS_AT.get(op, ()) if len(change) > at)
    for ino in sorted(inodes):
        record = view.inode(ino)
        if record is None or (record.nlink == 0):
            yield SetLine(ino=ino, gone=True)
        elif not _is_imported(record):
            yield line_of(reader, view, record)


def _is_imported(record: InodeRecord) -> bool:
    """Whether it is told by a disc of others: only the root of its tree is in sets."""
    return bool(record.flags & FLAG_FOREIGN) and not record.flags & FLAG_IMPORT


def line_of(reader: Reader, view: NamespaceView, record: InodeRecord) -> SetLine:
    """An inode as it is in this snapshot."""
    ino = record.ino
    line = SetLine(
        ino=ino,
        names=[
            _name(schema.U64.unpack_from(key, 9)[0], key[17:])
            for key, _ in reader.scan(*schema.link_range(ino))
        ],
        mode=record.mode,
        uid=record.uid,
        gid=record.gid,
        rdev=record.rdev,
        size=record.size,
        atime_ns=record.atime_ns,
        mtime_ns=record.mtime_ns,
        ctime_ns=record.ctime_ns,
        btime_ns=record.btime_ns,
        data_version=record.data_version,
    )
    if stat.S_ISLNK(record.mode):
        target = view.symlink(ino) or b""
        try:
            line.target = target.decode()
        except UnicodeDecodeError:
            line.target_b64 = base64.b64encode(target).decode()
    if record.flags & (FLAG_WORM | FROZEN):
        _add_worm(reader, line)
    if record.flags:
        line.xattrs = {
            quote_from_bytes(name): base64.b64encode(value).decode()
            for name, value in view.xattrs(ino).items()
        }
    return line


def _add_worm(reader: Reader, line: SetLine) -> None:
    kept, tree = reader.get(kept_key(line.ino)), reader.get(tree_key(line.ino))
    holds = reader.get(hold_key(line.ino))
    if kept is not None:
        row = decode_kept(kept)
        line.kept = SetKept(base_ns=row.base_ns, settled_ns=row.settled_ns, until_ns=row.until_ns)
    if tree is not None:
        known = decode_tree(tree)
        line.retention = SetTree(settle=known.settle, keep=known.keep, off=known.off)
    if holds is not None:
        line.holds = [
            SetHold(reason=one.reason, by=one.by, set_ns=one.set_ns) for one in decode_holds(holds)
        ]


def _name(parent: int, name: bytes) -> list[Any]:
    try:
        return [parent, name.decode()]
    except UnicodeDecodeError:
        return [parent, "", base64.b64encode(name).decode()]


def main() -> int:
    """``namespaceset STORE SINCE SITE TIME_NS OUT``; the header goes to standard output."""
    store_path, since, site, time_ns, out = sys.argv[1:]
    try:
        store = LmdbStore(Path(store_path), read_only=True)
        with store.snapshot() as reader:
            header = write_set(reader, int(since), site, int(time_ns), Path(out))
            write_log(reader, header.since, Path(out).with_name(LOG_NAME))
    except (CallerError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(_encode(header).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
