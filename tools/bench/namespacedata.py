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
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hsmfs.heat import HALF_LIFE_S
from hsmfs.namespace import schema
from hsmfs.namespace.recovery import VERSION_KEY
from hsmfs.namespace.tables import (
    COUNTERS_KEY,
    JOURNAL_KEY,
    NEXT_INO_KEY,
    STARTS_KEY,
    Counters,
)
from hsmfs.records import DTYPE, RECORD_BYTES, InodeRecord
from hsmfs.store.interface import Item
from hsmfs.types import ROOT_INODE, Residency

LARGE_NAME: Final = b"large"
STUB_COPIES: Final = 2
SECOND_NS: Final = 10**9
USED_S: Final = 10 * 365 * 86_400.0


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
    varied: bool = False
    """Sizes, times and heat differ: ten years of use, the older the colder."""


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


def _varied_index(shape: Shape) -> Iterator[Item]:
    """In the order of the buckets, which is not that of the inodes."""
    inodes = np.concatenate([_inodes_of(folder) for folder in folders(shape)])
    scores = variety(shape, inodes)[2].astype(np.float64)
    buckets = np.clip(schema.HEAT_ZERO + (scores * 16).astype(np.int64), 0, 0xFFFF)
    order = np.lexsort((inodes, buckets))
    head = b"C" + schema.INDEX.pack(shape.state, 0, 0, 0)[:3]
    for start in range(0, len(order), 100_000):
        part = order[start : start + 100_000]
        rows = np.empty(len(part), dtype=[("bucket", ">u2"), ("ino", ">u8")])
        rows["bucket"], rows["ino"] = buckets[part], inodes[part]
        raw = rows.tobytes()
        for at in range(0, len(raw), 10):
            yield head + raw[at : at + 10], b""


def _inodes_of(folder: Folder) -> NDArray[np.uint64]:
    return np.arange(folder.ino + 2, folder.next_ino, 2, dtype=np.uint64)


def variety(
    shape: Shape, inodes: NDArray[np.uint64]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Bytes, time of the last use (ns) and score of heat of these files."""
    mixed = (inodes * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(16)
    first, second = mixed & np.uint64(0xFFFF), mixed >> np.uint64(24) & np.uint64(0xFFFF)
    age_s = (first.astype(np.float64) / 65536) * USED_S
    last_ns = (shape.now_ns - age_s * 1e9).astype(np.int64)
    size = (np.float64(2) ** (10 + second.astype(np.float64) / 4096)).astype(np.uint64)
    opens = np.log2(1.0 + (second & np.uint64(7)).astype(np.float64))
    score = (last_ns / 1e9 / HALF_LIFE_S + opens).astype(np.float32)
    return size, last_ns, score


def _varied(shape: Shape, folder: Folder) -> Iterator[bytes]:
    """The records of a directory's files."""
    inodes = _inodes_of(folder)
    records = np.zeros(len(inodes), dtype=DTYPE)
    records[:] = np.frombuffer(_file(shape).pack(), dtype=DTYPE)[0]
    records["ino"] = inodes
    size, last_ns, score = variety(shape, inodes)
    records["size"], records["heat"] = size, score
    records["atime_ns"], records["mtime_ns"] = last_ns, last_ns
    raw = records.tobytes()
    return (raw[at : at + RECORD_BYTES] for at in range(0, len(raw), RECORD_BYTES))


def _index(shape: Shape) -> Iterator[Item]:
    if shape.varied:
        yield from _varied_index(shape)
        return
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
        if shape.varied:
            pairs = zip(folder.entries(), _varied(shape, folder), strict=True)
            yield from ((key(ino), record) for (_, ino), record in pairs)
            continue
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
