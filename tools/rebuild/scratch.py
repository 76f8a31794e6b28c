"""What discs say of each inode, gathered on disk in the order of inode numbers.

One LMDB environment beside the new stores, removed at the end; nothing in it
need survive a crash, so it is not synced.

Keys (big endian): table ``d`` (directories) or ``f`` (all else), ino(8), then
``n`` until(8) a line of a namespace set, or ``v`` created(8) label 0x00 number(4)
a line of a manifest. The newest of each sort is the last. Table ``l``, number(8):
an entry of the audit log.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from hsmfs.daemon.namespaceset import SetLine
from hsmfs.store.interface import Item
from hsmfs.tools.rebuild.bulkfile import BulkFile

DIRECTORIES: Final = b"d"
OTHERS: Final = b"f"
LOG: Final = b"l"
_HEAD: Final = struct.Struct(">cQc")
_NUMBER: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
MAP_BYTES: Final = 1 << 40


class Known(msgspec.Struct, array_like=True):
    """A line of a manifest: a name with what is known of its inode."""

    label: str
    kind: str
    path: bytes
    data_version: int
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int
    ctime_ns: int
    xattrs: dict[bytes, bytes]
    target: bytes
    is_missing: bool
    """Its volume is known by another's manifests only."""


Rank = tuple[int, int]
"""How new what is said of an inode is: up to where in the journal the set reaches, -1 without
one, and when its volume was made."""


class Full(NamedTuple):
    """The newest full set: up to where in the journal, and when."""

    until: int
    time_ns: int


class Said(msgspec.Struct):
    """All that the discs say of one inode."""

    ino: int
    newest: SetLine | None
    lines: list[Known]
    """Of its manifests, oldest volume first."""
    until: int = -1
    """Of the set that ``newest`` is of."""
    created_ns: int = -1
    """Of the newest volume of ``lines``."""

    @property
    def rank(self) -> Rank:
        """Of two that claim one name the greater has it."""
        return (-1, self.created_ns) if self.newest is None else (self.until, 0)

    def is_outdated(self, full: Full | None) -> bool:
        """Whether a full set is newer than all that is said: it has no such inode."""
        return full is not None and self.until < full.until and self.created_ns < full.time_ns


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_known: Final = msgspec.msgpack.Decoder(Known).decode
_decode_line: Final = msgspec.msgpack.Decoder(SetLine).decode


class Scratch:
    """Put first, read afterwards."""

    def __init__(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)
        self.path = path
        self._file = BulkFile(path, MAP_BYTES)
        self._numbers = 0

    def known(self, known: Known, ino: int, created_ns: int) -> None:
        """A line of a manifest."""
        table = DIRECTORIES if known.kind == "dir" else OTHERS
        self._numbers += 1
        key = _HEAD.pack(table, ino, b"v") + _U64.pack(max(0, created_ns)) + known.label.encode()
        self._file.put((key + b"\0" + _NUMBER.pack(self._numbers & 0xFFFFFFFF), _encode(known)))

    def line(self, line: SetLine, until: int, is_directory: bool) -> None:
        """A line of a namespace set; one that is gone is noted in both tables."""
        tables = (DIRECTORIES,) if is_directory else (OTHERS,)
        for table in (DIRECTORIES, OTHERS) if line.gone else tables:
            self._file.put((_HEAD.pack(table, line.ino, b"n") + _U64.pack(until), _encode(line)))

    def log(self, number: int, entry: bytes) -> None:
        """An entry of the audit log."""
        self._file.put((LOG + _U64.pack(number), entry))

    def log_entries(self) -> Iterator[tuple[int, bytes]]:
        """All entries by number."""
        for key, value in self._file.scan(LOG, bytes([LOG[0] + 1])):
            yield _U64.unpack_from(key, 1)[0], value

    def flush(self) -> None:
        """What was put can be read."""
        self._file.flush()

    def said(self, table: bytes, full: Full | None = None) -> Iterator[Said]:
        """All inodes of a table, ascending, but those of which a full set is newer."""
        return (one for one in self._said(table) if not one.is_outdated(full))

    def _said(self, table: bytes) -> Iterator[Said]:
        items = self._file.scan(table, bytes([table[0] + 1]))
        for ino, group in groupby(items, key=lambda item: item[0][1:9]):
            yield _said(_U64.unpack(ino)[0], group)

    def lines_until(self, table: bytes, until: int) -> Iterator[tuple[int, SetLine]]:
        """Each inode as it was when a set was burned that reached so far, ascending."""
        items = self._file.scan(table, bytes([table[0] + 1]))
        for ino, group in groupby(items, key=lambda item: item[0][1:9]):
            newest = None
            for key, value in group:
                if key[9:10] == b"n" and _U64.unpack_from(key, 10)[0] <= until:
                    newest = value
            if newest is not None:
                yield _U64.unpack(ino)[0], _decode_line(newest)

    def close(self) -> None:
        """Remove all of it."""
        self._file.close()
        shutil.rmtree(self.path, ignore_errors=True)


def _said(ino: int, group: Iterator[Item]) -> Said:
    said = Said(ino, None, [])
    newest: bytes | None = None
    for key, value in group:
        if key[9:10] == b"n":
            newest, said.until = value, _U64.unpack_from(key, 10)[0]
        else:
            said.lines.append(_decode_known(value))
            said.created_ns = _U64.unpack_from(key, 10)[0]
    said.newest = _decode_line(newest) if newest is not None else None
    return said
