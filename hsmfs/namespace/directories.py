"""Open directories: stable positions while entries come and go."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from hsmfs.errors import FsError
from hsmfs.namespace.model import Attr
from hsmfs.namespace.tables import Tables
from hsmfs.namespace.tree import Tree
from hsmfs.records import InodeRecord


@dataclass(slots=True)
class _Listing:
    """Names as of the first read; a cookie is a position in them."""

    ino: int
    names: list[tuple[bytes, int]] | None = None


class Directories:
    """Handles on directories."""

    def __init__(self, tables: Tables, tree: Tree) -> None:
        self.tables = tables
        self.tree = tree
        self._open: dict[int, _Listing] = {}
        self._next = 1

    def open(self, ino: int) -> int:
        """A handle; ENOTDIR."""
        self.tree.directory(ino)
        number, self._next = self._next, self._next + 1
        self._open[number] = _Listing(ino)
        return number

    def release(self, fh: int) -> None:
        """Close a handle."""
        self._open.pop(fh, None)

    def read(self, fh: int, cookie: int, limit: int) -> list[tuple[bytes, int, Attr]]:
        """Entries after a cookie (0: the beginning, listed anew).

        What was removed since is left out; what was renamed is not shown twice.
        """
        listing = self._open.get(fh)
        if listing is None:
            raise FsError(errno.EBADF)
        if cookie == 0 or listing.names is None:
            listing.names = [(b".", 0), (b"..", 0), *self.tables.entries(listing.ino)]
        found: list[tuple[bytes, int, Attr]] = []
        while cookie < len(listing.names) and len(found) < limit:
            name, ino = listing.names[cookie]
            cookie += 1
            record = self._still(listing.ino, name, ino)
            if record is not None:
                found.append((name, cookie, self.tables.attr(record)))
        return found

    def _still(self, parent: int, name: bytes, ino: int) -> InodeRecord | None:
        try:
            if not ino:
                return self.tree.find(parent, name)
            if self.tables.entry(parent, name) != ino:
                return None
            return self.tables.inode(ino)
        except FsError:
            return None
