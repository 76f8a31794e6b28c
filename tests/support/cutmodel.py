"""A tree as it must be after each operation of a stream, to be compared with what a cut left."""

from __future__ import annotations

import os
import random
import stat
from dataclasses import dataclass, field
from typing import Any

from support.trees import Tree

Operation = tuple[Any, ...]
Shape = dict[str, tuple[Any, ...]]
"""All of a tree but the data of files."""
PATHS_MAX = 24
DATA_MAX = 30_000
FSYNC_EVERY = 8
SYNCS = ("fsync", "fsyncdir")
XATTR = "user.word"


@dataclass
class Node:
    """A file, directory or symbolic link; known by the index of the operation that made it."""

    kind: int
    mode: int = 0
    target: str = ""
    word: bytes = b""
    data: bytes = b""
    versions: list[tuple[int, bytes]] = field(default_factory=list)
    """Index of the operation, and the data after it."""


class Model:
    """The tree below one directory."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {"": -1}
        self.nodes: dict[int, Node] = {-1: Node(stat.S_IFDIR, 0o755)}

    def apply(self, index: int, operation: Operation) -> None:
        """One operation that succeeded."""
        getattr(self, f"_{operation[0]}")(index, *operation[1:])

    def node(self, path: str) -> Node:
        return self.nodes[self.names[path]]

    def _make(self, index: int, path: str, node: Node) -> None:
        self.names[path] = index
        self.nodes[index] = node

    def _mkdir(self, index: int, path: str) -> None:
        self._make(index, path, Node(stat.S_IFDIR, 0o755))

    def _create(self, index: int, path: str) -> None:
        self._make(index, path, Node(stat.S_IFREG, 0o644, versions=[(index, b"")]))

    def _symlink(self, index: int, target: str, path: str) -> None:
        self._make(index, path, Node(stat.S_IFLNK, 0o777, target))

    def _link(self, _index: int, old: str, new: str) -> None:
        self.names[new] = self.names[old]

    def _unlink(self, _index: int, path: str) -> None:
        del self.names[path]

    _rmdir = _unlink

    def _rename(self, _index: int, old: str, new: str) -> None:
        if self.names[old] == self.names.get(new):
            return  # two links of one file: nothing happens, by POSIX
        self.names |= self._taken(old, new)

    def _exchange(self, _index: int, old: str, new: str) -> None:
        there = self._taken(new, old)
        self.names |= {**self._taken(old, new), **there}

    def _taken(self, old: str, new: str) -> dict[str, int]:
        """What ``old`` and all below it are called after a move; gone from where they were."""
        moved = {path: node for path, node in self.names.items() if is_below(path, old)}
        for path in moved:
            del self.names[path]
        return {new + path[len(old) :]: node for path, node in moved.items()}

    def _chmod(self, _index: int, path: str, mode: int) -> None:
        self.node(path).mode = mode

    def _setxattr(self, _index: int, path: str, word: bytes) -> None:
        self.node(path).word = word

    def _write(self, index: int, path: str, offset: int, data: bytes) -> None:
        node = self.node(path)
        start = node.data[:offset].ljust(offset, b"\0")
        self._changed(index, node, start + data + node.data[offset + len(data) :])

    def _truncate(self, index: int, path: str, size: int) -> None:
        node = self.node(path)
        self._changed(index, node, node.data[:size].ljust(size, b"\0"))

    @staticmethod
    def _changed(index: int, node: Node, data: bytes) -> None:
        node.data = data
        node.versions.append((index, data))

    def _fsync(self, _index: int, _path: str) -> None:
        """Changes nothing."""

    _fsyncdir = _fsync

    def shape(self) -> Shape:
        """To be compared with ``shape_of`` a real tree."""
        first: dict[int, str] = {}
        for path in sorted(self.names):
            first.setdefault(self.names[path], path)
        return {
            path: (node.kind | node.mode, first[self.names[path]], node.target, node.word)
            for path in self.names
            for node in [self.node(path)]
        }


def is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(top + "/")


def shape_of(tree: Tree) -> Shape:
    """A real tree in the model's words."""
    found = {}
    for path, node in tree.items():
        target = os.fsdecode(node.content) if stat.S_ISLNK(node.mode) else ""
        word = dict(node.xattrs).get(XATTR, b"")
        found[_plain(path)] = (node.mode, _plain(node.first_path), target, word)
    return found


