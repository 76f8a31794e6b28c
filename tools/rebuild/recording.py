"""What was read of a library's disc: an image with holes, and facts beside it.

``BARCODE.img`` has the sectors that were read at their places, ``BARCODE.json``
(``DiscFacts``) tells which these are. The facts are written last and durably:
an image without them is of a disc that is to be read again.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from hsmfs.errors import MediumError, OperatorNeeded
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.source import VolumeHeader

FACTS_VERSION: Final = 2
"""2 has ``guessed``, ``unhashed``, ``complete``: damaged discs that 1 tells of are read again."""
NEW_SUFFIX: Final = ".new"
IMAGE_SUFFIX: Final = ".img"
FACTS_SUFFIX: Final = ".json"
Read = Callable[[int, int], bytes]


class NotTaken(MediumError):
    """It was not read from this disc, for another disc gave it."""


class Found(StrEnum):
    """What a disc turned out to be."""

    BLANK = "blank"
    CUT = "cut"
    """Its burn was not ended."""
    VOLUME = "volume"
    """Its image is beside."""
    COPY = "copy"
    """Of a volume that another disc gave whole: header and end of the manifest agree."""
    DAMAGED = "damaged"
    """The same, but one of these cannot be read."""
    OTHER = "other"
    """Not ours, or nothing can be read of it."""


class DiscFacts(msgspec.Struct, kw_only=True):
    """One disc that was read."""

    version: int = FACTS_VERSION
    barcode: str
    found: Found
    sectors: int = 0
    """Capacity of a blank one, else what is recorded."""
    drive: str = ""
    time_ns: int = 0
    note: str = ""
    header: VolumeHeader | None = None
    guessed: bool = False
    """The manifest's first line is damaged: the header is what the volume descriptors say."""
    manifest_bytes: int = 0
    closing: str = ""
    """XXH3 of 128 bits of the manifest's end, which has the hash of all before it."""
    whole: bool = False
    """Manifest and namespace changes are as they were written."""
    unhashed: bool = False
    """It has files that no line of its manifest tells of and whose bytes were not read yet."""
    complete: bool = False
    """Of a damaged one: every file is known, by a line or by the tree with its hashes."""
    previous: list[str] = []
    """Volumes whose manifest it repeats, whole and kept in its image."""
    kept: list[tuple[int, int]] = []
    """Sectors of the image: first, and the one after the last."""
    bad: list[tuple[int, int]] = []
    """What was asked for and could not be read."""


class Spans:
    """A set of sectors, as disjoint ascending spans."""

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        self._starts = [start for start, _ in spans]
        self._stops = [stop for _, stop in spans]

    def add(self, start: int, stop: int) -> None:
        """These too; spans that touch become one."""
        first = bisect_right(self._stops, start - 1)
        last = bisect_right(self._starts, stop)
        if first < last:
            start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def has(self, start: int, stop: int) -> bool:
        """All of these."""
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and self._stops[at] >= stop

    def meets(self, start: int, stop: int) -> bool:
        """Any of these."""
        at = bisect_right(self._stops, start)
        return at < len(self._starts) and self._starts[at] < stop

    def as_list(self) -> list[tuple[int, int]]:
        """First sector, and the one after the last."""
        return list(zip(self._starts, self._stops, strict=True))


class Recording:
    """Reads a disc and keeps what it read; what is kept is not read again."""

    def __init__(self, read: Read, image: Path, sectors: int) -> None:
        self.image = image
        self.kept, self.bad = Spans([]), Spans([])
        self._read = read
        self._file = os.open(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.truncate(self._file, sectors * SECTOR_BYTES)

    def read(self, sector: int, sectors: int) -> bytes:
        """As a drive reads; OperatorNeeded where the disk has no room."""
        if self.kept.has(sector, sector + sectors):
            return self._again(sector, sectors)
        try:
            data = self._read(sector, sectors)
        except MediumError:
            self.bad.add(sector, sector + sectors)
            raise
        self._keep(sector, data)
        self.kept.add(sector, sector + sectors)
        return data

    def _again(self, sector: int, sectors: int) -> bytes:
        try:
            return os.pread(self._file, sectors * SECTOR_BYTES, sector * SECTOR_BYTES)
        except OSError as error:
            raise no_room(self.image, error) from error

    def _keep(self, sector: int, data: bytes) -> None:
        view, at = memoryview(data), sector * SECTOR_BYTES
        try:
            while view:
                count = os.pwrite(self._file, view, at)
                view, at = view[count:], at + count
        except OSError as error:
            raise no_room(self.image, error) from error

    def close(self, *, keep: bool) -> None:
        """Durable, or gone."""
        try:
            if keep:
                os.fsync(self._file)
            else:
                self.image.unlink(missing_ok=True)
        except OSError as error:
            raise no_room(self.image, error) from error
        finally:
            os.close(self._file)


def no_room(path: Path, error: OSError) -> OperatorNeeded:
    """What is said where what was read cannot be kept."""
    todo = "; make room there and run it again" if error.errno == errno.ENOSPC else ""
    return OperatorNeeded(f"{path}: {error.strerror}{todo}")


@contextmanager
def durable(path: Path) -> Iterator[BinaryIO]:
    """A new file that has its name once it is written whole; OperatorNeeded for no room."""
    temporary = path.with_name(path.name + NEW_SUFFIX)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise no_room(path, error) from error


def facts_path(image: Path) -> Path:
    """Beside an image."""
    return image.with_suffix(FACTS_SUFFIX)


def read_facts(path: Path) -> DiscFacts | None:
    """None where they are missing, cut, or of another version: the disc is read again."""
    try:
        facts = msgspec.json.decode(path.read_bytes(), type=DiscFacts)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return facts if facts.version == FACTS_VERSION else None


def replay(image: Path, read: Read) -> Read:
    """``read`` of an image with holes: what is not in it raises as it did on the disc.

    Of an image without facts (any other) it is ``read`` itself.
    """
    facts = read_facts(facts_path(image)) if facts_path(image).exists() else None
    if facts is None:
        return read
    barcode, kept, bad = facts.barcode, Spans(facts.kept), Spans(facts.bad)

    def replayed(sector: int, sectors: int) -> bytes:
        if kept.has(sector, sector + sectors):
            return read(sector, sectors)
        if bad.meets(sector, sector + sectors):
            raise MediumError(f"disc {barcode}: sector {sector}: it could not be read")
        raise NotTaken(f"disc {barcode}: sector {sector}: it was not read")

    return replayed
