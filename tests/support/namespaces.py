"""Namespaces made of plain values, straight into a store: for rules on many files."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from hsmfs.namespace import schema
from hsmfs.namespace.tables import COUNTERS_KEY, Counters
from hsmfs.records import FLAG_XATTRS, InodeRecord
from hsmfs.store.interface import KVStore, Writer
from hsmfs.types import ROOT_INODE, Residency


@dataclass(frozen=True, slots=True)
class File:
    """A regular file; ``path`` has no leading slash."""

    path: bytes
    size: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    btime_ns: int = 0
    uid: int = 0
    gid: int = 0
    heat: float = 0.0
    state: Residency = Residency.RESIDENT
    copies: int = 0
    tier: int = 0
    pool: int = 0
    flags: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


def fill(store: KVStore, files: Sequence[File]) -> dict[bytes, int]:
    """All files with the directories above them; inodes by path. Paths differ."""
    inodes: dict[bytes, int] = {b"": ROOT_INODE}
    records: list[InodeRecord] = []

    def entry(writer: Writer, path: bytes, mode: int) -> int:
        known = inodes.get(path)
        if known is not None:
            return known
        above, _, name = path.rpartition(b"/")
        parent = entry(writer, above, stat.S_IFDIR | 0o755)
        ino = inodes[path] = schema.FIRST_INO + 2 * len(inodes)
        kind = stat.S_IFMT(mode)
        writer.put(schema.entry_key(parent, name), schema.ENTRY.pack(ino, kind, ino + 1))
        writer.put(schema.listed_key(parent, ino + 1), schema.LISTED.pack(ino, kind) + name)
        writer.put(schema.link_key(ino, parent, name), b"")
        if kind == stat.S_IFDIR:
            put(writer, InodeRecord(ino, 1, mode, 0, 0, 2, 0, 0, 0, 0, 0, 0))
        return ino

    def put(writer: Writer, record: InodeRecord) -> None:
        records.append(record)
        writer.put(schema.inode_key(record.ino), record.pack())

    def make(writer: Writer) -> None:
        counters = Counters()
        put(writer, InodeRecord(ROOT_INODE, 1, stat.S_IFDIR | 0o755, 0, 0, 2, 0, 0, 0, 0, 0, 0))
        for file in files:
            ino = entry(writer, file.path, stat.S_IFREG | 0o644)
            record = InodeRecord(
                ino, 1, stat.S_IFREG | 0o644, file.uid, file.gid, 1, 0, file.size,
                file.atime_ns, file.mtime_ns, file.ctime_ns, file.btime_ns, state=file.state,
                copies=file.copies, tier=file.tier, heat=file.heat, pool=file.pool,
                flags=file.flags | (FLAG_XATTRS if file.xattrs else 0),
            )  # fmt: skip
            put(writer, record)
            writer.put(schema.index_key(file.state, file.pool, file.heat, ino), b"")
            for name, value in file.xattrs.items():
                writer.put(schema.xattr_key(ino, name), value)
            counters.files[file.state] += 1
            counters.bytes[file.state] += file.size
        counters.inodes = len(records)
        writer.put(COUNTERS_KEY, msgspec.msgpack.encode(counters))

    store.transact(make)
    return inodes
