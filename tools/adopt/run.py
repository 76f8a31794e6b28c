"""The adoption itself: second names, records, then the old names go.

At each moment a file is in its old place or durably in the namespace, or in
both (docs/crash-safety.md); a run that was cut is run again and finishes.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import trio

from hsmfs.config import Config
from hsmfs.errors import CallerError, HsmError, TransientError
from hsmfs.namespace.marks import sync_file_system
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
from hsmfs.rpc.client import RpcClient
from hsmfs.rpc.messages import Answer, Call, Done, Refused
from hsmfs.tools.adopt.disk import Below, Facts, Tier, facts_of, writer_of, xattrs_of
from hsmfs.tools.adopt.folders import batches, remove_folders, remove_source, trouble
from hsmfs.tools.adopt.look import Found, elsewhere, fault_of, mount_fault, walk

T = TypeVar("T")
A = TypeVar("A")
CLOCK_NS: Final = 20_000_000
"""So much may a file system's clock be behind."""
CALL_TIMEOUT_S: Final = 600.0
BATCH_XATTR_BYTES: Final = 8 << 20
"""A batch with more in its attributes is sent in parts."""
FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
THERE: Final = "the namespace has something of this name"
LATE_WRITER: Final = "adopted, but the old name stays: {why}; then run hsm adopt again"


@dataclass
class Piece:
    """One name on its way."""

    at: AdoptName
    facts: Facts
    number: int = 0
    is_link: bool = False
    why: str = ""
    """Why it stays."""
    taken: bool = False
    """The namespace has it durably."""

    @property
    def path(self) -> bytes:
        return self.at.folder + b"/" + self.at.name if self.at.folder else self.at.name

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.facts.mode)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.facts.mode)


@dataclass
class Outcome:
    """What was done."""

    resumed: bool
    files: int = 0
    directories: int = 0
    others: int = 0
    data_bytes: int = 0


async def adopt(
    config: Config,
    source: Path,
    target: bytes,
    found: Found,
    tell: Callable[[int], None],
) -> tuple[Outcome, Found]:
    """Take all in; what stays is in the second value. CallerError, TransientError, HsmError."""
    path = Path(config.run.path) / "hsmfs.sock"
    below = Below(os.fsencode(source))
    try:
        synced_ns = time.time_ns() - CLOCK_NS
        sync_file_system(config.tier[0].path)
        failure: Exception | None = None
        async with RpcClient.connect(path) as client:
            run = _Run(client, config, source, below, found, synced_ns, tell)
            try:
                return await run.all(target), run.rest
            except (HsmError, OSError) as error:
                failure = error  # the connection would wrap it in a group
        raise failure
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            raise TransientError(
                f"hsmfs is not running ({path}: {error.strerror}); mount it first, then run hsm "
                "adopt again"
            ) from error
        raise HsmError(f"{error.filename or path}: {error.strerror}") from error
    finally:
        below.close()


