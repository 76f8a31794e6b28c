"""Write-once trees: directories below which files become unchangeable.

``hsm retention set`` gives a directory a settle time and how long files are
kept. All below has the flag WORM, which new inodes get from their directory; a
file that nobody changed for the settle time gets SETTLED, and its date. Names
do not leave a tree (EXDEV), so the directory above an inode tells its tree.
Nothing here is asked for inodes without one of these flags.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from hsmfs.deferred import Deferred, Executor
from hsmfs.errors import CallerError, FsError
from hsmfs.namespace import keeping, schema
from hsmfs.namespace.openfiles import OpenFiles
from hsmfs.namespace.readonly import Guard
from hsmfs.namespace.refusals import Refusals
from hsmfs.namespace.settling import Settling, shown_path
from hsmfs.namespace.stubs import flush_into
from hsmfs.namespace.tables import Tables
from hsmfs.namespace.through import Through
from hsmfs.namespace.wormclock import WormClock
from hsmfs.namespace.wormrows import (
    DAMAGED,
    TREES,
    TREES_MAX,
    Tree,
    decode_tree,
    encode,
    ino_of,
    tree_key,
)
from hsmfs.records import FLAG_FOREIGN, FLAG_HELD, FLAG_SETTLED, FLAG_WORM, FROZEN, InodeRecord
from hsmfs.types import ROOT_INODE

TICK_S: Final = 1.0
DEPTH_MAX: Final = 4096
SLICE: Final = 500
"""Entries taken in before other requests get their turn."""
MOVE_MAX: Final = 1000
"""A directory of a tree with more below it cannot be renamed."""
KNOWN_MAX: Final = 10_000
"""Directories whose tree is remembered."""


@dataclass
class _Taking:
    """A walk through what was there before the tree was set."""

    top: int
    pending: deque[int]
    after: int = 0
    """Cookie in the directory that is being read, the last of ``pending``."""
    files: int = 0
    answers: list[Deferred[int]] = field(default_factory=list)


class Retention(Guard):
    """All trees of a namespace."""

    def __init__(
        self, tables: Tables, files: OpenFiles, through: Through, executor: Executor
    ) -> None:
        self.tables = tables
        self.files = files
        self.through = through
        self.executor = executor
        self.trees = _stored_trees(tables)
        self.clock = WormClock(tables)
        self.settling = Settling(tables, files, self.clock, self.trees)
        self.refusals = Refusals(self.clock)
        self._known: dict[int, int] = {}
        """Trees of directories, as far as they were asked for."""
        self._above: set[int] = set()
        self._taking: _Taking | None = None
        self._ticking = False
        self._closed = False
        self._find_above()
        if self.clock.is_running or self.trees:
            self.begin()
            self.clock.look()
        for ino, tree in self.trees.items():
            if tree.taking:
                self._take(ino, None)

    # -- what operations ask and tell -----------------------------------------------------

    def refused(self, record: InodeRecord, what: str) -> FsError:
        """EPERM, as of a file that is immutable (chattr(1)); the log tells it."""
        if record.flags & FLAG_FOREIGN:
            return super().refused(record, what)
        why = "held" if record.flags & FLAG_HELD else "settled"
        self.refusals.tell(record.ino, record.data_version, what, why)
        if what == "write":  # pages that were changed in memory are not the file's
            self.settling.flush_kernel(record.ino)
        if why == "held":
            return FsError(errno.EPERM, "under a legal hold; see hsm hold ls")
        kept = self.settling.kept(record.ino)
        date = keeping.shown(kept.until_ns) if kept is not None else "its date"
        return FsError(errno.EPERM, f"settled: kept unchanged until {date}, then removed by hand")

    def born(self, record: InodeRecord, folder: InodeRecord) -> None:
        """A new inode in a tree: a file waits to settle."""
        if stat.S_ISDIR(record.mode):
            return
        tree = self.tree_of(folder.ino)
        if tree and not self.trees[tree].off:
            self.settling.wait(record.ino, tree, self.clock.now_ns())

    def touched(self, record: InodeRecord) -> None:
        if not stat.S_ISDIR(record.mode):
            self.settling.touched(record)

    def dropped(self, record: InodeRecord) -> None:
        if stat.S_ISDIR(record.mode):
            self._known.pop(record.ino, None)
            if self.trees.pop(record.ino, None) is not None:  # ended, empty, and removed
                self.tables.kv.drop(tree_key(record.ino))
                self._find_above()
        else:
            self.settling.forget(record.ino)

    def closed(self, record: InodeRecord) -> None:
        """The last handle of an inode of a tree is gone."""
        self.settling.closed(record.ino)

    def same_tree(self, one: InodeRecord, other: InodeRecord) -> bool:
        if (one.flags ^ other.flags) & FLAG_WORM:
            return False  # also while one of them is being taken in
        return self.tree_of(one.ino) == self.tree_of(other.ino)

    def moving(self, folder: InodeRecord) -> None:
        """A tree's directory and those above it stay where they are, and so do directories
        with something settled or held below."""
        tree = self.trees.get(folder.ino)
        if folder.ino in self._above or (tree is not None and not tree.off):
            raise FsError(errno.EPERM, "a tree with a retention is here or below: it stays here")
        if folder.flags & FLAG_WORM and self._has_frozen(folder.ino):
            raise FsError(errno.EPERM, "settled or held files, or too many files, are below")

    def _has_frozen(self, top: int) -> bool:
        """Whether something below is unchangeable, or it is too much to look at."""
        pending, left = [top], MOVE_MAX
        while pending:
            for _, ino, kind, _ in list(self.tables.listed(pending.pop(), 0, left + 1)):
                left -= 1
                if left < 0 or self.tables.inode(ino).flags & FROZEN:
                    return True
                if stat.S_ISDIR(kind):
                    pending.append(ino)
        return False

    def tree_of(self, folder: int) -> int:
        """The inode of the tree that a directory is in; 0: none."""
        known = self._known.get(folder)
        if known is not None:
            return known
        ino, found = folder, 0
        for _ in range(DEPTH_MAX):
            if ino in self.trees:
                found = ino
                break
            place = self.tables.parent_of(ino)
            if place is None:
                break
            ino = place[0]
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[folder] = found
        return found

    def _find_above(self) -> None:
        """Directories that are above a tree; none of them can move, so they stay right."""
        self._known.clear()
        self._above.clear()
        for ino in self.trees:
            for _ in range(DEPTH_MAX):
                place = self.tables.parent_of(ino)
                if place is None:
                    break
                ino = place[0]
                self._above.add(ino)

    # -- time ----------------------------------------------------------------------------

    def begin(self) -> None:
        """From the first tree or hold on."""
        self.clock.begin()
        if not self._ticking:
            self._ticking = True
            self.executor.call_later(TICK_S, self._tick)

    def close(self) -> None:
        """At the end of the process."""
        self._closed = True

    def _tick(self) -> None:
        if self._closed:
            return
        self.clock.look()
        more = self.settling.run()
        self.executor.call_later(0.0 if more else TICK_S, self._tick)

    # -- settings ------------------------------------------------------------------------

    def set_tree(self, path: bytes, settle: str, keep: str, by: str) -> Deferred[int]:
        """Files below a directory settle from now on; how many were there, when all of
        them are taken in. EBUSY, EINVAL, ENOENT, ENOTDIR, EROFS."""
        try:
            keeping.check(settle, "settle")
            keeping.check(keep, "keep")
        except CallerError as error:
            raise FsError(errno.EINVAL, str(error)) from None
        folder = self._folder(path)
        if folder.flags & FLAG_FOREIGN:
            raise self.refused(folder, "retention")
        if self._taking is not None:
            raise FsError(errno.EBUSY, "another tree is being taken in; try again when it is done")
        if folder.ino not in self.trees and len(self.trees) >= TREES_MAX:
            raise FsError(errno.ENOSPC, f"{TREES_MAX} trees have a retention, which is the bound")
        self._check_writers(folder.ino)
        self.begin()
        self._put_tree(folder.ino, Tree(settle, keep, taking=True))
        self._find_above()
        self.clock.tell(
            "retention", ino=folder.ino, path=shown_path(path), settle=settle, keep=keep, by=by
        )
        answer: Deferred[int] = Deferred()
        self._take(folder.ino, answer)
        return answer

    def clear_tree(self, path: bytes, by: str) -> Deferred[None]:
        """No further file settles; those that have stay as they are. ENOENT."""
        folder = self._folder(path)
        tree = self.trees.get(folder.ino)
        if tree is None:
            raise FsError(errno.ENOENT, "has no retention of its own; see hsm retention ls")
        self._put_tree(folder.ino, Tree(tree.settle, tree.keep, off=True))
        self.tables.journal("retention", folder.ino)
        self.clock.tell("retention-off", ino=folder.ino, path=shown_path(path), by=by)
        answer: Deferred[None] = Deferred()
        flush_into(self.tables, answer, None)
        return answer

    def _folder(self, path: bytes) -> InodeRecord:
        ino: int = ROOT_INODE
        for name in path.split(b"/"):
            if name:
                found = self.tables.entry(ino, name)
                if found is None:
                    raise FsError(errno.ENOENT)
                ino = found
        record = self.tables.inode(ino)
        if not stat.S_ISDIR(record.mode):
            raise FsError(errno.ENOTDIR)
        return record

    def _put_tree(self, ino: int, tree: Tree) -> None:
        self.trees[ino] = tree
        self.tables.kv.put(tree_key(ino), encode(tree))

    def _check_writers(self, top: int) -> None:
        """EBUSY where a program writes past hsmfs to a file below."""
        for ino in self.files.written_by_programs():
            if self._is_below(ino, top):
                path = os.fsdecode(self.tables.path_of(ino))
                raise FsError(
                    errno.EBUSY, f"/{path} is open for writing; try again when it is closed"
                )

    def _is_below(self, ino: int, top: int) -> bool:
        """By any of the names of an inode."""
        for key, _ in list(self.tables.kv.scan(*schema.link_range(ino))):
            at = schema.U64.unpack_from(key, 9)[0]
            for _ in range(DEPTH_MAX):
                if at == top:
                    return True
                place = self.tables.parent_of(at)
                if place is None:
                    break
                at = place[0]
        return False

    # -- what was there before ----------------------------------------------------------------

    def _take(self, top: int, answer: Deferred[int] | None) -> None:
        """Top down, and from now on names neither enter nor leave: nothing is missed."""
        record = self.tables.inode(top)
        record.flags |= FLAG_WORM
        self.tables.save(record)
        self.tables.journal("retention", top)
        self.through.no_writes = True
        taking = _Taking(top, deque([top]))
        if answer is not None:
            taking.answers.append(answer)
        self._taking = taking
        self._take_some()

    def _take_some(self) -> None:
        taking = self._taking
        assert taking is not None
        left = SLICE
        while taking.pending and left > 0:
            folder = taking.pending[-1]
            entries = list(self.tables.listed(folder, taking.after, left))
            if not entries:
                taking.pending.pop()
                taking.after = 0
                continue
            left -= len(entries)
            taking.after = entries[-1][0]
            taking.pending.extendleft(
                ino for _, ino, _, _ in entries if self._take_one(taking, ino)
            )
        if taking.pending:
            self.executor.call_later(0.0, self._take_some)
        else:
            self._taken(taking)

    def _take_one(self, taking: _Taking, ino: int) -> bool:
        """Whether it is a directory to go on with."""
        record = self.tables.inode(ino)
        if ino in self.trees or record.flags & FLAG_FOREIGN:
            return False
        if not record.flags & FLAG_WORM:
            record.flags |= FLAG_WORM
            self.tables.save(record)
        if stat.S_ISDIR(record.mode):
            return True
        if not record.flags & FLAG_SETTLED:
            kept = self.settling.kept(ino)
            base_ns = kept.base_ns if kept is not None else self.clock.now_ns()
            self.settling.wait(ino, taking.top, base_ns)
        taking.files += 1
        return False

    def _taken(self, taking: _Taking) -> None:
        tree = self.trees[taking.top]
        tree.taking = False
        self._put_tree(taking.top, tree)
        self.clock.tell("taken", ino=taking.top, files=taking.files)
        self._taking = None
        self.through.no_writes = False
        for answer in taking.answers:
            flush_into(self.tables, answer, taking.files)
        following = next((ino for ino, tree in self.trees.items() if tree.taking), 0)
        if following:
            self._take(following, None)


def _stored_trees(tables: Tables) -> dict[int, Tree]:
    try:
        return {ino_of(key): decode_tree(value) for key, value in tables.kv.scan(*TREES)}
    except DAMAGED as error:
        raise CallerError(
            f"namespace: row of a tree with a retention: {error}; hsm fsck --repair"
        ) from None