def _plain(path: bytes) -> str:
    return os.fsdecode(path)[2:]


class Stream:
    """Random operations that will succeed, for one who works alone in his directory."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.model = Model()
        self._number = 0

    def draw(self) -> Operation:
        """The next operation; to be applied to ``model`` when it has been done."""
        if self.chance.randrange(FSYNC_EVERY) == 0:
            return self._sync()
        while True:
            maker = self.chance.choice(MAKERS)
            operation: Operation | None = getattr(self, f"_{maker}")()
            if operation is not None:
                return operation

    def _some(self, *kinds: int) -> str | None:
        fit = [path for path, ino in self.model.names.items() if self._kind(ino) in kinds and path]
        return self.chance.choice(fit) if fit else None

    def _kind(self, node: int) -> int:
        return self.model.nodes[node].kind

    def _folder(self) -> str:
        return self._some(stat.S_IFDIR) or "" if self.chance.random() < 0.6 else ""

    def _new(self) -> str:
        self._number += 1
        folder = self._folder()
        return f"{folder}/n{self._number}" if folder else f"n{self._number}"

    def _sync(self) -> Operation:
        file = self._some(stat.S_IFREG)
        if file is None or self.chance.random() < 0.3:
            return "fsyncdir", self._folder()
        return "fsync", file

    def _is_full(self) -> bool:
        return len(self.model.names) >= PATHS_MAX

    def _mkdir(self) -> Operation | None:
        return None if self._is_full() else ("mkdir", self._new())

    def _create(self) -> Operation | None:
        return None if self._is_full() else ("create", self._new())

    def _symlink(self) -> Operation | None:
        return None if self._is_full() else ("symlink", f"to {self._number}", self._new())

    def _link(self) -> Operation | None:
        old = self._some(stat.S_IFREG, stat.S_IFLNK)
        return None if old is None or self._is_full() else ("link", old, self._new())

    def _unlink(self) -> Operation | None:
        path = self._some(stat.S_IFREG, stat.S_IFLNK)
        return path and ("unlink", path)

    def _rmdir(self) -> Operation | None:
        path = self._some(stat.S_IFDIR)
        return ("rmdir", path) if path and self._is_empty(path) else None

    def _is_empty(self, path: str) -> bool:
        return sum(is_below(other, path) for other in self.model.names) == 1

    def _rename(self) -> Operation | None:
        old = self._some(stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR)
        if old is None:
            return None
        over = self._some(stat.S_IFREG) if self.chance.random() < 0.5 else None
        if over is not None and self.model.node(old).kind == stat.S_IFDIR:
            return None
        new = over or self._new()
        return None if is_below(new, old) else ("rename", old, new)

    def _exchange(self) -> Operation | None:
        kinds = (stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR)
        old, new = self._some(*kinds), self._some(*kinds)
        if old is None or new is None or is_below(new, old) or is_below(old, new):
            return None
        return "exchange", old, new

    def _chmod(self) -> Operation | None:
        path = self._some(stat.S_IFREG, stat.S_IFDIR)
        return path and ("chmod", path, self.chance.choice((0o700, 0o755, 0o640)))

    def _setxattr(self) -> Operation | None:
        path = self._some(stat.S_IFREG, stat.S_IFDIR)
        return path and ("setxattr", path, b"%d" % self.chance.randrange(1000))

    def _write(self) -> Operation | None:
        path = self._some(stat.S_IFREG)
        if path is None:
            return None
        size = len(self.model.node(path).data)
        offset = self.chance.choice((0, size, self.chance.randint(0, size)))
        count = min(self.chance.randint(1, DATA_MAX), 2 * DATA_MAX - offset)
        return ("write", path, offset, self.chance.randbytes(count)) if count > 0 else None

    def _truncate(self) -> Operation | None:
        path = self._some(stat.S_IFREG)
        return path and (
            "truncate",
            path,
            self.chance.choice((0, self.chance.randint(0, DATA_MAX))),
        )


MAKERS = (
    *("mkdir", "create", "create", "create", "symlink", "link", "unlink", "rmdir"),
    *("rename", "rename", "exchange", "chmod", "setxattr", "write", "write", "write", "truncate"),
)
