"""Open directories: stable positions while entries come and go.

A cookie is stored with each entry, so a handle keeps no names, and positions
stay right over restarts and over handles, as NFS servers need.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from hsmfs.errors import FsError
from hsmfs.namespace.model import Attr
from hsmfs.namespace.tables import Tables
from hsmfs.namespace.tree import Tree
from hsmfs.records import InodeRecord

DOT: Final = 1
DOTDOT: Final = 2
"""Cookies of the two entries that every directory has."""


class Listed(NamedTuple):
    """An entry: its name, where to go on after it, and what it stands for."""

    name: bytes
    cookie: int
    ino: int
    kind: int
    """File type: the S_IFMT bits of its mode."""


@dataclass(slots=True)
class _Listing:
    ino: int
    stop: int
    """Entries made after the listing began are not shown: a program that
    makes files in the directory that it reads comes to an end."""


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
        self._open[number] = _Listing(ino, self.tables.next_ino)
        return number

    def release(self, fh: int) -> None:
        """Close a handle."""
        self._open.pop(fh, None)

    def listed(self, fh: int, cookie: int, limit: int) -> Iterator[Listed]:
        """Up to ``limit`` entries after a cookie (0: from the beginning).

        To be finished before anything is changed.
        """
        listing = self._open.get(fh)
        if listing is None:
            raise FsError(errno.EBADF)
        if cookie == 0:
            listing.stop = self.tables.next_ino
        if self._is_gone(listing.ino):
            return
        for number, name in ((DOT, b"."), (DOTDOT, b"..")):
            if cookie < number:
                record = self._here(listing.ino, name)
                yield Listed(name, number, record.ino, record.mode)
        for number, ino, kind, name in self.tables.listed(listing.ino, max(cookie, DOTDOT), limit):
            if number >= listing.stop:
                return
            yield Listed(name, number, ino, kind)

    def _is_gone(self, ino: int) -> bool:
        try:
            return self.tables.inode(ino).nlink == 0
        except FsError:
            return True

    def _here(self, ino: int, name: bytes) -> InodeRecord:
        return self.tree.find(ino, name)

    def read(self, fh: int, cookie: int, limit: int) -> list[tuple[bytes, int, Attr]]:
        """Entries after a cookie: name, next cookie, attributes."""
        tables = self.tables
        found = list(self.listed(fh, cookie, limit))[:limit]
        return [(item.name, item.cookie, tables.attr(tables.inode(item.ino))) for item in found]
