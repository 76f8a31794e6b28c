"""Hashes of files that are burned in parts, made before their first part is planned.

A burn sees one part; the whole is seen by nobody. So a file of which no disc has all bytes is
read once more, from the cache: its SHA-256 then stands beside each part, for those who join
them, and the sum of its chunks' hashes proves that what was burned is what was read here.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import structlog
import trio
import xxhash

from hsmfs.cache.paths import claim_path, open_claimed
from hsmfs.daemon.catalogrecords import ExtentRecord, SplitRecord
from hsmfs.daemon.core import Core
from hsmfs.daemon.sources import ClaimedSource
from hsmfs.types import CHUNK_BYTES, FileVersion

log = structlog.get_logger(__name__)
IDLE_S: Final = 1.0
GiveUp = Callable[[FileVersion, str], Awaitable[None]]


class WholeHash(NamedTuple):
    """Of all bytes of a file."""

    sha256: str
    chunks: str
    """As ``sum_of`` gives it."""


class Stopped(Exception):
    """Nobody wants the hash any more."""


def sum_of(chunks: Iterable[int]) -> str:
    """XXH3 of 128 bits of the chunks' XXH3 of 64 bits, each as 8 bytes little-endian."""
    total = xxhash.xxh3_128()
    for chunk in chunks:
        total.update(chunk.to_bytes(8, "little"))
    return total.hexdigest()


def sum_of_parts(extents: Iterable[ExtentRecord]) -> str:
    """The same of a file's parts: each but the last has whole chunks."""
    places = {extent.start: extent for extent in extents}
    return sum_of(chunk for start in sorted(places) for chunk in places[start].chunks)


def hash_whole(
    roots: Sequence[Path], file: FileVersion, size: int, is_wanted: Callable[[], bool]
) -> WholeHash:
    """Read a claimed file; OSError where that cannot be done, Stopped when it is not wanted."""
    sha, marks, at = hashlib.sha256(), [], 0
    with _opened(roots, file) as source:
        while is_wanted():
            chunk = _chunk(source)
            sha.update(chunk)
            at += len(chunk)
            if chunk:
                marks.append(xxhash.xxh3_64_intdigest(chunk))
            if len(chunk) < CHUNK_BYTES:
                break
        else:
            raise Stopped
    if at != size:
        raise OSError(f"found {at} bytes, expected {size}")
    return WholeHash(sha.hexdigest(), sum_of(marks))


def _opened(roots: Sequence[Path], file: FileVersion) -> ClaimedSource:
    for root in roots:
        try:
            fd = open_claimed(root, file.ino, file.data_version)
        except FileNotFoundError:
            continue
        return ClaimedSource(fd, claim_path(root, file.ino, file.data_version))
    raise FileNotFoundError(f"no cache file of inode {file.ino}")


def _chunk(source: ClaimedSource) -> bytes:
    """4 MiB, or less at the end."""
    pieces, left = [], CHUNK_BYTES
    while left and (piece := source.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


class WholeHasher:
    """One file after the other; ``claimed`` are those that may be read."""

    def __init__(self, core: Core, give_up: GiveUp) -> None:
        self.core = core
        self.claimed: set[FileVersion] = set()
        self._give_up = give_up
        self._wake = trio.Event()

    def want(self, file: FileVersion) -> None:
        """A claimed file: hash it if that was not done."""
        self.claimed.add(file)
        self._wake.set()

    def forget(self, file: FileVersion) -> None:
        """It is not burned in parts any more."""
        self.claimed.discard(file)

    def _next(self) -> SplitRecord | None:
        splits = self.core.catalog.splits.values()
        return next((s for s in splits if not s.sha256 and _file_of(s) in self.claimed), None)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            split = self._next()
            if split is not None:
                await self._hash(split)
                continue
            self._wake = trio.Event()
            with trio.move_on_after(IDLE_S):
                await self._wake.wait()

    async def _hash(self, split: SplitRecord) -> None:
        file, stop = _file_of(split), threading.Event()
        work = partial(
            hash_whole,
            self.core.cache_roots,
            file,
            split.total,
            lambda: file in self.claimed and not stop.is_set(),
        )
        try:
            found = await trio.to_thread.run_sync(work, abandon_on_cancel=True)
        except Stopped:
            return
        except OSError as error:
            self.forget(file)
            await self._give_up(file, f"could not be read from the cache: {error}")
            return
        finally:
            stop.set()
        if self.core.catalog.splits.get(split.ino) is split:
            split.sha256, split.chunks = found
            await self.core.catalog.save(split)
            self.core.wake()


def _file_of(split: SplitRecord) -> FileVersion:
    return FileVersion(split.ino, split.data_version)
