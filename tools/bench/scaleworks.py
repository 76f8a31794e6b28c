"""Operations on a generated namespace, each timed by itself; run in a child process."""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from hsmfs.tools.bench.apart import WorkFailed
from hsmfs.tools.bench.namespacedata import LARGE_NAME, Shape, folders

PARTS: Final = 16
LOAD_MAX: Final = 200_000
"""Files that the load before a kill makes at most."""


class Timing(msgspec.Struct, frozen=True):
    """Of many operations of one sort."""

    count: int
    median_us: float
    p99_us: float
    total_s: float


class Places:
    """Random files of a generated namespace.

    The files of each directory are dealt into ``PARTS`` parts, one for each
    use, so that no use meets what an earlier one made known or removed.
    """

    def __init__(self, mount: str, shape: Shape, seed: str) -> None:
        self.mount = os.fsencode(mount)
        self.seed = os.fsencode(seed)
        self.chance = random.Random(seed)
        self.each = shape.per_directory // PARTS
        self.folders = [
            folder
            for folder in folders(shape)
            if folder.name != LARGE_NAME and folder.files == shape.per_directory
        ]

    def files(self, part: int, count: int) -> list[bytes]:
        """Paths of different files of one part, fewer if it has not so many."""
        total = len(self.folders) * self.each
        picked = self.chance.sample(range(total), min(count, total))
        return [self._path(part, *divmod(index, self.each)) for index in picked]

    def _path(self, part: int, folder: int, index: int) -> bytes:
        name = b"f%08d" % (index * PARTS + part)
        return self.mount + b"/" + self.folders[folder].name + b"/" + name

    def new_files(self, count: int) -> list[bytes]:
        """Paths that do not exist, all over the namespace."""
        chosen = self.chance.choices(self.folders, k=count)
        return [
            b"%b/%b/%b%08d" % (self.mount, folder.name, self.seed, number)
            for number, folder in enumerate(chosen)
        ]


def know_directories(paths: Iterable[bytes]) -> None:
    """So that the kernel asks for the last name only."""
    for folder in {os.path.dirname(path) for path in paths}:
        os.stat(folder)


def each_timed(call: Callable[[bytes], object], paths: list[bytes]) -> Timing:
    """Call it for every path."""
    clock = time.perf_counter_ns
    taken = []
    begun = clock()
    for path in paths:
        start = clock()
        call(path)
        taken.append(clock() - start)
    total_s = (clock() - begun) / 1e9
    taken.sort()
    p99 = taken[len(taken) * 99 // 100]
    return Timing(len(taken), statistics.median(taken) / 1000, p99 / 1000, total_s)


def lookups(mount: str, shape: Shape, count: int, part: int) -> Timing:
    """stat of files that the kernel does not know."""
    paths = Places(mount, shape, f"lookup{part}").files(part, count)
    know_directories(paths)
    return each_timed(os.stat, paths)


def creates(mount: str, shape: Shape, count: int, part: int) -> Timing:
    """New empty files."""
    paths = Places(mount, shape, f"new{part}.").new_files(count)
    know_directories(paths)
    done = each_timed(_create, paths)
    if not all(os.path.exists(path) for path in paths):
        raise WorkFailed("create: a new file is missing")
    return done


def _create(path: bytes) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def unlinks(mount: str, shape: Shape, count: int, part: int) -> Timing:
    """Generated files removed, after the kernel has looked them up."""
    paths = Places(mount, shape, f"unlink{part}").files(part, count)
    for path in paths:
        os.stat(path)
    done = each_timed(os.unlink, paths)
    if any(os.path.exists(path) for path in paths):
        raise WorkFailed("unlink: a removed file is still there")
    return done


def list_large(mount: str, shape: Shape) -> float:
    """Seconds to read the names of the large directory, with proof of their number."""
    start = time.perf_counter()
    count = sum(1 for _ in os.scandir(os.fsencode(mount) + b"/" + LARGE_NAME))
    seconds = time.perf_counter() - start
    if count != shape.large:
        raise WorkFailed(f"readdir: found {count} entries, expected {shape.large}")
    return seconds


def create_and_kill(mount: str, shape: Shape, seed: str, pid: int, after_s: float) -> int:
    """Create files, kill the server in the midst of it; how many were made."""
    made, end_s = 0, time.monotonic() + after_s
    paths = Places(mount, shape, seed).new_files(LOAD_MAX)
    for path in paths:
        try:
            _create(path)
        except OSError:
            break
        made += 1
        if time.monotonic() >= end_s:
            os.kill(pid, signal.SIGKILL)
    return made
