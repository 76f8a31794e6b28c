"""Files that lie on the cache's disk, taken into the namespace without copying.

``hsm adopt`` gives a file the name of a cache file beside its old one, then asks
for its record here, and takes the old name away when the record is durable: at
each moment one of the two places has the file. Numbers that were given out are
marked *doomed* until their record is made, so that a start after a crash
removes the second names of what was not made.

A top directory whose adoption has not ended is in the meta table:
``Madopt\\0`` top(8, big endian) -> msgpack of ``Unfinished``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import structlog

from hsmfs.deferred import Deferred, chain
from hsmfs.errors import FsError
from hsmfs.namespace import acl, schema
from hsmfs.namespace.dosattrib import without_offline
from hsmfs.namespace.engine import Engine
from hsmfs.namespace.model import LINKS_MAX, SYMLINK_BYTES_MAX, XATTR_BYTES_MAX
from hsmfs.namespace.readonly import check_writable
from hsmfs.namespace.stubs import flush_into
from hsmfs.namespace.tree import check_name
from hsmfs.namespace.xattrs import DOSATTRIB, HSM, NAMESPACES
from hsmfs.records import FLAG_SPARSE, FLAG_WORM, InodeRecord, within_time
from hsmfs.rpc.adoptmessages import (
    ADOPT_ITEMS_MAX,
    AdoptAttr,
    AdoptBegin,
    AdoptBegun,
    AdoptBlock,
    AdoptEnd,
    AdoptFound,
    AdoptItem,
    AdoptLook,
    AdoptMade,
    AdoptMake,
    AdoptName,
    AdoptNumbers,
    AdoptSeen,
)
from hsmfs.types import ROOT_INODE, Residency

log = structlog.get_logger(__name__)
UNFINISHED: Final = b"Madopt\0"
UNFINISHED_STOP: Final = b"Madopt\1"
UNFINISHED_MAX: Final = 1000
SLICE: Final = 50
"""Records made in one go, before other requests get their turn."""
NUMBERS_MAX: Final = 4096
"""Given out and not yet used."""

Folders = dict[bytes, InodeRecord]
Told = Callable[[Sequence[tuple[int, bytes]]], None]


class Unfinished(msgspec.Struct, array_like=True):
    """An adoption that has not ended."""

    source: bytes
    disk_ino: int
    btime_ns: int
    """A directory made later, with the same path and number, is another."""


class Adoption:
    """One at a time; what the engine does for it. ``told`` gets the names that were made."""

    def __init__(self, engine: Engine, told: Told) -> None:
        self.tables = engine.tables
        self.tree = engine.tree
        self.tier = engine.tier
        self.quotas = engine.quotas
        self.claims = engine.claims
        self.removal = engine.removal
        self.executor = engine.removal.executor
        self._told = told
        self._top = 0
        self._numbers: set[int] = set()
        """Given out, marked, not used."""
        self._making = False
        self._abandoned = False
        self._taking: Deferred[None] | None = None
        """What was given out before is being taken back."""

    # -- begin and end ---------------------------------------------------------------

    def begin(self, call: AdoptBegin) -> AdoptBegun | Deferred[AdoptBegun]:
        """EEXIST, ENOENT, ENOTDIR, EDQUOT, ENOSPC; durable when answered."""
        return chain(self._taking, lambda: self._begin(call))

    def _begin(self, call: AdoptBegin) -> Deferred[AdoptBegun]:
        top = self._unfinished(call)
        if top is None:
            record = self._make_top(call)
            value = msgspec.msgpack.encode(_source_of(call))
            self.tables.kv.put(UNFINISHED + schema.U64.pack(record.ino), value)
            self._top = record.ino
        else:
            self._top = top
        answer: Deferred[AdoptBegun] = Deferred()
        flush_into(self.tables, answer, AdoptBegun(self.tier.root, top is not None))
        return answer

    def _unfinished(self, call: AdoptBegin) -> int | None:
        """The top directory of an earlier adoption of the same source."""
        for key, value in list(self.tables.kv.scan(UNFINISHED, UNFINISHED_STOP)):
            known = msgspec.msgpack.decode(value, type=Unfinished)
            top = schema.U64.unpack_from(key, len(UNFINISHED))[0]
            if self.tables.kv.get(schema.inode_key(top)) is None:
                self.tables.kv.drop(key)  # removed by its user meanwhile
            elif known == _source_of(call):
                path = self.tables.path_of(top)
                if path != call.target:
                    where = os.fsdecode(path).encode("utf-8", "backslashreplace").decode()
                    raise FsError(
                        errno.EEXIST,
                        f"an earlier adoption of this directory went to /{where} in the mount and "
                        "has not ended; go on with that as --to",
                    )
                return int(top)
        return None

    def _make_top(self, call: AdoptBegin) -> InodeRecord:
        if len(list(self.tables.kv.scan(UNFINISHED, UNFINISHED_STOP))) >= UNFINISHED_MAX:
            raise FsError(errno.EAGAIN, f"{UNFINISHED_MAX} adoptions have not ended; end them")
        *above, name = call.target.split(b"/")
        folder = self.tree.directory(ROOT_INODE)
        for part in above:
            folder = self.tree.directory(self.tree.find(folder.ino, part).ino)
        check_name(name)
        check_writable(self.tables.guard, folder, "adopt")
        if folder.flags & FLAG_WORM:
            raise FsError(
                errno.EPERM,
                "the target is in a tree with a retention: what is adopted keeps a second name "
                "on the disk until it is whole; adopt it elsewhere, then hsm retention set",
            )
        if self.tables.entry(folder.ino, name) is not None:
            raise FsError(errno.EEXIST)
        self._check_room(folder, call)
        record = self._new(folder, name, 0, call.attr)
        self.tables.touch_parent(folder)
        self._told([(folder.ino, name)])
        return record

    def _check_room(self, folder: InodeRecord, call: AdoptBegin) -> None:
        """All of it must fit; EDQUOT, or ENOSPC for the tier's bound."""
        self.quotas.add(folder, call.data_bytes, call.files)
        self.quotas.count(folder, -call.data_bytes, -call.files)
        bound = self.tier.capacity_bytes
        if bound and self.tier.used_bytes + call.data_bytes > bound:
            raise FsError(
                errno.ENOSPC,
                f"cache tier {self.tier.name} may hold {bound} bytes and has "
                f"{self.tier.used_bytes}; release some, or raise its capacity_bytes",
            )

    def end(self, call: AdoptEnd) -> Deferred[None]:
        """Done; what was given out and not used is taken back."""
        if call.finished:
            self.tables.kv.delete(UNFINISHED + schema.U64.pack(self._top))
        self._take_back()
        self._top = 0
        answer: Deferred[None] = Deferred()
        flush_into(self.tables, answer, None)
        return answer

    def abandon(self) -> None:
        """The command is gone."""
        if self._making:
            self._abandoned = True
        else:
            self._take_back()
            self._top = 0

    def _take_back(self) -> None:
        unused, self._numbers = sorted(self._numbers), set()
        if not unused:
            return
        taking = self._taking = Deferred()

        def removed(_value: None, error: BaseException | None) -> None:
            if error is None:
                self.removal.marks.data_removed(unused)
            else:  # the marks stay: the next start removes them
                log.warning("names for files not adopted stay", error=str(error))
            self._taking = None
            taking.set(None)

        self.executor.submit(lambda: self.removal.hands.remove(unused), removed)

    # -- numbers ---------------------------------------------------------------------

    def numbers(self, _call: AdoptNumbers) -> Deferred[AdoptBlock]:
        """Marked durably: a crash removes the cache files that get no record."""
        self._check_begun()
        self.tables.check_commits()
        if len(self._numbers) >= NUMBERS_MAX:
            raise FsError(errno.EAGAIN, f"{NUMBERS_MAX} numbers are given out and not used")
        block = self.tables.file_block()
        for ino in block:
            self.tables.mark(ino, schema.MARK_DOOMED)
        self._numbers.update(block)
        answer: Deferred[AdoptBlock] = Deferred()
        flush_into(self.tables, answer, AdoptBlock(block.start, block.stop))
        return answer

    def _check_begun(self) -> None:
        if not self._top:
            raise FsError(errno.EPROTO, "no adoption has begun on this connection")

    # -- names -------------------------------------------------------------------------

    def look(self, call: AdoptLook) -> AdoptSeen:
        """What there is already, from a run that was cut or from others."""
        self._check_begun()
        self._check_count(len(call.names))
        folders: Folders = {}
        return AdoptSeen([self._found(name, folders) for name in call.names])

    def _found(self, at: AdoptName, folders: Folders) -> AdoptFound:
        try:
            folder = self._folder(at.folder, folders)
        except FsError:
            return AdoptFound(0)
        ino = self.tables.entry(folder.ino, at.name)
        if ino is None:
            return AdoptFound(0)
        record = self.tables.inode(ino)
        target = self.tree.readlink(ino) if stat.S_ISLNK(record.mode) else b""
        facts = record.mode, record.uid, record.gid, record.rdev, record.mtime_ns
        return AdoptFound(ino, *facts, target)

    def _folder(self, path: bytes, folders: Folders) -> InodeRecord:
        """A directory below the top; ENOENT, ENOTDIR."""
        known = folders.get(path)
        if known is None:
            known = self.tree.directory(self._top)
            for part in path.split(b"/") if path else ():
                known = self.tree.directory(self.tree.find(known.ino, part).ino)
            folders[path] = known
        return known

    @staticmethod
    def _check_count(count: int) -> None:
        if count > ADOPT_ITEMS_MAX:
            raise FsError(errno.E2BIG, f"{count} names in one call, {ADOPT_ITEMS_MAX} are allowed")

    # -- making ------------------------------------------------------------------------

    def make(self, call: AdoptMake) -> Deferred[AdoptMade]:
        """Records and names, in slices; durable when answered."""
        self._check_begun()
        self._check_count(len(call.items))
        self.tables.check_commits()
        answer: Deferred[AdoptMade] = Deferred()
        self._making = True
        self._make(call.items, AdoptMade([], []), {}, answer)
        return answer

    def _make(
        self,
        items: list[AdoptItem],
        done: AdoptMade,
        folders: Folders,
        answer: Deferred[AdoptMade],
    ) -> None:
        made: list[tuple[int, bytes]] = []
        for item in items[len(done.inodes) : len(done.inodes) + SLICE]:
            ino, why = 0, ""
            try:
                folder = self._folder(item.at.folder, folders)
                ino = self._make_one(folder, item)
                made.append((folder.ino, item.at.name))
            except FsError as error:
                why = str(error)
            done.inodes.append(ino)
            done.refused.append(why)
        self._told(made)
        if len(done.inodes) < len(items):
            self.executor.call_later(0.0, lambda: self._make(items, done, folders, answer))
            return
        self._making = False
        if self._abandoned:
            self._abandoned = False
            self.abandon()
        flush_into(self.tables, answer, done)

    def _make_one(self, folder: InodeRecord, item: AdoptItem) -> int:
        check_name(item.at.name)
        there = self.tables.entry(folder.ino, item.at.name)
        if there is not None:
            if there != item.number:
                raise FsError(errno.EEXIST, "the namespace has something of this name")
            self._refresh(self.tables.inode(there), item.attr)
            return there
        if item.is_link:
            self._link(folder, item.at.name, self.tables.inode(item.number))
            return item.number
        return self._new(folder, item.at.name, item.number, item.attr).ino

    def _refresh(self, record: InodeRecord, attr: AdoptAttr) -> None:
        """A program wrote to the old name after the record was made: its size tells."""
        size = self.tables.attr(record).size
        is_ours = record.state == Residency.RESIDENT and not self.claims.is_claimed(record)
        if is_ours and size != attr.size:
            self.quotas.count(record, attr.size - record.size)
            record.size = attr.size
            record.mtime_ns = max(record.mtime_ns, within_time(attr.mtime_ns))
            self.tables.save(record)

    def _link(self, folder: InodeRecord, name: bytes, record: InodeRecord) -> None:
        """One more name; unlike link(2) it leaves the directory's times."""
        if record.nlink >= LINKS_MAX:
            raise FsError(errno.EMLINK)
        if record.project != folder.project:
            raise FsError(errno.EXDEV, "its other names are in a tree with another quota")
        record.nlink += 1
        self.tables.add_entry(folder.ino, name, record)
        self.tables.save(record)
        self.tables.journal("link", record.ino, folder.ino, name)

    def _new(self, folder: InodeRecord, name: bytes, number: int, attr: AdoptAttr) -> InodeRecord:
        """A record as the inode was; nothing of it comes from its new directory."""
        is_file, is_folder = stat.S_ISREG(attr.mode), stat.S_ISDIR(attr.mode)
        if is_file and number not in self._numbers:
            raise FsError(errno.EPROTO, f"number {number} was not given out")
        if is_folder and folder.nlink >= LINKS_MAX:
            raise FsError(errno.EMLINK, f"its directory has {LINKS_MAX} directories already")
        _check_attr(attr)
        record = self._record(number if is_file else self.tables.number(), attr)
        record.project = folder.project
        self.quotas.add(record, attr.size if is_file else 0, 1)
        self.tables.take_in(record)
        self._put_parts(record, attr)
        if is_file:
            self._numbers.discard(number)
            self.tables.unmark(number)
            self.tier.used_bytes += attr.size
        if is_folder:
            folder.nlink += 1
            self.tables.save(folder)
        self.tables.add_entry(folder.ino, name, record)
        self.tables.journal("make", record.ino, folder.ino, name, record.mode)
        return record

    def _record(self, ino: int, attr: AdoptAttr) -> InodeRecord:
        is_file = stat.S_ISREG(attr.mode)
        size = attr.size if is_file else len(attr.target)
        record = InodeRecord(
            ino,
            self.tables.generation,
            attr.mode,
            attr.uid,
            attr.gid,
            2 if stat.S_ISDIR(attr.mode) else 1,
            attr.rdev,
            size,
            within_time(attr.atime_ns),
            within_time(attr.mtime_ns),
            self.tables.clock.now_ns(),
            within_time(attr.btime_ns),
        )
        if is_file and attr.blocks << 9 < attr.size:
            record.flags |= FLAG_SPARSE
        return record

    def _put_parts(self, record: InodeRecord, attr: AdoptAttr) -> None:
        if stat.S_ISLNK(record.mode):
            self.tables.kv.put(schema.symlink_key(record.ino), attr.target)
        for name, value in attr.xattrs:
            if name == acl.ACCESS and acl.is_trivial(acl.parse(value)):
                continue  # the mode says the same
            kept = without_offline(value) if name == DOSATTRIB else value
            self.tables.put_xattr(record, name, kept)


