"""Facts about files, as policy rules want them."""

from __future__ import annotations

from collections.abc import Mapping

from hsmfs.daemon.policy.evaluate import Facts
from hsmfs.heat import heat_now
from hsmfs.namespace.view import NamespaceView
from hsmfs.records import InodeRecord
from hsmfs.types import Residency


def facts_in(view: NamespaceView, path: bytes, record: InodeRecord, now_ns: int) -> Facts:
    """The facts of one file under one of its names, with its extended attributes."""
    return facts_of(path, record, now_ns, view.xattrs(record.ino))


def facts_of(
    path: bytes, record: InodeRecord, now_ns: int, xattrs: Mapping[bytes, bytes] | None = None
) -> Facts:
    """The facts of one file under one of its names."""
    return Facts(
        path=path,
        name=path.rpartition(b"/")[2],
        size=record.size,
        atime_ns=record.atime_ns,
        mtime_ns=record.mtime_ns,
        ctime_ns=record.ctime_ns,
        uid=record.uid,
        gid=record.gid,
        heat=heat_now(record.heat, now_ns),
        state=Residency(record.state).word,
        copies=record.copies,
        ino=record.ino,
        tier=record.tier,
        xattrs=xattrs or {},
    )
