"""A namespace of many files as sorted items of its store, computed, not remembered.

Directories lie in the root (``d0000000``…), each with ``per_directory`` files
(``f00000000``…), the last with what is left; a directory ``large`` may hold
many. All numbers follow from the number of the directory: its inode, its
cookie, then inode and cookie of each file in turn, as if made one by one.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from hsmfs.namespace import schema
from hsmfs.namespace.recovery import VERSION_KEY
from hsmfs.namespace.tables import (
    COUNTERS_KEY,
    JOURNAL_KEY,
    NEXT_INO_KEY,
    STARTS_KEY,
    Counters,
)
from hsmfs.records import InodeRecord
from hsmfs.store.interface import Item
from hsmfs.types import ROOT_INODE, Residency

LARGE_NAME: Final = b"large"
STUB_COPIES: Final = 2
SECOND_NS: Final = 10**9


@dataclass(frozen=True, slots=True)
class Shape:
    """What the namespace is to hold."""

    files: int
    per_directory: int = 1000
    large: int = 0
    """Files of the one large directory, out of ``files``."""
    size: int = 0
    """Bytes of each file, as the namespace tells it."""
    state: Residency = Residency.RESIDENT
    uid: int = 0
    gid: int = 0
    now_ns: int = 0


@dataclass(frozen=True, slots=True)
class Folder:
    """One directory with its run of numbers."""

    name: bytes
    ino: int
    files: int

    @property
    def cookie(self) -> int:
        """Its own place in the root."""
        return self.ino + 1

    @property
    def next_ino(self) -> int:
        """The first number after it."""
        return self.ino + 2 + 2 * self.files

    def entries(self) -> Iterator[tuple[bytes, int]]:
        """Name and inode of each file, ascending in both; its cookie is one more."""
        ino = self.ino + 2
        for number in range(self.files):
            yield b"f%08d" % number, ino
            ino += 2


def folders(shape: Shape) -> Iterator[Folder]:
    """All directories, ascending by name and by inode."""
    ino, left = schema.FIRST_INO, shape.files - shape.large
    for number in range(-(-left // shape.per_directory)):
        folder = Folder(b"d%07d" % number, ino, min(left, shape.per_directory))
        yield folder
        ino, left = folder.next_ino, left - folder.files
    if shape.large:
        yield Folder(LARGE_NAME, ino, shape.large)


def items(shape: Shape) -> Iterator[Item]:
    """Everything, in the order of the keys."""
    yield from _index(shape)
    yield from _entries(shape)
    yield from _inodes(shape)
    yield from _links(shape)
    yield from _meta(shape)
    yield from _listed(shape)


def _index(shape: Shape) -> Iterator[Item]:
    key = schema.index_key
    for folder in folders(shape):
        for _, ino in folder.entries():
            yield key(shape.state, 0, 0.0, ino), b""


def _entries(shape: Shape) -> Iterator[Item]:
    key, pack = schema.entry_key, schema.ENTRY.pack
    for folder in folders(shape):
        yield key(ROOT_INODE, folder.name), pack(folder.ino, stat.S_IFDIR, folder.cookie)
    for folder in folders(shape):
        for name, ino in folder.entries():
            yield key(folder.ino, name), pack(ino, stat.S_IFREG, ino + 1)


def _inodes(shape: Shape) -> Iterator[Item]:
    count = sum(1 for _ in folders(shape))
    yield schema.inode_key(ROOT_INODE), _directory(shape, ROOT_INODE, 2 + count).pack()
    key = schema.inode_key
    model = _file(shape).pack()[8:]
    for folder in folders(shape):
        yield key(folder.ino), _directory(shape, folder.ino, 2).pack()
        for _, ino in folder.entries():
            # The inode number is the first field; all else is the same.
            yield key(ino), ino.to_bytes(8, "little") + model


def _directory(shape: Shape, ino: int, nlink: int) -> InodeRecord:
    return replace(
        _file(shape), ino=ino, mode=stat.S_IFDIR | 0o755, nlink=nlink, size=0, state=0, copies=0
    )


def _file(shape: Shape) -> InodeRecord:
    now_ns = shape.now_ns
    copies = 0 if shape.state == Residency.RESIDENT else STUB_COPIES
    return InodeRecord(
        0, 1, stat.S_IFREG | 0o644, shape.uid, shape.gid, 1, 0, shape.size,
        now_ns, now_ns, now_ns, now_ns, state=shape.state, copies=copies,
    )  # fmt: skip


def _links(shape: Shape) -> Iterator[Item]:
    key = schema.link_key
    for folder in folders(shape):
        yield key(folder.ino, ROOT_INODE, folder.name), b""
        for name, ino in folder.entries():
            yield key(ino, folder.ino, name), b""


def _meta(shape: Shape) -> Iterator[Item]:
    count, next_ino = 0, schema.FIRST_INO
    for folder in folders(shape):
        count, next_ino = count + 1, folder.next_ino
    counters = Counters(inodes=shape.files + count)
    counters.files[shape.state] = shape.files
    counters.bytes[shape.state] = shape.files * shape.size
    if shape.state == Residency.RESIDENT:
        counters.cached = shape.files * shape.size
    meta = {
        COUNTERS_KEY: msgspec.msgpack.encode(counters),
        JOURNAL_KEY: b"1 1",
        NEXT_INO_KEY: b"%d" % next_ino,
        STARTS_KEY: b"1",
        VERSION_KEY: b"%d" % schema.SCHEMA_VERSION,
    }
    yield from sorted(meta.items())


def _listed(shape: Shape) -> Iterator[Item]:
    key, pack = schema.listed_key, schema.LISTED.pack
    for folder in folders(shape):
        kind = pack(folder.ino, stat.S_IFDIR)
        yield key(ROOT_INODE, folder.cookie), kind + folder.name
    for folder in folders(shape):
        for name, ino in folder.entries():
            yield key(folder.ino, ino + 1), pack(ino, stat.S_IFREG) + name
