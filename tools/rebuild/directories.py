"""Where every directory stands: by namespace sets, else by the paths on discs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from hsmfs.daemon.namespaceset import SetLine
from hsmfs.tools.rebuild.scratch import DIRECTORIES, Full, Known, Rank, Said, Scratch
from hsmfs.types import ROOT_INODE

LOST_NAME: Final = b"lost+found"


@dataclass(slots=True)
class Directory:
    """One directory; attributes of the newest line, None for an implied one."""

    ino: int
    parent: int
    name: bytes
    line: SetLine | None = None
    known: Known | None = None
    children: int = 0
    """Directories in it."""
    rank: Rank = (-1, -1)


@dataclass(slots=True)
class Directories:
    """All of them; in memory, for they are few beside files."""

    by_ino: dict[int, Directory] = field(default_factory=dict)
    moved: int = 0
    """Those whose place is not known any more; they are in lost+found."""
    _by_path: dict[bytes, int] = field(default_factory=dict)
    _new_ino: Callable[[], int] = lambda: 0
    _lost: int = 0

    @classmethod
    def gather(
        cls, scratch: Scratch, full: Full | None, complete: bool, new_ino: Callable[[], int]
    ) -> Directories:
        """From the scratch store; ``complete`` where the sets know all that is."""
        here = cls(_new_ino=new_ino)
        here.by_ino[ROOT_INODE] = Directory(ROOT_INODE, ROOT_INODE, b"")
        unplaced: list[Said] = []
        for said in scratch.said(DIRECTORIES, full):
            here._take(said, complete, unplaced)
        here._attach_all()
        if not complete:
            here._part_all()
        here._number_paths()
        for said in sorted(unplaced, key=lambda one: one.lines[-1].path.count(b"/")):
            here._place_by_path(said)
        return here

    def count_children(self) -> None:
        """When all directories are known."""
        for directory in self.by_ino.values():
            if directory.ino != ROOT_INODE:
                self.by_ino[directory.parent].children += 1

    def _take(self, said: Said, complete: bool, unplaced: list[Said]) -> None:
        known = said.lines[-1] if said.lines else None
        if said.ino == ROOT_INODE:
            self.by_ino[ROOT_INODE].line, self.by_ino[ROOT_INODE].known = said.newest, known
        elif said.newest is not None:
            places = said.newest.places()
            if not said.newest.gone and places:
                place = places[0]
                here = Directory(said.ino, *place, said.newest, known, rank=said.rank)
                self.by_ino[said.ino] = here
        elif not complete and known is not None:
            unplaced.append(said)

    def _attach_all(self) -> None:
        """Each has a way to the root; what has none goes to lost+found (a set is missing)."""
        reaches: set[int] = {ROOT_INODE}
        for ino in list(self.by_ino):
            way: list[int] = []
            while ino not in reaches and ino in self.by_ino and ino not in way:
                way.append(ino)
                ino = self.by_ino[ino].parent
            if ino not in reaches:
                top = self.by_ino[way[-1]]
                top.parent, top.name = self.lost(), b"%d" % top.ino
                self.moved += 1
                reaches.add(top.parent)
            reaches.update(way)

    def _part_all(self) -> None:
        """One name leads to one directory: the one that was told of last."""
        holders: dict[tuple[int, bytes], Directory] = {}
        for directory in list(self.by_ino.values()):
            place = directory.parent, directory.name
            other = holders.setdefault(place, directory)
            if other is not directory:
                older, newer = sorted((other, directory), key=lambda one: one.rank)
                holders[place] = newer
                self.put_aside(older.ino)

    def put_aside(self, ino: int) -> None:
        """Another has its name."""
        directory = self.by_ino[ino]
        directory.parent, directory.name = self.lost(), b"%d" % ino
        self.moved += 1

    def lost(self) -> int:
        """The directory for what has no place; made when it is first needed."""
        if self._lost:
            return self._lost
        for directory in self.by_ino.values():
            if (directory.parent, directory.name) == (ROOT_INODE, LOST_NAME):
                self._lost = directory.ino
                return self._lost
        self._lost = self._new_ino()
        self.by_ino[self._lost] = Directory(self._lost, ROOT_INODE, LOST_NAME)
        return self._lost

    # -- paths, for what no set tells of ----------------------------------------------------

    def _number_paths(self) -> None:
        self._by_path = {self.path(ino): ino for ino in self.by_ino}

    def path(self, ino: int) -> bytes:
        """From the root, without a leading slash."""
        names = []
        while ino != ROOT_INODE:
            directory = self.by_ino[ino]
            names.append(directory.name)
            ino = directory.parent
        return b"/".join(reversed(names))

    def _place_by_path(self, said: Said) -> None:
        known = said.lines[-1]
        at = self._by_path.get(known.path)
        if at is not None:
            there = self.by_ino[at]
            if there.line is None and there.known is None:
                there.known = known  # an implied one gets its attributes
            return
        parent, _, name = known.path.rpartition(b"/")
        above = self.at(parent)
        self.by_ino[said.ino] = Directory(said.ino, above, name, None, known, rank=said.rank)
        self._by_path[known.path] = said.ino

    def at(self, path: bytes) -> int:
        """The directory of a path; made with those above it where nobody told of it."""
        found = self._by_path.get(path)
        if found is not None:
            return found
        parent, _, name = path.rpartition(b"/")
        above = self.at(parent)
        ino = self._new_ino()
        self.by_ino[ino] = Directory(ino, above, name)
        self._by_path[path] = ino
        return ino
