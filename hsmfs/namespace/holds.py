"""Legal holds, and what an administrator does to settled files: longer dates, removal.

A held file cannot be changed or removed, whatever its date says. A file whose
date has passed stays as it is until somebody confirms its removal by inode and
date, as ``hsm retention expired`` listed them: what changed meanwhile is refused.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Sequence
from typing import Any

from hsmfs.deferred import Deferred
from hsmfs.errors import CallerError, FsError
from hsmfs.namespace import keeping, schema
from hsmfs.namespace.removal import Removal
from hsmfs.namespace.retention import Retention
from hsmfs.namespace.settling import shown_path
from hsmfs.namespace.stubs import flush_into
from hsmfs.namespace.tree import Tree
from hsmfs.namespace.wormrows import (
    DAMAGED,
    HOLDS_MAX,
    REASON_BYTES_MAX,
    Hold,
    Kept,
    decode_holds,
    encode,
    hold_key,
)
from hsmfs.records import FLAG_FOREIGN, FLAG_HELD, FLAG_SETTLED, InodeRecord

Facts = list[Any]


class Holds:
    """``name_changed`` is told of directory and name of what was removed."""

    def __init__(self, retention: Retention, tree: Tree, removal: Removal) -> None:
        self.retention = retention
        self.tables = retention.tables
        self.clock = retention.clock
        self.settling = retention.settling
        self.tree = tree
        self.removal = removal
        self.name_changed: Callable[[int, bytes], None] = lambda parent, name: None

    # -- holds -------------------------------------------------------------------------

    def holds(self, ino: int) -> list[Hold]:
        """Of one file."""
        value = self.tables.kv.get(hold_key(ino))
        try:
            return decode_holds(value) if value is not None else []
        except DAMAGED:
            return [Hold("unknown: its row is damaged; hsm fsck --repair", "", 0)]

    def set(self, inodes: Sequence[int], reason: str, by: str) -> Deferred[list[str]]:
        """Nobody changes or removes these files; for each why not, or nothing."""
        if not reason or len(reason.encode()) > REASON_BYTES_MAX:
            raise FsError(errno.EINVAL, f"a reason has 1 to {REASON_BYTES_MAX} bytes")
        self.retention.begin()
        return self._each(inodes, lambda record: self._hold(record, reason, by), "hold",
                          reason=reason, by=by)  # fmt: skip

    def _hold(self, record: InodeRecord, reason: str, by: str) -> None:
        holds = self.holds(record.ino)
        if any(one.reason == reason for one in holds):
            return
        if len(holds) >= HOLDS_MAX:
            raise FsError(errno.ENOSPC, f"has {HOLDS_MAX} holds, which is the bound")
        file = self.retention.files.get(record.ino)
        if file is not None and file.watched and file.writers:
            raise FsError(errno.EBUSY, "open for writing; try again when it is closed")
        holds.append(Hold(reason, by, self.clock.now_ns()))
        self.tables.kv.put(hold_key(record.ino), encode(holds))
        record.flags |= FLAG_HELD
        if file is not None and file.writers:
            self.settling.flush_kernel(record.ino)

    def clear(self, inodes: Sequence[int], reason: str, by: str) -> Deferred[list[str]]:
        """End the hold of this reason, or all of them without one."""
        self.retention.begin()
        return self._each(inodes, lambda record: self._release(record, reason), "hold-clear",
                          reason=reason, by=by)  # fmt: skip

    def _release(self, record: InodeRecord, reason: str) -> None:
        holds = self.holds(record.ino)
        rest = [one for one in holds if reason and one.reason != reason]
        if len(rest) == len(holds):
            raise FsError(errno.ENOENT, "has no hold" + (f" for {reason!r}" if reason else ""))
        if rest:
            self.tables.kv.put(hold_key(record.ino), encode(rest))
        else:
            self.tables.kv.drop(hold_key(record.ino))
            record.flags &= ~FLAG_HELD

    def _each(
        self, inodes: Sequence[int], change: Callable[[InodeRecord], None], op: str, **facts: str
    ) -> Deferred[list[str]]:
        results, done = [], []
        for ino in inodes:
            try:
                record = self._file(ino)
                change(record)
                self.tables.save(record)
                self.tables.journal("hold", ino)
                path = shown_path(self.tables.path_of(ino))
                done.append([ino, record.data_version, record.size, path])
                results.append("")
            except FsError as error:
                results.append(error.why)
        return self._answer(op, done, results, **facts)

    def _answer(
        self, op: str, done: Sequence[Facts], results: list[str], **facts: str
    ) -> Deferred[list[str]]:
        if done:
            self.clock.tell(op, files=done, **facts)
        answer: Deferred[list[str]] = Deferred()
        flush_into(self.tables, answer, results)
        return answer

    def _file(self, ino: int) -> InodeRecord:
        try:
            record = self.tables.inode(ino)
        except FsError:
            record = None
        if record is None or record.nlink == 0:
            raise FsError(errno.ENOENT, "removed meanwhile")
        if stat.S_ISDIR(record.mode):
            raise FsError(errno.EISDIR, "a directory; with -r all files below")
        if record.flags & FLAG_FOREIGN:
            raise FsError(errno.EROFS, "imported from a disc of others, which is read-only")
        return record

    # -- dates -------------------------------------------------------------------------

    def extend(self, inodes: Sequence[int], keep: str, by: str) -> Deferred[list[str]]:
        """Settled files are kept for so long from now on, never shorter than before."""
        try:
            keeping.check(keep, "keep")
        except CallerError as error:
            raise FsError(errno.EINVAL, str(error)) from None
        self.retention.begin()
        until_ns = keeping.after(self.clock.now_ns(), keep)
        return self._each(
            inodes, lambda record: self._extend(record, until_ns), "extend",
            until_ns=str(until_ns), by=by,
        )  # fmt: skip

    def _extend(self, record: InodeRecord, until_ns: int) -> None:
        kept = self._settled(record)
        if until_ns < kept.until_ns:
            raise FsError(
                errno.EINVAL, f"is kept until {keeping.shown(kept.until_ns)}, which is later"
            )
        later = Kept(kept.tree, kept.base_ns, 0, kept.settled_ns, until_ns)
        self.settling.put(record.ino, later, kept)

    def _settled(self, record: InodeRecord) -> Kept:
        kept = self.settling.kept(record.ino)
        if not record.flags & FLAG_SETTLED or kept is None or not kept.until_ns:
            raise FsError(errno.EINVAL, "is not settled")
        return kept

    # -- removal -----------------------------------------------------------------------

    def confirm(self, files: Sequence[tuple[int, int]], by: str) -> Deferred[list[str]]:
        """Remove files whose date, as it was listed, has passed; for each why not."""
        self.retention.begin()
        results, done = [], []
        for ino, until_ns in files:
            try:
                done.append(self._remove(self._file(ino), until_ns))
                results.append("")
            except FsError as error:
                results.append(error.why)
        return self._answer("delete", done, results, by=by)

    def _remove(self, record: InodeRecord, until_ns: int) -> Facts:
        kept = self._settled(record)
        if record.flags & FLAG_HELD:
            raise FsError(errno.EPERM, "under a legal hold; see hsm hold ls")
        if kept.until_ns != until_ns:
            raise FsError(
                errno.EINVAL, f"is kept until {keeping.shown(kept.until_ns)}, not as listed"
            )
        if kept.until_ns > self.clock.now_ns():
            raise FsError(errno.EPERM, f"is kept until {keeping.shown(kept.until_ns)}")
        ino = record.ino
        facts: Facts = [
            ino, record.data_version, record.size, until_ns,
            shown_path(self.tables.path_of(ino)),
        ]  # fmt: skip
        record.flags &= ~FLAG_SETTLED
        self.settling.forget(ino)
        for key, _ in list(self.tables.kv.scan(*schema.link_range(ino))):
            parent, name = schema.U64.unpack_from(key, 9)[0], key[17:]
            self.tree.unlink(parent, name)
            self.name_changed(parent, name)
        if self.retention.files.get(ino) is None:
            self.removal.forgotten(ino)  # the kernel may never have heard of it
        return facts