def _source_of(call: AdoptBegin) -> Unfinished:
    return Unfinished(call.source, call.disk_ino, call.attr.btime_ns)


def _check_attr(attr: AdoptAttr) -> None:
    """What the namespace cannot keep is refused, not dropped."""
    if len(attr.target) > SYMLINK_BYTES_MAX:
        raise FsError(errno.ENAMETOOLONG, "the symbolic link's target is too long")
    for name, value in attr.xattrs:
        shown = name.decode("utf-8", "backslashreplace")
        if not name.startswith(NAMESPACES) or name in NAMESPACES or name.startswith(HSM):
            raise FsError(
                errno.EOPNOTSUPP,
                f"extended attribute {shown} cannot be kept; remove it: setfattr -x {shown}",
            )
        if len(name) > 255 or len(value) > XATTR_BYTES_MAX:
            raise FsError(errno.E2BIG, f"extended attribute {shown} is too large")
        if name in acl.NAMES:
            acl.parse(value)


Method = Callable[[Any], Any]


def methods(adoption: Adoption) -> dict[type, Method]:
    """By kind of call."""
    return {
        AdoptBegin: adoption.begin,
        AdoptNumbers: adoption.numbers,
        AdoptLook: adoption.look,
        AdoptMake: adoption.make,
        AdoptEnd: adoption.end,
    }
