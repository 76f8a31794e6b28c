"""Files of trees with a retention, from their birth to the moment they are unchangeable.

A row of each file has when it was last changed. Of an open file that is
written on the row is right at the first write and at the close; between them
the time is kept in memory, so that a crash may let it settle as much too early
as it was open before, and never more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import quote_from_bytes

import structlog

from hsmfs.errors import FsError
from hsmfs.namespace import keeping
from hsmfs.namespace.openfiles import OpenFiles
from hsmfs.namespace.tables import Tables
from hsmfs.namespace.wormclock import WormClock
from hsmfs.namespace.wormrows import (
    DAMAGED,
    PENDING,
    Kept,
    Tree,
    date_key,
    decode_kept,
    encode,
    ino_of,
    kept_key,
    pending_key,
)
from hsmfs.records import FLAG_SETTLED, FLAG_WORM, InodeRecord

log = structlog.get_logger(__name__)
SLICE: Final = 100
"""Files that settle in one go, and in one entry of the log."""
WRITERS_NS: Final = 10**9
"""A file with writers settles so long after the kernel was asked for what it has."""
PASSING_NS: Final = 10 * 10**9
"""How soon a file is looked at again that a program writes to past hsmfs."""
_SAFE: Final = "/ !#$&'()*+,-.:;=?@[]^_{|}~"


def shown_path(path: bytes) -> str:
    """A path in the log: percent-encoded where it is not printable ASCII."""
    return quote_from_bytes(path, _SAFE)


class Settling:
    """``flush_kernel`` is told of inodes whose pages the kernel is to write and forget."""

    def __init__(
        self, tables: Tables, files: OpenFiles, clock: WormClock, trees: dict[int, Tree]
    ) -> None:
        self.tables = tables
        self.files = files
        self.clock = clock
        self.trees = trees
        self.flush_kernel: Callable[[int], None] = lambda ino: None
        self._changed: dict[int, int] = {}
        """Open files that were changed since their row was written, and when."""
        self._flushed: set[int] = set()

    # -- rows --------------------------------------------------------------------------

    def kept(self, ino: int) -> Kept | None:
        """The row of a file; None where there is none that can be read."""
        value = self.tables.kv.get(kept_key(ino))
        try:
            return decode_kept(value) if value is not None else None
        except DAMAGED:
            log.error("a row of retention is damaged; hsm fsck --repair", ino=ino)
            return None

    def put(self, ino: int, kept: Kept, old: Kept | None) -> None:
        """Store, with its place among those that are due, or among the dates."""
        kv = self.tables.kv
        if old is not None:
            kv.drop(_place(ino, old))
        kv.put(kept_key(ino), encode(kept))
        kv.put(_place(ino, kept), b"")

    def forget(self, ino: int) -> None:
        """The inode is no more, or leaves the tree's care."""
        kept = self.kept(ino)
        if kept is not None:
            self.tables.kv.drop(kept_key(ino))
            self.tables.kv.drop(_place(ino, kept))
        self._changed.pop(ino, None)
        self._flushed.discard(ino)

    def wait(self, ino: int, tree: int, base_ns: int) -> None:
        """It is to settle when it was left alone for long enough after ``base_ns``."""
        due_ns = keeping.after(base_ns, self.trees[tree].settle)
        self.put(ino, Kept(tree, base_ns, due_ns), self.kept(ino))

    # -- changes -----------------------------------------------------------------------

    def touched(self, record: InodeRecord) -> None:
        """It was changed."""
        ino, now_ns = record.ino, self.clock.now_ns()
        if ino in self._changed:
            self._changed[ino] = now_ns
            return
        if self._rebase(ino, now_ns) and self.files.get(ino) is not None:
            self._changed[ino] = now_ns

    def _rebase(self, ino: int, base_ns: int) -> bool:
        kept = self.kept(ino)
        if kept is None or kept.until_ns or kept.tree not in self.trees:
            return False
        self.wait(ino, kept.tree, base_ns)
        return True

    def closed(self, ino: int) -> None:
        """Nobody has it open any more."""
        base_ns = self._changed.pop(ino, None)
        if base_ns is not None:
            self._rebase(ino, base_ns)

    # -- settling ----------------------------------------------------------------------

    def run(self) -> bool:
        """Settle what is due; whether there may be more."""
        now_ns = self.clock.now_ns()
        due = [key for key, _ in self.tables.kv.scan(
            PENDING[0], pending_key(now_ns + 1, 0), limit=SLICE
        )]  # fmt: skip
        settled = [facts for key in due if (facts := self._look_at(key, now_ns)) is not None]
        if settled:
            self.clock.tell("settle", files=settled)
        return len(due) == SLICE

    def _look_at(self, key: bytes, now_ns: int) -> Sequence[Any] | None:
        """Settle a file that is due, if it still is; what the log tells of it."""
        ino = ino_of(key)
        kept = self.kept(ino)
        try:
            record = self.tables.inode(ino)
        except FsError:
            record = None
        if record is None or kept is None or _place(ino, kept) != key:
            self.tables.kv.drop(key)
            return None
        tree = self.trees.get(kept.tree)
        if record.nlink == 0 or tree is None or tree.off:
            self.forget(ino)
            return None
        due_ns = keeping.after(self._changed.get(ino, kept.base_ns), tree.settle)
        due_ns = max(due_ns, now_ns + self._wait_ns(ino))
        if due_ns > now_ns:
            self.put(ino, Kept(kept.tree, self._changed.get(ino, kept.base_ns), due_ns), kept)
            return None
        return self._settle(record, kept, tree, now_ns)

    def _wait_ns(self, ino: int) -> int:
        """How long a file that is due has to wait for its writers; 0: not any more."""
        file = self.files.get(ino)
        if file is None or not file.writers:
            return 0
        if file.watched:  # opened before the tree was taken in: its writes are not seen
            return PASSING_NS
        if ino in self._flushed:
            return 0
        self._flushed.add(ino)
        self.flush_kernel(ino)
        return WRITERS_NS

    def _settle(self, record: InodeRecord, kept: Kept, tree: Tree, now_ns: int) -> Sequence[Any]:
        ino = record.ino
        if ino in self.tables.live:
            self.tables.live[ino]()
        self._changed.pop(ino, None)
        self._flushed.discard(ino)
        until_ns = keeping.after(now_ns, tree.keep)
        record.flags |= FLAG_WORM | FLAG_SETTLED
        self.tables.save(record)
        self.put(ino, Kept(kept.tree, kept.base_ns, 0, now_ns, until_ns), kept)
        self.tables.journal("settle", ino, until_ns)
        path = shown_path(self.tables.path_of(ino))
        return [ino, record.data_version, record.size, record.mtime_ns, until_ns, path]


def _place(ino: int, kept: Kept) -> bytes:
    """Where a row stands in the order of moments."""
    return date_key(kept.until_ns, ino) if kept.until_ns else pending_key(kept.due_ns, ino)
