"""The cache tier's files in the order of inode numbers, and what may be done to them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from hsmfs.cache.paths import CLAIM, COPY, FILES_BITS, OPEN, RECALL, SIDES, cache_path

_UPPER: Final = re.compile(r"[0-9a-f]{1,11}\Z")
_MIDDLE: Final = re.compile(r"[0-9a-f]{3}\Z")
_INO: Final = re.compile(r"[0-9a-f]{1,16}\Z")
_VERSIONED: Final = re.compile(r"([0-9a-f]{1,16})\.([0-9]{1,10})\Z")
_WITH_VERSION: Final = (CLAIM, RECALL)


class CacheFile(NamedTuple):
    """One file; ``ino`` is -1 if its name is none of ours."""

    ino: int
    path: str
    size: int
    blocks: int
    mtime_ns: int


class SideFile(NamedTuple):
    """A file of ``claim/``, ``recall/``, ``copy/`` or ``open/``; ino -1: a strange name."""

    side: str
    ino: int
    data_version: int
    path: str


class CacheFiles:
    """One tier. Directories are read one at a time, so memory stays small."""

    def __init__(self, root: Path | str) -> None:
        self.root = str(root)

    def path(self, ino: int) -> str:
        """Where an inode's data belongs."""
        return cache_path(self.root, ino)

    def size(self, ino: int) -> int | None:
        """Bytes of an inode's cache file."""
        try:
            return os.stat(self.path(ino)).st_size
        except FileNotFoundError:
            return None

    def walk(self) -> Iterator[CacheFile]:
        """All data files, by inode number; strange ones among them anywhere."""
        for upper in _folders(self.root, _UPPER):
            if os.path.basename(upper) in SIDES:
                continue
            for middle in _folders(upper, _MIDDLE):
                yield from self._files(middle)

    def _files(self, folder: str) -> Iterator[CacheFile]:
        found = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_file(follow_symlinks=False):
                    continue
                facts = entry.stat(follow_symlinks=False)
                ino = int(entry.name, 16) if _INO.match(entry.name) else -1
                if ino >= 0 and self.path(ino) != entry.path:
                    ino = -1
                blocks, mtime_ns = facts.st_blocks, facts.st_mtime_ns
                found.append(CacheFile(ino, entry.path, facts.st_size, blocks, mtime_ns))
        yield from sorted(found)

    def highest(self) -> int:
        """The greatest number of a data file; 0 if there is none."""
        for upper in reversed(list(_folders(self.root, _UPPER))):
            for middle in reversed(list(_folders(upper, _MIDDLE))):
                numbers = [int(name, 16) for name in os.listdir(middle) if _INO.match(name)]
                if numbers:
                    return max(numbers)
        return 0

    def facts(self, path: str) -> CacheFile:
        """A file of no inode."""
        facts = os.stat(path)
        return CacheFile(-1, path, facts.st_size, facts.st_blocks, facts.st_mtime_ns)

    def sides(self) -> Iterator[SideFile]:
        """What is under way, or was."""
        for side in SIDES:
            folder = f"{self.root}/{side}"
            names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
            for name in names:
                yield _side_file(side, name, f"{folder}/{name}")

    def opened(self) -> set[int]:
        """Inodes that may have changed without a durable word."""
        return {file.ino for file in self.sides() if file.side == OPEN and file.ino >= 0}

    # -- changes -----------------------------------------------------------------

    def make(self, ino: int) -> None:
        """An empty cache file, unless there is one."""
        path = self.path(ino)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def cut(self, ino: int, size: int) -> None:
        """Keep so many bytes."""
        os.truncate(self.path(ino), size)

    def adopt(self, path: str, ino: int) -> None:
        """Give a stray file the place of an inode too."""
        target = self.path(ino)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.link(path, target)

    def is_same(self, path: str, ino: int) -> bool:
        """Whether a path is the inode's cache file under another name."""
        try:
            return os.path.samefile(path, self.path(ino))
        except FileNotFoundError:
            return False

    def remove(self, path: str) -> None:
        """A name that is no longer needed."""
        os.unlink(path)


def _folders(root: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """Directories whose names are numbers, in the order of the numbers."""
    if not os.path.isdir(root):
        return
    names = [name for name in os.listdir(root) if pattern.match(name)]
    for name in sorted(names, key=lambda name: int(name, 16)):
        if os.path.isdir(f"{root}/{name}"):
            yield f"{root}/{name}"


def _side_file(side: str, name: str, path: str) -> SideFile:
    if side in _WITH_VERSION:
        matched = _VERSIONED.match(name)
        if matched is not None:
            return SideFile(side, int(matched[1], 16), int(matched[2]), path)
    elif _INO.match(name):
        return SideFile(side, int(name, 16), 0, path)
    return SideFile(side, -1, 0, path)


assert FILES_BITS == 10, "the three digits of _MIDDLE"
__all__ = ["COPY", "OPEN", "RECALL", "CacheFile", "CacheFiles", "SideFile"]
