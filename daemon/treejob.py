"""Read the tree of a disc that others wrote into a file, in a drive.

The file is msgpack, one ``SpoolEntry`` after the other, each with its length in
front (4 bytes, big-endian). Nothing else is done before it is whole and on disk.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import structlog
import trio

from hsmfs.daemon.catalogrecords import DiscRecord
from hsmfs.daemon.core import Core
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.daemon.foreigndisc import open_disc
from hsmfs.errors import CallerError, DriveError, HsmError, TransientError
from hsmfs.volume.foreign.entry import ForeignEntry, ForeignVolume, Found, Problem
from hsmfs.volume.manifest import MANIFEST_PATH

log = structlog.get_logger(__name__)
SLICE_ENTRIES: Final = 200
"""Entries read in one go; between them the job can be cancelled."""
PROBLEMS_MAX: Final = 100
"""That are told; the others are counted."""
ENTRY_BYTES_MAX: Final = 64 * 1024 * 1024
Call = Callable[..., Awaitable[Any]]
_LENGTH: Final = struct.Struct(">I")
_KINDS: Final = {"dir": stat.S_IFDIR, "file": stat.S_IFREG, "symlink": stat.S_IFLNK}
_encode: Final = msgspec.msgpack.Encoder().encode


class SpoolEntry(msgspec.Struct, frozen=True, array_like=True):
    """One name of the tree."""

    path: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int
    ctime_ns: int
    size: int
    runs: list[tuple[int, int]]
    target: bytes


_decode: Final = msgspec.msgpack.Decoder(SpoolEntry).decode


@dataclass(slots=True)
class Tree:
    """What was read of a disc."""

    format: str = ""
    volume_id: str = ""
    created_ns: int = 0
    fingerprint: str = ""
    total_sectors: int = 0
    entries: int = 0
    files: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0


def not_ended() -> HsmError:
    """What a job ended with, until it says itself."""
    return DriveError("the work in the drive was broken off; see hsmd's log")


@dataclass(slots=True)
class TreeFile:
    """A spool file that is being written."""

    path: Path
    what: str
    """The disc or image, in words."""
    tree: Tree = field(default_factory=Tree)

    async def fill(self, volume: ForeignVolume, total_sectors: int, call: Call) -> None:
        """All of a volume; ``call`` runs what blocks in a thread."""
        tree = self.tree
        tree.format, tree.volume_id = volume.format, volume.label
        tree.created_ns, tree.fingerprint = volume.created_ns, volume.fingerprint
        tree.total_sectors = total_sectors
        found = volume.walk()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("wb") as out:
            while await call(self._some, found, out):
                pass
            await call(_synced, out)

    def _some(self, found: Iterator[Found], out: BinaryIO) -> bool:
        """The next entries; whether there were any."""
        count = 0
        for one in islice(found, SLICE_ENTRIES):
            count += 1
            if isinstance(one, Problem):
                self._complain(one)
            else:
                self._keep(one, out)
        return bool(count)

    def _complain(self, problem: Problem) -> None:
        self.tree.problem_count += 1
        if len(self.tree.problems) < PROBLEMS_MAX:
            self.tree.problems.append(f"{os.fsdecode(problem.path)!a}: {problem.why}")

    def _keep(self, one: ForeignEntry, out: BinaryIO) -> None:
        if os.fsdecode(one.path) == MANIFEST_PATH.lstrip("/"):
            raise CallerError(
                f"{self.what}: found volume {self.tree.volume_id!r} of hsmfs's own format, "
                "expected one of others; hsm disc identify takes it in, or hsm rebuild"
            )
        data = _encode(_spool_entry(one))
        out.write(_LENGTH.pack(len(data)) + data)
        self.tree.entries += 1
        if one.kind == "file":
            self.tree.files += 1
            self.tree.bytes += one.size


def _spool_entry(one: ForeignEntry) -> SpoolEntry:
    facts = one.facts
    return SpoolEntry(
        path=one.path,
        mode=_KINDS[one.kind] | facts.mode,
        uid=facts.uid,
        gid=facts.gid,
        mtime_ns=facts.mtime_ns,
        atime_ns=facts.atime_ns,
        ctime_ns=facts.ctime_ns,
        size=one.size,
        runs=list(one.runs),
        target=one.target,
    )


@dataclass(slots=True)
class TreeJob:
    """The drive's part of an import (a ``DriveJob``); ``ended`` is set when it is over."""

    core: Core
    disc: DiscRecord
    file: TreeFile
    error: HsmError | None = field(default_factory=not_ended)
    seconds: float = 0.0
    drive: str = ""
    ended: trio.Event = field(default_factory=trio.Event)

    async def run(self, unit: DriveUnit) -> None:
        """Nothing is ever written to the disc."""
        started = self.core.clock.monotonic_s()
        self.drive = unit.name
        try:
            await self.core.librarian.load(unit, self.disc.barcode)
            info = await unit.call(unit.drive.disc_info)
            if info.state == "blank":
                raise CallerError(f"disc {self.disc.barcode} is blank")
            volume, total = await unit.call(open_disc, unit.drive)
            await self.file.fill(volume, total, unit.call)
            self.error = None
        except HsmError as error:
            self.error = error
            if isinstance(error, DriveError):
                unit.charge(error, for_good=True)
        except OSError as error:
            self.error = TransientError(f"{self.file.path}: {error.strerror}; make room there")
        finally:
            self.seconds = self.core.clock.monotonic_s() - started
            self.core.reserved.discard(self.disc.barcode)
            self.ended.set()
            self.core.wake()


def _synced(out: BinaryIO) -> None:
    out.flush()
    os.fsync(out.fileno())
    folder = os.open(os.path.dirname(out.name), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def spooled(path: Path) -> Iterator[SpoolEntry]:
    """The entries of a spool file, as they were read; CallerError where it is damaged."""
    with path.open("rb") as file:
        while head := file.read(_LENGTH.size):
            try:
                (length,) = _LENGTH.unpack(head)
                if length > ENTRY_BYTES_MAX:
                    raise ValueError(f"{length} bytes")
                yield _decode(file.read(length))
            except (struct.error, ValueError, msgspec.MsgspecError) as error:
                raise CallerError(f"{path}: damaged ({error}); import the disc again") from None


Batch = Callable[[], list[SpoolEntry]]


def batches(path: Path, size: int) -> Batch:
    """A function that gives the next entries each time (blocking), at last none."""
    entries = spooled(path)
    return lambda: list(islice(entries, size))
