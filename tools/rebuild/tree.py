"""From what discs say of each inode to the inode as it will be."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from hsmfs.cache.tier import CacheTier
from hsmfs.daemon.catalogrecords import ExtentRecord
from hsmfs.daemon.coverage import copies_of, size_of
from hsmfs.daemon.namespaceset import SetLine
from hsmfs.namespace import schema
from hsmfs.records import FLAG_SEEN, InodeRecord, within_time
from hsmfs.tools.rebuild.catalogfile import CatalogFile, ExtentReader
from hsmfs.tools.rebuild.collect import Collected
from hsmfs.tools.rebuild.directories import Directories, Directory
from hsmfs.tools.rebuild.namespacefile import NamespaceFile, Place
from hsmfs.tools.rebuild.scratch import OTHERS, Known, Rank, Said, Scratch
from hsmfs.tools.rebuild.worm import WormRows
from hsmfs.types import ROOT_INODE, FileVersion, Residency

DIRECTORY_MODE: Final = stat.S_IFDIR | 0o755
SPECIAL: Final = (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
UNKNOWN: Final = "?"
"""Instead of a label, where no disc tells of the volume."""
Version = tuple[int, str, ExtentRecord]


@dataclass(slots=True)
class Outcome:
    """What became of the files."""

    files: int = 0
    """Regular files that are there again, whole."""
    directories: int = 0
    others: int = 0
    """Symbolic links and special files."""
    bytes: int = 0
    older: int = 0
    """Of ``files`` those whose newest version is on no disc that was given."""
    unproved: int = 0
    """Of ``files`` those that only a UDF tree told of."""
    waiting: Counter[str] = field(default_factory=Counter)
    """Files that wait for a volume, by label."""
    lost: int = 0
    superseded: int = 0
    """Files whose every path belongs to a newer file now."""
    moved: int = 0
    tell: Callable[[str, str, str], None] = lambda what, path, why: None


class TreeBuilder:
    """Writes the namespace; corrects the catalog where an older version is all there is."""

    def __init__(
        self,
        scratch: Scratch,
        catalog: CatalogFile,
        namespace: NamespaceFile,
        tier: CacheTier,
        copies: dict[str, int],
        collected: Collected,
        now_ns: int,
    ) -> None:
        self.scratch = scratch
        self.catalog = catalog
        self.namespace = namespace
        self.tier = tier
        self.copies = copies
        """Discs of each volume; none of one that was not given."""
        self.part_volumes = collected.part_volumes
        self.full, self.complete = collected.full(), collected.is_complete()
        self.now_ns = now_ns
        self.unproved = collected.unproved
        self.outcome = Outcome()
        self.worm = WormRows(namespace, collected.sets, now_ns)
        self._dropped: list[tuple[str, FileVersion, ExtentRecord]] = []
        self.directories = Directories.gather(scratch, self.full, self.complete, namespace.number)
        self.worm.directories = self.directories
        self._claims: dict[Place, int] = {}

    def run(self) -> Outcome:
        """All of it."""
        extents = self.catalog.extents()
        if not self.complete:
            self._claim_names()
        for said in self.scratch.said(OTHERS, self.full):
            self._other(said, extents)
        self.directories.count_children()
        for directory in self.directories.by_ino.values():
            self._directory(directory)
        for label, file, extent in self._dropped:
            self.catalog.drop(label, file, extent)
        self.worm.log(self.scratch)
        self.outcome.moved += self.directories.moved
        return self.outcome

    # -- names ------------------------------------------------------------------------

    def _claim_names(self) -> None:
        """Without all sets two inodes may claim one path: the one that the newest set names
        has it, else the one of the newest volume."""
        ranks: dict[Place, Rank] = {}
        for said in self.scratch.said(OTHERS, self.full):
            for place in self._wanted(said):
                if said.rank >= ranks.get(place, said.rank):
                    ranks[place], self._claims[place] = said.rank, said.ino
        directories = self.directories
        for directory in sorted(directories.by_ino.values(), key=lambda one: one.ino):
            place = directory.parent, directory.name
            if directory.ino == ROOT_INODE or place not in ranks:
                continue
            if directory.rank >= ranks[place]:
                self._claims[place] = directory.ino
            else:
                directories.put_aside(directory.ino)

    def _wanted(self, said: Said) -> list[Place]:
        """The names that an inode had last; none where it is gone."""
        if said.newest is not None:
            return [] if said.newest.gone else said.newest.places()
        if self.complete:
            return []
        newest = said.lines[-1].label
        places = []
        for known in said.lines:
            if known.label == newest:
                parent, _, name = known.path.rpartition(b"/")
                places.append((self.directories.at(parent), name))
        return list(dict.fromkeys(places))

    def _places(self, said: Said) -> list[Place]:
        """The names that an inode gets."""
        wanted = self._wanted(said)
        if not wanted:
            return []
        places = [
            place
            for place in wanted
            if place[0] in self.directories.by_ino
            and (self.complete or self._claims.get(place) == said.ino)
        ]
        if not places and any(place[0] not in self.directories.by_ino for place in wanted):
            return [self._moved(said.ino)]
        if not places:
            self.outcome.superseded += 1
            why = f"inode {said.ino} was here last; a newer one has the path now"
            self.outcome.tell("superseded", self._path(wanted[0]), why)
        return places

    def _moved(self, ino: int) -> Place:
        self.outcome.moved += 1
        return self.directories.lost(), b"%d" % ino

    def _path(self, place: Place) -> str:
        above = self.directories.path(place[0])
        path = above + b"/" + place[1] if above else place[1]
        return path.decode("utf-8", "backslashreplace")

    # -- inodes -----------------------------------------------------------------------

    def _other(self, said: Said, extents: ExtentReader) -> None:
        places = self._places(said)
        if not places:
            return
        line = said.newest
        known = next((one for one in reversed(said.lines) if one.kind != "link"), None)
        mode = line.mode if line is not None else known.mode if known is not None else 0
        if stat.S_ISREG(mode):
            self._file(said, places, extents.of(said.ino))
        elif line is not None or known is not None:
            self._plain(said.ino, line, known, places)

    def _plain(
        self, ino: int, line: SetLine | None, known: Known | None, places: list[Place]
    ) -> None:
        record = self._record(ino, line, known)
        target = line.target_bytes() if line is not None else known.target if known else b""
        if stat.S_ISLNK(record.mode):
            record.size = len(target)
        record.nlink = len(places)
        self.worm.file(record, line, places)
        self.namespace.inode(record, places, _xattrs(line, known), target)
        self.outcome.others += 1

    def _file(self, said: Said, places: list[Place], versions: list[Version]) -> None:
        ino, line = said.ino, said.newest
        whole = {one[0] for one in versions if self._copies_of(versions, one[0])}
        given = [one for one in versions if one[0] in whole]
        newest = max(
            line.data_version if line is not None else 0, max((v[0] for v in versions), default=0)
        )
        if not given and line is not None and line.size == 0 and not _burned(versions, newest):
            self._empty(ino, line, places)
            return
        chosen = given or versions
        if not chosen:
            self._lost(places, "was not on any disc yet when its change was burned")
            return
        version = chosen[-1][0]
        same = self._proved(ino, [one for one in chosen if one[0] == version])
        known = _line_of(said, version)
        record = self._record(ino, line if version == newest else None, known, line)
        record.size, record.data_version = size_of(same[0][2]), version
        record.flags |= FLAG_SEEN
        record.copies = min(255, self._copies_of(same, version))
        record.nlink = len(places)
        labels = b" ".join(sorted(label.encode() for _, label, _ in same))
        xattrs = _xattrs(line, known) | {schema.VOLUMES_XATTR: labels}
        self._settle(record, places, newest, self._waits_for(ino, same))
        self._tell_unproved(record, places, same)
        self.worm.file(record, line, places)
        self.namespace.inode(record, places, xattrs)
        if given and version < newest:
            self._drop_newer(ino, versions, version)

    def _copies_of(self, versions: list[Version], version: int) -> int:
        """Discs given that hold each byte of a version."""
        same = [one for one in versions if one[0] == version]
        return copies_of((extent, self.copies.get(label, 0)) for _, label, extent in same)

    def _waits_for(self, ino: int, same: list[Version]) -> tuple[str, str]:
        """The volume that a file which is not whole waits for, and in words."""
        told = self.part_volumes.get(FileVersion(ino, same[0][0]), [])
        labels = dict.fromkeys([*told, *(label for _, label, _ in same)])
        missing = [label for label in labels if not self.copies.get(label)]
        if not missing:
            return UNKNOWN, "for the volume of another part, of which none of these discs tells"
        between = " and " if any(extent.total for _, _, extent in same) else " or "
        return missing[0], f"for volume {between.join(missing)}"

    def _settle(
        self, record: InodeRecord, places: list[Place], newest: int, waits_for: tuple[str, str]
    ) -> None:
        """Its state, and what is told of it."""
        if record.size == 0:
            os.close(self.tier.create(record.ino))
            record.state = Residency.PREMIGRATED if record.copies else Residency.RESIDENT
        else:
            record.state = Residency.MIGRATED
        if not record.copies:
            self.outcome.waiting[waits_for[0]] += 1
            self.outcome.tell("waits", self._path(places[0]), waits_for[1])
            return
        self.outcome.files += 1
        self.outcome.bytes += record.size
        if record.data_version < newest:
            self.outcome.older += 1
            why = f"version {record.data_version} is there, {newest} is on no disc that was given"
            self.outcome.tell("older", self._path(places[0]), why)

    def _proved(self, ino: int, same: list[Version]) -> list[Version]:
        """Of one version's places: what nothing proves counts only if it is the same as what
        another volume's manifest proves, or if it is all there is; so also of each part."""
        proved: dict[int, set[str]] = {}
        for version, label, extent in same:
            if not self._is_unproved(ino, version, label):
                proved.setdefault(extent.start, set()).add(extent.xxh3_128)
        kept = []
        for version, label, extent in same:
            if extent.start in proved and extent.xxh3_128 not in proved[extent.start]:
                self._dropped.append((label, FileVersion(ino, version), extent))
            else:
                kept.append((version, label, extent))
        return kept

    def _is_unproved(self, ino: int, version: int, label: str) -> bool:
        return (label, FileVersion(ino, version)) in self.unproved

    def _tell_unproved(self, record: InodeRecord, places: list[Place], same: list[Version]) -> None:
        proved = {
            extent.start
            for version, label, extent in same
            if not self._is_unproved(record.ino, version, label)
        }
        unproved = [label for _, label, extent in same if extent.start not in proved]
        if record.copies and unproved:
            self.outcome.unproved += 1
            why = f"no manifest proves it; taken by the UDF tree of volume {unproved[0]}"
            self.outcome.tell("unproved", self._path(places[0]), why)

    def _drop_newer(self, ino: int, versions: list[Version], version: int) -> None:
        """Numbers of versions go on from the older one: the newer must not be taken for them."""
        for newer, label, extent in versions:
            if newer > version:
                self._dropped.append((label, FileVersion(ino, newer), extent))

    def _empty(self, ino: int, line: SetLine, places: list[Place]) -> None:
        record = self._record(ino, line, None)
        record.nlink, record.data_version = len(places), max(1, line.data_version)
        os.close(self.tier.create(ino))
        self.worm.file(record, line, places)
        self.namespace.inode(record, places, _xattrs(line, None))
        self.outcome.files += 1

    def _lost(self, places: list[Place], why: str) -> None:
        self.outcome.lost += 1
        self.outcome.tell("lost", self._path(places[0]), why)

    def _directory(self, directory: Directory) -> None:
        line, known = directory.line, directory.known
        record = self._record(directory.ino, line, known)
        if line is None and known is None:
            record.mode = DIRECTORY_MODE
        record.nlink, record.size = 2 + directory.children, 0
        is_root = directory.ino == ROOT_INODE
        places = [] if is_root else [(directory.parent, directory.name)]
        self.worm.directory(record, line)
        self.namespace.inode(record, places, _xattrs(line, known))
        self.outcome.directories += not is_root

    def _record(
        self, ino: int, line: SetLine | None, known: Known | None, owner: SetLine | None = None
    ) -> InodeRecord:
        """Attributes from a set's line or a manifest's, whichever is newer; owner and mode
        from a set also where it tells of a newer version."""
        facts: SetLine | Known | None = (known if is_newer(known, line) else line) or owner
        if facts is None:
            now = self.now_ns
            return InodeRecord(ino, 1, DIRECTORY_MODE, 0, 0, 1, 0, 0, now, now, now, now)
        held: SetLine | Known = owner if owner and not is_newer(known, owner) else facts
        birth = line.btime_ns if line is not None else facts.ctime_ns
        rdev = line.rdev if line is not None else 0
        atime, mtime, ctime = facts.atime_ns, facts.mtime_ns, facts.ctime_ns
        if known is not None and known.ctime_ns == ctime:
            atime = max(atime, known.atime_ns)
        return InodeRecord(
            ino,
            1,
            held.mode,
            held.uid,
            held.gid,
            1,
            rdev,
            0,
            within_time(atime),
            within_time(mtime),
            within_time(ctime),
            within_time(birth),
        )


def is_newer(known: Known | None, line: SetLine | None) -> bool:
    """Whether a manifest tells of a later time than a set: writes and reads are in no set
    (docs/disc-format.md), but each change sets the ctime."""
    return known is not None and (line is None or known.ctime_ns > line.ctime_ns)


def _xattrs(line: SetLine | None, known: Known | None) -> dict[bytes, bytes]:
    if known is not None and is_newer(known, line):
        return dict(known.xattrs)
    return line.xattr_bytes() if line is not None else {}


def _burned(versions: list[Version], version: int) -> bool:
    return any(one[0] == version for one in versions)


def _line_of(said: Said, version: int) -> Known | None:
    """The newest manifest's line of a version, else of any."""
    lines: Iterator[Known] = (one for one in reversed(said.lines) if one.kind != "link")
    found = list(lines)
    return next((one for one in found if one.data_version == version), found[0] if found else None)
