"""Kernel passthrough: programs read and write the cache file itself.

Which opens may pass is decided here, and what they did to the cache file is
brought into the inode's record: its size and times are looked at whenever
somebody asks for them, and at the last close.

An inode has one way of I/O from its first open to its last release (the
kernel refuses to mix page cache and passthrough). Where a handle of a passing
inode must not pass, because its first write has to be seen (a version that
copies hold, set-id bits), it is opened with direct I/O beside the others: its
requests come here, and go to the same cache file.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final, Protocol

from hsmfs.cache.tier import CacheTier
from hsmfs.errors import FsError
from hsmfs.namespace.claims import Claims
from hsmfs.namespace.model import Io, Opened
from hsmfs.namespace.openfiles import OpenFile
from hsmfs.namespace.quotas import Quotas
from hsmfs.namespace.tables import Tables
from hsmfs.records import FLAG_SEEN, FLAG_SPARSE, FLAG_WORM, InodeRecord
from hsmfs.residency import STUB_STATES
from hsmfs.types import Residency

RELATIME_NS: Final = 86_400 * 10**9
ROOM_BYTES: Final = 1 << 28
"""With less room in the tier writes come through the server, which keeps its
bounds; programs that pass are stopped by the disk alone."""
SET_ID: Final = stat.S_ISUID | stat.S_ISGID


class Backings(Protocol):
    """Cache files that the kernel holds; a session's part."""

    def open(self, fd: int) -> int:
        """Register a file: its number, or 0 where that cannot be done."""

    def close(self, number: int) -> None:
        """Let it go."""


def atime_is_stale(record: InodeRecord, now_ns: int) -> bool:
    """Whether a read changes the access time, by the rules of relatime (mount(8))."""
    atime_ns = record.atime_ns
    return (
        atime_ns <= record.mtime_ns
        or atime_ns <= record.ctime_ns
        or now_ns - atime_ns > RELATIME_NS
    )


class Through:
    """Opens that pass, and what came of them."""

    def __init__(self, tables: Tables, tier: CacheTier, claims: Claims, quotas: Quotas) -> None:
        self.quotas = quotas
        self.tables = tables
        self.tier = tier
        self.claims = claims
        self.backings: Backings | None = None
        self.no_writes = False
        """While a tree is being taken into a retention, no new writer may pass."""

    def opened(self, file: OpenFile, fh: int, flags: int, fd: int = -1) -> Opened:
        """How a new handle does its I/O; ``fd`` is the cache file, if it is open."""
        record = file.record
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        if file.handles == 1:
            file.passes = self._may_pass(record, writes)
        if not file.passes:
            return Opened(fh, True, Io.DIRECT if record.state in STUB_STATES else Io.CACHED)
        if file.handles > 1 and writes and self._must_see(record):
            return Opened(fh, True, Io.BESIDE, file.backing)
        if not self._pass(file, flags, writes, fd):
            return Opened(fh, True, Io.CACHED)
        return Opened(fh, True, Io.PASSES, file.backing)

    def _may_pass(self, record: InodeRecord, writes: bool) -> bool:
        if self.backings is None or record.state in STUB_STATES:
            return False
        return not (writes and self._must_see(record))

    def _must_see(self, record: InodeRecord) -> bool:
        """Whether the first write through a handle must come here."""
        return bool(
            record.flags & (FLAG_SEEN | FLAG_WORM)
            or self.no_writes
            or record.copies
            or record.state != Residency.RESIDENT
            or (record.mode & SET_ID and stat.S_ISREG(record.mode))
            or not self.tier.has_room(ROOM_BYTES)
            or not self.quotas.has_room(record, ROOM_BYTES)
        )

    def _pass(self, file: OpenFile, flags: int, writes: bool, fd: int) -> bool:
        """Register the cache file, and what will tell of changes."""
        assert self.backings is not None
        record = file.record
        own = fd
        if own < 0:
            own = self.tier.open_for(record.ino, record.size)
        try:
            if not file.backing:
                file.backing = self.backings.open(own)
            if not file.backing:
                file.passes = False
                return False
            self._watch(file, own, flags, writes)
        except OSError as error:
            raise FsError(error.errno or errno.EIO) from error
        finally:
            if fd < 0:
                os.close(own)
        return True

    def _watch(self, file: OpenFile, fd: int, flags: int, writes: bool) -> None:
        record, now_ns = file.record, self.tables.clock.now_ns()
        if writes and not file.watched:
            file.watched = True
            file.base_mtime_ns = os.fstat(fd).st_mtime_ns
            file.opened_ns = now_ns
        reads = flags & os.O_ACCMODE != os.O_WRONLY and not flags & os.O_NOATIME
        if reads and not file.writers and not file.awaits_read and atime_is_stale(record, now_ns):
            # The disk's own relatime then notes the first read.
            os.utime(fd, ns=(0, os.fstat(fd).st_mtime_ns))
            file.awaits_read = True
        if file.watched or file.awaits_read:
            self.tables.live[record.ino] = lambda: self.refresh(file)

    def refresh(self, file: OpenFile) -> None:
        """Size and times as the cache file has them."""
        if not (file.watched or file.awaits_read):
            return
        record = file.record
        try:
            facts = os.stat(self.tier.path(record.ino))
        except FileNotFoundError:
            return
        changed = False
        if file.watched:
            changed = self._take_size(file, facts)
        if file.awaits_read and facts.st_atime_ns != 0:
            file.awaits_read = False
            record.atime_ns = max(record.atime_ns, facts.st_atime_ns)
            changed = True
        if changed:
            self.tables.save(record)

    def _take_size(self, file: OpenFile, facts: os.stat_result) -> bool:
        record = file.record
        if facts.st_size == record.size and facts.st_mtime_ns == file.base_mtime_ns:
            return False
        self.tier.used_bytes += facts.st_size - record.size
        self.quotas.count(record, facts.st_size - record.size)
        record.size = facts.st_size
        file.base_mtime_ns = facts.st_mtime_ns
        # The disk's clock may be some milliseconds coarse.
        record.mtime_ns = record.ctime_ns = max(facts.st_mtime_ns, file.opened_ns)
        record.mode &= ~stat.S_ISUID
        sparse = facts.st_blocks << 9 < facts.st_size
        record.flags = record.flags & ~FLAG_SPARSE | (FLAG_SPARSE if sparse else 0)
        return True

    def touched(self, file: OpenFile) -> None:
        """The server changed the cache file itself: that is no write of a program."""
        if file.watched:
            facts = os.stat(self.tier.path(file.record.ino))
            file.base_mtime_ns = facts.st_mtime_ns

    def closed(self, file: OpenFile) -> None:
        """The last handle is gone."""
        self.refresh(file)
        self.tables.live.pop(file.record.ino, None)
        if file.backing and self.backings is not None:
            self.backings.close(file.backing)
            file.backing = 0
