"""Names and directories as arrays: some bytes for each, sorted when all are known."""

from __future__ import annotations

import stat
from array import array
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsmfs.types import ROOT_INODE

Numbers = NDArray[np.uint64]


class Names:
    """What stands in table D, without the names themselves: 8 bytes for each name,
    and 16 more for that of a directory."""

    def __init__(self) -> None:
        self._inodes = array("Q")
        self._children = array("Q")
        self._parents = array("Q")
        self._moved: Counter[int] = Counter()
        self._moved_below: Counter[int] = Counter()

    def add(self, parent: int, ino: int, kind: int) -> None:
        """A name of an inode."""
        self._inodes.append(ino)
        if kind == stat.S_IFDIR:
            self._children.append(ino)
            self._parents.append(parent)

    def moved(self, ino: int, kind: int, old: int | None, new: int | None) -> None:
        """After all were added: a name was taken away, or given."""
        self._moved[ino] += (new is not None) - (old is not None)
        if kind == stat.S_IFDIR:
            for parent, step in ((old, -1), (new, 1)):
                if parent is not None:
                    self._moved_below[parent] += step

    def counts(self) -> Counts:
        """How often each inode is named."""
        return Counts(_sorted(self._inodes), self._moved)

    def subdirectories(self) -> Counts:
        """How often each directory is a parent of directories."""
        return Counts(_sorted(self._parents), self._moved_below)

    def directories(self) -> tuple[Numbers, Numbers]:
        """Each name of a directory: the directory, by number, and where it is."""
        children = np.array(self._children, dtype=np.uint64)
        parents = np.array(self._parents, dtype=np.uint64)
        order = np.argsort(children, kind="stable")
        return children[order], parents[order]


class Counts:
    """How often numbers occur, with what moved since."""

    def __init__(self, values: Numbers, moved: Counter[int]) -> None:
        self._values = values
        self._moved = moved

    def of(self, number: int) -> int:
        """Occurrences of one number."""
        return int(self.of_many(np.array([number], dtype=np.uint64))[0])

    def of_many(self, numbers: Numbers) -> NDArray[np.int64]:
        """Occurrences of each."""
        first = np.searchsorted(self._values, numbers, side="left")
        found: NDArray[np.int64] = np.searchsorted(self._values, numbers, side="right") - first
        if self._moved:
            found += np.array([self._moved[int(number)] for number in numbers], dtype=np.int64)
        return found


def unreachable(directories: Numbers, children: Numbers, parents: Numbers) -> Numbers:
    """Directories from which no way leads to the root, by doubling the steps upward.

    ``directories`` are all, sorted; ``children`` and ``parents`` one name of each.
    """
    count = len(directories)
    up: NDArray[Any] = np.full(count + 1, count, dtype=np.int64)
    known = np.isin(parents, directories)
    at = np.searchsorted(directories, children[known])
    up[at] = np.searchsorted(directories, parents[known])
    root = int(np.searchsorted(directories, np.uint64(ROOT_INODE)))
    up[root] = root
    for _ in range(max(1, count).bit_length() + 1):
        up = up[up]
    found: Numbers = directories[up[:count] != root]
    return found


def _sorted(values: array[int]) -> Numbers:
    copied: Numbers = np.array(values, dtype=np.uint64)
    copied.sort()
    return copied
