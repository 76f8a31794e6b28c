"""Directories form one tree: each has one name, and every way leads to the root."""

from __future__ import annotations

import stat
from collections.abc import Generator, Iterator

import numpy as np

from hsmfs.fsck.findings import Finding, Kind
from hsmfs.fsck.lostfound import LostFound
from hsmfs.fsck.names import Names, Numbers, unreachable
from hsmfs.fsck.subject import DEPTH_MAX, Subject
from hsmfs.namespace import schema
from hsmfs.records import DTYPE
from hsmfs.types import ROOT_INODE

Place = tuple[int, bytes]


class TreeCheck:
    """Needs the names that EntryCheck and LinkCheck gathered."""

    def __init__(self, subject: Subject, names: Names, lost: LostFound) -> None:
        self.subject = subject
        self.names = names
        self.lost = lost

    def run(self) -> Iterator[Finding]:
        """Extra names go, circles are opened."""
        children, parents = self.names.directories()
        again = np.zeros(len(children), dtype=bool)
        again[1:] = children[1:] == children[:-1]
        kept: dict[int, int] = {}
        for ino in np.unique(children[again]).tolist():
            place = yield from self._single(ino)
            kept[ino] = place[0]
        children, parents = children[~again], parents[~again]
        for ino, parent in kept.items():
            parents[np.searchsorted(children, np.uint64(ino))] = parent
        lost = unreachable(self._directories(), children, parents)
        yield from self._circles(lost, children, parents)

    def _directories(self) -> Numbers:
        """Numbers of all directories, in order."""
        found = [np.zeros(0, dtype=np.uint64)]
        for items in self.subject.work.chunks(b"I", b"J"):
            records = np.frombuffer(b"".join(value for _, value in items), dtype=DTYPE)
            found.append(records["ino"][records["mode"] & 0o170000 == stat.S_IFDIR])
        return np.concatenate(found).astype(np.uint64)

    # -- more than one name -------------------------------------------------------

    def _single(self, ino: int) -> Generator[Finding, None, Place]:
        """Leave one name, best one that leads to the root; it is returned."""
        places = [
            (int(schema.U64.unpack_from(key, 9)[0]), key[17:])
            for key, _ in self.subject.work.scan(*schema.link_range(ino))
        ]
        best = next((place for place in places if self._leads_up(place[0], ino)), places[0])
        self.subject.relinked.update(place[0] for place in places)
        for place in places:
            if place != best:
                where = self.subject.path_in(*place)
                self.subject.drop_entry(*place)
                self.names.moved(ino, stat.S_IFDIR, place[0], None)
                expected = f"one name of a directory, {self.subject.path_in(*best)}"
                todo = "this name is removed"
                yield self.subject.finding(Kind.TREE, ino, "one more name", expected, todo, where)
        return best

    def _leads_up(self, ino: int, avoided: int) -> bool:
        for _ in range(DEPTH_MAX):
            if ino == ROOT_INODE:
                return True
            place = next(self.subject.work.scan(*schema.link_range(ino), chunk=1), None)
            if place is None or ino == avoided:
                return False
            ino = schema.U64.unpack_from(place[0], 9)[0]
        return False

    # -- no way to the root ----------------------------------------------------------

    def _circles(self, lost: Numbers, children: Numbers, parents: Numbers) -> Iterator[Finding]:
        """Directories below one another; those without a name come later."""
        above = {}
        known = np.isin(children, lost)
        for child, parent in zip(children[known].tolist(), parents[known].tolist(), strict=True):
            above[child] = parent
        done: set[int] = set()
        for start in sorted(above):
            way: dict[int, None] = {}
            ino = start
            while ino in above and ino not in done and ino not in way:
                way[ino] = None
                ino = above[ino]
            if ino in way:
                yield self._open(ino, above)
            done.update(way)

    def _open(self, ino: int, above: dict[int, int]) -> Finding:
        """Cut a circle at one of its directories."""
        circle, at = [ino], above[ino]
        while at != ino:
            circle.append(at)
            at = above[at]
        first = min(circle)
        for key, _ in list(self.subject.work.scan(*schema.link_range(first))):
            self.subject.drop_entry(above[first], key[17:])
        self.names.moved(first, stat.S_IFDIR, above[first], None)
        placed = self.lost.place(first, stat.S_IFDIR).decode()
        found = f"in a circle of {len(circle)} directories"
        todo = f"moved to {placed}"
        where = f"inode {first}"
        return self.subject.finding(Kind.TREE, first, found, "a way to the root", todo, where)
