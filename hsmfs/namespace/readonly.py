"""What nobody changes: trees of discs of others, settled files, files under a hold."""

from __future__ import annotations

import errno

from hsmfs.errors import FsError
from hsmfs.records import FIXED, FLAG_FOREIGN, InodeRecord


class Guard:
    """What operations ask and tell about files of trees with a retention.

    This one is of a namespace without any; see retention.py.
    """

    def refused(self, record: InodeRecord, what: str) -> FsError:
        """The error for a change of what has one of the flags FIXED."""
        if record.flags & FLAG_FOREIGN:
            return FsError(errno.EROFS, "imported from a disc of others, which is read-only")
        return FsError(errno.EPERM, "settled or under a hold")

    def born(self, record: InodeRecord, folder: InodeRecord) -> None:
        """An inode gets its first name in such a tree."""

    def touched(self, record: InodeRecord) -> None:
        """Something of an inode in such a tree was changed."""

    def dropped(self, record: InodeRecord) -> None:
        """An inode of such a tree, or under a hold, is no more."""

    def same_tree(self, one: InodeRecord, other: InodeRecord) -> bool:
        """Whether names may go from one directory to the other."""
        return True

    def moving(self, folder: InodeRecord) -> None:
        """Before a directory gets another path: EPERM where that changes the path of
        what is unchangeable."""


def check_writable(guard: Guard, record: InodeRecord, what: str) -> None:
    """EROFS for what came with an import, EPERM for what is settled or held, before it or
    a name in it is changed; ``what`` is the operation, in a word."""
    if record.flags & FIXED:
        raise guard.refused(record, what)
