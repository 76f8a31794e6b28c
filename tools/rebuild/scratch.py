"""What discs say of each inode, gathered on disk in the order of inode numbers.

One LMDB environment beside the new stores, removed at the end; nothing in it
need survive a crash, so it is not synced.

Keys (big endian): table ``d`` (directories) or ``f`` (all else), ino(8), then
``n`` until(8) a line of a namespace set, or ``v`` created(8) label 0x00 number(4)
a line of a manifest. The newest of each sort is the last.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import lmdb
import msgspec

from hsmfs.daemon.namespaceset import SetLine
from hsmfs.store.interface import Item

DIRECTORIES: Final = b"d"
OTHERS: Final = b"f"
_HEAD: Final = struct.Struct(">cQc")
_NUMBER: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
MAP_BYTES: Final = 1 << 40
BATCH_ITEMS: Final = 50_000
"""Items in memory before they are put."""


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
        path.mkdir(parents=True)
        self.path = path
        self._items: list[Item] = []
        self._numbers = 0
        self._env = self._open()

    def _open(self) -> Any:
        return lmdb.open(str(self.path), map_size=MAP_BYTES, sync=False, metasync=False, lock=False)

    def known(self, known: Known, ino: int, created_ns: int) -> None:
        """A line of a manifest."""
        table = DIRECTORIES if known.kind == "dir" else OTHERS
        self._numbers += 1
        key = _HEAD.pack(table, ino, b"v") + _U64.pack(max(0, created_ns)) + known.label.encode()
        self._put(key + b"\0" + _NUMBER.pack(self._numbers & 0xFFFFFFFF), _encode(known))

    def line(self, line: SetLine, until: int, is_directory: bool) -> None:
        """A line of a namespace set; one that is gone is noted in both tables."""
        tables = (DIRECTORIES,) if is_directory else (OTHERS,)
        for table in (DIRECTORIES, OTHERS) if line.gone else tables:
            self._put(_HEAD.pack(table, line.ino, b"n") + _U64.pack(until), _encode(line))

    def _put(self, key: bytes, value: bytes) -> None:
        self._items.append((key, value))
        if len(self._items) >= BATCH_ITEMS:
            self.flush()

    def flush(self) -> None:
        """What was put can be read."""
        self._items.sort()
        with self._env.begin(write=True) as txn:
            txn.cursor().putmulti(self._items)
        self._items = []

    def said(self, table: bytes, full: Full | None = None) -> Iterator[Said]:
        """All inodes of a table, ascending, but those of which a full set is newer."""
        return (one for one in self._said(table) if not one.is_outdated(full))

    def _said(self, table: bytes) -> Iterator[Said]:
        with self._env.begin() as txn, txn.cursor() as cursor:
            if not cursor.set_range(table):
                return
            items = cursor.iternext(keys=True, values=True)
            for ino, group in groupby(_within(items, table), key=lambda item: item[0][1:9]):
                yield _said(_U64.unpack(ino)[0], group)

    def close(self) -> None:
        """Remove all of it."""
        self._env.close()
        shutil.rmtree(self.path, ignore_errors=True)


def _within(items: Iterator[Item], table: bytes) -> Iterator[Item]:
    for item in items:
        if item[0][:1] != table:
            return
        yield item


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