class _Run:
    """One adoption on one connection."""

    def __init__(
        self,
        client: RpcClient,
        config: Config,
        source: Path,
        below: Below,
        found: Found,
        synced_ns: int,
        tell: Callable[[int], None],
    ) -> None:
        self.client = client
        self.config = config
        self.source = source
        self.below = below
        self.found = found
        self.synced_ns = synced_ns
        self.tell = tell
        self.rest = Found(found.top)
        self.tier: Tier
        self.outcome = Outcome(False)
        self._numbers: list[int] = []

    async def _call(self, call: Call, kind: type[A]) -> A:
        answer: Answer = await self.client.call(call, CALL_TIMEOUT_S)
        if isinstance(answer, Refused):
            raise CallerError(f"hsmfs: {answer.why}")
        assert isinstance(answer, kind), answer
        return answer

    async def all(self, target: bytes) -> Outcome:
        """From the first call to the last."""
        top = Piece(AdoptName(b"", b""), self.found.top)
        source = os.fsencode(self.source)
        begin = AdoptBegin(
            source,
            self.found.top.ino,
            target,
            self._attr(top),
            self.found.inodes,
            self.found.data_bytes,
        )
        begun = await self._begin(begin, target)
        self.tier = Tier(begun.tier)
        self.outcome.resumed = begun.resumed
        for batch in batches(walk(self.below, self.rest), ADOPT_ITEMS_MAX):
            await self._batch([Piece(at, facts) for at, facts in batch])
        for group in batches(self.found.shared.items(), ADOPT_ITEMS_MAX // 2):
            await self._shared(group)
        await remove_folders(self._call, self.below, self.rest)
        finished = not self.rest.left_count and remove_source(self.source, self.rest)
        await self._call(AdoptEnd(finished), Done)
        return self.outcome

    async def _begin(self, begin: AdoptBegin, target: bytes) -> AdoptBegun:
        try:
            return await self._call(begin, AdoptBegun)
        except CallerError as error:
            where = os.fsdecode(os.fsencode(self.config.fuse.mount) + b"/" + target)
            raise CallerError(f"{where}: {error}; nothing was changed") from error

    # -- a batch of names --------------------------------------------------------------

    async def _batch(self, pieces: Sequence[Piece]) -> None:
        single = [piece for piece in pieces if self._is_single(piece)]
        for piece, there in zip(single, await self._seen(single), strict=True):
            self._compare(piece, there)
        await self._take([piece for piece in single if not (piece.why or piece.taken)])
        self._finish(single)

    def _is_single(self, piece: Piece) -> bool:
        """Files with several names come when all of their names are known."""
        if piece.is_folder or piece.facts.nlink == 1:
            return True
        if piece.facts.ino not in self.found.shared:
            self.rest.leave(piece.path, "got a second name meanwhile; run hsm adopt again")
        return False

    async def _seen(self, pieces: Sequence[Piece]) -> list[AdoptFound]:
        """What an earlier run took in already."""
        if not self.outcome.resumed or not pieces:
            return [AdoptFound(0)] * len(pieces)
        return (await self._call(AdoptLook([p.at for p in pieces]), AdoptSeen)).found

    def _compare(self, piece: Piece, there: AdoptFound) -> None:
        """Whether the namespace has just this, from a run that was cut."""
        if not there.ino:
            return
        if piece.is_folder and stat.S_ISDIR(there.mode):
            piece.taken = True
        elif piece.is_file and self.tier.is_cache_file(there.ino, piece.facts):
            piece.number = there.ino
        elif self._is_like(piece, there):
            piece.number, piece.taken = there.ino, True
        else:
            piece.why = THERE

    def _is_like(self, piece: Piece, there: AdoptFound) -> bool:
        """For links and special files, which have no data."""
        facts = piece.facts
        if piece.is_file or facts[:3] != (there.mode, there.uid, there.gid):
            return False
        same = facts.rdev == there.rdev and facts.mtime_ns == there.mtime_ns
        return same and self._target(piece) == there.target

    async def _take(self, pieces: Sequence[Piece]) -> None:
        """Second names on disk, then records."""
        files = [piece for piece in pieces if piece.is_file and not piece.number]
        while len(self._numbers) < len(files):
            block = await self._call(AdoptNumbers(), AdoptBlock)
            self._numbers += range(block.start, block.stop)
        items: list[tuple[Piece, AdoptItem]] = []
        linked: set[int] = set()
        for piece in pieces:
            item = self._item(piece, linked)
            if item is not None:
                items.append((piece, item))
        await self._make(items, linked)

    async def _make(self, items: list[tuple[Piece, AdoptItem]], linked: set[int]) -> None:
        self.tier.sync()
        await trio.lowlevel.checkpoint()
        if self.client.is_lost:
            for number in linked:
                self.tier.unlink(number)
            raise TransientError("the connection to hsmfs was lost; run hsm adopt again")
        for part in _parts(items):
            made = await self._call(AdoptMake([item for _, item in part]), AdoptMade)
            for (piece, _), ino, why in zip(part, made.inodes, made.refused, strict=True):
                if why and piece.number in linked and not piece.is_link:
                    self.tier.unlink(piece.number)
                piece.number, piece.why, piece.taken = ino, why, not why

    def _item(self, piece: Piece, linked: set[int]) -> AdoptItem | None:
        try:
            if piece.is_file and not piece.is_link:
                self._link(piece, linked)
            attr = None if piece.why else self._attr(piece)
        except FileNotFoundError:
            return None  # gone meanwhile
        except OSError as error:
            piece.why = self._trouble(error)
            attr = None
        if attr is None:
            if piece.number in linked:
                linked.discard(piece.number)
                self.tier.unlink(piece.number)
            return None
        return AdoptItem(piece.at, piece.number, piece.is_link, attr)

    def _link(self, piece: Piece, linked: set[int]) -> None:
        """The file's second name, once nobody writes to it; its data on disk."""
        folder = self.below.open(piece.at.folder)
        fd = os.open(piece.at.name, FILE, dir_fd=folder)
        try:
            facts = facts_of(fd, b"")
            piece.why = _changed(piece, facts) or writer_of(fd)
            piece.facts = facts
            if piece.why:
                return
            if facts.ctime_ns >= self.synced_ns:
                os.fdatasync(fd)
            if piece.number:
                return  # an earlier run made it
            number = self._numbers.pop(0)
            self.tier.link(folder, piece.at.name, number)
            piece.number = number
            linked.add(number)
            if not self.tier.is_cache_file(number, facts):
                piece.why = "changed meanwhile; run hsm adopt again"
        finally:
            os.close(fd)

    def _trouble(self, error: OSError) -> str:
        """In words, with what to do."""
        if error.errno == errno.EXDEV:
            tier = Path(self.tier.root)
            return elsewhere(tier, Path(self.config.fuse.mount), self.source)
        return trouble(error)

    def _attr(self, piece: Piece) -> AdoptAttr:
        f = piece.facts
        is_top = not piece.at.name
        folder = self.below.open(piece.at.folder)
        xattrs = xattrs_of(folder, b"." if is_top else piece.at.name, f)
        return AdoptAttr(
            f.mode,
            f.uid,
            f.gid,
            f.rdev,
            f.size,
            f.blocks,
            f.atime_ns,
            f.mtime_ns,
            f.btime_ns,
            self._target(piece),
            xattrs,
        )

    def _target(self, piece: Piece) -> bytes:
        if not stat.S_ISLNK(piece.facts.mode):
            return b""
        folder = self.below.open(piece.at.folder)
        return os.fsencode(os.readlink(piece.at.name, dir_fd=folder))

    # -- the old names go ------------------------------------------------------------------

    def _finish(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            if piece.taken and not piece.is_folder:
                try:
                    piece.why = self._take_away(piece)
                except FileNotFoundError:
                    pass
                except OSError as error:
                    piece.why = LATE_WRITER.format(why=self._trouble(error))
            if piece.why:
                self.rest.leave(piece.path, piece.why)
            elif piece.taken:
                self._add(piece)
        self.tell(self.outcome.files)

    def _take_away(self, piece: Piece) -> str:
        """The old name of what the namespace has; why it stays."""
        if piece.is_file:
            self.tier.protect(piece.number)
        folder = self.below.open(piece.at.folder)
        facts = facts_of(folder, piece.at.name)
        if facts.ino != piece.facts.ino:
            return "adopted; meanwhile another file came in its place, which stays"
        if piece.is_file:
            fd = os.open(piece.at.name, FILE, dir_fd=folder)
            try:
                why = writer_of(fd)
            finally:
                os.close(fd)
            if why:
                return LATE_WRITER.format(why=why)
        os.unlink(piece.at.name, dir_fd=folder)
        return ""

    def _add(self, piece: Piece) -> None:
        if piece.is_folder:
            self.outcome.directories += 1
        elif piece.is_link:
            return
        elif piece.is_file:
            self.outcome.files += 1
            self.outcome.data_bytes += piece.facts.size
        else:
            self.outcome.others += 1

    # -- files with several names ------------------------------------------------------------

    async def _shared(self, groups: Sequence[tuple[int, list[AdoptName]]]) -> None:
        """First one name of each, then the others; the old names go when all are there."""
        live = [found for ino, names in groups if (found := self._live(ino, names))]
        ready = [pieces for pieces in live if await self._prepare(pieces)]
        firsts = [pieces[0] for pieces in ready]
        await self._take([first for first in firsts if not (first.taken or first.why)])
        others: list[Piece] = []
        for pieces in ready:
            for piece in pieces[1:]:
                piece.why = piece.why or pieces[0].why
                piece.number, piece.is_link = pieces[0].number, True
                if pieces[0].taken and not (piece.why or piece.taken):
                    others.append(piece)
        for part in batches(others, ADOPT_ITEMS_MAX):
            await self._take(part)
        for pieces in ready:
            self._keep_together(pieces)
            self._finish(pieces)

    def _live(self, ino: int, names: Sequence[AdoptName]) -> list[Piece]:
        """The names that still are this file's."""
        pieces = []
        for at in names:
            try:
                facts = facts_of(self.below.open(at.folder), at.name)
            except OSError:
                continue
            why = fault_of(facts) or mount_fault(self.found, facts)
            if facts.ino == ino and facts.dev == self.found.top.dev:
                pieces.append(Piece(at, facts, why=why))
        return pieces

    async def _prepare(self, pieces: list[Piece]) -> bool:
        """Whether it can come: no name of it may stay outside."""
        seen: list[AdoptFound] = []
        for part in batches(pieces, ADOPT_ITEMS_MAX):
            seen += await self._seen(part)
        for piece, there in zip(pieces, seen, strict=True):
            self._compare(piece, there)
        pieces.sort(key=lambda piece: piece.number == 0)
        first = pieces[0]
        cached = bool(first.number and first.is_file)
        outside = first.facts.nlink - len(pieces) - cached
        if outside <= 0 or first.taken:
            for piece in pieces[1:]:
                piece.taken = piece.taken or piece.number != 0
            return True
        for piece in pieces:
            self.rest.leave(
                piece.path,
                f"has {outside} more names outside of {self.source}: through them it would be "
                "changed without hsmfs; remove them (find -samefile) or adopt a directory with all",
            )
        return False

    @staticmethod
    def _keep_together(pieces: Sequence[Piece]) -> None:
        """A file of which a name was refused keeps all of its old names."""
        why = next((piece.why for piece in pieces if piece.why), "")
        if why:
            for piece in pieces:
                piece.taken = False
                piece.why = piece.why or f"another name of this file stays: {why}"


def _changed(piece: Piece, facts: Facts) -> str:
    same = facts.ino == piece.facts.ino and stat.S_ISREG(facts.mode)
    return "" if same else "changed meanwhile; run hsm adopt again"


def _parts(items: list[tuple[Piece, AdoptItem]]) -> Iterator[list[tuple[Piece, AdoptItem]]]:
    """So many that a frame holds them, however large their attributes are."""
    part: list[tuple[Piece, AdoptItem]] = []
    size = 0
    for pair in items:
        part.append(pair)
        size += sum(len(value) for _, value in pair[1].attr.xattrs)
        if size > BATCH_XATTR_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
