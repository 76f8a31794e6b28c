"""What a crash left, put right before the first request.

Marks in table O name every inode with which something was under way, so the
cost is that of the work that was cut, not of the namespace's size.
"""

from __future__ import annotations

import os
import stat
from typing import Final

import structlog

from hsmfs.cache.tier import CacheTier
from hsmfs.errors import FsError
from hsmfs.namespace import schema
from hsmfs.namespace.tables import Tables
from hsmfs.records import InodeRecord
from hsmfs.residency import STUB_STATES, Cause, after
from hsmfs.store.interface import KVStore, Writer
from hsmfs.types import ROOT_INODE, Residency

log = structlog.get_logger(__name__)
VERSION_KEY: Final = b"Mversion"


def make_namespace(store: KVStore, uid: int, gid: int, mode: int, now_ns: int) -> bool:
    """An empty namespace with its root, unless there is one already."""

    def make(writer: Writer) -> bool:
        version = writer.get(VERSION_KEY)
        if version is not None:
            _check_version(int(version))
            return False
        root = InodeRecord(
            ROOT_INODE, 1, stat.S_IFDIR | mode, uid, gid, 2, 0, 0, now_ns, now_ns, now_ns, now_ns
        )
        writer.put(schema.inode_key(ROOT_INODE), root.pack())
        writer.put(VERSION_KEY, b"%d" % schema.SCHEMA_VERSION)
        return True

    return store.transact(make)


def _check_version(found: int) -> None:
    from hsmfs.errors import CallerError

    if found > schema.SCHEMA_VERSION:
        raise CallerError(
            f"namespace: found version {found}, expected at most {schema.SCHEMA_VERSION}; "
            "install the newer hsmfs that wrote it"
        )


def recover(tables: Tables, tier: CacheTier) -> int:
    """Work off all marks; how many there were."""
    marks = [
        (schema.U64.unpack_from(key, 1)[0], value) for key, value in tables.kv.scan(b"O", b"P")
    ]
    for ino, kind in marks:
        try:
            record = tables.inode(ino)
        except FsError:
            tier.remove(ino)
            tables.unmark(ino)
            continue
        _settle(tables, tier, record, kind)
    for path in list(tier.leftovers()):
        os.unlink(path)
    if marks:
        log.info("interrupted work settled", marks=len(marks))
    return len(marks)


def _settle(tables: Tables, tier: CacheTier, record: InodeRecord, kind: bytes) -> None:
    if kind == schema.MARK_ORPHAN or record.nlink == 0:
        tier.remove(record.ino)
        tables.drop_inode(record)
        return
    if record.state == Residency.RECALLING:
        record.state = after(record.state, Cause.GIVEN_UP)
        tables.save(record)
    if record.state in STUB_STATES:
        tier.truncate_to(record.ino, record.head_bytes)
    elif kind == schema.MARK_WRITE:
        _reconcile_size(tables, tier, record)
    tables.unmark(record.ino)


def _reconcile_size(tables: Tables, tier: CacheTier, record: InodeRecord) -> None:
    """The cache file is the truth of a file that was open for write."""
    try:
        facts = os.stat(tier.path(record.ino))
    except FileNotFoundError:
        log.error("cache file is missing", ino=record.ino)
        return
    if facts.st_size != record.size:
        record.size = facts.st_size
        record.mtime_ns = max(record.mtime_ns, facts.st_mtime_ns)
        tables.save(record)
