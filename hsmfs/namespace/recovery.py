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
from hsmfs.errors import CallerError, FsError
from hsmfs.namespace import schema
from hsmfs.namespace.marks import sync_file_system
from hsmfs.namespace.quotas import Quotas
from hsmfs.namespace.tables import STARTS_KEY, Tables
from hsmfs.records import FROZEN, InodeRecord
from hsmfs.residency import STUB_STATES, Cause, after
from hsmfs.store.interface import KVStore, Writer
from hsmfs.types import ROOT_INODE, Residency

log = structlog.get_logger(__name__)
VERSION_KEY: Final = b"Mversion"


def make_namespace(store: KVStore, uid: int, gid: int, mode: int, now_ns: int) -> bool:
    """An empty namespace with its root, unless there is one already."""

    def make(writer: Writer) -> bool:
        version = writer.get(VERSION_KEY)
        starts = int(writer.get(STARTS_KEY) or b"0") + 1
        if version is not None:
            _check_version(int(version))
            # Inodes made from now on differ from those of a lost batch.
            writer.put(STARTS_KEY, b"%d" % starts)
            return False
        root = InodeRecord(
            ROOT_INODE, 1, stat.S_IFDIR | mode, uid, gid, 2, 0, 0, now_ns, now_ns, now_ns, now_ns
        )
        writer.put(schema.inode_key(ROOT_INODE), root.pack())
        writer.put(VERSION_KEY, b"%d" % schema.SCHEMA_VERSION)
        writer.put(STARTS_KEY, b"%d" % starts)
        return True

    return store.transact(make)


def _check_version(found: int) -> None:
    if found < schema.SCHEMA_VERSION:
        raise CallerError(
            f"namespace: found version {found}, expected {schema.SCHEMA_VERSION}: it was made "
            "before the first release; make a new one and copy the files over"
        )
    if found > schema.WORM_VERSION:
        raise CallerError(
            f"namespace: found version {found}, expected at most {schema.WORM_VERSION}; "
            "install the newer hsmfs that wrote it"
        )


def recover(tables: Tables, tier: CacheTier, quotas: Quotas) -> int:
    """Work off all marks; how many there were."""
    marks = {schema.U64.unpack_from(key, 1)[0]: value for key, value in tables.kv.scan(b"O", b"P")}
    opened = tier.marked_open()
    unborn = list(tier.unborn(tables.file_next, tables.file_stop, tables.next_ino))
    for ino in unborn:
        tier.remove(ino)
    for ino in opened:
        marks.setdefault(ino, schema.MARK_WRITE)
    for ino, kind in marks.items():
        try:
            record = tables.inode(ino)
        except FsError:
            tier.remove(ino)
            tables.unmark(ino)
            continue
        _settle(tables, tier, quotas, record, kind)
    for path in list(tier.leftovers()):
        os.unlink(path)
    if marks:
        sync_file_system(tier.root)  # else a loss of power could undo it after the marks are gone
        log.info("interrupted work settled", marks=len(marks))
        tables.kv.flush(lambda error: _forget_open(tier, opened, error))
    return len(marks)


def _forget_open(tier: CacheTier, opened: list[int], error: object) -> None:
    if error is None:
        for ino in opened:
            tier.unmark_open(ino)


def _settle(
    tables: Tables, tier: CacheTier, quotas: Quotas, record: InodeRecord, kind: bytes
) -> None:
    if record.flags & FROZEN and (kind == schema.MARK_ORPHAN or record.nlink == 0):
        # Nothing that hsmfs does leaves this: whoever wrote it, the file stays.
        log.error("a settled or held file has no name left; hsm fsck --repair", ino=record.ino)
        tables.unmark(record.ino)
        return
    if kind == schema.MARK_ORPHAN or record.nlink == 0:
        quotas.count(record, -record.size if stat.S_ISREG(record.mode) else 0, -1)
        tables.drop_inode(record)
        tier.remove(record.ino)
        return
    if record.state == Residency.RECALLING:
        record.state = after(record.state, Cause.GIVEN_UP)
        tables.save(record)
    if record.state in STUB_STATES:
        tier.truncate_to(record.ino, record.head_bytes)
    elif kind == schema.MARK_CUT:
        tier.truncate_to(record.ino, record.size)
    elif kind == schema.MARK_WRITE:
        tier.take_from_strangers(record.ino)
        _reconcile_size(tables, tier, quotas, record)
    tables.unmark(record.ino)


def _reconcile_size(tables: Tables, tier: CacheTier, quotas: Quotas, record: InodeRecord) -> None:
    """The cache file is the truth of a file that was open for write."""
    try:
        facts = os.stat(tier.path(record.ino))
    except FileNotFoundError:
        log.error("cache file is missing", ino=record.ino)
        return
    if facts.st_size != record.size:
        quotas.count(record, facts.st_size - record.size)
        record.size = facts.st_size
        record.mtime_ns = max(record.mtime_ns, facts.st_mtime_ns)
        tables.save(record)
