"""Which inodes the kernel refers to, and what removed ones looked like.

The engine forgets a removed inode when its last handle closes. A process may
still refer to it without a handle (its working directory, an ``O_PATH``
descriptor); ``stat`` answers it from here until the kernel forgets it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from hsmfs.namespace.model import Attr


class Nodes:
    """Lookup counts, and the last attributes of removed inodes."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._removed: dict[int, Attr] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def looked_up(self, ino: int) -> None:
        """The kernel was given one more reference."""
        self._counts[ino] = self._counts.get(ino, 0) + 1

    def forget(self, inodes: Iterable[tuple[int, int]]) -> None:
        """The kernel gave references back."""
        for ino, lookups in inodes:
            left = self._counts.get(ino, 0) - lookups
            if left > 0:
                self._counts[ino] = left
            else:
                self._counts.pop(ino, None)
                self._removed.pop(ino, None)

    def removed(self, attr: Attr) -> None:
        """The last name of an inode is gone: remember it while it is referred to."""
        if attr.ino in self._counts:
            self._removed[attr.ino] = dataclasses.replace(attr, nlink=0)

    def last_seen(self, ino: int) -> Attr | None:
        """A removed inode's attributes, if the kernel still refers to it."""
        return self._removed.get(ino)
