"""Retention, holds and the audit log of a namespace that is made from discs.

What was settled or held when a set was burned is again. What is in a tree and
of which no set says that it settled waits anew, from now on. Trusted time
begins where the newest set has it: how long ago that was nobody proves, so it
follows the clock within its credit, and the rest an administrator accepts.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import Final

from hsmfs.daemon.namespaceset import SetHeader, SetLine, SetLog
from hsmfs.namespace import keeping
from hsmfs.namespace.audit import NONE, AuditLog, digest
from hsmfs.namespace.trustedtime import TimeRow
from hsmfs.namespace.wormrows import (
    HEAD_KEY,
    TIME_KEY,
    Head,
    Hold,
    Kept,
    Tree,
    date_key,
    encode,
    entry_key,
    hold_key,
    kept_key,
    pending_key,
    tree_key,
)
from hsmfs.records import FLAG_HELD, FLAG_SETTLED, FLAG_WORM, InodeRecord
from hsmfs.tools.rebuild.directories import Directories
from hsmfs.tools.rebuild.namespacefile import NamespaceFile, Place
from hsmfs.tools.rebuild.scratch import Scratch
from hsmfs.types import ROOT_INODE

DEPTH_MAX: Final = 4096


class WormRows:
    """Writes the rows, and sets the flags of records before they are written."""

    def __init__(self, namespace: NamespaceFile, sets: Sequence[SetHeader], now_ns: int) -> None:
        self.namespace = namespace
        self.directories = Directories()
        """Set when they are known."""
        logs = [one.log for one in sets if isinstance(one.log, SetLog)]
        self.head = max(logs, key=lambda one: one.number, default=None)
        self.time_ns = max((one.time_ns for one in logs), default=now_ns)
        self.clock_ns = now_ns
        self._trees: dict[int, int] = {ROOT_INODE: 0}

    def tree_of(self, folder: int) -> int:
        """The tree that a directory is in; 0: none."""
        ino, way = folder, []
        for _ in range(DEPTH_MAX):
            here = self.directories.by_ino.get(ino)
            if here is None or (ino in self._trees and ino != ROOT_INODE):
                break
            way.append(ino)
            if (here.line is not None and here.line.retention is not None) or ino == ROOT_INODE:
                break
            ino = here.parent
        here = self.directories.by_ino.get(ino)
        is_top = here is not None and here.line is not None and here.line.retention is not None
        found = ino if is_top else self._trees.get(ino, 0)
        for one in way:
            self._trees[one] = found
        return found

    def directory(self, record: InodeRecord, line: SetLine | None) -> None:
        """Before a directory is written."""
        if self.tree_of(record.ino):
            record.flags |= FLAG_WORM
        if line is not None and line.retention is not None:
            told = line.retention
            tree = Tree(told.settle, told.keep, told.off)
            self.namespace.rows((tree_key(record.ino), encode(tree)))

    def file(self, record: InodeRecord, line: SetLine | None, places: Sequence[Place]) -> None:
        """Before anything else is written."""
        tree = self.tree_of(places[0][0]) if places else 0
        if line is not None and line.holds:
            record.flags |= FLAG_HELD
            holds = [Hold(one.reason, one.by, one.set_ns) for one in line.holds]
            self.namespace.rows((hold_key(record.ino), encode(holds)))
        told = line.kept if line is not None else None
        if told is not None and told.until_ns:
            record.flags |= FLAG_WORM | FLAG_SETTLED
            kept = Kept(tree, told.base_ns, 0, told.settled_ns, told.until_ns)
            self._put(record.ino, kept, date_key(told.until_ns, record.ino))
        elif tree:
            record.flags |= FLAG_WORM
            self._wait(record, tree)

    def _wait(self, record: InodeRecord, tree: int) -> None:
        assert not stat.S_ISDIR(record.mode)
        line = self.directories.by_ino[tree].line
        assert line is not None and line.retention is not None
        if not line.retention.off:
            due_ns = keeping.after(self.time_ns, line.retention.settle)
            kept = Kept(tree, self.time_ns, due_ns)
            self._put(record.ino, kept, pending_key(due_ns, record.ino))

    def _put(self, ino: int, kept: Kept, place: bytes) -> None:
        self.namespace.rows((kept_key(ino), encode(kept)), (place, b""))

    def log(self, scratch: Scratch) -> None:
        """The audit log as far as discs have it, and an entry that it was taken from them."""
        last = Head(0, NONE)
        count = 0
        for number, entry in scratch.log_entries():
            self.namespace.rows((entry_key(number), entry))
            last, count = Head(number, digest(entry)), count + 1
        told = self.head
        if told is not None and told.number > last.number:
            last = Head(told.number, told.sha256)
        if not last.number:
            return
        rows = _Rows({HEAD_KEY: encode(last)})
        audit = AuditLog(rows)
        audit.append("rebuilt", self.time_ns, self.clock_ns, 0, entries=count, last=last.number)
        rows[TIME_KEY] = encode(TimeRow(self.time_ns, "", 0))
        self.namespace.rows(*rows.items())


class _Rows(dict[bytes, bytes]):
    """What the log is appended to."""

    def put(self, key: bytes, value: bytes) -> None:
        self[key] = value
